package scheduler_test

import (
	"context"
	"encoding/json"
	"log/slog"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/dayfly-run/dayfly/functions"
	"github.com/dayfly-run/dayfly/internal/bus"
	"github.com/dayfly-run/dayfly/internal/embed/natsserver"
	"github.com/dayfly-run/dayfly/scheduler"
	"github.com/dayfly-run/dayfly/wire"
)

const (
	mib = int64(1) << 20
	gib = int64(1) << 30

	impatient = 100 * time.Millisecond
	// lasting is a lease that no pause of the machine ends.
	lasting = time.Minute
)

func quiet() *slog.Logger { return slog.New(slog.DiscardHandler) }

// startNATS runs a real server for one test.
func startNATS(tb testing.TB) *natsserver.Server {
	tb.Helper()
	server, err := natsserver.Start(natsserver.Config{Dir: tb.TempDir()}, quiet())
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(server.Stop)
	return server
}

func connect(tb testing.TB, server *natsserver.Server) *bus.Conn {
	tb.Helper()
	conn, err := bus.Connect(bus.Config{Name: tb.Name(), InProcess: server}, quiet())
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(conn.Close)
	return conn
}

type subject struct {
	*scheduler.Scheduler
	metrics *prometheus.Registry
}

// nothingKept is a registry without functions.
type nothingKept struct{}

func (nothingKept) Kept() ([]functions.Version, <-chan struct{}) { return nil, nil }

func newScheduler(conn *bus.Conn, cfg scheduler.Config, known scheduler.Functions) subject {
	r := prometheus.NewRegistry()
	return subject{scheduler.New(cfg, scheduler.Deps{Conn: conn, Functions: known, Metrics: r, Log: quiet()}), r}
}

// startScheduler starts a scheduler that keeps nothing.
func startScheduler(tb testing.TB, server *natsserver.Server) subject {
	tb.Helper()
	return startKeeping(tb, server, nothingKept{})
}

// startKeeping starts a scheduler with a lasting lease, on a connection of its own.
func startKeeping(tb testing.TB, server *natsserver.Server, known scheduler.Functions) subject {
	tb.Helper()
	return start(tb, server, scheduler.Config{LeaderTTL: lasting}, known)
}

func start(tb testing.TB, server *natsserver.Server, cfg scheduler.Config, known scheduler.Functions) subject {
	tb.Helper()
	cfg.Name = tb.Name()
	s := newScheduler(connect(tb, server), cfg, known)
	if err := s.Start(tb.Context()); err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := s.Stop(context.Background()); err != nil {
			tb.Error(err)
		}
	})
	return s
}

// metric returns a metric's value, for a histogram its count.
func (s subject) metric(tb testing.TB, name string) float64 {
	tb.Helper()
	families, err := s.metrics.Gather()
	if err != nil {
		tb.Fatal(err)
	}
	for _, family := range families {
		for _, m := range family.GetMetric() {
			if family.GetName() != name {
				continue
			}
			if h := m.GetHistogram(); h != nil {
				return float64(h.GetSampleCount())
			}
			return m.GetGauge().GetValue() + m.GetCounter().GetValue()
		}
	}
	return 0
}

func (s subject) leads(tb testing.TB) bool {
	tb.Helper()
	return s.metric(tb, "dayfly_scheduler_leading") == 1
}

// node reports as an invoker does, until it is silenced.
type node struct {
	conn    *bus.Conn
	silence func()

	mu    sync.Mutex
	state wire.NodeState
}

func startNode(tb testing.TB, conn *bus.Conn, id wire.NodeID) *node {
	tb.Helper()
	n := &node{conn: conn, state: wire.NodeState{
		Node: id, Run: "run", Protocol: wire.Protocol, Runtimes: []string{"python"},
		Capacity: wire.Resources{MemoryBytes: gib, CPUMillis: 8000, Instances: 100},
	}}
	probe, err := conn.Subscribe(wire.NodeProbeSubject, "", func(bus.Msg) { n.report(tb, nil) })
	if err != nil {
		tb.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		beat := time.NewTicker(wire.HeartbeatEvery)
		defer beat.Stop()
		for {
			n.report(tb, nil)
			select {
			case <-ctx.Done():
				return
			case <-beat.C:
			}
		}
	}()
	n.silence = sync.OnceFunc(func() { cancel(); <-done; probe.Stop(conn) })
	tb.Cleanup(n.silence)
	return n
}

// report changes the node's state and publishes it.
func (n *node) report(tb testing.TB, change func(*wire.NodeState)) {
	tb.Helper()
	n.mu.Lock()
	defer n.mu.Unlock()
	if change != nil {
		change(&n.state)
	}
	n.state.Seq++
	data, err := json.Marshal(wire.NodeWord{Whole: &n.state})
	if err == nil {
		err = n.conn.Publish(wire.NodeStateSubject(n.state.Node), data)
	}
	if err != nil {
		tb.Error(err)
	}
}

func usual() wire.PlaceRequest {
	return wire.PlaceRequest{
		Version: wire.VersionID{FunctionID: wire.FunctionID{Namespace: "default", Name: "resize"}, Number: 1},
		Runtime: "python",
		Needs:   wire.Resources{MemoryBytes: 256 * mib, CPUMillis: 1000, Instances: 7},

		Protocol: wire.Protocol,
	}
}

// ask sends one request and returns what comes back. A scheduler in doubt says
// nothing, so whoever expects one gives little patience.
func ask(ctx context.Context, conn *bus.Conn, request any, patience time.Duration) (wire.PlaceReply, error) {
	data, err := json.Marshal(request)
	if err != nil {
		return wire.PlaceReply{}, err
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	answer, err := conn.Request(ctx, wire.PlaceSubject, data)
	if err != nil {
		return wire.PlaceReply{}, err
	}
	var reply wire.PlaceReply
	return reply, json.Unmarshal(answer, &reply)
}

func mustAsk(tb testing.TB, conn *bus.Conn, request any) wire.PlaceReply {
	tb.Helper()
	reply, err := ask(tb.Context(), conn, request, time.Minute)
	if err != nil {
		tb.Fatal(err)
	}
	return reply
}

func wantCode(tb testing.TB, reply wire.PlaceReply, code wire.Code) {
	tb.Helper()
	if reply.Error == nil || reply.Error.Code != code || reply.Node != "" || reply.Lease != "" {
		tb.Errorf("reply %+v, want the error %s and nothing else", reply, code)
	}
}

func ready(s subject) func() bool {
	return func() bool { return s.Ready(context.Background()) == nil }
}

func leaseBucket(tb testing.TB, conn *bus.Conn, ttl time.Duration) *bus.Bucket {
	tb.Helper()
	b, err := conn.Bucket(tb.Context(), bus.BucketConfig{Name: wire.BucketLeases, TTL: ttl, MaxValueBytes: 4096})
	if err != nil {
		tb.Fatal(err)
	}
	return b
}

func leaseEntry(tb testing.TB, b *bus.Bucket) bus.Entry {
	tb.Helper()
	e, err := b.Get(tb.Context(), wire.SchedulerLeaseKey)
	if err != nil {
		tb.Fatal(err)
	}
	return e
}
