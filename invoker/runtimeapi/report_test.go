package runtimeapi_test

import (
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/dayfly-run/dayfly/invoker/runtimeapi"
	"github.com/dayfly-run/dayfly/wire"
)

// maxHeader is what a frame's header must stay below whatever a function reports:
// NATS' default limit of a message.
const maxHeader = 1 << 20

// fail sends an error report straight to a fresh API and returns what Invoke makes
// of it.
func fail(tb testing.TB, kind string, body []byte) *wire.Error {
	tb.Helper()
	api := runtimeapi.New()
	api.Assign(runtimeapi.Assignment{})
	request := httptest.NewRequest(http.MethodPost, "/2018-06-01/runtime/init/error", strings.NewReader(string(body)))
	request.Header["Lambda-Runtime-Function-Error-Type"] = []string{kind}
	w := httptest.NewRecorder()
	api.ServeHTTP(w, request)
	if w.Code != http.StatusAccepted {
		tb.Fatalf("status %d", w.Code)
	}
	return <-api.InitFailed()
}

func checkBounds(tb testing.TB, e *wire.Error) {
	tb.Helper()
	if e.Code != wire.CodeFunctionError || e.Message == "" {
		tb.Fatalf("error %+v", e)
	}
	for _, text := range append(e.Trace, e.Message, e.Type) {
		if !utf8.ValidString(text) {
			tb.Fatalf("%q is no UTF-8", text)
		}
	}
	encoded, err := json.Marshal(e)
	must(tb, err)
	if len(encoded) > maxHeader-wire.FrameHeadroom {
		tb.Fatalf("a report became %d bytes", len(encoded))
	}
}

func TestErrorReports(t *testing.T) {
	long := strings.Repeat("é", 100_000)
	for name, test := range map[string]struct {
		kind, body    string
		message, want string // beginning of the message, and the type
	}{
		"whole":           {"Header", `{"errorMessage":"m","errorType":"T"}`, "m", "T"},
		"type in header":  {"Header", `{"errorMessage":"m"}`, "m", "Header"},
		"no JSON":         {"Header", "plain text", "plain text", "Header"},
		"wrong types":     {"", `{"errorMessage":1}`, `{"errorMessage":1}`, ""},
		"empty":           {"", "", "the function failed without a message", ""},
		"null":            {"", "null", "the function failed without a message", ""},
		"no UTF-8":        {"\xff", "\xffboom", "\uFFFDboom", "\uFFFD"},
		"long message":    {"", `{"errorMessage":"` + long + `"}`, "éééé", ""},
		"long type":       {strings.Repeat("t", 1000), "x", "x", strings.Repeat("t", 253) + "…"},
		"over the limit":  {"T", strings.Repeat("x", 300_000), "the function failed; its error report could not be read: it is too large", "T"},
		"costly escaping": {"", strings.Repeat("\x01", 200_000), "\x01\x01", ""},
	} {
		t.Run(name, func(t *testing.T) {
			e := fail(t, test.kind, []byte(test.body))
			checkBounds(t, e)
			if !strings.HasPrefix(e.Message, test.message) || e.Type != test.want {
				t.Errorf("message %.80q, type %q; want %q, %q", e.Message, e.Type, test.message, test.want)
			}
		})
	}
}

func TestLongStackTrace(t *testing.T) {
	frames := make([]string, 200)
	for i := range frames {
		frames[i] = strings.Repeat("<", 1100)
	}
	body, err := json.Marshal(map[string]any{"errorMessage": "m", "stackTrace": frames[:30]})
	must(t, err)
	e := fail(t, "", body)
	checkBounds(t, e)
	if len(e.Trace) != 30 || len(e.Trace[0]) != 1024 {
		t.Errorf("%d frames of %d bytes", len(e.Trace), len(e.Trace[0]))
	}
	for i := range frames {
		frames[i] = "f"
	}
	body, err = json.Marshal(map[string]any{"errorMessage": "m", "stackTrace": frames})
	must(t, err)
	if e := fail(t, "", body); len(e.Trace) != 64 {
		t.Errorf("%d frames", len(e.Trace))
	}
}

func FuzzErrorReport(f *testing.F) {
	f.Add("Type", []byte(`{"errorMessage":"m","errorType":"T","stackTrace":["a"]}`))
	f.Add("\xff", []byte("\xff"))
	f.Fuzz(func(t *testing.T, kind string, body []byte) { checkBounds(t, fail(t, kind, body)) })
}

// FuzzRequest sends any request while an invocation runs: nothing but the right
// path answers it, and every answer has a status of the API.
func FuzzRequest(f *testing.F) {
	const invocations = "/2018-06-01/runtime/invocation/"
	f.Add(http.MethodPost, invocations+string(id)+"/response", []byte("{}"))
	f.Add(http.MethodPost, invocations+string(id)+"/error", []byte("{}"))
	f.Add(http.MethodPost, invocations+string(other)+"/response", []byte("{}"))
	f.Add(http.MethodPost, "/2018-06-01/runtime/init/error", []byte("{}"))
	f.Add(http.MethodGet, "/dayfly/v1/assignment", []byte{})
	f.Add(http.MethodPost, invocations+"//response", []byte{})
	f.Fuzz(func(t *testing.T, method, path string, body []byte) {
		if method == http.MethodGet && path == invocations+"next" {
			return // waits
		}
		api := runtimeapi.New()
		api.Assign(runtimeapi.Assignment{})
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan outcome, 1)
		go func() {
			result, err := api.Invoke(ctx, runtimeapi.Event{ID: id})
			done <- outcome{result, err}
		}()
		api.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest(http.MethodGet, invocations+"next", nil))
		w := httptest.NewRecorder()
		request := httptest.NewRequest(http.MethodPost, "/", nil)
		request.Method, request.URL.Path = method, path
		request.Body, request.ContentLength = io.NopCloser(strings.NewReader(string(body))), int64(len(body))
		api.ServeHTTP(w, request)
		answers := method == http.MethodPost && (path == invocations+string(id)+"/response" || path == invocations+string(id)+"/error")
		switch w.Code {
		case http.StatusOK, http.StatusAccepted, http.StatusBadRequest, http.StatusNotFound, http.StatusRequestEntityTooLarge:
		default:
			t.Errorf("status %d", w.Code)
		}
		if !answers {
			cancel()
		}
		out := <-done
		cancel()
		if answered := out.result != nil || wire.HasCode(out.err, wire.CodeFunctionError); answered != answers {
			t.Errorf("%s %q: result %q, %v", method, path, out.result, out.err)
		}
	})
}
