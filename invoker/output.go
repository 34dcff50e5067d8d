package invoker

import (
	"context"
	"fmt"
	"io"
	"io/fs"
	"os"
	"syscall"

	"github.com/dayfly-run/dayfly/internal/blob"
	"github.com/dayfly-run/dayfly/wire"
)

// storeOutput puts an invocation's result and the regular files in its output
// folder into S3. The function may still be alive and change the folder while it
// is read, so nothing here trusts what it saw a moment ago.
func storeOutput(ctx context.Context, store *blob.Store, dir *os.Root, f wire.FunctionID, id wire.InvocationID, result []byte) (*wire.Output, error) {
	out := &wire.Output{ResultBytes: int64(len(result))}
	var total int64
	err := fs.WalkDir(dir.FS(), ".", func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if !e.Type().IsRegular() {
			return nil
		}
		if len(out.Files) == wire.MaxOutputFiles {
			return tooMuch("more than %d files", wire.MaxOutputFiles)
		}
		n, err := storeFile(ctx, store, dir, path, wire.OutputFileKey(f, id, path), wire.MaxOutputBytes-total)
		if err != nil {
			return err
		}
		total += n
		out.Files = append(out.Files, wire.OutputFile{Path: path, Bytes: n})
		return nil
	})
	if err == nil {
		err = store.PutBytes(ctx, wire.OutputResultKey(f, id), result, "application/json")
	}
	if err != nil {
		return nil, fmt.Errorf("store the output: %w", err)
	}
	return out, nil
}

// storeFile uploads one file of at most limit bytes.
func storeFile(ctx context.Context, store *blob.Store, dir *os.Root, path, key string, limit int64) (int64, error) {
	// Not blocking: the name may have become a FIFO since it was listed.
	file, err := dir.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return 0, err
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		return 0, err
	}
	if !info.Mode().IsRegular() {
		return 0, wire.Errorf(wire.CodeFunctionError, "output file %s changed while it was stored", path)
	}
	if info.Size() > limit {
		return 0, tooMuch("more than %d bytes", wire.MaxOutputBytes)
	}
	return info.Size(), store.Put(ctx, key, io.LimitReader(file, info.Size()), info.Size(), "application/octet-stream")
}

func tooMuch(format string, limit int) error {
	return wire.Errorf(wire.CodeFunctionError, "the function left %s in its output folder", fmt.Sprintf(format, limit))
}

// clearFolder empties the output folder for the next invocation, as well as it can:
// what stays behind only costs the function its own memory.
func clearFolder(dir *os.Root) {
	entries, err := fs.ReadDir(dir.FS(), ".")
	if err != nil {
		return
	}
	for _, e := range entries {
		_ = dir.RemoveAll(e.Name())
	}
}
