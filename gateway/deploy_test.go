package gateway

import (
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"github.com/dayfly-run/dayfly/functions"
	"github.com/dayfly-run/dayfly/internal/bus"
	"github.com/dayfly-run/dayfly/internal/embed/embedtest"
	"github.com/dayfly-run/dayfly/wire"
)

// wantNoBundle fails when an upload was left behind.
func (w *world) wantNoBundle(key string) {
	w.t.Helper()
	if found, err := w.store.Exists(w.t.Context(), key); found || err != nil || key == "" {
		w.t.Errorf("bundle %q: exists %t, %v", key, found, err)
	}
}

const manifest = "name: hello\nruntime: python\nhandler: app.handler\n"

// starting starts doubles of a scheduler and a node that has instances ready, but for
// the versions that answer refuses.
func (w *world) starting(answer func(wire.VersionID) *wire.Error) {
	w.t.Helper()
	w.scheduler(wire.PlaceReply{Node: "n1", Lease: "l1"})
	w.node(functions.Version{}, func(req wire.InvokeRequest, _ []byte) (*wire.InvokeReply, []byte) {
		if !req.Start {
			w.t.Errorf("%s is called, not started", req.Version)
		}
		return &wire.InvokeReply{Instance: "i1", Spent: true, Error: answer(req.Version)}, nil
	})
}

func startsAlways(wire.VersionID) *wire.Error { return nil }

// builds starts a double of a builder that makes the same of everything.
func (w *world) builds() {
	w.t.Helper()
	w.builder(func(wire.BuildRequest) wire.BuildReply {
		return wire.BuildReply{Manifest: []byte(manifest), Code: wire.Digest(strings.Repeat("0b", 32)), CodeBytes: 12, Log: "fine\n"}
	})
}

// live is the version that the registry has as live; 0 for none.
func (w *world) live(id wire.FunctionID) int {
	w.t.Helper()
	f, err := w.registry.Function(w.t.Context(), id)
	if err != nil {
		w.t.Fatal(err)
	}
	return f.Aliases[wire.LiveAlias].Version
}

func TestDeploy(t *testing.T) {
	w := newWorld(t)
	id := wire.FunctionID{Namespace: "team-a", Name: "hello"}
	code := wire.Digest(strings.Repeat("0b", 32))
	w.builder(func(req wire.BuildRequest) wire.BuildReply {
		data, err := w.store.GetBytes(t.Context(), req.Bundle, 100)
		if err != nil || string(data) != "a bundle" || req.ID == "" || req.Namespace != "team-a" || !req.Vendor {
			t.Errorf("builder was asked %+v and found %q, %v", req, data, err)
		}
		return wire.BuildReply{Manifest: []byte(manifest), Code: code, CodeBytes: 12, Arch: "arm64", Log: "fine\n", Cached: true}
	})
	w.starting(func(v wire.VersionID) *wire.Error {
		if live := w.live(id); live != v.Number-1 {
			t.Errorf("version %d is live while %s starts", live, v)
		}
		return nil
	})
	for n := 1; n <= 2; n++ {
		got := decode[deployment](t, w.ask(http.MethodPost, "/v1/functions?namespace=team-a&vendor=true", strings.NewReader("a bundle")), 201)
		want := wire.VersionID{FunctionID: id, Number: n}
		if got.Version.VersionID != want || got.Version.Code != code || got.Version.Arch != "arm64" || got.Version.Spec.Handler != "app.handler" ||
			got.Function.Aliases["live"].Version != n || got.URL != "http://example.com/f/hello.team-a" || got.BuildLog != "fine\n" ||
			!got.Live || got.Note != "" || !got.Cached {
			t.Errorf("%+v", got)
		}
		// Who was told of the version can use it at once.
		if _, v, err := w.cache.Resolve(wire.Ref{FunctionID: id, Qualifier: "live"}, functions.MainDraw); err != nil || v.Number != n {
			t.Errorf("live is %v, %v", v.VersionID, err)
		}
	}
}

// TestDeployThatDoesNotStart: the version is there and not live, and the answer is the
// function's own error.
func TestDeployThatDoesNotStart(t *testing.T) {
	w := newWorld(t)
	w.builds()
	w.starting(func(v wire.VersionID) *wire.Error {
		if v.Number == 1 {
			return nil
		}
		return &wire.Error{Code: wire.CodeFunctionError, Message: "No module named 'x'", Type: "ImportError", Logs: "loading\n"}
	})
	decode[deployment](t, w.ask(http.MethodPost, "/v1/functions", strings.NewReader("x")), 201)
	p := wantProblem(t, w.ask(http.MethodPost, "/v1/functions", strings.NewReader("x")), 502, wire.CodeFunctionError,
		"version 2 of hello is built but does not start, so live stays at version 1: No module named 'x'")
	if p.ErrorType != "ImportError" || p.Logs != "loading\n" || p.Retryable {
		t.Errorf("%+v", p)
	}
	if live := w.live(hello); live != 1 {
		t.Errorf("live is %d", live)
	}
	// Neither by hand.
	wantProblem(t, w.ask(http.MethodPut, "/v1/functions/hello/aliases/live", strings.NewReader(`{"version":2}`), asJSON),
		502, wire.CodeFunctionError, "version 2 of hello does not start, so live stays where it is")
	wantProblem(t, w.ask(http.MethodPost, "/v1/functions/hello/rollback", strings.NewReader(`{"to":2}`), asJSON), 502, wire.CodeFunctionError, "does not start")
	if live := w.live(hello); live != 1 {
		t.Errorf("live is %d", live)
	}
}

// TestDeployWithoutRoom: the version waits for somebody to make it live, for whom there
// need be no room.
func TestDeployWithoutRoom(t *testing.T) {
	w := newWorld(t)
	w.builds()
	full := wire.Errorf(wire.CodeNoCapacity, "no node has room")
	full.RetryAfterMillis = time.Minute.Milliseconds() // waiting changes nothing
	w.scheduler(wire.PlaceReply{Error: full})
	p := wantProblem(t, w.ask(http.MethodPost, "/v1/functions", strings.NewReader("x")), 503, wire.CodeNoCapacity,
		"no instance of it could be started, so no version is live: ")
	if !strings.Contains(p.Detail, "dayfly alias set hello live --version 1") || p.Retryable {
		t.Errorf("%+v", p)
	}
	if live := w.live(hello); live != 0 {
		t.Errorf("live is %d", live)
	}
	if got := w.ask(http.MethodPut, "/v1/functions/hello/aliases/live", strings.NewReader(`{"version":1}`), asJSON); got.Code != 200 {
		t.Errorf("%d %s", got.Code, got.Body)
	}
	if live := w.live(hello); live != 1 {
		t.Errorf("live is %d", live)
	}
}

func TestDeployThatIsNotToBeLive(t *testing.T) {
	w := newWorld(t)
	w.builds() // and nobody starts anything
	got := decode[deployment](t, w.ask(http.MethodPost, "/v1/functions?live=false", strings.NewReader("x")), 201)
	if got.Live || got.Version.Number != 1 || !strings.Contains(got.Note, "no version is live yet") {
		t.Errorf("%+v", got)
	}
	wantProblem(t, w.ask(http.MethodGet, "/v1/functions/hello", nil), 404, wire.CodeNotFound, `no alias "live"; its only version is 1`)
	w.deployed(hello)
	got = decode[deployment](t, w.ask(http.MethodPost, "/v1/functions?live=false", strings.NewReader("x")), 201)
	if got.Live || got.Version.Number != 3 || !strings.Contains(got.Note, "live stays at version 2") || w.live(hello) != 2 {
		t.Errorf("%+v, live is %d", got, w.live(hello))
	}
	wantProblem(t, w.ask(http.MethodPost, "/v1/functions?live=perhaps", strings.NewReader("x")), 400, wire.CodeInvalid, "use true or false")
}

// TestSlowDeploy: a deploy that a later one overtakes leaves live alone and is told.
func TestSlowDeploy(t *testing.T) {
	w := newWorld(t)
	w.builds()
	w.starting(func(wire.VersionID) *wire.Error {
		w.deployed(hello) // meanwhile
		return nil
	})
	got := decode[deployment](t, w.ask(http.MethodPost, "/v1/functions", strings.NewReader("x")), 201)
	if got.Live || got.Version.Number != 1 || !strings.Contains(got.Note, "live to version 2 meanwhile") || w.live(hello) != 2 {
		t.Errorf("%+v, live is %d", got, w.live(hello))
	}
}

// TestDeployInLines: what the build prints comes while it runs, then the outcome.
func TestDeployInLines(t *testing.T) {
	w := newWorld(t)
	w.builds()
	w.starting(func(v wire.VersionID) *wire.Error {
		if v.Number == 1 {
			return nil
		}
		return &wire.Error{Code: wire.CodeFunctionExited, Message: "it ended"}
	})
	deploy := func() (lines []deployLine) {
		t.Helper()
		got := w.ask(http.MethodPost, "/v1/functions", strings.NewReader("x"), func(r *http.Request) { r.Header.Set("Accept", ndjsonType) })
		if got.Code != 200 || got.Header().Get("Content-Type") != ndjsonType {
			t.Fatalf("%d %v %s", got.Code, got.Header(), got.Body)
		}
		for decoder := json.NewDecoder(got.Body); decoder.More(); {
			var line deployLine
			if err := decoder.Decode(&line); err != nil {
				t.Fatal(err)
			}
			lines = append(lines, line)
		}
		return lines
	}
	lines := deploy()
	if len(lines) != 2 || lines[0].Log != "fine\n" || lines[1].Deployment == nil || !lines[1].Deployment.Live || lines[1].Deployment.URL == "" {
		t.Errorf("%+v", lines)
	}
	lines = deploy()
	if len(lines) != 2 || lines[1].Problem == nil || lines[1].Problem.Code != wire.CodeFunctionExited || lines[1].Problem.Status != 502 {
		t.Errorf("%+v", lines)
	}
}

func TestFailedDeploys(t *testing.T) {
	broken := wire.Errorf(wire.CodeInvalid, "go build failed:\nmain.go:1: syntax error")
	for name, test := range map[string]struct {
		reply  wire.BuildReply
		status int
		code   wire.Code
		text   string
	}{
		"build fails":    {wire.BuildReply{Error: broken}, 400, wire.CodeInvalid, "main.go:1: syntax error"},
		"builder is ill": {wire.BuildReply{Error: wire.Errorf(wire.CodeInternal, "disk full")}, 500, wire.CodeInternal, "disk full"},
		"manifest":       {wire.BuildReply{Manifest: []byte("name: hello\nruntim: python\n")}, 400, wire.CodeInvalid, "runtim"},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			w.builder(func(wire.BuildRequest) wire.BuildReply { return test.reply })
			wantProblem(t, w.ask(http.MethodPost, "/v1/functions", strings.NewReader("x")), test.status, test.code, test.text)
			if list := w.cache.List(""); len(list) != 0 {
				t.Errorf("functions %v", list)
			}
		})
	}
}

func TestNoBuilder(t *testing.T) {
	w := newWorld(t)
	wantProblem(t, w.ask(http.MethodPost, "/v1/functions", strings.NewReader("x")), 503, wire.CodeUnavailable, "dayfly builder")
}

// TestDeployEndsWithTheGateway: a build that nobody waits for any more is no
// reason to hang.
func TestDeployEndsWithTheGateway(t *testing.T) {
	w := newWorld(t)
	asked := make(chan struct{}, 1)
	_, err := w.conn.Subscribe(wire.BuildSubject, wire.BuildGroup, func(bus.Msg) { asked <- struct{}{} })
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan *httptest.ResponseRecorder, 1)
	go func() { done <- w.ask(http.MethodPost, "/v1/functions", strings.NewReader("x")) }()
	embedtest.Receive(t, asked)
	w.Cut()
	wantProblem(t, embedtest.Receive(t, done), 503, wire.CodeUnavailable, "the gateway is being stopped")
}

func TestBadUploads(t *testing.T) {
	w := newWorld(t)
	w.builder(func(wire.BuildRequest) wire.BuildReply {
		t.Error("the builder was asked")
		return wire.BuildReply{}
	})
	length := func(n int64) func(*http.Request) { return func(r *http.Request) { r.ContentLength = n } }
	wantProblem(t, w.ask(http.MethodPost, "/v1/functions", strings.NewReader("x"), length(-1)), 400, wire.CodeInvalid, "Content-Length")
	wantProblem(t, w.ask(http.MethodPost, "/v1/functions", nil), 400, wire.CodeInvalid, "there is no bundle")
	wantProblem(t, w.ask(http.MethodPost, "/v1/functions", strings.NewReader("x"), length(wire.MaxBundlePacked+1)), 413, wire.CodeTooLarge, ".dayflyignore")
	wantProblem(t, w.ask(http.MethodPost, "/v1/functions?namespace=No", strings.NewReader("x")), 400, wire.CodeInvalid, `"No"`)
	// A request's body is no seeker.
	short := io.MultiReader(strings.NewReader("x"))
	wantProblem(t, w.ask(http.MethodPost, "/v1/functions", short, length(5)), 400, wire.CodeInvalid, "broken off")
	reset := io.MultiReader(strings.NewReader("x"), iotest.ErrReader(errors.New("reset by peer")))
	wantProblem(t, w.ask(http.MethodPost, "/v1/functions", reset, length(5)), 400, wire.CodeInvalid, "reset by peer")
}
