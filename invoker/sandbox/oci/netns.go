package oci

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"runtime"
	"strconv"

	"golang.org/x/sys/unix"
)

// netns is a network namespace. Nothing but our file descriptor and the processes
// in it hold it, so it goes with them, however we end.
type netns struct {
	file    *os.File
	release func() // gives back what belongs to it; may be nil
	pool    *netPool
}

// path is where the OCI runtime finds the namespace.
func (n *netns) path() string {
	return "/proc/" + strconv.Itoa(os.Getpid()) + "/fd/" + strconv.Itoa(int(n.file.Fd()))
}

// close lets go of the namespace. It is idempotent.
func (n *netns) close() error {
	if err := n.file.Close(); err != nil {
		if errors.Is(err, os.ErrClosed) {
			return nil
		}
		return err
	}
	if n.release != nil {
		n.release()
	}
	return nil
}

// newNetns makes a namespace with its loopback up, and calls setUp in it.
func newNetns(setUp func() error) (*netns, error) {
	type result struct {
		file *os.File
		err  error
	}
	done := make(chan result, 1)
	// The goroutine never unlocks its thread when the way back failed, so that the
	// Go runtime throws the thread away.
	go func() {
		runtime.LockOSThread()
		f, back, err := unshareNetwork(setUp)
		if back == nil {
			runtime.UnlockOSThread()
		}
		done <- result{f, err}
	}()
	r := <-done
	if r.err != nil {
		return nil, fmt.Errorf("oci: make a network namespace: %w", r.err)
	}
	return &netns{file: r.file}, nil
}

func unshareNetwork(setUp func() error) (f *os.File, back, err error) {
	const mine = "/proc/thread-self/ns/net"
	home, err := os.Open(mine)
	if err != nil {
		return nil, nil, err
	}
	defer home.Close()
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		return nil, nil, err
	}
	if err = loopbackUp(); err == nil {
		err = setUp()
	}
	if err == nil {
		f, err = os.Open(mine)
	}
	return f, unix.Setns(int(home.Fd()), unix.CLONE_NEWNET), err
}

func loopbackUp() error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	request, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	request.SetUint16(unix.IFF_UP)
	return unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, request)
}

// netPool keeps some network namespaces ready. Making one is slow in the kernel
// and cannot be done for several at once.
type netPool struct {
	create func() (*netns, error)
	ready  chan *netns
	wake   chan struct{}
	quit   chan struct{} // closed by close
	gone   chan struct{}
	log    *slog.Logger
}

// newNetPool starts to fill a pool of the given size in the background.
func newNetPool(size int, create func() (*netns, error), log *slog.Logger) *netPool {
	p := &netPool{
		create: create, ready: make(chan *netns, size), wake: make(chan struct{}, 1),
		quit: make(chan struct{}), gone: make(chan struct{}), log: log,
	}
	go p.loop()
	p.refill()
	return p
}

// take returns a namespace that is ready, or makes one.
func (p *netPool) take(ctx context.Context) (*netns, error) {
	select {
	case n, open := <-p.ready:
		if !open {
			return nil, errClosed
		}
		n.pool = p
		return n, nil
	default:
	}
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	n, err := p.create()
	if err != nil {
		return nil, err
	}
	n.pool = p
	return n, nil
}

// refill has the pool filled up. It is called after a start, so as not to take
// the processor from it.
func (p *netPool) refill() {
	select {
	case p.wake <- struct{}{}:
	default:
	}
}

func (p *netPool) loop() {
	defer close(p.gone)
	for {
		select {
		case <-p.wake:
			p.fill()
		case <-p.quit:
			return
		}
	}
}

func (p *netPool) fill() {
	for len(p.ready) < cap(p.ready) {
		select {
		case <-p.quit:
			return
		default:
		}
		n, err := p.create()
		if err != nil {
			p.log.Warn("network namespaces are not made ready; each start will make its own", "error", err)
			return
		}
		p.ready <- n // there is room: nobody else puts any in
	}
}

// close ends the filling and lets go of what is ready. It is called once.
func (p *netPool) close() error {
	close(p.quit)
	<-p.gone
	close(p.ready)
	var errs []error
	for n := range p.ready {
		errs = append(errs, n.close())
	}
	return errors.Join(errs...)
}
