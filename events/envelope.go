package events

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"strconv"
	"time"

	"github.com/dayfly-run/dayfly/events/outcome"
	"github.com/dayfly-run/dayfly/functions"
	"github.com/dayfly-run/dayfly/internal/blob"
	"github.com/dayfly-run/dayfly/wire"
)

// maxQuoted bounds what an envelope quotes of a payload and of a result, in bytes each.
// A larger one is left out, and its size tells.
const maxQuoted = 256 << 10

// envelope is what a destination gets, in AWS Lambda's format.
type envelope struct {
	Version         string           `json:"version"`
	Timestamp       time.Time        `json:"timestamp"`
	RequestContext  requestContext   `json:"requestContext"`
	RequestPayload  json.RawMessage  `json:"requestPayload,omitempty"`
	ResponseContext *responseContext `json:"responseContext,omitempty"`
	ResponsePayload json.RawMessage  `json:"responsePayload,omitempty"`
}

type requestContext struct {
	RequestID   wire.InvocationID `json:"requestId"`
	FunctionARN string            `json:"functionArn"`
	// Condition is Success or one of outcome's Why constants.
	Condition              string `json:"condition"`
	ApproximateInvokeCount int    `json:"approximateInvokeCount"`
	// PayloadBytes is the payload's size, whether it is quoted or not.
	PayloadBytes int64 `json:"payloadBytes"`
}

type responseContext struct {
	StatusCode      int    `json:"statusCode"`
	ExecutedVersion string `json:"executedVersion"`
	FunctionError   string `json:"functionError,omitempty"`
	// ResultBytes is the result's size, whether it is quoted or not.
	ResultBytes int64 `json:"resultBytes,omitempty"`
}

// failure is the response payload of an event that failed, as Lambda gives it.
type failure struct {
	Message string    `json:"errorMessage"`
	Type    string    `json:"errorType,omitempty"`
	Trace   []string  `json:"stackTrace,omitempty"`
	Code    wire.Code `json:"code"`
}

// envelope says how an event ended. body is the result, where it is at hand.
func (w *Worker) envelope(ctx context.Context, t *task, r wire.Record, body []byte) ([]byte, error) {
	v := r.Version
	env := envelope{
		Version: "1.0", Timestamp: r.EndedAt,
		RequestContext: requestContext{
			RequestID: r.Invocation, Condition: t.condition(r), ApproximateInvokeCount: len(r.Attempts),
			FunctionARN: "arn:dayfly:lambda:local:" + v.Namespace + ":function:" + v.Name, PayloadBytes: t.event.PayloadBytes,
		},
	}
	var err error
	if env.RequestPayload, err = w.quote(ctx, t.payload, t.event.PayloadKey, t.event.PayloadBytes); err != nil {
		return nil, err
	}
	if v.Number > 0 {
		env.RequestContext.FunctionARN += ":" + strconv.Itoa(v.Number)
	}
	if len(r.Attempts) > 0 {
		env.ResponseContext = &responseContext{StatusCode: 200, ExecutedVersion: strconv.Itoa(v.Number)}
	}
	switch {
	case r.Error != nil:
		if env.ResponseContext != nil && r.Error.Code.OfFunction() {
			env.ResponseContext.FunctionError = "Unhandled"
		}
		env.ResponsePayload, err = json.Marshal(failure{r.Error.Message, r.Error.Type, r.Error.Trace, r.Error.Code})
	case r.Output != nil:
		env.ResponseContext.ResultBytes = r.Output.ResultBytes
		env.ResponsePayload, err = w.quote(ctx, body, wire.OutputResultKey(t.function, r.Invocation), r.Output.ResultBytes)
	}
	if err != nil {
		return nil, err
	}
	return json.Marshal(env)
}

// quote returns data, or what an object has, as JSON; none when it is too large, or
// gone: an event that was told of already may have lost it.
func (w *Worker) quote(ctx context.Context, data []byte, key string, size int64) (json.RawMessage, error) {
	if size > maxQuoted {
		return nil, nil
	}
	if len(data) == 0 && key != "" && size > 0 {
		var err error
		if data, err = w.deps.Store.GetBytes(ctx, key, maxQuoted); errors.Is(err, blob.ErrNotFound) {
			return nil, nil
		} else if err != nil {
			return nil, err
		}
	}
	switch {
	case len(data) == 0:
		return nil, nil
	case json.Valid(data):
		return data, nil
	}
	return json.Marshal(string(data))
}

// condition is how a destination hears why an event ended.
func (t *task) condition(r wire.Record) string {
	switch {
	case r.State == wire.StateSucceeded:
		return "Success"
	case outcome.Classify(r.Error) == outcome.Hopeless:
		return string(outcome.WhyHopeless)
	case len(r.Attempts)-len(t.event.Attempts) < cmp.Or(t.spec.Retry.Attempts, functions.DefaultAttempts):
		return string(outcome.WhyAge)
	default:
		return string(outcome.WhyAttempts)
	}
}
