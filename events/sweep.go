package events

import (
	"context"
	"errors"
	"math/rand/v2"
	"time"

	"github.com/dayfly-run/dayfly/functions"
	"github.com/dayfly-run/dayfly/internal/bus"
	"github.com/dayfly-run/dayfly/internal/intake"
	"github.com/dayfly-run/dayfly/internal/telemetry"
	"github.com/dayfly-run/dayfly/wire"
)

const (
	// A sweep is made sweepParts times in a retention, but no more often than
	// minSweepPause and no less often than maxSweepPause.
	sweepParts    = 24
	minSweepPause = time.Minute
	maxSweepPause = 6 * time.Hour
	// payloadAge is when no event can need its payload any more: it waited as long as
	// events may, and lay among the dead letters.
	payloadAge = functions.MaxEventAge + intake.DeadLetterAge + 24*time.Hour
)

// sweepLoop removes what is kept no longer, from S3 and of queues. Every worker does it: to
// remove what another one removed is no error, and a listing costs little. Records go by
// themselves.
func (w *Worker) sweepLoop() {
	pause := min(max(w.deps.Intake.Retention()/sweepParts, minSweepPause), maxSweepPause)
	for {
		// Workers that were started together do not sweep together.
		wait := pause/2 + rand.N(pause) //nolint:gosec // no secret
		select {
		case <-w.taking.Done():
			return
		case <-time.After(wait):
		}
		w.sweep(w.taking, time.Now())
	}
}

// sweep removes what is too old at a moment.
func (w *Worker) sweep(ctx context.Context, now time.Time) {
	w.removeOlder(ctx, wire.AllOutputs, now.Add(-w.deps.Intake.Retention()))
	w.removeOlder(ctx, wire.AllPayloads, now.Add(-payloadAge))
	w.closeQueues(ctx)
}

// removeOlder removes the objects under a prefix that are older than a moment.
func (w *Worker) removeOlder(ctx context.Context, prefix string, before time.Time) {
	removed, err := w.deps.Store.DeleteOlder(ctx, prefix, before)
	switch {
	case err != nil && ctx.Err() == nil:
		w.log.Warn("old objects not all removed", "prefix", prefix, "removed", removed, telemetry.KeyError, err)
	case removed > 0:
		w.log.Info("old objects removed", "prefix", prefix, "removed", removed)
	}
}

// tidy removes from a queue the events that its consumer has behind it and that are over,
// and tells what the consumer has to do.
func (w *Worker) tidy(ctx context.Context, q wire.EventQueue) (bus.Backlog, error) {
	return w.deps.Conn.Passed(ctx, wire.StreamEvents, q.Consumer(), func(m bus.StoredMessage) error {
		var e wire.Event
		if _, err := wire.ParseFrame(m.Data, &e); err == nil {
			entry, err := w.records.Read(ctx, q.FunctionID, e.Invocation)
			if err != nil {
				return err
			}
			// A record that has expired says nothing any more.
			if !entry.Settled(e) && w.clock.age(time.Now(), m.StoredAt) < w.deps.Intake.Retention() {
				w.log.Error("an event is acknowledged that is not over", telemetry.KeyInvocation, string(e.Invocation), telemetry.KeyFunction, q.String())
				return nil
			}
		}
		w.log.Info("an event that is over was in its queue again", "subject", m.Subject)
		return w.deps.Conn.Discard(ctx, wire.StreamEvents, m.Sequence)
	})
}

// closeQueues removes the consumers of functions that are there no more, where no event
// waits. An event that is accepted meanwhile opens its queue again: the hint at it does, or
// the next look.
func (w *Worker) closeQueues(ctx context.Context) {
	var gone []wire.EventQueue
	err := w.deps.Conn.Consumers(ctx, wire.StreamEvents, func(name string) {
		if q, ok := wire.ParseEventQueue(name); ok && w.deserted(q) {
			gone = append(gone, q)
		}
	})
	removed := 0
	for _, q := range gone {
		if err != nil {
			break
		}
		var backlog bus.Backlog
		if backlog, err = w.tidy(ctx, q); err == nil && backlog == (bus.Backlog{}) {
			err = w.deps.Conn.RemoveSource(ctx, wire.StreamEvents, q.Consumer())
			removed++
		}
		if errors.Is(err, bus.ErrNotFound) { // another worker was faster
			err = nil
		}
	}
	switch {
	case err != nil && ctx.Err() == nil:
		w.log.Warn("queues of removed functions not all closed", "closed", removed, telemetry.KeyError, err)
	case removed > 0:
		w.log.Info("queues of removed functions closed", "closed", removed)
	}
}

// deserted reports whether a queue is not open here and its function not there.
func (w *Worker) deserted(q wire.EventQueue) bool {
	w.mu.Lock()
	open := w.queues[q] != nil
	w.mu.Unlock()
	if open {
		return false
	}
	_, _, err := w.deps.Functions.Resolve(wire.Ref{FunctionID: q.FunctionID, Qualifier: wire.LiveAlias}, functions.MainDraw)
	return err != nil && wire.AsError(err).Code == wire.CodeNotFound
}
