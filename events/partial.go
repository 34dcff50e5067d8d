package events

import (
	"context"
	"errors"
	"fmt"

	"github.com/google/uuid"

	"github.com/dayfly-run/dayfly/events/triggers"
	"github.com/dayfly-run/dayfly/internal/blob"
	"github.com/dayfly-run/dayfly/internal/dispatch"
	"github.com/dayfly-run/dayfly/internal/telemetry"
	"github.com/dayfly-run/dayfly/wire"
)

// errorTypeBatch is the type of a failure that a function reported of some messages.
const errorTypeBatch = "BatchItemFailures"

// takeRest puts what is left of an event that was done in part in the place of its
// payload.
func (w *Worker) takeRest(ctx context.Context, t *task) error {
	if !t.current() || t.entry.PayloadKey == "" {
		return nil
	}
	rest, err := w.deps.Store.GetBytes(ctx, t.entry.PayloadKey, wire.MaxAsyncPayload)
	if errors.Is(err, blob.ErrNotFound) && t.entry.Settled(t.event) {
		return nil // its end was told already, all but for the acknowledgement
	}
	if err != nil {
		return err
	}
	w.useRest(t, t.entry.PayloadKey, rest)
	return nil
}

// useRest makes an object's content the event's payload.
func (w *Worker) useRest(t *task, key string, rest []byte) {
	if t.event.PayloadKey != "" {
		t.garbage = append(t.garbage, t.event.PayloadKey)
	}
	t.event.PayloadBytes = int64(len(rest))
	if len(rest) > w.deps.Conn.MaxPayload()-wire.FrameHeadroom {
		t.event.PayloadKey, t.payload = key, nil
		return
	}
	t.event.PayloadKey, t.payload = "", rest
	t.garbage = append(t.garbage, key)
}

// undone is the failure of an attempt at a batch of messages that the function did not
// do whole; nil for none. Only the failed messages are left for the next attempt.
func (w *Worker) undone(ctx context.Context, t *task, result dispatch.Result) *wire.Error {
	if t.event.Source != wire.SourceQueue || result.Reply.Output.ResultBytes > wire.MaxSyncPayload {
		return nil
	}
	payload, body, err := t.payload, result.Body, error(nil)
	if len(body) == 0 {
		body, err = w.deps.Store.GetBytes(ctx, wire.OutputResultKey(t.function, t.event.Invocation), wire.MaxSyncPayload)
	}
	if err == nil && t.event.PayloadKey != "" {
		payload, err = w.deps.Store.GetBytes(ctx, t.event.PayloadKey, wire.MaxAsyncPayload)
	}
	if err != nil {
		return wire.Errorf(wire.CodeInternal, "what the function did could not be read: %s", err)
	}
	rest, failed, all, err := triggers.Remainder(payload, body)
	switch {
	case err != nil:
		return wire.AsError(err)
	case failed == 0:
		return nil
	case failed < all:
		t.rest = rest
	}
	return &wire.Error{
		Code: wire.CodeFunctionError, Type: errorTypeBatch, Message: fmt.Sprintf("the function failed at %d of %d messages", failed, all),
	}
}

// keepRest stores what an attempt left, so that the record can say so.
func (w *Worker) keepRest(ctx context.Context, t *task, r *wire.Record) error {
	if t.current() {
		r.PayloadKey = t.entry.PayloadKey
	}
	if t.rest == nil {
		return nil
	}
	key := wire.RestKey(t.event.Invocation, uuid.NewString())
	if err := w.deps.Store.PutBytes(ctx, key, t.rest, "application/json"); err != nil {
		return err
	}
	r.PayloadKey = key
	w.useRest(t, key, t.rest)
	return nil
}

// dropRest removes the rest that an attempt began with, when the next one has another.
func (w *Worker) dropRest(ctx context.Context, t *task, next string) {
	if t.current() && t.entry.PayloadKey != "" && t.entry.PayloadKey != next {
		w.remove(ctx, t, t.entry.PayloadKey)
	}
}

// dropGarbage removes all payloads of an event that is over.
func (w *Worker) dropGarbage(ctx context.Context, t *task) {
	for _, key := range t.garbage {
		w.remove(ctx, t, key)
	}
}

// remove removes a payload. What is left behind the sweep takes.
func (w *Worker) remove(ctx context.Context, t *task, key string) {
	if err := w.deps.Store.Delete(ctx, key); err != nil {
		t.log.Warn("payload left behind", "key", key, telemetry.KeyError, err)
	}
}
