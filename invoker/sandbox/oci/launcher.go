package oci

import (
	"context"
	"errors"
	"fmt"
	"runtime"

	"golang.org/x/sys/unix"
)

// errClosed: the sandbox was closed.
var errClosed = errors.New("oci: the sandbox is closed")

// launcher runs functions, one at a time, on a thread that has a mount namespace
// of its own. OCI runtimes are started from there, for two reasons. Mounts made
// for a container, such as a writable root, are seen by nobody else, and go with
// our process however it ends. And crun refuses hosts where cgroup v1 holds the
// controllers but an empty v2 hierarchy is mounted too; there it is not.
//
// A thread that stays costs nothing; entering a namespace with a helper program
// for every start would take longer than the start.
type launcher struct {
	jobs chan launch
	quit chan struct{} // closed by close
	gone chan struct{} // closed when the thread is
}

type launch struct {
	do   func() error
	done chan error
}

// newLauncher starts the thread; hide are the mount points to take out of its sight.
func newLauncher(hide []string) (*launcher, error) {
	l := &launcher{jobs: make(chan launch), quit: make(chan struct{}), gone: make(chan struct{})}
	ready := make(chan error)
	go l.loop(hide, ready)
	if err := <-ready; err != nil {
		return nil, err
	}
	return l, nil
}

func (l *launcher) loop(hide []string, ready chan<- error) {
	// Never unlocked: the Go runtime ends the thread with the goroutine, and the
	// namespace ends with the thread.
	runtime.LockOSThread()
	if unix.Gettid() == unix.Getpid() {
		// It does not end the first thread, which also is the one that the process
		// is judged by in /proc. While this one is held, the next gets another.
		next := make(chan struct{})
		go func() {
			defer close(next)
			l.loop(hide, ready)
		}()
		<-next
		runtime.UnlockOSThread()
		return
	}
	defer close(l.gone)
	err := enterMountNamespace(hide)
	ready <- err
	if err != nil {
		return
	}
	for {
		select {
		case j := <-l.jobs:
			j.done <- j.do()
		case <-l.quit:
			return
		}
	}
}

func enterMountNamespace(hide []string) error {
	if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
		return fmt.Errorf("oci: make a mount namespace: %w; Dayfly must run as root", err)
	}
	// Nothing goes out of it. What the host mounts and unmounts comes in, so that
	// no file system of the host is held.
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_SLAVE, ""); err != nil {
		return fmt.Errorf("oci: keep our mounts from the host: %w", err)
	}
	for _, path := range hide {
		if err := unix.Unmount(path, unix.MNT_DETACH); err != nil {
			return fmt.Errorf("oci: hide %s: %w", path, err)
		}
	}
	return nil
}

// do runs f on the thread and returns its error. When ctx is done before f's turn
// comes, f is not run.
func (l *launcher) do(ctx context.Context, f func() error) error {
	j := launch{do: f, done: make(chan error, 1)}
	select {
	case l.jobs <- j:
		return <-j.done
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-l.gone:
		return errClosed
	}
}

// close ends the thread. It is called once.
func (l *launcher) close() {
	close(l.quit)
	<-l.gone
}
