package events_test

import (
	"context"
	"encoding/json"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/dayfly-run/dayfly/events"
	"github.com/dayfly-run/dayfly/functions"
	"github.com/dayfly-run/dayfly/internal/dispatch"
	"github.com/dayfly-run/dayfly/internal/embed/embedtest"
	"github.com/dayfly-run/dayfly/internal/intake"
	"github.com/dayfly-run/dayfly/wire"
)

func TestEventSucceeds(t *testing.T) {
	env := newEnvironment(t)
	env.worker()
	id := env.accept("f", `{"x":1}`)
	r := env.await("f", id, wire.StateSucceeded)
	if len(r.Attempts) != 1 || r.Node != "n1" || r.Version.Number != 1 || r.Source != wire.SourceHTTP || r.AcceptedAt.IsZero() || r.Error != nil || r.Output == nil {
		t.Errorf("record %+v", r)
	}
	if call := env.node.calls[0]; string(call.Payload) != `{"x":1}` || call.Invocation != id || call.Place.Version.Name != "f" {
		t.Errorf("call %+v", call)
	}
	if !env.object(wire.OutputResultKey(functionID("f"), id)) {
		t.Error("the output is not in S3")
	}
}

// TestLargePayload: it stays in S3 as long as it is needed, and goes with the event.
func TestLargePayload(t *testing.T) {
	env := newEnvironment(t)
	body := `"` + strings.Repeat("x", 3<<20) + `"`
	id := env.acceptRequest(intake.Request{Event: wire.Event{Ref: "f", Source: wire.SourceHTTP}, Body: strings.NewReader(body)})
	env.node.run = func(ctx context.Context, call dispatch.Call) (any, error) {
		data, err := env.store.GetBytes(ctx, call.PayloadKey, wire.MaxAsyncPayload)
		if err != nil || string(data) != body || len(call.Payload) != 0 {
			t.Errorf("%d bytes at %q, %v", len(data), call.PayloadKey, err)
		}
		return nil, boomOnce(env, id)
	}
	env.worker()
	if r := env.await("f", id, wire.StateSucceeded); len(r.Attempts) != 2 {
		t.Errorf("attempts %+v", r.Attempts)
	}
	if env.object(wire.RequestKey(id)) {
		t.Error("the payload is still there")
	}
}

// boomOnce fails the first attempt.
func boomOnce(env *environment, id wire.InvocationID) error {
	if env.node.count(id) == 1 {
		return boom()
	}
	return nil
}

func TestRetries(t *testing.T) {
	env := newEnvironment(t)
	env.node.run = script(boom(), &wire.Error{Code: wire.CodeUnavailable, Message: "node lost"})
	env.worker()
	id := env.accept("f", "1")
	r := env.await("f", id, wire.StateSucceeded)
	var codes []wire.Code
	for _, a := range r.Attempts {
		code := wire.Code("")
		if a.Error != nil {
			code = a.Error.Code
		}
		codes = append(codes, code)
	}
	if diff := cmp.Diff([]wire.Code{wire.CodeFunctionError, wire.CodeUnavailable, ""}, codes); diff != "" {
		t.Error(diff)
	}
	if env.node.count(id) != 3 || !r.NextAttemptAt.IsZero() {
		t.Errorf("%d calls; record %+v", env.node.count(id), r)
	}
}

// TestBackoff: an event that failed says when it is tried again, and is not before.
func TestBackoff(t *testing.T) {
	env := newEnvironment(t)
	env.functions.set("f", func(s *functions.Spec) { s.Retry.DelayMillis = 400 })
	seen := make(chan struct{})
	env.node.run = func(_ context.Context, call dispatch.Call) (any, error) {
		if env.node.count(call.Invocation) == 1 {
			return nil, boom()
		}
		<-seen
		return "ok", nil
	}
	env.worker()
	id := env.accept("f", "1")
	waiting := env.await("f", id, wire.StateAccepted)
	close(seen)
	r := env.await("f", id, wire.StateSucceeded)
	// Writing it down takes its time as well.
	if pause := waiting.NextAttemptAt.Sub(waiting.Attempts[0].EndedAt); pause < 300*time.Millisecond || pause > time.Minute {
		t.Errorf("pause %s", pause)
	}
	if early := waiting.NextAttemptAt.Sub(r.Attempts[1].StartedAt); early > 10*time.Millisecond {
		t.Errorf("the second attempt came %s too early", early)
	}
}

func TestNotBefore(t *testing.T) {
	env := newEnvironment(t)
	env.worker()
	at := time.Now().Add(300 * time.Millisecond)
	id := env.acceptRequest(intake.Request{Event: wire.Event{Ref: "f", NotBefore: at}})
	if r := env.await("f", id, wire.StateSucceeded); r.StartedAt.Before(at.Add(-10 * time.Millisecond)) {
		t.Errorf("it began %s too early", at.Sub(r.StartedAt))
	}
}

func TestDeadLetters(t *testing.T) {
	env := newEnvironment(t)
	env.node.run = always(boom())
	env.worker()
	id := env.accept("f", `"payload"`)
	r := env.await("f", id, wire.StateDead)
	if len(r.Attempts) != 3 || r.Error.Code != wire.CodeFunctionError {
		t.Errorf("record %+v", r)
	}
	var letter wire.DeadLetter
	m, err := env.conn.LastMessage(t.Context(), wire.StreamDeadLetters, wire.DeadLetterSubject(functionID("f"), id))
	if err != nil {
		t.Fatal(err)
	}
	body, err := wire.ParseFrame(m.Data, &letter)
	if err != nil || string(body) != `"payload"` || len(letter.Event.Attempts) != 3 || letter.Reason.Message != "boom" || letter.DiedAt.IsZero() {
		t.Errorf("%+v, %q, %v", letter, body, err)
	}

	// Redriven, it has its attempts anew and keeps its history.
	if err := env.intake.Redrive(t.Context(), functionID("f"), id); err != nil {
		t.Fatal(err)
	}
	embedtest.Eventually(t, "dead again", func() bool {
		return env.record("f", id).Redrives == 1 && env.record("f", id).State.Final() && !env.queued(id)
	})
	if r := env.record("f", id); len(r.Attempts) != 6 || r.State != wire.StateDead || env.node.count(id) != 6 {
		t.Errorf("record %+v", r)
	}
	env.node.run = script()
	if err := env.intake.Redrive(t.Context(), functionID("f"), id); err != nil {
		t.Fatal(err)
	}
	if r := env.await("f", id, wire.StateSucceeded); len(r.Attempts) != 7 {
		t.Errorf("record %+v", r)
	}
	if env.has(wire.StreamDeadLetters, wire.DeadLetterSubject(functionID("f"), id)) {
		t.Error("the dead letter is still there")
	}
	if err := env.intake.Redrive(t.Context(), functionID("f"), id); !wire.HasCode(err, wire.CodeNotFound) {
		t.Errorf("redriven once more: %v", err)
	}
}

func TestBury(t *testing.T) {
	env := newEnvironment(t)
	env.node.run = always(wire.Errorf(wire.CodeInvalid, "no"))
	env.worker()
	id := env.acceptRequest(intake.Request{Event: wire.Event{Ref: "f"}, Body: strings.NewReader(strings.Repeat("x", 2<<20))})
	if r := env.await("f", id, wire.StateDead); len(r.Attempts) != 1 {
		t.Errorf("an invalid event has %d attempts", len(r.Attempts))
	}
	if !env.object(wire.RequestKey(id)) {
		t.Error("the dead letter's payload is gone")
	}
	if err := env.intake.Bury(t.Context(), functionID("f"), id); err != nil {
		t.Fatal(err)
	}
	if env.object(wire.RequestKey(id)) || env.has(wire.StreamDeadLetters, wire.DeadLetterSubject(functionID("f"), id)) {
		t.Error("it is still there")
	}
}

func TestWithoutDeadLetter(t *testing.T) {
	env := newEnvironment(t)
	env.functions.set("f", func(s *functions.Spec) { s.DeadLetter = false; s.Retry.Attempts = 1 })
	env.node.run = always(boom())
	env.worker()
	id := env.accept("f", "1")
	env.await("f", id, wire.StateFailed)
	if env.has(wire.StreamDeadLetters, wire.DeadLetterSubject(functionID("f"), id)) {
		t.Error("there is a dead letter")
	}
}

// TestThrottlingBurnsNoAttempt: a function that takes no events makes them wait.
func TestThrottlingBurnsNoAttempt(t *testing.T) {
	t.Parallel()
	env := newEnvironment(t)
	env.functions.set("f", func(s *functions.Spec) { s.Retry.Attempts = 1 })
	env.node.run = script(throttled(), throttled(), throttled())
	env.worker()
	id := env.accept("f", "1")
	if r := env.await("f", id, wire.StateSucceeded); len(r.Attempts) != 1 || env.node.count(id) != 4 {
		t.Errorf("%d calls, record %+v", env.node.count(id), r)
	}
}

// TestAge: an event that nobody takes, and one that fails, end with their time.
func TestAge(t *testing.T) {
	env := newEnvironment(t)
	aged := func(millis int64) func(*functions.Spec) {
		return func(s *functions.Spec) { s.Retry.Attempts, s.Retry.MaxAgeMillis = 20, millis }
	}
	env.functions.set("f", aged(7000))
	env.functions.set("g", aged(3_600_000))
	env.node.run = func(_ context.Context, call dispatch.Call) (any, error) {
		if call.Place.Version.Name == "f" { // when it may be tried again it is too old
			return nil, &wire.Error{Code: wire.CodeThrottled, Message: "full", Retryable: true, RetryAfterMillis: 10_000}
		}
		if env.node.count(call.Invocation) == 2 {
			env.functions.set("g", aged(1))
		}
		return nil, boom()
	}
	env.worker()
	refused, failing := env.accept("f", "1"), env.accept("g", "1")
	if r := env.await("f", refused, wire.StateDead); r.Error.Code != wire.CodeThrottled {
		t.Errorf("record %+v", r)
	}
	if r := env.await("g", failing, wire.StateDead); len(r.Attempts) != 2 || r.Error.Code != wire.CodeFunctionError {
		t.Errorf("record %+v", r)
	}
	// One that comes too late is not tried at all.
	env.functions.set("f", aged(1))
	late := env.acceptRequest(intake.Request{Event: wire.Event{Ref: "f", NotBefore: time.Now().Add(100 * time.Millisecond)}})
	if r := env.await("f", late, wire.StateDead); len(r.Attempts) != 0 || env.node.count(late) != 0 || !strings.Contains(r.Error.Message, "retry.maxAge") {
		t.Errorf("record %+v", r)
	}
}

// TestUnknownFunction: it may be one that this worker has not heard of yet.
func TestUnknownFunction(t *testing.T) {
	t.Parallel()
	env := newEnvironment(t)
	env.worker()
	young := env.accept("new", "1")
	embedtest.Eventually(t, "it waits", func() bool { return env.has(wire.StreamRecords, wire.AnyRecordSubject(young)) })
	env.functions.set("new", nil)
	env.await("new", young, wire.StateSucceeded)
}

func TestUnknownAlias(t *testing.T) {
	t.Parallel()
	env := newEnvironment(t)
	env.worker()
	id := env.accept("f:beta", "1")
	r := env.await("f", id, wire.StateDead)
	if r.Error.Code != wire.CodeNotFound || len(r.Attempts) != 0 || env.node.count("") != 0 {
		t.Errorf("record %+v", r)
	}
}

// TestMalformedEvent: what somebody published past the front door is kept, and said.
func TestMalformedEvent(t *testing.T) {
	env := newEnvironment(t)
	env.worker()
	env.accept("f", "1") // opens the queue
	const id = wire.InvocationID("01998c2e-7d5a-7c11-9f00-3a5be1c2d4f6")
	other, err := wire.AppendFrame(nil, wire.Event{Invocation: id, Ref: "g"}, nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, data := range []string{"garbage", string(other)} {
		if err := env.conn.PublishStored(t.Context(), wire.EventSubject(functionID("f"), id), []byte(data)); err != nil {
			t.Fatal(err)
		}
		r := env.await("f", id, wire.StateDead)
		if r.Error.Code != wire.CodeInvalid || env.node.count(id) != 0 {
			t.Errorf("record %+v", r)
		}
	}
}

// TestSlowFunctionHoldsUpNobody, even when the worker holds all that it may.
func TestSlowFunctionHoldsUpNobody(t *testing.T) {
	env := newEnvironment(t)
	env.functions.set("slow", nil)
	goOn := make(chan struct{})
	env.node.run = func(ctx context.Context, call dispatch.Call) (any, error) {
		if call.Place.Version.Name == "slow" {
			select {
			case <-goOn:
			case <-ctx.Done():
			}
		}
		return "ok", nil
	}
	env.workerOn(env.conn, events.Config{MaxHeld: 2})
	var slow []wire.InvocationID
	for range 10 {
		slow = append(slow, env.accept("slow", "1"))
	}
	embedtest.Eventually(t, "slow ones run", func() bool { return env.node.count("") >= 2 })
	for range 5 {
		env.await("f", env.accept("f", "1"), wire.StateSucceeded)
	}
	close(goOn)
	for _, id := range slow {
		env.await("slow", id, wire.StateSucceeded)
	}
}

// TestSettledEventIsNotRunAgain: an event whose end is written is only cleared away.
func TestSettledEventIsNotRunAgain(t *testing.T) {
	env := newEnvironment(t)
	id := env.accept("f", "1")
	r := wire.Record{Invocation: id, Version: wire.VersionID{FunctionID: functionID("f"), Number: 1}, State: wire.StateDead, Error: wire.Errorf(wire.CodeInternal, "x"), EndedAt: time.Now()}
	if _, err := env.records.Write(t.Context(), r, 0); err != nil {
		t.Fatal(err)
	}
	env.worker()
	env.await("f", id, wire.StateDead)
	if env.node.count(id) != 0 {
		t.Error("it was run")
	}
	if !env.has(wire.StreamDeadLetters, wire.DeadLetterSubject(functionID("f"), id)) {
		t.Error("what its first worker left undone was not done")
	}
}

// TestOrderedEvents run one after the other, retries included.
func TestOrderedEvents(t *testing.T) {
	env := newEnvironment(t)
	var mu sync.Mutex
	var order []string
	running, failures := map[string]int{}, 0
	env.node.run = func(_ context.Context, call dispatch.Call) (any, error) {
		var in struct{ Key, Value string }
		if err := json.Unmarshal(call.Payload, &in); err != nil {
			return nil, err
		}
		mu.Lock()
		if running[in.Key]++; running[in.Key] > 1 {
			t.Errorf("two of %s at once", in.Key)
		}
		order = append(order, in.Key+in.Value)
		failures++
		fails := failures%3 == 0
		mu.Unlock()
		defer func() {
			mu.Lock()
			running[in.Key]--
			mu.Unlock()
		}()
		if fails {
			mu.Lock()
			order = order[:len(order)-1]
			mu.Unlock()
			return nil, boom()
		}
		return "ok", nil
	}
	env.functions.set("f", func(s *functions.Spec) { s.Retry.Attempts = 20 })
	env.worker()
	env.worker()
	var last []wire.InvocationID
	for _, value := range []string{"1", "2", "3", "4", "5"} {
		last = nil
		for _, key := range []string{"a", "b"} {
			last = append(last, env.acceptRequest(intake.Request{
				Event: wire.Event{Ref: "f", Order: key}, Payload: []byte(`{"key":"` + key + `","value":"` + value + `"}`),
			}))
		}
	}
	for _, id := range last {
		env.await("f", id, wire.StateSucceeded)
	}
	for _, key := range []string{"a", "b"} {
		var got string
		for _, entry := range order {
			if strings.HasPrefix(entry, key) {
				got += entry[1:]
			}
		}
		if got != "12345" {
			t.Errorf("%s ran in the order %s", key, got)
		}
	}
}

// TestRunningIsTold, once it takes a while.
func TestRunningIsTold(t *testing.T) {
	env := newEnvironment(t)
	goOn := make(chan struct{})
	env.node.run = func(context.Context, dispatch.Call) (any, error) { <-goOn; return "ok", nil }
	env.worker()
	id := env.accept("f", "1")
	embedtest.Eventually(t, "it is said to run", func() bool {
		data, err := env.conn.Last(t.Context(), wire.StreamRecords, wire.RecordSubject(functionID("f"), id))
		var r wire.Record
		return err == nil && json.Unmarshal(data, &r) == nil && r.State == wire.StateRunning && r.Invocation == id
	})
	if r := env.record("f", id); r.State != "" {
		t.Errorf("the durable record says %s", r.State)
	}
	close(goOn)
	env.await("f", id, wire.StateSucceeded)
}

// TestRetention: records and outputs go together, and payloads of events that may wait
// still do not.
func TestRetention(t *testing.T) {
	env := newEnvironment(t)
	w := env.worker()
	id := env.accept("f", "1")
	env.await("f", id, wire.StateSucceeded)
	waits := env.acceptRequest(intake.Request{Event: wire.Event{Ref: "f", NotBefore: time.Now().Add(time.Hour)}, Payload: make([]byte, 2<<20)})
	events.Sweep(w, t.Context(), time.Now())
	if !env.object(wire.OutputResultKey(functionID("f"), id)) {
		t.Error("a young output is gone")
	}
	events.Sweep(w, t.Context(), time.Now().Add(env.intake.Retention()+time.Minute))
	if env.object(wire.OutputResultKey(functionID("f"), id)) || !env.object(wire.RequestKey(waits)) {
		t.Error("an old output is there, or the payload of an event that waits is gone")
	}
	if _, err := env.intake.Cancel(t.Context(), waits); err != nil {
		t.Error(err)
	}
	short := openEnvironment(t, embedtest.NATS(t, t.TempDir()), intake.Config{Retention: time.Second})
	if _, err := short.records.Write(t.Context(), wire.Record{Invocation: id, Version: wire.VersionID{FunctionID: functionID("f"), Number: 1}, State: wire.StateDead}, 0); err != nil {
		t.Fatal(err)
	}
	embedtest.Eventually(t, "the record is gone", func() bool { return short.record("f", id).State == "" })
}

func TestStartWithoutStreams(t *testing.T) {
	env := newEnvironment(t)
	other := embedtest.Connect(t, embedtest.NATS(t, t.TempDir()))
	w := events.New(events.Config{}, events.Deps{
		Conn: other, Store: env.store, Intake: env.intake, Functions: env.functions, Dispatcher: env.node, Metrics: registry(), Log: embedtest.Discard(),
	})
	if err := w.Start(t.Context()); err == nil || !strings.Contains(err.Error(), wire.StreamEvents) {
		t.Errorf("error %v, want one that names the stream", err)
	}
}
