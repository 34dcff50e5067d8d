package placement

import (
	"maps"
	"slices"
	"time"

	"github.com/dayfly-run/dayfly/wire"
)

// Node is what the scheduler knows of one node at one moment.
type Node struct {
	ID wire.NodeID
	// Capacity is what the node offers. Reserved is what its instances hold and
	// what leases that it has not settled yet will take. Idle is the part of
	// Reserved that the node gives back on demand.
	Capacity, Reserved, Idle wire.Resources
	// LastSeen is when the node was last heard of, by the clock that also gives
	// the time of a decision.
	LastSeen time.Time
	Draining bool
	// Incompatible says that the node speaks a protocol that this binary does not.
	Incompatible bool
	Runtimes     []string
	// Labels are all that the node has.
	Labels map[string]string
	// Stems counts the containers that wait for a function, by [wire.StemKey], less
	// those that leases will take; less than one is none.
	Stems map[string]int
	// Codes lists the artifacts in the node's cache.
	Codes []wire.Digest
	// Versions counts instances by version: idle, busy, starting and leased.
	Versions map[wire.VersionID]int
	// Load is the one-minute load average per core.
	Load float64
}

// busy is what the node cannot give back.
func (n *Node) busy() wire.Resources {
	b := n.Reserved.Minus(n.Idle)
	return wire.Resources{
		MemoryBytes: max(b.MemoryBytes, 0),
		CPUMillis:   max(b.CPUMillis, 0),
		Instances:   max(b.Instances, 0),
	}
}

// barred reports whether nothing new may start there.
func (n *Node) barred() bool { return n.Draining || n.Incompatible }

// Claim is what one instance takes of its node.
type Claim struct {
	Version wire.VersionID
	Needs   wire.Resources
	// Stem is the kind of stem that it takes, if there is one; empty for none.
	Stem string
}

// entry is a slot. free is what its node has for a new instance, idle instances
// included. A slot that is not used waits in spare.
type entry struct {
	free wire.Resources
	node Node
	// stems are the kinds in whose order the slot stands.
	stems []string
	used  bool
}

// Snapshot holds what is known of all nodes, indexed for [Place]. Use
// [NewSnapshot] to make one. Any number of goroutines may read it at once, but
// none while another changes it.
type Snapshot struct {
	slots map[wire.NodeID]int32
	// entries and ranks are indexed by slot. Ranks stand apart because a search
	// touches many of them.
	entries []entry
	ranks   []rank
	classOf []int32
	spare   []int32
	classes classes

	// byRuntime lists, best rank first, the slots of the nodes that have a
	// runtime and are not barred.
	byRuntime map[string][]int32
	// byStem does it for the nodes that have a stem of a kind, see [wire.StemKey].
	byStem map[string][]int32
	// byLabel does it for the nodes that have a label.
	byLabel map[pair][]int32
	// byCode lists, in ascending order, the slots of the nodes that hold an
	// artifact.
	byCode map[wire.Digest][]int32
	// instances counts a version's instances on all nodes.
	instances map[wire.VersionID]spread
	// room knows what each node that is not barred has for a new instance, sizes
	// the capacity of all.
	room, sizes maxima
}

// NewSnapshot returns a snapshot of nodes; their order does not matter. Of two
// nodes with the same ID the later one counts.
func NewSnapshot(nodes ...Node) *Snapshot {
	s := &Snapshot{
		slots:     make(map[wire.NodeID]int32, len(nodes)),
		byRuntime: map[string][]int32{},
		byStem:    map[string][]int32{},
		byLabel:   map[pair][]int32{},
		byCode:    map[wire.Digest][]int32{},
		instances: map[wire.VersionID]spread{},
		classes:   newClasses(),
	}
	for _, n := range nodes {
		s.Put(n)
	}
	return s
}

// Len returns the number of nodes.
func (s *Snapshot) Len() int { return len(s.slots) }

// Node returns what is known of a node. Its slices and map are the snapshot's
// own, change with it, and must not be changed.
func (s *Snapshot) Node(id wire.NodeID) (n Node, ok bool) {
	slot, ok := s.slots[id]
	if !ok {
		return Node{}, false
	}
	return s.entries[slot].node, true
}

// Put adds a node, or replaces all that was known of it, what [Snapshot.Reserve]
// added included. It copies n's slices and maps.
func (s *Snapshot) Put(n Node) {
	slot, known := s.slots[n.ID]
	if !known {
		slot = s.newSlot(n.ID)
	}
	old := &s.entries[slot].node
	s.replaceCodes(slot, old.Codes, &n)
	s.countAll(old.Versions, s.classOf[slot], -1)
	if known && maps.Equal(old.Labels, n.Labels) {
		n.Labels = old.Labels
	} else {
		n.Labels = maps.Clone(n.Labels)
		s.relabel(slot, s.classes.join(n.Labels))
	}
	s.countAll(n.Versions, s.classOf[slot], 1)
	n.Versions = maps.Clone(n.Versions)
	if maps.Equal(old.Stems, n.Stems) {
		n.Stems = old.Stems
	} else {
		n.Stems = maps.Clone(n.Stems)
	}
	if slices.Equal(old.Runtimes, n.Runtimes) {
		n.Runtimes = old.Runtimes
	} else {
		n.Runtimes = slices.Clone(n.Runtimes)
	}
	s.store(slot, n)
}

// Remove forgets a node and reports whether it was known.
func (s *Snapshot) Remove(id wire.NodeID) bool {
	slot, known := s.slots[id]
	if !known {
		return false
	}
	old := s.entries[slot].node
	s.replaceCodes(slot, old.Codes, &Node{})
	s.countAll(old.Versions, s.classOf[slot], -1)
	s.relabel(slot, noClass)
	s.store(slot, Node{})
	s.room = s.room.with(slot, nothing)
	s.sizes = s.sizes.with(slot, nothing)
	s.entries[slot].used = false
	delete(s.slots, id)
	s.spare = append(s.spare, slot)
	return true
}

// Reserve adds one instance to a node. It reports whether the node is known.
func (s *Snapshot) Reserve(id wire.NodeID, c Claim) bool { return s.adjust(id, c, 1) }

// Release takes back what [Snapshot.Reserve] added. It reports whether the node
// is known.
func (s *Snapshot) Release(id wire.NodeID, c Claim) bool {
	c.Needs = wire.Resources{}.Minus(c.Needs)
	return s.adjust(id, c, -1)
}

func (s *Snapshot) adjust(id wire.NodeID, c Claim, instances int) bool {
	slot, known := s.slots[id]
	if !known {
		return false
	}
	n := s.entries[slot].node
	n.Reserved = n.Reserved.Plus(c.Needs)
	if n.Versions == nil {
		n.Versions = map[wire.VersionID]int{}
	}
	add(n.Versions, c.Version, instances)
	s.count(c.Version, s.classes.all[s.classOf[slot]].zone, instances)
	if c.Stem != "" {
		if n.Stems == nil {
			n.Stems = map[string]int{}
		}
		add(n.Stems, c.Stem, -instances)
	}
	s.store(slot, n)
	return true
}

func (s *Snapshot) newSlot(id wire.NodeID) int32 {
	var slot int32
	if last := len(s.spare) - 1; last >= 0 {
		slot, s.spare = s.spare[last], s.spare[:last]
	} else {
		slot = int32(len(s.entries)) //nolint:gosec // the node table bounds them
		s.entries = append(s.entries, entry{})
		s.ranks = append(s.ranks, rank{})
		s.classOf = append(s.classOf, noClass)
	}
	s.slots[id] = slot
	s.entries[slot].node.ID = id
	s.entries[slot].used = true
	s.ranks[slot].ring = ringOf(id)
	return slot
}

// store puts n into its slot and keeps the orders and maxima.
func (s *Snapshot) store(slot int32, n Node) {
	e := &s.entries[slot]
	r := rankOf(&n, s.ranks[slot].ring)
	relist(s, s.byRuntime, slot, r, listed(&e.node, e.node.Runtimes), listed(&n, n.Runtimes))
	stems := stemsOf(&n, e.stems)
	relist(s, s.byStem, slot, r, e.stems, stems)
	pairs := s.pairsOf(s.classOf[slot])
	relist(s, s.byLabel, slot, r, listed(&e.node, pairs), listed(&n, pairs))
	e.free, e.node, e.stems = n.Capacity.Minus(n.busy()), n, stems
	s.ranks[slot] = r
	s.sizes = s.sizes.with(slot, n.Capacity)
	if n.barred() {
		s.room = s.room.with(slot, nothing)
	} else {
		s.room = s.room.with(slot, e.free)
	}
}

// replaceCodes moves slot in byCode from old to n's codes.
func (s *Snapshot) replaceCodes(slot int32, old []wire.Digest, n *Node) {
	if slices.Equal(old, n.Codes) {
		n.Codes = old
		return
	}
	n.Codes = slices.Clone(n.Codes)
	for _, code := range old {
		holders := s.byCode[code]
		if at, found := slices.BinarySearch(holders, slot); found {
			setOrDelete(s.byCode, code, slices.Delete(holders, at, at+1))
		}
	}
	for _, code := range n.Codes {
		holders := s.byCode[code]
		if at, found := slices.BinarySearch(holders, slot); !found {
			s.byCode[code] = slices.Insert(holders, at, slot)
		}
	}
}

func (s *Snapshot) holds(code wire.Digest, slot int32) bool {
	_, holds := slices.BinarySearch(s.byCode[code], slot)
	return holds
}

// add changes a count and drops it at zero, so that what is gone takes no room.
func add[K comparable](counts map[K]int, key K, by int) {
	if n := counts[key] + by; n != 0 {
		counts[key] = n
	} else {
		delete(counts, key)
	}
}

func setOrDelete[K comparable](lists map[K][]int32, key K, list []int32) {
	if len(list) == 0 {
		delete(lists, key)
		return
	}
	lists[key] = list
}
