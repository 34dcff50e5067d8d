package gateway

import (
	"bytes"
	"context"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/dayfly-run/dayfly/functions"
	"github.com/dayfly-run/dayfly/internal/embed/embedtest"
	"github.com/dayfly-run/dayfly/wire"
)

func TestRawCall(t *testing.T) {
	w := newWorld(t)
	w.node(w.deployed(hello), echo)
	for body, want := range map[string]string{`{"a":1}`: `{"a":1}`, ``: `{}`, "[1]\n": "[1]\n"} {
		got := w.ask(http.MethodPost, "/v1/functions/hello/invocations", strings.NewReader(body))
		if got.Code != 200 || got.Body.String() != want {
			t.Errorf("%q: %d %s", body, got.Code, got.Body)
		}
		h := got.Header()
		id := wire.InvocationID(h.Get(wire.HeaderInvocation))
		h.Del(wire.HeaderInvocation)
		wantHeaders := http.Header{
			"Content-Type": {"application/json"}, "Content-Length": h["Content-Length"],
			wire.HeaderVersion: {"1"}, wire.HeaderCold: {"false"}, wire.HeaderRunMicros: {"1500"},
		}
		if diff := cmp.Diff(wantHeaders, h); diff != "" || !id.Valid() {
			t.Errorf("invocation %q, headers (-want +got):\n%s", id, diff)
		}
	}
	for ref, want := range map[string]int{"hello.default:live": 200, "hello:1": 200, "hello%3A1": 200, "hello:2": 404, "nobody": 404, "Hello": 400, "a:b:c": 400} {
		if got := w.ask(http.MethodPost, "/v1/functions/"+ref+"/invocations", nil); got.Code != want {
			t.Errorf("%s: %d %s", ref, got.Code, got.Body)
		}
	}
	wantProblem(t, w.ask(http.MethodPost, "/v1/functions/hello/invocations", strings.NewReader("{no")), 400, wire.CodeInvalid, "(byte 2)")
	large := bytes.NewReader(make([]byte, wire.MaxSyncPayload+1))
	wantProblem(t, w.ask(http.MethodPost, "/v1/functions/hello/invocations", large), 413, wire.CodeTooLarge, "6291456")
}

func TestColdCallSaysSo(t *testing.T) {
	w := newWorld(t)
	w.node(w.deployed(hello), func(wire.InvokeRequest, []byte) (*wire.InvokeReply, []byte) {
		return &wire.InvokeReply{Instance: "i1", Cold: true, InitMicros: 80_000, RunMicros: 7}, []byte("1")
	})
	h := w.ask(http.MethodPost, "/v1/functions/hello/invocations", nil).Header()
	if h.Get(wire.HeaderCold) != "true" || h.Get(wire.HeaderInitMicros) != "80000" || h.Get(wire.HeaderRunMicros) != "7" {
		t.Errorf("headers %v", h)
	}
}

// TestFailedCalls are told the same on both ways in, with the invocation's ID.
func TestFailedCalls(t *testing.T) {
	w := newWorld(t)
	failure := &wire.Error{Code: wire.CodeFunctionError, Message: "division by zero", Type: "ZeroDivisionError", Trace: []string{"app.py:3"}, Logs: "last\n"}
	w.node(w.deployed(hello), func(_ wire.InvokeRequest, _ []byte) (*wire.InvokeReply, []byte) {
		return &wire.InvokeReply{Instance: "i1", Error: failure}, nil
	})
	for _, target := range []string{"/v1/functions/hello/invocations", "/f/hello"} {
		got := w.ask(http.MethodPost, target, strings.NewReader("{}"))
		p := wantProblem(t, got, 502, wire.CodeFunctionError, "division by zero")
		if diff := cmp.Diff(failure, p.Err()); diff != "" {
			t.Errorf("%s (-want +got):\n%s", target, diff)
		}
		if header := got.Header().Get(wire.HeaderInvocation); header == "" || header != string(p.Invocation) || got.Header().Get(wire.HeaderRunMicros) == "" {
			t.Errorf("%s: header %q, invocation %q, headers %v", target, header, p.Invocation, got.Header())
		}
	}
	families, err := w.metrics.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() == "dayfly_gateway_calls_total" {
			if m := f.GetMetric()[0]; m.GetCounter().GetValue() != 2 || m.GetLabel()[0].GetValue() != "function.error" {
				t.Errorf("counted %v", m)
			}
		}
	}
}

func TestHTTPTrigger(t *testing.T) {
	w := newWorld(t)
	events := make(chan httpEvent, 1)
	w.node(w.deployed(hello), func(_ wire.InvokeRequest, event []byte) (*wire.InvokeReply, []byte) {
		var e httpEvent
		if err := json.Unmarshal(event, &e); err != nil {
			t.Error(err)
		}
		events <- e
		return &wire.InvokeReply{Instance: "i1"}, []byte(`{"statusCode":418,"headers":{"X-Tea":"yes","Dayfly-Version":"9"},"body":"short and stout"}`)
	})
	got := w.ask(http.MethodPut, "/f/hello:live/pot?n=1", strings.NewReader("water"), func(r *http.Request) { r.Header.Set("Content-Type", "text/plain") })
	if got.Code != 418 || got.Body.String() != "short and stout" || got.Header().Get("X-Tea") != "yes" || got.Header().Get(wire.HeaderVersion) != "1" {
		t.Errorf("%d %s %v", got.Code, got.Body, got.Header())
	}
	e := embedtest.Receive(t, events)
	if e.RawPath != "/pot" || e.RequestContext.HTTP.Method != http.MethodPut || *e.Body != "water" || e.RequestContext.RequestID != got.Header().Get(wire.HeaderInvocation) {
		t.Errorf("event %+v", e)
	}
	wantProblem(t, w.ask(http.MethodGet, "/f/nobody", nil), 404, wire.CodeNotFound, "dayfly list")
	wantProblem(t, w.ask(http.MethodGet, "/f/No", nil), 400, wire.CodeInvalid, `"No"`)
}

// TestRefusedCall: a call waits as long as its function may run. What is retryable
// says so, with a pause.
func TestRefusedCall(t *testing.T) {
	w := newWorld(t)
	w.deployed(hello, func(s *functions.Spec) { s.TimeoutMillis = 2000 })
	w.scheduler(wire.PlaceReply{Error: wire.Errorf(wire.CodeNoCapacity, "no node has room")})
	got := w.ask(http.MethodPost, "/v1/functions/hello/invocations", nil)
	p := wantProblem(t, got, 503, wire.CodeNoCapacity, "no node has room")
	if !p.Retryable || got.Header().Get("Retry-After") != "1" || got.Header().Get(wire.HeaderCold) != "" {
		t.Errorf("%+v, headers %v", p, got.Header())
	}
	families, err := w.metrics.Gather()
	if err != nil {
		t.Fatal(err)
	}
	seen := map[string]float64{}
	for _, f := range families {
		switch m := f.GetMetric()[0]; f.GetName() {
		case "dayfly_dispatch_waiting":
			seen["waiting"] = m.GetGauge().GetValue()
		case "dayfly_dispatch_wait_seconds":
			seen["waits"] = float64(m.GetHistogram().GetSampleCount())
		case "dayfly_dispatch_refused_total":
			seen["refused: "+m.GetLabel()[0].GetValue()] = m.GetCounter().GetValue()
		}
	}
	if diff := cmp.Diff(map[string]float64{"waiting": 0, "waits": 1, "refused: deadline": 1}, seen); diff != "" {
		t.Errorf("metrics (-want +got):\n%s", diff)
	}
}

// TestCallersThatLeave end their wait, and not a function that runs.
func TestCallersThatLeave(t *testing.T) {
	w := newWorld(t)
	w.deployed(hello)
	w.scheduler(wire.PlaceReply{Error: wire.Errorf(wire.CodeThrottled, "no more")})
	ctx, leave := context.WithCancel(t.Context())
	done := make(chan *httptest.ResponseRecorder, 1)
	go func() {
		done <- w.ask(http.MethodPost, "/v1/functions/hello/invocations", nil, func(r *http.Request) { *r = *r.WithContext(ctx) })
	}()
	embedtest.Eventually(t, "the call waits", func() bool { return w.dispatcher.Waiting() == 1 })
	leave()
	wantProblem(t, embedtest.Receive(t, done), 503, wire.CodeUnavailable, "the caller left")
	if n := w.dispatcher.Waiting(); n != 0 {
		t.Errorf("%d calls wait", n)
	}
}

// TestDrainTurnsAway those that wait: another gateway may have room.
func TestDrainTurnsAway(t *testing.T) {
	w := newWorld(t)
	w.deployed(hello)
	w.scheduler(wire.PlaceReply{Error: wire.Errorf(wire.CodeThrottled, "no more")})
	done := make(chan *httptest.ResponseRecorder, 1)
	go func() { done <- w.ask(http.MethodPost, "/v1/functions/hello/invocations", nil) }()
	embedtest.Eventually(t, "the call waits", func() bool { return w.dispatcher.Waiting() == 1 })
	w.Drain()
	w.Drain()
	if p := wantProblem(t, embedtest.Receive(t, done), 503, wire.CodeUnavailable, "being stopped"); !p.Retryable {
		t.Error("a call that never ran may not be sent again")
	}
}

// TestCut: calls that are left when a stop's patience is over are answered.
func TestCut(t *testing.T) {
	w := newWorld(t)
	entered := make(chan struct{})
	w.node(w.deployed(hello), func(wire.InvokeRequest, []byte) (*wire.InvokeReply, []byte) {
		close(entered)
		return nil, nil
	})
	done := make(chan *httptest.ResponseRecorder, 1)
	go func() { done <- w.ask(http.MethodPost, "/v1/functions/hello/invocations", nil) }()
	embedtest.Receive(t, entered)
	w.Cut()
	w.Cut()
	p := wantProblem(t, embedtest.Receive(t, done), 503, wire.CodeUnavailable, "the gateway is being stopped")
	if p.Retryable {
		t.Error("a call that may have run may be sent again")
	}
}

func TestReady(t *testing.T) {
	w := newWorld(t)
	want := func(text string) {
		t.Helper()
		err := w.Ready(t.Context())
		if (err == nil) != (text == "") || err != nil && !strings.Contains(err.Error(), text) {
			t.Errorf("ready: %v, want %q", err, text)
		}
	}
	want("no node takes invocations")
	w.alive()
	want("no scheduler answers")
	stop := w.scheduler(wire.PlaceReply{})
	want("")
	stop()
	want("") // warm calls are answered still
}

// A gateway that starts where functions run needs neither a scheduler nor S3: warm calls
// are answered.
func TestReadyWhereFunctionsRun(t *testing.T) {
	w := newWorld(t)
	w.node(w.deployed(hello), echo)
	if err := w.Ready(t.Context()); err != nil {
		t.Error(err)
	}
}
