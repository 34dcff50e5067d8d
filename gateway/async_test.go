package gateway

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/dayfly-run/dayfly/internal/bus"
	"github.com/dayfly-run/dayfly/internal/embed/embedtest"
	"github.com/dayfly-run/dayfly/wire"
)

func async(r *http.Request) { r.Header.Set("Prefer", "handling=strict, Respond-Async;wait=3") }

func withKey(key string) func(*http.Request) {
	return func(r *http.Request) { r.Header.Set(wire.HeaderIdempotencyKey, key) }
}

// queued reads an event that waits in its queue.
func (w *world) queued(id wire.InvocationID) (e wire.Event, payload []byte, ok bool) {
	w.t.Helper()
	m, err := w.conn.LastMessage(w.t.Context(), wire.StreamEvents, wire.AnyEventSubject(id))
	if errors.Is(err, bus.ErrNotFound) {
		return e, nil, false
	}
	if err == nil {
		payload, err = wire.ParseFrame(m.Data, &e)
	}
	if err != nil {
		w.t.Fatal(err)
	}
	return e, payload, true
}

// TestAsyncCalls: the answer says where the record will be, and the event is on disk.
func TestAsyncCalls(t *testing.T) {
	w := newWorld(t)
	w.deployed(hello)
	for name, test := range map[string]struct{ target, body, want string }{
		"raw":     {"/v1/functions/hello:1/invocations", `{"a":1}`, `{"a":1}`},
		"nothing": {"/v1/functions/hello/invocations", "", "{}"},
		"http":    {"/f/hello/x?y=1", "text", `"rawPath":"/x"`},
	} {
		t.Run(name, func(t *testing.T) {
			got := w.ask(http.MethodPost, test.target, strings.NewReader(test.body), async)
			id := decode[acceptance](t, got, http.StatusAccepted).Invocation
			h := got.Header()
			if h.Get("Location") != "/v1/invocations/"+string(id) || h.Get("Preference-Applied") != "respond-async" || h.Get(wire.HeaderInvocation) != string(id) {
				t.Errorf("headers %v", h)
			}
			e, payload, ok := w.queued(id)
			if !ok || !strings.Contains(string(payload), test.want) || e.Source != wire.SourceHTTP {
				t.Errorf("queued %t: %+v, %s", ok, e, payload)
			}
			r := decode[wire.Record](t, w.ask(http.MethodGet, h.Get("Location"), nil), http.StatusOK)
			if r.State != wire.StateAccepted || r.Invocation != id || r.AcceptedAt.IsZero() || r.Version.FunctionID != hello {
				t.Errorf("record %+v", r)
			}
		})
	}
	list := w.invocations(t, "?state=accepted")
	if len(list) != 3 || list[0].AcceptedAt.IsZero() || time.Since(list[0].AcceptedAt) > time.Minute {
		t.Errorf("listed %+v", list)
	}
}

func (w *world) invocations(t *testing.T, query string) []wire.Record {
	t.Helper()
	type list struct {
		Invocations []wire.Record `json:"invocations"`
	}
	return decode[list](t, w.ask(http.MethodGet, "/v1/functions/hello/invocations"+query, nil), http.StatusOK).Invocations
}

func TestAsyncCallsThatAreRefused(t *testing.T) {
	w := newWorld(t)
	w.deployed(hello)
	const target = "/v1/functions/hello/invocations"
	wantProblem(t, w.ask(http.MethodPost, "/v1/functions/nobody/invocations", nil, async), 404, wire.CodeNotFound, "nobody")
	wantProblem(t, w.ask(http.MethodPost, target, strings.NewReader("{"), async), 400, wire.CodeInvalid, "no JSON")
	wantProblem(t, w.ask(http.MethodPost, target, nil, async, func(r *http.Request) {
		r.ContentLength = wire.MaxAsyncPayload + 1
	}), 413, wire.CodeTooLarge, "over")
	w.Drain()
	wantProblem(t, w.ask(http.MethodPost, target, strings.NewReader("{}"), async), 503, wire.CodeUnavailable, "stopped")
	if list := w.invocations(t, ""); len(list) != 0 {
		t.Errorf("accepted %+v", list)
	}
}

// TestLargeAsyncCalls go to S3 on their way.
func TestLargeAsyncCalls(t *testing.T) {
	w := newWorld(t)
	w.deployed(hello)
	large := `"` + strings.Repeat("x", 8<<20) + `"`
	got := w.ask(http.MethodPost, "/v1/functions/hello/invocations", strings.NewReader(large), async)
	e, payload, _ := w.queued(decode[acceptance](t, got, http.StatusAccepted).Invocation)
	stored, err := w.store.GetBytes(t.Context(), e.PayloadKey, wire.MaxAsyncPayload)
	if err != nil || string(stored) != large || len(payload) != 0 || e.PayloadBytes != int64(len(large)) {
		t.Errorf("%d bytes in S3, %d beside the event, %+v, %v", len(stored), len(payload), e, err)
	}
}

// TestRepeats: what is the same request gets the same invocation, though its event
// tells of another time.
func TestRepeats(t *testing.T) {
	w := newWorld(t)
	w.deployed(hello)
	for _, target := range []string{"/f/hello/x", "/v1/functions/hello/invocations"} {
		var ids []wire.InvocationID
		for i := range 3 {
			got := w.ask(http.MethodPost, target, strings.NewReader(`{"a":1}`), async, withKey("k "+target))
			ids = append(ids, decode[acceptance](t, got, http.StatusAccepted).Invocation)
			if repeated := got.Header().Get(wire.HeaderRepeated) == "true"; repeated != (i > 0) {
				t.Errorf("request %d: repeated %t", i, repeated)
			}
		}
		if len(slices.Compact(ids)) != 1 {
			t.Errorf("%s: %v", target, ids)
		}
		wantProblem(t, w.ask(http.MethodPost, target, strings.NewReader(`{"a":2}`), async, withKey("k "+target)), 409, wire.CodeConflict, "another payload")
	}
	if list := w.invocations(t, ""); len(list) != 2 {
		t.Errorf("accepted %+v", list)
	}
}

// TestRecordsOfAnEvent: the newest word counts, wherever it was said.
func TestRecordsOfAnEvent(t *testing.T) {
	w := newWorld(t)
	w.deployed(hello)
	got := w.ask(http.MethodPost, "/v1/functions/hello/invocations", strings.NewReader("{}"), async)
	id := decode[acceptance](t, got, http.StatusAccepted).Invocation
	begun := time.Now()
	record := func(state wire.State, edit func(*wire.Record)) wire.Record {
		r := wire.Record{Invocation: id, Version: wire.VersionID{FunctionID: hello, Number: 1}, State: state, StartedAt: begun, EndedAt: begun}
		if edit != nil {
			edit(&r)
		}
		return r
	}
	for _, step := range []struct {
		subject string
		say     wire.Record
	}{
		{wire.RecordSubject(hello, id), record(wire.StateRunning, nil)},
		{wire.StoredRecordSubject(hello, id), record(wire.StateAccepted, func(r *wire.Record) { r.EndedAt = begun.Add(time.Second) })},
		{wire.RecordSubject(hello, id), record(wire.StateRunning, func(r *wire.Record) { r.StartedAt = begun.Add(2 * time.Second) })},
		{wire.StoredRecordSubject(hello, id), record(wire.StateDead, nil)},
		{wire.RecordSubject(hello, id), record(wire.StateRunning, func(r *wire.Record) { r.Redrives, r.StartedAt = 1, begun.Add(time.Minute) })},
		{wire.StoredRecordSubject(hello, id), record(wire.StateSucceeded, func(r *wire.Record) { r.Redrives = 1 })},
	} {
		w.stored(step.subject, step.say)
		r := decode[wire.Record](t, w.ask(http.MethodGet, "/v1/invocations/"+string(id), nil), 200)
		if r.State != step.say.State || r.Redrives != step.say.Redrives {
			t.Errorf("after %s (%d redrives) on %s it is %s (%d)", step.say.State, step.say.Redrives, step.subject, r.State, r.Redrives)
		}
		if list := w.invocations(t, ""); len(list) != 1 || list[0].State != step.say.State {
			t.Errorf("after %s the list says %+v", step.say.State, list)
		}
	}
}

// TestWaitForTheEnd: the question is held until there is an answer.
func TestWaitForTheEnd(t *testing.T) {
	w := newWorld(t)
	w.deployed(hello)
	got := w.ask(http.MethodPost, "/v1/functions/hello/invocations", strings.NewReader("{}"), async)
	id := decode[acceptance](t, got, http.StatusAccepted).Invocation
	ended := make(chan wire.Record, 1)
	go func() {
		var r wire.Record
		rec := w.ask(http.MethodGet, "/v1/invocations/"+string(id)+"?wait=1m", nil)
		if err := json.Unmarshal(rec.Body.Bytes(), &r); err != nil {
			t.Error(err)
		}
		ended <- r
	}()
	done := wire.Record{Invocation: id, Version: wire.VersionID{FunctionID: hello, Number: 1}, State: wire.StateSucceeded}
	w.stored(wire.StoredRecordSubject(hello, id), done)
	if r := embedtest.Receive(t, ended); r.State != wire.StateSucceeded {
		t.Errorf("record %+v", r)
	}
	wantProblem(t, w.ask(http.MethodGet, "/v1/invocations/"+string(id)+"?wait=20", nil), 400, wire.CodeInvalid, "20s")
	wantProblem(t, w.ask(http.MethodGet, "/v1/invocations/"+string(invocation(9))+"?wait=1ms", nil), 404, wire.CodeNotFound, "nothing is known")
	wantProblem(t, w.ask(http.MethodPost, "/v1/invocations/"+string(id)+"/cancel", nil), 409, wire.CodeConflict, "succeeded")
}

// TestCancel ends what waits, and asks the nodes about what is in no queue.
func TestCancel(t *testing.T) {
	w := newWorld(t)
	w.deployed(hello)
	got := w.ask(http.MethodPost, "/v1/functions/hello/invocations", strings.NewReader("{}"), async)
	id := decode[acceptance](t, got, http.StatusAccepted).Invocation
	cancel := func(id wire.InvocationID) *httptest.ResponseRecorder {
		return w.ask(http.MethodPost, "/v1/invocations/"+string(id)+"/cancel", nil)
	}
	if r := decode[wire.Record](t, cancel(id), 200); r.State != wire.StateCancelled {
		t.Errorf("record %+v", r)
	}
	if _, _, waits := w.queued(id); waits {
		t.Error("it still waits")
	}
	wantProblem(t, cancel(id), 409, wire.CodeConflict, "cancelled")

	call := invocation(7) // which runs on a node
	_, err := w.conn.Subscribe(wire.CancelSubject, "", func(bus.Msg) {
		data, err := json.Marshal(wire.Record{Invocation: call, Version: wire.VersionID{FunctionID: hello}, State: wire.StateFailed})
		if err == nil {
			err = w.conn.PublishStored(context.Background(), wire.RecordSubject(hello, call), data)
		}
		if err != nil {
			t.Error(err)
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	if r := decode[wire.Record](t, cancel(call), 200); r.State != wire.StateFailed {
		t.Errorf("record %+v", r)
	}
}

// bury puts an event among the dead letters of hello.
func (w *world) bury(n int, payload string) wire.InvocationID {
	w.t.Helper()
	id := invocation(n)
	frame, err := wire.AppendFrame(nil, wire.DeadLetter{
		Event:  wire.Event{Invocation: id, Ref: "hello", Source: wire.SourceQueue, Attempts: []wire.Attempt{{Node: "n1"}}},
		DiedAt: time.Now(), Reason: &wire.Error{Code: wire.CodeFunctionError, Message: "no good"},
	}, []byte(payload))
	if err == nil {
		err = w.conn.PublishStored(w.t.Context(), wire.DeadLetterSubject(hello, id), frame)
	}
	if err != nil {
		w.t.Fatal(err)
	}
	return id
}

func TestDeadLetters(t *testing.T) {
	w := newWorld(t)
	w.deployed(hello)
	const path = "/v1/functions/hello/dead-letters"
	type letters struct {
		DeadLetters []wire.DeadLetter `json:"deadLetters"`
	}
	if got := decode[letters](t, w.ask(http.MethodGet, path, nil), 200); got.DeadLetters == nil || len(got.DeadLetters) != 0 {
		t.Errorf("at first %+v", got)
	}
	first, second, third := w.bury(1, `{"n":1}`), w.bury(2, `{"n":2}`), w.bury(3, `{"n":3}`)
	list := decode[letters](t, w.ask(http.MethodGet, path+"?limit=2", nil), 200).DeadLetters
	if len(list) != 2 || list[0].Event.Invocation != third || list[1].Event.Invocation != second {
		t.Errorf("listed %+v", list)
	}
	shown := decode[struct {
		wire.DeadLetter
		Payload struct {
			N int `json:"n"`
		} `json:"payload"`
	}](t, w.ask(http.MethodGet, path+"/"+string(first), nil), 200)
	if shown.Reason.Message != "no good" || shown.Payload.N != 1 {
		t.Errorf("shown %+v", shown)
	}
	wantProblem(t, w.ask(http.MethodGet, path+"/"+string(invocation(9)), nil), 404, wire.CodeNotFound, "dlq list")

	back := decode[struct {
		Invocations []wire.InvocationID `json:"invocations"`
		More        bool                `json:"more"`
	}](t, w.ask(http.MethodPost, path+"/redrive", strings.NewReader(`{"invocations":["`+string(second)+`"]}`), asJSON), 200)
	if !slices.Equal(back.Invocations, []wire.InvocationID{second}) || back.More {
		t.Errorf("came back %+v", back)
	}
	e, payload, ok := w.queued(second)
	if !ok || e.Redrives != 1 || string(payload) != `{"n":2}` || len(e.Attempts) != 1 {
		t.Errorf("queued %t: %+v, %s", ok, e, payload)
	}
	gone := decode[struct {
		Purged int `json:"purged"`
	}](t, w.ask(http.MethodDelete, path, nil), 200)
	if gone.Purged != 2 {
		t.Errorf("purged %d", gone.Purged)
	}
	if got := decode[letters](t, w.ask(http.MethodGet, path, nil), 200); len(got.DeadLetters) != 0 {
		t.Errorf("at last %+v", got)
	}
	wantProblem(t, w.ask(http.MethodPost, "/v1/functions/nobody/dead-letters/redrive", strings.NewReader("{}"), asJSON), 404, wire.CodeNotFound, "nobody")
}

func asJSON(r *http.Request) { r.Header.Set("Content-Type", "application/json") }
