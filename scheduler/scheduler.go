// Package scheduler is the role around [placement]: it elects a leader among
// the schedulers, keeps the table of nodes from what they report, and, while it
// leads, answers which node may start an instance.
//
// Nodes are the truth about instances; nothing here is stored. What the leader
// adds is a lease for every answer it gave: it counts as reserved until the node
// says that it settled the lease, or until [wire.LeaseTTL] is over. It also tells the
// nodes which instances to keep, so that as many run as minInstances asks for.
package scheduler

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/uuid"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/dayfly-run/dayfly/functions"
	"github.com/dayfly-run/dayfly/internal/bus"
	"github.com/dayfly-run/dayfly/internal/roster"
	"github.com/dayfly-run/dayfly/internal/telemetry"
	"github.com/dayfly-run/dayfly/wire"
)

// Deps are what a scheduler works with; it closes none of them.
type Deps struct {
	Conn *bus.Conn
	// Functions knows what is to be kept running; it runs for longer than the
	// scheduler.
	Functions Functions
	Metrics   prometheus.Registerer
	Log       *slog.Logger
}

// Functions is what the scheduler reads of the registry. It is safe for concurrent
// use and asks nobody.
type Functions interface {
	// Kept returns the live versions that ask for instances to be kept, one of a
	// function at most, and a channel that is closed when that may have changed. The
	// versions are read only.
	Kept() (versions []functions.Version, changed <-chan struct{})
}

// Scheduler is a lifecycle service. It is safe for concurrent use, but Start and
// Stop must not overlap.
type Scheduler struct {
	cfg      Config
	deps     Deps
	log      *slog.Logger
	metrics  *metrics
	election *election
	phase    atomic.Int32

	cancel    context.CancelFunc // nil unless started
	states    *bus.Subscription
	stopWatch func()
	hearing   roster.Hearing
	loops     sync.WaitGroup
	keepNews  chan struct{} // holds an item when the nodes keep other than before

	mu     sync.Mutex // guards what follows; never held across I/O
	words  roster.Nodes
	nodes  *nodeTable
	keeper *keeper // nil unless it leads
	fences *fences
}

// What a scheduler is doing.
const (
	standingBy int32 = iota
	askingNodes
	serving
)

// New makes a scheduler.
func New(cfg Config, deps Deps) *Scheduler {
	s := &Scheduler{
		cfg: cfg.withDefaults(), deps: deps, log: deps.Log,
		//nolint:gosec // it breaks ties between nodes; nobody gains by guessing it
		nodes:    newNodeTable(rand.New(rand.NewPCG(rand.Uint64(), rand.Uint64()))),
		keepNews: make(chan struct{}, 1),
	}
	holder := uuid.NewString()
	if cfg.Name != "" {
		holder = cfg.Name + "-" + holder
	}
	s.fences = newFences(s.cfg.LeaderTTL + wire.NodeLostAfter)
	s.election = newElection(holder, s.cfg, s.serve, s.log)
	s.metrics = newMetrics(deps.Metrics, s.census)
	return s
}

// census counts what is known.
func (s *Scheduler) census() census {
	s.mu.Lock()
	defer s.mu.Unlock()
	c := census{nodes: s.nodes.len(), leases: s.nodes.leases(), over: s.fences.over}
	if s.keeper != nil {
		c.wanted, c.missing = s.keeper.wanted, s.keeper.missing
	}
	return c
}

// Start listens to the nodes and runs for leader.
func (s *Scheduler) Start(ctx context.Context) error {
	if err := s.cfg.validate(); err != nil {
		return err
	}
	bucket, err := s.deps.Conn.Bucket(ctx, bus.BucketConfig{
		Name: wire.BucketLeases, TTL: s.cfg.LeaderTTL, MaxValueBytes: maxLeaseValue,
	})
	if err != nil {
		return err
	}
	s.election.store = bucket
	if s.states, err = s.deps.Conn.Subscribe(wire.AllNodeStates, "", s.hear); err != nil {
		return err
	}
	run, cancel := context.WithCancel(context.WithoutCancel(ctx))
	if s.stopWatch, err = bucket.Watch(run, s.election.see, func() {}); err != nil {
		cancel()
		s.states.Stop(s.deps.Conn)
		return err
	}
	s.cancel = cancel
	s.loops.Go(func() { s.election.run(run) })
	s.loops.Go(func() { s.sweepLoop(run) })
	return nil
}

// Stop answers the requests that are here, gives the lease back so that another
// scheduler takes over at once, and ends. Each of these is bounded by seconds.
func (s *Scheduler) Stop(context.Context) error {
	if s.cancel == nil {
		return nil
	}
	s.cancel()
	s.loops.Wait()
	s.stopWatch()
	s.states.Stop(s.deps.Conn)
	s.cancel = nil
	return nil
}

// Ready returns nil when this scheduler leads and knows nodes, or stands by for
// another that leads.
func (s *Scheduler) Ready(context.Context) error {
	if err := s.deps.Conn.Healthy(); err != nil {
		return err
	}
	switch s.phase.Load() {
	case serving:
		if s.census().nodes == 0 {
			return errors.New("no node has reported yet; start one with `dayfly invoker`")
		}
	case askingNodes:
		return errors.New("asking the nodes how they are")
	default:
		if !s.election.otherLeads(time.Now()) {
			return errors.New("no scheduler leads yet")
		}
	}
	return nil
}

// Leads reports whether this scheduler leads and answers.
func (s *Scheduler) Leads() bool { return s.phase.Load() == serving }

// serve is what the leader does until ctx is done: it looks at the nodes and
// then answers requests. When it returns it answers no more.
func (s *Scheduler) serve(ctx context.Context, r *reign) error {
	s.enter(askingNodes)
	defer s.enter(standingBy)
	s.reignOver(r)
	defer s.reignOver(nil)
	if err := s.askNodes(ctx); err != nil {
		return err
	}
	if ctx.Err() != nil {
		return nil
	}
	sub, err := s.deps.Conn.Subscribe(wire.PlaceSubject, "", func(m bus.Msg) { s.answer(r, m) })
	if err != nil {
		return err
	}
	s.enter(serving)
	s.log.Info("answering as the leader", keyEpoch, r.epoch, "nodes", s.census().nodes, "took", time.Since(r.began))
	s.keep(ctx, r)
	s.enter(standingBy) // without NATS, the next line takes seconds
	sub.Stop(s.deps.Conn)
	return nil
}

func (s *Scheduler) enter(phase int32) {
	s.phase.Store(phase)
	if phase == standingBy {
		s.metrics.leading.Set(0)
	} else {
		s.metrics.leading.Set(1)
	}
}

// askNodes asks every node for its state and returns when no further node has
// answered for a while.
func (s *Scheduler) askNodes(ctx context.Context) error {
	asked := time.Now()
	if err := s.deps.Conn.Publish(wire.NodeProbeSubject, nil); err != nil {
		return fmt.Errorf("ask the nodes for their states: %w", err)
	}
	bound := time.NewTimer(s.cfg.ProbeMax)
	defer bound.Stop()
	look := time.NewTicker(s.cfg.ProbeQuiet)
	defer look.Stop()
	for before := -1; ; {
		select {
		case <-ctx.Done():
			return nil
		case <-bound.C:
			return nil
		case <-look.C:
		}
		s.mu.Lock()
		answered := s.nodes.heardSince(asked)
		s.mu.Unlock()
		if answered == before {
			return nil
		}
		before = answered
	}
}

func (s *Scheduler) sweepLoop(ctx context.Context) {
	tick := time.NewTicker(s.cfg.SweepEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		lost, expired := s.giveUp(ctx)
		if len(lost) > 0 {
			s.wakeKeeper()
		}
		for _, n := range lost {
			s.log.Warn("node lost", telemetry.KeyNode, string(n.node), "silent", time.Since(n.heard))
		}
		if expired > 0 {
			s.log.Warn("leases ran out unused", "leases", expired)
		}
	}
}
