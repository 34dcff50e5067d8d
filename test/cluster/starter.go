package cluster

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"

	"golang.org/x/sys/unix"
)

// starter starts processes and mounts their disks from one thread with a mount namespace
// of its own. The kernel takes both away when the thread's process ends, however it ends.
type starter struct {
	work chan func()
	done chan struct{} // closed when the thread has ended
	root string        // where others see the thread's files
}

func newStarter() (*starter, error) {
	s := &starter{work: make(chan func()), done: make(chan struct{})}
	ready := make(chan error, 1)
	go func() {
		defer close(s.done)
		runtime.LockOSThread() // for good: the thread ends with the goroutine
		err := unix.Unshare(unix.CLONE_NEWNS)
		if err == nil {
			err = unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, "")
		}
		s.root = filepath.Join("/proc", strconv.Itoa(os.Getpid()), "task", strconv.Itoa(unix.Gettid()), "root")
		ready <- err
		if err != nil {
			return
		}
		for f := range s.work {
			f()
		}
	}()
	if err := <-ready; err != nil {
		return nil, fmt.Errorf("make a mount namespace: %w", err)
	}
	return s, nil
}

// do calls f on the thread.
func (s *starter) do(f func() error) error {
	done := make(chan error, 1)
	s.work <- func() { done <- f() }
	return <-done
}

// start starts a program on a host.
func (s *starter) start(h *Host, cmd *exec.Cmd) error {
	return s.do(func() (err error) {
		home, err := os.Open(ownNamespace)
		if err != nil {
			return err
		}
		defer home.Close()
		if err := unix.Setns(int(h.ns.Fd()), unix.CLONE_NEWNET); err != nil {
			return err
		}
		defer func() { err = errors.Join(err, unix.Setns(int(home.Fd()), unix.CLONE_NEWNET)) }()
		return cmd.Start()
	})
}

// close ends the thread. Mounts go when the last process has.
func (s *starter) close() {
	close(s.work)
	<-s.done
}
