package wire

import (
	"errors"
	"fmt"
	"time"
)

// Code is the stable, machine-readable name of a failure. The set is closed.
type Code string

// Failures of the function: its own code, its own limits.
const (
	CodeFunctionError       Code = "function.error"
	CodeFunctionTimeout     Code = "function.timeout"
	CodeFunctionOutOfMemory Code = "function.out_of_memory"
	CodeFunctionExited      Code = "function.exited"
)

// Failures of the request and of the platform.
const (
	CodeThrottled    Code = "throttled"
	CodeNoCapacity   Code = "no_capacity"
	CodeNotFound     Code = "not_found"
	CodeConflict     Code = "conflict"
	CodeInvalid      Code = "invalid"
	CodeTooLarge     Code = "too_large"
	CodeUnauthorized Code = "unauthorized"
	// CodeCancelled: somebody asked for the invocation's end.
	CodeCancelled   Code = "cancelled"
	CodeUnavailable Code = "unavailable"
	CodeInternal    Code = "internal"
)

// CodeNoInstance never leaves the platform: a node answers it when it was asked
// for a warm instance and has none free. Nothing ran.
const CodeNoInstance Code = "no_instance"

// OfFunction reports whether the function failed rather than the platform.
func (c Code) OfFunction() bool {
	switch c {
	case CodeFunctionError, CodeFunctionTimeout, CodeFunctionOutOfMemory, CodeFunctionExited:
		return true
	}
	return false
}

// Error is a failure as it travels between processes and to the caller.
type Error struct {
	Code Code `json:"code"`
	// Message is for the caller: what is wrong, where, and what to do.
	Message string `json:"message"`
	// Type and Trace are the function's own: exception class and stack.
	Type  string   `json:"type,omitempty"`
	Trace []string `json:"trace,omitempty"`
	// Logs holds the last lines that the function printed.
	Logs string `json:"logs,omitempty"`
	// RetryAfterMillis is set on throttled, no_capacity and unavailable.
	RetryAfterMillis int64 `json:"retryAfterMillis,omitempty"`
	// Retryable says that nothing ran: the same request may be sent again.
	Retryable bool `json:"retryable,omitempty"`
}

// Error makes *Error an error.
func (e *Error) Error() string { return string(e.Code) + ": " + e.Message }

// Errorf makes an [Error]. A failure that says to come back later gets a
// default pause of one second.
func Errorf(code Code, format string, args ...any) *Error {
	e := &Error{Code: code, Message: fmt.Sprintf(format, args...)}
	switch code {
	case CodeThrottled, CodeNoCapacity, CodeUnavailable:
		e.RetryAfterMillis = time.Second.Milliseconds()
		e.Retryable = true
	case CodeNoInstance:
		e.Retryable = true
	}
	return e
}

// AsError returns the [Error] in err's chain, or wraps err as internal.
// It returns nil for nil.
func AsError(err error) *Error {
	if err == nil {
		return nil
	}
	if e, ok := errors.AsType[*Error](err); ok {
		return e
	}
	return &Error{Code: CodeInternal, Message: err.Error()}
}

// HasCode reports whether err is an [Error] with that code.
func HasCode(err error, code Code) bool {
	e, ok := errors.AsType[*Error](err)
	return ok && e.Code == code
}
