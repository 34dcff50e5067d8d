// Package hostproc reaches into a container through its first process, as the
// host sees it. It needs root and Linux 5.10.
package hostproc

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"runtime"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/dayfly-run/dayfly/invoker/sandbox"
)

// Process is a hold on one process: another one that gets its ID is never taken
// for it. All methods are safe for concurrent use, also with Close; on a nil
// Process they say [sandbox.ErrEnded].
type Process struct {
	pid int
	fd  *os.File // a pidfd in the runtime's poller
	// groups are the folders of its control groups by controller.
	groups map[string]string
	oom    *os.File // see WatchOOM; nil where nothing is watched
}

// Open takes hold of a process whose cgroup has the given text in its path. A
// process that is gone, or is in no such cgroup, is [sandbox.ErrEnded]. The caller closes
// the Process.
func Open(pid int, cgroup string) (*Process, error) {
	fd, err := unix.PidfdOpen(pid, unix.PIDFD_NONBLOCK)
	switch {
	case errors.Is(err, unix.ESRCH), errors.Is(err, unix.EINVAL):
		return nil, sandbox.ErrEnded
	case err != nil:
		return nil, fmt.Errorf("take hold of process %d: %w", pid, err)
	}
	p := &Process{pid: pid, fd: os.NewFile(uintptr(fd), "pidfd")}
	// Between the engine's answer and here the ID may have passed on.
	f, err := p.open("cgroup")
	if err != nil {
		_ = p.Close()
		return nil, err
	}
	defer func() { _ = f.Close() }()
	var content bytes.Buffer
	if _, err := content.ReadFrom(f); err != nil || !bytes.Contains(content.Bytes(), []byte(cgroup)) {
		_ = p.Close()
		return nil, sandbox.ErrEnded
	}
	p.groups = cgroupPaths(content.String(), cgroup)
	return p, nil
}

// Close lets go of the process, which runs on, and ends a Wait. It is idempotent.
func (p *Process) Close() error {
	if p == nil {
		return nil
	}
	if p.oom != nil {
		_ = p.oom.Close()
	}
	if err := p.fd.Close(); !errors.Is(err, os.ErrClosed) {
		return err
	}
	return nil
}

// idBytes is the length of a whole container ID.
const idBytes = 64

// WholeID reports whether a text is a whole container ID, which stands in the path of the
// container's cgroup and of no other one, but for those of containers in it.
func WholeID(text string) bool {
	return len(text) == idBytes && strings.Trim(text, "0123456789abcdef") == ""
}

// KillAll sends SIGKILL to every process whose cgroup has one of the container IDs in its
// path, and does not wait. It looks at all processes of the machine. It kills none and
// fails when one of the IDs is not whole: others' processes could have less in theirs.
func KillAll(ids ...string) error {
	for _, id := range ids {
		if !WholeID(id) {
			return fmt.Errorf("kill what is left of container %q: that is no whole container ID", id)
		}
	}
	if len(ids) == 0 {
		return nil
	}
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return fmt.Errorf("kill what is left of containers: %w", err)
	}
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		groups, err := os.ReadFile("/proc/" + e.Name() + "/cgroup")
		if err != nil {
			continue // it has ended
		}
		for _, id := range ids {
			if bytes.Contains(groups, []byte(id)) {
				killIn(pid, id)
			}
		}
	}
	return nil
}

// killIn kills a process if it is in the container's cgroup once it is held.
func killIn(pid int, id string) {
	if p, err := Open(pid, id); err == nil {
		_ = p.Kill() // or it has ended
		_ = p.Close()
	}
}

// Kill sends SIGKILL and does not wait. The first process of a PID namespace
// takes all others with it.
func (p *Process) Kill() error { return p.control(Kill) }

// Kill is [Process.Kill] for who has a pidfd alone.
func Kill(pidfd int) error {
	if ended(pidfd) {
		return sandbox.ErrEnded
	}
	if err := unix.PidfdSendSignal(pidfd, unix.SIGKILL, nil, 0); !errors.Is(err, unix.ESRCH) {
		return err
	}
	return sandbox.ErrEnded
}

// Pidfd returns another pidfd of the process, which the caller closes.
func (p *Process) Pidfd() (*os.File, error) {
	var fd int
	err := p.control(func(held int) (err error) {
		if ended(held) {
			return sandbox.ErrEnded
		}
		fd, err = unix.FcntlInt(uintptr(held), unix.F_DUPFD_CLOEXEC, 0)
		return err
	})
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), "pidfd"), nil
}

// Wait returns nil once the process has ended, or an error when p is closed
// before.
func (p *Process) Wait() error {
	if p == nil {
		return nil
	}
	conn, err := p.fd.SyscallConn()
	if err != nil {
		return err
	}
	return conn.Read(func(fd uintptr) bool { return ended(int(fd)) })
}

// Listen opens a TCP listener on 127.0.0.1 inside the process's network
// namespace. A socket stays in the namespace where it was made, so it is accepted
// from here without a process of ours inside.
func (p *Process) Listen(port int) (net.Listener, error) {
	inside, err := p.open("ns/net")
	if err != nil {
		return nil, err
	}
	defer func() { _ = inside.Close() }()
	var l net.Listener
	err = apart(func() (err error) {
		if err := unix.Setns(int(inside.Fd()), unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("enter the container's network namespace: %w; Dayfly must run as root", err)
		}
		l, err = (&net.ListenConfig{}).Listen(context.Background(), "tcp4", "127.0.0.1:"+strconv.Itoa(port))
		return err
	})
	return l, err
}

// apart calls do on a thread that is thrown away afterwards, because namespaces
// belong to threads: whatever do enters, nobody else is in it.
func apart(do func() error) error {
	done := make(chan error, 1)
	go runApart(do, done)
	return <-done
}

func runApart(do func() error, done chan<- error) {
	// Never unlocked: the Go runtime ends the thread with the goroutine.
	runtime.LockOSThread()
	if unix.Gettid() != unix.Getpid() {
		done <- do()
		return
	}
	// The first thread is never ended, and is the one by which /proc judges the
	// process. While this one is held, the next gets another.
	over := make(chan struct{})
	go func() {
		defer close(over)
		runApart(do, done)
	}()
	<-over
	runtime.UnlockOSThread()
}

// OpenDir opens a folder of the process's root file system. No link leads out of
// it. The caller closes it.
func (p *Process) OpenDir(path string) (*os.Root, error) {
	if p == nil {
		return nil, sandbox.ErrEnded
	}
	whole, err := os.OpenRoot(p.path("root"))
	if e := p.alive(); e != nil {
		if err == nil {
			_ = whole.Close()
		}
		return nil, e
	}
	if err != nil {
		return nil, ending(err)
	}
	defer whole.Close()
	return whole.OpenRoot(strings.TrimPrefix(path, "/"))
}

// open opens a file in the process's /proc folder and makes sure that it was this
// process's.
func (p *Process) open(name string) (*os.File, error) {
	if p == nil {
		return nil, sandbox.ErrEnded
	}
	f, err := os.Open(p.path(name))
	if e := p.alive(); e != nil {
		if err == nil {
			_ = f.Close()
		}
		return nil, e
	}
	return f, ending(err)
}

// ending makes the process's end of an error that only a process has which is about to
// end: it loses its namespaces and folders before it counts as ended.
func ending(err error) error {
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ESRCH) {
		return sandbox.ErrEnded
	}
	return err
}

func (p *Process) path(name string) string { return "/proc/" + strconv.Itoa(p.pid) + "/" + name }

func (p *Process) alive() error {
	return p.control(func(fd int) error {
		if ended(fd) {
			return sandbox.ErrEnded
		}
		return nil
	})
}

// control calls do with the pidfd, which stays open meanwhile.
func (p *Process) control(do func(fd int) error) error {
	if p == nil {
		return sandbox.ErrEnded
	}
	conn, err := p.fd.SyscallConn()
	if err != nil {
		return err
	}
	var result error
	if conn.Control(func(fd uintptr) { result = do(int(fd)) }) != nil {
		return sandbox.ErrEnded // p is closed, which it is only after the process's end
	}
	return result
}

// ended reports whether a pidfd's process has ended: it can be read from then on.
// A zombie has ended, whereas it can still be sent signals.
func ended(fd int) bool { return Readable(fd, 0) }

// Readable waits until a file can be read, for so long at most or, when that is negative,
// for ever, and reports whether it can. A pidfd can be once its process has ended.
func Readable(fd int, wait time.Duration) bool {
	millis := -1
	if wait >= 0 {
		millis = int(wait / time.Millisecond)
	}
	for {
		//nolint:gosec // a file descriptor is small
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, millis)
		if !errors.Is(err, unix.EINTR) {
			return n > 0
		}
	}
}
