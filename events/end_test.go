package events_test

import (
	"context"
	"encoding/json"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/dayfly-run/dayfly/functions"
	"github.com/dayfly-run/dayfly/internal/bus"
	"github.com/dayfly-run/dayfly/internal/dispatch"
	"github.com/dayfly-run/dayfly/internal/embed/embedtest"
	"github.com/dayfly-run/dayfly/internal/intake"
	"github.com/dayfly-run/dayfly/wire"
)

func (env *environment) cancel(id wire.InvocationID) wire.Record {
	env.t.Helper()
	r, err := env.intake.Cancel(env.t.Context(), id)
	if err != nil || r.State != wire.StateCancelled || r.Invocation != id {
		env.t.Fatalf("record %+v, %v", r, err)
	}
	return r
}

// wantOver fails unless an event is cancelled and gone, and cannot be cancelled again.
func (env *environment) wantOver(id wire.InvocationID) wire.Record {
	env.t.Helper()
	r := env.await("f", id, wire.StateCancelled)
	if r.Error == nil || r.Error.Code != wire.CodeCancelled || env.has(wire.StreamDeadLetters, wire.AllDeadLetters) {
		env.t.Errorf("record %+v", r)
	}
	if _, err := env.intake.Cancel(env.t.Context(), id); !wire.HasCode(err, wire.CodeConflict) {
		env.t.Errorf("cancelled again: %v", err)
	}
	return r
}

func TestCancelQueued(t *testing.T) {
	env := newEnvironment(t)
	id := env.acceptRequest(intake.Request{Event: wire.Event{Ref: "f"}, Payload: make([]byte, 2<<20)})
	env.cancel(id)
	env.worker()
	env.await("f", env.accept("f", "1"), wire.StateSucceeded)
	if r := env.wantOver(id); len(r.Attempts) != 0 || env.node.count(id) != 0 || env.object(wire.RequestKey(id)) {
		t.Errorf("%d calls, record %+v", env.node.count(id), r)
	}
}

func TestCancelWaiting(t *testing.T) {
	env := newEnvironment(t)
	env.functions.set("f", func(s *functions.Spec) { s.Retry.DelayMillis = 60_000 })
	env.node.run = script(boom())
	env.worker()
	id := env.accept("f", "1")
	env.await("f", id, wire.StateAccepted)
	env.cancel(id)
	if r := env.wantOver(id); len(r.Attempts) != 1 || env.node.count(id) != 1 || !r.NextAttemptAt.IsZero() {
		t.Errorf("%d calls, record %+v", env.node.count(id), r)
	}
}

// TestCancelRunning: the node kills what runs, and says where that was.
func TestCancelRunning(t *testing.T) {
	env := newEnvironment(t)
	began, told := make(chan struct{}, 1), make(chan struct{})
	tell := sync.OnceFunc(func() { close(told) })
	sub, err := env.conn.Subscribe(wire.CancelSubject, "", func(bus.Msg) { tell() })
	if err != nil {
		t.Fatal(err)
	}
	env.node.run = func(context.Context, dispatch.Call) (any, error) {
		began <- struct{}{}
		<-told
		return nil, wire.Errorf(wire.CodeCancelled, "killed")
	}
	env.worker()
	id := env.accept("f", "1")
	embedtest.Receive(t, began)
	env.cancel(id)
	embedtest.Eventually(t, "the attempt is told of", func() bool { return len(env.record("f", id).Attempts) == 1 })
	if r := env.wantOver(id); r.Node != "n1" || env.node.count(id) != 1 {
		t.Errorf("record %+v", r)
	}
	sub.Stop(env.conn)
}

// TestCancelWhileItWaitsForAnInstance: the call leaves its queue.
func TestCancelWhileItWaitsForAnInstance(t *testing.T) {
	env := newEnvironment(t)
	began := make(chan struct{}, 1)
	env.node.run = func(_ context.Context, call dispatch.Call) (any, error) {
		began <- struct{}{}
		<-call.Gone
		return nil, wire.Errorf(wire.CodeUnavailable, "the caller left")
	}
	env.worker()
	id := env.accept("f", "1")
	embedtest.Receive(t, began)
	env.cancel(id)
	env.wantOver(id)
}

// TestCancelWhatASilentNodeRuns: a node that does not answer is not waited for.
func TestCancelWhatASilentNodeRuns(t *testing.T) {
	env := newEnvironment(t)
	began := make(chan struct{}, 1)
	env.node.run = func(ctx context.Context, _ dispatch.Call) (any, error) {
		began <- struct{}{}
		<-ctx.Done()
		return nil, wire.AsError(context.Cause(ctx))
	}
	w := env.worker()
	id := env.accept("f", "1")
	embedtest.Receive(t, began)
	env.cancel(id)
	if err := w.Stop(context.Background()); err != nil { // it waits for the attempt's end
		t.Error(err)
	}
	env.wantOver(id)
}

func TestCancelWhatIsOver(t *testing.T) {
	env := newEnvironment(t)
	env.worker()
	id := env.accept("f", "1")
	env.await("f", id, wire.StateSucceeded)
	if _, err := env.intake.Cancel(t.Context(), id); !wire.HasCode(err, wire.CodeConflict) {
		t.Errorf("error %v", err)
	}
	if _, err := env.intake.Cancel(t.Context(), "01998c2e-7d5a-7c11-9f00-3a5be1c2d4f6"); !wire.HasCode(err, wire.CodeNotFound) {
		t.Errorf("error %v", err)
	}
}

// told is what a destination gets.
type told struct {
	Version        string `json:"version"`
	RequestContext struct {
		RequestID              wire.InvocationID `json:"requestId"`
		FunctionARN            string            `json:"functionArn"`
		Condition              string            `json:"condition"`
		ApproximateInvokeCount int               `json:"approximateInvokeCount"`
		PayloadBytes           int64             `json:"payloadBytes"`
	} `json:"requestContext"`
	RequestPayload  any            `json:"requestPayload"`
	ResponseContext map[string]any `json:"responseContext"`
	ResponsePayload any            `json:"responsePayload"`
}

func TestDestinations(t *testing.T) {
	env := newEnvironment(t)
	env.functions.set("f", func(s *functions.Spec) {
		s.OnSuccess, s.OnFailure = &functions.Destination{Function: "report"}, &functions.Destination{Subject: "failed.f"}
	})
	reports := make(chan told, 10)
	read := func(data []byte) (e told) {
		if err := json.Unmarshal(data, &e); err != nil {
			t.Error(err)
		}
		return e
	}
	env.functions.set("report", nil)
	env.node.run = func(_ context.Context, call dispatch.Call) (any, error) {
		switch {
		case call.Place.Version.Name == "report":
			reports <- read(call.Payload)
			return nil, nil
		case string(call.Payload) == "plain text":
			return nil, boom()
		}
		return map[string]int{"y": 2}, nil
	}
	failed := make(chan told, 10)
	sub, err := env.conn.Subscribe("failed.f", "", func(m bus.Msg) { failed <- read(m.Data) })
	if err != nil {
		t.Fatal(err)
	}
	defer sub.Stop(env.conn)
	env.worker()
	good, bad := env.accept("f", `{"x":1}`), env.accept("f", "plain text")
	env.await("f", good, wire.StateSucceeded)
	env.await("f", bad, wire.StateDead)

	var want told
	want.Version = "1.0"
	want.RequestContext.RequestID, want.RequestContext.Condition, want.RequestContext.ApproximateInvokeCount = good, "Success", 1
	want.RequestContext.FunctionARN, want.RequestContext.PayloadBytes = "arn:dayfly:lambda:local:default:function:f:1", 7
	want.RequestPayload, want.ResponsePayload = map[string]any{"x": 1.0}, map[string]any{"y": 2.0}
	want.ResponseContext = map[string]any{"statusCode": 200.0, "executedVersion": "1", "resultBytes": 7.0}
	if diff := cmp.Diff(want, embedtest.Receive(t, reports)); diff != "" {
		t.Errorf("success (-want +got):\n%s", diff)
	}
	want.RequestContext.RequestID, want.RequestContext.Condition, want.RequestContext.ApproximateInvokeCount = bad, "RetriesExhausted", 3
	want.RequestContext.PayloadBytes = 10
	want.RequestPayload, want.ResponsePayload = "plain text", map[string]any{"errorMessage": "boom", "code": "function.error"}
	want.ResponseContext = map[string]any{"statusCode": 200.0, "executedVersion": "1", "functionError": "Unhandled"}
	if diff := cmp.Diff(want, embedtest.Receive(t, failed)); diff != "" {
		t.Errorf("failure (-want +got):\n%s", diff)
	}
	embedtest.Eventually(t, "all is done", func() bool { return !env.has(wire.StreamEvents, wire.AllEvents) })
	if len(reports)+len(failed) > 0 {
		t.Errorf("%d more reports, %d more failures", len(reports), len(failed))
	}
}

// TestDestinationInAStream is kept there, once.
func TestDestinationInAStream(t *testing.T) {
	env := newEnvironment(t)
	if err := env.conn.EnsureStream(t.Context(), bus.StreamConfig{Name: "kept", Subjects: []string{"kept.>"}}); err != nil {
		t.Fatal(err)
	}
	env.functions.set("f", func(s *functions.Spec) { s.OnSuccess = &functions.Destination{Subject: "kept.f"} })
	env.worker()
	env.await("f", env.accept("f", "1"), wire.StateSucceeded)
	if !env.has("kept", "kept.f") {
		t.Error("the stream has nothing")
	}
}

// TestLoopEnds: a function that is its own destination stops after a bound, visibly.
func TestLoopEnds(t *testing.T) {
	env := newEnvironment(t)
	env.functions.set("f", func(s *functions.Spec) { s.OnSuccess = &functions.Destination{Function: "f"} })
	env.worker()
	env.accept("f", "1")
	embedtest.Eventually(t, "the last one is dead", func() bool {
		return env.has(wire.StreamDeadLetters, wire.AllDeadLetters) && !env.has(wire.StreamEvents, wire.AllEvents)
	})
	if n := env.node.count(""); n != wire.MaxEventDepth+1 {
		t.Errorf("%d calls", n)
	}
	m, err := env.conn.LastMessage(t.Context(), wire.StreamDeadLetters, wire.AllDeadLetters)
	if err != nil {
		t.Fatal(err)
	}
	var letter wire.DeadLetter
	if _, err := wire.ParseFrame(m.Data, &letter); err != nil || letter.Reason.Code != wire.CodeInvalid || letter.Event.Depth != wire.MaxEventDepth+1 || letter.Event.Cause == "" {
		t.Errorf("%+v, %v", letter, err)
	}
}
