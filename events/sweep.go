package events

import (
	"context"
	"math/rand/v2"
	"time"

	"github.com/dayfly-run/dayfly/functions"
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
