package events

import (
	"context"
	"maps"
	"math/rand/v2"
	"slices"
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
	// tidyEvery is how often queues are looked through for what a server that was killed
	// has back.
	tidyEvery = time.Minute
)

// sweepLoop removes from S3 what is kept no longer. Every worker does it: to remove
// what another one removed is no error, and a listing costs little. Records go by
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

// tidyLoop removes events that are done from the queues, at the start and then again and
// again.
func (w *Worker) tidyLoop() {
	tick := time.NewTicker(tidyEvery)
	defer tick.Stop()
	for {
		w.mu.Lock()
		queues := slices.Collect(maps.Keys(w.queues))
		w.mu.Unlock()
		for _, q := range queues {
			if err := w.tidy(w.taking, q); err != nil && w.taking.Err() == nil {
				w.log.Warn("queue not tidied", telemetry.KeyFunction, q.String(), telemetry.KeyError, err)
			}
		}
		select {
		case <-w.taking.Done():
			return
		case <-tick.C:
		}
	}
}

// tidy removes from a queue what its consumer has behind it. A server that is killed after
// it took an acknowledgement may have the event again, which nobody would get any more.
func (w *Worker) tidy(ctx context.Context, q wire.EventQueue) error {
	ctx, cancel := context.WithTimeout(ctx, lookBound)
	defer cancel()
	return w.deps.Conn.Passed(ctx, wire.StreamEvents, q.Consumer(), func(m bus.StoredMessage) error {
		var e wire.Event
		if _, err := wire.ParseFrame(m.Data, &e); err == nil {
			entry, err := w.records.Read(ctx, q.FunctionID, e.Invocation)
			if err != nil {
				return err
			}
			// A record that has expired says nothing any more.
			if !entry.Settled(e) && time.Since(m.StoredAt) < w.deps.Intake.Retention() {
				w.log.Error("an event is acknowledged that is not over", telemetry.KeyInvocation, string(e.Invocation), telemetry.KeyFunction, q.String())
				return nil
			}
		}
		w.log.Info("an event that is over was in its queue again", "subject", m.Subject)
		return w.deps.Conn.Discard(ctx, wire.StreamEvents, m.Sequence)
	})
}
