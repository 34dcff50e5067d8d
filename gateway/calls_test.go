package gateway

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/dayfly-run/dayfly/functions"
	"github.com/dayfly-run/dayfly/internal/bus"
	"github.com/dayfly-run/dayfly/internal/embed/embedtest"
	"github.com/dayfly-run/dayfly/wire"
)

// outcome is what a node hears of a call.
type outcome struct {
	wire.CallReply
	body []byte
}

// callAs asks the gateway as a node would, for a function of a namespace, and returns the
// last word and the beats before it.
func (w *world) callAs(req wire.CallRequest, payload []byte) (got outcome, beats int) {
	w.t.Helper()
	req.ID, req.Node = wire.InvocationID(uuid.NewString()), wire.NodeID("n-"+uuid.NewString())
	if req.Caller.Name == "" {
		req.Caller = wire.VersionID{FunctionID: wire.FunctionID{Namespace: "team-a", Name: "caller"}, Number: 3}
	}
	if req.Cause == "" {
		req.Cause = wire.InvocationID(uuid.NewString())
	}
	if req.PatienceMillis == 0 {
		req.PatienceMillis = 60_000
	}
	words := make(chan outcome, 100)
	sub, err := w.conn.Subscribe(wire.NodeCallSubject(req.Node), "", func(m bus.Msg) {
		var o outcome
		var err error
		if o.body, err = wire.ParseFrame(m.Data, &o.CallReply); err != nil {
			w.t.Error(err)
		}
		words <- o
	})
	if err != nil {
		w.t.Fatal(err)
	}
	defer sub.Stop(w.conn)
	frame, err := wire.AppendFrame(nil, req, payload)
	if err != nil {
		w.t.Fatal(err)
	}
	data, err := w.conn.Request(w.t.Context(), wire.CallSubject, frame)
	if err != nil {
		w.t.Fatal(err)
	}
	var taken wire.CallReply
	if _, err := wire.ParseFrame(data, &taken); err != nil || taken.ID != req.ID {
		w.t.Fatalf("taken with %s: %v", data, err)
	}
	if taken.Error != nil {
		return outcome{CallReply: taken}, 0
	}
	for {
		if got = embedtest.Receive(w.t, words); got.ID != req.ID {
			w.t.Errorf("an answer to %s", got.ID)
		}
		if !got.Beat {
			return got, beats
		}
		beats++
	}
}

func (w *world) wantCallError(got outcome, code wire.Code, text string) {
	w.t.Helper()
	if got.Error == nil || got.Error.Code != code || !strings.Contains(got.Error.Message, text) {
		w.t.Errorf("got %+v %s; want %s with %q", got.Error, got.body, code, text)
	}
}

func TestFunctionsCallFunctions(t *testing.T) {
	w := newWorld(t)
	v := w.deployed(other) // in the caller's namespace
	requests := make(chan wire.InvokeRequest, 10)
	w.node(v, func(req wire.InvokeRequest, event []byte) (*wire.InvokeReply, []byte) {
		requests <- req
		if string(event) == `"fail"` {
			return &wire.InvokeReply{Instance: "i1", Error: &wire.Error{Code: wire.CodeFunctionError, Message: "no", Type: "No"}}, nil
		}
		return echo(req, event)
	})
	for _, ref := range []string{"other", "other:live", "other:1", "other.team-a", "other.team-a:1"} {
		cause := wire.InvocationID(uuid.NewString())
		got, _ := w.callAs(wire.CallRequest{Ref: ref, Cause: cause, Depth: 2}, []byte(`{"a":1}`))
		req := embedtest.Receive(t, requests)
		if got.Error != nil || string(got.body) != `{"a":1}` || got.ContentType != "application/json" || got.Invocation != req.Invocation {
			t.Errorf("%s: %+v %s", ref, got.CallReply, got.body)
		}
		if req.Cause != cause || req.Depth != 2 || req.Version != v.VersionID {
			t.Errorf("%s: asked %+v", ref, req)
		}
	}
	got, _ := w.callAs(wire.CallRequest{Ref: "other", Depth: 1}, []byte(`"fail"`))
	w.wantCallError(got, wire.CodeFunctionError, "no")
	if got.Error.Type != "No" || got.Invocation == "" {
		t.Errorf("got %+v", got)
	}
	// A bare name is of the caller's own namespace, and of no other.
	for ref, want := range map[string]string{"hello": "hello.team-a", "other.default": "other", "other:7": "no version 7"} {
		got, _ := w.callAs(wire.CallRequest{Ref: ref, Depth: 1}, []byte(`1`))
		w.wantCallError(got, wire.CodeNotFound, want)
	}
	got, _ = w.callAs(wire.CallRequest{Ref: "Not A Name", Depth: 1}, []byte(`1`))
	w.wantCallError(got, wire.CodeInvalid, "Not A Name")
	got, _ = w.callAs(wire.CallRequest{Ref: "other", Depth: 1}, []byte(`no JSON`))
	w.wantCallError(got, wire.CodeInvalid, "no JSON")
}

func TestCallsInCirclesEnd(t *testing.T) {
	w := newWorld(t)
	w.node(w.deployed(other), echo)
	for _, req := range []wire.CallRequest{{Ref: "other"}, {Ref: "other", Async: true}, {Subject: "orders.created"}} {
		req.Depth = wire.MaxEventDepth
		got, _ := w.callAs(req, []byte(`1`))
		if got.Error != nil {
			t.Errorf("the last step of %+v: %v", req, got.Error)
		}
		req.Depth++
		got, _ = w.callAs(req, []byte(`1`))
		w.wantCallError(got, wire.CodeInvalid, "a loop; look at what caller.team-a calls")
	}
}

// TestSlowCallsBeat: a node knows that the gateway lives.
func TestSlowCallsBeat(t *testing.T) {
	w := newWorld(t)
	finish, asked := make(chan struct{}), make(chan struct{})
	w.node(w.deployed(other), func(req wire.InvokeRequest, event []byte) (*wire.InvokeReply, []byte) {
		close(asked)
		<-finish
		return echo(req, event)
	})
	done := make(chan int, 1)
	go func() {
		got, beats := w.callAs(wire.CallRequest{Ref: "other", Depth: 1}, []byte(`1`))
		if got.Error != nil || string(got.body) != "1" {
			t.Errorf("got %+v %s", got.CallReply, got.body)
		}
		done <- beats
	}()
	embedtest.Receive(t, asked)
	beat := make(chan struct{}, 100)
	sub, err := w.conn.Subscribe("dayfly.node.*.call", "", func(bus.Msg) { beat <- struct{}{} })
	if err != nil {
		t.Fatal(err)
	}
	defer sub.Stop(w.conn)
	embedtest.Receive(t, beat)
	close(finish)
	if beats := embedtest.Receive(t, done); beats == 0 {
		t.Error("no beat was heard")
	}
}

// TestImpatientCallsEnd: who waits no longer than its own deadline waits for no instance.
func TestImpatientCallsEnd(t *testing.T) {
	w := newWorld(t)
	w.deployed(other)
	w.scheduler(wire.PlaceReply{Error: wire.Errorf(wire.CodeNoCapacity, "the cluster is full")})
	got, _ := w.callAs(wire.CallRequest{Ref: "other", Depth: 1, PatienceMillis: 50}, []byte(`1`))
	w.wantCallError(got, wire.CodeUnavailable, "the caller left")
}

func TestLargeCalls(t *testing.T) {
	w := newWorld(t)
	large := []byte(`"` + strings.Repeat("x", 2<<20) + `"`)
	w.node(w.deployed(other), func(req wire.InvokeRequest, event []byte) (*wire.InvokeReply, []byte) {
		if req.PayloadKey != "payloads/a/request" || len(event) != 0 {
			t.Errorf("asked %+v with %d bytes", req, len(event))
		}
		key := wire.ResponseKey(req.Invocation)
		if err := w.store.PutBytes(context.Background(), key, large, "application/json"); err != nil {
			t.Error(err)
		}
		return &wire.InvokeReply{Instance: "i1", PayloadKey: key}, nil
	})
	if err := w.store.PutBytes(t.Context(), "payloads/a/request", large, ""); err != nil {
		t.Fatal(err)
	}
	got, _ := w.callAs(wire.CallRequest{Ref: "other", Depth: 1, PayloadKey: "payloads/a/request"}, nil)
	if got.Error != nil || got.PayloadKey == "" || len(got.body) != 0 {
		t.Fatalf("got %+v %.20s", got.CallReply, got.body)
	}
	result, err := w.store.GetBytes(t.Context(), got.PayloadKey, wire.MaxEvent)
	if err != nil || !bytes.Equal(result, large) {
		t.Errorf("got %d bytes, %v", len(result), err)
	}
	// An event that runs later has a copy of its own: the node removes the other one.
	got, _ = w.callAs(wire.CallRequest{Ref: "other", Depth: 1, Async: true, PayloadKey: "payloads/a/request"}, nil)
	e := w.accepted(got)
	if e.PayloadKey == "payloads/a/request" || e.PayloadBytes != int64(len(large)) {
		t.Errorf("accepted %+v", e)
	}
	if stored, err := w.store.GetBytes(t.Context(), e.PayloadKey, wire.MaxEvent); err != nil || !bytes.Equal(stored, large) {
		t.Errorf("stored %d bytes, %v", len(stored), err)
	}
}

// accepted reads the event that a call became.
func (w *world) accepted(got outcome) (e wire.Event) {
	w.t.Helper()
	if got.Error != nil {
		w.t.Fatal(got.Error)
	}
	m, err := w.conn.LastMessage(w.t.Context(), wire.StreamEvents, wire.AnyEventSubject(got.Invocation))
	if err == nil {
		_, err = wire.ParseFrame(m.Data, &e)
	}
	if err != nil {
		w.t.Fatal(err)
	}
	return e
}

func TestFunctionsCallLater(t *testing.T) {
	w := newWorld(t)
	w.deployed(other, func(s *functions.Spec) { s.Handler = "a.b" })
	cause := wire.InvocationID(uuid.NewString())
	call := wire.CallRequest{Ref: "other", Async: true, Key: "order-7", Cause: cause, Depth: 4}
	first, _ := w.callAs(call, []byte(`{"a":1}`))
	e := w.accepted(first)
	if e.Ref != "other.team-a" || e.Source != wire.SourceFunction || e.Cause != cause || e.Depth != 4 || e.Invocation != first.Invocation {
		t.Errorf("accepted %+v", e)
	}
	again, _ := w.callAs(call, []byte(`{"a":1}`))
	if again.Error != nil || again.Invocation != first.Invocation {
		t.Errorf("a repeat is %+v", again.CallReply)
	}
	again, _ = w.callAs(call, []byte(`{"a":2}`))
	w.wantCallError(again, wire.CodeConflict, "")
	nobody, _ := w.callAs(wire.CallRequest{Ref: "nobody", Async: true, Depth: 1}, []byte(`1`))
	w.wantCallError(nobody, wire.CodeNotFound, "nobody")
}

func TestFunctionsPublish(t *testing.T) {
	w := newWorld(t)
	if err := w.conn.EnsureStream(t.Context(), bus.StreamConfig{Name: "ORDERS", Subjects: []string{"orders.*"}, MaxBytes: 1 << 20}); err != nil {
		t.Fatal(err)
	}
	if err := w.conn.EnsureSource(t.Context(), bus.SourceConfig{Stream: "ORDERS", Name: "c", AckWait: time.Minute, MaxHeld: 10}); err != nil {
		t.Fatal(err)
	}
	heard := make(chan bus.Msg, 1)
	if _, err := w.conn.Subscribe("plain", "", func(m bus.Msg) { heard <- m }); err != nil {
		t.Fatal(err)
	}
	cause := wire.InvocationID(uuid.NewString())
	for _, subject := range []string{"orders.created", "plain", "nobody.listens"} {
		if got, _ := w.callAs(wire.CallRequest{Subject: subject, Cause: cause, Depth: 5}, []byte("not JSON")); got.Error != nil {
			t.Errorf("%s: %v", subject, got.Error)
		}
	}
	if m := embedtest.Receive(t, heard); string(m.Data) != "not JSON" {
		t.Errorf("heard %s", m.Data)
	}
	kept := embedtest.Take(t, w.conn, "ORDERS", "c", "orders.created")
	if len(kept) != 1 || string(kept[0].Data) != "not JSON" {
		t.Fatalf("the stream has %+v", kept)
	}
	if got, depth := wire.ReadCause(kept[0].Headers()); got != cause || depth != 5 {
		t.Errorf("it tells of %s %d", got, depth)
	}
	for subject, want := range map[string]string{"dayfly.event.x": "belongs to the system", "$JS.API": "belongs to the system", "a b": "is not a subject", "a.*": "is not a subject"} {
		got, _ := w.callAs(wire.CallRequest{Subject: subject, Depth: 1}, nil)
		w.wantCallError(got, wire.CodeInvalid, want)
	}
}

// TestStoppingGatewayTakesNoCalls: others do.
func TestStoppingGatewayTakesNoCalls(t *testing.T) {
	w := newWorld(t)
	w.Drain()
	got, _ := w.callAs(wire.CallRequest{Ref: "other", Depth: 1}, []byte(`1`))
	w.wantCallError(got, wire.CodeUnavailable, "being stopped")
	if !got.Error.Retryable {
		t.Error("nothing ran, and it does not say so")
	}
	if err := w.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	data, err := json.Marshal(struct{}{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.conn.Request(t.Context(), wire.CallSubject, data); fmt.Sprint(err) != fmt.Sprint(bus.ErrNoResponders) {
		t.Errorf("after its end: %v", err)
	}
}
