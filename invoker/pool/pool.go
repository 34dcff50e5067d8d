package pool

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/dayfly-run/dayfly/wire"
)

// Errors of this package, for errors.Is.
var (
	// ErrNoRoom: the node's capacity does not hold another such instance.
	ErrNoRoom = errors.New("no room")
	// ErrDenied: the instance is not in a state from which it may go there.
	ErrDenied = errors.New("move denied")
)

// Pool holds a node's instances.
type Pool struct {
	capacity  wire.Resources
	reserved  wire.Resources // of all instances that are not gone
	idle      wire.Resources // of the warm ones
	leaving   wire.Resources // of the draining ones
	instances map[wire.InstanceID]*instance
	versions  map[wire.VersionID]*version
}

type instance struct {
	id       wire.InstanceID
	version  wire.VersionID
	needs    wire.Resources
	state    State
	lastUsed time.Time
}

type version struct {
	count [Gone]int
	// warm is a stack: the most recently used instance is taken first, so that
	// those which are not needed grow old.
	warm []*instance
}

// New makes an empty pool of a node's capacity.
func New(capacity wire.Resources) *Pool {
	return &Pool{
		capacity:  capacity,
		instances: map[wire.InstanceID]*instance{},
		versions:  map[wire.VersionID]*version{},
	}
}

// Add enters an instance in state [Binding] and reserves what it needs, or fails
// with [ErrNoRoom]; see [Pool.Evictable] for making room.
func (p *Pool) Add(id wire.InstanceID, v wire.VersionID, needs wire.Resources, now time.Time) error {
	if _, exists := p.instances[id]; exists {
		return fmt.Errorf("instance %s exists already: %w", id, ErrDenied)
	}
	if !p.capacity.Minus(p.reserved).Fits(needs) {
		return ErrNoRoom
	}
	in := &instance{id: id, version: v, needs: needs, state: Binding, lastUsed: now}
	p.instances[id] = in
	p.reserved = p.reserved.Plus(needs)
	p.of(v).count[Binding]++
	return nil
}

// Take makes the most recently used warm instance of a version busy.
func (p *Pool) Take(v wire.VersionID, now time.Time) (wire.InstanceID, bool) {
	ver := p.versions[v]
	if ver == nil || len(ver.warm) == 0 {
		return "", false
	}
	in := ver.warm[len(ver.warm)-1]
	p.set(in, Busy)
	in.lastUsed = now
	return in.id, true
}

// Move puts an instance into another state, or fails with [ErrDenied] and changes
// nothing. An instance that is not known is gone.
func (p *Pool) Move(id wire.InstanceID, to State, now time.Time) error {
	in := p.instances[id]
	from := Gone
	if in != nil {
		from = in.state
	}
	if !CanMove(from, to) {
		return fmt.Errorf("instance %s from %s to %s: %w", id, from, to, ErrDenied)
	}
	p.set(in, to)
	in.lastUsed = now
	return nil
}

// Evictable returns the warm instances to remove so that needs fit once they and
// those that are draining already are gone, least recently used first. It returns
// false when even all of them would not do.
func (p *Pool) Evictable(needs wire.Resources) ([]wire.InstanceID, bool) {
	free := p.capacity.Minus(p.reserved).Plus(p.leaving)
	if free.Fits(needs) {
		return nil, true
	}
	if !free.Plus(p.idle).Fits(needs) {
		return nil, false
	}
	var ids []wire.InstanceID
	for _, in := range p.warmByAge() {
		ids = append(ids, in.id)
		if free = free.Plus(in.needs); free.Fits(needs) {
			break
		}
	}
	return ids, true
}

// Expired returns the warm instances that were last used before a moment.
func (p *Pool) Expired(before time.Time) []wire.InstanceID {
	var ids []wire.InstanceID
	for _, in := range p.warmByAge() {
		if !in.lastUsed.Before(before) {
			break
		}
		ids = append(ids, in.id)
	}
	return ids
}

// Usage returns what all instances hold, and which part of it warm ones would
// give back.
func (p *Pool) Usage() (reserved, idle wire.Resources) { return p.reserved, p.idle }

// State returns an instance's state; one that is not known is [Gone].
func (p *Pool) State(id wire.InstanceID) State {
	if in := p.instances[id]; in != nil {
		return in.state
	}
	return Gone
}

// Versions counts the instances of each version, in a stable order.
func (p *Pool) Versions() []wire.VersionOnNode {
	list := make([]wire.VersionOnNode, 0, len(p.versions))
	for id, v := range p.versions {
		n := wire.VersionOnNode{Version: id, Starting: v.count[Binding], Idle: v.count[Warm], Busy: v.count[Busy]}
		if n.Starting+n.Idle+n.Busy > 0 {
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
		ver = &version{}
		p.versions[v] = ver
	}
	return ver
}

// set carries out a move that is allowed and keeps the sums true.
func (p *Pool) set(in *instance, to State) {
	ver := p.of(in.version)
	ver.count[in.state]--
	if in.state == Warm {
		p.idle = p.idle.Minus(in.needs)
		i := slices.Index(ver.warm, in)
		ver.warm = slices.Delete(ver.warm, i, i+1)
	}
	if in.state == Draining {
		p.leaving = p.leaving.Minus(in.needs)
	}
	in.state = to
	if to == Gone {
		p.reserved = p.reserved.Minus(in.needs)
		delete(p.instances, in.id)
		if ver.count == [Gone]int{} {
			delete(p.versions, in.version)
		}
		return
	}
	ver.count[to]++
	switch to {
	case Warm:
		p.idle = p.idle.Plus(in.needs)
		ver.warm = append(ver.warm, in)
	case Draining:
		p.leaving = p.leaving.Plus(in.needs)
	}
}

func (p *Pool) warmByAge() []*instance {
	var list []*instance
	for _, v := range p.versions {
		list = append(list, v.warm...)
	}
	slices.SortFunc(list, func(a, b *instance) int {
		return cmp.Or(a.lastUsed.Compare(b.lastUsed), cmp.Compare(a.id, b.id))
	})
	return list
}
