package runtimeapi_test

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/dayfly-run/dayfly/invoker/runtimeapi"
	"github.com/dayfly-run/dayfly/wire"
)

func TestEventAndResult(t *testing.T) {
	b := open(t)
	select {
	case <-b.Ready():
		t.Fatal("ready before the runtime asked")
	default:
	}
	deadline := time.UnixMilli(1_800_000_000_123)
	for _, payload := range []string{`{"n":1}`, "", strings.Repeat("x", 1<<20), "\x00\xff"} {
		done := b.invoke(t.Context(), runtimeapi.Event{ID: id, Payload: []byte(payload), Deadline: deadline, ARN: "arn:x"})
		got := b.next()
		if got.status != http.StatusOK || string(got.body) != payload {
			t.Fatalf("event: %d with %d bytes", got.status, len(got.body))
		}
		for name, want := range map[string]string{
			"Lambda-Runtime-Aws-Request-Id":       string(id),
			"Lambda-Runtime-Deadline-Ms":          "1800000000123",
			"Lambda-Runtime-Invoked-Function-Arn": "arn:x",
			"Lambda-Runtime-Trace-Id":             "Root=" + string(id),
		} {
			if have := got.header.Get(name); have != want {
				t.Errorf("%s: %q, want %q", name, have, want)
			}
		}
		b.pending(done)
		if r := b.respond(id, payload); r.status != http.StatusAccepted {
			t.Fatalf("response: %d %s", r.status, r.body)
		}
		if out := b.await(done); out.err != nil || string(out.result) != payload {
			t.Fatalf("result of %d bytes, %v", len(out.result), out.err)
		}
	}
	<-b.Ready()
}

func TestAssignment(t *testing.T) {
	b := open(t)
	got, err := b.do(t.Context(), http.MethodGet, "http://runtime/dayfly/v1/assignment", nil, nil)
	must(t, err)
	var a runtimeapi.Assignment
	must(t, json.Unmarshal(got.body, &a))
	if diff := cmp.Diff(runtimeapi.Assignment{Handler: "app.handler", TaskRoot: "/var/task"}, a); diff != "" {
		t.Error(diff)
	}
}

func TestFunctionError(t *testing.T) {
	b := open(t)
	done := b.invoke(t.Context(), runtimeapi.Event{ID: id})
	b.next()
	r := b.post("invocation/"+string(id)+"/error", strings.NewReader(`{"errorMessage":"boom","errorType":"ValueError","stackTrace":["a","b"]}`))
	if r.status != http.StatusAccepted {
		t.Fatalf("error report: %d %s", r.status, r.body)
	}
	e := wantFunctionError(t, b.await(done).err, "ValueError")
	want := &wire.Error{Code: wire.CodeFunctionError, Message: "boom", Type: "ValueError", Trace: []string{"a", "b"}}
	if diff := cmp.Diff(want, e); diff != "" {
		t.Error(diff)
	}
}

func TestOnlyTheRunningInvocationIsAnswered(t *testing.T) {
	b := open(t)
	wantRefusal(t, b.respond(id, "1"), http.StatusBadRequest, "InvalidRequestID") // nothing runs
	done := b.invoke(t.Context(), runtimeapi.Event{ID: id})
	b.next()
	wantRefusal(t, b.respond(other, "1"), http.StatusBadRequest, "InvalidRequestID")
	wantRefusal(t, b.respond("", "1"), http.StatusBadRequest, "InvalidRequestID")
	wantRefusal(t, b.post("invocation/"+string(other)+"/error", nil), http.StatusBadRequest, "InvalidRequestID")
	b.pending(done)
	if r := b.respond(id, "2"); r.status != http.StatusAccepted {
		t.Fatalf("response: %d", r.status)
	}
	wantRefusal(t, b.respond(id, "3"), http.StatusBadRequest, "InvalidRequestID") // twice
	if out := b.await(done); string(out.result) != "2" {
		t.Fatalf("result %q, %v", out.result, out.err)
	}
}

func TestUnknownPaths(t *testing.T) {
	b := open(t)
	for _, request := range [][2]string{
		{http.MethodGet, "http://runtime/"},
		{http.MethodPost, base + "invocation/next"},
		{http.MethodGet, base + "invocation/" + string(id) + "/response"},
		{http.MethodPost, base + "invocation/" + string(id)},
		{http.MethodPost, base + "invocation/" + string(id) + "/response/x"},
		{http.MethodPut, base + "init/error"},
	} {
		got, err := b.do(t.Context(), request[0], request[1], nil, nil)
		must(t, err)
		wantRefusal(t, got, http.StatusNotFound, "NotFound")
	}
}

func TestNextWithoutAnAnswer(t *testing.T) {
	b := open(t)
	first := b.invoke(t.Context(), runtimeapi.Event{ID: id})
	b.next()
	asked := make(chan reply, 1)
	go func() {
		got, _ := b.do(t.Context(), http.MethodGet, base+"invocation/next", nil, nil)
		asked <- got
	}()
	wantFunctionError(t, b.await(first).err, "Runtime.NoResponse")
	second := b.invoke(t.Context(), runtimeapi.Event{ID: other, Payload: []byte("2")})
	if got := <-asked; string(got.body) != "2" {
		t.Fatalf("second event: %q", got.body)
	}
	wantRefusal(t, b.respond(id, "late"), http.StatusBadRequest, "InvalidRequestID")
	b.respond(other, "ok")
	if out := b.await(second); string(out.result) != "ok" {
		t.Fatalf("second result %q, %v", out.result, out.err)
	}
}

func TestResponseAtTheLimit(t *testing.T) {
	b := open(t)
	for _, chunked := range []bool{false, true} {
		done := b.invoke(t.Context(), runtimeapi.Event{ID: id})
		b.next()
		if r := b.post("invocation/"+string(id)+"/response", zeros(wire.MaxEvent, chunked)); r.status != http.StatusAccepted {
			t.Fatalf("chunked %t: %d %s", chunked, r.status, r.body)
		}
		if out := b.await(done); len(out.result) != wire.MaxEvent || out.err != nil {
			t.Fatalf("chunked %t: %d bytes, %v", chunked, len(out.result), out.err)
		}
	}
}

// The runtime must get to read the refusal although it writes its whole response
// first, and must be able to go on: it is the function's error, not its end.
func TestResponseOverTheLimit(t *testing.T) {
	b := open(t)
	for _, chunked := range []bool{false, true} {
		done := b.invoke(t.Context(), runtimeapi.Event{ID: id})
		b.next()
		r := b.post("invocation/"+string(id)+"/response", zeros(wire.MaxEvent+1, chunked))
		wantRefusal(t, r, http.StatusRequestEntityTooLarge, "RequestEntityTooLarge")
		e := wantFunctionError(t, b.await(done).err, "Function.ResponseSizeTooLarge")
		if !strings.Contains(e.Message, "10485760") {
			t.Errorf("message without the limit: %s", e.Message)
		}
	}
	done := b.invoke(t.Context(), runtimeapi.Event{ID: id})
	b.next()
	b.respond(id, "fine")
	if out := b.await(done); string(out.result) != "fine" {
		t.Fatalf("after a refusal: %q, %v", out.result, out.err)
	}
}

type zero struct{}

func (zero) Read(p []byte) (int, error) { clear(p); return len(p), nil }

// zeros is a body of n bytes whose length the client announces, or not.
func zeros(n int, chunked bool) io.Reader {
	if !chunked {
		return strings.NewReader(strings.Repeat("\x00", n))
	}
	return io.LimitReader(zero{}, int64(n))
}

func TestInitError(t *testing.T) {
	b := open(t)
	for _, message := range []string{"first", "second"} {
		r := b.post("init/error", strings.NewReader(`{"errorMessage":"`+message+`","errorType":"ImportError"}`))
		if r.status != http.StatusAccepted {
			t.Fatalf("init error: %d", r.status)
		}
	}
	wantRefusal(t, b.next(), http.StatusForbidden, "InvalidStateTransition")
	select {
	case <-b.Ready():
		t.Error("ready after it said that it could not start")
	default:
	}
	if e := <-b.InitFailed(); e.Message != "first" || e.Type != "ImportError" {
		t.Errorf("init error %+v", e)
	}
}

func TestEnd(t *testing.T) {
	t.Run("before the event", func(t *testing.T) {
		b := open(t)
		b.End()
		b.End()
		if _, err := b.Invoke(t.Context(), runtimeapi.Event{ID: id}); !errors.Is(err, runtimeapi.ErrNotDelivered) {
			t.Error(err)
		}
	})
	t.Run("before the event, with a connection left over", func(t *testing.T) {
		b := open(t)
		ctx, cancel := context.WithCancel(t.Context())
		asked := make(chan error, 1)
		go func() {
			_, err := b.do(ctx, http.MethodGet, base+"invocation/next", nil, nil)
			asked <- err
		}()
		<-b.Ready()
		b.End()
		for range 100 {
			if _, err := b.Invoke(t.Context(), runtimeapi.Event{ID: id}); !errors.Is(err, runtimeapi.ErrNotDelivered) {
				t.Fatal(err)
			}
		}
		cancel()
		<-asked
	})
	t.Run("while the event waits", func(t *testing.T) {
		b := open(t)
		done := b.invoke(t.Context(), runtimeapi.Event{ID: id})
		b.End()
		if out := b.await(done); !errors.Is(out.err, runtimeapi.ErrNotDelivered) {
			t.Error(out.err)
		}
	})
	t.Run("while it has the event", func(t *testing.T) {
		b := open(t)
		done := b.invoke(t.Context(), runtimeapi.Event{ID: id})
		b.next()
		b.End()
		if out := b.await(done); !errors.Is(out.err, runtimeapi.ErrEnded) {
			t.Error(out.err)
		}
	})
	t.Run("after its answer", func(t *testing.T) {
		for range 50 { // both are ready when Invoke looks, most of the time
			b := open(t)
			done := b.invoke(t.Context(), runtimeapi.Event{ID: id})
			b.next()
			b.respond(id, "last words")
			b.End()
			if out := b.await(done); string(out.result) != "last words" {
				t.Fatalf("%q, %v", out.result, out.err)
			}
		}
	})
}

func TestContextEnds(t *testing.T) {
	cause := errors.New("deadline of the function")
	t.Run("before the event is taken", func(t *testing.T) {
		b := open(t)
		ctx, cancel := context.WithCancelCause(t.Context())
		cancel(cause)
		if out := b.await(b.invoke(ctx, runtimeapi.Event{ID: id})); !errors.Is(out.err, cause) {
			t.Error(out.err)
		}
	})
	t.Run("at a deadline", func(t *testing.T) {
		ctx, cancel := context.WithDeadlineCause(t.Context(), time.Now().Add(time.Millisecond), cause)
		defer cancel()
		b := open(t)
		if out := b.await(b.invoke(ctx, runtimeapi.Event{ID: id})); !errors.Is(out.err, cause) {
			t.Error(out.err)
		}
	})
	t.Run("after", func(t *testing.T) {
		b := open(t)
		ctx, cancel := context.WithCancelCause(t.Context())
		done := b.invoke(ctx, runtimeapi.Event{ID: id})
		b.next()
		b.pending(done)
		cancel(cause)
		if out := b.await(done); !errors.Is(out.err, cause) {
			t.Error(out.err)
		}
	})
}
