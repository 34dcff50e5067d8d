package httpapi_test

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/dayfly-run/dayfly/internal/httpapi"
	"github.com/dayfly-run/dayfly/internal/telemetry"
	"github.com/dayfly-run/dayfly/wire"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func newServer(t *testing.T, handler http.HandlerFunc) *httpapi.Server {
	t.Helper()
	return httpapi.NewServer("127.0.0.1:0", handler, slog.New(slog.DiscardHandler))
}

func start(t *testing.T, s *httpapi.Server) {
	t.Helper()
	if err := s.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// answer is what a client got.
type answer struct {
	status int
	body   string
	err    error
}

// get asks in the background, over a connection of its own.
func get(t *testing.T, s *httpapi.Server) <-chan answer {
	t.Helper()
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	got := make(chan answer, 1)
	go func() {
		resp, err := client.Get("http://" + s.Addr())
		if err != nil {
			got <- answer{err: err}
			return
		}
		defer resp.Body.Close()
		body, err := io.ReadAll(resp.Body)
		got <- answer{resp.StatusCode, string(body), err}
	}()
	return got
}

func receive[T any](t *testing.T, values <-chan T) (v T) {
	t.Helper()
	select {
	case v = <-values:
	case <-time.After(time.Minute):
		t.Fatal("nothing came")
	}
	return v
}

// TestLeave: until a server stops it answers as before, and each answer ends its
// connection.
func TestLeave(t *testing.T) {
	s := newServer(t, func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "done") })
	start(t, s)
	if s.Leaving() {
		t.Error("it leaves before it was told to")
	}
	client := &http.Client{Transport: &http.Transport{}}
	defer client.CloseIdleConnections()
	ask := func() (closes bool) {
		t.Helper()
		resp, err := client.Get("http://" + s.Addr())
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		if body, err := io.ReadAll(resp.Body); err != nil || string(body) != "done" {
			t.Errorf("%q, %v", body, err)
		}
		return resp.Close
	}
	if ask() {
		t.Error("a connection ends although nobody leaves")
	}
	const lameDuck = 20 * time.Millisecond
	begun := time.Now()
	if s.Leave(lameDuck); time.Since(begun) < lameDuck || !s.Leaving() {
		t.Errorf("left after %s", time.Since(begun))
	}
	for range 2 { // over the old connection, and a new one
		if !ask() {
			t.Error("an answer keeps its connection although the server leaves")
		}
	}
	if err := s.Stop(t.Context()); err != nil {
		t.Error(err)
	}
}

// TestStopLetsRequestsEnd: nothing new is taken, and what runs is answered.
func TestStopLetsRequestsEnd(t *testing.T) {
	entered, draining := make(chan struct{}), make(chan struct{})
	s := newServer(t, func(w http.ResponseWriter, _ *http.Request) {
		close(entered)
		<-draining
		_, _ = io.WriteString(w, "done")
	})
	s.OnDrain = func() { close(draining) }
	s.OnCut = func() { t.Error("cut although there was time") }
	start(t, s)
	got := get(t, s)
	receive(t, entered)
	if err := s.Stop(t.Context()); err != nil {
		t.Error(err)
	}
	if a := receive(t, got); a.body != "done" || a.err != nil {
		t.Errorf("answer %+v", a)
	}
	if a := receive(t, get(t, s)); a.err == nil {
		t.Error("a stopped server answers")
	}
}

// TestStopCutsWhatIsLeft: when the time is over, handlers may still answer.
func TestStopCutsWhatIsLeft(t *testing.T) {
	entered, cut := make(chan struct{}), make(chan struct{})
	s := newServer(t, func(w http.ResponseWriter, _ *http.Request) {
		close(entered)
		<-cut
		httpapi.WriteProblem(w, wire.Errorf(wire.CodeUnavailable, "stopping"), "")
	})
	s.OnCut = func() { close(cut) }
	start(t, s)
	got := get(t, s)
	receive(t, entered)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := s.Stop(ctx); err != nil {
		t.Error(err)
	}
	if a := receive(t, got); a.status != 503 || !strings.Contains(a.body, "stopping") {
		t.Errorf("answer %+v", a)
	}
}

// TestStopEndsTheStubborn: a handler that hears nothing loses its connection.
func TestStopEndsTheStubborn(t *testing.T) {
	entered, gone := make(chan struct{}), make(chan struct{})
	s := newServer(t, func(_ http.ResponseWriter, r *http.Request) {
		close(entered)
		<-r.Context().Done()
		close(gone)
	})
	start(t, s)
	got := get(t, s)
	receive(t, entered)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := s.Stop(ctx); err == nil || !strings.Contains(err.Error(), "cut off") {
		t.Errorf("error = %v, want one that says so", err)
	}
	if a := receive(t, got); a.err == nil {
		t.Errorf("answer %+v", a)
	}
	receive(t, gone)
}

func TestStopAgainAndBeforeStart(t *testing.T) {
	s := newServer(t, func(http.ResponseWriter, *http.Request) {})
	if err := s.Stop(t.Context()); err != nil {
		t.Errorf("before the start: %v", err)
	}
	start(t, s)
	for range 2 {
		if err := s.Stop(t.Context()); err != nil {
			t.Error(err)
		}
	}
}

func TestAddressInUse(t *testing.T) {
	s := newServer(t, func(http.ResponseWriter, *http.Request) {})
	start(t, s)
	other := httpapi.NewServer(s.Addr(), nil, slog.New(slog.DiscardHandler))
	err := other.Start(t.Context())
	if err == nil || !strings.Contains(err.Error(), s.Addr()) || !strings.Contains(err.Error(), "--listen") {
		t.Errorf("error = %v", err)
	}
	if err := s.Stop(t.Context()); err != nil {
		t.Error(err)
	}
}

func TestOps(t *testing.T) {
	var ready error
	ops := httpapi.OpsHandler(func(context.Context) error { return ready }, telemetry.NewRegistry())
	ask := func(path string) *httptest.ResponseRecorder {
		w := httptest.NewRecorder()
		ops.ServeHTTP(w, httptest.NewRequest(http.MethodGet, path, nil))
		return w
	}
	if w := ask("/healthz"); w.Code != 200 {
		t.Errorf("healthz: %d", w.Code)
	}
	if w := ask("/readyz"); w.Code != 200 {
		t.Errorf("readyz: %d", w.Code)
	}
	if w := ask("/metrics"); w.Code != 200 || !strings.Contains(w.Body.String(), "go_goroutines") {
		t.Errorf("metrics: %d", w.Code)
	}
	ready = errors.New("no node takes invocations")
	w := ask("/readyz")
	if w.Code != 503 || w.Header().Get("Retry-After") != "1" || !strings.Contains(w.Body.String(), "not ready: no node takes invocations") {
		t.Errorf("readyz: %d %v %s", w.Code, w.Header(), w.Body)
	}
	if w := ask("/healthz"); w.Code != 200 {
		t.Errorf("healthz while not ready: %d", w.Code)
	}
}
