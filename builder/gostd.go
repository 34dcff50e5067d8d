package builder

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"
)

// goStandard compiles what most functions need of the standard library: what the SDK
// does. Nothing of a bundle is in reach of it.
const goStandard = `go build -trimpath ./...`

// goRenewAfter is how old what is compiled of it may grow before its age is set back. Go
// removes from a cache what nobody used for five days, and cannot note in files of root's
// that it used them.
const goRenewAfter = 24 * time.Hour

// beginGoCache gives a namespace's new cache what is compiled already of the standard
// library, so that its first build need not, and lets an older one keep it. The files are
// links to those of all, belong to root and cannot be written: a build that makes
// something else of them makes it for its own namespace.
func (b *Builder) beginGoCache(ctx context.Context, tools []string, job Job, cache string) error {
	sum := sha256.Sum256([]byte(strings.Join(tools, "\n")))
	compiled := filepath.Join(b.cfg.DataDir, "gostd", hex.EncodeToString(sum[:]))
	begun := filepath.Join(cache, "build")
	if _, err := os.Lstat(begun); err == nil {
		return renew(compiled)
	}
	if err := b.standardLibrary(ctx, compiled, job); err != nil {
		return err
	}
	if err := renew(compiled); err != nil {
		return err
	}
	// Beside the caches, where no build can put something in its way.
	fresh := filepath.Join(b.cfg.DataDir, "cache", ".go-"+uuid.NewString())
	defer func() { _ = os.RemoveAll(fresh) }() // the next start does
	err := link(compiled, fresh)
	if err == nil {
		err = os.Rename(fresh, begun)
	}
	if _, quicker := os.Lstat(begun); quicker == nil {
		return nil
	}
	return err
}

// entries are the files of a Go cache that hold what was compiled, below its folder. The
// others are Go's notes on that one cache, which it writes again.
func entries(cache string) ([]string, error) {
	return fs.Glob(os.DirFS(cache), "[0-9a-f][0-9a-f]/*-[ad]")
}

// link makes a cache of the build user's out of links to the entries of another one.
func link(from, to string) error {
	names, err := entries(from)
	if err != nil {
		return err
	}
	folders := []string{to}
	for _, name := range names {
		folders = append(folders, filepath.Join(to, filepath.Dir(name)))
	}
	for _, folder := range slices.Compact(folders) {
		if err := errors.Join(makeFolder(folder), os.Chown(folder, BuildUID, BuildUID)); err != nil {
			return err
		}
	}
	for _, name := range names {
		if err := os.Link(filepath.Join(from, name), filepath.Join(to, name)); err != nil {
			return err
		}
	}
	return nil
}

// renew makes the entries of a cache, and so all links to them, as if they were used now.
// The folder's own time says when that was. One that is not there is no error: what was
// compiled by another toolchain may go.
func renew(compiled string) error {
	now := time.Now()
	info, err := os.Lstat(compiled)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil || now.Sub(info.ModTime()).Abs() < goRenewAfter:
		return err
	}
	names, err := entries(compiled)
	for _, name := range append(names, ".") {
		err = errors.Join(err, os.Chtimes(filepath.Join(compiled, name), now, now))
	}
	return err
}

// standardLibrary compiles it into the folder dir, unless it is there.
func (b *Builder) standardLibrary(ctx context.Context, dir string, job Job) error {
	done, err := b.goStandard.take(ctx)
	if err != nil {
		return err
	}
	defer done()
	if _, err := os.Lstat(dir); err == nil {
		return nil
	}
	work, err := os.MkdirTemp(filepath.Join(b.cfg.DataDir, "work"), "gostd-")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(work) }() // the next start does
	cache := filepath.Join(work, "cache")
	//nolint:gosec // the build user passes through
	if err := errors.Join(os.Chmod(work, 0o711), makeFolder(cache), os.Chown(cache, BuildUID, BuildUID)); err != nil {
		return err
	}
	job.ID += "-std"
	job.WorkDir, job.Script = sdkMount, goStandard
	job.Folders = map[string]Folder{cacheMount: {Path: cache, Writable: true}, sdkMount: job.Folders[sdkMount], goMount: job.Folders[goMount]}
	// It is nothing that the bundle's author did: what it says is the operator's to read.
	if said, err := b.runWatched(ctx, job, io.Discard); err != nil {
		return fmt.Errorf("compile the standard library: %w: %s", err, strings.TrimSpace(said))
	}
	compiled := filepath.Join(cache, "build")
	if err := freeze(compiled); err != nil {
		return err
	}
	all := filepath.Dir(dir)
	if err := os.MkdirAll(all, 0o711); err != nil { //nolint:gosec // as above
		return err
	}
	old, err := os.ReadDir(all) // of other toolchains: their caches have links of their own
	if err != nil {
		return err
	}
	for _, e := range old {
		err = errors.Join(err, os.RemoveAll(filepath.Join(all, e.Name())))
	}
	return errors.Join(err, os.Rename(compiled, dir))
}

// freeze makes files root's, which nobody else may change.
func freeze(dir string) error {
	return filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case e.IsDir():
			return errors.Join(os.Lchown(path, 0, 0), os.Chmod(path, 0o755)) //nolint:gosec // the build user reads it
		case !e.Type().IsRegular():
			return fmt.Errorf("%s is no file", path)
		}
		return errors.Join(os.Lchown(path, 0, 0), os.Chmod(path, 0o444)) //nolint:gosec // as above, and its job has ended
	})
}
