package bus

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"time"
)

const (
	// watchBeat is how often the server says that there is nothing new, and watchSilence
	// how long it may say nothing at all before the reading begins anew.
	watchBeat, watchSilence = 2 * time.Second, 5 * time.Second
	// watchPauseMin and watchPauseMax bound the growing pause before that, of which each
	// watcher waits a random part: all of a server's lose it at the same moment.
	watchPauseMin, watchPauseMax = 400 * time.Millisecond, 3200 * time.Millisecond
	// watchTries bounds the attempts to begin at all.
	watchTries = 3
	// watchIdle is how long the server keeps what nobody listens to any more.
	watchIdle = 30 * time.Second
)

// Watch calls handle for every key as it is, then once with ready, then for
// every change, one at a time and in order, until ctx is done or the returned
// stop is called. A reading that breaks off, with the connection or with the server that
// sends it, begins anew behind what was handled. What was written before the call is
// handled before ready, whichever server the keys come from.
func (b *Bucket) Watch(ctx context.Context, handle func(Entry), ready func()) (stop func(), err error) {
	return b.WatchKeys(ctx, ">", handle, ready)
}

// WatchKeys is [Bucket.Watch] of the keys that match a filter only; see [Bucket.Keys].
func (b *Bucket) WatchKeys(ctx context.Context, filter string, handle func(Entry), ready func()) (stop func(), err error) {
	return b.follow(ctx, watching{bucket: b, filter: filter, handle: handle, ready: ready})
}

// Updates is [Bucket.Watch] without the keys as they are: handle is called for what is
// written after the call only. It is not told of the removal of a key that it never heard
// of, if it was cut off from NATS for longer than removals are remembered, [MarkerTTL].
func (b *Bucket) Updates(ctx context.Context, handle func(Entry)) (stop func(), err error) {
	return b.follow(ctx, watching{bucket: b, filter: ">", handle: handle, updates: true})
}

// follow begins to watch and goes on until stop is called.
func (b *Bucket) follow(ctx context.Context, w watching) (stop func(), err error) {
	ctx, cancel := context.WithCancel(ctx)
	r, err := w.begin(ctx)
	for range watchTries - 1 { // a cluster that is busy with itself may drop a question
		if starting(err) {
			r, err = w.begin(ctx)
		}
	}
	if err != nil {
		cancel()
		return nil, fmt.Errorf("watch bucket %s: %w", b.kv.Bucket(), err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		w.run(ctx, r)
	}()
	return func() { cancel(); <-done }, nil
}

// watching is one watch of a bucket. It is for one goroutine.
type watching struct {
	bucket *Bucket
	filter string
	handle func(Entry)
	// ready is nil once it was called.
	ready func()
	// updates leaves out the keys as they are.
	updates bool
	// from is where the next reading begins, heard when the last one heard of the server,
	// by the time of day: a machine that sleeps keeps no other.
	from  start
	heard time.Time
	// known are the keys that handle was told of, and not of their removal. It is empty in
	// a bucket that does not remember removals.
	known map[string]struct{}
}

// begin opens the first reading.
func (w *watching) begin(ctx context.Context) (*reading, error) {
	last, err := w.bucket.newestOf(ctx, w.filter)
	if err != nil {
		return nil, err
	}
	w.known = map[string]struct{}{}
	w.from = start{filter: w.filter, reach: last}
	if w.updates {
		w.from = start{filter: w.filter, after: last, changes: true}
	}
	return w.bucket.read(ctx, w.from)
}

// run reads until ctx is done.
func (w *watching) run(ctx context.Context, r *reading) {
	for pause := watchPauseMin; ; {
		more, err := w.step(ctx, r)
		for more {
			pause = watchPauseMin
			more, err = w.step(ctx, r)
		}
		r.close()
		w.ended(r)
		for again := true; again; again = err != nil {
			select {
			case <-ctx.Done():
				return
			case <-time.After(rand.N(pause)): //nolint:gosec // no secret: it keeps watchers apart
				pause = min(2*pause, watchPauseMax)
			}
			w.bucket.conn.log.Debug("watch of a bucket begins anew", "bucket", w.bucket.kv.Bucket(), "error", err)
			var next *reading
			if next, err = w.resume(ctx); err == nil {
				r = next
			}
		}
	}
}

// step handles one thing that the server says; more is false when the reading has ended.
func (w *watching) step(ctx context.Context, r *reading) (more bool, err error) {
	e, more, err := r.next(ctx)
	switch {
	case err != nil || ctx.Err() != nil:
		return false, err
	case more:
		w.tell(e)
		return true, nil
	}
	if r.present != nil { // what went while nobody could say so
		for _, key := range slices.Sorted(maps.Keys(w.known)) {
			if _, there := r.present[key]; !there {
				w.tell(Entry{Key: key, Revision: r.revision, At: time.Now(), Deleted: true})
			}
		}
		r.present = nil
	}
	if w.ready != nil {
		w.ready()
		w.ready = nil
	}
	return true, nil
}

func (w *watching) tell(e Entry) {
	if e.Deleted {
		delete(w.known, e.Key)
	} else if w.bucket.markerTTL > 0 {
		w.known[e.Key] = struct{}{}
	}
	w.handle(e)
}

// ended says where to go on behind a reading.
func (w *watching) ended(r *reading) {
	w.heard = r.heard
	w.from.after = r.revision
	// One that has not told all that was there, and one that looks at all keys again, is
	// made again.
	w.from.changes = w.updates || r.revision > 0 && r.present == nil
	if w.ready == nil {
		w.from.reach = 0
	}
}

// resume opens a reading behind the last one. Where removals may have been forgotten
// meanwhile, all keys are looked at again.
func (w *watching) resume(ctx context.Context) (*reading, error) {
	if away := time.Now().Round(0).Sub(w.heard); w.bucket.markerTTL > 0 && away > w.bucket.markerTTL/2 {
		w.from.changes = false
	}
	if !w.from.changes {
		last, err := w.bucket.newestOf(ctx, w.filter)
		if err != nil {
			return nil, err
		}
		w.from.reach = last
	}
	return w.bucket.read(ctx, w.from)
}
