package roster_test

import (
	"testing"
	"time"

	"github.com/dayfly-run/dayfly/internal/roster"
	"github.com/dayfly-run/dayfly/wire"
)

func TestHearing(t *testing.T) {
	const tick = wire.NodeLostAfter / 8
	var h roster.Hearing
	for i, look := range []struct {
		at, since time.Duration
		cut       bool
	}{
		{at: 0, since: 0},
		{at: tick, since: 0},
		{at: 2 * tick, since: 2 * tick, cut: true},
		{at: 3 * tick, since: 3 * tick, cut: true},
		{at: 4 * tick, since: 3 * tick},
		{at: 8 * tick, since: 3 * tick}, // a little late
		{at: 8*tick + wire.NodeLostAfter/2 + 1, since: 8*tick + wire.NodeLostAfter/2 + 1},
		{at: 13 * tick, since: 8*tick + wire.NodeLostAfter/2 + 1},
	} {
		if got := h.Look(begin.Add(look.at), !look.cut); !got.Equal(begin.Add(look.since)) {
			t.Errorf("look %d: since %s, want %s", i, got.Sub(begin), look.since)
		}
	}
}
