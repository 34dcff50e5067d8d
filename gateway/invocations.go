package gateway

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/dayfly-run/dayfly/internal/bus"
	"github.com/dayfly-run/dayfly/wire"
)

const (
	// maxWait bounds how long a question for a record is held.
	maxWait = time.Minute
	// cancelWait is how long a cancel waits for the end of a call that is no event.
	cancelWait = 5 * time.Second
	// lookAgain is when a record is read again of which a change was heard; from then on
	// in twice the time each.
	lookAgain = 10 * time.Millisecond
	// maxInvocations bounds a list of records.
	maxInvocations = 1000
)

type recordOutput struct{ Body wire.Record }

func (g *Gateway) getInvocation(ctx context.Context, in *struct {
	ID   string `path:"id" doc:"Invocation ID"`
	Wait string `query:"wait" doc:"Hold the answer until the invocation is over, for at most this long, as 20s; at most 1m"`
}) (*recordOutput, error) {
	id, err := parseInvocation(in.ID)
	if err != nil {
		return nil, newProblem(err)
	}
	var wait time.Duration
	if in.Wait != "" {
		if wait, err = time.ParseDuration(in.Wait); err != nil || wait < 0 {
			return nil, newProblem(wire.Errorf(wire.CodeInvalid, "wait=%s is no duration; write it as 20s", in.Wait))
		}
	}
	r, err := g.awaitRecord(ctx, id, min(wait, maxWait))
	if err != nil {
		return nil, newProblem(err)
	}
	return &recordOutput{Body: r}, nil
}

func (g *Gateway) cancelInvocation(ctx context.Context, in *struct {
	ID string `path:"id" doc:"Invocation ID"`
}) (*recordOutput, error) {
	id, err := parseInvocation(in.ID)
	if err != nil {
		return nil, newProblem(err)
	}
	r, err := g.deps.Intake.Cancel(ctx, id)
	if wire.HasCode(err, wire.CodeNotFound) {
		// A call that somebody waits for is in no queue, and has no record while it runs.
		// Its node was told.
		r, err = g.awaitRecord(ctx, id, cancelWait)
	}
	if err != nil {
		return nil, newProblem(err)
	}
	return &recordOutput{Body: r}, nil
}

func parseInvocation(text string) (wire.InvocationID, error) {
	id := wire.InvocationID(text)
	if !id.Valid() {
		return "", wire.Errorf(wire.CodeInvalid, "%q is no invocation ID; it is in the %s header of every answer", text, wire.HeaderInvocation)
	}
	return id, nil
}

// newerRecord is that of two records of an invocation, the stored one and the passing
// one, which says how it is now.
func newerRecord(stored, passing wire.Record) wire.Record {
	switch {
	case passing.Redrives != stored.Redrives:
		if passing.Redrives > stored.Redrives {
			return passing
		}
	case !stored.State.Final() && passing.StartedAt.After(stored.EndedAt): // the attempt after the one that failed
		return passing
	}
	return stored
}

// record reads what is known of an invocation.
func (g *Gateway) record(ctx context.Context, id wire.InvocationID) (wire.Record, error) {
	stored, wasStored, err := lastOf[wire.Record](ctx, g.deps.Conn, wire.StreamStoredRecords, wire.AnyStoredRecordSubject(id))
	if err != nil {
		return stored, err
	}
	passing, wasPassing, err := lastOf[wire.Record](ctx, g.deps.Conn, wire.StreamRecords, wire.AnyRecordSubject(id))
	if err != nil {
		return passing, err
	}
	waiting, waits, err := g.waitingEvent(ctx, id)
	if err != nil {
		return wire.Record{}, err
	}
	known := stored
	if wasPassing && wasStored {
		known = newerRecord(stored, passing)
	} else if wasPassing {
		known = passing
	}
	switch {
	case waits && (!wasPassing && !wasStored || waiting.Redrives > known.Redrives):
		return waiting, nil
	case wasPassing || wasStored:
		return known, nil
	}
	return wire.Record{}, wire.Errorf(wire.CodeNotFound, "nothing is known of invocation %s; it never reached a node, or its record has expired", id)
}

// waitingEvent is the record of an event that is in its queue.
func (g *Gateway) waitingEvent(ctx context.Context, id wire.InvocationID) (r wire.Record, waits bool, err error) {
	m, err := g.deps.Conn.LastMessage(ctx, wire.StreamEvents, wire.AnyEventSubject(id))
	if errors.Is(err, bus.ErrNotFound) {
		return r, false, nil
	}
	if err != nil {
		return r, false, wire.Errorf(wire.CodeUnavailable, "the queue of events could not be read: %s", err)
	}
	var e wire.Event
	if _, err := wire.ParseFrame(m.Data, &e); err != nil {
		return r, false, wire.Errorf(wire.CodeInternal, "the event is damaged: %s", err)
	}
	r = wire.Record{
		Invocation: id, State: wire.StateAccepted, Source: e.Source, AcceptedAt: e.AcceptedAt,
		Cause: e.Cause, Redrives: e.Redrives, Attempts: e.Attempts,
	}
	if ref, err := wire.ParseRef(e.Ref); err == nil {
		r.Version.FunctionID = ref.FunctionID
	}
	return r, true, nil
}

// lastOf reads the newest message of a subject as JSON.
func lastOf[T any](ctx context.Context, conn *bus.Conn, stream, subject string) (v T, found bool, err error) {
	data, err := conn.Last(ctx, stream, subject)
	switch {
	case errors.Is(err, bus.ErrNotFound):
		return v, false, nil
	case err != nil:
		return v, false, wire.Errorf(wire.CodeUnavailable, "the record could not be read: %s", err)
	}
	if err := json.Unmarshal(data, &v); err != nil {
		return v, false, wire.Errorf(wire.CodeInternal, "the record is damaged: %s", err)
	}
	return v, true, nil
}

// awaitRecord reads the record once the invocation is over, or as it is when the
// patience is.
func (g *Gateway) awaitRecord(ctx context.Context, id wire.InvocationID, patience time.Duration) (wire.Record, error) {
	if patience <= 0 {
		return g.record(ctx, id)
	}
	// Whoever stores a record sends it on its subject, where it is heard without a
	// consumer; what was sent before is there to be read.
	changed := make(chan struct{}, 1)
	for _, subject := range []string{wire.AnyStoredRecordSubject(id), wire.AnyRecordSubject(id)} {
		sub, err := g.deps.Conn.Subscribe(subject, "", func(bus.Msg) {
			select {
			case changed <- struct{}{}:
			default:
			}
		})
		if err != nil {
			return wire.Record{}, wire.Errorf(wire.CodeUnavailable, "the record could not be watched: %s", err)
		}
		defer sub.Stop(g.deps.Conn)
	}
	timer := time.NewTimer(patience)
	defer timer.Stop()
	look := time.NewTimer(patience)
	defer look.Stop()
	pause := patience
	for {
		r, err := g.record(ctx, id)
		if err != nil && !wire.HasCode(err, wire.CodeNotFound) || err == nil && r.State.Final() {
			return r, err
		}
		select {
		case <-changed: // it is heard before it is on disk, where it is read
			pause = lookAgain
			look.Reset(pause)
		case <-look.C:
			pause *= 2
			look.Reset(pause)
		case <-timer.C:
			return g.record(ctx, id)
		case <-g.draining:
			return r, err
		case <-ctx.Done():
			return r, err
		}
	}
}

type recordList struct {
	Body struct {
		Invocations []wire.Record `json:"invocations"`
	}
}

// listInvocations gives the newest records of a function.
func (g *Gateway) listInvocations(ctx context.Context, in *struct {
	Ref   string `path:"ref" doc:"Function"`
	State string `query:"state" enum:"accepted,running,succeeded,failed,dead,cancelled" doc:"Only those in this state"`
	Limit int    `query:"limit" minimum:"1" maximum:"1000" default:"50" doc:"How many, the newest ones"`
}) (*recordList, error) {
	f, _, err := g.resolve(in.Ref)
	if err != nil {
		return nil, newProblem(err)
	}
	newest, err := g.newestRecords(ctx, f.FunctionID)
	if err != nil {
		return nil, newProblem(err)
	}
	if err := g.addWaiting(ctx, f.FunctionID, newest); err != nil {
		return nil, newProblem(err)
	}
	out := &recordList{}
	out.Body.Invocations = make([]wire.Record, 0, len(newest))
	for _, r := range newest {
		if in.State == "" || string(r.State) == in.State {
			out.Body.Invocations = append(out.Body.Invocations, r)
		}
	}
	slices.SortFunc(out.Body.Invocations, func(a, b wire.Record) int { return cmp.Compare(b.Invocation, a.Invocation) })
	out.Body.Invocations = out.Body.Invocations[:min(len(out.Body.Invocations), in.Limit)]
	return out, nil
}

// newestRecords reads the newest records of a function.
func (g *Gateway) newestRecords(ctx context.Context, f wire.FunctionID) (map[wire.InvocationID]wire.Record, error) {
	newest := map[wire.InvocationID]wire.Record{}
	for _, from := range []struct{ stream, subject string }{
		{wire.StreamStoredRecords, wire.FunctionStoredRecords(f)},
		{wire.StreamRecords, wire.FunctionRecords(f)}, // the passing ones
	} {
		read := bus.ReadOptions{Stream: from.stream, Subject: from.subject, Tail: maxInvocations}
		err := g.deps.Conn.Read(ctx, read, func(data []byte) error {
			var r wire.Record
			if err := json.Unmarshal(data, &r); err != nil {
				return wire.Errorf(wire.CodeInternal, "a record is damaged: %s", err)
			}
			if stored, ok := newest[r.Invocation]; ok {
				r = newerRecord(stored, r)
			}
			newest[r.Invocation] = r
			return nil
		})
		if err != nil {
			return nil, readFailed(err)
		}
	}
	return newest, nil
}

// addWaiting adds the events of a function that are in its queues and were not tried
// yet. Their IDs tell when they came.
func (g *Gateway) addWaiting(ctx context.Context, f wire.FunctionID, newest map[wire.InvocationID]wire.Record) error {
	for partition := range wire.EventPartitions + 1 {
		q := wire.EventQueue{FunctionID: f, Partition: partition}
		subjects, err := g.deps.Conn.Subjects(ctx, wire.StreamEvents, q.Events())
		if err != nil {
			return readFailed(err)
		}
		for _, subject := range subjects[max(0, len(subjects)-maxInvocations):] {
			id := wire.InvocationID(subject[strings.LastIndexByte(subject, '.')+1:])
			if _, known := newest[id]; known {
				continue
			}
			r := wire.Record{Invocation: id, State: wire.StateAccepted}
			r.Version.FunctionID = f
			if u, err := uuid.Parse(string(id)); err == nil {
				r.AcceptedAt = time.Unix(u.Time().UnixTime())
			}
			newest[id] = r
		}
	}
	return nil
}

func readFailed(err error) error {
	if e, ok := errors.AsType[*wire.Error](err); ok {
		return e
	}
	return wire.Errorf(wire.CodeUnavailable, "what is stored could not be read: %s", err)
}
