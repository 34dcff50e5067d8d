package events_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/dayfly-run/dayfly/functions"
	"github.com/dayfly-run/dayfly/functions/registry"
	"github.com/dayfly-run/dayfly/functions/settings"
	"github.com/dayfly-run/dayfly/internal/blob"
	"github.com/dayfly-run/dayfly/internal/bus"
	"github.com/dayfly-run/dayfly/internal/embed/natsserver"
	"github.com/dayfly-run/dayfly/internal/embed/s3server"
	"github.com/dayfly-run/dayfly/invoker"
	"github.com/dayfly-run/dayfly/invoker/sandbox"
	"github.com/dayfly-run/dayfly/invoker/sandbox/fake"
	"github.com/dayfly-run/dayfly/runtimes"
	"github.com/dayfly-run/dayfly/wire"
)

// NATS, S3 and the nodes are this test program again, each in a process of its own that
// can be killed. These variables tell it what it is.
const (
	childKind   = "DAYFLY_EVENTS_CHILD" // childNATS, childS3 or childNode
	childDir    = "DAYFLY_EVENTS_DIR"
	childListen = "DAYFLY_EVENTS_LISTEN"
	childName   = "DAYFLY_EVENTS_NAME"
	childSites  = "DAYFLY_EVENTS_SITES" // sites as JSON
	childRuns   = "DAYFLY_EVENTS_RUNS"  // where functions note that they run
)

const (
	childNATS = "nats"
	childS3   = "s3"
	childNode = "node"
)

// sites are where NATS and S3 are.
type sites struct{ NATS, S3, AccessKey, SecretKey string }

func (s sites) connect(name string, log *slog.Logger) (*bus.Conn, error) {
	return bus.Connect(bus.Config{URL: s.NATS, Name: name}, log)
}

func (s sites) store() (*blob.Store, error) {
	return blob.New(blob.Config{
		Endpoint: s.S3, Bucket: "dayfly", Region: s3server.Region, AccessKey: s.AccessKey, SecretKey: s.SecretKey,
	})
}

// runChild runs until it is told to stop, and returns the exit code.
func runChild(kind string) int {
	ctx, cancel := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer cancel()
	log := slog.New(slog.NewTextHandler(os.Stderr, nil))
	start := map[string]func(context.Context, *slog.Logger) (func(), error){
		childNATS: startNATS, childS3: startS3, childNode: startNode,
	}[kind]
	if start == nil {
		fmt.Fprintf(os.Stderr, "%s=%s: no such child\n", childKind, kind)
		return 2
	}
	stop, err := start(ctx, log)
	if err != nil {
		fmt.Fprintln(os.Stderr, kind+":", err)
		return 1
	}
	<-ctx.Done()
	stop()
	return 0
}

func startNATS(_ context.Context, log *slog.Logger) (func(), error) {
	s, err := natsserver.Start(natsserver.Config{Dir: os.Getenv(childDir), Listen: os.Getenv(childListen)}, log)
	if err != nil {
		return nil, err
	}
	return s.Stop, nil
}

func startS3(ctx context.Context, log *slog.Logger) (func(), error) {
	s, err := s3server.Start(ctx, s3server.Config{Dir: os.Getenv(childDir), Listen: os.Getenv(childListen)}, log)
	if err != nil {
		return nil, err
	}
	return s.Stop, nil
}

// startNode runs an invoker whose containers are goroutines.
func startNode(ctx context.Context, log *slog.Logger) (func(), error) {
	var at sites
	if err := json.Unmarshal([]byte(os.Getenv(childSites)), &at); err != nil {
		return nil, err
	}
	runs, err := os.OpenFile(os.Getenv(childRuns), os.O_APPEND|os.O_WRONLY|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	conn, err := at.connect(os.Getenv(childName), log)
	if err != nil {
		return nil, err
	}
	store, err := at.store()
	if err != nil {
		return nil, err
	}
	functions, err := registry.Open(ctx, conn)
	if err != nil {
		return nil, err
	}
	name := os.Getenv(childName)
	inv := invoker.New(invoker.Config{
		Node: wire.NodeID(name), DataDir: os.Getenv(childDir), Build: "test", Stems: invoker.StemConfig{Starts: 16},
		Capacity: wire.Resources{MemoryBytes: 16 << 30, CPUMillis: 64_000, Instances: 64},
	}, invoker.Deps{
		Conn: conn, Store: store, Registry: functions, Settings: settings.NewLive(settings.New(conn, nil), log), Roots: noRoots{}, Metrics: prometheus.NewRegistry(), Log: log,
		Sandbox: fake.New(name, fake.Knobs{Run: func(ctx context.Context, p fake.Process) int {
			return fake.Handler(func(event []byte) ([]byte, error) {
				return function(ctx, runs, string(p.Spec.Instance), event)
			})(ctx, p)
		}}),
	})
	if err := inv.Start(ctx); err != nil {
		return nil, err
	}
	return func() {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		_ = inv.Stop(ctx) // the process ends in any case
		conn.Close()
	}, nil
}

// noRoots are root file systems that nobody looks into.
type noRoots struct{}

func (noRoots) Current(_ context.Context, rt runtimes.Runtime) (sandbox.Root, error) {
	return sandbox.Root{Name: rt.Root(), Digest: wire.Digest(strings.Repeat("0", 64))}, nil
}

func (noRoots) Image(d wire.Digest) sandbox.Root {
	return sandbox.Root{Name: runtimes.ImageName, Digest: d}
}

func (noRoots) Watch(context.Context, func()) (stop func(), err error) { return func() {}, nil }

// run is one run of the function, as it notes it itself: a line of JSON in one write,
// which is in the file even when the process is killed at once.
type run struct {
	Instance string          `json:"instance"`
	At       time.Time       `json:"at"`
	Event    json.RawMessage `json:"event"`
}

// order is an event of these tests.
type order struct {
	N int `json:"n"`
	// Try is how often the client sent it before without an answer, where a repeat is a
	// new event.
	Try int `json:"try"`
	// Fails makes every attempt fail.
	Fails bool `json:"fails,omitempty"`
	// Millis is how long it takes.
	Millis int `json:"millis,omitempty"`
}

// function notes that it runs, works, and returns its event.
func function(ctx context.Context, runs *os.File, instance string, event []byte) ([]byte, error) {
	line, err := json.Marshal(run{Instance: instance, At: time.Now(), Event: event})
	if err != nil {
		return nil, err
	}
	if _, err := runs.Write(append(line, '\n')); err != nil {
		return nil, err
	}
	var o order
	if err := json.Unmarshal(event, &o); err != nil {
		return nil, err
	}
	work := time.NewTimer(time.Duration(o.Millis) * time.Millisecond)
	defer work.Stop()
	select {
	case <-work.C:
	case <-ctx.Done():
	}
	if o.Fails {
		return nil, errors.New("it always fails")
	}
	return event, nil
}

// spec is how the functions of these tests run.
func spec(change func(*functions.Spec)) functions.Spec {
	s := functions.Spec{
		Runtime: functions.RuntimePython, Handler: "app.handler", MemoryBytes: functions.DefaultMemoryBytes,
		CPUMillis: functions.DefaultCPUMillis, TimeoutMillis: 10_000, Concurrency: 1, MaxInstances: 24,
		Network: functions.NetworkNone, Isolation: functions.IsolationShared, EventSpec: functions.DefaultEventSpec(),
	}
	s.Retry.DelayMillis = 100
	if change != nil {
		change(&s)
	}
	return s
}
