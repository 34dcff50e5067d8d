package events

import (
	"context"
	"fmt"
	"strconv"

	"github.com/dayfly-run/dayfly/functions"
	"github.com/dayfly-run/dayfly/internal/bus"
	"github.com/dayfly-run/dayfly/internal/intake"
	"github.com/dayfly-run/dayfly/internal/telemetry"
	"github.com/dayfly-run/dayfly/wire"
)

// finish does what an end asks for and takes the event off its queue. The end is on
// disk. Every step may be made again, by whoever gets the event when this one does not
// come to the acknowledgement. body is the result, where it is at hand.
func (w *Worker) finish(ctx context.Context, t *task, r wire.Record, body []byte) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), ioBound)
	defer cancel()
	if err := w.tell(ctx, t, r, body); err != nil {
		w.again(t, troublePause, "its end could not be told", err)
		return
	}
	if err := t.delivery.Ack(ctx); err != nil { // it comes again, and ends here again
		t.log.Warn("event not acknowledged", telemetry.KeyError, err)
		return
	}
	w.metrics.done(r)
}

// tell lets all know of an end who must.
func (w *Worker) tell(ctx context.Context, t *task, r wire.Record, body []byte) error {
	if r.State == wire.StateDead {
		if err := w.keepDead(ctx, t, r); err != nil {
			return err
		}
	}
	if to := t.destination(r.State); to != nil {
		envelope, err := w.envelope(ctx, t, r, body)
		if err != nil {
			return fmt.Errorf("destination: %w", err)
		}
		if err := w.send(ctx, t, r, *to, envelope); err != nil {
			return fmt.Errorf("destination: %w", err)
		}
	}
	if t.event.PayloadKey != "" && r.State != wire.StateDead { // a dead letter needs it still
		t.garbage = append(t.garbage, t.event.PayloadKey)
	}
	w.dropGarbage(ctx, t)
	return nil
}

// keepDead puts an event that is given up among the dead letters.
func (w *Worker) keepDead(ctx context.Context, t *task, r wire.Record) error {
	letter := wire.DeadLetter{Event: t.event, DiedAt: r.EndedAt, Reason: r.Error}
	letter.Event.Attempts = r.Attempts
	frame, err := wire.AppendFrame(make([]byte, 0, 1024+len(t.payload)), letter, t.payload)
	if err == nil && len(frame) > w.deps.Conn.MaxPayload()-wire.FrameHeadroom/2 {
		// The history made it too large for one message.
		letter.Event.PayloadKey = wire.RequestKey(t.event.Invocation)
		if err = w.deps.Store.PutBytes(ctx, letter.Event.PayloadKey, t.payload, "application/octet-stream"); err == nil {
			frame, err = wire.AppendFrame(nil, letter, nil)
		}
	}
	if err == nil {
		_, err = w.deps.Conn.Store(ctx, bus.Message{
			Subject: wire.DeadLetterSubject(t.function, t.event.Invocation), ID: t.round("dead"), Data: frame,
		})
	}
	if err != nil {
		return fmt.Errorf("dead letter: %w", err)
	}
	return nil
}

// round names something that happens once in each life of an event.
func (t *task) round(what string) string {
	return string(t.event.Invocation) + "/" + what + "/" + strconv.Itoa(t.event.Redrives)
}

// destination is who wants to hear of an end; nil for nobody.
func (t *task) destination(s wire.State) *functions.Destination {
	switch s {
	case wire.StateSucceeded:
		return t.spec.OnSuccess
	case wire.StateDead, wire.StateFailed:
		return t.spec.OnFailure
	default:
		return nil
	}
}

// send gives an envelope to a destination. A function gets it as an event, once however
// often this is done; a subject gets it in the stream that keeps it, if one does.
func (w *Worker) send(ctx context.Context, t *task, r wire.Record, to functions.Destination, envelope []byte) error {
	if to.Subject != "" {
		return w.deps.Conn.Announce(ctx, bus.Message{
			Subject: to.Subject, ID: t.round("destination"), Headers: wire.CauseHeaders(t.event.Invocation, t.event.Depth+1), Data: envelope,
		})
	}
	_, err := w.deps.Intake.Accept(ctx, intake.Request{
		Event: wire.Event{
			Invocation: intake.DeriveID(r.EndedAt, t.round("destination")), Ref: to.Function, Source: wire.SourceFunction,
			Cause: t.event.Invocation, Depth: t.event.Depth + 1,
		},
		Payload: envelope,
	})
	return err
}
