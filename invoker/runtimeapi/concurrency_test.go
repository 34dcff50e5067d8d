package runtimeapi_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/dayfly-run/dayfly/invoker/runtimeapi"
	"github.com/dayfly-run/dayfly/wire"
)

func event(n int) runtimeapi.Event {
	return runtimeapi.Event{ID: wire.InvocationID(fmt.Sprint("event-", n)), Payload: fmt.Appendf(nil, "%d", n)}
}

// TestSeveralAtOnce: so many events are open as clients ask, and each gets its own
// answer, in whatever order they come.
func TestSeveralAtOnce(t *testing.T) {
	const atOnce = 5
	b := open(t)
	b.SetConcurrency(atOnce)
	var done []<-chan outcome
	for n := range atOnce {
		done = append(done, b.invoke(t.Context(), event(n)))
		if got := b.next(); string(got.body) != strconv.Itoa(n) {
			t.Fatalf("event %q, want %d", got.body, n)
		}
	}
	for n := atOnce - 1; n >= 0; n-- {
		b.pending(done[n])
		if r := b.respond(event(n).ID, fmt.Sprint("answer ", n)); r.status != http.StatusAccepted {
			t.Fatalf("response: %d %s", r.status, r.body)
		}
		if out := b.await(done[n]); string(out.result) != fmt.Sprint("answer ", n) {
			t.Fatalf("%q, %v", out.result, out.err)
		}
		wantRefusal(t, b.respond(event(n).ID, "again"), http.StatusBadRequest, "InvalidRequestID")
	}
}

// TestTheSameInvocationTwiceAtOnce: an event that was delivered again while it still
// runs gets an answer of its own.
func TestTheSameInvocationTwiceAtOnce(t *testing.T) {
	b := open(t)
	b.SetConcurrency(2)
	first := b.invoke(t.Context(), event(1))
	b.next()
	second := b.invoke(t.Context(), event(1))
	b.next()
	b.respond(event(1).ID, "a")
	b.respond(event(1).ID, "b")
	if one, two := b.await(first), b.await(second); string(one.result) != "a" || string(two.result) != "b" {
		t.Errorf("%q, %v and %q, %v", one.result, one.err, two.result, two.err)
	}
}

// TestEndFailsAllOpenEvents: those that answered before keep their answers.
func TestEndFailsAllOpenEvents(t *testing.T) {
	b := open(t)
	b.SetConcurrency(3)
	var done []<-chan outcome
	for n := range 3 {
		done = append(done, b.invoke(t.Context(), event(n)))
		b.next()
	}
	b.respond(event(1).ID, "last words")
	b.End()
	for n, d := range done {
		out := b.await(d)
		switch {
		case n == 1 && string(out.result) != "last words":
			t.Errorf("%q, %v", out.result, out.err)
		case n != 1 && !errors.Is(out.err, runtimeapi.ErrEnded):
			t.Errorf("event %d: %v", n, out.err)
		}
	}
}

// TestOneGivenUpLeavesTheOthers: when nobody waits for an event any more, its answer
// is refused and those of the others are not.
func TestOneGivenUpLeavesTheOthers(t *testing.T) {
	b := open(t)
	b.SetConcurrency(2)
	cause := errors.New("deadline of one")
	ctx, cancel := context.WithCancelCause(t.Context())
	given := b.invoke(ctx, event(1))
	b.next()
	other := b.invoke(t.Context(), event(2))
	b.next()
	cancel(cause)
	if out := b.await(given); !errors.Is(out.err, cause) {
		t.Fatal(out.err)
	}
	wantRefusal(t, b.respond(event(1).ID, "late"), http.StatusBadRequest, "InvalidRequestID")
	b.respond(event(2).ID, "fine")
	if out := b.await(other); string(out.result) != "fine" {
		t.Errorf("%q, %v", out.result, out.err)
	}
}

// TestClientsInParallel: many callers and many clients, every answer is its own.
func TestClientsInParallel(t *testing.T) {
	const clients, callers, events = 8, 8, 50
	b := open(t)
	b.SetConcurrency(clients)
	ctx, cancel := context.WithCancel(t.Context())
	var runtime, calls sync.WaitGroup
	for range clients {
		runtime.Go(func() {
			for {
				got, err := b.do(ctx, http.MethodGet, base+"invocation/next", nil, nil)
				if err != nil {
					return
				}
				name := got.header.Get("Lambda-Runtime-Aws-Request-Id")
				_, _ = b.do(ctx, http.MethodPost, base+"invocation/"+name+"/response", strings.NewReader("re "+string(got.body)), nil)
			}
		})
	}
	for c := range callers {
		calls.Go(func() {
			for n := range events {
				e := event(c*events + n)
				if result, err := b.Invoke(t.Context(), e); err != nil || string(result) != "re "+string(e.Payload) {
					t.Errorf("event %s: %q, %v", e.ID, result, err)
				}
			}
		})
	}
	calls.Wait()
	cancel()
	runtime.Wait()
}
