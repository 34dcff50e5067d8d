package dispatch

import (
	"container/list"
	"context"
	"errors"
	"time"

	"github.com/dayfly-run/dayfly/wire"
)

// errNodeLost is the cause of a call that ended because its node fell silent.
var errNodeLost = errors.New("the node fell silent")

// errAnswerLost is the cause of a call that ended because no answer came in time after the
// connection to NATS was lost.
var errAnswerLost = errors.New("the connection to NATS was lost, and its answer with it")

// routes know which node has instances of which version, from the nodes' own
// words. They are not safe for concurrent use; their owner locks.
type routes struct {
	nodes  map[wire.NodeID]*node
	order  list.List // of *node, the longest silent first
	fleets map[wire.VersionID]*fleet
	// changed lists the fleets with calls that wait whose slots changed since the
	// owner last looked.
	changed []*fleet
}

// fleet is what is known of one version: its instances and the calls that wait for
// one.
type fleet struct {
	version wire.VersionID
	slots   []*slot
	queue   queue
	alarm   alarm
	changed bool // it is listed in routes.changed
}

// node is a machine with an invoker.
type node struct {
	id       wire.NodeID
	state    wire.NodeState
	lastSeen time.Time
	place    *list.Element // in routes.order
	// drift is how far the node's clock is ahead of ours, as far as one can see: a word
	// takes its time.
	drift    time.Duration
	inFlight int
	// stale says that a call changed what the slots say since the node's last word.
	stale bool
	slots map[wire.VersionID]*slot
	// leases are those of the cold calls from here; unsettled counts the ones that
	// the node's words do not count yet.
	leases    map[wire.LeaseID]leased
	unsettled int
	// lost ends when the node is given up; calls to it end with it.
	lost context.Context //nolint:containedctx // it is the node's life, not a call's
	lose context.CancelCauseFunc
}

// leased is a cold call as its node sees it.
type leased struct {
	slot *slot
	// settled says that the node's words count its instance.
	settled bool
}

func newRoutes() *routes {
	return &routes{nodes: map[wire.NodeID]*node{}, fleets: map[wire.VersionID]*fleet{}}
}

// apply takes a node's word about itself, and reports whether the node has more
// room than before.
func (r *routes) apply(s wire.NodeState, now time.Time) (roomier bool) {
	n := r.nodes[s.Node]
	switch {
	case n != nil && n.state.Run == s.Run && s.Seq <= n.state.Seq:
		return false // late
	case n != nil && n.state.Run != s.Run:
		r.drop(n) // it started anew: what it was doing is gone
		n = nil
	}
	if s.Stopping {
		if n != nil {
			r.drop(n)
		}
		return false
	}
	if n == nil {
		n = &node{id: s.Node, slots: map[wire.VersionID]*slot{}, leases: map[wire.LeaseID]leased{}}
		n.lost, n.lose = context.WithCancelCause(context.Background())
		n.place = r.order.PushBack(n)
		r.nodes[s.Node] = n
		roomier = true
	}
	// Idle instances make room for others as well.
	roomier = roomier || !s.Reserved.Fits(n.state.Reserved) || !n.state.Idle.Fits(s.Idle)
	n.state = s
	r.heard(n, s.At, now)
	r.count(n)
	return roomier
}

// beat takes a word of a node that changed nothing but its load, and reports whether the
// node is known in that run. Fresh says that the state is as of the word.
func (r *routes) beat(s *wire.NodeState, at time.Time, fresh bool, now time.Time) bool {
	n := r.nodes[s.Node]
	if n == nil || n.state.Run != s.Run {
		return false
	}
	r.heard(n, at, now)
	if fresh {
		n.state = *s
		if n.stale {
			r.count(n)
		}
	}
	return true
}

// heard notes when a node was heard last, and what its clock said.
func (r *routes) heard(n *node, at, now time.Time) {
	n.lastSeen = now
	if n.drift = 0; !at.IsZero() {
		n.drift = at.Sub(now)
	}
	r.order.MoveToBack(n.place)
}

// count sets a node's slots to what it says. One that drains has those only that it
// still offers, whatever its answers showed; one whose protocol is unknown has none.
func (r *routes) count(n *node) {
	s := n.state
	if !wire.Speaks(s.Protocol) {
		s.Draining, s.Versions = true, nil
	}
	n.stale = false
	for _, sl := range n.slots {
		if s.Seq > sl.learnt || s.Draining {
			sl.total = 0
		} else {
			n.stale = true // a later word counts
		}
		sl.rising = 0
	}
	for _, v := range s.Versions {
		if v.Slots > 0 || v.Starting > 0 && n.slots[v.Version] != nil {
			sl := r.slot(n, v.Version)
			sl.total = max(sl.total, v.Slots)
			sl.rising = v.Starting
		}
	}
	if n.unsettled > 0 {
		for _, lease := range s.Settled {
			if l, ok := n.leases[lease]; ok && !l.settled {
				l.settled = true
				n.leases[lease] = l
				l.slot.settled++
				n.unsettled--
			}
		}
	}
	for _, sl := range n.slots {
		r.note(sl.fleet)
		r.pruneSlot(sl)
	}
}

// expire gives up the nodes that were last heard before a moment.
func (r *routes) expire(before time.Time) {
	for e := r.order.Front(); e != nil; e = r.order.Front() {
		n := e.Value.(*node) //nolint:forcetypeassert // nothing else is in it
		if !n.lastSeen.Before(before) {
			return
		}
		r.drop(n)
	}
}

// drop forgets a node and ends the calls to it.
func (r *routes) drop(n *node) {
	delete(r.nodes, n.id)
	r.order.Remove(n.place)
	for _, s := range n.slots {
		s.total = 0
		r.note(s.fleet)
		r.unlist(s)
	}
	n.lose(errNodeLost)
}

// note lists a fleet whose calls that wait may have got a chance, or lost it.
func (r *routes) note(f *fleet) {
	if f.queue.len() > 0 && !f.changed {
		f.changed = true
		r.changed = append(r.changed, f)
	}
}

// fleet returns a version's fleet, made when there is none.
func (r *routes) fleet(v wire.VersionID) *fleet {
	f := r.fleets[v]
	if f == nil {
		f = &fleet{version: v}
		r.fleets[v] = f
	}
	return f
}

// pruneFleet forgets a fleet that says nothing any more.
func (r *routes) pruneFleet(f *fleet) {
	if len(f.slots) == 0 && f.queue.idle() && r.fleets[f.version] == f {
		delete(r.fleets, f.version)
	}
}

func (r *routes) slot(n *node, v wire.VersionID) *slot {
	s := n.slots[v]
	if s == nil {
		f := r.fleet(v)
		s = &slot{node: n, fleet: f}
		n.slots[v] = s
		f.slots = append(f.slots, s)
	}
	return s
}

// pruneSlot forgets a slot that says nothing any more.
func (r *routes) pruneSlot(s *slot) {
	v := s.fleet.version
	if s.total == 0 && s.inFlight == 0 && s.starting == 0 && s.node.slots[v] == s {
		delete(s.node.slots, v)
		r.unlist(s)
	}
}

func (r *routes) unlist(s *slot) {
	list := s.fleet.slots
	for i, other := range list {
		if other == s {
			list[i] = list[len(list)-1]
			list[len(list)-1] = nil
			s.fleet.slots = list[:len(list)-1]
			break
		}
	}
	r.pruneFleet(s.fleet)
}

// instances estimates how many instances of the version there are, and how many of
// these start for calls from here and are in no node's count of slots yet.
func (f *fleet) instances() (all, starting int) {
	per := max(f.queue.concurrency, 1)
	for _, s := range f.slots {
		rising := s.starting - s.landed()
		starting += rising
		// An instance for one event only is never in total.
		all += max(rising+(s.total+per-1)/per, (s.starting+per-1)/per)
	}
	return all, starting
}

// lively says that an instance of the version is known or under way.
func (f *fleet) lively() bool {
	for _, s := range f.slots {
		if s.total > 0 || s.starting > 0 {
			return true
		}
	}
	return false
}
