package invoker

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"syscall"
	"unicode/utf8"

	"github.com/dayfly-run/dayfly/internal/blob"
	"github.com/dayfly-run/dayfly/wire"
)

const (
	// maxOutputEntries bounds the files, folders and whatever else is looked at in
	// an output folder; maxOutputPath the bytes of one file's path there.
	maxOutputEntries = 4 * wire.MaxOutputFiles
	maxOutputPath    = 700
	// outputBatch is how many entries are read at once.
	outputBatch = 256
)

// storeOutput puts an invocation's result and the regular files in its output
// folder into S3. The function may still be alive and change the folder while it
// is read, so nothing here trusts what it saw a moment ago. What the function did
// wrong is a [*wire.Error] of code function.error; all else is the platform's.
func storeOutput(ctx context.Context, store *blob.Store, dir *os.Root, f wire.FunctionID, result kept) (*wire.Output, error) {
	var names []string
	err := walk(dir, func(name string) error {
		if len(names) == wire.MaxOutputFiles {
			return tooMuch("more than %d files", wire.MaxOutputFiles)
		}
		names = append(names, name)
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("store the output: %w", err)
	}
	var files []wire.OutputFile
	var total int64
	for _, name := range names {
		n, err := storeFile(ctx, store, dir, name, wire.OutputFileKey(f, result.id, name), wire.MaxOutputBytes-total)
		if err != nil {
			return nil, fmt.Errorf("store the output: %w", err)
		}
		total += n
		files = append(files, wire.OutputFile{Path: name, Bytes: n})
	}
	stored, err := storeResult(ctx, store, f, result)
	if err != nil {
		return nil, err
	}
	stored.Files = files
	return stored, nil
}

// kept is an invocation's result that is to be in S3, and may be there already.
type kept struct {
	id          wire.InvocationID
	body        []byte
	bytes       int64
	contentType string
	stored      bool
}

// storeResult puts an invocation's result into S3.
func storeResult(ctx context.Context, store *blob.Store, f wire.FunctionID, result kept) (*wire.Output, error) {
	if !result.stored {
		if err := store.PutBytes(ctx, wire.OutputResultKey(f, result.id), result.body, result.contentType); err != nil {
			return nil, fmt.Errorf("store the output: %w", err)
		}
	}
	return &wire.Output{ResultBytes: result.bytes}, nil
}

// walk calls visit for the path of each regular file. It follows no links, and ends
// with an error at a folder that holds too much to look at.
func walk(dir *os.Root, visit func(name string) error) error {
	entries := 0
	folders := []string{"."}
	for len(folders) > 0 {
		folder := folders[len(folders)-1]
		folders = folders[:len(folders)-1]
		err := list(dir, folder, func(e fs.DirEntry) error {
			name := path.Join(folder, e.Name())
			switch entries++; {
			case entries > maxOutputEntries:
				return tooMuch("more than %d files and folders", maxOutputEntries)
			case len(name) > maxOutputPath:
				return tooMuch("a path of more than %d bytes", maxOutputPath)
			case e.IsDir():
				folders = append(folders, name)
			case e.Type().IsRegular() && !utf8.ValidString(name):
				return wire.Errorf(wire.CodeFunctionError, "the function left a file in its output folder whose name %q is no UTF-8", name)
			case e.Type().IsRegular():
				return visit(name)
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// list calls visit for each entry of a folder. One that is gone has none.
func list(dir *os.Root, folder string, visit func(fs.DirEntry) error) error {
	opened, err := dir.OpenFile(folder, os.O_RDONLY|syscall.O_DIRECTORY|syscall.O_NONBLOCK, 0)
	if errors.Is(err, fs.ErrNotExist) && folder != "." {
		return nil
	}
	if err != nil {
		return changed(folder, err)
	}
	defer opened.Close()
	for {
		batch, err := opened.ReadDir(outputBatch)
		for _, e := range batch {
			if err := visit(e); err != nil {
				return err
			}
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// storeFile uploads one file of at most limit bytes.
func storeFile(ctx context.Context, store *blob.Store, dir *os.Root, name, key string, limit int64) (int64, error) {
	// Not blocking: the name may have become a FIFO since it was listed.
	file, err := dir.OpenFile(name, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return 0, changed(name, err)
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		return 0, err
	}
	if !info.Mode().IsRegular() {
		return 0, changed(name, nil)
	}
	size := info.Size()
	if size > limit {
		return 0, tooMuch("more than %d bytes", wire.MaxOutputBytes)
	}
	if err := store.Put(ctx, key, io.NewSectionReader(file, 0, size), size, "application/octet-stream"); err != nil {
		if now, e := file.Stat(); e == nil && now.Size() < size {
			return 0, changed(name, nil)
		}
		return 0, err
	}
	return size, nil
}

// changed makes the function's failure of what can only be its own doing: a name
// that was listed is gone, is something else or may not be read.
func changed(name string, err error) error {
	if pathError, ok := errors.AsType[*fs.PathError](err); ok {
		err = pathError.Err
	}
	if err == nil {
		return wire.Errorf(wire.CodeFunctionError, "output file %s changed while it was stored; finish writing before the function returns", name)
	}
	return wire.Errorf(wire.CodeFunctionError, "output file %s could not be read (%s); finish writing before the function returns", name, err)
}

func tooMuch(format string, limit int) error {
	return wire.Errorf(wire.CodeFunctionError, "the function left %s in its output folder", fmt.Sprintf(format, limit))
}

// clearFolder empties the output folder for the next invocation and reports whether
// it is empty; one with very much in it is not worth the time.
func clearFolder(dir *os.Root) bool {
	if walk(dir, func(string) error { return nil }) != nil {
		return false
	}
	var names []string
	err := list(dir, ".", func(e fs.DirEntry) error {
		names = append(names, e.Name())
		if len(names) > maxOutputEntries {
			return errors.New("too many")
		}
		return nil
	})
	for _, name := range names {
		err = errors.Join(err, dir.RemoveAll(name))
	}
	return err == nil
}
