package builder

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/dayfly-run/dayfly/wire"
)

// TestDiskIsBounded: a job that writes more than it may is ended, and nothing of it stays.
func TestDiskIsBounded(t *testing.T) {
	w := newWorkshop(t, func(ctx context.Context, job Job) (string, error) {
		f, err := os.Create(filepath.Join(job.Folders[sourceMount].Path, "large"))
		if err != nil {
			return "", err
		}
		defer f.Close()
		for block := make([]byte, 1<<20); ctx.Err() == nil; {
			if info, err := f.Stat(); err == nil && info.Size() < 64<<20 { // the test's own bound
				if _, err := f.Write(block); err != nil {
					return "", err
				}
			}
		}
		return "", context.Cause(ctx)
	}, func(c *Config) { c.DiskBytes = 4 << 20 })
	wantFailure(t, w.build(files{"dayfly.yaml": golang, "main.go": ""}), wire.CodeTooLarge, "go build failed: the build wrote more than its 4 MiB to disk; leave large files")
}

func TestBounds(t *testing.T) {
	b := &Builder{cfg: Config{DataDir: t.TempDir(), DiskBytes: 1 << 20}}
	dir, other := t.TempDir(), t.TempDir()
	write(t, dir, files{"a": strings.Repeat("x", 600<<10)})
	write(t, other, files{"sub/b": strings.Repeat("x", 600<<10)})
	both := map[string]Folder{"/a": {Path: dir, Writable: true}, "/b": {Path: other, Writable: true}, "/none": {Path: filepath.Join(dir, "none"), Writable: true}}
	if err := b.withinBounds(Job{Folders: both}); err == nil || !strings.Contains(err.Error(), "more than its 1 MiB") {
		t.Errorf("both together: %v", err)
	}
	both["/b"] = Folder{Path: other}
	if err := b.withinBounds(Job{Folders: both}); err != nil {
		t.Errorf("what is only read counts: %v", err)
	}
}

// TestCaches: each namespace has its own; those that are too large, or of which there are
// too many, are removed, but never one that is used.
func TestCaches(t *testing.T) {
	b := &Builder{cfg: Config{DataDir: t.TempDir(), DiskBytes: 1 << 20}}
	dir := filepath.Join(b.cfg.DataDir, "cache")
	open := func(namespace string) (string, func()) {
		t.Helper()
		path, release, err := b.openCache(namespace)
		if err != nil {
			t.Fatal(err)
		}
		return path, release
	}
	path, release := open("a")
	again, releaseAgain := open("a")
	if path != again || path != filepath.Join(dir, "a") {
		t.Errorf("a has %s and %s", path, again)
	}
	write(t, path, files{"build/x": strings.Repeat("x", 700<<10)})
	release()
	if _, err := os.Stat(filepath.Join(path, "build/x")); err != nil {
		t.Errorf("removed while it is used: %v", err)
	}
	releaseAgain()
	if left, err := os.ReadDir(dir); len(left) != 0 || err != nil {
		t.Errorf("a large cache is left: %v, %v", left, err)
	}
	_, releaseA := open("a")
	names := []string{"b", "c", "d", "e", "f", "g", "h", "i"}
	for n, name := range names {
		path, release := open(name)
		at := time.Now().Add(time.Duration(n-100) * time.Minute)
		if err := os.Chtimes(path, at, at); err != nil {
			t.Fatal(err)
		}
		release()
	}
	old := time.Now().Add(-time.Hour * 24)
	if err := os.Chtimes(filepath.Join(dir, "a"), old, old); err != nil {
		t.Fatal(err)
	}
	_, release = open("z")
	release()
	if got := listCaches(dir); !slices.Equal(got, []string{"a", "c", "d", "e", "f", "g", "h", "i", "z"}) {
		t.Errorf("left are %v", got) // a is the oldest, and used
	}
	releaseA()
	if got := listCaches(dir); len(got) != maxCaches || slices.Contains(got, "a") {
		t.Errorf("left are %v", got)
	}
	write(t, dir, files{".b-1/x": ""})
	if err := clearCaches(dir); err != nil || len(listCaches(dir)) != maxCaches {
		t.Error(err)
	}
	if _, err := os.Stat(filepath.Join(dir, ".b-1")); err == nil {
		t.Error("what was being removed is left")
	}
}

func TestClip(t *testing.T) {
	var c clip
	for _, part := range []string{"begin", strings.Repeat("é", maxLog), "end"} {
		if n, err := c.Write([]byte(part)); n != len(part) || err != nil {
			t.Errorf("%d, %v", n, err)
		}
	}
	got := c.String()
	if !strings.HasPrefix(got, "begin") || !strings.HasSuffix(got, "end") || !strings.Contains(got, "left out") || len(got) > maxLog+100 {
		t.Errorf("%d bytes: %.20q…", len(got), got)
	}
}
