package client

import (
	"context"
	"errors"
	"iter"
	"time"

	"github.com/dayfly-run/dayfly/wire"
)

const (
	// followPause is how long it takes until a stream that broke is opened again;
	// doubled each time that fails, up to maxFollowPause.
	followPause    = 250 * time.Millisecond
	maxFollowPause = 5 * time.Second
)

// FollowLogs is [Client.Logs] with Follow set, which opens the stream again when it
// breaks or the server ends it, and goes on behind the last entry: nothing is missed and
// nothing comes twice. Each time it tells lost, which may be nil, why; nil stands for a
// server that ended the stream. It yields an error, as its last, when ctx is done, when
// the stream cannot be opened for the first time, or when the server refuses it.
func (c *Client) FollowLogs(ctx context.Context, ref string, options LogOptions, lost func(error)) iter.Seq2[wire.LogEntry, error] {
	return func(yield func(wire.LogEntry, error) bool) {
		f := follower{client: c, ref: ref, options: options, yield: yield}
		f.options.Follow = true
		for pause := followPause; ; pause = min(2*pause, maxFollowPause) {
			before := f.opened
			err := f.once(ctx)
			switch {
			case f.left:
				return
			case ctx.Err() != nil:
				yield(wire.LogEntry{}, context.Cause(ctx))
				return
			case f.opened == 0 || err != nil && !passing(err):
				yield(wire.LogEntry{}, err)
				return
			}
			if f.opened > before {
				pause = followPause
			}
			if lost != nil {
				lost(err)
			}
			select {
			case <-time.After(pause):
			case <-ctx.Done():
			}
		}
	}
}

// passing reports whether a stream that ended so may be opened later.
func passing(err error) bool {
	if e, ok := errors.AsType[*wire.Error](err); ok {
		return e.Code == wire.CodeUnavailable
	}
	if e, ok := errors.AsType[*ResponseError](err); ok {
		return e.Temporary()
	}
	return true // the connection
}

// follower is a stream of logs that is opened again and again.
type follower struct {
	client  *Client
	ref     string
	options LogOptions
	yield   func(wire.LogEntry, error) bool
	// opened counts how often the stream was open; left is set when nobody ranges any
	// more.
	opened int
	left   bool
}

// once reads the stream until it ends.
func (f *follower) once(ctx context.Context) (err error) {
	begun := func(at time.Time) {
		if f.opened++; f.opened > 1 || f.options.After != 0 {
			return
		}
		// Until there is an entry to go on behind, this moment is where to go on from.
		f.options.Since, f.options.Tail = at, wire.MaxLogTail
	}
	f.client.logs(ctx, f.ref, f.options, func(entry wire.LogEntry, failed error) bool {
		if err = failed; failed != nil {
			return false
		}
		if entry.Sequence != 0 {
			f.options.After = entry.Sequence
		}
		f.left = !f.yield(entry, nil)
		return !f.left
	}, begun)
	return err
}
