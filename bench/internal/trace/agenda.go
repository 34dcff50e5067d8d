package trace

import (
	"cmp"
	"container/heap"
	"time"
)

// Agenda holds what is still to come in a simulation. Its zero value holds nothing. It is
// not safe for concurrent use.
type Agenda[T any] struct {
	entries entries[T]
	added   int
}

// Add has something come at a moment, counted from the trace's beginning.
func (a *Agenda[T]) Add(at time.Duration, what T) {
	a.added++
	heap.Push(&a.entries, entry[T]{at, a.added, what})
}

// Next takes out what comes next, unless that is later than until; of what comes at the
// same moment that which was added first.
func (a *Agenda[T]) Next(until time.Duration) (at time.Duration, what T, ok bool) {
	if len(a.entries) == 0 || a.entries[0].at > until {
		return 0, what, false
	}
	next, _ := heap.Pop(&a.entries).(entry[T])
	return next.at, next.what, true
}

type entry[T any] struct {
	at    time.Duration
	order int // of what comes at the same moment
	what  T
}

// entries implements [heap.Interface].
type entries[T any] []entry[T]

func (e *entries[T]) Len() int      { return len(*e) }
func (e *entries[T]) Swap(i, j int) { (*e)[i], (*e)[j] = (*e)[j], (*e)[i] }

func (e *entries[T]) Less(i, j int) bool {
	a, b := &(*e)[i], &(*e)[j]
	return cmp.Or(cmp.Compare(a.at, b.at), cmp.Compare(a.order, b.order)) < 0
}

// Push is for [heap.Push].
func (e *entries[T]) Push(x any) {
	one, _ := x.(entry[T])
	*e = append(*e, one)
}

// Pop is for [heap.Pop].
func (e *entries[T]) Pop() any {
	last := len(*e) - 1
	one := (*e)[last]
	(*e)[last] = entry[T]{}
	*e = (*e)[:last]
	return one
}
