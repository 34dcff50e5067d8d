package gateway

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/go-chi/chi/v5"
	"github.com/google/go-cmp/cmp"

	"github.com/dayfly-run/dayfly/functions"
	"github.com/dayfly-run/dayfly/internal/dispatch"
	"github.com/dayfly-run/dayfly/internal/embed/embedtest"
	"github.com/dayfly-run/dayfly/internal/roster"
	"github.com/dayfly-run/dayfly/wire"
)

func TestFunctions(t *testing.T) {
	w := newWorld(t)
	w.deployed(other)
	w.deployed(hello)
	w.deployed(hello)
	type list struct{ Functions []functions.Function }
	for target, want := range map[string][]string{
		"/v1/functions": {"hello", "other.team-a"}, "/v1/functions?namespace=team-a": {"other.team-a"}, "/v1/functions?namespace=none": nil,
	} {
		got := w.ask(http.MethodGet, target, nil)
		var names []string
		for _, f := range decode[list](t, got, 200).Functions {
			names = append(names, f.String())
		}
		if diff := cmp.Diff(want, names); diff != "" {
			t.Errorf("%s (-want +got):\n%s", target, diff)
		}
		if bytes.Contains(got.Body.Bytes(), []byte("null")) {
			t.Errorf("%s: %s", target, got.Body)
		}
	}
	type detail struct {
		Function functions.Function
		Version  functions.Version
	}
	for ref, want := range map[string]int{"hello": 2, "hello:1": 1, "hello.default:live": 2, "hello%3A1": 1} {
		if got := decode[detail](t, w.ask(http.MethodGet, "/v1/functions/"+ref, nil), 200); got.Version.Number != want || got.Function.Latest != 2 {
			t.Errorf("%s: %+v", ref, got)
		}
	}
	wantProblem(t, w.ask(http.MethodGet, "/v1/functions/hello:9", nil), 404, wire.CodeNotFound, "versions are 1 to 2")
	wantProblem(t, w.ask(http.MethodGet, "/v1/functions/He", nil), 400, wire.CodeInvalid, `"He"`)
	wantProblem(t, w.ask(http.MethodDelete, "/v1/functions/hello:1", nil), 400, wire.CodeInvalid, "without a version")
	wantProblem(t, w.ask(http.MethodDelete, "/v1/functions/He", nil), 400, wire.CodeInvalid, `"He"`)
	if got := w.ask(http.MethodDelete, "/v1/functions/hello", nil); got.Code != 204 || got.Body.Len() != 0 {
		t.Errorf("delete: %d %s", got.Code, got.Body)
	}
	wantProblem(t, w.ask(http.MethodGet, "/v1/functions/hello", nil), 404, wire.CodeNotFound, "no function hello")
	wantProblem(t, w.ask(http.MethodDelete, "/v1/functions/hello", nil), 404, wire.CodeNotFound, "no function hello")
}

func TestNodes(t *testing.T) {
	w := newWorld(t)
	if got := w.ask(http.MethodGet, "/v1/nodes", nil); got.Code != 200 || strings.TrimSpace(got.Body.String()) != `{"nodes":[]}` {
		t.Errorf("%d %s", got.Code, got.Body)
	}
	w.node(w.deployed(hello), echo)
	type list struct{ Nodes []dispatch.NodeView }
	got := decode[list](t, w.ask(http.MethodGet, "/v1/nodes", nil), 200).Nodes
	if len(got) != 1 || got[0].Node != "n1" || time.Since(got[0].LastSeen) > time.Minute || got[0].Versions[0].Idle != 1 {
		t.Errorf("%+v", got)
	}
}

func TestRoles(t *testing.T) {
	w := newWorld(t)
	type list struct {
		Protocol int
		Roles    []roster.Role
	}
	if got := decode[list](t, w.ask(http.MethodGet, "/v1/roles", nil), 200); got.Protocol != wire.Protocol || len(got.Roles) != 0 {
		t.Errorf("nobody is there: %+v", got)
	}
	self := roster.NewSelf(w.conn, func() wire.RoleState {
		return wire.RoleState{Role: "scheduler", Host: "h1", Protocol: wire.Protocol, Leads: true}
	}, embedtest.Discard())
	if err := self.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	embedtest.Eventually(t, "the scheduler answers", func() bool {
		got := decode[list](t, w.ask(http.MethodGet, "/v1/roles", nil), 200).Roles
		return len(got) == 1 && got[0].Role == "scheduler" && got[0].Leads && !got[0].At.IsZero()
	})
}

// stored publishes a message that a stream keeps.
func (w *world) stored(subject string, v any) {
	w.t.Helper()
	data, err := json.Marshal(v)
	if err == nil {
		err = w.conn.PublishStored(w.t.Context(), subject, data)
	}
	if err != nil {
		w.t.Fatal(err)
	}
}

func invocation(n int) wire.InvocationID {
	return wire.InvocationID(fmt.Sprintf("01998c2e-7d5a-7c11-9f00-%012d", n))
}

func TestInvocations(t *testing.T) {
	w := newWorld(t)
	v := wire.VersionID{FunctionID: hello, Number: 1}
	plain := wire.Record{Invocation: invocation(1), Version: v, State: wire.StateSucceeded, Node: "n1"}
	kept := wire.Record{Invocation: invocation(2), Version: v, State: wire.StateSucceeded, Output: &wire.Output{ResultBytes: 2, Files: []wire.OutputFile{{Path: "a/my cat?.png", Bytes: 3}}}}
	w.stored(wire.RecordSubject(hello, plain.Invocation), plain)
	w.stored(wire.RecordSubject(hello, kept.Invocation), wire.Record{Invocation: kept.Invocation, State: wire.StateRunning})
	w.stored(wire.StoredRecordSubject(hello, kept.Invocation), kept)
	for _, want := range []wire.Record{plain, kept} {
		got := decode[wire.Record](t, w.ask(http.MethodGet, "/v1/invocations/"+string(want.Invocation), nil), 200)
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
	}
	wantProblem(t, w.ask(http.MethodGet, "/v1/invocations/"+string(invocation(3)), nil), 404, wire.CodeNotFound, "nothing is known")
	wantProblem(t, w.ask(http.MethodGet, "/v1/invocations/x", nil), 400, wire.CodeInvalid, wire.HeaderInvocation)
	wantProblem(t, w.ask(http.MethodGet, "/v1/invocations/"+string(plain.Invocation)+"/output", nil), 404, wire.CodeNotFound, "output: {store: true}")

	for key, data := range map[string]string{
		wire.OutputResultKey(hello, kept.Invocation):                "{}",
		wire.OutputFileKey(hello, kept.Invocation, "a/my cat?.png"): "png",
		wire.OutputResultKey(hello, invocation(9)):                  "secret",
	} {
		if err := w.store.PutBytes(t.Context(), key, []byte(data), "image/x"); err != nil {
			t.Fatal(err)
		}
	}
	base := "/v1/invocations/" + string(kept.Invocation) + "/output"
	for path, want := range map[string]string{"": "{}", "/a/my%20cat%3F.png": "png", "/a%2Fmy%20cat%3F.png": "png"} {
		got := w.ask(http.MethodGet, base+path, nil)
		h := got.Header()
		if got.Code != 200 || got.Body.String() != want || h.Get("Content-Length") != strconv.Itoa(len(want)) || h.Get("X-Content-Type-Options") != "nosniff" {
			t.Errorf("%s: %d %s %v", path, got.Code, got.Body, h)
		}
	}
	wantProblem(t, w.ask(http.MethodGet, base+"/b.png", nil), 404, wire.CodeNotFound, "no such output")
	for _, path := range []string{"/../../" + string(invocation(9)) + "/result", "/..%2f..%2f" + string(invocation(9)) + "%2fresult", "/", "/a//b", "/."} {
		wantProblem(t, w.ask(http.MethodGet, base+path, nil), 400, wire.CodeInvalid, "is not the path of an output file")
	}
}

// logged publishes log entries of an invocation.
func (w *world) logged(id wire.InvocationID, texts ...string) {
	w.t.Helper()
	for _, text := range texts {
		w.stored(wire.LogSubject(hello, id), wire.LogEntry{Invocation: id, Text: text})
	}
}

func texts(t *testing.T, body io.Reader) (all []string) {
	t.Helper()
	for lines := bufio.NewScanner(body); lines.Scan(); {
		var e wire.LogEntry
		if err := json.Unmarshal(lines.Bytes(), &e); err != nil {
			t.Fatalf("%s: %v", lines.Bytes(), err)
		}
		all = append(all, e.Text)
	}
	return all
}

func TestLogs(t *testing.T) {
	w := newWorld(t)
	w.deployed(hello)
	read := func(query string) []string {
		t.Helper()
		got := w.ask(http.MethodGet, "/v1/functions/hello/logs"+query, nil)
		if got.Code != 200 || got.Header().Get("Content-Type") != "application/x-ndjson" {
			t.Errorf("%s: %d %v", query, got.Code, got.Header())
		}
		return texts(t, got.Body)
	}
	if got := read(""); got != nil {
		t.Errorf("no log: %q", got)
	}
	var want []string
	for n := range 150 {
		want = append(want, strconv.Itoa(n))
	}
	w.logged(invocation(1), want...)
	w.logged(invocation(2), "other")
	for query, want := range map[string][]string{
		"":                                     append(slices.Clone(want[51:]), "other"),
		"?tail=2":                              {"149", "other"},
		"?tail=0":                              nil,
		"?invocation=" + string(invocation(1)): want, // all of it
		"?tail=1&invocation=" + string(invocation(1)):       {"149"},
		"?follow=false&invocation=" + string(invocation(3)): nil,
	} {
		if diff := cmp.Diff(want, read(query)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", query, diff)
		}
	}
	for query, text := range map[string]string{
		"?tail=-1": "use a number from 0 to 10000", "?tail=10001": "use a number", "?tail=x": "use a number",
		"?invocation=x": "no invocation ID", "?follow=maybe": "use true or false",
	} {
		wantProblem(t, w.ask(http.MethodGet, "/v1/functions/hello/logs"+query, nil), 400, wire.CodeInvalid, text)
	}
	wantProblem(t, w.ask(http.MethodGet, "/v1/functions/nobody/logs", nil), 404, wire.CodeNotFound, "no function nobody")
}

// TestFollowedLogs: entries come as they are printed, and the gateway's stop ends
// the stream in good order.
func TestFollowedLogs(t *testing.T) {
	for name, end := range map[string]func(*world, context.CancelFunc){
		"drain":             func(w *world, _ context.CancelFunc) { w.Drain(); w.Drain() },
		"the client leaves": func(_ *world, cancel context.CancelFunc) { cancel() },
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			w.deployed(hello)
			w.logged(invocation(1), "0", "1")
			server := httptest.NewServer(w.Handler())
			defer server.Close()
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			r, err := http.NewRequestWithContext(ctx, http.MethodGet, server.URL+"/v1/functions/hello/logs?follow=true&tail=1", nil)
			if err != nil {
				t.Fatal(err)
			}
			resp, err := server.Client().Do(r)
			if err != nil {
				t.Fatal(err)
			}
			defer resp.Body.Close()
			lines := bufio.NewScanner(resp.Body)
			for n := 1; n <= 3; n++ {
				if !lines.Scan() || !strings.Contains(lines.Text(), fmt.Sprintf(`"text":"%d"`, n)) {
					t.Fatalf("entry %d: %s, %v", n, lines.Text(), lines.Err())
				}
				w.logged(invocation(n+1), strconv.Itoa(n+1))
			}
			end(w, cancel)
			for lines.Scan() { // the entry that may be on its way
			}
			if drained := ctx.Err() == nil; drained != (lines.Err() == nil) {
				t.Errorf("the stream ended with %v", lines.Err())
			}
		})
	}
}

func TestNothingThere(t *testing.T) {
	w := newWorld(t)
	wantProblem(t, w.ask(http.MethodGet, "/nowhere", nil), 404, wire.CodeNotFound, "/f/NAME")
	for _, test := range [][3]string{
		{http.MethodDelete, "/v1/functions", "GET, POST"}, {http.MethodPost, "/v1/nodes", "GET"}, {http.MethodPut, "/v1/functions/x", "DELETE, GET"},
	} {
		got := w.ask(test[0], test[1], nil)
		wantProblem(t, got, 405, wire.CodeInvalid, "use "+test[2])
		if allow := got.Header().Get("Allow"); allow != test[2] {
			t.Errorf("%s %s: Allow %q", test[0], test[1], allow)
		}
	}
}

// TestOpenAPI: the document has every route that is served, and no other.
// TestManifestSchema: editors get a schema that knows the manifest's keys.
func TestManifestSchema(t *testing.T) {
	w := newWorld(t)
	schema := decode[struct{ Properties map[string]any }](t, w.ask(http.MethodGet, "/v1/manifest.schema.json", nil), 200)
	for _, key := range []string{"name", "runtime", "handler", "triggers"} {
		if schema.Properties[key] == nil {
			t.Errorf("the schema does not know %s", key)
		}
	}
}

func TestOpenAPI(t *testing.T) {
	w := newWorld(t)
	type parameter struct {
		Name, In string
		Required bool
	}
	document := decode[struct {
		OpenAPI string
		Info    struct{ Title, Version string }
		Paths   map[string]map[string]struct {
			OperationID string
			Summary     string
			Parameters  []parameter
			Responses   map[string]any
		}
	}](t, w.ask(http.MethodGet, "/v1/openapi.json", nil), 200)
	if !strings.HasPrefix(document.OpenAPI, "3.") || document.Info.Title != "Dayfly" || document.Info.Version != "test" {
		t.Errorf("head %s %+v", document.OpenAPI, document.Info)
	}
	described, ids := []string{}, map[string]bool{}
	for path, methods := range document.Paths {
		for method, op := range methods {
			name := strings.ToUpper(method) + " " + path
			described = append(described, name)
			if op.OperationID == "" || ids[op.OperationID] || op.Summary == "" || len(op.Responses) < 2 {
				t.Errorf("%s: %+v", name, op)
			}
			ids[op.OperationID] = true
			for _, p := range pathParameters(path) {
				if !slices.Contains(op.Parameters, parameter{p, "path", true}) {
					t.Errorf("%s does not describe {%s}: %v", name, p, op.Parameters)
				}
			}
		}
	}
	var served []string
	err := chi.Walk(w.Handler(), func(method, route string, _ http.Handler, _ ...func(http.Handler) http.Handler) error {
		// Triggers are the functions' own API, and the document is not in itself.
		if strings.HasPrefix(route, "/v1/") && !strings.HasPrefix(route, "/v1/openapi") {
			served = append(served, method+" "+strings.Replace(route, "*", "{path}", 1))
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(described)
	slices.Sort(served)
	if diff := cmp.Diff(served, described); diff != "" || len(served) < 10 {
		t.Errorf("%d routes (-served +described):\n%s", len(served), diff)
	}
}
