package runtimeapi

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"time"

	"github.com/dayfly-run/dayfly/wire"
)

const (
	modeHeader      = "Lambda-Runtime-Function-Response-Mode"
	modeStreaming   = "streaming"
	httpIntegration = "application/vnd.awslambda.http-integration-response"
	// maxPrelude bounds what a streamed HTTP response says before its body, in bytes.
	maxPrelude = 64 << 10
	// brokenGrace is how long a process may take to be seen dead after its connection.
	brokenGrace = 200 * time.Millisecond
	// discardBound is how long the rest of a response is read that nobody takes.
	discardBound = 10 * time.Second
)

// preludeEnd stands between the prelude of a streamed HTTP response and its body.
var preludeEnd = make([]byte, 8)

// Response is a function's response while it comes in.
type Response struct {
	// Streamed says that the function sends it piece by piece, and what Head says of it;
	// any other response is JSON.
	Streamed bool
	Head     wire.StreamHead
	// Err is why the body ended early: a [*wire.Error] of the function's, or a
	// connection that broke.
	Err error

	request *http.Request
	limit   int64 // in bytes
	body    io.Reader
	read    int64
}

// Read reads the response's body. It ends with io.EOF only if the function ended it well.
func (r *Response) Read(p []byte) (int, error) {
	if r.Err != nil {
		return 0, r.Err
	}
	n, err := r.body.Read(p)
	r.read += int64(n)
	switch {
	case r.read > r.limit:
		r.Err = tooLarge(r.limit)
		return 0, r.Err
	case errors.Is(err, io.EOF):
		if failure := failureInTrailer(r.request.Trailer); failure != nil {
			r.Err = failure
			return n, failure
		}
	case err != nil:
		r.Err = fmt.Errorf("the response broke off: %w", err)
		return n, r.Err
	}
	return n, err
}

// failureInTrailer reads what a function says that failed in the midst of its response.
func failureInTrailer(trailer http.Header) *wire.Error {
	kind, body := trailer.Get("Lambda-Runtime-Function-Error-Type"), []byte(trailer.Get("Lambda-Runtime-Function-Error-Body"))
	if kind == "" && len(body) == 0 {
		return nil
	}
	if decoded, err := base64.StdEncoding.DecodeString(string(body)); err == nil {
		body = decoded
	}
	return failure(parseReport(body, kind))
}

// readPrelude takes what a streamed HTTP response says of itself off its body.
func (r *Response) readPrelude() error {
	var prelude []byte
	piece := make([]byte, 4<<10)
	at := -1
	for at < 0 {
		n, err := r.Read(piece)
		prelude = append(prelude, piece[:n]...)
		at = bytes.Index(prelude, preludeEnd)
		switch {
		case at >= 0:
		case r.Err != nil:
			return r.Err
		case err != nil || len(prelude) > maxPrelude:
			return badPrelude("8 NUL bytes must end it within %d bytes", maxPrelude)
		}
	}
	rest := prelude[at+len(preludeEnd):]
	r.read = 0
	r.body = io.MultiReader(bytes.NewReader(rest), r.body)
	var said struct {
		StatusCode int            `json:"statusCode"`
		Headers    map[string]any `json:"headers"`
		Cookies    []string       `json:"cookies"`
	}
	decoder := json.NewDecoder(bytes.NewReader(prelude[:at]))
	decoder.UseNumber()
	if err := decoder.Decode(&said); err != nil {
		return badPrelude("%s", err)
	}
	if said.StatusCode == 0 {
		said.StatusCode = http.StatusOK
	}
	if said.StatusCode < 200 || said.StatusCode > 599 {
		return badPrelude("statusCode is %d; use 200 to 599", said.StatusCode)
	}
	r.Head = wire.StreamHead{HTTP: true, Status: said.StatusCode, Headers: map[string]string{}, Cookies: said.Cookies}
	for name, value := range said.Headers {
		switch value.(type) {
		case nil:
		case string, json.Number, bool:
			name = http.CanonicalHeaderKey(name)
			r.Head.Headers[name] = fmt.Sprint(value)
		default:
			return badPrelude("the header %q is no string", name)
		}
	}
	r.Head.ContentType = r.Head.Headers["Content-Type"]
	return nil
}

func badPrelude(format string, args ...any) *wire.Error {
	return &wire.Error{
		Code: wire.CodeFunctionError, Type: "Function.InvalidHTTPResponse",
		Message: cut("what the function says before its streamed HTTP response cannot be read: "+fmt.Sprintf(format, args...), maxErrorMessage),
	}
}

// claim returns the exchange of an invocation whose response is to be passed on, and sees
// to it that nobody else answers it; nil when there is none such.
func (a *API) claim(id wire.InvocationID, r *http.Request) *exchange {
	a.mu.Lock()
	defer a.mu.Unlock()
	x := a.find(id)
	if x == nil || x.event.Take == nil {
		return nil
	}
	e := &x.event
	large := e.Limit > e.Inline && (r.ContentLength < 0 || r.ContentLength > e.Inline)
	if !large && r.Header.Get(modeHeader) != modeStreaming {
		return nil
	}
	a.drop(x)
	a.passing = append(a.passing, x)
	x.taken = make(chan struct{})
	return x
}

// awaitTaken waits until a response that is being taken is, if there is one. The
// exchange's context ends that as well.
func (a *API) awaitTaken(x *exchange) {
	a.mu.Lock()
	a.drop(x) // from now on none begins
	taken := x.taken
	a.mu.Unlock()
	if taken != nil {
		<-taken
	}
}

// pass gives a response to who takes it, and answers the exchange.
func (a *API) pass(w http.ResponseWriter, r *http.Request, x *exchange) {
	connection := http.NewResponseController(w)
	// A function that hangs in the midst is waited for no longer than ctx.
	stop := context.AfterFunc(x.ctx, func() { _ = connection.SetReadDeadline(time.Unix(1, 0)) })
	response := &Response{
		Streamed: r.Header.Get(modeHeader) == modeStreaming, limit: x.event.Limit, request: r, body: r.Body,
	}
	var err error
	if response.Streamed {
		response.limit = x.event.StreamLimit
		response.Head.ContentType = r.Header.Get("Content-Type")
	}
	if response.Streamed && response.Head.ContentType == httpIntegration {
		response.Err = response.readPrelude()
	}
	if response.Err == nil {
		err = x.event.Take(x.ctx, response)
	}
	if response.Err != nil {
		err = a.whyBroken(x.ctx, response.Err)
	}
	// x.ctx ends with the answer: it must not end the reading of what comes next.
	reads := stop()
	x.answer <- answer{err: err}
	a.passed(x)
	if !reads { // it has ended, and with it the reading, now or in a moment
		w.Header().Set("Connection", "close")
	}
	if err == nil {
		accepted(w)
		return
	}
	if reads { // so that the function gets to the answer
		_ = connection.SetReadDeadline(time.Now().Add(discardBound)) // the next request has none
		_, _ = io.CopyN(io.Discard, r.Body, maxDiscard)
	}
	if failure, ok := errors.AsType[*wire.Error](err); ok && failure.Code == wire.CodeFunctionError {
		accepted(w) // it said so itself, or its log will
		return
	}
	refuse(w, http.StatusInternalServerError, "ResponseNotTaken", "the response could not be passed on")
}

// passed notes that a response is taken.
func (a *API) passed(x *exchange) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.passing = slices.DeleteFunc(a.passing, func(o *exchange) bool { return o == x })
	close(x.taken)
}

// whyBroken says why a response came to no end: what the function said, or how it ended.
func (a *API) whyBroken(ctx context.Context, err error) error {
	if failure, ok := errors.AsType[*wire.Error](err); ok {
		return failure
	}
	grace := time.NewTimer(brokenGrace)
	defer grace.Stop()
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-a.ended:
		return ErrEnded
	case <-grace.C:
		return &wire.Error{
			Code: wire.CodeFunctionError, Type: "Runtime.TruncatedResponse",
			Message: cut("the function did not send its response to the end: "+err.Error(), maxErrorMessage),
		}
	}
}

// sourceError: an event could not be read from where it is kept.
type sourceError struct{ err error }

func (e *sourceError) Error() string { return "read the event: " + e.err.Error() }

// copyEvent writes out an event that is not in memory.
func copyEvent(w io.Writer, e Event) error {
	source, err := e.Open()
	if err != nil {
		return &sourceError{err}
	}
	defer func() { _ = source.Close() }()
	noted := &noting{Reader: io.LimitReader(source, e.Size)}
	n, err := io.Copy(struct{ io.Writer }{w}, noted) // without ReadFrom, which may hide who failed
	if err == nil && n < e.Size {
		noted.err = io.ErrUnexpectedEOF
	}
	if noted.err != nil {
		return &sourceError{noted.err}
	}
	return err
}

// noting remembers why a reader failed.
type noting struct {
	io.Reader

	err error
}

func (r *noting) Read(p []byte) (int, error) {
	n, err := r.Reader.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		r.err = err
	}
	return n, err
}
