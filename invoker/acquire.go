package invoker

import (
	"context"
	"errors"
	"time"

	"github.com/dayfly-run/dayfly/functions"
	"github.com/dayfly-run/dayfly/internal/telemetry"
	"github.com/dayfly-run/dayfly/invoker/pool"
	"github.com/dayfly-run/dayfly/runtimes"
	"github.com/dayfly-run/dayfly/wire"
)

// want is what a new instance is started for.
type want struct {
	version functions.Version
	runtime runtimes.Runtime
	begun   time.Time
	// call has the instance first; empty: it is started before anybody calls it.
	call  wire.InvocationID
	lease wire.LeaseID
	// evicts says that idle instances may go for it.
	evicts bool
	// counted is called, with inv.mu held, when the pool counts the instance.
	counted func()
}

func (w want) shape() pool.Shape {
	return pool.Shape{
		Needs: w.version.Spec.Needs(), Slots: w.version.Spec.Concurrency,
		Once: w.version.Spec.Isolation == functions.IsolationInvocation,
	}
}

// slotWait is how the calls of one version that wait for a container hear of a warm
// instance.
type slotWait struct {
	calls int
	freed chan struct{} // holds one
}

// acquire gives the call an instance that is busy with it: a warm one, or with a
// lease a new one.
func (inv *Invoker) acquire(ctx context.Context, req wire.InvokeRequest) (in *instance, cold bool, err error) {
	defer inv.settle(req.Lease)
	inv.mu.Lock()
	if !inv.leavesLocked(req.Version) {
		if in := inv.takeLocked(req.Version); in != nil {
			inv.mu.Unlock()
			return in, false, nil
		}
	}
	draining, stale := inv.draining, inv.outdated(req.Epoch)
	inv.mu.Unlock()
	switch {
	case draining:
		return nil, false, inv.drains()
	case req.Lease == "":
		return nil, false, wire.Errorf(wire.CodeNoInstance, "node %s has no free instance", inv.cfg.Node)
	case stale:
		return nil, false, wire.Errorf(wire.CodeUnavailable, "the lease is from a scheduler that no longer leads")
	}
	return inv.startForCall(ctx, req)
}

// outdated says whether an epoch is that of a scheduler which no longer leads, and
// remembers it; inv.mu is held.
func (inv *Invoker) outdated(epoch uint64) bool {
	stale := epoch < inv.epoch
	inv.epoch = max(inv.epoch, epoch)
	return stale
}

// takeLocked returns a warm instance that is busy with the call from now on, or nil;
// inv.mu is held.
func (inv *Invoker) takeLocked(v wire.VersionID) *instance {
	id, ok := inv.pool.Take(v, time.Now())
	if !ok {
		return nil
	}
	return inv.instances[id]
}

// startForCall starts an instance for a call. A warm one that becomes free before a
// container is ready is quicker.
func (inv *Invoker) startForCall(ctx context.Context, req wire.InvokeRequest) (in *instance, cold bool, err error) {
	w, err := inv.wantFor(ctx, req.Version, inv.versions.forCall)
	if err != nil {
		return nil, false, err
	}
	w.call, w.lease, w.evicts = req.Invocation, req.Lease, true
	r := inv.awaitSlot(req.Version)
	defer inv.leaveSlot(req.Version)
	in, warm, err := inv.startInstance(ctx, w, r)
	return in, !warm, err
}

// awaitSlot counts a call as waiting and returns how it hears of a warm instance.
func (inv *Invoker) awaitSlot(v wire.VersionID) rival {
	inv.mu.Lock()
	defer inv.mu.Unlock()
	wait := inv.waits[v]
	if wait == nil {
		wait = &slotWait{freed: make(chan struct{}, 1)}
		inv.waits[v] = wait
	}
	wait.calls++
	return rival{freed: wait.freed, take: func() *instance {
		inv.mu.Lock()
		defer inv.mu.Unlock()
		in := inv.takeLocked(v)
		if in != nil {
			inv.signalSlot(v) // there may be more, for the next one
		}
		return in
	}}
}

func (inv *Invoker) leaveSlot(v wire.VersionID) {
	inv.mu.Lock()
	defer inv.mu.Unlock()
	if wait := inv.waits[v]; wait.calls > 1 {
		wait.calls--
		return
	}
	delete(inv.waits, v)
}

// signalSlot tells one call that waits for a container that there may be a warm
// instance; inv.mu is held.
func (inv *Invoker) signalSlot(v wire.VersionID) {
	if wait := inv.waits[v]; wait != nil {
		select {
		case wait.freed <- struct{}{}:
		default:
		}
	}
}

// wantFor is what an instance of a version is, which find knows.
func (inv *Invoker) wantFor(ctx context.Context, id wire.VersionID, find func(context.Context, wire.VersionID) (functions.Version, error)) (want, error) {
	begun := time.Now()
	v, err := find(ctx, id)
	if err != nil {
		return want{}, err
	}
	rt, ok := runtimes.Of(v.Spec.Runtime, v.Code)
	if err := inv.checkImage(v); err != nil {
		return want{}, err
	}
	if !ok {
		return want{}, wire.Errorf(wire.CodeInvalid, "runtime %q is not known to node %s; upgrade the node", v.Spec.Runtime, inv.cfg.Node)
	}
	return want{version: v, runtime: rt, begun: begun, counted: func() {}}, nil
}

// startInstance makes an instance: a stem is bound to the version. One that dies on
// the way is replaced. When a rival is quicker, it is returned and warm is true.
func (inv *Invoker) startInstance(ctx context.Context, w want, r rival) (in *instance, warm bool, err error) {
	log := inv.log.With(telemetry.KeyFunction, w.version.String())
	if w.call != "" {
		log = log.With(telemetry.KeyInvocation, string(w.call))
	}
	// An image is fetched before its stem's turn, which is not for waiting.
	_, release, err := inv.roots.hold(ctx, w.runtime)
	if err != nil {
		return nil, false, err
	}
	defer release()
	for range deliveries {
		if in, warm, err = inv.stems.get(ctx, w.runtime, w.version.Spec.Network, r); err != nil || warm {
			return in, warm, err
		}
		if err = inv.adopt(ctx, in, w); !errors.Is(err, errStemEnded) {
			break
		}
		log.Warn("a container died before it had its function; trying another", telemetry.KeyInstance, string(in.id))
	}
	if err != nil {
		return nil, false, err
	}
	inv.report()
	inv.watchers.Go(func() { inv.retireWhenEnded(in) })
	if in.hasSecretFiles() {
		inv.watchers.Go(func() { inv.followSecrets(in) })
	}
	inv.metrics.started(in.version.Spec.Runtime, in.initTook)
	log.Info("instance started", telemetry.KeyInstance, string(in.id), "took", in.initTook)
	return in, false, nil
}

// adopt reserves what an instance needs, binds the stem to the version and makes it
// busy with the call, or warm where there is none. On error nothing is left of it.
func (inv *Invoker) adopt(ctx context.Context, in *instance, w want) error {
	if err := inv.reserve(ctx, in.id, w); err != nil {
		inv.stems.putBack(in, w.runtime, w.version.Spec.Network)
		return err
	}
	inv.report()
	err := inv.bindCode(ctx, in, w.version, w.call)
	if err == nil {
		in.initTook = time.Since(w.begun)
		to := pool.Busy
		if w.call == "" {
			to = pool.Warm
		}
		inv.mu.Lock()
		inv.instances[in.id] = in
		inv.pool.Measured(in.id, in.initTook)
		err = inv.pool.Move(in.id, to, time.Now())
		inv.signalSlot(w.version.VersionID)
		inv.mu.Unlock()
	}
	if err != nil {
		inv.stems.discard(in)
		if in.releaseCode != nil {
			in.releaseCode()
		}
		inv.forget(in.id)
	}
	return err
}

// bindCode binds a stem to code that stays in the cache as long as it runs.
func (inv *Invoker) bindCode(ctx context.Context, in *instance, v functions.Version, first wire.InvocationID) (err error) {
	if v.Image != nil {
		in.releaseCode = func() {} // its root is its code
		return in.bind(ctx, v, "", first)
	}
	dir, release, err := inv.codes.hold(ctx, v.Code)
	if err != nil {
		return err
	}
	in.releaseCode = release
	return in.bind(ctx, v, dir, first)
}

// reserve enters a new instance into the pool, evicting idle ones where it must and
// may. At the same moment the lease is settled: no word of the node has both or none.
func (inv *Invoker) reserve(ctx context.Context, id wire.InstanceID, w want) error {
	add := inv.pool.Add
	if w.call == "" {
		add = inv.pool.AddAhead
	}
	shape := w.shape()
	for {
		now := time.Now()
		inv.mu.Lock()
		err := add(id, w.version.VersionID, shape, now)
		if !errors.Is(err, pool.ErrNoRoom) {
			inv.settleLocked(w.lease)
			w.counted()
			inv.mu.Unlock()
			return err
		}
		if !w.evicts {
			inv.mu.Unlock()
			return err
		}
		victims, ok := inv.pool.Evictable(shape.Needs, now)
		evicted := make([]*instance, 0, len(victims))
		for _, victim := range victims {
			if in := inv.instances[victim]; inv.withdrawLocked(in, goneMemory) {
				evicted = append(evicted, in)
			}
		}
		freed := inv.freed
		inv.mu.Unlock()
		if !ok {
			return wire.Errorf(wire.CodeNoCapacity, "node %s has no room for %d MiB and %d.%03d cores",
				inv.cfg.Node, shape.Needs.MemoryBytes>>20, shape.Needs.CPUMillis/1000, shape.Needs.CPUMillis%1000)
		}
		for _, in := range evicted {
			go inv.remove(in)
		}
		select { // those that are being removed make the room
		case <-freed:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}
