// Package events runs what was accepted: it takes events off their queues, has them
// dispatched, retries what may be retried, and tells those who want to hear of the end.
package events

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/dayfly-run/dayfly/functions"
	"github.com/dayfly-run/dayfly/internal/blob"
	"github.com/dayfly-run/dayfly/internal/bus"
	"github.com/dayfly-run/dayfly/internal/dispatch"
	"github.com/dayfly-run/dayfly/internal/intake"
	"github.com/dayfly-run/dayfly/internal/records"
	"github.com/dayfly-run/dayfly/wire"
)

// Defaults of a [Config].
const (
	DefaultMaxHeld   = 512
	DefaultIdle      = 9 * time.Second
	DefaultLookEvery = 10 * time.Second
)

// minIdle is the least time that a queue stays open. Events that were accepted soon after
// a hint have none of their own, and must find it open.
const minIdle = 2 * intake.HintEvery

// Dispatcher brings a call to an instance. [dispatch.Dispatcher] is one.
type Dispatcher interface {
	// Invoke runs a call to its end. Its error is a [*wire.Error]. It is called by many
	// goroutines at once, and returns soon after ctx is done.
	Invoke(ctx context.Context, call dispatch.Call) (dispatch.Result, error)
}

// Functions knows what a reference means now. [registry.Cache] does.
type Functions interface {
	// Resolve returns a function and a version of it: of an alias that splits its calls,
	// the one that a draw from 0 to 99 decides. It does not wait. Its error is a
	// [*wire.Error], not_found for what is not there.
	Resolve(ref wire.Ref, draw int) (functions.Function, functions.Version, error)
}

// Config describes a worker. Zero values mean the defaults.
type Config struct {
	// MaxHeld bounds the events that are run at once, over all queues. A queue of which
	// none runs may have one more, so that no queue holds up another.
	MaxHeld int
	// Idle is how long a queue stays open in which nothing happens, at least two seconds.
	// One that is not open costs nothing.
	Idle time.Duration
	// LookEvery is how often a worker looks for events that nobody told it of.
	LookEvery time.Duration
}

// Deps are what a worker works with; it closes none of them.
type Deps struct {
	Conn       *bus.Conn
	Store      *blob.Store
	Intake     *intake.Intake
	Functions  Functions
	Dispatcher Dispatcher
	Metrics    prometheus.Registerer
	Log        *slog.Logger
}

// errStopped is the cause that ends attempts when a stop's patience is over.
var errStopped = errors.New("the events worker was stopped")

// Worker runs accepted events. Any number may run; they share the queues. It is a
// lifecycle service.
type Worker struct {
	cfg     Config
	deps    Deps
	log     *slog.Logger
	records *records.Store
	metrics *metrics
	held    held
	clock   clock
	pauses  pauses

	subs    []*bus.Subscription
	taking  context.Context //nolint:containedctx // while new events are taken
	noMore  context.CancelFunc
	working context.Context //nolint:containedctx // while events may run
	cut     context.CancelCauseFunc
	loops   sync.WaitGroup
	asking  sync.WaitGroup // loops that take events
	running sync.WaitGroup // events that are held

	lookFrom int // where the next look goes on; of who looks

	mu     sync.Mutex                 // guards what follows
	queues map[wire.EventQueue]*queue // those that are open
	budget int                        // events that may still be taken
}

// New makes a worker.
func New(cfg Config, deps Deps) *Worker {
	cfg.MaxHeld = cmp.Or(cfg.MaxHeld, DefaultMaxHeld)
	cfg.Idle = max(minIdle, cmp.Or(cfg.Idle, DefaultIdle))
	cfg.LookEvery = cmp.Or(cfg.LookEvery, DefaultLookEvery)
	return &Worker{
		cfg: cfg, deps: deps, log: deps.Log,
		records: records.New(deps.Conn), metrics: newMetrics(deps.Metrics),
		queues: map[wire.EventQueue]*queue{}, budget: cfg.MaxHeld,
	}
}

// Start takes events. The intake must have been started.
func (w *Worker) Start(ctx context.Context) error {
	base := context.WithoutCancel(ctx)
	w.taking, w.noMore = context.WithCancel(base)
	w.working, w.cut = context.WithCancelCause(base)
	for subject, handle := range map[string]func(bus.Msg){
		wire.EventHintSubject: w.heardHint,
		wire.CancelSubject:    w.heardCancel,
	} {
		sub, err := w.deps.Conn.Subscribe(subject, "", handle)
		if err != nil {
			return errors.Join(err, w.Stop(base))
		}
		w.subs = append(w.subs, sub)
	}
	if err := w.look(ctx); err != nil {
		return errors.Join(err, w.Stop(base))
	}
	w.loops.Go(w.lookLoop)
	w.loops.Go(w.holdLoop)
	w.loops.Go(w.sweepLoop)
	return nil
}

// Stop takes no new events, gives back at once those that wait for an instance, lets those
// that run end until ctx is done, and then gives back the rest.
func (w *Worker) Stop(ctx context.Context) error {
	if w.noMore == nil {
		return nil
	}
	w.mu.Lock()
	w.noMore() // no queue is opened from here on
	w.mu.Unlock()
	w.asking.Wait() // what is given back from here on does not come here again
	w.held.leave()
	idle := make(chan struct{})
	go func() {
		defer close(idle)
		w.running.Wait()
	}()
	select {
	case <-idle:
	case <-ctx.Done():
		w.log.Warn("giving back events that still run", "reason", ctx.Err())
	}
	w.cut(errStopped)
	<-idle
	w.loops.Wait()
	for _, s := range w.subs {
		s.Stop(w.deps.Conn)
	}
	w.subs, w.noMore = nil, nil
	return nil
}

// Ready returns nil while the worker can take events.
func (w *Worker) Ready(context.Context) error { return w.deps.Conn.Healthy() }
