package intake

import (
	"context"
	"errors"

	"github.com/dayfly-run/dayfly/internal/bus"
	"github.com/dayfly-run/dayfly/wire"
)

// Redrive puts a dead letter back into its function's queue, under its own ID and with
// its history, and takes it off the dead letters. Its errors are those of
// [Intake.Accept], not_found, and conflict when it was tried too often.
func (in *Intake) Redrive(ctx context.Context, f wire.FunctionID, id wire.InvocationID) error {
	letter, stored, payload, err := in.deadLetter(ctx, f, id)
	if err != nil {
		return err
	}
	e := letter.Event
	if len(e.Attempts) >= wire.MaxAttempts {
		return wire.Errorf(wire.CodeConflict, "event %s was tried %d times; publish it anew", id, len(e.Attempts))
	}
	e.Redrives++
	if _, err := in.Accept(ctx, Request{Event: e, Payload: payload}); err != nil {
		return err
	}
	// A repeat of this is the same redrive and adds no event, so that a crash before
	// this line harms nothing.
	if err := in.conn.Discard(ctx, wire.StreamDeadLetters, stored.Sequence); err != nil {
		return wire.Errorf(wire.CodeUnavailable, "event %s waits again, but its dead letter could not be removed: %s", id, err)
	}
	return nil
}

// Bury removes a dead letter for good, with its payload.
func (in *Intake) Bury(ctx context.Context, f wire.FunctionID, id wire.InvocationID) error {
	letter, stored, _, err := in.deadLetter(ctx, f, id)
	if err != nil {
		return err
	}
	if letter.Event.PayloadKey != "" {
		err = in.store.Delete(ctx, letter.Event.PayloadKey)
	}
	if err == nil {
		err = in.conn.Discard(ctx, wire.StreamDeadLetters, stored.Sequence)
	}
	if err != nil {
		return wire.Errorf(wire.CodeUnavailable, "the dead letter could not be removed: %s", err)
	}
	return nil
}

func (in *Intake) deadLetter(ctx context.Context, f wire.FunctionID, id wire.InvocationID) (letter wire.DeadLetter, stored bus.StoredMessage, payload []byte, err error) {
	stored, err = in.conn.LastMessage(ctx, wire.StreamDeadLetters, wire.DeadLetterSubject(f, id))
	switch {
	case errors.Is(err, bus.ErrNotFound):
		err = wire.Errorf(wire.CodeNotFound, "function %s has no dead letter %s", f, id)
	case err != nil:
		err = wire.Errorf(wire.CodeUnavailable, "the dead letter could not be read: %s", err)
	default:
		if payload, err = wire.ParseFrame(stored.Data, &letter); err != nil {
			err = wire.Errorf(wire.CodeInternal, "dead letter %s is damaged: %s", id, err)
		}
	}
	return letter, stored, payload, err
}
