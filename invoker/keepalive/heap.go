package keepalive

import (
	"container/heap"
	"time"
)

// A version stands in up to one heap of each kind.
const (
	byValue   = iota // those with an idle instance, the least valuable first
	byChanges        // the same, the value that changes next first
	byAhead          // those to be started ahead, the next first
	heaps
)

// nowhere is the place of a version that is not in a heap.
const nowhere = -1

// ordered is a heap of versions that knows where each stands.
type ordered struct {
	kind     int
	less     func(a, b *version) bool
	versions []*version
}

func (o *ordered) Len() int { return len(o.versions) }

func (o *ordered) Less(i, j int) bool { return o.less(o.versions[i], o.versions[j]) }

func (o *ordered) Swap(i, j int) {
	o.versions[i], o.versions[j] = o.versions[j], o.versions[i]
	o.versions[i].places[o.kind] = i
	o.versions[j].places[o.kind] = j
}

// Push is for [heap.Push].
func (o *ordered) Push(x any) {
	v, _ := x.(*version)
	v.places[o.kind] = len(o.versions)
	o.versions = append(o.versions, v)
}

// Pop is for [heap.Remove].
func (o *ordered) Pop() any {
	last := len(o.versions) - 1
	v := o.versions[last]
	o.versions[last] = nil
	o.versions = o.versions[:last]
	v.places[o.kind] = nowhere
	return v
}

// put moves a version to its right place, into the heap or out of it.
func (o *ordered) put(v *version, belongs bool) {
	at := v.places[o.kind]
	switch {
	case belongs && at == nowhere:
		heap.Push(o, v)
	case belongs:
		heap.Fix(o, at)
	case at != nowhere:
		heap.Remove(o, at)
	}
}

// first returns the version that comes first.
func (o *ordered) first() (*version, bool) {
	if len(o.versions) == 0 {
		return nil, false
	}
	return o.versions[0], true
}

func newHeaps() [heaps]*ordered {
	earlier := func(of func(*version) time.Time) func(a, b *version) bool {
		return func(a, b *version) bool {
			if c := of(a).Compare(of(b)); c != 0 {
				return c < 0
			}
			return a.seq < b.seq
		}
	}
	cheaper := func(a, b *version) bool {
		if a.value != b.value {
			return a.value < b.value
		}
		return a.seq < b.seq
	}
	return [heaps]*ordered{
		byValue:   {kind: byValue, less: cheaper},
		byChanges: {kind: byChanges, less: earlier(func(v *version) time.Time { return v.changes })},
		byAhead:   {kind: byAhead, less: earlier(func(v *version) time.Time { return v.ahead })},
	}
}

// candidate is an instance that could go next: the depth-th idle one of a version.
type candidate struct {
	value   float64
	version *version
	depth   int
}

// frontier is the heap of candidates while victims are read off the heap of
// versions, which stays as it is.
type frontier []candidate

func (f *frontier) Len() int      { return len(*f) }
func (f *frontier) Swap(i, j int) { (*f)[i], (*f)[j] = (*f)[j], (*f)[i] }

// Less needs no third key: a version has one candidate at a time.
func (f *frontier) Less(i, j int) bool {
	a, b := (*f)[i], (*f)[j]
	if a.value != b.value {
		return a.value < b.value
	}
	return a.version.seq < b.version.seq
}

// Push is for [heap.Push].
func (f *frontier) Push(x any) {
	c, _ := x.(candidate)
	*f = append(*f, c)
}

// Pop is for [heap.Pop].
func (f *frontier) Pop() any {
	last := len(*f) - 1
	c := (*f)[last]
	*f = (*f)[:last]
	return c
}
