// Package runtimeapi serves the AWS Lambda Runtime API (2018-06-01) to one
// instance, plus the call by which our own runtimes learn their assignment, and those
// by which a function reads its configuration, calls others and publishes.
//
// https://docs.aws.amazon.com/lambda/latest/dg/runtimes-api.html
package runtimeapi

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/dayfly-run/dayfly/wire"
)

const (
	prefix         = "/2018-06-01/runtime/"
	pathNext       = prefix + "invocation/next"
	pathInitError  = prefix + "init/error"
	pathInvocation = prefix + "invocation/"
	pathAssignment = "/dayfly/v1/assignment"
)

// Assignment tells a runtime which function it runs.
type Assignment struct {
	Handler  string            `json:"handler"`
	TaskRoot string            `json:"taskRoot"`
	Env      map[string]string `json:"env,omitempty"`
	// Concurrency is how many events it runs at once.
	Concurrency int `json:"concurrency"`
}

// Event is one event for the function.
type Event struct {
	ID wire.InvocationID
	// Payload is the event, or Open where it is not in memory: it opens Size bytes of
	// it, again for each delivery.
	Payload  []byte
	Open     func() (io.ReadCloser, error)
	Size     int64
	Deadline time.Time
	// ARN names the function, for code that reads it.
	ARN string
	// Depth is how many steps from function to function lie behind the event.
	Depth int
	// Take is given a response that the function streams, or that is over Inline bytes
	// where Limit is higher; [API.Invoke] returns no result then. Without it, and for
	// any other response, there is a result of at most [wire.MaxEvent] bytes. Its
	// context ends with that of Invoke, which waits for it. An error of the response's
	// body is the function's; any other one is what Invoke returns.
	Take          func(ctx context.Context, r *Response) error
	Inline, Limit int64
	// StreamLimit is how many bytes a response may have that the function streams.
	StreamLimit int64
}

// API is the Runtime API of one instance; it serves any number of listeners. An
// instance runs one event at a time unless [API.SetConcurrency] says otherwise. It is
// safe for concurrent use.
type API struct {
	asked      chan struct{}
	askedOnce  sync.Once
	assigned   chan struct{}
	assignOnce sync.Once
	assignment Assignment // valid once assigned is closed
	events     chan *exchange
	ready      chan struct{}
	readyOnce  sync.Once
	initFailed chan *wire.Error // holds at most the first report
	ended      chan struct{}
	endOnce    sync.Once
	reading    chan struct{} // holds one: large bodies come into memory one at a time
	polling    chan struct{} // holds one for every question that waits for a change

	mu      sync.Mutex  // guards what follows
	atOnce  int         // events
	open    []*exchange // handed out and not yet answered
	passing []*exchange // those whose response is being taken
	reach   Reach       // nil: no calls
	failed  bool        // the runtime said that it could not start
	// configuration is nil until there is a function.
	configuration Configuration
}

// New makes the API of an instance.
func New() *API {
	return &API{
		asked:      make(chan struct{}),
		assigned:   make(chan struct{}),
		events:     make(chan *exchange),
		ready:      make(chan struct{}),
		initFailed: make(chan *wire.Error, 1),
		ended:      make(chan struct{}),
		reading:    make(chan struct{}, 1),
		polling:    make(chan struct{}, maxPolls),
		atOnce:     1,
	}
}

// Errors of [API.Invoke], for errors.Is.
var (
	// ErrNotDelivered: the function's process ended before it took the event, which
	// may be given to another instance.
	ErrNotDelivered = errors.New("the function's process ended before it took the event")
	// ErrEnded: the process ended while it had the event.
	ErrEnded = errors.New("the function's process ended while it had the event")
)

// End says that the instance's process has ended: nobody will answer any more.
func (a *API) End() { a.endOnce.Do(func() { close(a.ended) }) }

// Asked is closed when a runtime first asks for its assignment.
func (a *API) Asked() <-chan struct{} { return a.asked }

// SetConcurrency says how many events the instance runs at once: so many clients may
// ask for one before the first is answered. It is called before the first [API.Invoke].
func (a *API) SetConcurrency(n int) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.atOnce = n
}

// Assign says which function the instance runs, to whoever asks or has asked. Only
// the first call counts.
func (a *API) Assign(to Assignment) {
	a.assignOnce.Do(func() {
		a.assignment = to
		close(a.assigned)
	})
}

// Ready is closed when the runtime first asks for an event.
func (a *API) Ready() <-chan struct{} { return a.ready }

// InitFailed gives the runtime's report that it could not start, if one comes.
func (a *API) InitFailed() <-chan *wire.Error { return a.initFailed }

// Invoke hands an event to the function and waits for its answer until ctx is
// done. What the function reports as its failure is a [*wire.Error] of code
// function.error; when ctx is done first, it returns the cause of that; see also
// [ErrNotDelivered] and [ErrEnded]. An event that a broken connection kept from
// the function is handed to it again when it asks again. Events that wait are handed
// out in the order of their calls; the caller bounds how many there are.
func (a *API) Invoke(ctx context.Context, e Event) ([]byte, error) {
	x := &exchange{ctx: ctx, event: e, answer: make(chan answer, 1), returned: make(chan struct{}, 1)}
	defer a.close(x)
	for {
		select {
		case <-a.ended: // a connection may outlive the process for a moment
			return nil, ErrNotDelivered
		default:
		}
		select {
		case a.events <- x:
		case <-a.ended:
			return nil, ErrNotDelivered
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
		select {
		case got := <-x.answer:
			return got.unpack()
		case <-x.returned:
		case <-a.ended:
			a.awaitTaken(x)
			return x.last(ErrEnded)
		case <-ctx.Done():
			a.awaitTaken(x)
			return x.last(context.Cause(ctx))
		}
	}
}

// ServeHTTP makes API an [http.Handler].
func (a *API) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	path := r.URL.Path
	switch {
	case r.Method == http.MethodGet && path == pathNext:
		a.next(w, r)
	case r.Method == http.MethodGet && path == pathAssignment:
		a.assign(w, r)
	case r.Method == http.MethodGet && path == pathConfig:
		a.config(w, r)
	case r.Method == http.MethodPost && path == pathInitError:
		a.initError(w, r)
	case r.Method == http.MethodPost && strings.HasPrefix(path, pathInvocation):
		a.finish(w, r, strings.TrimPrefix(path, pathInvocation))
	case r.Method == http.MethodPost && strings.HasPrefix(path, pathInvoke):
		a.call(w, r, strings.TrimPrefix(path, pathInvoke))
	case r.Method == http.MethodPost && strings.HasPrefix(path, pathPublish):
		a.outward(w, r, Outward{Subject: strings.TrimPrefix(path, pathPublish), Limit: wire.MaxSyncPayload})
	default:
		refuse(w, http.StatusNotFound, "NotFound", r.Method+" "+path+" is not part of the Runtime API")
	}
}

// assign answers once there is an assignment.
func (a *API) assign(w http.ResponseWriter, r *http.Request) {
	a.askedOnce.Do(func() { close(a.asked) })
	select {
	case <-a.assigned:
	case <-a.ended:
		refuseGone(w)
		return
	case <-r.Context().Done():
		refuseGone(w)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(a.assignment) // the runtime may have died
}

func (a *API) next(w http.ResponseWriter, r *http.Request) {
	a.mu.Lock()
	failed := a.failed
	a.mu.Unlock()
	if failed {
		refuse(w, http.StatusForbidden, "InvalidStateTransition", "the runtime has reported that it could not start")
		return
	}
	a.abandon()
	a.readyOnce.Do(func() { close(a.ready) })
	select {
	case x := <-a.events:
		a.mu.Lock()
		a.open = append(a.open, x)
		a.mu.Unlock()
		err := r.Context().Err()
		if err == nil {
			err = deliver(w, x.event)
		} else {
			refuseGone(w)
		}
		if source, ok := errors.AsType[*sourceError](err); ok {
			a.settle(x.event.ID, answer{err: source.err})
		}
		a.handed(x, err == nil)
	case <-r.Context().Done():
		refuseGone(w)
	}
}

// deliver writes an event out. Without an error the kernel has all of it.
func deliver(w http.ResponseWriter, e Event) error {
	values := [...]string{ // one allocation for all, on the path of every call
		"application/json", string(e.ID), strconv.FormatInt(e.Deadline.UnixMilli(), 10), e.ARN, "Root=" + string(e.ID),
		strconv.FormatInt(max(e.Size, int64(len(e.Payload))), 10),
	}
	h := w.Header()
	for i, name := range [...]string{
		"Content-Type", "Lambda-Runtime-Aws-Request-Id", "Lambda-Runtime-Deadline-Ms",
		"Lambda-Runtime-Invoked-Function-Arn", "Lambda-Runtime-Trace-Id", "Content-Length",
	} {
		h[name] = values[i : i+1 : i+1]
	}
	h["Date"] = nil // no client reads it
	if e.Open != nil {
		if err := copyEvent(w, e); err != nil {
			return err
		}
	} else if _, err := w.Write(e.Payload); err != nil {
		return err
	}
	return http.NewResponseController(w).Flush()
}

// finish takes POST …/{id}/response and …/{id}/error.
func (a *API) finish(w http.ResponseWriter, r *http.Request, rest string) {
	name, verb, _ := strings.Cut(rest, "/")
	id := wire.InvocationID(name)
	switch {
	case verb != "response" && verb != "error":
		refuse(w, http.StatusNotFound, "NotFound", r.URL.Path+" is not part of the Runtime API")
		return
	case !a.runs(id): // before its body takes memory
		refuseID(w, name)
		return
	case verb == "response":
		if x := a.claim(id, r); x != nil {
			a.pass(w, r, x)
			return
		}
	}
	var got answer
	if verb == "error" {
		got.err = a.readError(r)
	} else {
		body, err := a.read(r, wire.MaxEvent)
		switch {
		case errors.Is(err, errTooLarge):
			a.settle(id, answer{err: tooLarge(wire.MaxEvent)})
			refuseSize(w, wire.MaxEvent)
			return
		case err != nil: // it may answer again; if it died, its container says so
			refuse(w, http.StatusBadRequest, "BadRequest", "the response could not be read: "+err.Error())
			return
		}
		got.result = body
	}
	if !a.settle(id, got) {
		refuseID(w, name)
		return
	}
	accepted(w)
}

func (a *API) initError(w http.ResponseWriter, r *http.Request) {
	e := a.readError(r)
	a.mu.Lock()
	a.failed = true
	a.mu.Unlock()
	select {
	case a.initFailed <- e:
	default: // the first report counts
	}
	accepted(w)
}

func accepted(w http.ResponseWriter) {
	h := w.Header()
	h.Set("Content-Type", "application/json")
	h["Date"] = nil
	w.WriteHeader(http.StatusAccepted)
	_, _ = w.Write([]byte(`{"status":"OK"}`))
}

func refuseSize(w http.ResponseWriter, limit int64) {
	refuse(w, http.StatusRequestEntityTooLarge, "RequestEntityTooLarge", "the response is over "+strconv.FormatInt(limit, 10)+" bytes")
}

// tooLarge is the failure of a function whose result is over its limit.
func tooLarge(limit int64) *wire.Error {
	return &wire.Error{
		Code: wire.CodeFunctionError, Type: "Function.ResponseSizeTooLarge",
		Message: "the function's result is over " + strconv.FormatInt(limit, 10) + " bytes; store large results as output files",
	}
}

func refuseID(w http.ResponseWriter, id string) {
	refuse(w, http.StatusBadRequest, "InvalidRequestID", "invocation "+cut(id, maxErrorType)+" is not running")
}

// refuseGone answers a question whose connection cannot be read any more. Whoever may
// still hear it must not take silence, which is an empty 200, for an event.
func refuseGone(w http.ResponseWriter) {
	w.Header().Set("Connection", "close")
	refuse(w, http.StatusServiceUnavailable, "Unavailable", "the connection is over")
}

func refuse(w http.ResponseWriter, status int, kind, message string) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(report{Type: kind, Message: message})
}
