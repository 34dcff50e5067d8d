package oci

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/dayfly-run/dayfly/invoker/sandbox"
	"github.com/dayfly-run/dayfly/wire"
)

// pack makes a tar of entries whose content is their name.
func pack(t *testing.T, entries ...tar.Header) *bytes.Buffer {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, h := range entries {
		if h.Typeflag == tar.TypeReg {
			h.Size = int64(len(h.Name))
		}
		must(t, w.WriteHeader(&h))
		if h.Typeflag == tar.TypeReg {
			_, err := io.WriteString(w, h.Name)
			must(t, err)
		}
	}
	must(t, w.Close())
	return &b
}

func TestUnpack(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	when := time.Unix(1_700_000_000, 0)
	must(t, unpackTar(t.Context(), pack(t,
		tar.Header{Name: "./", Typeflag: tar.TypeDir, Mode: 0o700},
		tar.Header{Name: "./usr/", Typeflag: tar.TypeDir, Mode: 0o750, Uid: 3, Gid: 4},
		tar.Header{Name: "usr/tool", Typeflag: tar.TypeReg, Mode: 0o4755, Uid: 5, Gid: 6, ModTime: when},
		tar.Header{Name: "usr/hard", Typeflag: tar.TypeLink, Linkname: "./usr/tool"},
		tar.Header{Name: "bin", Typeflag: tar.TypeSymlink, Linkname: "usr"},
		tar.Header{Name: "bin/through", Typeflag: tar.TypeReg, Mode: 0o644},
		tar.Header{Name: "shadow", Typeflag: tar.TypeSymlink, Linkname: "/etc/shadow", Uid: 7, Gid: 8},
		tar.Header{Name: "deep/er/file", Typeflag: tar.TypeReg, Mode: 0o600},
		tar.Header{Name: "twice", Typeflag: tar.TypeReg, Mode: 0o600},
		tar.Header{Name: "twice", Typeflag: tar.TypeReg, Mode: 0o640},
		tar.Header{Name: "dev/null", Typeflag: tar.TypeChar, Devmajor: 1, Devminor: 3},
	), dir))
	for name, want := range map[string]struct {
		mode     os.FileMode
		uid, gid uint32
	}{
		"usr":          {os.ModeDir | 0o750, 3, 4},
		"usr/tool":     {os.ModeSetuid | 0o755, 5, 6},
		"usr/hard":     {os.ModeSetuid | 0o755, 5, 6},
		"usr/through":  {0o644, 0, 0},
		"bin":          {os.ModeSymlink | 0o777, 0, 0},
		"shadow":       {os.ModeSymlink | 0o777, 7, 8},
		"deep/er/file": {0o600, 0, 0},
		"twice":        {0o640, 0, 0},
	} {
		info, err := os.Lstat(filepath.Join(dir, name))
		if err != nil {
			t.Error(err)
			continue
		}
		sys := info.Sys().(*syscall.Stat_t)
		if info.Mode() != want.mode || sys.Uid != want.uid || sys.Gid != want.gid {
			t.Errorf("%s: %s %d:%d", name, info.Mode(), sys.Uid, sys.Gid)
		}
	}
	a, errA := os.Stat(filepath.Join(dir, "usr/tool"))
	b, errB := os.Stat(filepath.Join(dir, "usr/hard"))
	must(t, errors.Join(errA, errB))
	if !os.SameFile(a, b) || !a.ModTime().Equal(when) {
		t.Errorf("hard link %t, time %s", os.SameFile(a, b), a.ModTime())
	}
	if _, err := os.Lstat(filepath.Join(dir, "dev/null")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a device: %v", err)
	}
}

// TestUnpackHostile: nothing comes to be outside, whatever an archive says.
func TestUnpackHostile(t *testing.T) {
	t.Parallel()
	for name, entries := range map[string][]tar.Header{
		"up":                {{Name: "../evil", Typeflag: tar.TypeReg}},
		"up inside":         {{Name: "a/../../evil", Typeflag: tar.TypeReg}},
		"relative link":     {{Name: "l", Typeflag: tar.TypeSymlink, Linkname: ".."}, {Name: "l/evil", Typeflag: tar.TypeReg}},
		"absolute link":     {{Name: "l", Typeflag: tar.TypeSymlink, Linkname: "OUTSIDE"}, {Name: "l/evil", Typeflag: tar.TypeReg}},
		"folder by link":    {{Name: "l", Typeflag: tar.TypeSymlink, Linkname: "OUTSIDE"}, {Name: "l/evil/", Typeflag: tar.TypeDir}},
		"link by link":      {{Name: "l", Typeflag: tar.TypeSymlink, Linkname: "OUTSIDE"}, {Name: "l/evil", Typeflag: tar.TypeSymlink, Linkname: "x"}},
		"hard link up":      {{Name: "evil", Typeflag: tar.TypeLink, Linkname: "../known"}},
		"hard link by link": {{Name: "l", Typeflag: tar.TypeSymlink, Linkname: "OUTSIDE"}, {Name: "h", Typeflag: tar.TypeLink, Linkname: "l/known"}},
		"remove by link":    {{Name: "l", Typeflag: tar.TypeSymlink, Linkname: "OUTSIDE"}, {Name: "l/known", Typeflag: tar.TypeReg}},
		"strange kind":      {{Name: "x", Typeflag: tar.TypeCont}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			outside := t.TempDir()
			dir := filepath.Join(outside, "root")
			must(t, errors.Join(os.Mkdir(dir, 0o755), os.WriteFile(filepath.Join(outside, "known"), []byte("known"), 0o600)))
			for i := range entries {
				entries[i].Linkname = strings.ReplaceAll(entries[i].Linkname, "OUTSIDE", outside)
			}
			if err := unpackTar(t.Context(), pack(t, entries...), dir); err == nil {
				t.Error("it was unpacked")
			}
			left, err := os.ReadDir(outside)
			must(t, err)
			content, err := os.ReadFile(filepath.Join(outside, "known"))
			if len(left) != 2 || err != nil || string(content) != "known" {
				t.Errorf("outside are %v, %q; %v", left, content, err)
			}
		})
	}
	// A link is replaced, and not what it leads to.
	outside := t.TempDir()
	dir, known := filepath.Join(outside, "root"), filepath.Join(outside, "known")
	must(t, errors.Join(os.Mkdir(dir, 0o755), os.WriteFile(known, []byte("known"), 0o600)))
	must(t, unpackTar(t.Context(), pack(t,
		tar.Header{Name: "x", Typeflag: tar.TypeSymlink, Linkname: known},
		tar.Header{Name: "x", Typeflag: tar.TypeReg, Mode: 0o777, Uid: 9},
		tar.Header{Name: "/abs", Typeflag: tar.TypeReg, Mode: 0o600},
		tar.Header{Name: "d", Typeflag: tar.TypeSymlink, Linkname: outside},
		tar.Header{Name: "d", Typeflag: tar.TypeDir, Mode: 0o777, Uid: 9},
	), dir))
	if info, err := os.Stat(known); err != nil || info.Mode() != 0o600 || info.Sys().(*syscall.Stat_t).Uid != 0 {
		t.Errorf("the link's target: %v; %v", info.Mode(), err)
	}
	if _, err := os.Stat(filepath.Join(dir, "abs")); err != nil {
		t.Error(err)
	}
}

// TestEnsureRoot: a root is there whole or not at all, and is read once.
func TestEnsureRoot(t *testing.T) {
	t.Parallel()
	s := &Sandbox{hash: "00112233", roots: t.TempDir(), unpacking: make(chan struct{}, 1)}
	content := pack(t, tar.Header{Name: "etc/hosts", Typeflag: tar.TypeReg, Mode: 0o644}).Bytes()
	opened := 0
	root := sandbox.Root{Name: "base", Digest: wire.Digest(strings.Repeat("ab", 32)), Open: func(context.Context) (io.ReadCloser, error) {
		opened++
		if opened == 1 {
			return io.NopCloser(bytes.NewReader(content[:700])), nil
		}
		return io.NopCloser(bytes.NewReader(content)), nil
	}}
	if err := s.EnsureRoot(t.Context(), root); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("cut off: %v", err)
	}
	if left, err := os.ReadDir(s.roots); err != nil || len(left) != 0 {
		t.Errorf("left are %v; %v", left, err)
	}
	for range 2 {
		if err := s.EnsureRoot(t.Context(), root); err != nil {
			t.Error(err)
		}
	}
	if _, err := os.Stat(filepath.Join(s.roots, rootName(root), "etc/hosts")); err != nil || opened != 2 {
		t.Errorf("opened %d times; %v", opened, err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	root.Name = "other"
	if err := s.EnsureRoot(ctx, root); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
}
