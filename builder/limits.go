package builder

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"syscall"
	"time"
)

const (
	// maxFiles bounds the entries that a job may have in its writable folders, caches
	// included.
	maxFiles = 500_000
	// minFree is what a job must leave free on the builder's disk, in bytes: a file that
	// was removed while it is open is seen in no folder.
	minFree = 256 << 20
	// watchEvery is the pause between two looks at them, at least; a look that takes
	// long is followed by a pause that is watchRest times as long.
	watchEvery = 200 * time.Millisecond
	watchRest  = 4
)

// errDisk is in the cause that ends a job which takes more than its part of the disk.
var errDisk = errors.New("leave large files and dependencies out")

// watch ends a job's context when its writable folders grow over their bound. The
// second result ends the watch, and waits for it. A quota would need a file system of
// its own, which not every machine can make; the folders are removed after the build, so
// that what is written between two looks is all that may be too much.
func (b *Builder) watch(ctx context.Context, job Job) (context.Context, func()) {
	ctx, cancel := context.WithCancelCause(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for pause := watchEvery; ; {
			select {
			case <-time.After(pause):
			case <-ctx.Done():
				return
			}
			begun := time.Now()
			if err := b.withinBounds(job); err != nil {
				cancel(err)
				return
			}
			pause = max(watchEvery, watchRest*time.Since(begun))
		}
	}()
	return ctx, func() {
		cancel(nil)
		<-done
	}
}

func (b *Builder) withinBounds(job Job) error {
	var all usage
	for _, folder := range job.Folders {
		if folder.Writable {
			all.add(measure(folder.Path))
		}
	}
	var disk syscall.Statfs_t
	err := syscall.Statfs(b.cfg.DataDir, &disk)
	switch {
	case all.bytes > b.cfg.DiskBytes:
		return fmt.Errorf("the build wrote more than its %d MiB to disk; %w", b.cfg.DiskBytes>>20, errDisk)
	case all.files > maxFiles:
		return fmt.Errorf("the build made more than %d files; %w", maxFiles, errDisk)
	case err == nil && int64(disk.Bavail)*disk.Bsize < minFree: //nolint:gosec // blocks of a disk
		return fmt.Errorf("the builder's disk is full; %w, or give the builder a larger one", errDisk)
	}
	return nil
}

// usage is what a folder takes.
type usage struct{ bytes, files int64 }

func (u *usage) add(more usage) {
	u.bytes += more.bytes
	u.files += more.files
}

// measure counts what a folder takes on disk. What cannot be read, because it is being
// removed, is not there.
func measure(folder string) (u usage) {
	_ = filepath.WalkDir(folder, func(_ string, e fs.DirEntry, err error) error {
		if err != nil {
			return skip(err)
		}
		info, err := e.Info()
		if err != nil {
			return skip(err)
		}
		u.files++
		if stat, ok := info.Sys().(*syscall.Stat_t); ok {
			u.bytes += stat.Blocks * 512
		}
		return nil
	})
	return u
}

func skip(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return fs.SkipDir
}
