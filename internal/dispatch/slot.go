package dispatch

import "github.com/dayfly-run/dayfly/wire"

// slot is one version on one node.
type slot struct {
	node  *node
	fleet *fleet
	// total is how many events the instances take at once, as last heard or learnt.
	total    int
	inFlight int // calls from here to those
	starting int // cold calls from here
	// settled counts those cold calls whose instance the node's last word counts,
	// rising the instances that start, as it says.
	settled, rising int
	// learnt is the sequence up to which the node's words are older than what its
	// last answer showed.
	learnt uint64
}

// landed is how many cold calls from here run on instances that are in total. They
// take the place of one event each. Others' instances may be among the rising, so
// that it is no more than the truth.
func (s *slot) landed() int { return max(0, min(s.settled, s.starting)-s.rising) }

// free is how many more events the instances take.
func (s *slot) free() int { return s.total - s.inFlight - s.landed() }

// ride is one call's place on a slot. The zero value is none.
type ride struct {
	*slot
	lease wire.LeaseID
	// brings is how many events the instance takes at once that a cold call starts,
	// and zero for a warm call: cold calls take no place from others.
	brings int
}

func (c ride) cold() bool { return c.brings > 0 }

// outcome is what a call shows of its instance.
type outcome int

const (
	// dead: it is gone, or there was none.
	dead outcome = iota
	// alive: it takes another event.
	alive
	// unused: the call was never sent.
	unused
)

// take returns a place on the node with the fewest calls among those with a free
// instance, and counts the call. The ride is zero when there is none.
func (f *fleet) take() ride {
	var best *slot
	for _, s := range f.slots {
		if s.free() > 0 && (best == nil || s.node.inFlight < best.node.inFlight) {
			best = s
		}
	}
	if best == nil {
		return ride{}
	}
	best.inFlight++
	best.node.inFlight++
	return ride{slot: best}
}

// takeOn counts a cold call to a node that the scheduler named. The ride is zero
// when that node is not known here yet.
func (r *routes) takeOn(id wire.NodeID, v wire.VersionID, lease wire.LeaseID, brings int) ride {
	n := r.nodes[id]
	if n == nil {
		return ride{}
	}
	s := r.slot(n, v)
	n.stale = true
	s.starting++
	n.inFlight++
	if _, twice := n.leases[lease]; !twice {
		n.leases[lease] = leased{slot: s}
		n.unsettled++
	}
	return ride{slot: s, lease: lease, brings: max(brings, 1)}
}

// done ends a call. seq is that of the node's state when it answered.
func (r *routes) done(c ride, how outcome, seq uint64) {
	s := c.slot
	s.node.stale = true
	s.node.inFlight--
	if c.cold() {
		s.ended(c, how)
	} else {
		s.inFlight--
		switch how {
		case alive: // beside those that have a call it takes the next one
			s.total = max(s.total, s.inFlight+s.landed()+1)
		case dead:
			s.total = min(s.total, s.inFlight+s.landed())
		case unused:
		}
	}
	if how == alive {
		s.learnt = max(s.learnt, seq)
	}
	r.pruneSlot(s)
}

// ended is done for a cold call.
func (s *slot) ended(c ride, how outcome) {
	before := s.landed()
	s.starting--
	l := s.node.leases[c.lease]
	switch {
	case l.slot != s: // the call's lease was another call's too
	case l.settled:
		delete(s.node.leases, c.lease)
		s.settled--
	default:
		delete(s.node.leases, c.lease)
		s.node.unsettled--
	}
	inTotal := s.landed() < before
	switch {
	case how == alive && !inTotal:
		s.total += c.brings
		if l.settled { // as one of the rising
			s.rising = max(0, s.rising-1)
		}
	case how == dead && inTotal:
		s.total = max(0, s.total-c.brings)
	}
}
