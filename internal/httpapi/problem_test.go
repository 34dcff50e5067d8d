package httpapi_test

import (
	"encoding/json"
	"errors"
	"net/http/httptest"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/dayfly-run/dayfly/internal/httpapi"
	"github.com/dayfly-run/dayfly/wire"
)

// TestStatusOfEveryCode is the whole contract: a failure of the function is never
// one of the platform, or the other way round.
func TestStatusOfEveryCode(t *testing.T) {
	for code, want := range map[wire.Code]int{
		wire.CodeFunctionError: 502, wire.CodeFunctionOutOfMemory: 502, wire.CodeFunctionExited: 502, wire.CodeFunctionTimeout: 504,
		wire.CodeThrottled: 429, wire.CodeNoCapacity: 503, wire.CodeUnavailable: 503, wire.CodeNotFound: 404, wire.CodeConflict: 409, wire.CodeCancelled: 409,
		wire.CodeInvalid: 400, wire.CodeTooLarge: 413, wire.CodeUnauthorized: 401, wire.CodeInternal: 500,
		wire.CodeNoInstance: 500, "a code of tomorrow": 500,
	} {
		p := httpapi.NewProblem(wire.Errorf(code, "why"), "")
		if p.Status != want || p.Code != code || p.Title == "" || p.Detail != "why" || p.Type != "https://dayfly.run/errors/"+string(code) {
			t.Errorf("%s: %+v, want status %d", code, p, want)
		}
		if ofFunction := want == 502 || want == 504; code.OfFunction() != ofFunction {
			t.Errorf("%s: status %d, of the function %t", code, want, code.OfFunction())
		}
	}
}

func TestWriteProblem(t *testing.T) {
	for name, test := range map[string]struct {
		err  error
		want wire.Problem
		// retryAfter is the header, empty for none.
		retryAfter string
	}{
		"plain error": {
			errors.New("disk on fire"),
			wire.Problem{Type: "https://dayfly.run/errors/internal", Title: "Dayfly failed", Status: 500, Code: wire.CodeInternal, Detail: "disk on fire"}, "",
		},
		"wrapped": {
			errors.Join(errors.New("x"), wire.Errorf(wire.CodeNotFound, "no such thing")),
			wire.Problem{Type: "https://dayfly.run/errors/not_found", Title: "Not found", Status: 404, Code: wire.CodeNotFound, Detail: "no such thing"}, "",
		},
		"function": {
			&wire.Error{Code: wire.CodeFunctionError, Message: "division by zero", Type: "ZeroDivisionError", Trace: []string{"app.py:1"}, Logs: "last\n"},
			wire.Problem{
				Type: "https://dayfly.run/errors/function.error", Title: "The function failed", Status: 502, Code: wire.CodeFunctionError,
				Detail: "division by zero", ErrorType: "ZeroDivisionError", Trace: []string{"app.py:1"}, Logs: "last\n",
			}, "",
		},
		"default pause": {
			wire.Errorf(wire.CodeNoCapacity, "full"),
			wire.Problem{
				Type: "https://dayfly.run/errors/no_capacity", Title: "No node has room", Status: 503, Code: wire.CodeNoCapacity,
				Detail: "full", RetryAfterMillis: 1000, Retryable: true,
			}, "1",
		},
		"rounded up": {
			&wire.Error{Code: wire.CodeThrottled, Message: "slow", RetryAfterMillis: 2001},
			wire.Problem{
				Type: "https://dayfly.run/errors/throttled", Title: "Too many calls at once", Status: 429, Code: wire.CodeThrottled,
				Detail: "slow", RetryAfterMillis: 2001,
			}, "3",
		},
		"a millisecond": {
			&wire.Error{Code: wire.CodeUnavailable, Message: "soon", RetryAfterMillis: 1},
			wire.Problem{
				Type: "https://dayfly.run/errors/unavailable", Title: "Not available now", Status: 503, Code: wire.CodeUnavailable,
				Detail: "soon", RetryAfterMillis: 1,
			}, "1",
		},
	} {
		t.Run(name, func(t *testing.T) {
			const id = "01998c2e-7d5a-7c11-9f00-3a5be1c2d4f6"
			w := httptest.NewRecorder()
			httpapi.WriteProblem(w, test.err, id)
			test.want.Invocation = id
			var got wire.Problem
			if err := json.Unmarshal(w.Body.Bytes(), &got); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
			h := w.Result().Header
			if w.Code != test.want.Status || h.Get("Content-Type") != wire.ProblemType || h.Get("Retry-After") != test.retryAfter {
				t.Errorf("status %d, headers %v", w.Code, h)
			}
		})
	}
}
