package events

import (
	"testing"

	"github.com/dayfly-run/dayfly/internal/bus"
)

// TestLeaveReachesAll: an event that was taken and is not in hand yet when the worker stops
// waits for no instance either.
func TestLeaveReachesAll(t *testing.T) {
	var h held
	_, early := h.add(t.Context(), bus.Delivery{}, "1")
	waits := func(e *holding) bool {
		select {
		case <-e.gone:
			return false
		default:
			return true
		}
	}
	if !waits(early) {
		t.Error("it left before the stop")
	}
	h.leave()
	_, late := h.add(t.Context(), bus.Delivery{}, "2")
	if waits(early) || waits(late) {
		t.Errorf("early waits: %t, late waits: %t", waits(early), waits(late))
	}
	for _, e := range []*holding{early, late} {
		h.release(e)
	}
	if left := h.list(); len(left) > 0 {
		t.Errorf("%d are in hand", len(left))
	}
}
