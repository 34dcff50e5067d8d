package cli_test

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/dayfly-run/dayfly/functions"
	"github.com/dayfly-run/dayfly/internal/httpapi"
	"github.com/dayfly-run/dayfly/sdk/client"
	"github.com/dayfly-run/dayfly/wire"
)

// devServer takes what dev deploys, each time as the next version.
type devServer struct {
	t *testing.T

	mu      sync.Mutex
	version int
	alias   int // where dev points
	broken  string
}

func (d *devServer) handler() http.Handler {
	mux := http.NewServeMux()
	id := wire.FunctionID{Namespace: "default", Name: "hello"}
	mux.HandleFunc("POST /v1/functions", func(w http.ResponseWriter, r *http.Request) {
		d.mu.Lock()
		defer d.mu.Unlock()
		if r.URL.Query().Get("live") != "false" {
			d.t.Errorf("dev deploys with %s", r.URL.RawQuery)
		}
		_, _ = io.Copy(io.Discard, r.Body)
		if d.broken != "" {
			httpapi.WriteProblem(w, wire.Errorf(wire.CodeInvalid, "%s", d.broken), "")
			return
		}
		d.version++
		f := functions.Function{FunctionID: id, Versions: []int{d.version}, Latest: d.version}
		_ = answer(w, http.StatusCreated, client.Deployment{Function: f, Version: functions.Version{VersionID: wire.VersionID{FunctionID: id, Number: d.version}}})
	})
	mux.HandleFunc("PUT /v1/functions/{ref}/aliases/dev", func(w http.ResponseWriter, r *http.Request) {
		var a functions.Alias
		err := json.NewDecoder(r.Body).Decode(&a)
		d.mu.Lock()
		defer d.mu.Unlock()
		if err != nil || a.Version != d.version {
			d.t.Errorf("alias %+v, %v", a, err)
		}
		d.alias = a.Version
		_ = answer(w, http.StatusOK, map[string]any{"function": functions.Function{FunctionID: id}})
	})
	mux.HandleFunc("GET /v1/functions/hello:dev/logs", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/x-ndjson")
		_ = json.NewEncoder(w).Encode(wire.LogEntry{Sequence: 1, Text: "printed by " + r.URL.Query().Get("version") + "\n"})
		_ = http.NewResponseController(w).Flush()
		<-r.Context().Done()
	})
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		d.t.Errorf("dev asks for %s %s", r.Method, r.URL)
		http.NotFound(w, r)
	})
	return mux
}

// TestDev: every change is deployed and its log shown; what cannot be built is told and
// waits for the next change.
func TestDev(t *testing.T) {
	d := &devServer{t: t}
	server := httptest.NewServer(d.handler())
	defer server.Close()
	dir := t.TempDir()
	write := func(name, content string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	const manifest = "name: hello\nruntime: python\nhandler: app.handler\n"
	write("dayfly.yaml", manifest)
	write("app.py", "# one\n")

	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	read, out := io.Pipe()
	root := newRoot()
	root.SetOut(out)
	root.SetErr(out)
	root.SetArgs([]string{"dev", dir, "--url", server.URL})
	result := make(chan error, 1)
	go func() {
		err := root.ExecuteContext(ctx)
		result <- err
		_ = out.CloseWithError(io.EOF)
	}()
	lines := bufio.NewScanner(read)
	expect := func(texts ...string) {
		t.Helper()
		for _, text := range texts {
			for {
				if !lines.Scan() {
					t.Fatalf("the end instead of %q", text)
				}
				t.Log(lines.Text())
				if strings.Contains(lines.Text(), text) {
					break
				}
			}
		}
	}
	expect("watching", "ready: version 1 after", "call it: dayfly invoke hello:dev --url", "printed by 1")

	write("app.py", "# another one\n")
	expect("changed: app.py", "ready: version 2", "printed by 2")

	write("dayfly.yaml", "name: hello\nruntime: pyton\n")
	expect("changed: dayfly.yaml", `error: dayfly.yaml:2:`, "waiting for a change")

	d.mu.Lock()
	d.broken = "the build failed: no such module"
	d.mu.Unlock()
	write("dayfly.yaml", manifest+"memory: 64Mi\n")
	expect("changed: dayfly.yaml", "error: the build failed: no such module", "waiting for a change")

	d.mu.Lock()
	d.broken = ""
	d.mu.Unlock()
	for n := range 5 {
		write(fmt.Sprintf("part%d.py", n), "")
	}
	// How many of them one look sees is chance.
	expect("changed: part", "printed by")

	cancel()
	expect("stopped; dev stays as it is")
	for lines.Scan() { // nothing is left unsaid
		t.Error(lines.Text())
	}
	if err := <-result; err != nil {
		t.Error(err)
	}
	if d.alias != d.version || d.version < 3 {
		t.Errorf("dev points to version %d of %d", d.alias, d.version)
	}
}

func TestDevRefuses(t *testing.T) {
	dir := t.TempDir()
	for name, test := range map[string]struct {
		args []string
		want string
	}{
		"no manifest": {[]string{dir}, "no dayfly.yaml in"},
		"live":        {[]string{dir, "--alias", "live"}, "does not touch what is live"},
		"no alias":    {[]string{dir, "--alias", "7"}, "cannot name an alias"},
		"namespace":   {[]string{dir, "--namespace", "Team"}, "is not a namespace"},
	} {
		root := newRoot()
		root.SetArgs(append([]string{"dev"}, test.args...))
		if err := root.ExecuteContext(t.Context()); err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
