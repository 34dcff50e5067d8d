package events

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/dayfly-run/dayfly/functions"
	"github.com/dayfly-run/dayfly/internal/bus"
	"github.com/dayfly-run/dayfly/internal/telemetry"
	"github.com/dayfly-run/dayfly/wire"
)

const (
	// fetchMost bounds the events that one question asks for.
	fetchMost = 64
	// fetchPause stands after a question that failed.
	fetchPause = 250 * time.Millisecond
	// maxSlots bounds the events of one queue that a worker runs at once.
	maxSlots = 128
	// ahead is how many events are held for each that the function can run at once: what
	// is done before and after an attempt must not leave instances idle.
	ahead = 2
	// maxRefused bounds the pause of a queue whose function takes no events now.
	maxRefused = 10 * time.Second
	// tidyEvery is how often a queue that stays open is looked through for what a server
	// that was killed has back.
	tidyEvery = time.Minute
)

// queue takes the events of one queue while it is open.
type queue struct {
	worker   *Worker
	id       wire.EventQueue
	consumer *bus.Consumer
	tidyAt   time.Time // of who runs it
	hints    int       // guarded by the worker's mu

	mu       sync.Mutex // guards what follows
	running  int
	refusals int           // attempts that were refused, one after the other
	until    time.Time     // nothing is taken before
	changed  chan struct{} // has one when something above changed
}

func newQueue(w *Worker, id wire.EventQueue) *queue {
	return &queue{
		worker: w, id: id, consumer: w.deps.Conn.ConsumerNamed(wire.StreamEvents, id.Consumer()),
		tidyAt: time.Now().Add(tidyEvery), changed: make(chan struct{}, 1),
	}
}

// run takes events until ctx is done, or until the queue is empty and nothing happens in it.
func (q *queue) run(ctx context.Context) {
	for missing := false; ; {
		n, ok := q.await(ctx)
		if !ok {
			return
		}
		hints, taken := q.worker.hintsOf(q), 0
		err := q.consumer.Fetch(ctx, n, q.worker.cfg.Idle, func(d bus.Delivery) {
			taken++
			q.take(d)
		})
		if err == nil {
			missing = false
		}
		switch {
		case ctx.Err() != nil:
			return
		case errors.Is(err, bus.ErrNotFound) && !missing: // it was removed with its function, or never made
			missing = true // once; one that is still missing then gets a pause
			err = q.worker.deps.Intake.OpenQueue(ctx, q.id)
		case err == nil && taken == 0 && !q.busy() && q.worker.hintsOf(q) == hints:
			var empty bool
			if empty, err = q.tidy(ctx); empty && q.worker.leave(q, hints) {
				return
			}
		case err == nil && time.Now().After(q.tidyAt):
			_, err = q.tidy(ctx)
		}
		if err == nil {
			continue
		}
		missing = false
		if !q.rest(ctx, err) {
			return
		}
	}
}

// rest waits a little after a failure. It reports whether the queue is still wanted.
func (q *queue) rest(ctx context.Context, err error) bool {
	if ctx.Err() != nil {
		return false
	}
	q.worker.log.Warn("no events taken; trying again", telemetry.KeyFunction, q.id.String(), telemetry.KeyError, err)
	select {
	case <-ctx.Done():
		return false
	case <-time.After(fetchPause):
		return true
	}
}

// busy reports whether some of the queue's events run here.
func (q *queue) busy() bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.running > 0
}

// tidy removes from the queue what its consumer has behind it, and reports whether there is
// nothing else: none waits, and nobody holds one. A server that is killed after it took an
// acknowledgement may have the event again, which nobody would get any more.
func (q *queue) tidy(ctx context.Context) (empty bool, err error) {
	q.tidyAt = time.Now().Add(tidyEvery)
	ctx, cancel := context.WithTimeout(ctx, ioBound)
	defer cancel()
	backlog, err := q.worker.tidy(ctx, q.id)
	return err == nil && backlog == bus.Backlog{}, err
}

// await returns how many events may be asked for, once any may.
func (q *queue) await(ctx context.Context) (n int, ok bool) {
	for {
		q.mu.Lock()
		free, pause := q.slots()-q.running, time.Until(q.until)
		idle := q.running == 0
		q.mu.Unlock()
		if free > 0 && pause <= 0 {
			if n := q.worker.allowance(min(free, fetchMost), idle); n > 0 {
				return n, true
			}
			pause = fetchPause // others have them all
		}
		var timer <-chan time.Time
		if pause > 0 {
			timer = time.After(pause)
		}
		select {
		case <-q.changed:
		case <-timer:
		case <-ctx.Done():
			return 0, false
		}
	}
}

// slots is how many of the queue's events may run at once.
func (q *queue) slots() int {
	if q.id.Partition > 0 {
		return 1
	}
	_, v, err := q.worker.deps.Functions.Resolve(wire.Ref{FunctionID: q.id.FunctionID, Qualifier: wire.LiveAlias}, functions.MainDraw)
	if err != nil {
		return functions.DefaultMaxInstances
	}
	return min(maxSlots, ahead*max(1, v.Spec.MaxInstances)*max(1, v.Spec.Concurrency))
}

// take begins with an event.
func (q *queue) take(d bus.Delivery) {
	q.mu.Lock()
	q.running++
	q.mu.Unlock()
	w := q.worker
	w.spend(1)
	w.running.Go(func() {
		defer func() {
			w.spend(-1)
			q.mu.Lock()
			q.running--
			q.mu.Unlock()
			q.signal()
		}()
		w.handle(q, d)
	})
}

func (q *queue) signal() {
	select {
	case q.changed <- struct{}{}:
	default:
	}
}

// refused notes that the function takes no events now, and returns how often that was so
// in a row. The whole queue waits, because the others would be refused as well.
func (q *queue) refused() int {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.refusals++
	return q.refusals
}

func (q *queue) pause(d time.Duration) {
	q.mu.Lock()
	q.until = time.Now().Add(min(d, maxRefused))
	q.mu.Unlock()
}

// ran notes that the function takes events.
func (q *queue) ran() {
	q.mu.Lock()
	q.refusals, q.until = 0, time.Time{}
	q.mu.Unlock()
	q.signal()
}

// allowance is how many of n events may be asked for, so that the worker holds no more
// than it may; a queue of which none runs gets one in any case. Questions that stand
// already bring theirs beyond it.
func (w *Worker) allowance(n int, idle bool) int {
	w.mu.Lock()
	defer w.mu.Unlock()
	if n = min(n, w.budget); n <= 0 && idle {
		n = 1
	}
	return n
}

// spend counts n more events in hand.
func (w *Worker) spend(n int) {
	w.mu.Lock()
	w.budget -= n
	w.mu.Unlock()
}
