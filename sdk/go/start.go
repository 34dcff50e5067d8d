package dayfly

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"reflect"
	"runtime"
	"strconv"
	"strings"
	"time"
)

// Start hands events to h until the process ends; it never returns. They come one
// at a time, or, where the function's concurrency is more, so many at once; then
// [LogWriter] tells their logs apart. In is read from the event's JSON and Out written as JSON; a []byte
// or [json.RawMessage] is passed as it is. The context ends at the deadline and
// knows the [Invocation]. An error is reported to the caller under the name of
// its type; a panic is reported with its stack, and ends the process.
func Start[In, Out any](h func(ctx context.Context, in In) (Out, error)) {
	err := serveAll(context.Background(), os.Getenv, rawHandler(h))
	fmt.Fprintf(os.Stderr, "dayfly: %v\n", err)
	os.Exit(1)
}

// handler takes and returns bytes.
type handler func(ctx context.Context, event []byte) ([]byte, error)

// errorReport is how the Runtime API learns of a failure.
type errorReport struct {
	Message string   `json:"errorMessage"`
	Type    string   `json:"errorType"`
	Trace   []string `json:"stackTrace"`
}

// namedError is a failure with a type of the platform's.
type namedError struct {
	name string
	err  error
}

func (e *namedError) Error() string { return e.err.Error() }
func (e *namedError) Unwrap() error { return e.err }

// panicError is a handler's panic.
type panicError struct {
	value any
	trace []string
}

func (e *panicError) Error() string { return fmt.Sprintf("panic: %v", e.value) }

// rawHandler wraps h in the reading and writing of JSON.
func rawHandler[In, Out any](h func(context.Context, In) (Out, error)) handler {
	return func(ctx context.Context, event []byte) ([]byte, error) {
		var in In
		switch p := any(&in).(type) {
		case *[]byte:
			*p = event
		case *json.RawMessage:
			*p = event
		default:
			if len(event) == 0 {
				break
			}
			if err := json.Unmarshal(event, &in); err != nil {
				return nil, &namedError{"Runtime.UnmarshalError", fmt.Errorf("the event does not fit %T: %w", in, err)}
			}
		}
		out, err := h(ctx, in)
		if err != nil {
			return nil, err
		}
		var result []byte
		switch v := any(out).(type) {
		case []byte:
			result = v
		case json.RawMessage:
			result = v
		default:
			if result, err = json.Marshal(out); err != nil {
				return nil, &namedError{"Runtime.MarshalError", fmt.Errorf("the result (%T) cannot be written as JSON: %w", out, err)}
			}
		}
		if len(result) > maxPayload {
			return nil, &namedError{"Function.ResponseSizeTooLarge", fmt.Errorf(
				"the result has %d bytes; the limit is %d: leave large results as files with Put", len(result), maxPayload)}
		}
		return result, nil
	}
}

// serveAll answers as many events at once as the function takes, each on a
// connection of its own, until the first of them fails as serve does.
func serveAll(ctx context.Context, getenv func(string) string, h handler) error {
	atOnce := 1
	if text := getenv("AWS_LAMBDA_MAX_CONCURRENCY"); text != "" {
		n, err := strconv.Atoi(text)
		if err != nil || n < 1 {
			return fmt.Errorf("AWS_LAMBDA_MAX_CONCURRENCY=%s is no number of events at once", text)
		}
		atOnce = n
	}
	ended := make(chan error, atOnce)
	for range atOnce {
		c, err := newClient(getenv)
		if err != nil {
			return err
		}
		if atOnce == 1 {
			return serve(ctx, c, h)
		}
		c.marks = true
		go func() { ended <- serve(ctx, c, h) }()
	}
	return <-ended
}

// serve answers events until the Runtime API fails, ctx ends or h panics.
func serve(ctx context.Context, c *client, h handler) error {
	for {
		inv, event, err := c.next(ctx)
		if err != nil {
			return err
		}
		inv.marked = c.marks
		ctx := context.WithValue(context.WithValue(ctx, invocationKey{}, inv), clientKey{}, c)
		result, err := call(ctx, inv.Deadline, h, event)
		if err == nil {
			if !c.endStream(nil) {
				c.respond(inv.ID, result)
			}
			continue
		}
		report := reportOf(err)
		fmt.Fprintf(LogWriter(ctx), "[ERROR] %s: %s\n%s", report.Type, report.Message, indented(report.Trace))
		if !c.endStream(&report) {
			if err := c.fail(inv.ID, report); err != nil {
				return err
			}
		}
		// What a panic left behind, locked or half-written, nobody knows.
		if p := (*panicError)(nil); errors.As(err, &p) {
			return errors.Join(p, c.flush(ctx))
		}
	}
}

// call runs h for one event.
func call(ctx context.Context, deadline time.Time, h handler, event []byte) (result []byte, err error) {
	if !deadline.IsZero() {
		var cancel context.CancelFunc
		ctx, cancel = context.WithDeadline(ctx, deadline)
		defer cancel()
	}
	defer func() {
		if v := recover(); v != nil {
			err = &panicError{value: v, trace: stack()}
		}
	}()
	return h(ctx, event)
}

func reportOf(err error) errorReport {
	report := errorReport{Message: err.Error(), Type: typeName(err), Trace: []string{}}
	switch e := err.(type) {
	case *panicError:
		report.Trace = e.trace
	case *namedError:
		report.Type = e.name
	}
	if len(report.Message) > maxMessage {
		report.Message = report.Message[:maxMessage] + "…"
	}
	return report
}

// typeName returns the name of an error's type, as stock Lambda functions do.
func typeName(err error) string {
	if p, ok := err.(*panicError); ok {
		if cause, ok := p.value.(error); ok {
			return typeName(cause)
		}
		return "panic"
	}
	t := reflect.TypeOf(err)
	if t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	return t.Name()
}

// stack returns the frames between a panic and this file, innermost first.
func stack() []string {
	pcs := make([]uintptr, 64)
	frames := runtime.CallersFrames(pcs[:runtime.Callers(2, pcs)])
	_, self, _, _ := runtime.Caller(0)
	trace := []string{}
	panicked := false
	for {
		frame, more := frames.Next()
		switch {
		case frame.Function == "runtime.gopanic" || frame.Function == "runtime.sigpanic":
			panicked, trace = true, trace[:0]
		case panicked && frame.File == self:
			return trace
		case panicked && !strings.HasPrefix(frame.Function, "runtime."):
			trace = append(trace, fmt.Sprintf("%s (%s:%d)", frame.Function, frame.File, frame.Line))
		}
		if !more {
			return trace
		}
	}
}

func indented(lines []string) string {
	var b strings.Builder
	for _, line := range lines {
		b.WriteString("    " + line + "\n")
	}
	return b.String()
}
