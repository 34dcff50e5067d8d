package invoker

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/singleflight"

	"github.com/dayfly-run/dayfly/internal/telemetry"
	"github.com/dayfly-run/dayfly/invoker/sandbox"
	"github.com/dayfly-run/dayfly/runtimes"
	"github.com/dayfly-run/dayfly/wire"
)

const (
	// maxSpareRoots and maxSpareRootBytes bound the root file systems on a node that
	// no container uses: users' images, and runtimes' that were replaced.
	maxSpareRoots     = 16
	maxSpareRootBytes = 16 << 30
	// rootBound limits fetching and unpacking one root file system.
	rootBound = 10 * time.Minute
)

// Roots knows the root file systems of the cluster. It is safe for concurrent use.
type Roots interface {
	// Current returns the root that containers of a runtime are made of from now on.
	Current(ctx context.Context, rt runtimes.Runtime) (sandbox.Root, error)
	// Image returns the root of a user's image.
	Image(d wire.Digest) sandbox.Root
	// Watch calls changed when Current may answer otherwise, one call at a time, until
	// stop is called.
	Watch(ctx context.Context, changed func()) (stop func(), err error)
}

// rootID names a root on the node.
type rootID struct {
	name   string
	digest wire.Digest
}

func idOf(r sandbox.Root) rootID { return rootID{r.Name, r.Digest} }

func (id rootID) String() string { return id.name + ":" + string(id.digest) }

// storedRoot is a root that is on the node, or on its way.
type storedRoot struct {
	id      rootID
	ready   bool
	holders int
	used    time.Time // last held or released
	bytes   int64     // 0 when it is not known
}

// rootCache keeps the root file systems that a node has. Safe for concurrent use.
type rootCache struct {
	sandbox sandbox.Sandbox
	source  Roots
	log     *slog.Logger
	flight  singleflight.Group // fetching and removing, by root
	ctx     context.Context    // of fetches, which no single caller owns
	loads   sync.WaitGroup
	changes chan struct{} // the cluster's roots are others

	mu      sync.Mutex // guards what follows
	current map[string]sandbox.Root
	roots   map[rootID]*storedRoot
}

// newRootCache makes a cache that fetches until ctx is done.
func newRootCache(ctx context.Context, s sandbox.Sandbox, source Roots, log *slog.Logger) *rootCache {
	return &rootCache{
		sandbox: s, source: source, log: log, ctx: ctx,
		changes: make(chan struct{}, 1),
		current: map[string]sandbox.Root{}, roots: map[rootID]*storedRoot{},
	}
}

// open takes over what an earlier run left, and makes the runtimes' roots ready.
func (c *rootCache) open(ctx context.Context) error {
	if err := c.adopt(ctx); err != nil {
		return err
	}
	for _, rt := range withRoots() {
		root, err := c.source.Current(ctx, rt)
		if err == nil {
			err = c.sandbox.EnsureRoot(ctx, root)
		}
		if err != nil {
			return fmt.Errorf("prepare runtime %s: %w", rt.Name, err)
		}
		c.setCurrent(rt, root)
	}
	return nil
}

// adopt learns which roots are there.
func (c *rootCache) adopt(ctx context.Context) error {
	there, err := c.sandbox.Roots(ctx)
	if err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, r := range there {
		held := c.entry(r.Root)
		held.ready, held.bytes = true, r.Bytes
	}
	return nil
}

// withRoots returns one runtime for each root.
func withRoots() []runtimes.Runtime {
	seen := map[string]bool{}
	return slices.DeleteFunc(runtimes.All(), func(rt runtimes.Runtime) bool {
		twice := seen[rt.Root()]
		seen[rt.Root()] = true
		return twice
	})
}

// entry returns what is known of a root; c.mu is held.
func (c *rootCache) entry(r sandbox.Root) *storedRoot {
	held := c.roots[idOf(r)]
	if held == nil {
		held = &storedRoot{id: idOf(r)}
		c.roots[held.id] = held
	}
	return held
}

// setCurrent makes a root that is there the one of a runtime's new containers.
func (c *rootCache) setCurrent(rt runtimes.Runtime, root sandbox.Root) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.current[rt.Root()] = root
	held := c.entry(root)
	held.ready, held.used = true, time.Now()
}

// of returns the root of a runtime's new containers.
func (c *rootCache) of(rt runtimes.Runtime) sandbox.Root {
	if d, ok := rt.Image(); ok {
		return c.source.Image(d)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.current[rt.Root()]
}

// outdated says whether a runtime has another root by now.
func (c *rootCache) outdated(rt runtimes.Runtime, root sandbox.Root) bool {
	return idOf(c.of(rt)) != idOf(root)
}

// hold returns the root of a runtime's new containers, fetching it when it is not
// there, and keeps it there until release is called. Any number of calls fetch it
// once; the fetch goes on for the others when one caller gives up.
func (c *rootCache) hold(ctx context.Context, rt runtimes.Runtime) (root sandbox.Root, release func(), err error) {
	root = c.of(rt)
	c.mu.Lock()
	held := c.entry(root)
	held.holders++
	held.used = time.Now()
	c.mu.Unlock()
	wanted, release := root, sync.OnceFunc(func() { c.release(held) })
	for range holdAttempts {
		if c.isReady(held) {
			return root, release, nil
		}
		fetched := make(chan error, 1)
		done := c.pinned(held) // also when the caller gives up
		c.loads.Go(func() {
			_, err, _ := c.flight.Do(held.id.String(), func() (any, error) { return nil, c.fetch(held, wanted) })
			done()
			fetched <- err
			c.shrink() // outside of the flight: it may wait for others
		})
		select {
		case err = <-fetched: // or it was the removal that was under way
		case <-ctx.Done():
			err = context.Cause(ctx)
		}
		if err != nil {
			break
		}
	}
	if err == nil && c.isReady(held) {
		return root, release, nil
	}
	release()
	if err == nil {
		err = wire.Errorf(wire.CodeUnavailable, "the root file system %s is removed from the node as fast as it is fetched", root.Name)
	}
	return sandbox.Root{}, nil, err
}

func (c *rootCache) isReady(held *storedRoot) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return held.ready
}

func (c *rootCache) release(held *storedRoot) {
	c.mu.Lock()
	defer c.mu.Unlock()
	held.holders--
	held.used = time.Now()
	if held.holders == 0 && !held.ready {
		delete(c.roots, held.id)
	}
}

// pinned holds a root once more, until release is called.
func (c *rootCache) pinned(held *storedRoot) (release func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	held.holders++
	return sync.OnceFunc(func() { c.release(held) })
}

// fetch makes a root ready.
func (c *rootCache) fetch(held *storedRoot, root sandbox.Root) error {
	if c.isReady(held) {
		return nil // another fetch ended since the caller looked
	}
	ctx, cancel := context.WithTimeout(c.ctx, rootBound)
	defer cancel()
	begun := time.Now()
	if err := c.sandbox.EnsureRoot(ctx, root); err != nil {
		return fmt.Errorf("prepare root file system %s: %w", root.Name, err)
	}
	c.mu.Lock()
	held.ready = true
	c.mu.Unlock()
	c.log.Info("root file system fetched", "root", root.Name, "digest", string(root.Digest), "took", time.Since(begun).Round(time.Millisecond))
	return nil
}

// lost notes that a root is not there any more, whoever removed it.
func (c *rootCache) lost(root sandbox.Root) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.entry(root).ready = false
}

// images lists the digests of users' images that are there, in order.
func (c *rootCache) images() []wire.Digest {
	c.mu.Lock()
	defer c.mu.Unlock()
	var list []wire.Digest
	for id, held := range c.roots {
		if id.name == runtimes.ImageName && held.ready {
			list = append(list, id.digest)
		}
	}
	slices.Sort(list)
	return list
}

// shrink keeps what nobody uses within its bounds, least recently used first.
func (c *rootCache) shrink() {
	for c.ctx.Err() == nil {
		victim := c.victim()
		if victim == nil {
			return
		}
		_, err, _ := c.flight.Do(victim.id.String(), func() (any, error) { return nil, c.remove(victim) })
		if err != nil {
			c.log.Warn("root file system not removed", "root", victim.id.name, telemetry.KeyError, err)
			return
		}
	}
}

// victim returns the root to remove next, or nil when all may stay.
func (c *rootCache) victim() *storedRoot {
	c.mu.Lock()
	defer c.mu.Unlock()
	var spare []*storedRoot
	var bytes int64
	for id, held := range c.roots {
		if held.ready && held.holders == 0 && idOf(c.current[id.name]) != id {
			spare = append(spare, held)
			bytes += held.bytes
		}
	}
	if len(spare) <= maxSpareRoots && bytes <= maxSpareRootBytes {
		return nil
	}
	return slices.MinFunc(spare, func(a, b *storedRoot) int {
		return cmp.Or(a.used.Compare(b.used), cmp.Compare(a.id.digest, b.id.digest))
	})
}

// remove removes a root unless somebody holds it by now. One that another node on the
// same engine uses stays, and is not thought of again.
func (c *rootCache) remove(held *storedRoot) error {
	c.mu.Lock()
	if held.holders > 0 {
		c.mu.Unlock()
		return nil
	}
	held.ready = false
	delete(c.roots, held.id)
	c.mu.Unlock()
	err := c.sandbox.RemoveRoot(c.ctx, sandbox.Root{Name: held.id.name, Digest: held.id.digest})
	if errors.Is(err, sandbox.ErrRootInUse) {
		return nil
	}
	return err
}

// pin keeps a root that is there until release is called.
func (c *rootCache) pin(root sandbox.Root) (release func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	held := c.entry(root)
	held.ready = true
	held.holders++
	return sync.OnceFunc(func() { c.release(held) })
}

// watch notes changes of the cluster's roots for [rootCache.run].
func (c *rootCache) watch() (stop func(), err error) {
	return c.source.Watch(c.ctx, func() {
		select {
		case c.changes <- struct{}{}:
		default:
		}
	})
}

// run makes the node use what the cluster's roots have become, until its context is
// done, and waits for fetches under way.
func (c *rootCache) run(s *stems) {
	for {
		select {
		case <-c.changes:
			for _, rt := range withRoots() {
				if err := c.renew(s, rt); err != nil && c.ctx.Err() == nil {
					c.log.Warn("a runtime's new root file system is not used; rebuild it", "root", rt.Root(), telemetry.KeyError, err)
				}
			}
			c.shrink()
		case <-c.ctx.Done():
			c.loads.Wait()
			return
		}
	}
}

// renew brings a root into use that was made anew, once a stem has started on it.
func (c *rootCache) renew(s *stems, rt runtimes.Runtime) error {
	ctx, cancel := context.WithTimeout(c.ctx, rootBound)
	defer cancel()
	root, err := c.source.Current(ctx, rt)
	if err != nil || !c.outdated(rt, root) {
		return err
	}
	if err := c.sandbox.EnsureRoot(ctx, root); err != nil {
		return err
	}
	in, err := s.launch.stemOn(ctx, newInstanceID(), rt, s.cfg.Network, root, c.pin(root))
	if err != nil {
		return err
	}
	c.setCurrent(rt, root)
	c.log.Info("new containers have a new root file system", "root", root.Name, "digest", string(root.Digest))
	s.putBack(in, rt, s.cfg.Network)
	s.prune() // those on the old one
	return nil
}
