package builder

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/dayfly-run/dayfly/internal/bus"
	"github.com/dayfly-run/dayfly/internal/telemetry"
	"github.com/dayfly-run/dayfly/wire"
)

const (
	// flushEvery is how long what a build prints waits for more, and maxPiece bounds the
	// bytes of it in one message.
	flushEvery = 50 * time.Millisecond
	maxPiece   = 64 << 10
	// maxLive bounds what is passed on while a build runs, in bytes.
	maxLive = 1 << 20
	// maxDeaf is how many beats in a row nobody may have heard before a build that
	// nobody waits for is ended.
	maxDeaf = 2
)

const leftOut = "\n[dayfly: the rest of the build log was left out]\n"

// errDeserted is the cause that ends a build nobody waits for.
var errDeserted = errors.New("nobody waits for the build any more")

// report tells who asked for a build how it goes: what it prints, and, before that and
// meanwhile, that it is in hand. It is safe for concurrent use. Close ends it.
type report struct {
	conn *bus.Conn
	to   string // the inbox; empty for nobody
	log  *slog.Logger

	// ctx is the build's, and ends with errDeserted when nobody waits.
	ctx    context.Context //nolint:containedctx // a build outlives the message that asked for it
	cancel context.CancelCauseFunc
	loops  sync.WaitGroup

	mu      sync.Mutex // guards what follows
	pending []byte     // printed and not sent
	live    int        // bytes taken into pending so far
	whole   clip
}

// newReport begins to tell a requester that its build is in hand.
func newReport(ctx context.Context, conn *bus.Conn, to string, log *slog.Logger) *report {
	r := &report{conn: conn, to: to, log: log}
	r.ctx, r.cancel = context.WithCancelCause(ctx)
	if to != "" {
		r.loops.Go(r.beat)
		r.loops.Go(r.flushNowAndThen)
	}
	return r
}

// Write takes what a build prints. It never fails.
func (r *report) Write(p []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	_, _ = r.whole.Write(p)
	take := p[:min(len(p), maxLive-r.live)]
	r.live += len(take)
	r.pending = append(r.pending, take...)
	if r.live == maxLive && len(take) > 0 {
		r.pending = append(r.pending, leftOut...)
	}
	return len(p), nil
}

// printed is what the build printed, with its middle left out if it is long.
func (r *report) printed() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.whole.String()
}

// beat says that the build is in hand and hears whether somebody cares.
func (r *report) beat() {
	tick := time.NewTicker(wire.BuildBeatEvery)
	defer tick.Stop()
	for deaf := 0; ; {
		ctx, cancel := context.WithTimeout(r.ctx, wire.BuildBeatEvery)
		_, err := r.conn.Request(ctx, r.to, []byte("{}"))
		cancel()
		switch {
		case errors.Is(err, bus.ErrNoResponders):
			deaf++
		case err == nil:
			deaf = 0
		}
		if deaf == maxDeaf {
			r.cancel(errDeserted)
		}
		select {
		case <-tick.C:
		case <-r.ctx.Done():
			return
		}
	}
}

func (r *report) flushNowAndThen() {
	tick := time.NewTicker(flushEvery)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			r.flush(false)
		case <-r.ctx.Done():
			return
		}
	}
}

// flush sends what was printed since, but for the beginning of a character that is not
// whole yet, unless it is the last time.
func (r *report) flush(last bool) {
	for {
		piece := r.take(last)
		if piece == "" {
			return
		}
		r.send(wire.BuildProgress{Log: piece})
	}
}

func (r *report) take(last bool) string {
	r.mu.Lock()
	defer r.mu.Unlock()
	n := min(len(r.pending), maxPiece)
	if !last || n < len(r.pending) {
		n = wholeRunes(r.pending[:n])
	}
	piece := tidy(string(r.pending[:n]))
	r.pending = r.pending[n:]
	return piece
}

// wholeRunes is how many bytes of p do not end in the middle of a character.
func wholeRunes(p []byte) int {
	for back := 1; back < utf8.UTFMax && back <= len(p); back++ {
		if c := p[len(p)-back]; utf8.RuneStart(c) {
			if !utf8.FullRune(p[len(p)-back:]) {
				return len(p) - back
			}
			break
		}
	}
	return len(p)
}

// close sends the rest of the log and the end of the answer.
func (r *report) close(last wire.BuildProgress) {
	r.cancel(nil)
	r.loops.Wait()
	if r.to == "" {
		return
	}
	r.flush(true)
	r.send(last)
}

func (r *report) send(piece wire.BuildProgress) {
	data, err := json.Marshal(piece)
	if err == nil {
		err = r.conn.Publish(r.to, data)
	}
	if err != nil {
		r.log.Error("answer lost", telemetry.KeyError, err)
	}
}
