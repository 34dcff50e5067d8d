package runtimes

import (
	"bytes"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	sdknode "github.com/dayfly-run/dayfly/sdk/node"
	sdkpython "github.com/dayfly-run/dayfly/sdk/python"
)

// The shims' paths in the folder that [WriteShims] writes.
const (
	pythonShim = "python/bootstrap.py"
	nodeShim   = "node/bootstrap.mjs"
)

// Where the SDKs are in the same folder. The Python shim looks in the first one, and the
// recipe of Node.js' root has a link to the second.
const (
	pythonSDK = "sdk/python"
	nodeSDK   = "sdk/node"
)

// shims holds what the folders contain but for files whose name begins with . or _.
//
//go:embed python node
var shims embed.FS

// WriteShims writes the shims and the SDKs into dir, which is made when it is missing,
// and makes all of it readable by any user. A file that is right already stays
// untouched, any other is replaced in one step, so containers may have dir
// mounted and several processes may call this at once.
func WriteShims(dir string) error {
	err := writeTree(dir, shims)
	for _, sdk := range []struct {
		folder string
		source fs.FS
	}{{pythonSDK, sdkpython.Source}, {nodeSDK, sdknode.Source}} {
		for _, folder := range []string{filepath.Dir(sdk.folder), sdk.folder} {
			err = errors.Join(err, makeReadableDir(filepath.Join(dir, folder)))
		}
		err = errors.Join(err, writeTree(filepath.Join(dir, sdk.folder), sdk.source))
	}
	if err != nil {
		return fmt.Errorf("write shims: %w", err)
	}
	return nil
}

// writeTree writes files into dir.
func writeTree(dir string, files fs.FS) error {
	return fs.WalkDir(files, ".", func(name string, entry fs.DirEntry, err error) error {
		path := filepath.Join(dir, name)
		if err != nil || entry.IsDir() {
			return errors.Join(err, makeReadableDir(path))
		}
		source, err := fs.ReadFile(files, name)
		if err != nil {
			return err
		}
		return writeReadableFile(path, source)
	})
}

func makeReadableDir(dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	return os.Chmod(dir, 0o755) // whatever the umask is
}

func writeReadableFile(path string, content []byte) (err error) {
	info, err := os.Lstat(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err == nil && info.Mode() == 0o644 {
		if have, err := os.ReadFile(path); err == nil && bytes.Equal(have, content) {
			return nil
		}
	}
	f, err := os.CreateTemp(filepath.Dir(path), ".new-*")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			os.Remove(f.Name())
		}
	}()
	_, err = f.Write(content)
	err = errors.Join(err, f.Chmod(0o644), f.Close())
	if err != nil {
		return err
	}
	return os.Rename(f.Name(), path)
}
