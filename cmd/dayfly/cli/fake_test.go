package cli_test

import (
	"archive/tar"
	"compress/gzip"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/dayfly-run/dayfly/functions"
	"github.com/dayfly-run/dayfly/internal/httpapi"
	"github.com/dayfly-run/dayfly/sdk/client"
	"github.com/dayfly-run/dayfly/wire"
)

const (
	goodCall = wire.InvocationID("01998c2e-7d5a-7c11-9f00-3a5be1c2d4f6")
	badCall  = wire.InvocationID("01998c2e-8000-7c11-9f00-000000000bad")
	// deadCall was given up, and waitingCall never begins.
	deadCall    = wire.InvocationID("01998c2e-9000-7c11-9f00-000000000dea")
	waitingCall = wire.InvocationID("01998c2e-a000-7c11-9f00-000000000aaa")
)

// failures are what calls of these functions answer.
var failures = map[string]*wire.Error{
	"crash": {
		Code: wire.CodeFunctionError, Message: "division by zero", Type: "ZeroDivisionError",
		Trace: []string{`File "/var/task/app.py", line 3, in handler`, "  return 1 / 0"}, Logs: "starting\ndividing\n",
	},
	"slow":     {Code: wire.CodeFunctionTimeout, Message: "passed its timeout of 1s", Logs: "waiting\n"},
	"greedy":   {Code: wire.CodeFunctionOutOfMemory, Message: "used more than its 128 MiB"},
	"quitter":  {Code: wire.CodeFunctionExited, Message: "its process ended with exit code 1"},
	"full":     wire.Errorf(wire.CodeNoCapacity, "no node has 10 GiB of memory free"),
	"busy":     {Code: wire.CodeThrottled, Message: "50 calls run already", RetryAfterMillis: 2500},
	"starting": wire.Errorf(wire.CodeUnavailable, "the scheduler has no leader yet"),
	"broken":   {Code: wire.CodeInternal, Message: "the store is read-only"},
	"closed":   {Code: wire.CodeUnauthorized, Message: "this server wants a token"},
	"raced":    {Code: wire.CodeConflict, Message: "changed meanwhile"},
	"heavy":    {Code: wire.CodeTooLarge, Message: "the result is too large"},
}

// fakeAPI answers as the management API's contract says and reports, as a failed
// test, every request that the contract does not know.
type fakeAPI struct {
	t   *testing.T
	mux *http.ServeMux

	mu        sync.Mutex
	frozen    bool
	redriven  int // requests
	asked     int // for nodes
	looked    int // at nodes that drain
	functions []functions.Function
	settings  map[wire.FunctionID]*settings
	parts     map[string][]byte // of bundles, by path
	bundles   map[string][]byte // by digest
}

func newFakeAPI(t *testing.T) *fakeAPI {
	f := &fakeAPI{t: t, mux: http.NewServeMux(), parts: map[string][]byte{}, bundles: map[string][]byte{}}
	f.functions = []functions.Function{
		{
			FunctionID: wire.FunctionID{Namespace: "default", Name: "thumbnail"}, Versions: []int{1, 2, 3}, Latest: 3,
			Aliases: map[string]functions.Alias{"live": {Version: 3}, "beta": {Version: 2}},
		},
		{FunctionID: wire.FunctionID{Namespace: "team-a", Name: "hello"}, Versions: []int{1}, Latest: 1},
	}
	routes := map[string]func(http.ResponseWriter, *http.Request) error{
		"POST /v1/functions":                            f.deploy,
		"GET /v1/bundles/{digest}":                      f.bundle,
		"PUT /v1/bundles/{digest}/parts/{part}":         f.bundlePart,
		"POST /v1/bundles/{digest}":                     f.completeBundle,
		"GET /v1/functions":                             f.list,
		"GET /v1/functions/{ref}":                       f.describe,
		"DELETE /v1/functions/{ref}":                    f.delete,
		"POST /v1/functions/{ref}/invocations":          f.invoke,
		"POST /v1/events/{subject}":                     f.publish,
		"GET /v1/functions/{ref}/logs":                  f.logs,
		"GET /v1/functions/{ref}/invocations":           f.invocations,
		"GET /v1/functions/{ref}/dead-letters":          f.deadLetters,
		"GET /v1/functions/{ref}/dead-letters/{id}":     f.deadLetter,
		"DELETE /v1/functions/{ref}/dead-letters":       f.purge,
		"POST /v1/functions/{ref}/dead-letters/redrive": f.redrive,
		"POST /v1/invocations/{id}/cancel":              f.cancel,
		"GET /v1/invocations/{id}":                      f.invocation,
		"GET /v1/invocations/{id}/output":               f.output,
		"GET /v1/invocations/{id}/output/{path...}":     f.output,
		"GET /v1/nodes":                                 f.nodes,
		"GET /v1/roles":                                 f.roles,
		"GET /v1/nodes/{node}/drain":                    f.drain,
		"PUT /v1/nodes/{node}/drain":                    f.drain,
		"DELETE /v1/nodes/{node}/drain":                 f.drain,
		"GET /v1/health":                                f.health,
		"GET /v1/runtimes":                              f.runtimes,
		"POST /v1/runtimes/{name}/rebuild":              f.rebuild,
		"GET /html/v1/functions":                        proxyPage,
		"GET /other/v1/functions":                       otherServer,
		"GET /empty/v1/functions":                       emptyList(`{"functions":null}`),
		"GET /empty/v1/nodes":                           emptyList(`{"nodes":null}`),
	}
	maps.Copy(routes, f.galleryRoutes())
	maps.Copy(routes, f.settingsRoutes())
	for pattern, handler := range routes {
		f.mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
			if err := handler(w, r); err != nil {
				httpapi.WriteProblem(w, err, "")
			}
		})
	}
	f.mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		f.violation("no such endpoint: %s %s", r.Method, r.RequestURI)
		http.NotFound(w, r)
	})
	return f
}

func (f *fakeAPI) violation(format string, args ...any) error {
	f.t.Errorf("request outside of the contract: "+format, args...)
	return fmt.Errorf(format, args...)
}

// freeze makes all times the same, for answers that are compared whole.
func (f *fakeAPI) freeze() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.frozen = true
}

// ago is a moment some time ago. The caller holds mu.
func (f *fakeAPI) ago(d time.Duration) time.Time {
	if f.frozen {
		return time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC)
	}
	return time.Now().Add(-d).UTC()
}

// query checks that a request has no other parameters.
func (f *fakeAPI) query(r *http.Request, allowed ...string) (url.Values, error) {
	query := r.URL.Query()
	for key, values := range query {
		if len(values) != 1 || !strings.Contains(" "+strings.Join(allowed, " ")+" ", " "+key+" ") {
			return nil, f.violation("query %s of %s", r.URL.RawQuery, r.URL.Path)
		}
	}
	return query, nil
}

func answer(w http.ResponseWriter, status int, v any) error {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	return json.NewEncoder(w).Encode(v)
}

// find returns the function that a request's reference names. The caller holds mu.
func (f *fakeAPI) find(r *http.Request) (functions.Function, wire.Ref, error) {
	ref, err := wire.ParseRef(r.PathValue("ref"))
	if err != nil {
		return functions.Function{}, ref, f.violation("%s", err)
	}
	for _, function := range f.functions {
		if function.FunctionID == ref.FunctionID {
			function.CreatedAt, function.UpdatedAt = f.ago(50*time.Hour), f.ago(3*time.Hour+time.Minute)
			return function, ref, nil
		}
	}
	return functions.Function{}, ref, wire.Errorf(wire.CodeNotFound, "there is no function %s", ref.FunctionID)
}

func (f *fakeAPI) version(id wire.FunctionID, number int, spec functions.Spec) functions.Version {
	return functions.Version{
		VersionID: wire.VersionID{FunctionID: id, Number: number}, Spec: spec,
		Artifact: functions.Artifact{Code: wire.Digest(strings.Repeat("c0de", 16)), CodeBytes: 2048}, CreatedAt: f.ago(90 * time.Second),
	}
}

func (f *fakeAPI) deploy(w http.ResponseWriter, r *http.Request) error {
	query, err := f.query(r, "namespace", "live", "vendor", "bundle")
	if err != nil {
		return err
	}
	manifest, err := f.deployed(r, query)
	if err != nil {
		return f.violation("bundle: %s", err)
	}
	switch manifest.Name {
	case "stillborn":
		return &wire.Error{Code: wire.CodeFunctionExited, Message: "version 4 does not start: its process ended with exit code 1", Logs: "no module named x\n"}
	case "unbuildable":
		return &wire.Error{Code: wire.CodeInvalid, Message: "the build failed: go build: exit status 1", Logs: "main.go:3: undefined: x\n"}
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	id := wire.FunctionID{Namespace: query.Get("namespace"), Name: manifest.Name}
	function := functions.Function{
		FunctionID: id, Versions: []int{4}, Latest: 4, Aliases: map[string]functions.Alias{"live": {Version: 4}},
		CreatedAt: f.ago(0), UpdatedAt: f.ago(0),
	}
	f.functions = append(f.functions, function)
	return answerDeploy(w, r, client.Deployment{
		Function: function, Version: f.version(id, 4, manifest.Spec), URL: "http://dayfly.example/f/" + id.String(),
		BuildLog: "compiled in 1s\n", Live: query.Get("live") != "false", Cached: query.Get("vendor") == "true",
	})
}

func manifestOf(bundle io.Reader) (functions.Manifest, error) {
	unpacked, err := gzip.NewReader(bundle)
	if err != nil {
		return functions.Manifest{}, err
	}
	var manifest functions.Manifest
	for entries := tar.NewReader(unpacked); ; {
		entry, err := entries.Next()
		if errors.Is(err, io.EOF) {
			return manifest, nil
		}
		if err != nil {
			return manifest, err
		}
		if entry.Name != functions.ManifestName {
			continue
		}
		data, err := io.ReadAll(entries)
		if err != nil {
			return manifest, err
		}
		if manifest, err = functions.ParseManifest(data); err != nil {
			return manifest, err
		}
	}
}

func (f *fakeAPI) list(w http.ResponseWriter, r *http.Request) error {
	query, err := f.query(r, "namespace")
	if err != nil {
		return err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	list := []functions.Function{}
	for _, function := range f.functions {
		if !query.Has("namespace") || function.Namespace == query.Get("namespace") {
			function.CreatedAt, function.UpdatedAt = f.ago(50*time.Hour), f.ago(3*time.Hour+time.Minute)
			list = append(list, function)
		}
	}
	return answer(w, http.StatusOK, map[string]any{"functions": list})
}

func (f *fakeAPI) describe(w http.ResponseWriter, r *http.Request) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	function, ref, err := f.find(r)
	if err != nil {
		return err
	}
	number, err := function.Resolve(ref.Qualifier, 0)
	if err != nil {
		return err
	}
	return answer(w, http.StatusOK, client.Resolved{Function: function, Version: f.version(function.FunctionID, number, functions.Spec{
		Runtime: "python", Handler: "app.handler", MemoryBytes: 256 << 20, CPUMillis: 250, TimeoutMillis: 30_000, Concurrency: 1,
		MaxInstances: 50, Isolation: "shared", Network: "egress", Output: functions.OutputSpec{Store: true},
		Env:     map[string]string{"SIZE": "128", "MODE": "a\tb"},
		Secrets: []functions.SecretUse{{Name: "API_TOKEN", As: functions.SecretAsBoth}, {Name: "TLS_KEY", As: functions.SecretAsFile}},
		Triggers: []functions.Trigger{
			{Queue: &functions.QueueTrigger{Subject: "orders.*", Batch: functions.BatchSpec{Size: 1}}},
			{Cron: &functions.CronTrigger{Schedule: "*/5 * * * *", Timezone: "UTC", Missed: functions.MissedOnce}},
		},
	})})
}

func (f *fakeAPI) delete(w http.ResponseWriter, r *http.Request) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	_, ref, err := f.find(r)
	if err != nil {
		return err
	}
	if strings.Contains(r.PathValue("ref"), ":") {
		return f.violation("delete of %s", r.PathValue("ref"))
	}
	var kept []functions.Function
	for _, function := range f.functions {
		if function.FunctionID != ref.FunctionID {
			kept = append(kept, function)
		}
	}
	f.functions = kept
	w.WriteHeader(http.StatusNoContent)
	return nil
}
