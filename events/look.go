package events

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/dayfly-run/dayfly/internal/bus"
	"github.com/dayfly-run/dayfly/internal/telemetry"
	"github.com/dayfly-run/dayfly/wire"
)

const (
	// lookFor is when a look ends that has many events to go through. The next one goes on
	// from there.
	lookFor = 5 * time.Second
	// lookRest is how much longer the pause between looks is than a look: NATS goes
	// through all events that wait.
	lookRest = 20
	// lookAgain is when a look is made again that failed at once.
	lookAgain = time.Second
)

// heardHint opens a queue that is said to have events.
func (w *Worker) heardHint(m bus.Msg) {
	var id wire.EventQueue
	if err := json.Unmarshal(m.Data, &id); err != nil {
		w.log.Warn("hint refused", telemetry.KeyError, err)
		return
	}
	w.serve(id, 1)
}

// look opens the queues that have events, whoever said so or did not, and learns what time
// it is. It is for one goroutine at a time.
func (w *Worker) look(ctx context.Context) error {
	for began := time.Now(); time.Since(began) < lookFor; {
		sent := time.Now()
		page, err := w.deps.Conn.SubjectsFrom(ctx, wire.StreamEvents, wire.AllEvents, w.lookFrom)
		if err != nil {
			return fmt.Errorf("look for events that wait: %w", err)
		}
		w.clock.observe(sent, time.Now(), page.At)
		w.serveAll(page)
		if w.lookFrom += len(page.Subjects); len(page.Subjects) == 0 || w.lookFrom >= page.Total {
			w.lookFrom = 0
			return nil
		}
	}
	return nil
}

// serveAll opens the queues of the events on a page.
func (w *Worker) serveAll(page bus.SubjectPage) {
	seen := map[string]struct{}{} // the subjects of a queue begin alike
	for subject := range page.Subjects {
		begin := subject[:strings.LastIndexByte(subject, '.')+1]
		if _, ok := seen[begin]; ok {
			continue
		}
		seen[begin] = struct{}{}
		if id, ok := wire.EventQueueOf(subject); ok {
			w.serve(id, 0)
		}
	}
}

// lookLoop looks again and again, and at once when hints may have been lost with the
// connection.
func (w *Worker) lookLoop() {
	pause := w.cfg.LookEvery
	for {
		lost := make(chan struct{})
		forget := w.deps.Conn.OnLost(func() { close(lost) })
		wait := time.NewTimer(pause)
		select {
		case <-w.taking.Done():
		case <-wait.C:
		case <-lost:
		}
		wait.Stop()
		forget()
		if w.taking.Err() != nil {
			return
		}
		began := time.Now()
		err := w.look(w.taking)
		took := time.Since(began)
		pause = max(w.cfg.LookEvery, lookRest*took)
		if err != nil && w.taking.Err() == nil {
			w.log.Warn("events that wait not looked for", telemetry.KeyError, err)
			pause = min(w.cfg.LookEvery, max(lookAgain, took))
		}
	}
}

// serve takes events off a queue from now on, unless that is done already. Hints keep it
// open for another while.
func (w *Worker) serve(id wire.EventQueue, hints int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.taking.Err() != nil {
		return
	}
	q := w.queues[id]
	if q == nil {
		q = newQueue(w, id)
		w.queues[id] = q
		w.asking.Go(func() { q.run(w.taking) })
	}
	q.hints += hints
}

// hintsOf counts the hints at a queue that is open.
func (w *Worker) hintsOf(q *queue) int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return q.hints
}

// leave closes a queue, unless there were more hints at it than that: the next one opens it
// again.
func (w *Worker) leave(q *queue, hints int) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if q.hints > hints {
		return false
	}
	delete(w.queues, q.id)
	return true
}
