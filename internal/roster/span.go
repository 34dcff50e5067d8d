package roster

import (
	"time"

	"github.com/dayfly-run/dayfly/wire"
)

// maxPause is how long nothing may be known between two moments of a span: a loss that
// nobody noticed lasted no longer, and so hides less than [wire.NodeLostAfter] of a
// node's words, the pause before the next one included.
const maxPause = wire.NodeLostAfter / 2

// Span is a time in which its owner knows that nothing escaped it. The zero value is
// empty.
type Span struct{ From, To time.Time }

// Extend returns the span with a moment at which that is known once more. After too long a
// pause it begins anew.
func (s Span) Extend(at time.Time) Span {
	if at.Sub(s.To) > maxPause {
		s.From = at
	}
	if at.After(s.To) {
		s.To = at
	}
	return s
}

// And is the time that is in both.
func (s Span) And(o Span) Span {
	if o.From.After(s.From) {
		s.From = o.From
	}
	if o.To.Before(s.To) {
		s.To = o.To
	}
	return s
}

// LostBefore is when a node must have been heard last, not to have been silent for longer
// than [wire.NodeLostAfter] by now. It is zero while nobody can be said to have been.
func (s Span) LostBefore() time.Time {
	before := s.To.Add(-wire.NodeLostAfter)
	if before.Before(s.From) {
		return time.Time{}
	}
	return before
}
