package triggers

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"github.com/dayfly-run/dayfly/functions/sources"
	"github.com/dayfly-run/dayfly/internal/bus"
	"github.com/dayfly-run/dayfly/internal/telemetry"
)

// hands are the messages that this worker has taken and not done with. It is safe for
// concurrent use.
type hands struct {
	mu   sync.Mutex // guards what follows; never held across I/O
	held map[*bus.Delivery]struct{}
}

func (h *hands) take(d *bus.Delivery) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.held == nil {
		h.held = map[*bus.Delivery]struct{}{}
	}
	h.held[d] = struct{}{}
}

func (h *hands) drop(d *bus.Delivery) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.held, d)
}

func (h *hands) all() []*bus.Delivery {
	h.mu.Lock()
	defer h.mu.Unlock()
	all := make([]*bus.Delivery, 0, len(h.held))
	for d := range h.held {
		all = append(all, d)
	}
	return all
}

// keep tells the server again and again that the messages are being worked on.
func (h *hands) keep(ctx context.Context, log *slog.Logger) {
	tick := time.NewTicker(sources.AckWait / 3)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		for _, d := range h.all() {
			if err := d.Hold(); err != nil { // it is given out again, and its event is known then
				log.Warn("message not kept", "subject", d.Subject, telemetry.KeyError, err)
				break
			}
		}
	}
}
