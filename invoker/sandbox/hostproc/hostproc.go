// Package hostproc reaches into a container through its first process, as the
// host sees it. It needs root.
package hostproc

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"runtime"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// ErrEnded: the process is gone.
var ErrEnded = errors.New("the container's process has ended")

// Listen opens a TCP listener on 127.0.0.1 inside the process's network
// namespace. A socket stays in the namespace where it was made, so it is accepted
// from here without a process of ours inside.
func Listen(p *os.Process, port int) (net.Listener, error) {
	inside, err := open(p, "ns/net")
	if err != nil {
		return nil, err
	}
	defer inside.Close()
	type result struct {
		listener net.Listener
		err      error
	}
	done := make(chan result, 1)
	// Namespaces belong to threads. The goroutine never unlocks its thread when
	// the way back failed, so that the runtime throws the thread away.
	go func() {
		runtime.LockOSThread()
		l, back, err := listenIn(inside, port)
		if back == nil {
			runtime.UnlockOSThread()
		}
		done <- result{l, errors.Join(err, back)}
	}()
	r := <-done
	return r.listener, r.err
}

func listenIn(inside *os.File, port int) (l net.Listener, back, err error) {
	home, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		return nil, nil, err
	}
	defer home.Close()
	if err := unix.Setns(int(inside.Fd()), unix.CLONE_NEWNET); err != nil {
		return nil, nil, fmt.Errorf("enter the container's network namespace: %w; Dayfly must run as root", err)
	}
	l, err = (&net.ListenConfig{}).Listen(context.Background(), "tcp4", "127.0.0.1:"+strconv.Itoa(port))
	if e := unix.Setns(int(home.Fd()), unix.CLONE_NEWNET); e != nil {
		back = fmt.Errorf("leave the container's network namespace: %w", e)
	}
	return l, back, err
}

// OpenDir opens a folder of the process's root file system.
func OpenDir(p *os.Process, path string) (*os.Root, error) {
	if p == nil {
		return nil, ErrEnded
	}
	whole, err := os.OpenRoot(procPath(p, "root"))
	if err != nil {
		return nil, err
	}
	defer whole.Close()
	if err := alive(p); err != nil {
		return nil, err
	}
	return whole.OpenRoot(strings.TrimPrefix(path, "/"))
}

// open opens a file in the process's /proc folder and makes sure that it was this
// process's: its ID may pass on to another one.
func open(p *os.Process, name string) (*os.File, error) {
	if p == nil {
		return nil, ErrEnded
	}
	f, err := os.Open(procPath(p, name))
	if err != nil {
		return nil, errors.Join(alive(p), err)
	}
	if err := alive(p); err != nil {
		_ = f.Close()
		return nil, err
	}
	return f, nil
}

func alive(p *os.Process) error {
	if err := p.Signal(syscall.Signal(0)); err != nil {
		return ErrEnded
	}
	return nil
}

func procPath(p *os.Process, name string) string { return "/proc/" + strconv.Itoa(p.Pid) + "/" + name }
