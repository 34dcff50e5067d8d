package invoker

import (
	"encoding/json"
	"errors"
	"slices"
	"time"

	"github.com/dayfly-run/dayfly/internal/bus"
	"github.com/dayfly-run/dayfly/internal/telemetry"
	"github.com/dayfly-run/dayfly/invoker/pool"
	"github.com/dayfly-run/dayfly/wire"
)

const (
	// tendEvery is how often idle and kept instances are looked after at most, and
	// tendSoonest at least.
	tendEvery   = time.Second
	tendSoonest = 10 * time.Millisecond
	// maxAheadStarts bounds the instances that are started at once for no call: calls
	// come first.
	maxAheadStarts = 2
	// maxDue bounds the versions that wait to be started ahead of their next call.
	maxDue = 256
	// keepBackoffFirst and keepBackoffLast bound the pause after an instance to keep
	// did not start.
	keepBackoffFirst = time.Second
	keepBackoffLast  = time.Minute
)

// Why an instance is started before a call.
const (
	aheadKept   = "kept"
	aheadRhythm = "rhythm"
)

// keeping is what the node was told to keep of one version. How many is in the pool.
type keeping struct {
	starting int            // and not in the pool yet
	leases   []wire.LeaseID // for instances that are not in the pool yet
	backoff  time.Duration
	notUntil time.Time
}

// control answers one command of the leading scheduler.
func (inv *Invoker) control(m bus.Msg) {
	var req wire.KeepRequest
	var reply wire.KeepReply
	if err := json.Unmarshal(m.Data, &req); err != nil {
		reply.Error = wire.Errorf(wire.CodeInternal, "node %s: malformed command: %s", inv.cfg.Node, err)
	} else if err := inv.keep(req); err != nil {
		reply.Error = err
		inv.log.Warn("command refused", telemetry.KeyFunction, req.Version.String(), telemetry.KeyError, err)
	}
	data, err := json.Marshal(reply)
	if err == nil {
		err = m.Respond(data)
	}
	if err != nil {
		inv.log.Error("answer lost", telemetry.KeyError, err)
	}
}

// keep notes how many instances of a version to hold from now on.
func (inv *Invoker) keep(req wire.KeepRequest) *wire.Error {
	inv.mu.Lock()
	defer inv.mu.Unlock()
	switch {
	case inv.outdated(req.Epoch):
		inv.settleLocked(req.Lease)
		return wire.Errorf(wire.CodeUnavailable, "the command is from a scheduler that no longer leads")
	case !inv.contact.holds(time.Now()):
		inv.settleLocked(req.Lease)
		return inv.outOfTouch()
	case inv.stopping, inv.draining && req.Count > inv.pool.Kept(req.Version):
		inv.settleLocked(req.Lease)
		return inv.drains()
	case req.Count < 0 || req.Count > inv.cfg.Capacity.Instances:
		inv.settleLocked(req.Lease)
		return wire.Errorf(wire.CodeInvalid, "node %s cannot keep %d instances; it has room for %d", inv.cfg.Node, req.Count, inv.cfg.Capacity.Instances)
	}
	k := inv.kept[req.Version]
	if k == nil {
		k = &keeping{}
		inv.kept[req.Version] = k
	}
	inv.pool.Keep(req.Version, req.Count)
	if req.Lease != "" {
		k.leases = append(k.leases, req.Lease)
	}
	k.notUntil, k.backoff = time.Time{}, 0 // the scheduler may know better
	inv.settleSurplus(req.Version, k)
	if req.Count == 0 {
		delete(inv.kept, req.Version)
	}
	inv.tendSoon()
	inv.report()
	return nil
}

// settleSurplus settles the leases for which no instance will be started; inv.mu is
// held.
func (inv *Invoker) settleSurplus(v wire.VersionID, k *keeping) {
	for missing := inv.pool.Missing(v); len(k.leases)+k.starting > missing && len(k.leases) > 0; k.leases = k.leases[1:] {
		inv.settleLocked(k.leases[0])
	}
}

// keepNothing forgets all that was to be kept; inv.mu is held.
func (inv *Invoker) keepNothing() {
	for v, k := range inv.kept {
		inv.pool.Keep(v, 0)
		inv.settleSurplus(v, k)
	}
	clear(inv.kept)
}

// tendSoon asks for a look at what is idle and kept.
func (inv *Invoker) tendSoon() {
	select {
	case inv.tending <- struct{}{}:
	default:
	}
}

// tendLoop removes instances that nobody used for the idle limit, starts those that
// are to be kept, and those that a call is expected for.
func (inv *Invoker) tendLoop() {
	var due []wire.VersionID
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-inv.ctx.Done():
			return
		case <-inv.tending:
		case <-timer.C:
		}
		inv.expire()
		inv.startMissing()
		due = inv.startDue(due)
		timer.Reset(inv.untilTend())
	}
}

// untilTend returns how long nothing will have to be done, unless something happens.
func (inv *Invoker) untilTend() time.Duration {
	wait := min(tendEvery, inv.cfg.IdleLimit/10)
	now := time.Now()
	inv.mu.Lock()
	defer inv.mu.Unlock()
	if at, ok := inv.pool.NextDue(now); ok {
		wait = min(wait, at.Sub(now))
	}
	return max(wait, tendSoonest)
}

// expire removes instances that nobody used for the idle limit, or all that are idle and
// not kept while the node drains.
func (inv *Invoker) expire() {
	inv.mu.Lock()
	defer inv.mu.Unlock()
	ids, why := inv.pool.Expired(time.Now()), goneIdle
	if inv.draining {
		ids, why = inv.pool.Spare(), goneDrained
	}
	for _, id := range ids {
		if in := inv.instances[id]; inv.withdrawLocked(in, why) {
			go inv.remove(in)
		}
	}
}

// startMissing starts what lacks of the instances to keep, as far as may be at once.
func (inv *Invoker) startMissing() {
	now := time.Now()
	inv.mu.Lock()
	defer inv.mu.Unlock()
	for v, k := range inv.kept {
		for inv.pool.Missing(v) > k.starting && !now.Before(k.notUntil) && !inv.draining {
			if !inv.beginAhead() {
				return // the one that ends comes here again
			}
			k.starting++
			var lease wire.LeaseID
			if len(k.leases) > 0 {
				lease, k.leases = k.leases[0], k.leases[1:]
			}
			inv.loops.Go(func() { inv.startKept(v, k, lease) })
		}
	}
}

// startDue starts instances of the versions that a call is expected for soon, where
// there is room, and returns those whose turn has not come.
func (inv *Invoker) startDue(due []wire.VersionID) []wire.VersionID {
	inv.mu.Lock()
	defer inv.mu.Unlock()
	due = append(due, inv.pool.Due(time.Now())...)
	due = due[:min(len(due), maxDue)]
	due = slices.DeleteFunc(due, inv.pool.Lives) // a call was quicker
	for len(due) > 0 && !inv.draining && inv.beginAhead() {
		v := due[0]
		due = due[1:]
		inv.loops.Go(func() { inv.startAhead(v) })
	}
	return due
}

// beginAhead reports whether one more instance may be started for no call; endAhead
// ends that.
func (inv *Invoker) beginAhead() bool {
	select {
	case inv.aheads <- struct{}{}:
		return true
	default:
		return false
	}
}

func (inv *Invoker) endAhead() {
	<-inv.aheads
	inv.tendSoon()
}

// startKept starts one instance of a version that the node was told to keep.
func (inv *Invoker) startKept(v wire.VersionID, k *keeping, lease wire.LeaseID) {
	defer inv.endAhead()
	counted := false
	count := func() {
		if !counted {
			k.starting--
		}
		counted = true
	}
	w, err := inv.wantFor(inv.ctx, v, inv.versions.ask)
	if err == nil {
		w.lease, w.evicts, w.counted = lease, true, count
		_, _, err = inv.startInstance(inv.ctx, w, rival{})
	}
	inv.observeAhead(v, aheadKept, err)
	inv.mu.Lock()
	defer inv.mu.Unlock()
	count()
	inv.settleLocked(lease)
	switch {
	case err == nil:
		k.backoff = 0
	case wire.HasCode(err, wire.CodeNotFound) && inv.kept[v] == k: // it was deleted
		inv.pool.Keep(v, 0)
		inv.settleSurplus(v, k)
		delete(inv.kept, v)
		inv.report()
	default:
		k.backoff = min(max(2*k.backoff, keepBackoffFirst), keepBackoffLast)
		k.notUntil = time.Now().Add(k.backoff)
	}
}

// startAhead starts an instance of a version that a call is expected for.
func (inv *Invoker) startAhead(v wire.VersionID) {
	defer inv.endAhead()
	w, err := inv.wantFor(inv.ctx, v, inv.versions.ask)
	if err == nil {
		_, _, err = inv.startInstance(inv.ctx, w, rival{})
	}
	inv.observeAhead(v, aheadRhythm, err)
}

// observeAhead counts and logs how a start before a call ended.
func (inv *Invoker) observeAhead(v wire.VersionID, why string, err error) {
	result := "ok"
	switch {
	case inv.ctx.Err() != nil:
		return
	case errors.Is(err, pool.ErrNoRoom) || wire.HasCode(err, wire.CodeNoCapacity):
		result = "no_room"
	case wire.HasCode(err, wire.CodeNotFound): // it was deleted
		result = "failed"
	case err != nil:
		result = "failed"
		inv.log.Error("no instance ahead of calls", telemetry.KeyFunction, v.String(), "reason", why, telemetry.KeyError, err)
	}
	inv.metrics.ahead.WithLabelValues(why, result).Inc()
}
