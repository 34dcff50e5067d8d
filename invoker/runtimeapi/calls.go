package runtimeapi

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"strconv"
	"time"

	"github.com/dayfly-run/dayfly/internal/httpapi"
	"github.com/dayfly-run/dayfly/wire"
)

// The paths of what a function asks for begin so; the function's reference or the subject
// follows.
const (
	pathInvoke  = "/dayfly/v1/invoke/"
	pathPublish = "/dayfly/v1/publish/"
)

// maxCalls bounds what one invocation asks of others at once; more wait. It is not the
// instance that is bounded: a function that calls itself would wait for its own callers.
const maxCalls = 16

// Outward is something that a function asks for while it runs an event: to call another
// function, or to publish a message.
type Outward struct {
	// Cause is the invocation that asks, and Depth the steps from function to function
	// that lie behind it.
	Cause wire.InvocationID
	Depth int
	// Deadline is when nobody waits for the answer any more.
	Deadline time.Time
	// Ref is the function to call, Async whether it runs later, and Key what makes
	// repeats of such a call one event.
	Ref   string
	Async bool
	Key   string
	// Subject is where to publish instead.
	Subject string
	// Body is the event or message, of Limit bytes at most, where reading it fails.
	Body  io.Reader
	Limit int64
}

// Inward is what came of an [Outward].
type Inward struct {
	// Invocation is the one that was made; empty for a message.
	Invocation  wire.InvocationID
	ContentType string
	// Body is the result of Size bytes, and is closed by who gets it; nil for none.
	Body io.ReadCloser
	Size int64
}

// Reach gets a function what it asks for. It is called by many goroutines at once. Its
// error is a [*wire.Error], and it returns soon after ctx is done.
type Reach func(ctx context.Context, o Outward) (Inward, error)

// SetReach lets the function call others. It is called before the first [API.Invoke];
// without it such calls are refused.
func (a *API) SetReach(reach Reach) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.reach = reach
}

// call takes POST /dayfly/v1/invoke/{ref}.
func (a *API) call(w http.ResponseWriter, r *http.Request, ref string) {
	o := Outward{Ref: ref, Limit: wire.MaxSyncPayload, Key: r.Header.Get(wire.HeaderIdempotencyKey)}
	if text := r.URL.Query().Get("async"); text != "" {
		async, err := strconv.ParseBool(text)
		if err != nil {
			refuseCall(w, wire.Errorf(wire.CodeInvalid, "async=%s is neither true nor false", cut(text, maxErrorType)))
			return
		}
		o.Async = async
	}
	if o.Async {
		o.Limit = wire.MaxAsyncPayload
	}
	if o.Key != "" && !o.Async {
		refuseCall(w, wire.Errorf(wire.CodeInvalid, "%s is for calls with async=true: a call that is waited for runs each time", wire.HeaderIdempotencyKey))
		return
	}
	a.outward(w, r, o)
}

// outward has something done that the function asks for, and answers with what came of it.
func (a *API) outward(w http.ResponseWriter, r *http.Request, o Outward) {
	caller, reach, err := a.caller(wire.InvocationID(r.Header.Get(wire.HeaderInvocation)))
	if err != nil {
		refuseCall(w, err)
		return
	}
	o.Cause, o.Depth, o.Deadline = caller.event.ID, caller.event.Depth, caller.event.Deadline
	// It ends with the connection, and with the invocation that asks.
	ctx, cancel := context.WithCancelCause(r.Context())
	defer cancel(nil)
	defer context.AfterFunc(caller.ctx, func() { cancel(context.Cause(caller.ctx)) })()
	select {
	case caller.calling <- struct{}{}:
		defer func() { <-caller.calling }()
	case <-ctx.Done():
		refuseCall(w, wire.Errorf(wire.CodeUnavailable, "the call was given up: %s", context.Cause(ctx)))
		return
	}
	stop := context.AfterFunc(ctx, func() { _ = http.NewResponseController(w).SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	o.Body = &bounded{r: r.Body, left: o.Limit}
	in, err := reach(ctx, o)
	if err != nil {
		_, _ = io.CopyN(io.Discard, r.Body, maxDiscard) // so that the function gets to the answer
		refuseCall(w, err)
		return
	}
	answerCall(w, o, in)
}

func answerCall(w http.ResponseWriter, o Outward, in Inward) {
	h := w.Header()
	if in.Invocation != "" {
		h.Set(wire.HeaderInvocation, string(in.Invocation))
	}
	switch {
	case o.Subject != "":
		accepted(w)
	case o.Async:
		h.Set("Content-Type", "application/json")
		w.WriteHeader(http.StatusAccepted)
		_ = json.NewEncoder(w).Encode(map[string]wire.InvocationID{"id": in.Invocation}) // the function may have died
	default:
		h.Set("Content-Type", in.ContentType)
		h.Set("Content-Length", strconv.FormatInt(in.Size, 10))
		if in.Body == nil {
			return
		}
		// One that is short of its length is seen as broken.
		_, _ = io.Copy(w, in.Body)
		_ = in.Body.Close()
	}
}

// caller finds the invocation that asks for something: the one that is named, or the only
// one that runs.
func (a *API) caller(id wire.InvocationID) (x *exchange, reach Reach, err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	running := append(append([]*exchange(nil), a.open...), a.passing...)
	defer func() {
		if x != nil && x.calling == nil {
			x.calling = make(chan struct{}, maxCalls)
		}
	}()
	switch {
	case a.reach == nil:
		return nil, nil, wire.Errorf(wire.CodeUnavailable, "this node cannot call other functions")
	case len(running) == 0:
		return nil, nil, &wire.Error{Code: wire.CodeConflict, Message: "no invocation runs: a function calls others and publishes only while it handles an event"}
	case id == "" && len(running) == 1:
		return running[0], a.reach, nil
	case id == "":
		return nil, nil, wire.Errorf(wire.CodeInvalid, "%d invocations run: say with the header %s which one calls", len(running), wire.HeaderInvocation)
	}
	for _, x := range running {
		if x.event.ID == id {
			return x, a.reach, nil
		}
	}
	return nil, nil, &wire.Error{Code: wire.CodeConflict, Message: "invocation " + cut(string(id), maxErrorType) + " does not run here: its calls end with it"}
}

// bounded reads a body up to a limit.
type bounded struct {
	r    io.Reader
	left int64
}

// ErrBodyTooLarge ends the reading of an [Outward]'s body that is over its limit.
var ErrBodyTooLarge = errors.New("the body is over its limit")

func (b *bounded) Read(p []byte) (int, error) {
	n, err := b.r.Read(p)
	if b.left -= int64(n); b.left < 0 {
		return 0, ErrBodyTooLarge
	}
	return n, err
}

func refuseCall(w http.ResponseWriter, err error) { httpapi.WriteProblem(w, err, "") }
