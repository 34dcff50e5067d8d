package intake

import (
	"context"
	"encoding/json"
	"maps"
	"sync"
	"time"

	"github.com/dayfly-run/dayfly/internal/bus"
	"github.com/dayfly-run/dayfly/internal/telemetry"
	"github.com/dayfly-run/dayfly/wire"
)

const (
	// consumerFresh is how long a queue that was there is taken to be there still.
	consumerFresh = 30 * time.Second
	// HintEvery is how often, at most, the events workers are told that a queue has events.
	// They keep it open for longer than that.
	HintEvery = time.Second
	// queuesKept is how many queues are remembered before those are forgotten that have had
	// no event for a while.
	queuesKept = 1024
)

// queues are those that had events a short while ago. It is safe for concurrent use.
type queues struct {
	mu     sync.Mutex // guards what follows
	recent map[wire.EventQueue]recent
	prune  int // how many there are before some are forgotten
}

// recent is what a process did last for a queue, and when.
type recent struct{ opened, hinted time.Time }

func (r recent) isFresh(now time.Time) bool { return now.Sub(r.opened) < consumerFresh }

// fresh reports whether a queue is known to have its consumer.
func (qs *queues) fresh(q wire.EventQueue, now time.Time) bool {
	qs.mu.Lock()
	defer qs.mu.Unlock()
	return qs.recent[q].isFresh(now)
}

// opened notes that a queue has its consumer.
func (qs *queues) opened(q wire.EventQueue, now time.Time) {
	qs.mu.Lock()
	defer qs.mu.Unlock()
	if len(qs.recent) >= qs.prune {
		maps.DeleteFunc(qs.recent, func(_ wire.EventQueue, r recent) bool { return !r.isFresh(now) })
		qs.prune = max(queuesKept, 2*len(qs.recent))
	}
	if qs.recent == nil {
		qs.recent = map[wire.EventQueue]recent{}
	}
	known := qs.recent[q]
	known.opened = now
	qs.recent[q] = known
}

// hint reports whether the workers are to be told of events in a queue, and notes that they
// are.
func (qs *queues) hint(q wire.EventQueue, now time.Time) bool {
	qs.mu.Lock()
	defer qs.mu.Unlock()
	known, ok := qs.recent[q]
	if now.Sub(known.hinted) < HintEvery {
		return false
	}
	if ok { // else it took long, and was forgotten meanwhile
		known.hinted = now
		qs.recent[q] = known
	}
	return true
}

// OpenQueue makes sure that a queue has its consumer.
func (in *Intake) OpenQueue(ctx context.Context, q wire.EventQueue) error {
	held := maxHeld
	if q.Partition > 0 { // one after the other: the next one waits for this one's end
		held = 1
	}
	if err := in.conn.EnsureConsumer(ctx, bus.ConsumerConfig{
		Stream: wire.StreamEvents, Name: q.Consumer(), Subject: q.Events(), AckWait: AckWait, MaxHeld: held,
	}); err != nil {
		return wire.Errorf(wire.CodeUnavailable, "the queue of %s could not be opened: %s", q.FunctionID, err)
	}
	in.queues.opened(q, time.Now())
	return nil
}

// hint tells the events workers that a queue has events, unless they were told a moment
// ago.
func (in *Intake) hint(q wire.EventQueue) {
	if !in.queues.hint(q, time.Now()) {
		return
	}
	data, err := json.Marshal(q)
	if err == nil {
		err = in.conn.Publish(wire.EventHintSubject, data)
	}
	if err != nil { // the workers look by themselves, a little later
		in.log.Warn("events workers not told of events", telemetry.KeyFunction, q.String(), telemetry.KeyError, err)
	}
}
