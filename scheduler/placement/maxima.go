package placement

import "github.com/dayfly-run/dayfly/wire"

// nothing is less than any request needs.
var nothing = wire.Resources{MemoryBytes: -1, CPUMillis: -1, Instances: -1}

// maxima finds out quickly whether one of many amounts is enough. It is a binary
// tree over the slots: each node is the largest of its two children, in each
// dimension by itself. The children of node i are 2i and 2i+1; the second half are
// the slots.
type maxima []wire.Resources

func (m maxima) leaves() int { return len(m) / 2 }

// top is the most that any slot has, in each dimension by itself.
func (m maxima) top() wire.Resources {
	if len(m) == 0 {
		return nothing
	}
	return m[1]
}

// with gives a slot its amount and returns what m is from now on; a slot that was
// never set has nothing.
func (m maxima) with(slot int32, r wire.Resources) maxima {
	t := m
	for int(slot) >= t.leaves() {
		t = t.grown()
	}
	i := t.leaves() + int(slot)
	t[i] = r
	for i /= 2; i > 0; i /= 2 {
		if r = larger(t[2*i], t[2*i+1]); r == t[i] {
			break
		}
		t[i] = r
	}
	return t
}

// grown returns m with room for twice the slots.
func (m maxima) grown() maxima {
	old := m[m.leaves():]
	next := make(maxima, max(4*len(old), 2))
	half := next.leaves()
	for i := half + copy(next[half:], old); i < len(next); i++ {
		next[i] = nothing
	}
	for i := half - 1; i > 0; i-- {
		next[i] = larger(next[2*i], next[2*i+1])
	}
	return next
}

// any reports whether a slot has at least needs, which are not negative, and is ok
// besides.
func (m maxima) any(needs wire.Resources, ok func(slot int32) bool) bool {
	return len(m) > 0 && m.anyBelow(1, needs, ok)
}

func (m maxima) anyBelow(i int, needs wire.Resources, ok func(slot int32) bool) bool {
	switch {
	case !m[i].Fits(needs):
		return false
	case i >= m.leaves():
		return ok(int32(i - m.leaves())) //nolint:gosec // slots are int32
	}
	return m.anyBelow(2*i, needs, ok) || m.anyBelow(2*i+1, needs, ok)
}

func larger(a, b wire.Resources) wire.Resources {
	return wire.Resources{
		MemoryBytes: max(a.MemoryBytes, b.MemoryBytes),
		CPUMillis:   max(a.CPUMillis, b.CPUMillis),
		Instances:   max(a.Instances, b.Instances),
	}
}
