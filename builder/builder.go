// Package builder turns an uploaded bundle into an artifact: the files that an
// instance sees, as a reproducible archive named by its own digest.
package builder

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/dayfly-run/dayfly/functions"
	"github.com/dayfly-run/dayfly/functions/bundle"
	"github.com/dayfly-run/dayfly/internal/blob"
	"github.com/dayfly-run/dayfly/internal/bus"
	"github.com/dayfly-run/dayfly/internal/telemetry"
	"github.com/dayfly-run/dayfly/wire"
)

// Config describes a builder.
type Config struct {
	// DataDir holds work folders and caches; all of it may vanish between runs.
	DataDir string
	// GoRoot is the Go toolchain that compiles functions; empty for none.
	GoRoot string
	// GoEnv are settings of the Go command, such as GOPROXY=…, for downloads.
	GoEnv []string
	// Timeout bounds one build.
	Timeout time.Duration
	// MaxBuilds bounds the builds at once; more wait for a builder with room.
	MaxBuilds int
}

// Job is one command in a throw-away container.
type Job struct {
	ID string
	// Script runs in a shell, in WorkDir.
	Script  string
	WorkDir string
	Env     []string
	// Folders are shown inside, by the path there.
	Folders map[string]Folder
	// Network lets it reach public addresses; without it there is none.
	Network bool
}

// Folder is a folder of the host.
type Folder struct {
	Path     string
	Writable bool
}

// Runner runs jobs. Run returns what was printed, and [ErrJob] when the command
// itself failed; other errors are the platform's. It is safe for concurrent use,
// and ends the command when ctx is done.
type Runner interface {
	Run(ctx context.Context, job Job) (output string, err error)
}

// ErrJob: the command ran and failed.
var ErrJob = errors.New("the build failed")

// Deps are what a builder works with; it closes none of them.
type Deps struct {
	Conn    *bus.Conn
	Store   *blob.Store
	Runner  Runner
	Metrics prometheus.Registerer
	Log     *slog.Logger
}

// Builder takes build requests from NATS. It is a lifecycle service.
type Builder struct {
	cfg    Config
	deps   Deps
	log    *slog.Logger
	builds *prometheus.HistogramVec

	sub     *bus.Subscription
	slots   chan struct{}
	ctx     context.Context
	cancel  context.CancelFunc
	running sync.WaitGroup
}

// New makes a builder.
func New(cfg Config, deps Deps) *Builder {
	b := &Builder{
		cfg: cfg, deps: deps, log: deps.Log, slots: make(chan struct{}, cfg.MaxBuilds),
		builds: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "dayfly_builder_build_seconds", Help: "Time of builds, by result (ok or an error code).",
			Buckets: prometheus.ExponentialBuckets(0.01, 3, 10),
		}, []string{"result"}),
	}
	deps.Metrics.MustRegister(b.builds)
	return b
}

// Start clears what an earlier run left and takes requests.
func (b *Builder) Start(ctx context.Context) error {
	work := filepath.Join(b.cfg.DataDir, "work")
	if err := os.RemoveAll(work); err != nil {
		return fmt.Errorf("clear build folders: %w", err)
	}
	if err := os.MkdirAll(work, 0o711); err != nil {
		return fmt.Errorf("make build folders: %w", err)
	}
	b.ctx, b.cancel = context.WithCancel(context.WithoutCancel(ctx))
	sub, err := b.deps.Conn.Subscribe(wire.BuildSubject, wire.BuildGroup, func(m bus.Msg) {
		// Taking the slot here makes the next request wait its turn.
		b.slots <- struct{}{}
		b.running.Go(func() {
			defer func() { <-b.slots }()
			b.serve(m)
		})
	})
	if err != nil {
		b.cancel()
		return err
	}
	b.sub = sub
	return nil
}

// Stop takes no new request and lets builds end until ctx is done.
func (b *Builder) Stop(ctx context.Context) error {
	if b.sub == nil {
		return nil
	}
	stop := context.AfterFunc(ctx, b.cancel)
	defer stop()
	b.sub.Stop(b.deps.Conn)
	b.running.Wait()
	b.cancel()
	b.sub = nil
	return nil
}

// Ready returns nil when a build would be taken.
func (b *Builder) Ready(context.Context) error { return b.deps.Conn.Healthy() }

func (b *Builder) serve(m bus.Msg) {
	begun := time.Now()
	var req wire.BuildRequest
	var reply wire.BuildReply
	err := json.Unmarshal(m.Data, &req)
	if err != nil {
		err = wire.Errorf(wire.CodeInvalid, "malformed build request: %s", err)
	} else {
		reply, err = b.build(b.ctx, req)
	}
	result := "ok"
	log := b.log.With("build", req.ID)
	if err != nil {
		reply.Error = wire.AsError(err)
		result = string(reply.Error.Code)
		log.Warn("build failed", telemetry.KeyCode, result, telemetry.KeyError, reply.Error.Message)
	} else {
		log.Info("built", "code", string(reply.Code), "bytes", reply.CodeBytes, "took", time.Since(begun))
	}
	b.builds.WithLabelValues(result).Observe(time.Since(begun).Seconds())
	data, err := json.Marshal(reply)
	if err == nil {
		err = m.Respond(data)
	}
	if err != nil {
		log.Error("answer lost", telemetry.KeyError, err)
	}
}

// build makes the artifact in a folder of its own, which is removed in any case.
func (b *Builder) build(ctx context.Context, req wire.BuildRequest) (reply wire.BuildReply, err error) {
	ctx, cancel := context.WithTimeout(ctx, b.cfg.Timeout)
	defer cancel()
	work, err := os.MkdirTemp(filepath.Join(b.cfg.DataDir, "work"), "build-")
	if err != nil {
		return reply, fmt.Errorf("make build folder: %w", err)
	}
	defer func() {
		if e := os.RemoveAll(work); e != nil {
			b.log.Warn("build folder left behind", "dir", work, telemetry.KeyError, e)
		}
	}()
	if err := os.Chmod(work, 0o711); err != nil {
		return reply, fmt.Errorf("make build folder: %w", err)
	}
	source := filepath.Join(work, "source")
	if err := b.fetch(ctx, req.Bundle, source); err != nil {
		return reply, err
	}
	if err := bundle.RequireManifest(source); err != nil {
		return reply, err
	}
	if reply.Manifest, err = os.ReadFile(filepath.Join(source, functions.ManifestName)); err != nil {
		return reply, fmt.Errorf("read manifest: %w", err)
	}
	manifest, err := functions.ParseManifest(reply.Manifest)
	if err != nil {
		return reply, err
	}
	if reply.Log, err = b.prepare(ctx, req.ID, work, source, manifest.Spec); err != nil {
		return reply, err
	}
	reply.Code, reply.CodeBytes, err = b.store(ctx, source)
	return reply, err
}

// fetch unpacks the bundle into dir.
func (b *Builder) fetch(ctx context.Context, key, dir string) error {
	object, err := b.deps.Store.Get(ctx, key)
	if err != nil {
		return fmt.Errorf("fetch bundle: %w", err)
	}
	defer object.Close()
	if err := os.Mkdir(dir, 0o755); err != nil {
		return fmt.Errorf("unpack bundle: %w", err)
	}
	_, err = bundle.Unpack(object, dir, bundle.DefaultLimits())
	return err
}

// store packs the folder and keeps it under its digest, unless it is there already.
func (b *Builder) store(ctx context.Context, dir string) (wire.Digest, int64, error) {
	var packed bytes.Buffer
	if _, err := bundle.Pack(dir, &packed); err != nil {
		return "", 0, err
	}
	sum := sha256.Sum256(packed.Bytes())
	digest := wire.Digest(hex.EncodeToString(sum[:]))
	exists, err := b.deps.Store.Exists(ctx, wire.CodeKey(digest))
	if err == nil && !exists {
		err = b.deps.Store.PutBytes(ctx, wire.CodeKey(digest), packed.Bytes(), "application/gzip")
	}
	return digest, int64(packed.Len()), err
}
