// Package fake is a sandbox without containers, for tests and simulations: a Go
// function plays the process of each. What goes wrong, and how long it takes, is
// set by knobs.
package fake

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/dayfly-run/dayfly/invoker/sandbox"
	"github.com/dayfly-run/dayfly/wire"
)

// Kind is this sandbox's name.
const Kind = "fake"

// Knobs are what a test may turn. Their zero value starts processes that end at
// once with status 0.
type Knobs struct {
	// StartDelay is how long Start takes.
	StartDelay time.Duration
	// StartError and CheckError are what Start and Check return.
	StartError, CheckError error
	// Hang makes Start wait until its context is done.
	Hang bool
	// Run plays the process and returns its exit status. Its context is done when
	// the container is killed, and then it must return soon. When it is nil, the
	// process ends at once with ExitCode.
	Run      func(ctx context.Context, p Process) int
	ExitCode int
	// OutOfMemory says why processes end.
	OutOfMemory bool
	// Limit is asked by SetLimits, and its error is what that returns.
	Limit func(p Process, l sandbox.Limits) error
}

// Engine holds the containers of any number of sandboxes, and outlives them, as
// a real one does. Safe for concurrent use.
type Engine struct {
	mu         sync.Mutex
	containers map[wire.InstanceID]*container // guarded by mu
	roots      map[wire.Digest]sandbox.Root   // guarded by mu
	started    int                            // guarded by mu
}

// NewEngine makes an engine without containers.
func NewEngine() *Engine {
	return &Engine{containers: map[wire.InstanceID]*container{}, roots: map[wire.Digest]sandbox.Root{}}
}

// Live returns the number of containers that are not removed, of all owners.
func (e *Engine) Live() int {
	e.mu.Lock()
	defer e.mu.Unlock()
	return len(e.containers)
}

// Started returns the number of containers that were ever started.
func (e *Engine) Started() int {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.started
}

// Sandbox makes a sandbox of this engine.
func (e *Engine) Sandbox(owner string, k Knobs) *Sandbox {
	return &Sandbox{Engine: e, owner: owner, knobs: k}
}

// Sandbox implements [sandbox.Sandbox]. Safe for concurrent use.
type Sandbox struct {
	*Engine
	owner string

	turning sync.Mutex
	knobs   Knobs // guarded by turning
}

var _ sandbox.Sandbox = (*Sandbox)(nil)

// New makes a sandbox with an engine of its own.
func New(owner string, k Knobs) *Sandbox { return NewEngine().Sandbox(owner, k) }

// Set changes knobs; what is started afterwards goes by them.
func (s *Sandbox) Set(change func(*Knobs)) {
	s.turning.Lock()
	defer s.turning.Unlock()
	change(&s.knobs)
}

func (s *Sandbox) get() Knobs {
	s.turning.Lock()
	defer s.turning.Unlock()
	return s.knobs
}

// Kind returns "fake".
func (*Sandbox) Kind() string { return Kind }

// Check returns the CheckError.
func (s *Sandbox) Check(context.Context) error { return s.get().CheckError }

// EnsureRoot notes that the root is there. It never opens it.
func (s *Sandbox) EnsureRoot(ctx context.Context, root sandbox.Root) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.roots[root.Digest] = sandbox.Root{Name: root.Name, Digest: root.Digest}
	return nil
}

// Roots lists the roots that EnsureRoot noted, of no size.
func (s *Sandbox) Roots(context.Context) ([]sandbox.StoredRoot, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var list []sandbox.StoredRoot
	for _, root := range s.roots {
		list = append(list, sandbox.StoredRoot{Root: root})
	}
	return list, nil
}

// RemoveRoot forgets a root that no container uses.
func (s *Sandbox) RemoveRoot(_ context.Context, root sandbox.Root) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, c := range s.containers {
		if c.spec.Root.Digest == root.Digest {
			return sandbox.ErrRootInUse
		}
	}
	delete(s.roots, root.Digest)
	return nil
}

// Start starts a process as the knobs say.
func (s *Sandbox) Start(ctx context.Context, spec sandbox.Spec) (sandbox.Container, error) {
	k := s.get()
	if err := k.wait(ctx); err != nil {
		return nil, err
	}
	if k.StartError != nil {
		return nil, k.StartError
	}
	run, cancel := context.WithCancel(context.WithoutCancel(ctx))
	c := &container{engine: s.Engine, owner: s.owner, spec: spec, limit: k.Limit, cancel: cancel,
		exited: make(chan struct{}), ports: map[int]string{}, mounts: slices.Clone(spec.Mounts)}
	if err := s.add(c); err != nil {
		cancel()
		return nil, err
	}
	go c.run(run, k)
	return c, nil
}

// wait is what Start spends its time with.
func (k Knobs) wait(ctx context.Context) error {
	var over <-chan time.Time // never, when it hangs
	if !k.Hang {
		timer := time.NewTimer(k.StartDelay)
		defer timer.Stop()
		over = timer.C
	}
	select {
	case <-over:
	case <-ctx.Done():
	}
	return context.Cause(ctx)
}

func (e *Engine) add(c *container) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if _, ok := e.roots[c.spec.Root.Digest]; !ok {
		return fmt.Errorf("fake: %w: %s", sandbox.ErrNoRoot, c.spec.Root.Name)
	}
	if _, ok := e.containers[c.spec.Instance]; ok {
		return fmt.Errorf("fake: there is a container %s already", c.spec.Instance)
	}
	e.containers[c.spec.Instance] = c
	e.started++
	return nil
}

func (e *Engine) forget(c *container) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.containers[c.spec.Instance] == c {
		delete(e.containers, c.spec.Instance)
	}
}

// Sweep removes the owner's containers.
func (s *Sandbox) Sweep(ctx context.Context) (int, error) {
	var errs []error
	removed := 0
	for _, c := range s.of(s.owner) {
		if err := c.Remove(ctx); err != nil {
			errs = append(errs, err)
			continue
		}
		removed++
	}
	return removed, errors.Join(errs...)
}

func (e *Engine) of(owner string) (list []*container) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, c := range e.containers {
		if c.owner == owner {
			list = append(list, c)
		}
	}
	return list
}

// Close does nothing: the sandbox holds nothing.
func (*Sandbox) Close(context.Context) error { return nil }
