package intake

import (
	"context"
	"encoding/json"
	"errors"
	"time"

	"github.com/dayfly-run/dayfly/internal/bus"
	"github.com/dayfly-run/dayfly/internal/records"
	"github.com/dayfly-run/dayfly/internal/telemetry"
	"github.com/dayfly-run/dayfly/wire"
)

// cancelTries bounds how often a record is written anew because a worker was faster.
const cancelTries = 10

// Cancel ends an accepted event: one that waits is dropped, one that runs is killed
// where it runs. When it returns no error, the record says cancelled, and nobody runs
// the event again. Its errors are [*wire.Error]: not_found, conflict when the event is
// over already, and unavailable.
func (in *Intake) Cancel(ctx context.Context, id wire.InvocationID) (wire.Record, error) {
	stored, err := in.conn.LastMessage(ctx, wire.StreamEvents, wire.AnyEventSubject(id))
	if errors.Is(err, bus.ErrNotFound) {
		return in.cancelCall(ctx, id)
	}
	if err != nil {
		return wire.Record{}, wire.Errorf(wire.CodeUnavailable, "the event could not be looked up: %s", err)
	}
	var e wire.Event
	if _, err := wire.ParseFrame(stored.Data, &e); err != nil {
		return wire.Record{}, wire.Errorf(wire.CodeInternal, "event %s is damaged: %s", id, err)
	}
	record, err := in.recordCancelled(ctx, e)
	if err != nil {
		return wire.Record{}, err
	}
	// The record decides. What follows only spares work, and whoever gets the event
	// does it otherwise.
	err = in.tellCancelled(id)
	err = errors.Join(err, in.conn.Discard(ctx, wire.StreamEvents, stored.Sequence))
	if e.PayloadKey != "" {
		err = errors.Join(err, in.store.Delete(ctx, e.PayloadKey))
	}
	if err != nil {
		in.log.Warn("cancelled event not cleared", telemetry.KeyInvocation, string(id), telemetry.KeyError, err)
	}
	return record, nil
}

// cancelCall ends a call that is no accepted event, or tells that there is nothing left
// to end.
func (in *Intake) cancelCall(ctx context.Context, id wire.InvocationID) (wire.Record, error) {
	if err := in.tellCancelled(id); err != nil {
		return wire.Record{}, wire.Errorf(wire.CodeUnavailable, "nobody could be told: %s", err)
	}
	entry, err := in.records.Find(ctx, id)
	switch {
	case err != nil:
		return wire.Record{}, wire.Errorf(wire.CodeUnavailable, "the record could not be read: %s", err)
	case entry.Revision == 0:
		return wire.Record{}, wire.Errorf(wire.CodeNotFound, "there is no event %s that waits or runs", id)
	}
	return wire.Record{}, over(entry.Record)
}

func over(r wire.Record) error {
	return wire.Errorf(wire.CodeConflict, "invocation %s is over: it is %s", r.Invocation, r.State)
}

func (in *Intake) tellCancelled(id wire.InvocationID) error {
	data, err := json.Marshal(wire.CancelRequest{Invocation: id})
	if err != nil {
		return err
	}
	return in.conn.Publish(wire.CancelSubject, data)
}

func (in *Intake) recordCancelled(ctx context.Context, e wire.Event) (wire.Record, error) {
	ref, err := wire.ParseRef(e.Ref)
	if err != nil {
		return wire.Record{}, wire.Errorf(wire.CodeInternal, "event %s is damaged: %s", e.Invocation, err)
	}
	for range cancelTries {
		entry, err := in.records.Read(ctx, ref.FunctionID, e.Invocation)
		if err != nil {
			return wire.Record{}, wire.Errorf(wire.CodeUnavailable, "the record could not be read: %s", err)
		}
		if entry.Settled(e) {
			return wire.Record{}, over(entry.Record)
		}
		r := entry.Record
		if entry.Revision == 0 || r.Redrives != e.Redrives {
			r = records.OfEvent(e, ref.FunctionID, wire.StateCancelled)
			r.Attempts = e.Attempts
		}
		r.State, r.EndedAt, r.NextAttemptAt, r.Output = wire.StateCancelled, time.Now(), time.Time{}, nil
		r.Error = wire.Errorf(wire.CodeCancelled, "it was cancelled on request")
		_, err = in.records.Write(ctx, r, entry.Revision)
		if err == nil {
			return r, nil
		}
		if !errors.Is(err, bus.ErrConflict) {
			return wire.Record{}, wire.Errorf(wire.CodeUnavailable, "the record could not be written: %s", err)
		}
	}
	return wire.Record{}, wire.Errorf(wire.CodeConflict, "invocation %s is changing too fast; try again", e.Invocation)
}
