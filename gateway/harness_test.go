package gateway

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/dayfly-run/dayfly/functions"
	"github.com/dayfly-run/dayfly/functions/registry"
	"github.com/dayfly-run/dayfly/functions/settings"
	"github.com/dayfly-run/dayfly/functions/sources"
	"github.com/dayfly-run/dayfly/internal/blob"
	"github.com/dayfly-run/dayfly/internal/bus"
	"github.com/dayfly-run/dayfly/internal/dispatch"
	"github.com/dayfly-run/dayfly/internal/embed/embedtest"
	"github.com/dayfly-run/dayfly/internal/embed/s3server"
	"github.com/dayfly-run/dayfly/internal/intake"
	"github.com/dayfly-run/dayfly/internal/keyring"
	"github.com/dayfly-run/dayfly/wire"
)

// s3 is the one S3 server of this process; set before any test runs.
var s3 *s3server.Server

func TestMain(m *testing.M) {
	//nolint:forbidigo // it is the tests' main
	os.Exit(embedtest.RunWithS3(m, func(s *s3server.Server) { s3 = s }))
}

// world is a gateway over a real NATS and S3; whoever else it talks to is a test
// double that answers on the real subjects.
type world struct {
	*Gateway
	t        *testing.T
	conn     *bus.Conn // that of the doubles
	store    *blob.Store
	registry *registry.Registry
	sources  *sources.Sources
	metrics  *prometheus.Registry
}

func newWorld(t *testing.T) *world {
	t.Helper()
	server, store := embedtest.NATS(t, t.TempDir()), embedtest.Store(t, s3)
	w := &world{t: t, conn: embedtest.Connect(t, server), store: store, metrics: prometheus.NewRegistry()}
	conn := embedtest.Connect(t, server)
	var err error
	if w.registry, err = registry.Open(t.Context(), conn); err != nil {
		t.Fatal(err)
	}
	cache := registry.NewCache(w.registry, embedtest.Discard())
	if err := cache.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := cache.Stop(context.Background()); err != nil {
			t.Error(err)
		}
	})
	events := intake.New(intake.Config{}, conn, store, embedtest.Discard())
	if err := events.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	w.sources = sources.New(sources.Config{OwnBucket: "dayfly"}, conn, embedtest.Discard())
	if err := w.sources.Open(t.Context()); err != nil {
		t.Fatal(err)
	}
	ring, err := keyring.LoadOrCreate(t.TempDir() + "/secrets.key")
	if err != nil {
		t.Fatal(err)
	}
	configured := settings.New(conn, ring)
	if err := configured.Open(t.Context()); err != nil {
		t.Fatal(err)
	}
	counts := dispatch.NewMetrics(w.metrics)
	dispatcher := dispatch.New(conn, store, counts, embedtest.Discard())
	counts.Of(dispatcher)
	if err := dispatcher.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := dispatcher.Stop(context.Background()); err != nil {
			t.Error(err)
		}
	})
	w.Gateway = New(Deps{
		Conn: conn, Sources: w.sources, Store: store, Registry: w.registry, Settings: configured, Cache: cache, Intake: events, Dispatcher: dispatcher,
		Metrics: w.metrics, Log: embedtest.Discard(), Build: "test",
	})
	if err := w.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		for range 2 { // again: nothing happens
			if err := w.Stop(context.Background()); err != nil {
				t.Error(err)
			}
		}
	})
	return w
}

// deployed registers a function, past the builder.
func (w *world) deployed(id wire.FunctionID, edit ...func(*functions.Spec)) functions.Version {
	w.t.Helper()
	spec := functions.Spec{Runtime: "python", Handler: "app.handler", MemoryBytes: 1 << 27, TimeoutMillis: 60_000, MaxInstances: 5}
	for _, e := range edit {
		e(&spec)
	}
	d, err := w.registry.Deploy(w.t.Context(), id, spec, functions.Artifact{Code: wire.Digest(strings.Repeat("0a", 32)), CodeBytes: 12}, time.Now())
	if err == nil {
		err = w.cache.Await(w.t.Context(), d.Revision)
	}
	if err != nil {
		w.t.Fatal(err)
	}
	return d.Version
}

// node starts a double of a node with an idle instance of a version. answer gets
// the event; a nil reply answers nothing.
func (w *world) node(v functions.Version, answer func(req wire.InvokeRequest, event []byte) (*wire.InvokeReply, []byte)) {
	w.t.Helper()
	_, err := w.conn.Subscribe(wire.NodeInvokeSubject("n1"), "", func(m bus.Msg) {
		var req wire.InvokeRequest
		event, err := wire.ParseFrame(m.Data, &req)
		if err != nil {
			w.t.Error(err)
			return
		}
		reply, body := answer(req, event)
		if reply == nil {
			return
		}
		reply.Node = "n1"
		frame, err := wire.AppendFrame(nil, reply, body)
		if err == nil {
			err = m.Respond(frame)
		}
		if err != nil {
			w.t.Error(err)
		}
	})
	if err != nil {
		w.t.Fatal(err)
	}
	w.alive(wire.VersionOnNode{Version: v.VersionID, Idle: 1, Slots: 1})
}

// alive says of node n1, until the test ends, that it lives and what it has.
func (w *world) alive(versions ...wire.VersionOnNode) {
	w.t.Helper()
	state := wire.NodeState{Node: "n1", Run: "r1", Protocol: wire.Protocol, Versions: versions, Runtimes: []string{"python"}}
	say := func() {
		state.Seq++
		data, err := json.Marshal(wire.NodeWord{Whole: &state})
		if err == nil {
			err = w.conn.Publish(wire.NodeStateSubject("n1"), data)
		}
		if err != nil {
			w.t.Error(err)
		}
	}
	say()
	ctx, cancel := context.WithCancel(context.Background())
	var beating sync.WaitGroup
	beating.Go(func() {
		tick := time.NewTicker(wire.HeartbeatEvery)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
				say()
			case <-ctx.Done():
				return
			}
		}
	})
	w.t.Cleanup(func() { cancel(); beating.Wait() })
	embedtest.Eventually(w.t, "the node is known", func() bool { return len(w.dispatcher.Nodes()) == 1 })
}

// echo answers with the event, warm.
func echo(_ wire.InvokeRequest, event []byte) (*wire.InvokeReply, []byte) {
	return &wire.InvokeReply{Instance: "i1", RunMicros: 1500}, bytes.Clone(event)
}

// builder starts a double of a builder.
func (w *world) builder(answer func(req wire.BuildRequest) wire.BuildReply) {
	w.t.Helper()
	_, err := w.conn.Subscribe(wire.BuildSubject, wire.BuildGroup, func(m bus.Msg) {
		var req wire.BuildRequest
		err := json.Unmarshal(m.Data, &req)
		if err == nil {
			var data []byte
			reply := answer(req)
			if data, err = json.Marshal(wire.BuildProgress{Log: reply.Log, Reply: &reply}); err == nil {
				err = m.Respond(data)
			}
		}
		if err != nil {
			w.t.Error(err)
		}
	})
	if err != nil {
		w.t.Fatal(err)
	}
}

// scheduler starts a double that always answers the same.
func (w *world) scheduler(reply wire.PlaceReply) (stop func()) {
	w.t.Helper()
	sub, err := w.conn.Subscribe(wire.PlaceSubject, "", func(m bus.Msg) {
		data, err := json.Marshal(reply)
		if err == nil {
			err = m.Respond(data)
		}
		if err != nil {
			w.t.Error(err)
		}
	})
	if err != nil {
		w.t.Fatal(err)
	}
	return func() { sub.Stop(w.conn) }
}

// ask sends a request to the handler and returns what came.
func (w *world) ask(method, target string, body io.Reader, edit ...func(*http.Request)) *httptest.ResponseRecorder {
	w.t.Helper()
	r := httptest.NewRequest(method, target, body)
	for _, e := range edit {
		e(r)
	}
	rec := httptest.NewRecorder()
	w.Handler().ServeHTTP(rec, r)
	return rec
}

// wantProblem fails unless the answer is a problem with status and code whose
// detail has text in it.
func wantProblem(t *testing.T, got *httptest.ResponseRecorder, status int, code wire.Code, text string) wire.Problem {
	t.Helper()
	var p wire.Problem
	if err := json.Unmarshal(got.Body.Bytes(), &p); err != nil {
		t.Fatalf("status %d: %s: %v", got.Code, got.Body, err)
	}
	if got.Code != status || p.Status != status || p.Code != code || !strings.Contains(p.Detail, text) {
		t.Errorf("%d %s, want %d %s with %q", got.Code, got.Body, status, code, text)
	}
	if kind := got.Header().Get("Content-Type"); kind != wire.ProblemType {
		t.Errorf("content type %q", kind)
	}
	return p
}

// decode reads an answer with a status.
func decode[T any](t *testing.T, got *httptest.ResponseRecorder, status int) (v T) {
	t.Helper()
	if got.Code != status {
		t.Fatalf("status %d: %s", got.Code, got.Body)
	}
	if err := json.Unmarshal(got.Body.Bytes(), &v); err != nil {
		t.Fatalf("%s: %v", got.Body, err)
	}
	return v
}

var (
	hello = wire.FunctionID{Namespace: "default", Name: "hello"}
	other = wire.FunctionID{Namespace: "team-a", Name: "other"}
)
