package builder

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/dayfly-run/dayfly/wire"
)

// certificates are the authorities that a job with a network trusts.
const certificates = "/etc/ssl/certs/ca-certificates.crt"

// readBounded reads a regular file of the bundle of at most limit bytes.
func readBounded(root *os.Root, name string, limit int64) (string, error) {
	info, err := root.Stat(name)
	if err != nil || !info.Mode().IsRegular() {
		return "", wire.Errorf(wire.CodeInvalid, "the bundle has no file %q", name)
	}
	if info.Size() > limit {
		return "", wire.Errorf(wire.CodeTooLarge, "%s has %d bytes; at most %d are allowed", name, info.Size(), limit)
	}
	f, err := root.Open(name)
	if err != nil {
		return "", err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, limit))
	return string(data), err
}

// copyFiles copies a file or folder from one folder to the same place in another; what is
// not there is left out.
func copyFiles(from, to, name string) error {
	err := filepath.WalkDir(filepath.Join(from, name), func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rest, err := filepath.Rel(from, path)
		if err != nil {
			return err
		}
		return copyOne(path, filepath.Join(to, rest), e)
	})
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

func copyOne(from, to string, e fs.DirEntry) error {
	if e.IsDir() {
		return makeFolder(to)
	}
	if e.Type() == fs.ModeSymlink {
		target, err := os.Readlink(from)
		if err == nil {
			err = os.Symlink(target, to)
		}
		return err
	}
	info, err := e.Info()
	if err != nil {
		return err
	}
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, info.Mode().Perm())
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	return errors.Join(err, out.Close())
}
