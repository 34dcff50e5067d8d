package dispatch

import (
	"context"
	"errors"
	"time"

	"github.com/dayfly-run/dayfly/wire"
)

// errNodeLost is the cause of a call that ended because its node fell silent.
var errNodeLost = errors.New("the node fell silent")

// routes know which node has instances of which version, from the nodes' own
// words. It is not safe for concurrent use; its owner locks.
type routes struct {
	nodes    map[wire.NodeID]*node
	versions map[wire.VersionID][]*slot
}

// node is a machine with an invoker.
type node struct {
	id       wire.NodeID
	state    wire.NodeState
	lastSeen time.Time
	inFlight int
	slots    map[wire.VersionID]*slot
	// lost ends when the node is given up; calls to it end with it.
	lost context.Context //nolint:containedctx // it is the node's life, not a call's
	lose context.CancelCauseFunc
}

// slot is one version on one node.
type slot struct {
	node     *node
	version  wire.VersionID
	total    int // instances that take calls, as last heard or learnt
	inFlight int // calls from here to those
	starting int // calls from here that start an instance of their own
	// learnt is the sequence up to which the node's words are older than what its
	// last answer showed.
	learnt uint64
}

// ride is one call's place on a slot.
type ride struct {
	*slot
	// cold calls bring their own instance and so take none from others.
	cold bool
}

func newRoutes() *routes {
	return &routes{nodes: map[wire.NodeID]*node{}, versions: map[wire.VersionID][]*slot{}}
}

// apply takes a node's word about itself.
func (r *routes) apply(s wire.NodeState, now time.Time) {
	n := r.nodes[s.Node]
	switch {
	case n != nil && n.state.Run == s.Run && s.Seq <= n.state.Seq:
		return // late
	case n != nil && n.state.Run != s.Run:
		r.drop(n) // it started anew: what it was doing is gone
		n = nil
	}
	if s.Stopping {
		if n != nil {
			r.drop(n)
		}
		return
	}
	if n == nil {
		n = &node{id: s.Node, slots: map[wire.VersionID]*slot{}}
		n.lost, n.lose = context.WithCancelCause(context.Background())
		r.nodes[s.Node] = n
	}
	n.state, n.lastSeen = s, now
	for _, sl := range n.slots {
		if s.Seq > sl.learnt || s.Draining {
			sl.total = 0
		}
	}
	if !s.Draining {
		for _, v := range s.Versions {
			if count := v.Idle + v.Busy; count > 0 {
				sl := r.slot(n, v.Version)
				sl.total = max(sl.total, count)
			}
		}
	}
	r.prune(n)
}

// expire gives up the nodes that were last heard before a moment.
func (r *routes) expire(before time.Time) {
	for _, n := range r.nodes {
		if n.lastSeen.Before(before) {
			r.drop(n)
		}
	}
}

// take returns the least busy place with a warm instance, and counts the call.
func (r *routes) take(v wire.VersionID) *ride {
	var best *slot
	for _, s := range r.versions[v] {
		if s.total <= s.inFlight {
			continue
		}
		if best == nil || s.node.inFlight < best.node.inFlight {
			best = s
		}
	}
	if best == nil {
		return nil
	}
	best.inFlight++
	best.node.inFlight++
	return &ride{slot: best}
}

// takeOn counts a call to a node that the scheduler named, or returns nil when
// that node is not known here yet.
func (r *routes) takeOn(id wire.NodeID, v wire.VersionID) *ride {
	n := r.nodes[id]
	if n == nil {
		return nil
	}
	s := r.slot(n, v)
	s.starting++
	n.inFlight++
	return &ride{slot: s, cold: true}
}

// done ends a call. alive says whether its instance lives and takes another; seq is
// that of the node's state when it answered.
func (r *routes) done(c *ride, alive bool, seq uint64) {
	s := c.slot
	s.node.inFlight--
	if c.cold {
		s.starting--
	} else {
		s.inFlight--
	}
	switch {
	case alive && c.cold:
		// The node may have counted it already. One too many costs a question, one too
		// few an instance.
		s.total++
	case alive: // beside those that have a call it takes the next one
		s.total = max(s.total, s.inFlight+1)
	case !c.cold:
		s.total = min(s.total, s.inFlight)
	}
	if alive {
		s.learnt = max(s.learnt, seq)
	}
	r.pruneSlot(s)
}

// drop forgets a node and ends the calls to it.
func (r *routes) drop(n *node) {
	delete(r.nodes, n.id)
	for _, s := range n.slots {
		s.total = 0
		r.unlist(s)
	}
	n.lose(errNodeLost)
}

func (r *routes) slot(n *node, v wire.VersionID) *slot {
	s := n.slots[v]
	if s == nil {
		s = &slot{node: n, version: v}
		n.slots[v] = s
		r.versions[v] = append(r.versions[v], s)
	}
	return s
}

// prune forgets the slots of a node that say nothing any more.
func (r *routes) prune(n *node) {
	for _, s := range n.slots {
		r.pruneSlot(s)
	}
}

// pruneSlot forgets a slot that says nothing any more.
func (r *routes) pruneSlot(s *slot) {
	if s.total == 0 && s.inFlight == 0 && s.starting == 0 && s.node.slots[s.version] == s {
		delete(s.node.slots, s.version)
		r.unlist(s)
	}
}

func (r *routes) unlist(s *slot) {
	list := r.versions[s.version]
	for i, other := range list {
		if other == s {
			list[i] = list[len(list)-1]
			list[len(list)-1] = nil
			list = list[:len(list)-1]
			break
		}
	}
	if len(list) == 0 {
		delete(r.versions, s.version)
		return
	}
	r.versions[s.version] = list
}
