package oci

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/dayfly-run/dayfly/invoker/sandbox"
)

const (
	// maxRootBytes and maxRootEntries bound a root file system.
	maxRootBytes   = 16 << 30
	maxRootEntries = 2_000_000
	// unpackingPrefix marks folders that are not complete.
	unpackingPrefix = ".unpacking-" // and the owner
)

// rootName is the folder that holds a root.
func rootName(r sandbox.Root) string { return r.Name + "-" + string(r.Digest) }

// EnsureRoot unpacks the root, unless it is there. It appears complete or not at
// all.
func (s *Sandbox) EnsureRoot(ctx context.Context, root sandbox.Root) error {
	if err := checkRoot(root); err != nil {
		return err
	}
	select {
	case s.unpacking <- struct{}{}:
		defer func() { <-s.unpacking }()
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	target := filepath.Join(s.roots, rootName(root))
	if _, err := os.Lstat(target); err == nil || !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := s.unpack(ctx, root, target); err != nil {
		return fmt.Errorf("oci: unpack root file system %s: %w", root.Name, err)
	}
	return nil
}

func checkRoot(r sandbox.Root) error {
	switch {
	case !r.Digest.Valid():
		return fmt.Errorf("oci: root file system %q has no valid digest: %q", r.Name, r.Digest)
	case r.Name == "" || r.Name != path.Base(r.Name) || strings.HasPrefix(r.Name, "."):
		return fmt.Errorf("oci: root file system has no valid name: %q", r.Name)
	}
	return nil
}

func (s *Sandbox) unpack(ctx context.Context, root sandbox.Root, target string) (err error) {
	work, err := os.MkdirTemp(s.roots, unpackingPrefix+s.hash+"-")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.RemoveAll(work))
		}
	}()
	source, err := root.Open(ctx)
	if err != nil {
		return err
	}
	defer source.Close()
	if err := os.Chmod(work, 0o755); err != nil {
		return err
	}
	if err := unpackTar(ctx, source, work); err != nil {
		return err
	}
	// On disk before it has its name, or a power cut would leave empty files.
	dir, err := os.Open(work)
	if err != nil {
		return err
	}
	defer dir.Close()
	if err := unix.Syncfs(int(dir.Fd())); err != nil {
		return fmt.Errorf("write to disk: %w", err)
	}
	err = os.Rename(work, target)
	if _, e := os.Stat(target); err != nil && e == nil {
		return os.RemoveAll(work) // another sandbox was quicker
	}
	return err
}

// unpackTar unpacks a tar into a folder with modes, owners and times. Nothing is
// written outside of it, whatever the names and links say. Devices and pipes are
// left out: the runtime makes the devices that a container has.
func unpackTar(ctx context.Context, source io.Reader, dir string) error {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer root.Close()
	u := unpacker{root: root, left: maxRootBytes}
	end := &tailReader{source: source}
	entries := tar.NewReader(end)
	for n := 0; ; n++ {
		h, err := entries.Next()
		switch {
		case errors.Is(err, io.EOF):
			return end.check()
		case err != nil:
			return fmt.Errorf("read tar: %w", err)
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case n >= maxRootEntries:
			return fmt.Errorf("more than %d entries", maxRootEntries)
		}
		if err := u.entry(h, entries); err != nil {
			return fmt.Errorf("%q: %w", h.Name, err)
		}
	}
}

// tailReader remembers whether what was read ends with zeros: a tar ends with two
// blocks of them, and one that was cut off between two files does not.
type tailReader struct {
	source io.Reader
	zeros  int
}

const tarEnd = 1024

// Read implements [io.Reader].
func (t *tailReader) Read(p []byte) (int, error) {
	n, err := t.source.Read(p)
	rest := bytes.TrimRight(p[:n], "\x00")
	if len(rest) > 0 {
		t.zeros = 0
	}
	t.zeros = min(t.zeros+n-len(rest), tarEnd)
	return n, err
}

func (t *tailReader) check() error {
	if t.zeros < tarEnd {
		return fmt.Errorf("read tar: %w: its end is missing", io.ErrUnexpectedEOF)
	}
	return nil
}

type unpacker struct {
	root *os.Root
	left int64 // bytes
}

// localName makes a tar's name one below the root, or refuses it.
func localName(name string) (string, error) {
	clean := strings.TrimPrefix(path.Clean("/"+name), "/")
	for part := range strings.SplitSeq(name, "/") {
		if part == ".." {
			return "", errors.New("the name leads out of the root")
		}
	}
	if clean == "" {
		return ".", nil
	}
	return clean, nil
}

func (u *unpacker) entry(h *tar.Header, body io.Reader) error {
	name, err := localName(h.Name)
	if err != nil {
		return err
	}
	if name == "." {
		return nil
	}
	if parent := path.Dir(name); parent != "." {
		if err := u.root.MkdirAll(parent, 0o755); err != nil {
			return err
		}
	}
	switch h.Typeflag {
	case tar.TypeDir:
		if err := u.folder(name); err != nil {
			return err
		}
	case tar.TypeReg:
		if err := u.file(name, h.Size, body); err != nil {
			return err
		}
	case tar.TypeSymlink:
		if err := u.clear(name); err != nil {
			return err
		}
		if err := u.root.Symlink(h.Linkname, name); err != nil {
			return err
		}
		return u.root.Lchown(name, h.Uid, h.Gid)
	case tar.TypeLink:
		old, err := localName(h.Linkname)
		if err != nil {
			return err
		}
		if err := u.clear(name); err != nil {
			return err
		}
		return u.root.Link(old, name)
	case tar.TypeChar, tar.TypeBlock, tar.TypeFifo, tar.TypeXGlobalHeader:
		return nil
	default:
		return fmt.Errorf("unknown kind of entry %q", h.Typeflag)
	}
	// The owner first: changing it takes set-user-ID bits away.
	if err := u.root.Lchown(name, h.Uid, h.Gid); err != nil {
		return err
	}
	if err := u.root.Chmod(name, h.FileInfo().Mode()); err != nil {
		return err
	}
	// Python compares its compiled files with the times of their sources.
	return u.root.Chtimes(name, h.ModTime, h.ModTime)
}

// clear removes an earlier entry of the same name.
func (u *unpacker) clear(name string) error {
	err := u.root.Remove(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

func (u *unpacker) folder(name string) error {
	if info, err := u.root.Lstat(name); err == nil && info.IsDir() {
		return nil
	}
	if err := u.clear(name); err != nil {
		return err
	}
	return u.root.Mkdir(name, 0o755)
}

func (u *unpacker) file(name string, size int64, body io.Reader) error {
	if u.left -= size; u.left < 0 {
		return fmt.Errorf("the root is larger than %d GiB", maxRootBytes>>30)
	}
	if err := u.clear(name); err != nil {
		return err
	}
	f, err := u.root.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = io.Copy(f, body)
	return errors.Join(err, f.Close())
}
