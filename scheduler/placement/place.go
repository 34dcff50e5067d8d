package placement

import (
	"math/rand/v2"
	"slices"
	"time"

	"github.com/dayfly-run/dayfly/wire"
)

// maxProbes is how many nodes after the least-loaded one are asked whether they
// hold the code before the holders themselves are gone through: the first is
// quick when many nodes hold it, the second when few do. It is also how many nodes
// without room are passed before it is asked whether any has some.
const maxProbes = 64

// none stands for no slot.
const none = int32(-1)

// Decision is where an instance is to start.
type Decision struct {
	Node wire.NodeID
	// Stem says that the node has a stem ready, Local that it holds the code.
	Stem, Local bool
	// Evicts says that the node must give back idle instances first.
	Evicts bool
}

// Place picks a node for one instance, as the package comment says. It takes
// one number from rnd, which must not be nil, and changes nothing else; the
// caller reserves the resources. The same input gives the same decision.
//
// A request with no MaxInstances (zero) has no such limit. Instances on lost
// nodes count until [Snapshot.Remove]: they may still run.
//
// Errors have these codes: [wire.CodeThrottled] when MaxInstances are there
// already, [wire.CodeNoCapacity] when no node qualifies, with a message that
// says why, and [wire.CodeInvalid] for negative needs or limits.
func Place(s *Snapshot, r wire.PlaceRequest, now time.Time, rnd *rand.Rand) (Decision, *wire.Error) {
	draw := rnd.Uint64()
	if err := validate(r); err != nil {
		return Decision{}, err
	}
	if n := s.instances[r.Version]; r.MaxInstances > 0 && n >= r.MaxInstances {
		return Decision{}, wire.Errorf(wire.CodeThrottled,
			"%s has %d of at most %d instances; try again later or raise maxInstances", r.Version, n, r.MaxInstances)
	}
	var few [8]int32 // keeps the usual list off the heap
	q := query{
		s: s, needs: r.Needs, runtime: r.Runtime, stem: r.Stem, code: r.Code,
		now: now, draw: draw, excluded: s.appendSlots(few[:0], r.Exclude),
	}
	slot := q.place()
	if slot == none {
		return Decision{}, q.explain(r.Version)
	}
	n := &s.entries[slot].node
	return Decision{
		Node: n.ID, Stem: r.Stem != "" && n.Stems[r.Stem] > 0, Local: s.holds(r.Code, slot),
		Evicts: !n.Capacity.Minus(n.Reserved).Fits(r.Needs),
	}, nil
}

func validate(r wire.PlaceRequest) *wire.Error {
	if !r.Needs.Fits(wire.Resources{}) {
		return wire.Errorf(wire.CodeInvalid, "%s needs %d bytes of memory, %d CPU millis and %d instances; none may be negative",
			r.Version, r.Needs.MemoryBytes, r.Needs.CPUMillis, r.Needs.Instances)
	}
	if r.MaxInstances < 0 {
		return wire.Errorf(wire.CodeInvalid, "%s has maxInstances %d; it may not be negative", r.Version, r.MaxInstances)
	}
	return nil
}

func (s *Snapshot) appendSlots(slots []int32, ids []wire.NodeID) []int32 {
	for _, id := range ids {
		if slot, known := s.slots[id]; known {
			slots = append(slots, slot)
		}
	}
	return slots
}

// query is one request against a snapshot.
type query struct {
	s        *Snapshot
	needs    wire.Resources
	runtime  string
	stem     string
	code     wire.Digest
	now      time.Time
	draw     uint64
	excluded []int32
}

// place returns the slot to use, or none.
func (q *query) place() int32 {
	order, holders := q.s.byRuntime[q.runtime], q.s.byCode[q.code]
	least := q.least(order)
	if least == none {
		return none
	}
	limit := q.s.ranks[least].score + LocalSlack
	if slot := q.prefer(q.s.byStem[q.stem], holders, limit, q.hasStem); slot != none {
		return slot
	}
	return q.prefer(order, holders, limit, q.hasRuntime) // at least least
}

// least returns the best slot of order that has room, or none.
func (q *query) least(order []int32) int32 {
	passed := 0
	for slot := range q.s.best(order, q.draw) {
		if q.hasRoom(slot) {
			return slot
		}
		if passed++; passed == maxProbes && !q.s.room.any(q.needs, q.qualifies) {
			return none
		}
	}
	return none
}

// prefer returns the best of holders that stands in order, qualifies and has a score
// within limit; if there is none, the best of order that does; or none. In reports
// whether a slot stands in order.
func (q *query) prefer(order, holders []int32, limit int32, in func(slot int32) bool) int32 {
	first, probes := none, 0
	for slot := range q.s.best(order, q.draw) {
		if q.s.ranks[slot].score > limit {
			return first
		}
		if first != none {
			if probes++; probes > maxProbes {
				break
			}
		}
		_, holds := slices.BinarySearch(holders, slot)
		if first != none && !holds || !q.qualifies(slot) {
			continue
		}
		if holds {
			return slot
		}
		if first = slot; len(holders) == 0 {
			return first
		}
	}
	if probes > maxProbes {
		if slot := q.bestHolder(holders, limit, in); slot != none {
			return slot
		}
	}
	return first
}

// bestHolder returns the best of holders that is in order and qualifies with a score
// within limit, or none.
func (q *query) bestHolder(holders []int32, limit int32, in func(slot int32) bool) int32 {
	best := none
	for _, slot := range holders {
		if q.s.ranks[slot].score > limit || best != none && !q.s.before(slot, best, q.draw) {
			continue
		}
		if in(slot) && q.qualifies(slot) {
			best = slot
		}
	}
	return best
}

func (q *query) hasStem(slot int32) bool { return q.s.entries[slot].node.Stems[q.stem] > 0 }

func (q *query) hasRuntime(slot int32) bool {
	return slices.Contains(q.s.entries[slot].node.Runtimes, q.runtime)
}

// qualifies is the whole filter.
func (q *query) qualifies(slot int32) bool {
	return q.hasRoom(slot) && !q.s.entries[slot].node.Draining && q.hasRuntime(slot)
}

// hasRoom covers the filters that the order of a runtime does not.
func (q *query) hasRoom(slot int32) bool {
	e := &q.s.entries[slot]
	return e.free.Fits(q.needs) && q.alive(&e.node) && !slices.Contains(q.excluded, slot)
}

func (q *query) alive(n *Node) bool { return q.now.Sub(n.LastSeen) <= wire.NodeLostAfter }
