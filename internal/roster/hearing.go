package roster

import (
	"time"

	"github.com/dayfly-run/dayfly/wire"
)

// maxPause is how long who listens may have been paused and still have missed nothing.
const maxPause = wire.NodeLostAfter / 2

// Hearing knows since when its owner has heard all that was said: for one that was
// paused or had lost NATS, that a node was not heard does not mean that it was silent.
// It has no clock and is not safe for concurrent use.
type Hearing struct {
	looked, since time.Time
}

// Look says since when everything was heard. It is to be called several times within
// [wire.NodeLostAfter]; connected says that NATS can be reached now.
func (h *Hearing) Look(now time.Time, connected bool) time.Time {
	if !connected || now.Sub(h.looked) > maxPause {
		h.since = now
	}
	h.looked = now
	return h.since
}
