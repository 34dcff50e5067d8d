package fake

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/dayfly-run/dayfly/invoker/sandbox"
)

// container implements [sandbox.Container].
type container struct {
	engine *Engine
	owner  string
	spec   sandbox.Spec
	limit  func(Process, sandbox.Limits) error // may be nil
	cancel context.CancelFunc
	killed atomic.Bool
	exited chan struct{}
	exit   sandbox.Exit // valid once exited is closed

	mu      sync.Mutex
	removed bool            // guarded by mu
	mounts  []sandbox.Mount // guarded by mu: those of the spec and those made later
	limits  sandbox.Limits  // guarded by mu
	dir     string          // guarded by mu: stands for the root file system; made when first asked for
	ports   map[int]string  // guarded by mu: port inside to the address outside
}

// run plays the container's life.
func (c *container) run(ctx context.Context, k Knobs) {
	defer close(c.exited)
	defer c.cancel()
	code := k.ExitCode
	if k.Run != nil {
		code = k.Run(ctx, Process{Spec: c.spec, container: c})
	}
	c.exit = sandbox.Exit{Code: code, OutOfMemory: k.OutOfMemory}
	if c.killed.Load() {
		c.exit = sandbox.Exit{Code: 137}
	}
}

// Listen opens a listener on the host's loopback, on a port of its own. Dial of
// the container's process leads there.
func (c *container) Listen(port int) (net.Listener, error) {
	if c.ended() {
		return nil, errEnded
	}
	l, err := (&net.ListenConfig{}).Listen(context.Background(), "tcp4", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.ports[port] = l.Addr().String()
	return l, nil
}

var errEnded = fmt.Errorf("fake: %w", sandbox.ErrEnded)

func (c *container) ended() bool {
	select {
	case <-c.exited:
		return true
	default:
		return false
	}
}

// OpenDir opens the folder of the host that stands for the path.
func (c *container) OpenDir(path string) (*os.Root, error) {
	if c.ended() {
		return nil, errEnded
	}
	host, err := c.hostPath(path)
	if err != nil {
		return nil, err
	}
	return os.OpenRoot(host)
}

// Mount implements [sandbox.Container]: from now on the path stands for the folder.
func (c *container) Mount(source, target string) error {
	if c.ended() {
		return errEnded
	}
	if _, err := os.Stat(source); err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.mounts = append(c.mounts, sandbox.Mount{Source: source, Target: target, ReadOnly: true})
	return nil
}

// SetLimits implements [sandbox.Container]: it only remembers.
func (c *container) SetLimits(l sandbox.Limits) error {
	if c.limit != nil {
		if err := c.limit(Process{Spec: c.spec, container: c}, l); err != nil {
			return err
		}
	}
	if c.ended() {
		return errEnded
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.limits = l
	return nil
}

// hostPath maps a path inside to the host: below a mount's source, or in a
// temporary folder that stands for everything else.
func (c *container) hostPath(path string) (string, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	host, longest := "", -1
	for _, m := range c.mounts {
		rest, below := strings.CutPrefix(path, m.Target)
		if below && (rest == "" || rest[0] == '/') && len(m.Target) > longest {
			host, longest = filepath.Join(m.Source, rest), len(m.Target)
		}
	}
	if longest >= 0 {
		return host, nil
	}
	if c.removed {
		return "", errEnded
	}
	if c.dir == "" {
		dir, err := os.MkdirTemp("", "dayfly-fake-")
		if err != nil {
			return "", err
		}
		c.dir = dir
		for _, t := range c.spec.Tmpfs {
			if err := os.MkdirAll(filepath.Join(dir, t.Target), 0o700); err != nil {
				return "", err
			}
		}
	}
	return filepath.Join(c.dir, path), nil
}

// Exited implements [sandbox.Container].
func (c *container) Exited() <-chan struct{} { return c.exited }

// Exit implements [sandbox.Container].
func (c *container) Exit() sandbox.Exit {
	if !c.ended() {
		return sandbox.Exit{Code: -1}
	}
	return c.exit
}

// Kill ends the context of Run and makes the exit status 137.
func (c *container) Kill() {
	if !c.ended() {
		c.killed.Store(true)
		c.cancel()
	}
}

// Remove kills and waits until Run has returned.
func (c *container) Remove(ctx context.Context) error {
	c.Kill()
	select {
	case <-c.exited:
	case <-ctx.Done():
		return fmt.Errorf("fake: Run of %s does not return: %w", c.spec.Instance, context.Cause(ctx))
	}
	c.engine.forget(c)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.removed = true
	if c.dir == "" {
		return nil
	}
	return os.RemoveAll(c.dir)
}

// Process is what Run sees of its container. Safe for concurrent use.
type Process struct {
	Spec      sandbox.Spec
	container *container
}

// End ends the process as somebody outside does who is not the container's owner, and
// waits until it has ended.
func (p Process) End() {
	p.container.Kill()
	<-p.container.exited
}

// Path returns the path on the host of a path inside. Outside of mounts it is in a
// temporary folder, which goes with the container.
func (p Process) Path(inside string) (string, error) { return p.container.hostPath(inside) }

// Env returns a variable of the process's environment, the last one of that name.
func (p Process) Env(name string) string {
	value := ""
	for _, entry := range p.Spec.Env {
		if k, v, _ := strings.Cut(entry, "="); k == name {
			value = v
		}
	}
	return value
}

// Dial connects as a process inside would: to a unix socket by its path inside,
// or by tcp to a port of the container's loopback.
func (p Process) Dial(ctx context.Context, network, address string) (net.Conn, error) {
	switch network {
	case "unix":
		path, err := p.Path(address)
		if err != nil {
			return nil, err
		}
		address = path
	case "tcp", "tcp4":
		outside, err := p.container.outside(address)
		if err != nil {
			return nil, err
		}
		address = outside
	}
	var d net.Dialer
	return d.DialContext(ctx, network, address)
}

func (c *container) outside(address string) (string, error) {
	_, text, err := net.SplitHostPort(address)
	if err != nil {
		return "", err
	}
	port, err := strconv.Atoi(text)
	if err != nil {
		return "", err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if outside, ok := c.ports[port]; ok {
		return outside, nil
	}
	return "", fmt.Errorf("fake: nobody listens on port %d of %s", port, c.spec.Instance)
}
