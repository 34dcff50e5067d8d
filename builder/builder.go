// Package builder turns an uploaded bundle into an artifact: the files that an
// instance sees, as a reproducible archive named by its own digest.
package builder

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/dayfly-run/dayfly/functions"
	"github.com/dayfly-run/dayfly/functions/bundle"
	"github.com/dayfly-run/dayfly/internal/blob"
	"github.com/dayfly-run/dayfly/internal/bus"
	"github.com/dayfly-run/dayfly/internal/garbage"
	"github.com/dayfly-run/dayfly/internal/roots"
	"github.com/dayfly-run/dayfly/internal/telemetry"
	"github.com/dayfly-run/dayfly/wire"
)

// Config describes a builder.
type Config struct {
	// DataDir holds work folders and caches; all of it may vanish between runs.
	DataDir string
	// GoRoot is the Go toolchain that compiles functions; empty for none.
	GoRoot string
	// GoEnv, PipEnv and NpmEnv are settings of the Go command, pip and npm for downloads,
	// such as GOPROXY=….
	GoEnv, PipEnv, NpmEnv []string
	// NpmRegistry tells where npm itself comes from when NpmEnv does not, empty for nobody
	// knows; it is asked once npm is needed, and may be nil.
	NpmRegistry func(context.Context) string
	// Timeout bounds one build.
	Timeout time.Duration
	// DiskBytes bounds what a step of a build may have in the folders that it writes to,
	// its caches included.
	DiskBytes int64
	// MaxBuilds bounds the builds at once; up to maxQueued more wait here.
	MaxBuilds int
}

// maxQueued bounds the requests that wait; one over it goes to another builder.
const maxQueued = 16

// Job is one command in a throw-away container.
type Job struct {
	ID string
	// Script runs in a shell, in WorkDir.
	Script  string
	WorkDir string
	Env     []string
	// Runtime says whose root file system it is that the command runs in, in
	// functions' words.
	Runtime string
	// Folders are shown inside, by the path there.
	Folders map[string]Folder
	// Network lets it reach the machine's networks, where a company's own module
	// proxy may stand; without it there is none.
	Network bool
}

// Folder is a folder of the host.
type Folder struct {
	Path     string
	Writable bool
}

// Runner runs jobs. Run writes to out what the command prints while it runs, and
// returns [ErrJob] when the command itself failed; other errors are the platform's. It is
// safe for concurrent use, and ends the command when ctx is done.
type Runner interface {
	Run(ctx context.Context, job Job, out io.Writer) error
}

// ErrJob: the command ran and failed.
var ErrJob = errors.New("the build failed")

// Deps are what a builder works with; it closes none of them.
type Deps struct {
	Conn    *bus.Conn
	Store   *blob.Store
	Runner  Runner
	Images  Images
	Roots   *roots.Store
	Metrics prometheus.Registerer
	Log     *slog.Logger
}

// Builder takes build requests from NATS. It is a lifecycle service.
type Builder struct {
	cfg    Config
	deps   Deps
	log    *slog.Logger
	builds *prometheus.HistogramVec

	subs   []*bus.Subscription
	queue  chan request
	caches caches
	npm    turn // whose it is fetches npm
	// goStandard: whose turn it is compiles the standard library.
	goStandard turn
	keeper     *garbage.Keeper // of what builds are about to refer to; set by Start
	idle       chan struct{}   // closed by Stop: nothing is begun that nobody asked for
	ctx        context.Context //nolint:containedctx // the builds', which outlive their requests
	cancel     context.CancelCauseFunc
	running    sync.WaitGroup // the workers

	mu       sync.Mutex
	stopping bool // guarded by mu: nothing more goes into queue, which is closed
}

// errStopping is the cause that ends builds when a stop's patience is over.
var errStopping = errors.New("the builder is being stopped")

// New makes a builder.
func New(cfg Config, deps Deps) *Builder {
	b := &Builder{
		cfg: cfg, deps: deps, log: deps.Log, npm: newTurn(), goStandard: newTurn(),
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
	if err := errors.Join(os.RemoveAll(work), clearCaches(filepath.Join(b.cfg.DataDir, "cache"))); err != nil {
		return fmt.Errorf("clear build folders: %w", err)
	}
	//nolint:gosec // the build user passes through
	if err := os.MkdirAll(work, 0o711); err != nil {
		return fmt.Errorf("make build folders: %w", err)
	}
	keeper, err := garbage.OpenKeeper(ctx, b.deps.Conn)
	if err != nil {
		return err
	}
	b.keeper = keeper
	b.ctx, b.cancel = context.WithCancelCause(context.WithoutCancel(ctx))
	b.queue, b.idle, b.stopping = make(chan request, maxQueued), make(chan struct{}), false
	for range b.cfg.MaxBuilds {
		b.running.Go(func() {
			for r := range b.queue {
				if r.out == nil {
					b.serveRebuild(r.Msg)
				} else {
					b.serve(r)
				}
			}
		})
	}
	b.running.Go(b.collectLoop)
	for _, subject := range []string{wire.BuildSubject, wire.RebuildSubject} {
		sub, err := b.deps.Conn.Subscribe(subject, wire.BuildGroup, b.enqueue)
		if err != nil {
			return errors.Join(err, b.Stop(context.WithoutCancel(ctx)))
		}
		b.subs = append(b.subs, sub)
	}
	return nil
}

// Stop takes no new request, gives those that wait back, and lets builds end until ctx
// is done.
func (b *Builder) Stop(ctx context.Context) error {
	if b.queue == nil {
		return nil
	}
	defer context.AfterFunc(ctx, func() { b.cancel(errStopping) })()
	close(b.idle)
	b.mu.Lock()
	b.stopping = true
	close(b.queue)
	b.mu.Unlock()
	for r := range b.queue { // what no worker has yet
		b.giveBack(r, wire.Errorf(wire.CodeUnavailable, "%s", errStopping))
	}
	for _, sub := range b.subs {
		sub.Stop(b.deps.Conn)
	}
	b.running.Wait()
	b.cancel(nil)
	b.subs, b.queue = nil, nil
	return nil
}

// Ready returns nil when a build would be taken.
func (b *Builder) Ready(context.Context) error { return b.deps.Conn.Healthy() }

// build makes the artifact in a folder of its own, which is removed in any case.
func (b *Builder) build(ctx context.Context, req wire.BuildRequest, out io.Writer) (reply wire.BuildReply, err error) {
	ctx, cancel := context.WithTimeout(ctx, b.cfg.Timeout)
	defer cancel()
	if !wire.ValidName(req.Namespace) { // it becomes the name of a folder
		return reply, wire.Errorf(wire.CodeInvalid, "malformed build request: namespace %q", req.Namespace)
	}
	work, err := os.MkdirTemp(filepath.Join(b.cfg.DataDir, "work"), "build-")
	if err != nil {
		return reply, fmt.Errorf("make build folder: %w", err)
	}
	defer func() {
		if e := os.RemoveAll(work); e != nil {
			b.log.Warn("build folder left behind", "dir", work, telemetry.KeyError, e)
		}
	}()
	//nolint:gosec // the build user passes through
	if err := os.Chmod(work, 0o711); err != nil {
		return reply, fmt.Errorf("make build folder: %w", err)
	}
	// Two tries at a build may run at once, where one was thought to be lost.
	id := req.ID + strings.TrimPrefix(filepath.Base(work), "build")
	t := task{id: id, namespace: req.Namespace, vendor: req.Vendor, work: work, dir: filepath.Join(work, "source"), out: out}
	if err := b.fetch(ctx, req.Bundle, t.dir); err != nil {
		return reply, err
	}
	if err := bundle.RequireManifest(t.dir); err != nil {
		return reply, err
	}
	if reply.Manifest, err = readManifest(t.dir); err != nil {
		return reply, err
	}
	manifest, err := functions.ParseManifest(reply.Manifest)
	if err != nil {
		return reply, err
	}
	t.spec = manifest.Spec
	made, err := b.prepare(ctx, t)
	if err != nil {
		return reply, err
	}
	reply.Code, reply.CodeBytes, reply.Image, reply.Cached = made.Code, made.CodeBytes, made.Image, made.cached
	reply.Arch = made.arch
	return reply, nil
}

// manifestBytes bounds what is read of a manifest: more than one may have, so that
// its reader says what is wrong.
const manifestBytes = 256 << 10

func readManifest(dir string) ([]byte, error) {
	f, err := os.Open(filepath.Join(dir, functions.ManifestName))
	if err != nil {
		return nil, fmt.Errorf("read manifest: %w", err)
	}
	defer func() { _ = f.Close() }()
	data, err := io.ReadAll(io.LimitReader(f, manifestBytes))
	if err != nil {
		return nil, fmt.Errorf("read manifest: %w", err)
	}
	return data, nil
}

// fetch unpacks the bundle into dir.
func (b *Builder) fetch(ctx context.Context, key, dir string) error {
	object, err := b.deps.Store.Get(ctx, key)
	if err != nil {
		return s3Failed(err)
	}
	defer func() { _ = object.Close() }()
	//nolint:gosec // the build user reads it
	if err := os.Mkdir(dir, 0o755); err != nil {
		return fmt.Errorf("unpack bundle: %w", err)
	}
	_, err = bundle.Unpack(object, dir, bundle.DefaultLimits())
	return err
}

// store packs the folder into a file and keeps that under its digest, unless it is
// there already.
func (b *Builder) store(ctx context.Context, dir, path string) (wire.Digest, int64, error) {
	f, err := os.Create(path)
	if err != nil {
		return "", 0, fmt.Errorf("pack artifact: %w", err)
	}
	defer func() { _ = f.Close() }()
	hash := sha256.New()
	if _, err := bundle.Pack(dir, io.MultiWriter(f, hash)); err != nil {
		return "", 0, err
	}
	size, err := f.Seek(0, io.SeekCurrent)
	if err == nil {
		_, err = f.Seek(0, io.SeekStart)
	}
	if err != nil {
		return "", 0, fmt.Errorf("pack artifact: %w", err)
	}
	digest := wire.Digest(hex.EncodeToString(hash.Sum(nil)))
	if err := b.keeper.Keep(ctx, wire.CodeKey(digest)); err != nil {
		return "", 0, err
	}
	exists, err := b.deps.Store.Exists(ctx, wire.CodeKey(digest))
	if err == nil && !exists {
		err = b.deps.Store.Put(ctx, wire.CodeKey(digest), f, size, "application/gzip")
	}
	return digest, size, s3Failed(err)
}

// s3Failed says that S3 is to blame, and not the bundle.
func s3Failed(err error) error {
	if err == nil {
		return nil
	}
	return wire.Errorf(wire.CodeUnavailable, "the builder could not use S3: %s", err)
}
