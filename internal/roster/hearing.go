package roster

import (
	"context"
	"sync/atomic"
	"time"

	"github.com/dayfly-run/dayfly/internal/bus"
)

const (
	// answerBound is how long NATS may take to answer a look.
	answerBound = maxPause / 2
	// maxMarks bounds the looks whose words are not handled yet; further ones are left out.
	maxMarks = 64
)

// Hearing knows up to when its owner has heard all that nodes said: that a node was not
// heard does not mean that it was silent, where the listener was paused, had lost NATS,
// lost messages or is behind with them. Heard may be called at any time, Look by one
// goroutine.
type Hearing struct {
	handled atomic.Uint64
	lost    int
	cut     bool   // NATS was away since the newest mark
	marks   []mark // the oldest first
	span    Span
}

// mark is a look: what was said before it is heard once so many messages are handled.
type mark struct {
	at      time.Time
	handled uint64
	// gap says that messages before it were lost, or may have been.
	gap bool
}

// Heard notes that a message of the subscription was handled.
func (h *Hearing) Heard() { h.handled.Add(1) }

// Look returns the time in which everything was heard. It asks NATS, which takes half a
// second at most, and is to be called several times within [wire.NodeLostAfter].
func (h *Hearing) Look(ctx context.Context, conn *bus.Conn, sub *bus.Subscription) Span {
	ctx, cancel := context.WithTimeout(ctx, answerBound)
	defer cancel()
	at := time.Now()
	if conn.Flush(ctx) != nil {
		h.cut = h.cut || conn.Healthy() != nil // else the answer may just be late
		return h.catchUp()
	}
	// The answer came behind all that was said before the question.
	waiting, lost, err := sub.Backlog()
	if err != nil {
		return h.catchUp()
	}
	return h.look(at, waiting, lost)
}

// look notes that all that was said until then is handled, lost or waits.
func (h *Hearing) look(at time.Time, waiting, lost int) Span {
	if len(h.marks) < maxMarks {
		// A message that is handled between the two counts twice, which does no harm.
		until := h.handled.Load() + uint64(max(waiting, 0))
		h.marks = append(h.marks, mark{at: at, handled: until, gap: h.cut || lost != h.lost})
		h.cut, h.lost = false, lost
	}
	return h.catchUp()
}

// catchUp takes the marks whose messages are handled.
func (h *Hearing) catchUp() Span {
	handled, taken := h.handled.Load(), 0
	for _, m := range h.marks {
		if m.handled > handled {
			break
		}
		if m.gap {
			h.span = Span{}
		}
		h.span = h.span.Extend(m.at)
		taken++
	}
	h.marks = h.marks[:copy(h.marks, h.marks[taken:])]
	return h.span
}
