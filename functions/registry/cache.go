package registry

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"reflect"
	"slices"
	"strings"
	"sync"
	"time"

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
	// kept names the functions of which a live version asks for instances.
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
		c.versions[v.VersionID] = c.sharing(v)
	case e.Deleted || f.Deleted:
		delete(c.functions, id)
	default:
		c.functions[id] = f
	}
	live := c.live(id)
	mark(c.kept, id, slices.ContainsFunc(live, keeps))
	mark(c.triggered, id, len(live) > 0 && triggered(live[0]))
	c.revision = e.Revision
	close(c.changed)
	c.changed = make(chan struct{})
}

// sharing returns a version that has in common with the one before it what is the same:
// most deploys change the code only, and a function may have many versions. c.mu is held.
func (c *Cache) sharing(v functions.Version) functions.Version {
	before, ok := c.versions[wire.VersionID{FunctionID: v.FunctionID, Number: v.Number - 1}]
	if !ok {
		return v
	}
	v.FunctionID = before.FunctionID
	if reflect.DeepEqual(v.Spec, before.Spec) {
		v.Spec = before.Spec
	}
	return v
}

// live returns the versions that a function's live alias sends calls to, as far as they
// are here, the main one first; c.mu is held.
func (c *Cache) live(id wire.FunctionID) []functions.Version {
	alias, ok := c.functions[id].Aliases[wire.LiveAlias]
	if !ok {
		return nil
	}
	var live []functions.Version
	for _, number := range alias.Versions() {
		v, ok := c.versions[wire.VersionID{FunctionID: id, Number: number}]
		if ok {
			live = append(live, v)
		} else if number == alias.Version {
			return nil
		}
	}
	return live
}

func keeps(v functions.Version) bool     { return v.Spec.MinInstances > 0 }
func triggered(v functions.Version) bool { return len(v.Spec.Triggers) > 0 }

// mark puts an ID into a set or takes it out.
func mark(set map[wire.FunctionID]struct{}, id wire.FunctionID, in bool) {
	if in {
		set[id] = struct{}{}
	} else {
		delete(set, id)
	}
}

// Kept returns the live versions that ask for instances to be kept, in no order, and
// a channel that is closed at the next change of anything. Where live is split, both
// parts count. What the versions hold is the cache's own and must not be changed.
func (c *Cache) Kept() (versions []functions.Version, changed <-chan struct{}) {
	c.mu.RLock()
	defer c.mu.RUnlock()
	versions = make([]functions.Version, 0, len(c.kept))
	for id := range c.kept {
		for _, v := range c.live(id) {
			if keeps(v) {
				versions = append(versions, v)
			}
		}
	}
	return versions, c.changed
}

// Triggered is [Cache.Kept] for the live versions that have triggers. Where live is
// split, its main version's count.
func (c *Cache) Triggered() (versions []functions.Version, changed <-chan struct{}) {
	c.mu.RLock()
	defer c.mu.RUnlock()
	versions = make([]functions.Version, 0, len(c.triggered))
	for id := range c.triggered {
		if live := c.live(id); len(live) > 0 {
			versions = append(versions, live[0])
		}
	}
	return versions, c.changed
}

// Versions returns a function and its versions, the newest first; a missing function is
// not_found.
func (c *Cache) Versions(id wire.FunctionID) (functions.Function, []functions.Version, error) {
	c.mu.RLock()
	defer c.mu.RUnlock()
	f, err := c.function(id)
	if err != nil {
		return f, nil, err
	}
	list := make([]functions.Version, 0, len(f.Versions))
	for _, number := range slices.Backward(f.Versions) {
		if v, ok := c.versions[wire.VersionID{FunctionID: id, Number: number}]; ok {
			list = append(list, v)
		}
	}
	return f, list, nil
}

// function returns a function that is there; c.mu is held.
func (c *Cache) function(id wire.FunctionID) (functions.Function, error) {
	f, ok := c.functions[id]
	if !ok {
		return f, wire.Errorf(wire.CodeNotFound, "there is no function %s; `dayfly list` shows those that are deployed", id)
	}
	return f, nil
}

// awaitBound limits [Cache.Await]: a watcher whose server is lost is back by then.
const awaitBound = 15 * time.Second

var errBehind = errors.New("this process is behind the registry; see its log")

// Await returns when the cache has seen a revision, so that who wrote it can read
// it back here, or with unavailable when that takes too long.
func (c *Cache) Await(ctx context.Context, revision uint64) error {
	ctx, cancel := context.WithTimeoutCause(ctx, awaitBound, errBehind)
	defer cancel()
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

// Resolve returns the function and the version that a reference means, by a draw where
// its alias splits its calls: see [functions.Function.Resolve]. A missing one is
// not_found.
func (c *Cache) Resolve(ref wire.Ref, draw int) (functions.Function, functions.Version, error) {
	c.mu.RLock()
	defer c.mu.RUnlock()
	f, err := c.function(ref.FunctionID)
	if err != nil {
		return functions.Function{}, functions.Version{}, err
	}
	number, err := f.Resolve(ref.Qualifier, draw)
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
