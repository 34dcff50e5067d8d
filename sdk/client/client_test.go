package client_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/dayfly-run/dayfly/functions"
	"github.com/dayfly-run/dayfly/sdk/client"
	"github.com/dayfly-run/dayfly/wire"
	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const invocation = wire.InvocationID("01998c2e-7d5a-7c11-9f00-3a5be1c2d4f6")

// serve starts a server for one test and returns a client of it.
func serve(t *testing.T, handler http.HandlerFunc) *client.Client {
	t.Helper()
	server := httptest.NewServer(handler)
	t.Cleanup(server.Close)
	return newClient(t, server.URL)
}

// writeProblem answers with an error as the API does.
func writeProblem(w http.ResponseWriter, e *wire.Error, id wire.InvocationID) {
	w.Header().Set("Content-Type", wire.ProblemType)
	w.WriteHeader(http.StatusTeapot)            // the code counts, not the status
	_ = json.NewEncoder(w).Encode(wire.Problem{ //nolint:errchkjson // the client tells
		Type: "https://dayfly.run/errors/" + string(e.Code), Title: "A title", Status: http.StatusTeapot, Code: e.Code, Detail: e.Message,
		Invocation: id, ErrorType: e.Type, Trace: e.Trace, Logs: e.Logs, RetryAfterMillis: e.RetryAfterMillis, Retryable: e.Retryable,
	})
}

func newClient(t *testing.T, url string, opts ...client.Option) *client.Client {
	t.Helper()
	c, err := client.New(url, opts...)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestNewChecksTheURL(t *testing.T) {
	for _, good := range []string{"http://127.0.0.1:8080", "https://dayfly.example/base/", "http://[::1]:8080/"} {
		if c, err := client.New(good); err != nil || c.URL() != strings.TrimSuffix(good, "/") {
			t.Errorf("New(%q): %v", good, err)
		}
	}
	for url, want := range map[string]string{
		"localhost:8080":        "write it as http://localhost:8080",
		"127.0.0.1:8080":        "write it as http://127.0.0.1:8080",
		"ftp://host":            "write it as http://127.0.0.1:8080",
		"":                      "write it as http://127.0.0.1:8080",
		"http://":               "not an http or https URL",
		"http://host:notaport":  "not an http or https URL",
		"http://host/?a=b":      "query or a fragment",
		"http://host/#fragment": "query or a fragment",
	} {
		_, err := client.New(url)
		if !wire.HasCode(err, wire.CodeInvalid) || !strings.Contains(err.Error(), want) {
			t.Errorf("New(%q) = %v, want invalid with %q", url, err, want)
		}
	}
}

func TestURLsKeepTheBasePathAndHidePasswords(t *testing.T) {
	c := newClient(t, "http://me:secret@host/base/")
	ref, err := wire.ParseRef("thumbnail.team-a:3")
	if err != nil {
		t.Fatal(err)
	}
	if got, want := c.FunctionURL(ref), "http://me:xxxxx@host/base/f/thumbnail.team-a:3"; got != want {
		t.Errorf("FunctionURL = %s, want %s", got, want)
	}
}

// TestRequests holds every call without a body to the contract.
func TestRequests(t *testing.T) {
	created := time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC)
	thumbnail := wire.FunctionID{Namespace: "team-a", Name: "thumbnail"}
	function := functions.Function{
		FunctionID: thumbnail, Aliases: map[string]functions.Alias{"live": {Version: 3}}, Latest: 3,
		CreatedAt: created, UpdatedAt: created,
	}
	const functionJSON = `{"namespace":"team-a","name":"thumbnail","aliases":{"live":{"version":3}},"latest":3,
		"createdAt":"2026-05-01T12:00:00Z","updatedAt":"2026-05-01T12:00:00Z"}`
	version := functions.Version{
		VersionID: wire.VersionID{FunctionID: thumbnail, Number: 3},
		Spec:      functions.Spec{Runtime: "python", Handler: "app.handler"}, Artifact: functions.Artifact{Code: "c0de", CodeBytes: 12}, CreatedAt: created,
	}
	const versionJSON = `{"namespace":"team-a","name":"thumbnail","number":3,"spec":{"runtime":"python","handler":"app.handler"},
		"code":"c0de","codeBytes":12,"createdAt":"2026-05-01T12:00:00Z"}`

	for name, test := range map[string]struct {
		want   string // method and URI
		answer string // empty: 204
		call   func(context.Context, *client.Client) (any, error)
		result any
	}{
		"functions": {
			want: "GET /v1/functions", answer: `{"functions":[` + functionJSON + `]}`,
			call:   func(ctx context.Context, c *client.Client) (any, error) { return c.Functions(ctx, "") },
			result: []functions.Function{function},
		},
		"functions of a namespace": {
			want: "GET /v1/functions?namespace=team-a", answer: `{"functions":[]}`,
			call:   func(ctx context.Context, c *client.Client) (any, error) { return c.Functions(ctx, "team-a") },
			result: []functions.Function{},
		},
		"function": {
			want: "GET /v1/functions/thumbnail.team-a:3", answer: `{"function":` + functionJSON + `,"version":` + versionJSON + `}`,
			call:   func(ctx context.Context, c *client.Client) (any, error) { return c.Function(ctx, "thumbnail.team-a:3") },
			result: client.Resolved{Function: function, Version: version},
		},
		"delete": {
			want: "DELETE /v1/functions/thumbnail.team-a",
			call: func(ctx context.Context, c *client.Client) (any, error) { return nil, c.Delete(ctx, thumbnail) },
		},
		"invocation": {
			want: "GET /v1/invocations/" + string(invocation), answer: `{"invocation":"` + string(invocation) + `","state":"succeeded","runMicros":1500}`,
			call:   func(ctx context.Context, c *client.Client) (any, error) { return c.Invocation(ctx, invocation, 0) },
			result: wire.Record{Invocation: invocation, State: wire.StateSucceeded, RunMicros: 1500},
		},
		"drain a node": {
			want: "PUT /v1/nodes/n1/drain", answer: `{"node":"n1","ordered":true,"since":"2026-05-01T12:00:00Z","draining":true,"kept":[{"version":{"namespace":"default","name":"f","number":1},"count":1}]}`,
			call: func(ctx context.Context, c *client.Client) (any, error) { return c.DrainNode(ctx, "n1") },
			result: wire.DrainState{Node: "n1", Ordered: true, Since: created, Draining: true, Kept: []wire.KeptOnNode{
				{Version: wire.VersionID{FunctionID: wire.FunctionID{Namespace: "default", Name: "f"}, Number: 1}, Count: 1},
			}},
		},
		"take a drain back": {
			want: "DELETE /v1/nodes/n1/drain", answer: `{"node":"n1","ordered":false}`,
			call:   func(ctx context.Context, c *client.Client) (any, error) { return c.UndrainNode(ctx, "n1") },
			result: wire.DrainState{Node: "n1"},
		},
		"how far a drain is": {
			want: "GET /v1/nodes/n1/drain", answer: `{"node":"n1","ordered":true,"drained":true}`,
			call:   func(ctx context.Context, c *client.Client) (any, error) { return c.Drain(ctx, "n1") },
			result: wire.DrainState{Node: "n1", Ordered: true, Drained: true},
		},
		"nodes": {
			want: "GET /v1/nodes", answer: `{"nodes":[{"node":"n1","seq":7,"load":0.5,"lastSeen":"2026-05-01T12:00:00Z"}]}`,
			call:   func(ctx context.Context, c *client.Client) (any, error) { return c.Nodes(ctx) },
			result: []client.Node{{NodeState: wire.NodeState{Node: "n1", Seq: 7, Load: 0.5}, LastSeen: created}},
		},
		"roles": {
			want: "GET /v1/roles", answer: `{"protocol":1,"roles":[{"role":"scheduler","host":"h1","leads":true,"driftMillis":-20}]}`,
			call: func(ctx context.Context, c *client.Client) (any, error) {
				roles, protocol, err := c.Roles(ctx)
				return []any{roles, protocol}, err
			},
			result: []any{[]client.Role{{RoleState: wire.RoleState{Role: "scheduler", Host: "h1", Leads: true}, DriftMillis: -20}}, 1},
		},
		"ready": {
			want: "GET /readyz", answer: `ready`,
			call: func(ctx context.Context, c *client.Client) (any, error) { return nil, c.Ready(ctx) },
		},
		"output": {
			want: "GET /v1/invocations/" + string(invocation) + "/output", answer: "\x00raw",
			call: func(ctx context.Context, c *client.Client) (any, error) {
				return readAll(c.Output(ctx, invocation))
			},
			result: "\x00raw",
		},
		"output file": {
			want: "GET /v1/invocations/" + string(invocation) + "/output/a%20b/c%3F%25,;:@.png", answer: "png",
			call: func(ctx context.Context, c *client.Client) (any, error) {
				return readAll(c.OutputFile(ctx, invocation, "a b/c?%,;:@.png"))
			},
			result: "png",
		},
	} {
		t.Run(name, func(t *testing.T) {
			var got string
			c := serve(t, func(w http.ResponseWriter, r *http.Request) {
				got = r.Method + " " + r.RequestURI
				if test.answer == "" {
					w.WriteHeader(http.StatusNoContent)
					return
				}
				w.Header().Set("Content-Type", "application/json; charset=utf-8")
				_, _ = io.WriteString(w, test.answer)
			})
			result, err := test.call(t.Context(), c)
			if err != nil {
				t.Fatal(err)
			}
			if got != test.want {
				t.Errorf("the server got %s, want %s", got, test.want)
			}
			if diff := cmp.Diff(test.result, result); diff != "" {
				t.Errorf("result (-want +got):\n%s", diff)
			}
		})
	}
}

func readAll(body io.ReadCloser, err error) (string, error) {
	if err != nil {
		return "", err
	}
	data, err := io.ReadAll(body)
	return string(data), errors.Join(err, body.Close())
}

func TestBadArgumentsAreNotSent(t *testing.T) {
	c := serve(t, func(_ http.ResponseWriter, r *http.Request) { t.Errorf("the server got %s %s", r.Method, r.RequestURI) })
	ctx := t.Context()
	for name, call := range map[string]func() error{
		"namespace to list":   func() error { _, err := c.Functions(ctx, "No"); return err },
		"namespace to deploy": func() error { _, err := c.Deploy(ctx, "a/b", strings.NewReader("x")); return err },
		"empty bundle":        func() error { _, err := c.Deploy(ctx, "", strings.NewReader("")); return err },
		"reference":           func() error { _, err := c.Function(ctx, "../x"); return err },
		"reference to invoke": func() error { _, err := c.Invoke(ctx, "a:b:c", strings.NewReader("{}")); return err },
		"function to delete":  func() error { return c.Delete(ctx, wire.FunctionID{Name: "x"}) },
		"invocation":          func() error { _, err := c.Invocation(ctx, "../../readyz", 0); return err },
		"output":              func() error { _, err := c.Output(ctx, ""); return err },
		"path out of output":  func() error { _, err := c.OutputFile(ctx, invocation, "../x"); return err },
		"no path":             func() error { _, err := c.OutputFile(ctx, invocation, "."); return err },
		"logs reference":      func() error { return logsError(ctx, c, "X", client.LogOptions{}) },
		"logs tail":           func() error { return logsError(ctx, c, "x", client.LogOptions{Tail: wire.MaxLogTail + 1}) },
		"logs invocation":     func() error { return logsError(ctx, c, "x", client.LogOptions{Invocation: "x"}) },
	} {
		if err := call(); !wire.HasCode(err, wire.CodeInvalid) {
			t.Errorf("%s: %v, want code invalid", name, err)
		}
	}
}

func logsError(ctx context.Context, c *client.Client, ref string, options client.LogOptions) (err error) {
	for _, err = range c.Logs(ctx, ref, options) {
		if err != nil {
			return err
		}
	}
	return err
}

func TestProblemsBecomeErrors(t *testing.T) {
	for _, sent := range []*wire.Error{
		{Code: wire.CodeFunctionError, Message: "division by zero", Type: "ZeroDivisionError", Trace: []string{"line 1"}, Logs: "last\n"},
		{Code: wire.CodeFunctionTimeout, Message: "passed its timeout of 1s", Logs: "spinning\n"},
		{Code: wire.CodeNotFound, Message: "there is no function x"},
		{Code: wire.CodeConflict, Message: "changed"},
		{Code: wire.CodeThrottled, Message: "too many", RetryAfterMillis: 1500, Retryable: true},
		{Code: wire.CodeInternal, Message: "broken"},
	} {
		c := serve(t, func(w http.ResponseWriter, _ *http.Request) { writeProblem(w, sent, invocation) })
		_, err := c.Functions(t.Context(), "")
		if diff := cmp.Diff(error(sent), err); diff != "" {
			t.Errorf("%s (-sent +got):\n%s", sent.Code, diff)
		}
	}
}

func TestRetryAfterHeaderAndTitleFillIn(t *testing.T) {
	c := serve(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/problem+json")
		w.Header().Set("Retry-After", "3")
		w.WriteHeader(http.StatusServiceUnavailable)
		_, _ = io.WriteString(w, `{"code":"no_capacity","title":"No node has room","new":"member"}`)
	})
	want := &wire.Error{Code: wire.CodeNoCapacity, Message: "No node has room", RetryAfterMillis: 3000}
	if diff := cmp.Diff(error(want), c.Ready(t.Context())); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestAnswersThatAreNotDayflys(t *testing.T) {
	for name, test := range map[string]struct {
		status    int
		header    map[string]string
		body      string
		want      string
		temporary bool
	}{
		"proxy's page": {
			502, map[string]string{"Content-Type": "text/html"}, "<html>\n<h1>Bad Gateway</h1>",
			`answered 502 Bad Gateway (text/html), which is not an answer of Dayfly's: "<html> <h1>Bad Gateway</h1>"; a proxy`, true,
		},
		"other server":   {404, map[string]string{"Content-Type": "text/plain"}, "404 page not found", "check --url or DAYFLY_URL", false},
		"page with 200":  {200, map[string]string{"Content-Type": "text/html"}, "<title>Welcome", `"<title>Welcome"`, false},
		"other problem":  {400, map[string]string{"Content-Type": "application/problem+json"}, `{"title":"No"}`, "400 Bad Request", false},
		"broken problem": {500, map[string]string{"Content-Type": "application/problem+json"}, `{"code`, "500 Internal Server Error", false},
		"redirect":       {302, map[string]string{"Location": "https://login.example/"}, "", "it redirects to https://login.example/", false},
		"broken JSON":    {200, map[string]string{"Content-Type": "application/json"}, `{"functions":`, "unexpected end of JSON input", false},
		"long page":      {500, map[string]string{"Content-Type": "text/html"}, strings.Repeat("é", 1000), "é…\"", false},
	} {
		t.Run(name, func(t *testing.T) {
			c := serve(t, func(w http.ResponseWriter, _ *http.Request) {
				for key, value := range test.header {
					w.Header().Set(key, value)
				}
				w.WriteHeader(test.status)
				_, _ = io.WriteString(w, test.body)
			})
			_, err := c.Functions(t.Context(), "")
			e, ok := errors.AsType[*client.ResponseError](err)
			if !ok {
				t.Fatalf("error %T: %v", err, err)
			}
			if !strings.Contains(e.Error(), test.want) || e.Temporary() != test.temporary {
				t.Errorf("temporary %t: %s\nwant %t and %q", e.Temporary(), e, test.temporary, test.want)
			}
			if len(e.Error()) > 500 {
				t.Errorf("the text has %d bytes", len(e.Error()))
			}
		})
	}
}

func TestNobodyListens(t *testing.T) {
	server := httptest.NewServer(http.NotFoundHandler())
	server.Close()
	err := newClient(t, server.URL).Ready(t.Context())
	if _, ok := errors.AsType[*client.UnreachableError](err); !ok {
		t.Fatalf("error %T: %v", err, err)
	}
	for _, want := range []string{server.URL, "refused", `"dayfly up"`, "--url", "DAYFLY_URL"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%q lacks %q", err, want)
		}
	}
}

func TestConnectionBreaks(t *testing.T) {
	c := serve(t, func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) })
	_, err := c.Functions(t.Context(), "")
	if err == nil || !strings.Contains(err.Error(), "the connection failed") {
		t.Errorf("error = %v", err)
	}
}

func TestCallerGivesUp(t *testing.T) {
	entered := make(chan struct{})
	c := serve(t, func(_ http.ResponseWriter, r *http.Request) {
		close(entered)
		<-r.Context().Done()
	})
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		<-entered
		cancel()
	}()
	_, err := c.Functions(ctx, "")
	if !errors.Is(err, context.Canceled) || !strings.Contains(err.Error(), "/v1/functions") {
		t.Errorf("error = %v, want one that names the request and wraps context.Canceled", err)
	}
}

// never is a server that accepts and says nothing.
type never struct{}

func (never) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.Body != nil {
		defer func() { _ = r.Body.Close() }()
	}
	<-r.Context().Done()
	return nil, context.Cause(r.Context())
}

func TestSilentServer(t *testing.T) {
	for name, test := range map[string]struct {
		call  func(context.Context, *client.Client) error
		bound time.Duration
	}{
		"short call": {func(ctx context.Context, c *client.Client) error { return c.Ready(ctx) }, client.DefaultTimeout},
		"invoke": {func(ctx context.Context, c *client.Client) error {
			_, err := c.Invoke(ctx, "x", strings.NewReader("{}"))
			return err
		}, client.InvokeTimeout},
		"deploy": {func(ctx context.Context, c *client.Client) error {
			_, err := c.Deploy(ctx, "", strings.NewReader("bundle"))
			return err
		}, client.DeployTimeout},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := newClient(t, "http://host", client.WithHTTPClient(&http.Client{Transport: never{}}))
				start := time.Now()
				err := test.call(t.Context(), c)
				if !wire.HasCode(err, wire.CodeUnavailable) || !strings.Contains(err.Error(), fmt.Sprint(test.bound)) {
					t.Errorf("error = %v", err)
				}
				if got := time.Since(start); got != test.bound {
					t.Errorf("gave up after %s, want %s", got, test.bound)
				}
			})
		})
	}
}

func TestWithTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newClient(t, "http://host", client.WithHTTPClient(&http.Client{Transport: never{}}), client.WithTimeout(time.Second))
		if err := c.Ready(t.Context()); !wire.HasCode(err, wire.CodeUnavailable) {
			t.Errorf("error = %v", err)
		}
	})
}
