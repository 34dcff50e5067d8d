// Package pool keeps the instances of one node: which state each is in, what
// they hold, and which one a call gets or an eviction takes. It is pure: no
// clock, no I/O, no goroutine. It is not safe for concurrent use; its owner locks.
package pool

import (
	"fmt"
	"slices"
)

// State is where an instance is in its life.
type State uint8

// The states of an instance, in order of life.
const (
	// Binding: its container is being started.
	Binding State = iota
	// Warm: started and waiting for an event.
	Warm
	// Busy: running at least one event.
	Busy
	// Draining: it takes no more events and is being removed.
	Draining
	// Gone: removed; its resources are free.
	Gone
)

// String returns the state's name.
func (s State) String() string {
	if int(s) < len(names) {
		return names[s]
	}
	return fmt.Sprintf("state(%d)", uint8(s))
}

var names = [...]string{Binding: "binding", Warm: "warm", Busy: "busy", Draining: "draining", Gone: "gone"}

// allowed lists every move that an instance may make; all others are denied.
var allowed = [...][]State{
	Binding:  {Warm, Busy, Draining}, // Busy: the call that it was started for has it first
	Warm:     {Busy, Draining},
	Busy:     {Warm, Draining},
	Draining: {Gone},
	Gone:     {},
}

// CanMove reports whether an instance may go from one state to another.
func CanMove(from, to State) bool {
	if int(from) >= len(allowed) {
		return false
	}
	return slices.Contains(allowed[from], to)
}
