package docker

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"sync/atomic"
	"time"

	"github.com/docker/docker/api/types/container"

	"github.com/dayfly-run/dayfly/invoker/sandbox"
	"github.com/dayfly-run/dayfly/invoker/sandbox/hostproc"
)

// Bounds on what waits for the engine.
const (
	// createTimeout bounds a creation, which is not broken off: see Start.
	createTimeout = 60 * time.Second
	// removeTimeout bounds removing a container, an engine's restart included.
	removeTimeout = 30 * time.Second
	// cleanupTimeout bounds removing one that failed to start.
	cleanupTimeout = 10 * time.Second
	// statusTimeout bounds asking how a process ended that has ended.
	statusTimeout = 5 * time.Second
)

// unknownCode is the exit code of a container whose end the engine does not know.
const unknownCode = -1

// instance is a container of the engine.
type instance struct {
	id      string
	sandbox *Sandbox
	process *hostproc.Process // nil when it ended at once, set before the first use
	killed  atomic.Bool
	watched bool // set before the first use
	exited  chan struct{}
	exit    sandbox.Exit // valid once exited is closed

	removing chan struct{} // holds one: taken by the Remove at work
	removed  bool          // guarded by removing
}

func newInstance(s *Sandbox, id string) *instance {
	return &instance{id: id, sandbox: s, exited: make(chan struct{}), removing: make(chan struct{}, 1)}
}

// start starts the container, takes hold of its first process, and watches it.
func (c *instance) start(ctx context.Context) error {
	cli := c.sandbox.client
	if err := cli.ContainerStart(ctx, c.id, container.StartOptions{}); err != nil {
		return c.sandbox.wrapStart(err)
	}
	info, err := cli.ContainerInspect(ctx, c.id)
	if err != nil {
		return c.sandbox.wrap("inspect container", err)
	}
	if pid := info.State.Pid; pid > 0 {
		c.process, err = hostproc.Open(pid, c.id)
		if errors.Is(err, sandbox.ErrEnded) {
			err = c.confirmEnded(ctx)
		}
		if err != nil {
			return err
		}
		if err := c.process.WatchOOM(); err != nil && !errors.Is(err, sandbox.ErrEnded) {
			c.sandbox.log.Warn("the kernel will not say whether a container ran out of memory", "container", c.id, "error", err)
		}
	}
	c.watched = true
	go c.watch(context.WithoutCancel(ctx))
	return nil
}

// confirmEnded tells a process that ended at once from one that this host cannot
// see, which could be neither killed nor reached.
func (c *instance) confirmEnded(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, statusTimeout)
	defer cancel()
	_, err := c.status(ctx)
	if errors.Is(err, context.DeadlineExceeded) {
		return fmt.Errorf("docker: the engine at %s runs no processes of this machine; set DOCKER_HOST to an engine of this machine",
			c.sandbox.client.DaemonHost())
	}
	return err
}

// watch closes exited when the container has ended. It looks at the process and
// not at the engine, so an engine that restarts neither ends a function nor
// hides its end.
func (c *instance) watch(ctx context.Context) {
	defer close(c.exited)
	if err := c.process.Wait(); err != nil {
		c.sandbox.log.Error("lost sight of a container", "container", c.id, "error", err)
	}
	// At once, while its control group is there: engines lose this now and then.
	killed := c.process.OOMKilled()
	ctx, cancel := context.WithTimeout(ctx, statusTimeout)
	defer cancel()
	exit, err := c.status(ctx)
	if err != nil {
		c.sandbox.log.Warn("the engine does not know how a container ended", "container", c.id, "error", err)
		exit.Code = unknownCode
		if c.killed.Load() {
			exit.Code = 137
		}
	} else if killed && exit.Code != 0 {
		exit.OutOfMemory = true
	}
	c.exit = exit
}

// status waits until the engine knows that the container has ended and returns how.
func (c *instance) status(ctx context.Context) (sandbox.Exit, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel() // ends the client's goroutine
	statuses, errs := c.sandbox.client.ContainerWait(ctx, c.id, container.WaitConditionNotRunning)
	var exit sandbox.Exit
	select {
	case s := <-statuses:
		exit.Code = int(s.StatusCode)
	case err := <-errs:
		return exit, c.sandbox.wrap("wait for container", err)
	}
	info, err := c.sandbox.client.ContainerInspect(ctx, c.id)
	if err != nil {
		return exit, c.sandbox.wrap("inspect container", err)
	}
	// The engine also notes the end of a child that the first process survived.
	exit.OutOfMemory = info.State.OOMKilled && exit.Code != 0
	return exit, nil
}

func (c *instance) Listen(port int) (net.Listener, error) { return c.process.Listen(port) }

func (c *instance) Mount(source, target string) error { return c.process.MountReadOnly(source, target) }

func (c *instance) SetLimits(l sandbox.Limits) error { return c.process.SetLimits(l) }

func (c *instance) OpenDir(path string) (*os.Root, error) { return c.process.OpenDir(path) }

// Pidfd implements [sandbox.Held].
func (c *instance) Pidfd() (*os.File, error) { return c.process.Pidfd() }

func (c *instance) Exited() <-chan struct{} { return c.exited }

func (c *instance) Exit() sandbox.Exit {
	select {
	case <-c.exited:
		return c.exit
	default:
		return sandbox.Exit{Code: unknownCode}
	}
}

// Kill ends the first process. It is the init of the container's PID namespace,
// so the kernel ends all others with it, however they were started.
func (c *instance) Kill() {
	before := c.killed.Swap(true) // first: who waits for the end looks there
	if c.process.Kill() != nil {
		c.killed.Store(before)
	}
}

func (c *instance) Remove(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, removeTimeout)
	defer cancel()
	select {
	case c.removing <- struct{}{}:
		defer func() { <-c.removing }()
	case <-ctx.Done():
		return fmt.Errorf("docker: remove container: %w", context.Cause(ctx))
	}
	if c.removed {
		return nil
	}
	c.Kill()
	// The engine forgets how a container ended when it removes it.
	if c.watched {
		select {
		case <-c.exited:
		case <-ctx.Done():
			c.sandbox.lost.add(c.id)
			return fmt.Errorf("docker: wait for the container's end: %w", context.Cause(ctx))
		}
	}
	if err := c.sandbox.remove(ctx, c.id); err != nil {
		c.sandbox.lost.add(c.id) // whether or not somebody calls again
		return err
	}
	c.removed = true
	if !c.watched { // an engine that was stopped while it started this knows of no process
		err := hostproc.KillAll(c.id)
		return errors.Join(err, c.process.Close())
	}
	return c.process.Close()
}
