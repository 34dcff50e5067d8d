package wire

// Headers on every answer to a call; the last three are there once a node had it.
const (
	// HeaderInvocation carries the [InvocationID].
	HeaderInvocation = "Dayfly-Invocation"
	// HeaderVersion carries the number of the version that was called.
	HeaderVersion = "Dayfly-Version"
	// HeaderCold is "true" when the call waited for its instance to start, else "false".
	HeaderCold = "Dayfly-Cold"
	// HeaderRunMicros is how long the function ran, HeaderInitMicros how long its
	// instance took to start; the latter is on cold calls only.
	HeaderRunMicros  = "Dayfly-Run-Micros"
	HeaderInitMicros = "Dayfly-Init-Micros"
)

// Headers of calls that run later.
const (
	// RespondAsync is the preference in a Prefer header for an answer before the
	// function runs.
	RespondAsync = "respond-async"
	// HeaderIdempotencyKey makes repeats of a request one event.
	HeaderIdempotencyKey = "Idempotency-Key"
	// HeaderRepeated is "true" when the event was accepted before.
	HeaderRepeated = "Dayfly-Repeated"
)

// ProblemType is the content type of a [Problem].
const ProblemType = "application/problem+json"

// Problem is how the HTTP API tells of an [Error]: an RFC 9457 problem document.
type Problem struct {
	Type       string       `json:"type"`
	Title      string       `json:"title"`
	Status     int          `json:"status"`
	Code       Code         `json:"code"`
	Detail     string       `json:"detail,omitempty"`
	Invocation InvocationID `json:"invocation,omitempty"`
	ErrorType  string       `json:"errorType,omitempty"`
	Trace      []string     `json:"trace,omitempty"`
	Logs       string       `json:"logs,omitempty"`
	// RetryAfterMillis is also in the Retry-After header, in whole seconds.
	RetryAfterMillis int64 `json:"retryAfterMillis,omitempty"`
	// Retryable says that nothing ran: the same request may be sent again.
	Retryable bool `json:"retryable,omitempty"`
}

// Err returns the error that the document tells of.
func (p Problem) Err() *Error {
	e := &Error{
		Code: p.Code, Message: p.Detail, Type: p.ErrorType, Trace: p.Trace, Logs: p.Logs,
		RetryAfterMillis: p.RetryAfterMillis, Retryable: p.Retryable,
	}
	if e.Message == "" {
		e.Message = p.Title
	}
	return e
}

// How many entries of a log's past the HTTP API gives: DefaultLogTail of a
// function's, unless the caller says how many, and never more than MaxLogTail.
// Of a single invocation's log it gives all up to that bound.
const (
	DefaultLogTail = 100
	MaxLogTail     = 10_000
)
