package docker

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"github.com/docker/docker/api/types/container"

	"github.com/dayfly-run/dayfly/invoker/sandbox"
	"github.com/dayfly-run/dayfly/invoker/sandbox/hostproc"
)

// removeTimeout bounds the engine's part in removing a container.
const removeTimeout = 30 * time.Second

// instance is a container of the engine.
type instance struct {
	id      string
	sandbox *Sandbox
	process *os.Process
	exited  chan struct{}
	exit    sandbox.Exit // valid once exited is closed

	mu      sync.Mutex
	removed bool // guarded by mu
}

// start starts the container, takes hold of its first process, and watches it.
func (c *instance) start(ctx context.Context) error {
	cli := c.sandbox.client
	watchCtx, stopWatch := context.WithCancel(context.WithoutCancel(ctx))
	// Watch before the start: a process that ends at once must not be missed.
	statuses, errs := cli.ContainerWait(watchCtx, c.id, container.WaitConditionNextExit)
	if err := cli.ContainerStart(ctx, c.id, container.StartOptions{}); err != nil {
		stopWatch()
		return c.sandbox.wrap("start container", err)
	}
	info, err := cli.ContainerInspect(ctx, c.id)
	if err != nil {
		stopWatch()
		return c.sandbox.wrap("inspect container", err)
	}
	if pid := info.State.Pid; pid > 0 {
		c.process = c.hold(pid)
	}
	go func() {
		defer stopWatch()
		c.watch(watchCtx, statuses, errs)
	}()
	return nil
}

// hold opens a process handle (a pidfd) and makes sure that the process is still
// the container's: between the engine's answer and here its ID may have passed on.
func (c *instance) hold(pid int) *os.Process {
	p, err := os.FindProcess(pid)
	if err != nil {
		return nil
	}
	cgroup, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/cgroup")
	if err != nil || !bytes.Contains(cgroup, []byte(c.id)) {
		_ = p.Release()
		return nil
	}
	return p
}

// watch closes exited when the container has ended, or the engine is lost.
func (c *instance) watch(ctx context.Context, statuses <-chan container.WaitResponse, errs <-chan error) {
	defer close(c.exited)
	select {
	case s := <-statuses:
		c.exit.Code = int(s.StatusCode)
		info, err := c.sandbox.client.ContainerInspect(ctx, c.id)
		if err == nil && info.State != nil {
			c.exit.OutOfMemory = info.State.OOMKilled
		}
	case <-errs:
		c.Kill() // an engine that cannot be asked must not leave the function running
		c.exit.Code = -1
	}
}

func (c *instance) Listen(port int) (net.Listener, error) { return hostproc.Listen(c.process, port) }

func (c *instance) OpenDir(path string) (*os.Root, error) { return hostproc.OpenDir(c.process, path) }

func (c *instance) Exited() <-chan struct{} { return c.exited }

func (c *instance) Exit() sandbox.Exit { return c.exit }

// Kill ends the first process. It is the init of the container's PID namespace,
// so the kernel ends all others with it, however they were started.
func (c *instance) Kill() {
	if c.process != nil {
		_ = c.process.Kill()
	}
}

func (c *instance) Remove(ctx context.Context) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.removed {
		return nil
	}
	c.Kill()
	ctx, cancel := context.WithTimeout(ctx, removeTimeout)
	defer cancel()
	if err := c.sandbox.remove(ctx, c.id); err != nil {
		return err
	}
	c.removed = true
	if c.process != nil {
		_ = c.process.Release()
	}
	return nil
}

func isNotFound(err error) bool { return err != nil && errdefs.IsNotFound(err) }

// drain reads a stream to its end and fails when the engine reports an error in it.
func drain(r io.Reader) error {
	out, err := io.ReadAll(io.LimitReader(r, 1<<20))
	if err != nil {
		return err
	}
	if bytes.Contains(out, []byte(`"errorDetail"`)) {
		return fmt.Errorf("engine: %s", bytes.TrimSpace(out))
	}
	return nil
}

// unixMode is a file mode as the kernel writes it.
func unixMode(m os.FileMode) uint32 {
	mode := uint32(m.Perm())
	if m&os.ModeSticky != 0 {
		mode |= 0o1000
	}
	return mode
}
