package oci

import (
	"context"
	"errors"
	"net"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/dayfly-run/dayfly/invoker/sandbox"
	"github.com/dayfly-run/dayfly/invoker/sandbox/hostproc"
)

// removeTimeout bounds the removal of one container.
const removeTimeout = 30 * time.Second

// container is a started container. Its first process is our child: the runtime
// that made it has ended, and we are its subreaper; see New.
type container struct {
	id      string
	sandbox *Sandbox
	netns   *netns
	root    *os.File          // held as long as it is used
	process *hostproc.Process // nil when it ended at once
	exited  chan struct{}
	exit    sandbox.Exit // valid once exited is closed

	turn    chan struct{} // holds one: taken while it is removed
	removed bool          // guarded by turn
}

// watch reaps the first process. As init of its PID namespace it is the last one
// to go, so then all are gone.
func (c *container) watch(pid int) {
	defer close(c.exited)
	defer c.sandbox.runtime.firsts.remove(pid)
	_ = c.process.Wait() // in the poller: a goroutine waits, not a thread
	var status unix.WaitStatus
	for {
		_, err := unix.Wait4(pid, &status, 0, nil)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			c.sandbox.log.Warn("a container's exit status was lost", "instance", c.id, "error", err)
			c.exit.Code = -1
			return
		}
		break
	}
	c.exit.Code = status.ExitStatus()
	if status.Signaled() {
		c.exit.Code = 128 + int(status.Signal())
	}
	// Of a child that the kernel killed, a parent that goes on need not die.
	c.exit.OutOfMemory = c.exit.Code != 0 && hostproc.OOMKills(c.sandbox.cgroups.oomFile(c.sandbox.cgroup(c.id))) > 0
}

func (c *container) Listen(port int) (net.Listener, error) { return c.process.Listen(port) }

func (c *container) OpenDir(path string) (*os.Root, error) { return c.process.OpenDir(path) }

func (c *container) Mount(source, target string) error {
	return c.process.MountReadOnly(source, target)
}

func (c *container) SetLimits(l sandbox.Limits) error { return c.process.SetLimits(l) }

// Pidfd implements [sandbox.Held].
func (c *container) Pidfd() (*os.File, error) { return c.process.Pidfd() }

func (c *container) Exited() <-chan struct{} { return c.exited }

func (c *container) Exit() sandbox.Exit {
	select {
	case <-c.exited:
		return c.exit
	default:
		return sandbox.Exit{Code: -1}
	}
}

// Kill ends the first process. It is the init of the container's PID namespace,
// so the kernel ends all others with it, however they were started.
func (c *container) Kill() {
	if err := c.process.Kill(); err != nil && !errors.Is(err, sandbox.ErrEnded) {
		c.sandbox.log.Error("a container could not be killed", "instance", c.id, "error", err)
	}
}

func (c *container) Remove(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, removeTimeout)
	defer cancel()
	select {
	case c.turn <- struct{}{}:
		defer func() { <-c.turn }()
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	if c.removed {
		return nil
	}
	c.Kill()
	select {
	case <-c.exited:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	if err := c.sandbox.clear(ctx, c.id); err != nil {
		return err
	}
	c.removed = true
	return errors.Join(c.netns.close(), c.process.Close(), c.root.Close())
}
