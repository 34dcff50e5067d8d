package roster

import "time"

// LookAt is a look of which NATS' answer is known.
func (h *Hearing) LookAt(at time.Time, waiting, lost int) Span { return h.look(at, waiting, lost) }
