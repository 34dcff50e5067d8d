package node_test

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/uuid"
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
	"github.com/dayfly-run/dayfly/runtimes"
	"github.com/dayfly-run/dayfly/wire"
)

// patience bounds every wait of these tests.
const patience = time.Minute

// cluster is what a node works with. A process can hold one S3 server only.
type cluster struct {
	dir      string
	root     string // a tar of a root file system with Python
	conn     *bus.Conn
	store    *blob.Store
	registry *registry.Registry
	stop     []func()
}

var shared cluster

func TestMain(m *testing.M) {
	code := 1
	if err := shared.start(); err != nil {
		fmt.Fprintln(os.Stderr, err)
	} else {
		code = m.Run()
	}
	for i := range shared.stop {
		shared.stop[len(shared.stop)-1-i]()
	}
	os.Exit(code) //nolint:forbidigo // TestMain is the main of a test
}

func quiet() *slog.Logger { return slog.New(slog.DiscardHandler) }

func (c *cluster) start() (err error) {
	ctx := context.Background()
	if c.dir, err = os.MkdirTemp("", "leaks-"); err != nil {
		return err
	}
	c.stop = append(c.stop, func() { _ = os.RemoveAll(c.dir) })
	c.root = filepath.Join(c.dir, "root.tar")
	var said bytes.Buffer
	if err := runtimes.BuildRoot(ctx, python(), c.root, &said); err != nil {
		return fmt.Errorf("%w\n%s", err, &said)
	}
	nats, err := natsserver.Start(natsserver.Config{Dir: filepath.Join(c.dir, "nats")}, quiet())
	if err != nil {
		return err
	}
	c.stop = append(c.stop, nats.Stop)
	s3, err := s3server.Start(ctx, s3server.Config{Dir: filepath.Join(c.dir, "s3")}, quiet())
	if err != nil {
		return err
	}
	c.stop = append(c.stop, s3.Stop)
	if c.conn, err = bus.Connect(bus.Config{Name: "leaks", InProcess: nats}, quiet()); err != nil {
		return err
	}
	c.stop = append(c.stop, c.conn.Close)
	c.store, err = blob.New(blob.Config{
		Endpoint: "http://embedded", Bucket: "dayfly", Region: s3server.Region,
		AccessKey: s3.AccessKey, SecretKey: s3.SecretKey, Dial: s3.Dial,
	})
	if err != nil {
		return err
	}
	c.stop = append(c.stop, c.store.Close)
	if err := c.store.EnsureBucket(ctx); err != nil {
		return err
	}
	c.registry, err = registry.Open(ctx, c.conn)
	return err
}

func python() runtimes.Runtime {
	rt, _ := runtimes.Lookup(functions.RuntimePython)
	return rt
}

// node is an invoker.
type node struct {
	t   *testing.T
	id  wire.NodeID
	dir string
	inv *invoker.Invoker
}

// oneRoot gives every runtime the one root that the tests made.
type oneRoot struct{}

func (oneRoot) Current(context.Context, runtimes.Runtime) (sandbox.Root, error) {
	rt := python()
	return sandbox.Root{Name: rt.Root(), Digest: rt.RootDigest(), Open: func(context.Context) (io.ReadCloser, error) {
		return os.Open(shared.root)
	}}, nil
}

func (oneRoot) Image(d wire.Digest) sandbox.Root {
	return sandbox.Root{Name: runtimes.ImageName, Digest: d, Open: func(context.Context) (io.ReadCloser, error) {
		return nil, errors.New("these tests have no images")
	}}
}

func (oneRoot) Watch(context.Context, func()) (stop func(), err error) { return func() {}, nil }

// startNode starts a node whose containers open makes, for a folder and an owner.
func startNode(t *testing.T, capacity wire.Resources, open func(dir, owner string) (sandbox.Sandbox, error)) *node {
	t.Helper()
	n := &node{t: t, id: wire.NodeID("leaks-" + uuid.NewString()), dir: t.TempDir()}
	containers, err := open(filepath.Join(n.dir, "sandbox"), owner(n.id))
	must(t, err)
	n.inv = invoker.New(invoker.Config{
		Node: n.id, DataDir: filepath.Join(n.dir, "node"), IdleLimit: time.Hour, Build: "test",
		Capacity: capacity,
		// Demand is such that there is one stem of each kind at all times.
		Stems: invoker.StemConfig{Ceiling: 1, BudgetBytes: 1 << 30, Starts: 2, Network: functions.NetworkNone},
	}, invoker.Deps{
		Conn: shared.conn, Store: shared.store, Registry: shared.registry, Sandbox: containers,
		Settings: settings.NewLive(settings.New(shared.conn, nil), quiet()),
		Roots:    oneRoot{},
		Metrics:  prometheus.NewRegistry(), Log: quiet(),
	})
	must(t, n.inv.Start(t.Context()))
	return n
}

func owner(id wire.NodeID) string { return "invoker/" + string(id) }

func (n *node) stop() {
	n.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	must(n.t, n.inv.Stop(ctx))
}

// call gives an event to a version, with a lease.
func (n *node) call(v wire.VersionID, event string) (result string, failure *wire.Error) {
	n.t.Helper()
	frame, err := wire.AppendFrame(nil, wire.InvokeRequest{
		Invocation: wire.InvocationID(uuid.Must(uuid.NewV7()).String()), Version: v, Lease: wire.LeaseID(uuid.NewString()),
	}, []byte(event))
	must(n.t, err)
	ctx, cancel := context.WithTimeout(n.t.Context(), patience)
	defer cancel()
	data, err := shared.conn.Request(ctx, wire.NodeInvokeSubject(n.id), frame)
	must(n.t, err)
	var reply wire.InvokeReply
	body, err := wire.ParseFrame(data, &reply)
	must(n.t, err)
	return string(body), reply.Error
}

// deploy registers a function with one file.
func deploy(t *testing.T, runtime, network, file, text string, timeout time.Duration) wire.VersionID {
	t.Helper()
	var packed bytes.Buffer
	zipped := gzip.NewWriter(&packed)
	archive := tar.NewWriter(zipped)
	must(t, archive.WriteHeader(&tar.Header{Name: file, Typeflag: tar.TypeReg, Mode: 0o755, Size: int64(len(text))}))
	_, err := io.WriteString(archive, text)
	must(t, errors.Join(err, archive.Close(), zipped.Close()))
	sum := sha256.Sum256(packed.Bytes())
	d := wire.Digest(hex.EncodeToString(sum[:]))
	must(t, shared.store.PutBytes(t.Context(), wire.CodeKey(d), packed.Bytes(), "application/gzip"))
	id := wire.FunctionID{Namespace: "default", Name: "f-" + uuid.NewString()}
	deployed, err := shared.registry.Deploy(t.Context(), id, functions.Spec{
		Runtime: runtime, Handler: "app.handler", MemoryBytes: 128 << 20, CPUMillis: 100,
		TimeoutMillis: timeout.Milliseconds(), Concurrency: 1, MaxInstances: 1, Network: network,
	}, functions.Artifact{Code: d, CodeBytes: int64(packed.Len())}, time.Now())
	must(t, err)
	return deployed.Version.VersionID
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
