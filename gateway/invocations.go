package gateway

import (
	"context"
	"errors"
	"time"

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

// record reads what is known of an invocation.
func (g *Gateway) record(ctx context.Context, id wire.InvocationID) (wire.Record, error) {
	r, err := g.records.Latest(ctx, id)
	switch {
	case errors.Is(err, bus.ErrNotFound):
		return r, wire.Errorf(wire.CodeNotFound, "nothing is known of invocation %s; it never reached a node, or its record has expired", id)
	case err != nil:
		return r, readFailed(err)
	}
	return r, nil
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
	newest, err := g.records.List(ctx, f.FunctionID)
	if err != nil {
		return nil, newProblem(readFailed(err))
	}
	out := &recordList{}
	out.Body.Invocations = make([]wire.Record, 0, min(len(newest), in.Limit))
	for _, r := range newest {
		if len(out.Body.Invocations) == in.Limit {
			break
		}
		if in.State == "" || string(r.State) == in.State {
			out.Body.Invocations = append(out.Body.Invocations, r)
		}
	}
	return out, nil
}

func readFailed(err error) error {
	if e, ok := errors.AsType[*wire.Error](err); ok {
		return e
	}
	return wire.Errorf(wire.CodeUnavailable, "what is stored could not be read: %s", err)
}
