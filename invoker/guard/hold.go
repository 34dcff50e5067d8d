package guard

import (
	"os"
	"slices"
	"sync"
	"time"
)

// Hold is one container that is watched. All methods are safe for concurrent use; on a
// nil Hold they do nothing.
type Hold struct {
	guard *Guard
	slot  int
	pidfd *os.File

	mu       sync.Mutex // guards what follows
	armed    []int64    // deadlines, the next one first
	released bool
}

func (h *Hold) watch() message { return message{Op: opWatch, Slot: h.slot, pidfd: h.pidfd} }

// Arm has the container killed [Slack] after a deadline that was not disarmed. Several
// may be armed at once.
func (h *Hold) Arm(deadline time.Time) {
	if h == nil {
		return
	}
	at := h.guard.clock.nanosAt(deadline)
	h.mu.Lock()
	defer h.mu.Unlock()
	i, _ := slices.BinarySearch(h.armed, at)
	h.armed = slices.Insert(h.armed, i, at)
	h.show()
}

// Disarm takes back one Arm of the same deadline.
func (h *Hold) Disarm(deadline time.Time) {
	if h == nil {
		return
	}
	at := h.guard.clock.nanosAt(deadline)
	h.mu.Lock()
	defer h.mu.Unlock()
	if i, found := slices.BinarySearch(h.armed, at); found {
		h.armed = slices.Delete(h.armed, i, i+1)
		h.show()
	}
}

// Overdue reports whether a deadline that is armed has passed at a moment.
func (h *Hold) Overdue(now time.Time) bool {
	if h == nil {
		return false
	}
	at := h.guard.clock.nanosAt(now)
	h.mu.Lock()
	defer h.mu.Unlock()
	return len(h.armed) > 0 && h.armed[0] <= at
}

// show puts the next deadline where the process sees it; h.mu is held.
func (h *Hold) show() {
	switch {
	case h.released: // the slot is another's
	case len(h.armed) == 0:
		h.guard.slots.store(h.slot, 0)
	default:
		h.guard.slots.store(h.slot, h.armed[0])
	}
}

// Release ends the watch of a container that has ended. It is idempotent.
func (h *Hold) Release() {
	if h == nil {
		return
	}
	h.mu.Lock()
	again := h.released
	if !again {
		h.guard.slots.store(h.slot, 0)
	}
	h.released = true
	h.mu.Unlock()
	if again {
		return
	}
	g := h.guard
	g.mu.Lock()
	delete(g.holds, h.slot)
	g.free = append(g.free, h.slot)
	g.tell(message{Op: opForget, Slot: h.slot})
	g.mu.Unlock()
	_ = h.pidfd.Close()
}
