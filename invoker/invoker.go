// Package invoker is a node's agent: it takes invocations from NATS, keeps the
// node's instances, enforces deadlines, and tells the cluster how the node is.
package invoker

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/uuid"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/dayfly-run/dayfly/functions"
	"github.com/dayfly-run/dayfly/functions/registry"
	"github.com/dayfly-run/dayfly/functions/settings"
	"github.com/dayfly-run/dayfly/internal/blob"
	"github.com/dayfly-run/dayfly/internal/bus"
	"github.com/dayfly-run/dayfly/internal/telemetry"
	"github.com/dayfly-run/dayfly/invoker/guard"
	"github.com/dayfly-run/dayfly/invoker/keepalive"
	"github.com/dayfly-run/dayfly/invoker/pool"
	"github.com/dayfly-run/dayfly/invoker/sandbox"
	"github.com/dayfly-run/dayfly/runtimes"
	"github.com/dayfly-run/dayfly/wire"
)

// Config describes a node.
type Config struct {
	Node wire.NodeID
	// DataDir holds the node's cache and sockets; all of it may vanish between runs.
	DataDir string
	// Capacity is what functions may take.
	Capacity wire.Resources
	// IdleLimit is how long an instance may be idle while nobody needs its memory; 0
	// means [DefaultIdleLimit].
	IdleLimit time.Duration
	// Stems sizes the pools of containers without a function.
	Stems StemConfig
	// Program is the path of this binary, which images start with; it needs no
	// libraries. Empty for a node that runs no images.
	Program string
	// Build is the version of this binary.
	Build string
	// LostAfter is how long the cluster hears nothing of a node until it gives it up; a
	// node that could not be heard for so long ends what it runs by itself. 0 for never:
	// NATS is in this process, so that nothing stands between them.
	LostAfter time.Duration
	// Guard kills the node's containers when it cannot. It has none without Args.
	Guard guard.Config
	// Labels are what the operator says of the node, its zone included; each passes
	// [wire.CheckLabel]. The node adds those that every node has.
	Labels map[string]string
}

// DefaultIdleLimit is generous: until then, worth decides which instance goes.
const DefaultIdleLimit = keepalive.DefaultIdleLimit

// Deps are what an invoker works with; it closes none of them but the sandbox.
type Deps struct {
	Conn     *bus.Conn
	Store    *blob.Store
	Registry *registry.Registry
	// Settings follow those of functions that run here; they run for longer than the
	// invoker.
	Settings *settings.Live
	Sandbox  sandbox.Sandbox
	Roots    Roots
	Metrics  prometheus.Registerer
	Log      *slog.Logger
}

// Invoker is a node's agent. It is a lifecycle service.
type Invoker struct {
	cfg    Config
	deps   Deps
	log    *slog.Logger
	labels map[string]string
	stems  *stems
	codes  *codeCache
	// versions are those that the node knows.
	versions versions
	roots    *rootCache
	metrics  *metrics
	contact  *contact
	guard    *guard.Guard  // nil for none
	reports  chan struct{} // asks for a state message soon
	told     told
	// wholeWanted has the next word say all of the state.
	wholeWanted atomic.Bool
	tending     chan struct{} // asks for a look at what is idle and kept
	aheads      chan struct{} // holds one for every instance that is started for no call

	intake   []*bus.Subscription // of what brings work
	during   []*bus.Subscription // of all else, see [hearing]
	ctx      context.Context     // of this run's work
	cancel   context.CancelCauseFunc
	calls    sync.WaitGroup // invocations under way
	underWay calls          // the same, to be cancelled
	flows    flows          // answers of theirs that are passed on as they come
	answers  answers        // to calls of the node's own functions
	stores   *storeWatch
	uploads  chan struct{} // holds one for every result on its way to S3
	loops    sync.WaitGroup
	// removals counts instances that are being removed.
	removals sync.WaitGroup
	// watchers counts goroutines that wait for the end of an instance.
	watchers sync.WaitGroup

	mu        sync.Mutex // guards what follows; never held across I/O
	run       string     // differs at every start, and after it was given up
	pool      *pool.Pool
	instances map[wire.InstanceID]*instance
	waits     map[wire.VersionID]*slotWait
	kept      map[wire.VersionID]*keeping
	settled   map[wire.LeaseID]time.Time
	epoch     uint64 // the highest that a scheduler showed
	takes     bool   // invocations of this process, see [Invoker.Run]
	draining  bool   // nothing new is taken, see [Invoker.setDraining]
	stopping  bool   // nothing at all is taken
	seq       uint64
	freed     chan struct{} // closed, and made anew, when resources come back
}

// errStopped is the cause that ends what is left when a stop's patience is over.
var errStopped = errors.New("the node was stopped")

// New makes an invoker.
func New(cfg Config, deps Deps) *Invoker {
	if cfg.IdleLimit <= 0 {
		cfg.IdleLimit = DefaultIdleLimit
	}
	return &Invoker{
		cfg: cfg, deps: deps, log: deps.Log.With(telemetry.KeyNode, string(cfg.Node)),
		run:       uuid.NewString(),
		labels:    labelsOf(cfg, deps.Sandbox.Kind()),
		metrics:   newMetrics(deps.Metrics),
		contact:   newContact(cfg.LostAfter, time.Now()),
		stores:    newStoreWatch(time.Now()),
		reports:   make(chan struct{}, 1),
		tending:   make(chan struct{}, 1),
		aheads:    make(chan struct{}, maxAheadStarts),
		uploads:   make(chan struct{}, maxUploads),
		pool:      pool.New(cfg.Capacity, keepalive.Limits{IdleLimit: cfg.IdleLimit, StartsAhead: true}),
		instances: map[wire.InstanceID]*instance{},
		waits:     map[wire.VersionID]*slotWait{},
		kept:      map[wire.VersionID]*keeping{},
		settled:   map[wire.LeaseID]time.Time{},
		freed:     make(chan struct{}),
		versions:  versions{registry: deps.Registry, known: map[wire.VersionID]functions.Version{}},
	}
}

// ID names the node.
func (inv *Invoker) ID() wire.NodeID { return inv.cfg.Node }

// Start removes what an earlier run left, prepares the runtimes and takes
// invocations. After an error nothing runs and the sandbox is closed.
func (inv *Invoker) Start(ctx context.Context) error {
	inv.ctx, inv.cancel = context.WithCancelCause(context.WithoutCancel(ctx))
	if err := inv.prepare(ctx); err != nil {
		inv.cancel(err)
		inv.cancel = nil
		inv.guard.Close()
		return errors.Join(err, inv.deps.Sandbox.Close(context.WithoutCancel(ctx)))
	}
	if err := inv.followOrders(ctx); err != nil {
		return errors.Join(err, inv.Stop(context.WithoutCancel(ctx)))
	}
	inv.underWay.open(time.Now())
	if err := inv.subscribe(); err != nil {
		return errors.Join(err, inv.Stop(context.WithoutCancel(ctx)))
	}
	stop, err := inv.roots.watch()
	if err != nil {
		return errors.Join(err, inv.Stop(context.WithoutCancel(ctx)))
	}
	inv.mu.Lock()
	inv.takes = true
	inv.mu.Unlock()
	inv.contact.begin(time.Now())
	inv.loops.Go(inv.stayInTouch)
	inv.loops.Go(inv.reportLoop)
	inv.loops.Go(inv.tendLoop)
	inv.loops.Go(inv.stems.run)
	inv.loops.Go(func() {
		defer stop()
		inv.roots.run(inv.stems)
	})
	return nil
}

// prepare makes the node ready for instances.
func (inv *Invoker) prepare(ctx context.Context) (err error) {
	if err := inv.deps.Sandbox.Check(ctx); err != nil {
		return err
	}
	left, err := inv.deps.Sandbox.Sweep(ctx) // before the folders that they use
	if err != nil {
		return fmt.Errorf("remove what an earlier run left: %w", err)
	}
	if left > 0 {
		inv.log.Info("removed containers of an earlier run", "count", left)
	}
	if err := inv.startGuard(); err != nil {
		return err
	}
	if err := inv.prepareFolders(); err != nil {
		return err
	}
	if err := inv.roots.open(ctx); err != nil {
		return err
	}
	inv.codes, err = openCodeCache(filepath.Join(inv.cfg.DataDir, "code"), inv.deps.Store, inv.log)
	return err
}

// prepareFolders makes the node's folders. Code stays from run to run; instance
// folders are of one run. Functions reach into these through mounts as another
// user, who may pass but not look around.
func (inv *Invoker) prepareFolders() error {
	shims := filepath.Join(inv.cfg.DataDir, "shims")
	runDir := filepath.Join(inv.cfg.DataDir, "run")
	if err := os.RemoveAll(runDir); err != nil {
		return fmt.Errorf("clear instance folders: %w", err)
	}
	for _, dir := range []string{inv.cfg.DataDir, runDir} {
		if err := os.MkdirAll(dir, 0o711); err != nil {
			return fmt.Errorf("make node folders: %w", err)
		}
	}
	if err := runtimes.WriteShims(shims); err != nil {
		return err
	}
	inv.roots = newRootCache(inv.ctx, inv.deps.Sandbox, inv.deps.Roots, inv.log)
	inv.stems = newStems(inv.ctx, inv.cfg.Stems, &launch{
		node: inv.cfg.Node, runDir: runDir, shimDir: shims, imageDir: inv.prepareImages(),
		sandbox: inv.deps.Sandbox, guard: inv.guard, roots: inv.roots, settings: inv.deps.Settings, publish: inv.publishLog, reach: inv.reach, log: inv.log,
	}, inv.metrics, inv.log)
	return nil
}

// Stop takes no new invocations, lets those under way end until ctx is done, kills
// the rest, and removes every instance.
func (inv *Invoker) Stop(ctx context.Context) error {
	if inv.cancel == nil {
		return nil
	}
	inv.mu.Lock()
	inv.draining, inv.stopping, inv.takes = true, true, false
	inv.keepNothing()
	inv.mu.Unlock()
	inv.tell(onChange)
	inv.unsubscribe(&inv.intake)
	idle := make(chan struct{})
	go func() {
		defer close(idle)
		inv.calls.Wait()
	}()
	select {
	case <-idle:
	case <-ctx.Done():
		inv.log.Warn("killing what still runs", "reason", ctx.Err())
	}
	inv.cancel(errStopped)
	<-idle
	inv.unsubscribe(&inv.during)
	inv.loops.Wait()
	inv.destroyAll()
	inv.watchers.Wait()
	inv.codes.close()
	inv.tell(onStop)
	inv.guard.Close()
	inv.cancel = nil
	return inv.deps.Sandbox.Close(context.WithoutCancel(ctx))
}

// Ready returns nil when the node can take an invocation.
func (inv *Invoker) Ready(ctx context.Context) error {
	if err := inv.deps.Conn.Healthy(); err != nil {
		return err
	}
	return inv.deps.Sandbox.Check(ctx)
}

// MeasureCapacity returns what this machine offers functions: four fifths of its
// memory, and four times its cores, because most functions wait most of the time
// and the kernel shares fairly when they do not.
func MeasureCapacity() (wire.Resources, error) {
	memory, err := totalMemory()
	if err != nil {
		return wire.Resources{}, err
	}
	return wire.Resources{
		MemoryBytes: memory / 5 * 4,
		CPUMillis:   int64(runtime.NumCPU()) * 4000,
		Instances:   512,
	}, nil
}
