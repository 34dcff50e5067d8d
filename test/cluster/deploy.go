package cluster

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"sync/atomic"
	"time"

	"github.com/dayfly-run/dayfly/builder"
	"github.com/dayfly-run/dayfly/functions"
	"github.com/dayfly-run/dayfly/functions/registry"
	"github.com/dayfly-run/dayfly/internal/blob"
	"github.com/dayfly-run/dayfly/internal/bus"
	"github.com/dayfly-run/dayfly/internal/embed/s3server"
	"github.com/dayfly-run/dayfly/internal/roots"
	"github.com/dayfly-run/dayfly/runtimes"
	"github.com/dayfly-run/dayfly/wire"
)

// functionPath is where the function's image has its program.
const functionPath = "/function"

// deployer puts functions into the cluster without a builder: they are one program.
type deployer struct {
	conn     *bus.Conn
	registry *registry.Registry
	artifact functions.Artifact
}

// anyServer connects a NATS client from a host to one server after the other.
type anyServer struct {
	from *Host
	to   []*Process
	next atomic.Uint32
}

// InProcessConn is what a NATS client calls for a connection.
func (a *anyServer) InProcessConn() (net.Conn, error) {
	ctx, cancel := context.WithTimeout(context.Background(), readyWait)
	defer cancel()
	to := a.to[int(a.next.Add(1))%len(a.to)]
	return a.from.DialContext(ctx, "tcp", to.Host.At(natsPort))
}

// Connect opens a connection to NATS from the host of callers.
func (c *Cluster) Connect(name string) (*bus.Conn, error) {
	return bus.Connect(bus.Config{InProcess: &anyServer{from: c.Client, to: c.NATS}, Name: name, Replicas: servers}, slog.New(slog.DiscardHandler))
}

// Deploy makes a function with the image of [Programs].Function.
func (c *Cluster) Deploy(ctx context.Context, name string, change func(*functions.Spec)) error {
	spec := functions.Spec{
		Runtime: functions.RuntimeImage, MemoryBytes: functions.MinMemoryBytes, CPUMillis: functions.DefaultCPUMillis,
		TimeoutMillis: functions.DefaultTimeout.Milliseconds(), Concurrency: 1, MaxInstances: functions.DefaultMaxInstances,
		Network: functions.NetworkNone, Isolation: functions.IsolationShared, EventSpec: functions.DefaultEventSpec(),
	}
	if change != nil {
		change(&spec)
	}
	id := wire.FunctionID{Namespace: wire.DefaultNamespace, Name: name}
	_, err := c.deployer.registry.Deploy(ctx, id, spec, c.deployer.artifact, time.Now())
	return err
}

func (c *Cluster) newDeployer(ctx context.Context) (_ *deployer, err error) {
	d := &deployer{}
	defer func() {
		if err != nil {
			d.close()
		}
	}()
	if d.conn, err = c.Connect("deployer"); err != nil {
		return nil, err
	}
	if d.registry, err = registry.Open(ctx, d.conn); err != nil {
		return nil, err
	}
	store, err := blob.New(blob.Config{
		Endpoint: "http://" + c.S3.Host.At(s3Port), Bucket: "dayfly", Region: s3server.Region, AccessKey: accessKey, SecretKey: c.secret,
		Dial: c.Client.DialContext,
	})
	if err != nil {
		return nil, err
	}
	index, err := roots.Open(ctx, d.conn, store, filepath.Join(c.dir, "roots"), slog.New(slog.DiscardHandler))
	if err != nil {
		return nil, err
	}
	build := func(_ context.Context, path string) error { return writeRoot(path, c.cfg.Function) }
	// Nodes prepare all runtimes when they start. Nobody here runs Python or Node.js, so
	// that no Debian mirror is needed.
	if err := store.EnsureBucket(ctx); err != nil {
		return nil, err
	}
	for _, rt := range runtimes.All() {
		recipe := builder.PackagesRecipe(rt)
		recipe.Build = build
		if _, err := index.Ensure(ctx, recipe); err != nil {
			return nil, err
		}
	}
	info, err := os.Stat(c.cfg.Function)
	if err != nil {
		return nil, err
	}
	digest, size, err := index.PutImage(ctx, build)
	if err != nil {
		return nil, err
	}
	d.artifact = functions.Artifact{Code: digest, CodeBytes: size, Image: &wire.Image{
		Digest: digest, Bytes: size, RootBytes: info.Size(), Arch: runtime.GOARCH, Source: "function", Command: []string{functionPath}, WorkDir: "/",
	}}
	return d, nil
}

func (d *deployer) close() {
	if d.conn != nil {
		d.conn.Close()
	}
}

// writeRoot writes a root file system with one program, and with the places at which a
// container has something mounted.
func writeRoot(path, program string) (err error) {
	body, err := os.ReadFile(program)
	if err != nil {
		return err
	}
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	out := tar.NewWriter(f)
	for _, folder := range []string{
		"proc", "sys", "dev", "tmp", "mnt", "mnt/output", "opt", "opt/dayfly", "run", "run/dayfly", "run/secrets", "var", "var/task", "etc",
	} {
		mode := int64(0o755)
		if folder == "tmp" || folder == "mnt/output" {
			mode = 0o1777
		}
		if err := out.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: folder + "/", Mode: mode}); err != nil {
			return err
		}
	}
	for _, name := range []string{"etc/resolv.conf", "etc/hosts", "etc/hostname"} {
		if err := out.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o644}); err != nil {
			return err
		}
	}
	if err := out.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: functionPath[1:], Mode: 0o755, Size: int64(len(body))}); err != nil {
		return err
	}
	if _, err := out.Write(body); err != nil {
		return fmt.Errorf("pack %s: %w", program, err)
	}
	return out.Close()
}
