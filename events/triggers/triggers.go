// Package triggers turns what triggers listen to into accepted events: messages of NATS
// subjects and streams, ticks of schedules, and notifications of buckets. Any number of
// workers do it at once and share the messages. A message is acknowledged once its event
// is on disk, and what happened once makes one event, however often it is noticed.
package triggers

import (
	"context"
	"log/slog"
	"reflect"
	"sync"
	"time"

	"github.com/dayfly-run/dayfly/functions"
	"github.com/dayfly-run/dayfly/internal/bus"
	"github.com/dayfly-run/dayfly/internal/intake"
	"github.com/dayfly-run/dayfly/internal/telemetry"
	"github.com/dayfly-run/dayfly/wire"
)

// DefaultMissedAfter is how late a tick may be before it counts as missed.
const DefaultMissedAfter = 30 * time.Second

// mendEvery is how often what triggers listen to is looked over.
const mendEvery = 30 * time.Second

// DefaultTrimEvery is how often the inbox is rid of what is done with.
const DefaultTrimEvery = 10 * time.Second

// Intake puts events on disk. [intake.Intake] does.
type Intake interface {
	// Accept returns once the event is on disk, and drops a repeat of it. Its errors are
	// [*wire.Error]. It is called by many goroutines at once.
	Accept(ctx context.Context, r intake.Request) (intake.Accepted, error)
}

// Functions knows which triggers there are. [registry.Cache] does.
type Functions interface {
	// Triggered returns the live versions that have triggers, and a channel that is closed
	// when anything changes.
	Triggered() (versions []functions.Version, changed <-chan struct{})
}

// Sources mends what triggers listen to. [sources.Sources] does.
type Sources interface {
	// Open makes the streams. Reconcile makes and removes the rest. Trim removes
	// messages up to a sequence that every trigger is done with, and says up to where the
	// next time.
	Open(ctx context.Context) error
	Trim(ctx context.Context, upTo uint64) (last uint64, err error)
	Reconcile(ctx context.Context, live []functions.Version) error
}

// Config describes Triggers. Zero values mean the defaults.
type Config struct {
	// MissedAfter is how late a tick of a schedule may be before it counts as missed.
	MissedAfter time.Duration
	// TrimEvery is how often the inbox is rid of what is done with. What came since the
	// last time stays, as the consumers may not have counted it.
	TrimEvery time.Duration
}

// Deps are what Triggers work with; they close none of them.
type Deps struct {
	Conn      *bus.Conn
	Intake    Intake
	Functions Functions
	Sources   Sources
	Log       *slog.Logger
}

// Triggers takes the messages of all triggers. It is a lifecycle service.
type Triggers struct {
	cfg   Config
	deps  Deps
	log   *slog.Logger
	hands hands
	// missing holds an item when a mover found nothing to listen to.
	missing chan struct{}

	cancel context.CancelFunc // nil unless started
	loops  sync.WaitGroup
	movers map[string]*mover // by consumer; the main loop's own
}

// New makes Triggers.
func New(cfg Config, deps Deps) *Triggers {
	if cfg.MissedAfter == 0 {
		cfg.MissedAfter = DefaultMissedAfter
	}
	if cfg.TrimEvery == 0 {
		cfg.TrimEvery = DefaultTrimEvery
	}
	return &Triggers{cfg: cfg, deps: deps, log: deps.Log, missing: make(chan struct{}, 1), movers: map[string]*mover{}}
}

// Start takes messages from now on.
func (t *Triggers) Start(ctx context.Context) error {
	if err := t.deps.Sources.Open(ctx); err != nil {
		return err
	}
	run, cancel := context.WithCancel(context.WithoutCancel(ctx))
	t.cancel = cancel
	t.loops.Go(func() { t.follow(run) })
	t.loops.Go(func() { t.hands.keep(run, t.log) })
	t.loops.Go(func() { t.trim(run) })
	return nil
}

// Stop takes nothing new and gives back what is in hand.
func (t *Triggers) Stop(context.Context) error {
	if t.cancel == nil {
		return nil
	}
	t.cancel()
	t.loops.Wait()
	t.cancel = nil
	return nil
}

// follow keeps a mover for every trigger that there is.
func (t *Triggers) follow(ctx context.Context) {
	defer t.match(ctx, nil)
	tick := time.NewTicker(mendEvery)
	defer tick.Stop()
	for mend := true; ; {
		live, changed := t.deps.Functions.Triggered()
		if t.match(ctx, live) || mend {
			if err := t.deps.Sources.Reconcile(ctx, live); err != nil && ctx.Err() == nil {
				t.log.Warn("not every trigger works", telemetry.KeyError, err)
			}
		}
		mend = false
		select {
		case <-ctx.Done():
			return
		case <-changed:
		case <-tick.C:
			mend = true
		case <-t.missing:
			mend = true
		}
	}
}

// trim removes messages again and again.
func (t *Triggers) trim(ctx context.Context) {
	tick := time.NewTicker(t.cfg.TrimEvery)
	defer tick.Stop()
	for upTo := uint64(0); ; {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		last, err := t.deps.Sources.Trim(ctx, upTo)
		if err != nil {
			if ctx.Err() == nil {
				t.log.Warn("messages that are done with stay", telemetry.KeyError, err)
			}
			continue
		}
		upTo = last
	}
}

// match starts and ends movers, and reports whether there was anything to do.
func (t *Triggers) match(ctx context.Context, live []functions.Version) (changed bool) {
	wanted := map[string]*mover{}
	for _, v := range live {
		for _, trigger := range v.Spec.Triggers {
			m := newMover(t, v.FunctionID, trigger)
			wanted[m.source.Name] = m
		}
	}
	var ended []*mover
	for name, m := range t.movers {
		if w := wanted[name]; w == nil || !reflect.DeepEqual(w.trigger, m.trigger) {
			m.cancel()
			delete(t.movers, name)
			ended, changed = append(ended, m), true
		}
	}
	for _, m := range ended {
		<-m.done
	}
	for name, m := range wanted {
		if t.movers[name] == nil {
			t.movers[name], changed = m, true
			run, cancel := context.WithCancel(ctx)
			m.cancel = cancel
			go m.run(run)
		}
	}
	return changed
}

// askMend has what is missing made soon.
func (t *Triggers) askMend() {
	select {
	case t.missing <- struct{}{}:
	default: // somebody asked already
	}
}

// functionRef is whom the events of a function's triggers are for.
func functionRef(f wire.FunctionID) string {
	return wire.Ref{FunctionID: f, Qualifier: wire.LiveAlias}.String()
}
