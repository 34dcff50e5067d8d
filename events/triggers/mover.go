package triggers

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	"github.com/dayfly-run/dayfly/functions"
	"github.com/dayfly-run/dayfly/functions/sources"
	"github.com/dayfly-run/dayfly/internal/bus"
	"github.com/dayfly-run/dayfly/internal/intake"
	"github.com/dayfly-run/dayfly/internal/telemetry"
	"github.com/dayfly-run/dayfly/wire"
)

const (
	// idleWait is how long one question for messages stays open.
	idleWait = 20 * time.Second
	// atOnce bounds the messages of one trigger that are being accepted.
	atOnce = 128
	// maxBatchBytes is where a batch ends before it has its size.
	maxBatchBytes = 4 << 20
	// troublePause is the first pause after a failure; it doubles up to maxPause.
	troublePause, maxPause = 500 * time.Millisecond, 15 * time.Second
	// acceptBound limits accepting one event.
	acceptBound = time.Minute
)

// mover takes the messages of one trigger.
type mover struct {
	triggers *Triggers
	function wire.FunctionID
	trigger  functions.Trigger
	source   bus.SourceConfig
	// schedule is that of a cron trigger.
	schedule functions.Schedule
	log      *slog.Logger

	cancel context.CancelFunc
	done   chan struct{}
}

func newMover(t *Triggers, f wire.FunctionID, trigger functions.Trigger) *mover {
	source := sources.ConsumerOf(f, trigger)
	return &mover{
		triggers: t, function: f, trigger: trigger, source: source, done: make(chan struct{}),
		log: t.log.With(telemetry.KeyFunction, f.String(), "trigger", string(trigger.ID())),
	}
}

// run takes messages until ctx is done. Whatever fails is tried again.
func (m *mover) run(ctx context.Context) {
	defer close(m.done)
	for pause := troublePause; ; pause = min(2*pause, maxPause) {
		err := m.take(ctx)
		if ctx.Err() != nil {
			return
		}
		if errors.Is(err, bus.ErrNotFound) {
			m.triggers.askMend()
		} else {
			m.log.Warn("trigger waits", telemetry.KeyError, err, "pause", pause)
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(pause):
		}
	}
}

// take takes messages until something fails.
func (m *mover) take(ctx context.Context) error {
	if c := m.trigger.Cron; c != nil {
		schedule, err := functions.ParseSchedule(c.Schedule, c.Timezone)
		if err != nil {
			return err
		}
		m.schedule = schedule
	}
	consumer, err := m.triggers.deps.Conn.Consumer(ctx, m.source.Stream, m.source.Name)
	if err != nil {
		return err
	}
	q := m.trigger.Queue
	if q == nil || q.Batch.Size == 1 {
		return m.takeEach(ctx, consumer)
	}
	for err == nil && ctx.Err() == nil {
		err = m.takeBatch(ctx, consumer, q.Batch)
	}
	return err
}

// takeEach makes an event of every message, many at once. The server gives out those of
// an ordered trigger one at a time.
func (m *mover) takeEach(ctx context.Context, consumer *bus.Consumer) (err error) {
	var working sync.WaitGroup
	defer working.Wait()
	room := make(chan struct{}, atOnce)
	for err == nil && ctx.Err() == nil {
		err = consumer.Fetch(ctx, atOnce, idleWait, func(d bus.Delivery) {
			m.triggers.hands.take(&d)
			room <- struct{}{}
			working.Go(func() {
				m.handle(ctx, []*bus.Delivery{&d})
				<-room
			})
		})
	}
	return err
}

// takeBatch gathers messages and makes an event of them.
func (m *mover) takeBatch(ctx context.Context, consumer *bus.Consumer, spec functions.BatchSpec) error {
	var batch []*bus.Delivery
	add := func(d bus.Delivery) {
		m.triggers.hands.take(&d)
		batch = append(batch, &d)
	}
	err := consumer.Fetch(ctx, 1, idleWait, add)
	if err != nil || len(batch) == 0 {
		return err
	}
	for ends := time.Now().Add(spec.Window()); err == nil && len(batch) < spec.Size && ctx.Err() == nil; {
		left := time.Until(ends)
		if left <= 0 {
			err = consumer.FetchReady(ctx, spec.Size-len(batch), add)
			break
		}
		err = consumer.Fetch(ctx, spec.Size-len(batch), left, add)
	}
	for _, part := range split(batch) {
		m.handle(ctx, part)
	}
	return err
}

// split divides a batch where it would be too large, and keeps messages that were given
// out before apart from new ones: a batch whose end got lost comes again as it was.
func split(batch []*bus.Delivery) (parts [][]*bus.Delivery) {
	begin, bytes := 0, 0
	for i, d := range batch {
		if i > begin && (bytes+len(d.Data) > maxBatchBytes || (d.Count > 1) != (batch[i-1].Count > 1)) {
			parts, begin, bytes = append(parts, batch[begin:i]), i, 0
		}
		bytes += len(d.Data)
	}
	return append(parts, batch[begin:])
}

// handle makes one event of messages and acknowledges them. What fails comes again.
func (m *mover) handle(ctx context.Context, batch []*bus.Delivery) {
	defer func() {
		for _, d := range batch {
			m.triggers.hands.drop(d)
		}
	}()
	if ctx.Err() != nil {
		m.again(batch, 0)
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), acceptBound)
	defer cancel()
	request, wanted, err := m.request(ctx, batch)
	if err == nil && wanted {
		var accepted intake.Accepted
		if accepted, err = m.triggers.deps.Intake.Accept(ctx, request); err == nil {
			m.log.Debug("trigger made an event", telemetry.KeyInvocation, string(accepted.Invocation), "messages", len(batch), "repeated", accepted.Repeated)
		}
	}
	if err != nil {
		pause := max(troublePause, time.Duration(wire.AsError(err).RetryAfterMillis)*time.Millisecond)
		m.log.Warn("trigger tries again", telemetry.KeyError, err, "messages", len(batch), "pause", pause)
		m.again(batch, pause)
		return
	}
	for _, d := range batch {
		if err := d.Ack(ctx); err != nil { // it comes again, and its event is known then
			m.log.Warn("message not acknowledged", "subject", d.Subject, telemetry.KeyError, err)
		}
	}
}

// again gives messages back for a while.
func (m *mover) again(batch []*bus.Delivery, pause time.Duration) {
	for _, d := range batch {
		if err := d.Again(pause); err != nil { // it comes back by itself
			m.log.Debug("message not given back", "subject", d.Subject, telemetry.KeyError, err)
		}
	}
}

// request is the event that messages make; wanted is false when they make none.
func (m *mover) request(ctx context.Context, batch []*bus.Delivery) (r intake.Request, wanted bool, err error) {
	switch {
	case m.trigger.Cron != nil:
		return m.tick(ctx, batch[0])
	case m.trigger.Bucket != nil:
		return m.notification(batch[0])
	default:
		return m.messages(batch)
	}
}

// event begins an event, which is always the same for the same parts and moment.
func (m *mover) event(source wire.Source, at time.Time, parts ...string) wire.Event {
	parts = append([]string{string(source), m.function.String(), string(m.trigger.ID())}, parts...)
	return wire.Event{Invocation: intake.DeriveID(at, parts...), Ref: functionRef(m.function), Source: source}
}
