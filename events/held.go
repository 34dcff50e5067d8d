package events

import (
	"context"
	"encoding/json"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"github.com/dayfly-run/dayfly/internal/bus"
	"github.com/dayfly-run/dayfly/internal/intake"
	"github.com/dayfly-run/dayfly/internal/telemetry"
	"github.com/dayfly-run/dayfly/wire"
)

// cancelGrace is how long an attempt that was cancelled may take to say where it ran.
const cancelGrace = 2 * time.Second

// errCancelled is the cause that ends an attempt that was cancelled and said nothing.
var errCancelled = errors.New("the event was cancelled")

// held are the events that a worker has. It is safe for concurrent use.
type held struct {
	mu      sync.Mutex // guards what follows; never held across I/O
	events  map[*holding]struct{}
	leaving bool // none waits for an instance any more
}

// holding is one event that a worker has.
type holding struct {
	delivery bus.Delivery
	id       wire.InvocationID
	cut      context.CancelCauseFunc
	// gone is closed when the event waits for an instance no more: it is cancelled, or the
	// worker stops.
	gone   chan struct{}
	goOnce sync.Once
	// unwanted says that it is cancelled.
	unwanted atomic.Bool
}

// add takes an event into the worker's hands, until release.
func (h *held) add(ctx context.Context, d bus.Delivery, id wire.InvocationID) (context.Context, *holding) {
	ctx, cut := context.WithCancelCause(ctx)
	entry := &holding{delivery: d, id: id, cut: cut, gone: make(chan struct{})}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.events == nil {
		h.events = map[*holding]struct{}{}
	}
	h.events[entry] = struct{}{}
	if h.leaving { // it was taken just before the worker stopped
		entry.leave()
	}
	return ctx, entry
}

// leave ends the wait for an instance of all events in hand, and of those that are still
// to be added.
func (h *held) leave() {
	h.mu.Lock()
	h.leaving = true
	h.mu.Unlock()
	for _, entry := range h.list() {
		entry.leave()
	}
}

func (h *held) release(entry *holding) {
	h.mu.Lock()
	delete(h.events, entry)
	h.mu.Unlock()
	entry.cut(nil)
}

func (h *held) list() []*holding {
	h.mu.Lock()
	defer h.mu.Unlock()
	all := make([]*holding, 0, len(h.events))
	for entry := range h.events {
		all = append(all, entry)
	}
	return all
}

// cancelled reports whether somebody asked for the event's end.
func (e *holding) cancelled() bool { return e.unwanted.Load() }

// leave ends the event's wait for an instance.
func (e *holding) leave() { e.goOnce.Do(func() { close(e.gone) }) }

// cancel ends the event's wait for an instance at once; one that runs is ended by its
// node, which answers then.
func (e *holding) cancel() {
	if e.unwanted.CompareAndSwap(false, true) {
		e.leave()
		time.AfterFunc(cancelGrace, func() { e.cut(errCancelled) })
	}
}

func (w *Worker) heardCancel(m bus.Msg) {
	var req wire.CancelRequest
	if err := json.Unmarshal(m.Data, &req); err != nil {
		w.log.Warn("cancel request refused", telemetry.KeyError, err)
		return
	}
	for _, entry := range w.held.list() { // few requests, few events
		if entry.id == req.Invocation {
			entry.cancel()
		}
	}
}

// holdLoop says of all events in hand that they are.
func (w *Worker) holdLoop() {
	tick := time.NewTicker(intake.AckWait / 3)
	defer tick.Stop()
	for {
		select {
		case <-w.working.Done():
			return
		case <-tick.C:
			for _, entry := range w.held.list() {
				if err := entry.delivery.Hold(); err != nil {
					w.log.Warn("event not held; another worker may get it", telemetry.KeyInvocation, string(entry.id), telemetry.KeyError, err)
				}
			}
		}
	}
}
