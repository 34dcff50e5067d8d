package sandboxtest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/dayfly-run/dayfly/invoker/sandbox"
	"github.com/dayfly-run/dayfly/wire"
)

func testExit(h *harness) {
	for _, want := range []int{0, 1, 42, 255} {
		exit, _ := Finish(h.T, h, h.spec(Exit(strconv.Itoa(want))))
		if exit != (sandbox.Exit{Code: want}) {
			h.Errorf("exit %d became %+v", want, exit)
		}
	}
}

func testKill(h *harness) {
	c := h.start(h.spec(Wait()))
	select {
	case <-c.Exited():
		h.Fatal("it ended by itself:", c.Exit())
	default:
	}
	if exit := c.Exit(); exit.Code != -1 {
		h.Errorf("before its end it says %+v", exit)
	}
	var group sync.WaitGroup
	for range 4 {
		group.Go(c.Kill)
	}
	group.Wait()
	Await(h.T, c.Exited(), "the end after Kill")
	if exit := c.Exit(); exit != (sandbox.Exit{Code: 137}) {
		h.Errorf("killed, it says %+v", exit)
	}
	c.Kill() // does no harm
	if l, err := c.Listen(9001); err == nil {
		_ = l.Close()
		h.Error("Listen works on a dead container")
	}
	if dir, err := c.OpenDir("/tmp"); err == nil {
		_ = dir.Close()
		h.Error("OpenDir works on a dead container")
	}
}

func testRemove(h *harness) {
	c := h.start(h.spec(Wait()))
	var group sync.WaitGroup
	for range 4 {
		group.Go(func() {
			if err := c.Remove(h.ctx); err != nil {
				h.Error(err)
			}
		})
	}
	group.Wait()
	if err := c.Remove(h.ctx); err != nil {
		h.Error("a second Remove:", err)
	}
	select {
	case <-c.Exited():
	default:
		h.Error("it is removed and has not ended")
	}
	if exit := c.Exit(); exit.Code != 137 {
		h.Errorf("removed while it ran, it says %+v", exit)
	}
	c.Kill()
	ended := h.start(h.spec(Exit("3")))
	if err := ended.Remove(h.ctx); err != nil {
		h.Fatal(err)
	}
	if left, err := h.Sweep(h.ctx); err != nil || left != 0 {
		h.Errorf("%d containers are left; %v", left, err)
	}
}

func testStartFails(h *harness) {
	spec := h.spec(Wait())
	spec.Root.Name, spec.Root.Digest = "missing", wire.Digest(strings.Repeat("0", 64))
	if _, err := h.Start(h.ctx, spec); err == nil {
		h.Error("a root that is not there was started")
	}
	if left, err := h.Sweep(h.ctx); err != nil || left != 0 {
		h.Errorf("%d containers are left; %v", left, err)
	}
}

// testStartCancelled ends the context at many moments of a start.
func testStartCancelled(h *harness) {
	ctx, cancel := context.WithCancel(h.ctx)
	cancel()
	if _, err := h.Start(ctx, h.spec(Wait())); !errors.Is(err, context.Canceled) {
		h.Errorf("a context that is done gives %v", err)
	}
	for _, after := range []time.Duration{0, time.Millisecond, 10 * time.Millisecond, 50 * time.Millisecond, 150 * time.Millisecond, 300 * time.Millisecond} {
		ctx, cancel := context.WithTimeout(h.ctx, after)
		c, err := h.Start(ctx, h.spec(Wait()))
		cancel()
		switch {
		case err == nil: // it was quicker; the context is for the start only
			select {
			case <-c.Exited():
				h.Error("the end of Start's context ended the container")
			default:
			}
			if err := c.Remove(h.ctx); err != nil {
				h.Error(err)
			}
		case !errors.Is(err, context.DeadlineExceeded):
			h.Errorf("after %s: %v", after, err)
		}
	}
	if left, err := h.Sweep(h.ctx); err != nil || left != 0 {
		h.Errorf("%d containers are left; %v", left, err)
	}
}

func testSweep(h *harness) {
	other := h.open(h.owner + "/other")
	foreign := Start(h.T, other, h.spec(Wait()))
	mine := h.start(h.spec(Wait()))
	ended := h.start(h.spec(Exit("0")))
	Await(h.T, ended.Exited(), "the end")
	if n, err := h.Sweep(h.ctx); err != nil || n != 2 {
		h.Errorf("Sweep removed %d containers of 2; %v", n, err)
	}
	Await(h.T, mine.Exited(), "the end of what was swept")
	select {
	case <-foreign.Exited():
		h.Error("Sweep ended another owner's container")
	default:
	}
	if n, err := h.Sweep(h.ctx); err != nil || n != 0 {
		h.Errorf("a second Sweep found %d; %v", n, err)
	}
	if err := mine.Remove(h.ctx); err != nil {
		h.Error("Remove after Sweep:", err)
	}
}

// testSweepAfterCrash drops a sandbox with a container, as kill -9 does.
func testSweepAfterCrash(h *harness) {
	s := h.create(h.T, h.owner)
	h.Cleanup(func() {
		if err := s.Close(context.Background()); err != nil {
			h.Error(err)
		}
	})
	dropped, err := s.Start(h.ctx, h.spec(Wait()))
	if err != nil {
		h.Fatal(err)
	}
	if n, err := h.Sweep(h.ctx); err != nil || n != 1 {
		h.Errorf("Sweep removed %d containers of 1; %v", n, err)
	}
	Await(h.T, dropped.Exited(), "the end of what was swept")
}

func testConcurrent(h *harness) {
	const at = 8
	errs := make(chan error, at)
	var group sync.WaitGroup
	for i := range at {
		spec := h.spec(Exit(strconv.Itoa(i)))
		group.Go(func() { errs <- roundTrip(h.ctx, h, spec, i) })
	}
	group.Wait()
	for range at {
		if err := <-errs; err != nil {
			h.Error(err)
		}
	}
}

func roundTrip(ctx context.Context, s sandbox.Sandbox, spec sandbox.Spec, want int) error {
	c, err := s.Start(ctx, spec)
	if err != nil {
		return err
	}
	select {
	case <-c.Exited():
	case <-ctx.Done():
		return ctx.Err()
	}
	if c.Exit().Code != want {
		err = fmt.Errorf("exit %d became %+v", want, c.Exit())
	}
	return errors.Join(err, c.Remove(ctx))
}

// testSameInstance: a second start with the same instance fails and leaves the
// first one alone.
func testSameInstance(h *harness) {
	spec := h.spec(Wait())
	first := h.start(spec)
	if c, err := h.Start(h.ctx, spec); err == nil {
		h.Error("the same instance was started twice:", c.Remove(h.ctx))
	}
	select {
	case <-first.Exited():
		h.Error("the second start ended the first container")
	default:
	}
}

func testUnavailable(h *harness) {
	s := h.features.Unavailable(h.T)
	if err := s.Check(h.ctx); !errors.Is(err, sandbox.ErrUnavailable) {
		h.Errorf("Check says %v", err)
	}
	if _, err := s.Start(h.ctx, h.spec(Wait())); !errors.Is(err, sandbox.ErrUnavailable) {
		h.Errorf("Start says %v", err)
	}
	if err := h.Check(h.ctx); err != nil {
		h.Errorf("Check of a live engine says %v", err)
	}
}

// testListen opens the same port in two containers at once.
func testListen(h *harness) {
	for range 2 {
		c := h.start(h.spec(Wait()))
		l, err := c.Listen(9001)
		if err != nil {
			h.Fatal(err)
		}
		greet(h.T, l)
	}
}

// greet says "hello" to all who connect, until the test ends.
func greet(t *testing.T, l net.Listener) {
	t.Helper()
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			_, _ = io.WriteString(c, "hello")
			_ = c.Close()
		}
	}()
	t.Cleanup(func() {
		_ = l.Close()
		<-done
	})
}
