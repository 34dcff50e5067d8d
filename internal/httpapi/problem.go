// Package httpapi holds what every HTTP listener of Dayfly shares: problem
// documents, health and metrics, and a server with a lifecycle.
package httpapi

import (
	"encoding/json"
	"net/http"
	"strconv"

	"github.com/dayfly-run/dayfly/wire"
)

// Status maps a code to its HTTP status. It is the only place that does.
func Status(c wire.Code) int {
	switch c {
	case wire.CodeFunctionError, wire.CodeFunctionOutOfMemory, wire.CodeFunctionExited:
		return http.StatusBadGateway
	case wire.CodeFunctionTimeout:
		return http.StatusGatewayTimeout
	case wire.CodeThrottled:
		return http.StatusTooManyRequests
	case wire.CodeNoCapacity, wire.CodeUnavailable:
		return http.StatusServiceUnavailable
	case wire.CodeNotFound:
		return http.StatusNotFound
	case wire.CodeConflict, wire.CodeCancelled:
		return http.StatusConflict
	case wire.CodeInvalid:
		return http.StatusBadRequest
	case wire.CodeTooLarge:
		return http.StatusRequestEntityTooLarge
	case wire.CodeUnauthorized:
		return http.StatusUnauthorized
	}
	return http.StatusInternalServerError
}

var titles = map[wire.Code]string{
	wire.CodeFunctionError:       "The function failed",
	wire.CodeFunctionTimeout:     "The function passed its timeout",
	wire.CodeFunctionOutOfMemory: "The function ran out of memory",
	wire.CodeFunctionExited:      "The function's process ended",
	wire.CodeThrottled:           "Too many calls at once",
	wire.CodeNoCapacity:          "No node has room",
	wire.CodeNotFound:            "Not found",
	wire.CodeConflict:            "Changed meanwhile",
	wire.CodeCancelled:           "Cancelled",
	wire.CodeInvalid:             "Invalid request",
	wire.CodeTooLarge:            "Too large",
	wire.CodeUnauthorized:        "Not allowed",
	wire.CodeUnavailable:         "Not available now",
}

// NewProblem describes err; an error without a code is internal.
func NewProblem(err error, id wire.InvocationID) wire.Problem {
	e := wire.AsError(err)
	p := wire.Problem{
		Type: "https://dayfly.run/errors/" + string(e.Code), Title: titles[e.Code], Status: Status(e.Code),
		Code: e.Code, Detail: e.Message, Invocation: id,
		ErrorType: e.Type, Trace: e.Trace, Logs: e.Logs, RetryAfterMillis: e.RetryAfterMillis, Retryable: e.Retryable,
	}
	if p.Title == "" {
		p.Title = "Dayfly failed"
	}
	return p
}

// WriteProblem answers with the problem document of an error.
func WriteProblem(w http.ResponseWriter, err error, id wire.InvocationID) {
	WriteDocument(w, NewProblem(err, id))
}

// WriteDocument answers with a problem document as it is.
func WriteDocument(w http.ResponseWriter, p wire.Problem) {
	h := w.Header()
	h.Set("Content-Type", wire.ProblemType)
	if p.RetryAfterMillis > 0 {
		h.Set("Retry-After", strconv.FormatInt((p.RetryAfterMillis+999)/1000, 10))
	}
	w.WriteHeader(p.Status)
	// The client may be gone; there is nobody else to tell.
	_ = json.NewEncoder(w).Encode(p) //nolint:errchkjson // as above
}
