package pool

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/dayfly-run/dayfly/invoker/keepalive"
	"github.com/dayfly-run/dayfly/wire"
)

// Errors of this package, for errors.Is.
var (
	// ErrNoRoom: the node's capacity does not hold another such instance.
	ErrNoRoom = errors.New("no room")
	// ErrDenied: the instance is not in a state from which it may go there.
	ErrDenied = errors.New("move denied")
)

// Shape is what an instance takes and gives. All of one version are alike.
type Shape struct {
	Needs wire.Resources
	// Slots is how many events it runs at once, at least 1.
	Slots int
	// Once says that it runs one event in its life.
	Once bool
}

// Pool holds a node's instances.
type Pool struct {
	capacity  wire.Resources
	reserved  wire.Resources // of all instances that are not gone
	idle      wire.Resources // of the warm ones that may go
	leaving   wire.Resources // of the draining ones
	instances map[wire.InstanceID]*instance
	versions  map[wire.VersionID]*version
	policy    *keepalive.Policy
}

type instance struct {
	id      wire.InstanceID
	version *version
	state   State
	events  int  // that run on it; 0 unless it is busy
	ahead   bool // it was started for no call
}

type version struct {
	id    wire.VersionID
	shape Shape // of its instances, while there are any
	count [Gone]int
	kept  int // how many must not be evicted
	// open are the instances that take another event, the most recently used last.
	open []*instance
	idle wire.Resources // its part of the pool's
}

// New makes an empty pool of a node's capacity, which keeps idle instances by the
// rules of [keepalive.Policy] within limits.
func New(capacity wire.Resources, limits keepalive.Limits) *Pool {
	return &Pool{
		capacity:  capacity,
		instances: map[wire.InstanceID]*instance{},
		versions:  map[wire.VersionID]*version{},
		policy:    keepalive.New(limits),
	}
}

// Add enters an instance that is started for a call, in state [Binding], and
// reserves what it needs, or fails with [ErrNoRoom]; see [Pool.Evictable] for making
// room.
func (p *Pool) Add(id wire.InstanceID, v wire.VersionID, shape Shape, now time.Time) error {
	return p.add(&instance{id: id}, v, shape, now)
}

// AddAhead is [Pool.Add] for an instance that is started before anybody calls it.
func (p *Pool) AddAhead(id wire.InstanceID, v wire.VersionID, shape Shape, now time.Time) error {
	return p.add(&instance{id: id, ahead: true}, v, shape, now)
}

func (p *Pool) add(in *instance, v wire.VersionID, shape Shape, now time.Time) error {
	if _, exists := p.instances[in.id]; exists {
		return fmt.Errorf("instance %s exists already: %w", in.id, ErrDenied)
	}
	if ver := p.versions[v]; ver != nil && ver.living() && ver.shape != shape {
		return fmt.Errorf("instance %s is unlike the others of %s: %w", in.id, v, ErrDenied)
	}
	if !p.capacity.Minus(p.reserved).Fits(shape.Needs) {
		return ErrNoRoom
	}
	in.version = p.of(v)
	in.version.shape = shape
	in.version.count[Binding]++
	p.instances[in.id] = in
	p.reserved = p.reserved.Plus(shape.Needs)
	switch {
	case shape.Once: // it is never idle, so the policy has no say
	case in.ahead:
		p.policy.StartAhead(in.id, v, shape.Needs.MemoryBytes, now)
	default:
		p.policy.Start(in.id, v, shape.Needs.MemoryBytes, now)
	}
	return nil
}

// Measured tells how long an instance took to start.
func (p *Pool) Measured(id wire.InstanceID, cost time.Duration) { p.policy.Measured(id, cost) }

// Take gives an event to the instance of a version that runs most already and takes
// one more, so that the others grow old; of equals to the most recently used.
func (p *Pool) Take(v wire.VersionID, now time.Time) (wire.InstanceID, bool) {
	ver := p.versions[v]
	if ver == nil || len(ver.open) == 0 {
		return "", false
	}
	var best *instance
	for _, in := range slices.Backward(ver.open) {
		if best == nil || in.events > best.events {
			best = in
		}
		if best.events == ver.shape.Slots-1 {
			break // none takes more
		}
	}
	if best.state == Warm {
		p.set(best, Busy, now)
		return best.id, true
	}
	best.events++
	best.place()
	return best.id, true
}

// Return ends one event of a busy instance, which is warm after its last one, or
// fails with [ErrDenied]. One that runs [Shape].Once never returns.
func (p *Pool) Return(id wire.InstanceID, now time.Time) error {
	in := p.instances[id]
	switch {
	case in == nil || in.state != Busy:
		return fmt.Errorf("instance %s runs no event: %w", id, ErrDenied)
	case in.events > 1:
		in.events--
		in.place()
		return nil
	}
	return p.Move(id, Warm, now)
}

// Move puts an instance into another state, or fails with [ErrDenied] and changes
// nothing. An instance that is not known is gone. A busy one has one event.
func (p *Pool) Move(id wire.InstanceID, to State, now time.Time) error {
	in := p.instances[id]
	from := Gone
	if in != nil {
		from = in.state
	}
	if !CanMove(from, to) || to == Warm && (in.events > 1 || in.version.shape.Once) {
		return fmt.Errorf("instance %s from %s to %s: %w", id, from, to, ErrDenied)
	}
	p.set(in, to, now)
	return nil
}

// Usage returns what all instances hold, and which part of it idle ones would give
// back.
func (p *Pool) Usage() (reserved, idle wire.Resources) { return p.reserved, p.idle }

// State returns an instance's state; one that is not known is [Gone].
func (p *Pool) State(id wire.InstanceID) State {
	if in := p.instances[id]; in != nil {
		return in.state
	}
	return Gone
}

// Count returns how many instances are in each state but [Gone].
func (p *Pool) Count() (count [Gone]int) {
	for _, v := range p.versions {
		for s, n := range v.count {
			count[s] += n
		}
	}
	return count
}

// Kept returns how many instances of a version are kept; see [Pool.Keep].
func (p *Pool) Kept(v wire.VersionID) int {
	if ver := p.versions[v]; ver != nil {
		return ver.kept
	}
	return 0
}

// Versions counts the instances of each version, in a stable order.
func (p *Pool) Versions() []wire.VersionOnNode {
	list := make([]wire.VersionOnNode, 0, len(p.versions))
	for id, v := range p.versions {
		n := wire.VersionOnNode{Version: id, Starting: v.count[Binding], Idle: v.count[Warm], Busy: v.count[Busy], Kept: v.kept}
		if !v.shape.Once {
			n.Slots = (n.Idle + n.Busy) * v.shape.Slots
		}
		if n.Starting+n.Idle+n.Busy+n.Kept > 0 {
			list = append(list, n)
		}
	}
	slices.SortFunc(list, func(a, b wire.VersionOnNode) int {
		return cmp.Or(
			cmp.Compare(a.Version.Namespace, b.Version.Namespace),
			cmp.Compare(a.Version.Name, b.Version.Name),
			cmp.Compare(a.Version.Number, b.Version.Number),
		)
	})
	return list
}

func (p *Pool) of(v wire.VersionID) *version {
	ver := p.versions[v]
	if ver == nil {
		ver = &version{id: v}
		p.versions[v] = ver
	}
	return ver
}

// set carries out a move that is allowed, keeps the sums true, and is the one place
// that tells the policy of it.
func (p *Pool) set(in *instance, to State, now time.Time) {
	ver := in.version
	ver.count[in.state]--
	if in.state == Draining {
		p.leaving = p.leaving.Minus(ver.shape.Needs)
	}
	in.state, in.events = to, 0
	switch to {
	case Busy:
		in.events = 1
		if in.ahead { // a call was quicker than its being idle
			p.policy.Idle(in.id, now)
		}
		p.policy.Busy(in.id, now)
	case Warm:
		p.policy.Idle(in.id, now)
	case Draining:
		p.leaving = p.leaving.Plus(ver.shape.Needs)
		p.policy.Remove(in.id, now)
	case Gone:
		p.reserved = p.reserved.Minus(ver.shape.Needs)
		delete(p.instances, in.id)
	}
	if to != Gone {
		ver.count[to]++
	}
	in.place()
	p.settle(ver)
}

// settle brings a version's part of what is idle up to date, and forgets a version
// of which nothing is left.
func (p *Pool) settle(v *version) {
	p.idle = p.idle.Minus(v.idle)
	v.idle = wire.Resources{}
	if n := v.spare(); n > 0 {
		v.idle = wire.Resources{
			MemoryBytes: int64(n) * v.shape.Needs.MemoryBytes,
			CPUMillis:   int64(n) * v.shape.Needs.CPUMillis,
			Instances:   n * v.shape.Needs.Instances,
		}
	}
	p.idle = p.idle.Plus(v.idle)
	if !v.living() && v.kept == 0 {
		delete(p.versions, v.id)
	}
}

func (v *version) living() bool { return v.count != [Gone]int{} }

// spare returns how many warm instances may go: what started and still takes events
// must not become fewer than those that are kept.
func (v *version) spare() int {
	return max(min(v.count[Warm], v.count[Warm]+v.count[Busy]-v.kept), 0)
}

// place puts an instance that takes another event behind the others that do, and any
// other out of their list.
func (in *instance) place() {
	v := in.version
	for i, o := range slices.Backward(v.open) { // mostly it was used last
		if o == in {
			v.open = slices.Delete(v.open, i, i+1)
			break
		}
	}
	if in.state == Warm || in.state == Busy && in.events < v.shape.Slots {
		v.open = append(v.open, in)
	}
}
