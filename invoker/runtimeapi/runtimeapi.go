// Package runtimeapi serves the AWS Lambda Runtime API (2018-06-01) to one
// instance, plus the call by which our own runtimes learn their assignment.
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

	// maxErrorReport bounds the body of an error report, in bytes.
	maxErrorReport = 256 << 10
	// maxTrace bounds the frames that are kept of a stack.
	maxTrace = 64
)

// Assignment tells a runtime which function it runs.
type Assignment struct {
	Handler  string            `json:"handler"`
	TaskRoot string            `json:"taskRoot"`
	Env      map[string]string `json:"env,omitempty"`
}

// Event is one event for the function.
type Event struct {
	ID       wire.InvocationID
	Payload  []byte
	Deadline time.Time
	// ARN names the function, for code that reads it.
	ARN string
}

// API is the Runtime API of one instance; it serves any number of listeners. An
// instance runs one event at a time. It is safe for concurrent use.
type API struct {
	assignment Assignment
	events     chan *exchange
	ready      chan struct{}
	readyOnce  sync.Once
	initFailed chan *wire.Error // holds at most the first report
	ended      chan struct{}
	endOnce    sync.Once

	mu      sync.Mutex
	current *exchange // guarded by mu: handed out and not yet answered
}

// exchange is one event on its way through the function.
type exchange struct {
	event  Event
	answer chan answer // holds one
}

type answer struct {
	result []byte
	err    *wire.Error
}

// New makes the API of an instance.
func New(a Assignment) *API {
	return &API{
		assignment: a,
		events:     make(chan *exchange),
		ready:      make(chan struct{}),
		initFailed: make(chan *wire.Error, 1),
		ended:      make(chan struct{}),
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

// Ready is closed when the runtime first asks for an event.
func (a *API) Ready() <-chan struct{} { return a.ready }

// InitFailed gives the runtime's report that it could not start, if one comes.
func (a *API) InitFailed() <-chan *wire.Error { return a.initFailed }

// Invoke hands an event to the function and waits for its answer until ctx is
// done. What the function reports as its failure is a [*wire.Error] of code
// function.error; when ctx is done first, it returns the cause of that; see also
// [ErrNotDelivered] and [ErrEnded].
func (a *API) Invoke(ctx context.Context, e Event) ([]byte, error) {
	x := &exchange{event: e, answer: make(chan answer, 1)}
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
	case <-a.ended:
		select {
		case got := <-x.answer: // it answered with its last breath
			return got.unpack()
		default:
			return nil, ErrEnded
		}
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

func (a answer) unpack() ([]byte, error) {
	if a.err != nil {
		return nil, a.err
	}
	return a.result, nil
}

// ServeHTTP makes API an [http.Handler].
func (a *API) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	path := r.URL.Path
	switch {
	case r.Method == http.MethodGet && path == pathNext:
		a.next(w, r)
	case r.Method == http.MethodGet && path == pathAssignment:
		a.assign(w)
	case r.Method == http.MethodPost && path == pathInitError:
		a.initError(w, r)
	case r.Method == http.MethodPost && strings.HasPrefix(path, pathInvocation):
		a.finish(w, r, strings.TrimPrefix(path, pathInvocation))
	default:
		refuse(w, http.StatusNotFound, "NotFound", r.Method+" "+path+" is not part of the Runtime API")
	}
}

func (a *API) assign(w http.ResponseWriter) {
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(a.assignment) // the runtime may have died
}

func (a *API) next(w http.ResponseWriter, r *http.Request) {
	a.readyOnce.Do(func() { close(a.ready) })
	// A runtime that asks for the next event has given up on the one before.
	a.settle("", answer{err: &wire.Error{
		Code: wire.CodeFunctionError, Type: "Runtime.NoResponse",
		Message: "the function asked for its next event without answering this one",
	}})
	select {
	case x := <-a.events:
		a.mu.Lock()
		a.current = x
		a.mu.Unlock()
		h := w.Header()
		h.Set("Content-Type", "application/json")
		h.Set("Lambda-Runtime-Aws-Request-Id", string(x.event.ID))
		h.Set("Lambda-Runtime-Deadline-Ms", strconv.FormatInt(x.event.Deadline.UnixMilli(), 10))
		h.Set("Lambda-Runtime-Invoked-Function-Arn", x.event.ARN)
		h.Set("Lambda-Runtime-Trace-Id", "Root="+string(x.event.ID))
		h.Set("Content-Length", strconv.Itoa(len(x.event.Payload)))
		_, _ = w.Write(x.event.Payload) // a runtime that died is seen by its container
	case <-r.Context().Done():
	}
}

// finish takes POST …/{id}/response and …/{id}/error.
func (a *API) finish(w http.ResponseWriter, r *http.Request, rest string) {
	id, verb, _ := strings.Cut(rest, "/")
	var got answer
	switch verb {
	case "response":
		body, err := read(w, r, wire.MaxEvent)
		if tooLarge, ok := errors.AsType[*http.MaxBytesError](err); ok {
			a.settle(wire.InvocationID(id), answer{err: &wire.Error{
				Code: wire.CodeFunctionError, Type: "Function.ResponseSizeTooLarge",
				Message: "the function's result is over " + strconv.FormatInt(tooLarge.Limit, 10) + " bytes; store large results as output files",
			}})
			refuse(w, http.StatusRequestEntityTooLarge, "RequestEntityTooLarge", "the response is too large")
			return
		}
		if err != nil {
			return // the runtime died while it answered; its container says so
		}
		got.result = body
	case "error":
		got.err = readError(w, r)
	default:
		refuse(w, http.StatusNotFound, "NotFound", r.URL.Path+" is not part of the Runtime API")
		return
	}
	if !a.settle(wire.InvocationID(id), got) {
		refuse(w, http.StatusBadRequest, "InvalidRequestID", "invocation "+id+" is not the one that is running")
		return
	}
	accepted(w)
}

// settle answers the current exchange if it has that ID (any for an empty one).
func (a *API) settle(id wire.InvocationID, got answer) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	x := a.current
	if x == nil || (id != "" && x.event.ID != id) {
		return false
	}
	a.current = nil
	x.answer <- got
	return true
}

func (a *API) initError(w http.ResponseWriter, r *http.Request) {
	select {
	case a.initFailed <- readError(w, r):
	default: // the first report counts
	}
	accepted(w)
}

// report is the body of an error report.
type report struct {
	Message string   `json:"errorMessage"`
	Type    string   `json:"errorType"`
	Trace   []string `json:"stackTrace"`
}

func readError(w http.ResponseWriter, r *http.Request) *wire.Error {
	e := &wire.Error{Code: wire.CodeFunctionError, Type: r.Header.Get("Lambda-Runtime-Function-Error-Type")}
	body, err := read(w, r, maxErrorReport)
	var rep report
	switch {
	case err != nil:
		e.Message = "the function failed; its error report could not be read: " + err.Error()
	case json.Unmarshal(body, &rep) != nil:
		e.Message = strings.ToValidUTF8(string(body), "�")
	default:
		e.Message, e.Trace = rep.Message, rep.Trace[:min(len(rep.Trace), maxTrace)]
		if rep.Type != "" {
			e.Type = rep.Type
		}
	}
	if e.Message == "" {
		e.Message = "the function failed without a message"
	}
	return e
}

func read(w http.ResponseWriter, r *http.Request, limit int64) ([]byte, error) {
	body := http.MaxBytesReader(w, r.Body, limit)
	if n := r.ContentLength; n >= 0 && n <= limit {
		data := make([]byte, n)
		_, err := io.ReadFull(body, data)
		return data, err
	}
	return io.ReadAll(body)
}

func accepted(w http.ResponseWriter) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(http.StatusAccepted)
	_, _ = w.Write([]byte(`{"status":"OK"}`))
}

func refuse(w http.ResponseWriter, status int, kind, message string) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(report{Type: kind, Message: message})
}
