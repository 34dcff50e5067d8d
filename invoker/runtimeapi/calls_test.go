package runtimeapi_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/dayfly-run/dayfly/invoker/runtimeapi"
	"github.com/dayfly-run/dayfly/wire"
)

const extensions = "http://runtime/dayfly/v1/"

// ask posts to one of Dayfly's own paths, in the name of an invocation if one is given.
func (b *bench) ask(path, body string, as ...wire.InvocationID) reply {
	b.tb.Helper()
	header := http.Header{}
	for _, id := range as {
		header.Set(wire.HeaderInvocation, string(id))
	}
	got, err := b.do(b.tb.Context(), http.MethodPost, extensions+path, strings.NewReader(body), header)
	must(b.tb, err)
	return got
}

func wantProblem(tb testing.TB, got reply, status int, code wire.Code, text string) {
	tb.Helper()
	var p wire.Problem
	must(tb, json.Unmarshal(got.body, &p))
	if got.status != status || p.Code != code || !strings.Contains(p.Detail, text) || got.header.Get("Content-Type") != wire.ProblemType {
		tb.Fatalf("got %d %s; want %d %s with %q", got.status, got.body, status, code, text)
	}
}

// answering takes what is asked for, and answers with what the test says.
func answering(asked chan<- runtimeapi.Outward, in runtimeapi.Inward, failure error) runtimeapi.Reach {
	return func(_ context.Context, o runtimeapi.Outward) (runtimeapi.Inward, error) {
		body, err := io.ReadAll(o.Body)
		if err != nil {
			return runtimeapi.Inward{}, err
		}
		o.Body = bytes.NewReader(body)
		asked <- o
		return in, failure
	}
}

func TestAFunctionCallsAnother(t *testing.T) {
	b := open(t)
	asked := make(chan runtimeapi.Outward, 1)
	deadline := time.Now().Add(time.Minute)
	b.SetReach(func(ctx context.Context, o runtimeapi.Outward) (runtimeapi.Inward, error) {
		in := runtimeapi.Inward{Invocation: other, ContentType: "application/json", Body: io.NopCloser(strings.NewReader(`{"a":1}`)), Size: 7}
		return answering(asked, in, nil)(ctx, o)
	})
	done := b.invoke(t.Context(), runtimeapi.Event{ID: id, Payload: []byte("{}"), Deadline: deadline, Depth: 3})
	b.next()
	for _, test := range []struct {
		path, body string
		status     int
		want       runtimeapi.Outward
	}{
		{"invoke/resize.team-a:7", `{"in":1}`, 200, runtimeapi.Outward{Ref: "resize.team-a:7", Limit: wire.MaxSyncPayload}},
		{"invoke/resize?async=true", `[]`, 202, runtimeapi.Outward{Ref: "resize", Async: true, Limit: wire.MaxAsyncPayload}},
		{"publish/orders.created", "not json", 202, runtimeapi.Outward{Subject: "orders.created", Limit: wire.MaxSyncPayload}},
	} {
		got := b.ask(test.path, test.body)
		o := <-asked
		body, err := io.ReadAll(o.Body)
		must(t, err)
		test.want.Cause, test.want.Depth, test.want.Deadline, test.want.Body = id, 3, deadline, nil
		if o.Body = nil; o != test.want || string(body) != test.body || got.status != test.status {
			t.Errorf("%s: %d, asked %+v with %q", test.path, got.status, o, body)
		}
		switch {
		case o.Subject != "":
		case o.Async && string(got.body) != fmt.Sprintf("{\"id\":%q}\n", other):
			t.Errorf("answered %s", got.body)
		case !o.Async && (string(got.body) != `{"a":1}` || got.header.Get(wire.HeaderInvocation) != string(other)):
			t.Errorf("answered %s %v", got.body, got.header)
		}
	}
	b.respond(id, "1")
	if got := b.await(done); got.err != nil {
		t.Error(got.err)
	}
}

func TestCallsAreMadeByInvocationsOnly(t *testing.T) {
	b := open(t)
	wantProblem(t, b.ask("invoke/x", "{}"), 503, wire.CodeUnavailable, "cannot call")
	asked := make(chan runtimeapi.Outward, 1)
	b.SetReach(answering(asked, runtimeapi.Inward{}, nil))
	b.SetConcurrency(2)
	wantProblem(t, b.ask("invoke/x", "{}"), 409, wire.CodeConflict, "no invocation runs")
	first, second := b.invoke(t.Context(), runtimeapi.Event{ID: id, Payload: []byte("{}")}), b.invoke(t.Context(), runtimeapi.Event{ID: other, Payload: []byte("{}")})
	b.next()
	b.next()
	wantProblem(t, b.ask("publish/x", "{}"), 400, wire.CodeInvalid, wire.HeaderInvocation)
	wantProblem(t, b.ask("publish/x", "{}", "somebody-else"), 409, wire.CodeConflict, "somebody-else does not run here")
	wantProblem(t, b.ask("invoke/x?async=perhaps", "{}", id), 400, wire.CodeInvalid, "async=perhaps")
	if got := b.ask("publish/x", "{}", other); got.status != 202 || (<-asked).Cause != other {
		t.Errorf("got %d", got.status)
	}
	b.respond(id, "1")
	b.await(first)
	wantProblem(t, b.ask("publish/x", "{}", id), 409, wire.CodeConflict, "does not run here")
	b.respond(other, "1")
	b.await(second)
}

func TestFailedCallsAreProblems(t *testing.T) {
	b := open(t)
	asked := make(chan runtimeapi.Outward, 1)
	b.SetReach(answering(asked, runtimeapi.Inward{}, &wire.Error{Code: wire.CodeFunctionError, Message: "division by zero", Type: "ZeroDivisionError"}))
	done := b.invoke(t.Context(), runtimeapi.Event{ID: id, Payload: []byte("{}")})
	b.next()
	wantProblem(t, b.ask("invoke/x", "{}"), 502, wire.CodeFunctionError, "division by zero")
	<-asked
	b.SetReach(func(_ context.Context, o runtimeapi.Outward) (runtimeapi.Inward, error) {
		if _, err := io.Copy(io.Discard, o.Body); errors.Is(err, runtimeapi.ErrBodyTooLarge) {
			return runtimeapi.Inward{}, wire.Errorf(wire.CodeTooLarge, "over %d", o.Limit)
		}
		return runtimeapi.Inward{}, nil
	})
	wantProblem(t, b.ask("invoke/x", strings.Repeat("x", wire.MaxSyncPayload+1)), 413, wire.CodeTooLarge, fmt.Sprint(wire.MaxSyncPayload))
	b.respond(id, "1")
	b.await(done)
}

// TestCallsEndWithTheirInvocation: nobody waits for what an invocation left behind.
func TestCallsEndWithTheirInvocation(t *testing.T) {
	b := open(t)
	begun := make(chan struct{})
	b.SetReach(func(ctx context.Context, _ runtimeapi.Outward) (runtimeapi.Inward, error) {
		close(begun)
		<-ctx.Done()
		return runtimeapi.Inward{}, wire.Errorf(wire.CodeUnavailable, "%s", context.Cause(ctx))
	})
	ctx, cancel := context.WithCancelCause(t.Context())
	done := b.invoke(ctx, runtimeapi.Event{ID: id, Payload: []byte("{}")})
	b.next()
	got := make(chan reply, 1)
	go func() { got <- b.ask("invoke/x", "{}") }()
	<-begun
	cancel(errors.New("its time is over"))
	b.await(done)
	wantProblem(t, <-got, 503, wire.CodeUnavailable, "its time is over")
}

// TestStreamingFunctionsCallOthers: an invocation whose response is being taken runs still.
func TestStreamingFunctionsCallOthers(t *testing.T) {
	b := open(t)
	asked := make(chan runtimeapi.Outward, 1)
	b.SetReach(answering(asked, runtimeapi.Inward{}, nil))
	taking := make(chan struct{})
	done := b.invoke(t.Context(), runtimeapi.Event{ID: id, Payload: []byte("{}"), Take: func(_ context.Context, r *runtimeapi.Response) error {
		close(taking)
		_, err := io.Copy(io.Discard, r)
		return err
	}, StreamLimit: 1 << 20})
	b.next()
	body, pieces := io.Pipe()
	answered := make(chan struct{})
	go func() {
		defer close(answered)
		header := http.Header{"Lambda-Runtime-Function-Response-Mode": {"streaming"}}
		_, err := b.do(t.Context(), http.MethodPost, base+"invocation/"+string(id)+"/response", body, header)
		if err != nil {
			t.Error(err)
		}
	}()
	<-taking
	if got := b.ask("publish/x", "{}"); got.status != 202 || (<-asked).Cause != id {
		t.Errorf("got %d %s", got.status, got.body)
	}
	must(t, pieces.Close())
	<-answered
	b.await(done)
}
