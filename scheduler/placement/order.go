package placement

import (
	"cmp"
	"iter"
	"slices"
	"sort"
)

// listed returns the names under which the node stands in an order: a barred one
// stands nowhere.
func listed[K comparable](n *Node, names []K) []K {
	if n.barred() {
		return nil
	}
	return names
}

// stemsOf returns the kinds of which the node has a stem, before if these are the
// same.
func stemsOf(n *Node, before []string) []string {
	if n.barred() {
		return nil
	}
	count, same := 0, true
	for kind, ready := range n.Stems {
		if hasStem(kind, ready) {
			count++
			same = same && slices.Contains(before, kind)
		}
	}
	if same && count == len(before) {
		return before
	}
	kinds := make([]string, 0, count)
	for kind, ready := range n.Stems {
		if hasStem(kind, ready) {
			kinds = append(kinds, kind)
		}
	}
	slices.Sort(kinds)
	return kinds
}

// hasStem leaves out a kind without a name, which a request without one would take.
func hasStem(kind string, ready int) bool { return kind != "" && ready > 0 }

// relist takes the slot out of the orders old and into the orders next, where it
// stands with rank r, which is not stored yet.
func relist[K comparable](s *Snapshot, orders map[K][]int32, slot int32, r rank, old, next []K) {
	for i, name := range old {
		if !slices.Contains(old[:i], name) && !slices.Contains(next, name) {
			order := orders[name]
			at := s.search(order, slot, s.ranks[slot])
			setOrDelete(orders, name, slices.Delete(order, at, at+1))
		}
	}
	for i, name := range next {
		switch order := orders[name]; {
		case slices.Contains(next[:i], name):
		case slices.Contains(old, name):
			s.move(order, slot, r)
		default:
			orders[name] = slices.Insert(order, s.search(order, slot, r), slot)
		}
	}
}

// move shifts a slot of order to where it stands with rank r. Only what lies
// between the two places moves.
func (s *Snapshot) move(order []int32, slot int32, r rank) {
	if r == s.ranks[slot] {
		return
	}
	from, to := s.search(order, slot, s.ranks[slot]), s.search(order, slot, r)
	if to > from {
		to-- // its own old place is before the new one
		copy(order[from:to], order[from+1:to+1])
	} else {
		copy(order[to+1:from+1], order[to:from])
	}
	order[to] = slot
}

// search returns where the slot stands, or would stand, in order if its rank was
// r. That order is total: IDs are unique.
func (s *Snapshot) search(order []int32, slot int32, r rank) int {
	return sort.Search(len(order), func(i int) bool {
		other := s.ranks[order[i]]
		if c := other.compareLoad(r); c != 0 {
			return c > 0
		}
		if c := cmp.Compare(other.ring, r.ring); c != 0 {
			return c > 0
		}
		return s.entries[order[i]].node.ID >= s.entries[slot].node.ID
	})
}

// before reports whether a is better than b. Equally loaded nodes are taken in
// their order on the ring, starting at draw.
func (s *Snapshot) before(a, b int32, draw uint64) bool {
	ra, rb := s.ranks[a], s.ranks[b]
	if c := ra.compareLoad(rb); c != 0 {
		return c < 0
	}
	if c := cmp.Compare(ra.ring-draw, rb.ring-draw); c != 0 {
		return c < 0
	}
	return s.entries[a].node.ID < s.entries[b].node.ID
}

// best yields the slots of order, which is one of byRuntime, byStem or byLabel, best first
// in the sense of before.
func (s *Snapshot) best(order []int32, draw uint64) iter.Seq[int32] {
	return func(yield func(int32) bool) {
		for len(order) > 0 {
			tied := order[:s.tied(order)]
			order = order[len(tied):]
			start := sort.Search(len(tied), func(i int) bool { return s.ranks[tied[i]].ring >= draw })
			for _, slot := range tied[start:] {
				if !yield(slot) {
					return
				}
			}
			for _, slot := range tied[:start] {
				if !yield(slot) {
					return
				}
			}
		}
	}
}

// tied returns how many slots at the start of order are equally loaded.
func (s *Snapshot) tied(order []int32) int {
	first := s.ranks[order[0]]
	if len(order) == 1 || first.compareLoad(s.ranks[order[1]]) != 0 {
		return 1
	}
	return sort.Search(len(order), func(i int) bool { return first.compareLoad(s.ranks[order[i]]) != 0 })
}
