package registry

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"

	"github.com/dayfly-run/dayfly/functions"
	"github.com/dayfly-run/dayfly/internal/bus"
	"github.com/dayfly-run/dayfly/wire"
)

// Cache is the registry in memory, kept up to date by one watcher, so that a call
// asks nobody who the function is. It is a lifecycle service and safe for
// concurrent use.
type Cache struct {
	registry *Registry
	log      *slog.Logger
	stop     func()
	cancel   context.CancelFunc

	mu        sync.RWMutex // guards what follows
	functions map[wire.FunctionID]functions.Function
	versions  map[wire.VersionID]functions.Version
	// kept names the functions whose live version asks for instances.
	kept map[wire.FunctionID]struct{}
	// triggered names the functions whose live version has triggers.
	triggered map[wire.FunctionID]struct{}
	revision  uint64
	changed   chan struct{} // closed and replaced at every change
}

// NewCache makes a cache of a registry.
func NewCache(r *Registry, log *slog.Logger) *Cache {
	return &Cache{
		registry: r, log: log,
		functions: map[wire.FunctionID]functions.Function{},
		versions:  map[wire.VersionID]functions.Version{},
		kept:      map[wire.FunctionID]struct{}{},
		triggered: map[wire.FunctionID]struct{}{},
		changed:   make(chan struct{}),
	}
}

// Start fills the cache and returns when it is whole. ctx bounds only the filling.
func (c *Cache) Start(ctx context.Context) error {
	runCtx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	ready := make(chan struct{})
	stop, err := c.registry.bucket.Watch(runCtx, c.apply, sync.OnceFunc(func() { close(ready) }))
	if err != nil {
		cancel()
		return unavailable(err)
	}
	c.stop, c.cancel = stop, cancel
	select {
	case <-ready:
		return nil
	case <-ctx.Done():
		return errors.Join(fmt.Errorf("read the registry: %w", ctx.Err()), c.Stop(ctx))
	}
}

// Stop ends the watcher.
func (c *Cache) Stop(context.Context) error {
	if c.stop != nil {
		c.stop()
		c.cancel()
		c.stop = nil
	}
	return nil
}

func (c *Cache) apply(e bus.Entry) {
	id, number, err := wire.ParseFunctionKey(e.Key)
	if err != nil {
		c.log.Warn("registry has a key that is none of ours", "key", e.Key)
		return
	}
	var f functions.Function
	var v functions.Version
	if !e.Deleted {
		if number == 0 {
			f, err = decodeFunction(e)
		} else {
			v, err = decodeVersion(e)
		}
		if err != nil {
			c.log.Error("registry entry left out", "error", err)
			return
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case number > 0 && e.Deleted:
		delete(c.versions, wire.VersionID{FunctionID: id, Number: number})
	case number > 0:
		c.versions[v.VersionID] = v
	case e.Deleted || f.Deleted:
		delete(c.functions, id)
	default:
		c.functions[id] = f
	}
	live, ok := c.live(id)
	mark(c.kept, id, ok && live.Spec.MinInstances > 0)
	mark(c.triggered, id, ok && len(live.Spec.Triggers) > 0)
	c.revision = e.Revision
	close(c.changed)
	c.changed = make(chan struct{})
}

// live returns the version that a function's live alias names, if it is here; c.mu
// is held.
func (c *Cache) live(id wire.FunctionID) (v functions.Version, ok bool) {
	alias, ok := c.functions[id].Aliases[wire.LiveAlias]
	if !ok {
		return v, false
	}
	v, ok = c.versions[wire.VersionID{FunctionID: id, Number: alias.Version}]
	return v, ok
}

// mark puts an ID into a set or takes it out.
func mark(set map[wire.FunctionID]struct{}, id wire.FunctionID, in bool) {
	if in {
		set[id] = struct{}{}
	} else {
		delete(set, id)
	}
}

// Kept returns the live versions that ask for instances to be kept, in no order, and
// a channel that is closed at the next change of anything. What the versions hold is
// the cache's own and must not be changed.
func (c *Cache) Kept() (versions []functions.Version, changed <-chan struct{}) {
	return c.liveOf(c.kept)
}

// Triggered is [Cache.Kept] for the live versions that have triggers.
func (c *Cache) Triggered() (versions []functions.Version, changed <-chan struct{}) {
	return c.liveOf(c.triggered)
}

// liveOf returns the live versions of a set, which is one of c's.
func (c *Cache) liveOf(set map[wire.FunctionID]struct{}) (versions []functions.Version, changed <-chan struct{}) {
	c.mu.RLock()
	defer c.mu.RUnlock()
	versions = make([]functions.Version, 0, len(set))
	for id := range set {
		if v, ok := c.live(id); ok {
			versions = append(versions, v)
		}
	}
	return versions, c.changed
}

// Await returns when the cache has seen a revision, so that who wrote it can read
// it back here.
func (c *Cache) Await(ctx context.Context, revision uint64) error {
	for {
		c.mu.RLock()
		seen, changed := c.revision, c.changed
		c.mu.RUnlock()
		if seen >= revision {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			e := wire.Errorf(wire.CodeUnavailable, "the change is made but not seen here yet: %s", context.Cause(ctx))
			e.Retryable = false // it must not be made twice
			return e
		}
	}
}

// Resolve returns the function and the version that a reference means; a missing
// one is not_found.
func (c *Cache) Resolve(ref wire.Ref) (functions.Function, functions.Version, error) {
	c.mu.RLock()
	defer c.mu.RUnlock()
	f, ok := c.functions[ref.FunctionID]
	if !ok {
		return functions.Function{}, functions.Version{}, wire.Errorf(wire.CodeNotFound,
			"there is no function %s; `dayfly list` shows those that are deployed", ref.FunctionID)
	}
	number, err := f.Resolve(ref.Qualifier)
	if err != nil {
		return functions.Function{}, functions.Version{}, err
	}
	v, ok := c.versions[wire.VersionID{FunctionID: f.FunctionID, Number: number}]
	if !ok {
		return functions.Function{}, functions.Version{}, wire.Errorf(wire.CodeNotFound, "function %s has no version %d", f.FunctionID, number)
	}
	return f, v, nil
}

// List returns the functions of a namespace, or all for an empty one, by name.
func (c *Cache) List(namespace string) []functions.Function {
	c.mu.RLock()
	list := make([]functions.Function, 0, len(c.functions))
	for _, f := range c.functions {
		if namespace == "" || f.Namespace == namespace {
			list = append(list, f)
		}
	}
	c.mu.RUnlock()
	slices.SortFunc(list, func(a, b functions.Function) int {
		if n := strings.Compare(a.Namespace, b.Namespace); n != 0 {
			return n
		}
		return strings.Compare(a.Name, b.Name)
	})
	return list
}
