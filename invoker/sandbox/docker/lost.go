package docker

import (
	"context"
	"maps"
	"regexp"
	"slices"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/dayfly-run/dayfly/invoker/sandbox/hostproc"
)

// maxLost bounds the containers that are remembered; the next start's Sweep takes
// those beyond.
const maxLost = 1024

// lost holds the names or IDs of containers that could not be removed because the
// engine was gone. Safe for concurrent use.
type lost struct {
	work sync.WaitGroup

	mu      sync.Mutex
	names   map[string]struct{} // guarded by mu
	busy    bool                // guarded by mu: they are being removed
	closing bool                // guarded by mu
}

func (l *lost) add(name string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.names) < maxLost {
		l.names[name] = struct{}{}
	}
}

// collect removes them in the background, unless that is under way.
func (l *lost) collect(ctx context.Context, remove func(ctx context.Context, name string) error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.busy || l.closing || len(l.names) == 0 {
		return
	}
	l.busy = true
	l.work.Go(func() {
		_ = l.removeAll(context.WithoutCancel(ctx), remove) // what is left is tried again
		l.mu.Lock()
		defer l.mu.Unlock()
		l.busy = false
	})
}

// removeAll removes those that there are, until one cannot be removed.
func (l *lost) removeAll(ctx context.Context, remove func(ctx context.Context, name string) error) error {
	l.mu.Lock()
	names := slices.Sorted(maps.Keys(l.names))
	l.mu.Unlock()
	for _, name := range names {
		if err := remove(ctx, name); err != nil {
			return err
		}
		l.mu.Lock()
		delete(l.names, name)
		l.mu.Unlock()
	}
	return nil
}

// close waits for what is under way and removes the rest.
func (l *lost) close(ctx context.Context, remove func(ctx context.Context, name string) error) error {
	l.mu.Lock()
	l.closing = true
	l.mu.Unlock()
	l.work.Wait()
	return l.removeAll(ctx, remove)
}

// release ends what keeps the engine from removing a container: one that was stopped
// while it made the container has forgotten a process in it, and that its root file
// system is mounted. The engine's refusal names the mount.
func release(id string, refusal error) {
	_ = hostproc.KillAll(id) // or the engine goes on refusing
	if m := busyRoot.FindStringSubmatch(refusal.Error()); m != nil {
		_ = unix.Unmount(m[1], unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW) // or it is not mounted here
	}
}

var busyRoot = regexp.MustCompile(`unlinkat (/\S+/overlay2/[0-9a-f]+/merged): device or resource busy`)
