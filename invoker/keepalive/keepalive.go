// Package keepalive decides which idle instance of a node goes when memory is
// needed, and which instance to start before it is called. It is pure: no clock,
// no I/O, no goroutine; the same calls give the same answers. It is not safe for
// concurrent use; its owner locks.
//
// The order is that of the greedy-dual caches: the measured cost of a cold start,
// times how often the instance is used, divided by the memory that it takes, with
// ageing. Frequency and ageing come from one source here. For each version the
// policy keeps how long its instances were idle before they were needed again, and
// from that the calls which a second of further keeping saves, given how long the
// instance is idle already. So a function that is called in groups is let go soon
// after a group, a timer is let go last just before its next call, the fifth
// instance that a burst left behind is worth less than the first, and yesterday's
// favourite is worth less each minute. bench/keepalive shows what that wins over
// plain greedy-dual.
//
// A version that is called in equal distances can be let go at once and started
// again in time: see [Policy.Due].
//
// A change costs two map look-ups and is noted only. The order is brought up to
// date by the next question, in O(log n) for each version that changed, of n
// versions with instances.
package keepalive

import (
	"container/heap"
	"container/list"
	"iter"
	"slices"
	"time"

	"github.com/dayfly-run/dayfly/wire"
)

const (
	// DefaultIdleLimit is how long an instance may be idle while nobody needs its memory.
	DefaultIdleLimit = 6 * time.Hour
	// DefaultMaxAbsent is how many versions without an instance are remembered; each
	// takes 1 to 2 KiB.
	DefaultMaxAbsent = 4096

	// unknownCost is taken for a cold start that nobody measured yet.
	unknownCost = time.Second
	// minBytes is the least that an instance is taken for.
	minBytes = 1 << 20
)

// Limits bound what a [Policy] keeps. The zero value means the defaults.
type Limits struct {
	// IdleLimit is how long an instance may be idle.
	IdleLimit time.Duration
	// MaxAbsent is how many versions without an instance are remembered, those that
	// had one last.
	MaxAbsent int
	// StartsAhead says that the owner starts instances as [Policy.Due] asks. Without
	// it the policy keeps what it otherwise would let go and start again.
	StartsAhead bool
}

// Policy ranks the idle instances of one node. Times must not go backwards; one
// that does counts as the latest that was seen. An instance that is not known is
// ignored.
type Policy struct {
	limits    Limits
	now       time.Time
	seq       uint64
	versions  map[wire.VersionID]*version
	instances map[wire.InstanceID]*instance
	heaps     [heaps]*ordered
	dirty     []*version
	waiting   list.List // of *instance, the one idle longest first
	absent    list.List // of *version without instance, the one absent longest first
}

type instance struct {
	id      wire.InstanceID
	version *version
	ahead   bool          // started ahead and not used yet
	since   time.Time     // idle
	place   *list.Element // in waiting; nil: busy
}

// New makes a policy that knows nothing yet.
func New(limits Limits) *Policy {
	if limits.IdleLimit <= 0 {
		limits.IdleLimit = DefaultIdleLimit
	}
	if limits.MaxAbsent <= 0 {
		limits.MaxAbsent = DefaultMaxAbsent
	}
	return &Policy{
		limits:    limits,
		versions:  map[wire.VersionID]*version{},
		instances: map[wire.InstanceID]*instance{},
		heaps:     newHeaps(),
	}
}

// Start enters an instance that is being started for a call; it counts as busy.
// Bytes is the memory that it takes. An instance that is known already is ignored.
func (p *Policy) Start(id wire.InstanceID, v wire.VersionID, bytes int64, now time.Time) {
	p.start(id, v, bytes, now, false)
}

// StartAhead enters an instance that is being started before anybody calls it;
// [Policy.Idle] tells when it is ready.
func (p *Policy) StartAhead(id wire.InstanceID, v wire.VersionID, bytes int64, now time.Time) {
	p.start(id, v, bytes, now, true)
}

func (p *Policy) start(id wire.InstanceID, v wire.VersionID, bytes int64, now time.Time, ahead bool) {
	if p.instances[id] != nil {
		return
	}
	p.tick(now)
	ver := p.versions[v]
	if ver == nil {
		p.seq++
		ver = &version{id: v, seq: p.seq, places: [heaps]int{nowhere, nowhere, nowhere}}
		p.versions[v] = ver
	}
	if ver.ghost != nil {
		p.absent.Remove(ver.ghost)
		ver.ghost = nil
	}
	ver.mib = float64(max(bytes, minBytes)) / (1 << 20)
	p.instances[id] = &instance{id: id, version: ver, ahead: ahead}
	if !ahead {
		ver.called(p.now)
	}
	ver.live++
	ver.busy++
	p.mark(ver)
}

// Measured tells how long an instance took to start.
func (p *Policy) Measured(id wire.InstanceID, cost time.Duration) {
	if in := p.instances[id]; in != nil && cost > 0 {
		in.version.measured(cost)
		p.mark(in.version)
	}
}

// Busy tells that an idle instance is used.
func (p *Policy) Busy(id wire.InstanceID, now time.Time) {
	in := p.instances[id]
	if in == nil || in.place == nil {
		return
	}
	p.tick(now)
	v := in.version
	v.called(p.now)
	v.busy++
	p.leaveIdle(in)
	in.ahead = false
	p.mark(v)
}

// Idle tells that an instance is ready and unused.
func (p *Policy) Idle(id wire.InstanceID, now time.Time) {
	in := p.instances[id]
	if in == nil || in.place != nil {
		return
	}
	p.tick(now)
	v := in.version
	v.busy--
	// One that was started ahead was not needed yet: its slot waits as before.
	if s := v.slot(v.busy); !in.ahead || s.since.IsZero() {
		s.since = p.now
	}
	in.since = p.now
	in.place = p.waiting.PushBack(in)
	v.idle = append(v.idle, in)
	p.mark(v)
}

// Remove tells that an instance is going, whatever it did.
func (p *Policy) Remove(id wire.InstanceID, now time.Time) {
	in := p.instances[id]
	if in == nil {
		return
	}
	p.tick(now)
	v := in.version
	delete(p.instances, id)
	if in.place != nil {
		p.leaveIdle(in)
	} else {
		v.busy--
		if !in.ahead {
			v.slot(v.busy).since = p.now
		}
	}
	v.live--
	p.mark(v)
	if v.live == 0 {
		v.ghost = p.absent.PushBack(v)
		p.forget()
	}
}

// Victims yields the idle instances, that first whose loss costs least. It changes
// no instance; the policy must not be told anything while it is read.
func (p *Policy) Victims(now time.Time) iter.Seq[wire.InstanceID] {
	return func(yield func(wire.InstanceID) bool) {
		p.refresh(now)
		ranking := p.heaps[byValue].versions
		var next frontier
		push := func(place int) {
			if place < len(ranking) {
				heap.Push(&next, candidate{value: ranking[place].value, version: ranking[place]})
			}
		}
		push(0)
		for len(next) > 0 {
			c, _ := heap.Pop(&next).(candidate)
			v := c.version
			if !yield(v.idle[c.depth].id) {
				return
			}
			if c.depth == 0 {
				push(2*v.places[byValue] + 1)
				push(2*v.places[byValue] + 2)
			}
			if c.depth++; c.depth < len(v.idle) {
				c.value, _ = v.worth(v.live-1-c.depth, p.now, p.limits.StartsAhead)
				heap.Push(&next, c)
			}
		}
	}
}

// Expired returns the instances that are idle for longer than the idle limit, the
// one idle longest first.
func (p *Policy) Expired(now time.Time) []wire.InstanceID {
	p.tick(now)
	var ids []wire.InstanceID
	for e := p.waiting.Front(); e != nil; e = e.Next() {
		in, _ := e.Value.(*instance)
		if p.now.Sub(in.since) <= p.limits.IdleLimit {
			break
		}
		ids = append(ids, in.id)
	}
	return ids
}

// Due returns the versions of which an instance should be started now, as a call is
// expected soon and none lives. It names each once for a call. Without
// [Limits.StartsAhead] there are none.
func (p *Policy) Due(now time.Time) []wire.VersionID {
	p.refresh(now)
	var due []wire.VersionID
	for {
		v, ok := p.heaps[byAhead].first()
		if !ok || v.ahead.After(p.now) {
			return due
		}
		v.ahead = time.Time{}
		p.heaps[byAhead].put(v, false)
		if _, end, ok := v.rhythm.next(); ok && p.now.Before(end) {
			due = append(due, v.id)
		}
	}
}

// NextDue returns when to ask [Policy.Due] again, if nothing happens before; false
// when nothing is expected.
func (p *Policy) NextDue(now time.Time) (time.Time, bool) {
	p.refresh(now)
	v, ok := p.heaps[byAhead].first()
	if !ok {
		return time.Time{}, false
	}
	return v.ahead, true
}

func (p *Policy) tick(now time.Time) {
	if now.After(p.now) {
		p.now = now
	}
}

// mark notes that a version changed.
func (p *Policy) mark(v *version) {
	if !v.dirty {
		v.dirty = true
		p.dirty = append(p.dirty, v)
	}
}

// refresh brings the order up to date.
func (p *Policy) refresh(now time.Time) {
	p.tick(now)
	for {
		v, ok := p.heaps[byChanges].first()
		if !ok || v.changes.After(p.now) {
			break
		}
		p.heaps[byChanges].put(v, false)
		p.mark(v)
	}
	for _, v := range p.dirty {
		v.refresh(p.now, p.limits.StartsAhead)
		p.heaps[byValue].put(v, len(v.idle) > 0)
		p.heaps[byChanges].put(v, len(v.idle) > 0)
		p.heaps[byAhead].put(v, !v.ahead.IsZero())
	}
	clear(p.dirty)
	p.dirty = p.dirty[:0]
}

// leaveIdle takes an instance out of the idle ones.
func (p *Policy) leaveIdle(in *instance) {
	v := in.version
	// The one that was used last is used next, so it is nearly always the last.
	for i, o := range slices.Backward(v.idle) {
		if o == in {
			v.idle = slices.Delete(v.idle, i, i+1)
			break
		}
	}
	p.waiting.Remove(in.place)
	in.place = nil
}

// forget drops the versions that are absent longest, down to the bound.
func (p *Policy) forget() {
	for p.absent.Len() > p.limits.MaxAbsent {
		v, _ := p.absent.Remove(p.absent.Front()).(*version)
		delete(p.versions, v.id)
		v.ghost = nil
		for _, h := range p.heaps {
			h.put(v, false)
		}
		if v.dirty {
			p.dirty = slices.DeleteFunc(p.dirty, func(o *version) bool { return o == v })
		}
	}
}
