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
	"strings"

	"github.com/google/uuid"
)

// goStandard compiles what most functions need of the standard library: what the SDK
// does. Nothing of a bundle is in reach of it.
const goStandard = `go build -trimpath ./...`

// beginGoCache gives a namespace's new cache what is compiled already of the standard
// library, so that its first build need not. The files are links to those of all, belong
// to root and cannot be written: a build that makes something else of them makes it for
// its own namespace.
func (b *Builder) beginGoCache(ctx context.Context, tools []string, job Job, cache string) error {
	begun := filepath.Join(cache, "build")
	if _, err := os.Lstat(begun); err == nil {
		return nil
	}
	compiled, err := b.standardLibrary(ctx, tools, job)
	if err != nil {
		return err
	}
	// Beside the caches, where no build can put something in its way.
	fresh := filepath.Join(b.cfg.DataDir, "cache", ".go-"+uuid.NewString())
	defer func() { _ = os.RemoveAll(fresh) }() // the next start does
	err = filepath.WalkDir(compiled, func(path string, e fs.DirEntry, err error) error {
		to := fresh + strings.TrimPrefix(path, compiled)
		switch {
		case err != nil:
			return err
		case e.IsDir():
			return errors.Join(makeFolder(to), os.Chown(to, BuildUID, BuildUID))
		}
		return os.Link(path, to)
	})
	if err == nil {
		err = os.Rename(fresh, begun)
	}
	if _, quicker := os.Lstat(begun); quicker == nil {
		return nil
	}
	return err
}

// standardLibrary returns the folder of what is compiled, which it makes when it is not
// there.
func (b *Builder) standardLibrary(ctx context.Context, tools []string, job Job) (string, error) {
	sum := sha256.Sum256([]byte(strings.Join(tools, "\n")))
	all := filepath.Join(b.cfg.DataDir, "gostd")
	dir := filepath.Join(all, hex.EncodeToString(sum[:]))
	b.tools.Lock()
	defer b.tools.Unlock()
	if _, err := os.Lstat(dir); err == nil {
		return dir, nil
	}
	work, err := os.MkdirTemp(filepath.Join(b.cfg.DataDir, "work"), "gostd-")
	if err != nil {
		return "", err
	}
	defer func() { _ = os.RemoveAll(work) }() // the next start does
	cache := filepath.Join(work, "cache")
	//nolint:gosec // the build user passes through
	if err := errors.Join(os.Chmod(work, 0o711), makeFolder(cache), os.Chown(cache, BuildUID, BuildUID)); err != nil {
		return "", err
	}
	job.ID += "-std"
	job.WorkDir, job.Script = sdkMount, goStandard
	job.Folders = map[string]Folder{cacheMount: {Path: cache, Writable: true}, sdkMount: job.Folders[sdkMount], goMount: job.Folders[goMount]}
	if err := b.deps.Runner.Run(ctx, job, io.Discard); err != nil {
		return "", err
	}
	compiled := filepath.Join(cache, "build")
	if err := freeze(compiled); err != nil {
		return "", err
	}
	if err := os.MkdirAll(all, 0o711); err != nil { //nolint:gosec // as above
		return "", err
	}
	old, err := os.ReadDir(all) // of other toolchains: their caches have links of their own
	if err != nil {
		return "", err
	}
	for _, e := range old {
		err = errors.Join(err, os.RemoveAll(filepath.Join(all, e.Name())))
	}
	return dir, errors.Join(err, os.Rename(compiled, dir))
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
