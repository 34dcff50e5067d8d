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

// fewer is how many times as many nodes must have a stem as stand in another order, for
// that to be gone through instead: to see that a node has a stem takes longer than to
// see that its labels will not do.
const fewer = 4

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
	return PlaceWithin(s, r, now, rnd, LocalSlack)
}

// PlaceWithin is [Place] with another slack than [LocalSlack], in thousandths of a
// node, for simulations.
func PlaceWithin(s *Snapshot, r wire.PlaceRequest, now time.Time, rnd *rand.Rand, slack int32) (Decision, *wire.Error) {
	draw := rnd.Uint64()
	if err := validate(r); err != nil {
		return Decision{}, err
	}
	there := s.instances[r.Version]
	if r.MaxInstances > 0 && there.total >= r.MaxInstances {
		return Decision{}, wire.Errorf(wire.CodeThrottled,
			"%s has %d of at most %d instances; try again later or raise maxInstances", r.Version, there.total, r.MaxInstances)
	}
	var few [8]int32 // keeps the usual list off the heap
	q := query{
		s: s, needs: r.Needs, runtime: r.Runtime, stem: r.Stem, code: r.Code,
		selector: r.Selector, arch: r.Arch, spread: there,
		now: now, draw: draw, slack: slack, excluded: s.appendSlots(few[:0], r.Exclude),
	}
	var seen, fit [manyClasses / 64]uint64
	if words := (len(s.classes.all) + 63) / 64; words <= len(seen) {
		q.matches = matches{seen: seen[:words], fit: fit[:words]}
	} else {
		q.matches = matches{seen: make([]uint64, words), fit: make([]uint64, words)}
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
	selector map[string]string
	arch     string
	spread   spread // of the version
	now      time.Time
	draw     uint64
	slack    int32
	excluded []int32

	// zoned says that only zones with level instances of the version will do.
	zoned bool
	level int
	// matches remembers which classes will do.
	matches matches
}

// place returns the slot to use, or none.
func (q *query) place() int32 {
	var one [1]int32
	order := q.order(one[:])
	least := q.least(order)
	if least == none {
		return none
	}
	limit := q.s.ranks[least].score + q.slack
	var few [8]int
	for _, level := range q.levels(few[:0]) {
		if slot := q.within(q.restrict(level, order), limit); slot != none {
			return slot
		}
	}
	return q.within(order, limit) // at least least
}

// within returns the best slot with a score within limit, or none: one with a stem if
// there is such, else one of order.
func (q *query) within(order []int32, limit int32) int32 {
	holders := q.s.byCode[q.code]
	stems, in := q.s.byStem[q.stem], q.hasStem
	if len(order) < len(stems)/fewer {
		stems = order
	}
	if slot := q.prefer(stems, holders, limit, in); slot != none {
		return slot
	}
	return q.prefer(order, holders, limit, q.hasRuntime)
}

// order returns the shortest list in which every node stands that will do, in the sense
// of [Snapshot.best]. One is memory for a list of one node.
func (q *query) order(one []int32) []int32 {
	best := q.s.byRuntime[q.runtime]
	if q.arch != "" {
		best = shorter(best, q.s.byLabel[pair{wire.LabelArch, q.arch}])
	}
	for key, value := range q.selector {
		if key != wire.LabelNode {
			best = shorter(best, q.s.byLabel[pair{key, value}])
			continue
		}
		slot, known := q.s.slots[wire.NodeID(value)]
		if !known {
			return nil
		}
		one[0] = slot
		best = shorter(best, one)
	}
	return best
}

func shorter(a, b []int32) []int32 {
	if len(b) < len(a) {
		return b
	}
	return a
}

// least returns the best slot of order that qualifies, or none.
func (q *query) least(order []int32) int32 {
	passed := 0
	for slot := range q.s.best(order, q.draw) {
		if !q.fits(slot) {
			continue
		}
		if q.qualifies(slot) {
			return slot
		}
		// The tree tells at once, but goes through all nodes with room when few of them fit.
		if passed++; passed == maxProbes && 2*len(order) > q.s.Len() && !q.s.room.any(q.needs, q.qualifies) {
			return none
		}
	}
	return none
}

// prefer returns the best of holders for which in is true, that qualifies and has a score
// within limit; if there is none, the best of order that does; or none. All of them stand
// in order.
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
		if !q.fits(slot) {
			continue
		}
		_, holds := slices.BinarySearch(holders, slot)
		if first != none && !holds || !in(slot) || !q.qualifies(slot) {
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

// bestHolder returns the best of holders for which in is true and that qualifies with a
// score within limit, or none.
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
	return q.hasRoom(slot) && q.fits(slot) && !q.s.entries[slot].node.barred() && q.hasRuntime(slot)
}

func (q *query) hasRoom(slot int32) bool {
	e := &q.s.entries[slot]
	return e.free.Fits(q.needs) && q.alive(&e.node) && !slices.Contains(q.excluded, slot)
}

func (q *query) alive(n *Node) bool { return q.now.Sub(n.LastSeen) <= wire.NodeLostAfter }
