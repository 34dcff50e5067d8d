package oci

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/dayfly-run/dayfly/invoker/sandbox"
	"github.com/dayfly-run/dayfly/wire"
)

// holdRoot opens a root's folder and keeps any sandbox from removing it until the file
// is closed.
func (s *Sandbox) holdRoot(r sandbox.Root) (*os.File, error) {
	root, err := os.Open(filepath.Join(s.roots, rootName(r)))
	if err != nil {
		return nil, fmt.Errorf("oci: root file system %s: %w: %w", r.Name, sandbox.ErrNoRoot, err)
	}
	err = unix.Flock(int(root.Fd()), unix.LOCK_SH|unix.LOCK_NB)
	if err == nil { // one that was being removed has lost its name by now
		err = sameFile(root)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("oci: root file system %s: %w: %w", r.Name, sandbox.ErrNoRoot, err), root.Close())
	}
	return root, nil
}

// sameFile fails when a file's name is another's by now, or nobody's.
func sameFile(f *os.File) error {
	opened, err := f.Stat()
	if err != nil {
		return err
	}
	named, err := os.Stat(f.Name())
	if err == nil && !os.SameFile(opened, named) {
		err = fs.ErrNotExist
	}
	return err
}

// Roots lists the roots in the folder, and measures them.
func (s *Sandbox) Roots(ctx context.Context) ([]sandbox.StoredRoot, error) {
	entries, err := os.ReadDir(s.roots)
	if err != nil {
		return nil, fmt.Errorf("oci: list root file systems: %w", err)
	}
	var roots []sandbox.StoredRoot
	for _, e := range entries {
		cut := strings.LastIndexByte(e.Name(), '-')
		if cut < 1 || strings.HasPrefix(e.Name(), ".") || !wire.Digest(e.Name()[cut+1:]).Valid() {
			continue
		}
		size, err := measure(ctx, filepath.Join(s.roots, e.Name()))
		if err != nil {
			return nil, fmt.Errorf("oci: measure root file system %s: %w", e.Name(), err)
		}
		roots = append(roots, sandbox.StoredRoot{
			Root: sandbox.Root{Name: e.Name()[:cut], Digest: wire.Digest(e.Name()[cut+1:])}, Bytes: size,
		})
	}
	return roots, nil
}

// measure sums the files below a folder, which may vanish meanwhile.
func measure(ctx context.Context, dir string) (size int64, err error) {
	err = filepath.WalkDir(dir, func(_ string, e fs.DirEntry, err error) error {
		switch {
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case errors.Is(err, fs.ErrNotExist):
			return nil
		case err != nil || !e.Type().IsRegular():
			return err
		}
		info, err := e.Info()
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err == nil {
			size += info.Size()
		}
		return err
	})
	return size, err
}

// RemoveRoot removes a root's folder. It loses its name first: what has one is whole.
func (s *Sandbox) RemoveRoot(_ context.Context, r sandbox.Root) error {
	if err := checkRoot(r); err != nil {
		return err
	}
	path := filepath.Join(s.roots, rootName(r))
	root, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("oci: remove root file system %s: %w", r.Name, err)
	}
	defer root.Close()
	err = unix.Flock(int(root.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) {
		return sandbox.ErrRootInUse
	}
	gone := filepath.Join(s.roots, unpackingPrefix+s.hash+"-gone-"+rootName(r))
	if err == nil {
		err = errors.Join(os.RemoveAll(gone), os.Rename(path, gone), os.RemoveAll(gone))
	}
	if err != nil {
		return fmt.Errorf("oci: remove root file system %s: %w", r.Name, err)
	}
	return nil
}
