package registry_test

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http/httptest"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/dayfly-run/dayfly/builder"
	"github.com/dayfly-run/dayfly/functions"
	"github.com/dayfly-run/dayfly/functions/registry"
	"github.com/dayfly-run/dayfly/functions/settings"
	"github.com/dayfly-run/dayfly/functions/sources"
	"github.com/dayfly-run/dayfly/gateway"
	"github.com/dayfly-run/dayfly/internal/blob"
	"github.com/dayfly-run/dayfly/internal/bus"
	"github.com/dayfly-run/dayfly/internal/dispatch"
	"github.com/dayfly-run/dayfly/internal/embed/embedtest"
	"github.com/dayfly-run/dayfly/internal/intake"
	"github.com/dayfly-run/dayfly/internal/keyring"
	"github.com/dayfly-run/dayfly/internal/roots"
	"github.com/dayfly-run/dayfly/sdk/client"
	"github.com/dayfly-run/dayfly/wire"
)

// platform is a gateway and builders over three NATS servers, which are processes, and S3. Scheduler and node
// are doubles: they say of every version that it started.
type platform struct {
	t        *testing.T
	cluster  *embedtest.Cluster
	store    *blob.Store
	registry *registry.Registry
	cache    *registry.Cache
	client   *client.Client
}

func newPlatform(t *testing.T) *platform {
	t.Helper()
	p := &platform{t: t, cluster: embedtest.NATSProcesses(t), store: embedtest.Store(t, s3)}
	conn := p.cluster.Connect(t)
	var err error
	p.registry, err = registry.Open(t.Context(), conn)
	must(t, err)
	p.cache = registry.NewCache(p.registry, embedtest.Discard())
	p.run(p.cache)
	events := intake.New(intake.Config{}, conn, p.store, embedtest.Discard())
	must(t, events.Start(t.Context()))
	listening := sources.New(sources.Config{}, conn, embedtest.Discard())
	must(t, listening.Open(t.Context()))
	ring, err := keyring.LoadOrCreate(filepath.Join(t.TempDir(), "secrets.key"))
	must(t, err)
	configured := settings.New(conn, ring)
	must(t, configured.Open(t.Context()))
	metrics := prometheus.NewRegistry()
	dispatcher := dispatch.New(conn, p.store, dispatch.NewMetrics(metrics), embedtest.Discard())
	p.run(dispatcher)
	g := gateway.New(gateway.Deps{
		Conn: conn, Sources: listening, Store: p.store, Registry: p.registry, Settings: configured, Cache: p.cache, Intake: events,
		Dispatcher: dispatcher, Metrics: metrics, Log: embedtest.Discard(), Build: "test",
	})
	p.run(g)
	server := httptest.NewServer(g.Handler())
	t.Cleanup(server.Close)
	p.client, err = client.New(server.URL, client.WithHTTPClient(server.Client()))
	must(t, err)
	p.startEverything()
	return p
}

// service is a lifecycle service.
type service interface {
	Start(ctx context.Context) error
	Stop(ctx context.Context) error
}

func (p *platform) run(s service) {
	p.t.Helper()
	must(p.t, s.Start(p.t.Context()))
	p.t.Cleanup(func() { must(p.t, s.Stop(context.Background())) })
}

// startEverything starts the doubles of a scheduler and a node.
func (p *platform) startEverything() {
	conn := p.cluster.Connect(p.t)
	answer := func(m bus.Msg, v any) {
		data, err := json.Marshal(v)
		if err == nil {
			err = m.Respond(data)
		}
		if err != nil && !errors.Is(err, context.Canceled) {
			p.t.Error(err)
		}
	}
	_, err := conn.Subscribe(wire.PlaceSubject, "", func(m bus.Msg) { answer(m, wire.PlaceReply{Node: "n1", Lease: "l1"}) })
	must(p.t, err)
	// It answers at once, so that nothing is under way that it is asked about.
	_, err = conn.Subscribe(wire.NodeInquirySubject("n1"), "", func(m bus.Msg) {
		var req wire.InquiryRequest
		if err := json.Unmarshal(m.Data, &req); err != nil {
			p.t.Error(err)
		}
		answer(m, wire.InquiryReply{Fates: slices.Repeat([]wire.Fate{wire.FateUnknown}, len(req.Offers))})
	})
	must(p.t, err)
	_, err = conn.Subscribe(wire.NodeInvokeSubject("n1"), "", func(m bus.Msg) {
		var req wire.InvokeRequest
		_, err := wire.ParseFrame(m.Data, &req)
		if err != nil || !req.Start {
			p.t.Errorf("node was asked %+v, %v", req, err)
		}
		frame, err := wire.AppendFrame(nil, wire.InvokeReply{Node: "n1", Instance: "i1", Spent: true}, nil)
		if err == nil {
			err = m.Respond(frame)
		}
		if err != nil {
			p.t.Error(err)
		}
	})
	must(p.t, err)
	ctx, cancel := context.WithCancel(context.Background())
	var beating sync.WaitGroup
	beating.Go(func() {
		state := wire.NodeState{Node: "n1", Run: "r1", Protocol: wire.Protocol}
		tick := time.NewTicker(wire.HeartbeatEvery)
		defer tick.Stop()
		for {
			state.Seq++
			data, err := json.Marshal(wire.NodeWord{Whole: &state})
			if err == nil {
				err = conn.Publish(wire.NodeStateSubject("n1"), data)
			}
			if err != nil {
				p.t.Error(err)
			}
			select {
			case <-tick.C:
			case <-ctx.Done():
				return
			}
		}
	})
	p.t.Cleanup(func() { cancel(); beating.Wait() })
}

// noJobs is a runner for bundles that need none.
type noJobs struct{}

func (noJobs) Run(context.Context, builder.Job, io.Writer) error {
	return errors.New("no build of this test needs a container")
}

// startBuilder starts a builder; kill ends it as a machine that dies would: the
// connection goes first, and nobody is told.
func (p *platform) startBuilder() (kill func()) {
	p.t.Helper()
	conn, err := bus.Connect(bus.Config{Name: "builder", URL: p.cluster.URL(), Replicas: p.cluster.Servers()}, embedtest.Discard())
	must(p.t, err)
	kept, err := roots.Open(p.t.Context(), conn, p.store, filepath.Join(p.t.TempDir(), "roots"), embedtest.Discard())
	must(p.t, err)
	b := builder.New(builder.Config{DataDir: p.t.TempDir(), Timeout: time.Minute, DiskBytes: 1 << 30, MaxBuilds: 2}, builder.Deps{
		Conn: conn, Store: p.store, Runner: noJobs{}, Roots: kept, Metrics: prometheus.NewRegistry(), Log: embedtest.Discard(),
	})
	must(p.t, b.Start(p.t.Context()))
	return sync.OnceFunc(func() {
		conn.Close()
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		_ = b.Stop(ctx) // what it says of its end is of no interest
	})
}

// bundleOf packs a function of one file, unlike any other.
func bundleOf(id wire.FunctionID, content string) (*bytes.Reader, error) {
	var packed bytes.Buffer
	compressed := gzip.NewWriter(&packed)
	archive := tar.NewWriter(compressed)
	for _, file := range [][2]string{
		{functions.ManifestName, "name: " + id.Name + "\nruntime: python\nhandler: app.handler\n"},
		{"app.py", fmt.Sprintf("def handler(event, context):\n    return %q\n", content)},
	} {
		if err := archive.WriteHeader(&tar.Header{Name: file[0], Mode: 0o644, Size: int64(len(file[1]))}); err != nil {
			return nil, err
		}
		if _, err := io.WriteString(archive, file[1]); err != nil {
			return nil, err
		}
	}
	if err := errors.Join(archive.Close(), compressed.Close()); err != nil {
		return nil, err
	}
	return bytes.NewReader(packed.Bytes()), nil
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
