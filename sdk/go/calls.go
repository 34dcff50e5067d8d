package dayfly

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"time"
)

// Error is why a call failed.
type Error struct {
	// Code is stable: function.error and other function.* are failures of the function
	// that was called, any other is a failure of the call; see Dayfly's README.
	Code string
	// Message says what is wrong.
	Message string
	// Type and Trace are the called function's own: the error's type and its stack. Logs
	// holds the last lines that it printed.
	Type  string
	Trace []string
	Logs  string
	// Invocation is that of the call; empty when none was made.
	Invocation string
	// Retryable says that nothing ran, so that the same call may be made again, after
	// RetryAfter.
	Retryable  bool
	RetryAfter time.Duration
}

// Error makes *Error an error.
func (e *Error) Error() string { return e.Code + ": " + e.Message }

// Invoke calls another function and waits for its result. The reference is
// name[.namespace][:version-or-alias]; one without a namespace means the caller's own. In
// is sent as JSON and Out read from it; []byte and [json.RawMessage] are passed as they
// are. It fails with an [*Error], or with ctx's when that is done first; it waits no longer
// than the handler's deadline in any case. Event and result may have 6 MiB.
//
// Functions that call each other in circles are stopped after 16 steps.
func Invoke[In, Out any](ctx context.Context, ref string, in In) (Out, error) {
	var out Out
	body, err := encodeBody(in)
	if err != nil {
		return out, fmt.Errorf("invoke %s: %w", ref, err)
	}
	result, err := platformOf(ctx).post(ctx, "invoke/"+url.PathEscape(ref), body, nil)
	if err != nil {
		return out, fmt.Errorf("invoke %s: %w", ref, err)
	}
	switch p := any(&out).(type) {
	case *[]byte:
		*p = result
	case *json.RawMessage:
		*p = result
	default:
		if err := json.Unmarshal(result, &out); err != nil {
			return out, fmt.Errorf("invoke %s: the result does not fit %T: %w", ref, out, err)
		}
	}
	return out, nil
}

// InvokeAsync has another function called later. When it returns no error, the event is
// on disk and will be run, with retries as that function has them. It returns the ID of
// the invocation. A repeat with the same idempotency key, if it is not empty, is the same
// event for a day. The event may have 100 MiB.
func InvokeAsync[In any](ctx context.Context, ref string, in In, idempotencyKey string) (id string, err error) {
	body, err := encodeBody(in)
	if err != nil {
		return "", fmt.Errorf("invoke %s: %w", ref, err)
	}
	header := http.Header{}
	if idempotencyKey != "" {
		header.Set("Idempotency-Key", idempotencyKey)
	}
	answer, err := platformOf(ctx).post(ctx, "invoke/"+url.PathEscape(ref)+"?async=true", body, header)
	if err != nil {
		return "", fmt.Errorf("invoke %s: %w", ref, err)
	}
	var accepted struct{ ID string }
	if err := json.Unmarshal(answer, &accepted); err != nil {
		return "", fmt.Errorf("invoke %s: the answer is malformed: %w", ref, err)
	}
	return accepted.ID, nil
}

// Publish sends a message to all who listen to a NATS subject, such as functions with a
// queue trigger. When a stream keeps the subject, as it does where a trigger wants it, the
// message is on disk once Publish returns. It is sent as JSON, or as it is if it is a
// []byte or [json.RawMessage], and may have as much as a NATS message, 1 MiB by default.
func Publish[T any](ctx context.Context, subject string, message T) error {
	body, err := encodeBody(message)
	if err == nil {
		_, err = platformOf(ctx).post(ctx, "publish/"+url.PathEscape(subject), body, nil)
	}
	if err != nil {
		return fmt.Errorf("publish on %s: %w", subject, err)
	}
	return nil
}

func encodeBody(v any) ([]byte, error) {
	switch v := v.(type) {
	case []byte:
		return v, nil
	case json.RawMessage:
		return v, nil
	}
	body, err := json.Marshal(v)
	if err != nil {
		return nil, fmt.Errorf("%T cannot be written as JSON: %w", v, err)
	}
	return body, nil
}

// post asks the platform for something in the name of ctx's invocation.
func (p *platform) post(ctx context.Context, path string, body []byte, header http.Header) ([]byte, error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, p.url+"/dayfly/v1/"+path, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	if header != nil {
		r.Header = header
	}
	r.Header.Set("Content-Type", "application/json")
	if inv, ok := FromContext(ctx); ok && inv.calls != nil {
		r.Header.Set("Dayfly-Invocation", inv.ID)
		select {
		case inv.calls <- struct{}{}:
			defer func() { <-inv.calls }()
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
	resp, err := p.calls.Do(r)
	if err != nil {
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		return nil, &Error{Code: "unavailable", Message: "the platform does not answer: " + reason(err)}
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(io.LimitReader(resp.Body, maxPayload))
	if err != nil {
		return nil, &Error{Code: "unavailable", Message: "the answer broke off: " + err.Error()}
	}
	if resp.StatusCode >= 300 {
		return nil, readProblem(resp.StatusCode, answer)
	}
	return answer, nil
}

// reason leaves out what the HTTP client says about a URL that means nothing to users.
func reason(err error) string {
	var u *url.Error
	if errors.As(err, &u) {
		err = u.Err
	}
	return err.Error()
}

// readProblem reads a problem document.
func readProblem(status int, body []byte) *Error {
	var p struct {
		Code, Title, Detail, Invocation, ErrorType, Logs string

		Trace            []string
		Retryable        bool
		RetryAfterMillis int64
	}
	if json.Unmarshal(body, &p) != nil || p.Code == "" {
		return &Error{Code: "internal", Message: fmt.Sprintf("the platform answered %d: %.200s", status, body)}
	}
	if p.Detail == "" {
		p.Detail = p.Title
	}
	return &Error{
		Code: p.Code, Message: p.Detail, Type: p.ErrorType, Trace: p.Trace, Logs: p.Logs, Invocation: p.Invocation,
		Retryable: p.Retryable, RetryAfter: time.Duration(p.RetryAfterMillis) * time.Millisecond,
	}
}
