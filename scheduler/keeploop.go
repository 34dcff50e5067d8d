package scheduler

import (
	"context"
	"encoding/json"
	"errors"
	"sync"
	"time"

	"github.com/dayfly-run/dayfly/internal/bus"
	"github.com/dayfly-run/dayfly/internal/telemetry"
	"github.com/dayfly-run/dayfly/wire"
)

const (
	// keepEvery is how often the leader looks after the kept instances without news,
	// keepGap the least pause between two looks: requests share the lock.
	keepEvery = time.Second
	keepGap   = 10 * time.Millisecond
	// keepTimeout bounds a command; the node only takes note of it.
	keepTimeout = 2 * time.Second
)

// keep looks after the kept instances until ctx is done. When it returns, no command
// is under way.
func (s *Scheduler) keep(ctx context.Context, r *reign) {
	k := newKeeper(s.nodes, newLease)
	s.setKeeper(k)
	defer s.setKeeper(nil)
	var sending sync.WaitGroup // at most maxKeeping
	defer sending.Wait()
	tick := time.NewTicker(keepEvery)
	defer tick.Stop()
	gap := time.NewTimer(0)
	defer gap.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-gap.C:
		}
		versions, changed := s.deps.Functions.Kept()
		s.mu.Lock()
		due, failed, again := k.pass(versions, time.Now())
		s.mu.Unlock()
		for v, err := range failed {
			s.log.Warn("an instance is not kept", telemetry.KeyFunction, v.String(), telemetry.KeyCode, string(err.Code), telemetry.KeyError, err.Message)
		}
		for _, c := range due {
			sending.Go(func() { s.command(ctx, r, k, c) })
		}
		gap.Reset(keepGap)
		if again {
			continue
		}
		select {
		case <-ctx.Done():
		case <-changed:
		case <-s.keepNews:
		case <-tick.C:
		}
	}
}

func (s *Scheduler) setKeeper(k *keeper) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.keeper = k
}

// wakeKeeper makes the leader look at once.
func (s *Scheduler) wakeKeeper() {
	select {
	case s.keepNews <- struct{}{}:
	default:
	}
}

// command tells a node what to keep.
func (s *Scheduler) command(ctx context.Context, r *reign, k *keeper, c keepCommand) {
	err, refused := s.send(ctx, r, c)
	s.mu.Lock()
	k.done(c, err, refused, time.Now())
	s.mu.Unlock()
	s.wakeKeeper()
	result := resultOK
	if err != nil {
		result = string(err.Code)
	}
	s.metrics.keeps.WithLabelValues(result).Inc()
	log := s.log.With(telemetry.KeyNode, string(c.node), telemetry.KeyFunction, c.version.String(), "count", c.count)
	if err != nil {
		log.Warn("the node was not told what to keep", telemetry.KeyCode, string(err.Code), telemetry.KeyError, err.Message)
		return
	}
	log.Info("told the node what to keep")
}

// send returns nil when the node took the command. Refused says that it surely did
// not.
func (s *Scheduler) send(ctx context.Context, r *reign, c keepCommand) (failed *wire.Error, refused bool) {
	if !r.holds() {
		return wire.Errorf(wire.CodeUnavailable, "this scheduler no longer leads"), true
	}
	data, err := json.Marshal(wire.KeepRequest{Version: c.version, Count: c.count, Epoch: r.epoch, Lease: c.lease})
	if err != nil {
		return wire.Errorf(wire.CodeInternal, "encode the command: %s", err), true
	}
	ctx, cancel := context.WithTimeout(ctx, keepTimeout)
	defer cancel()
	answer, err := s.deps.Conn.Request(ctx, wire.NodeControlSubject(c.node), data)
	switch {
	case errors.Is(err, bus.ErrNoResponders):
		return wire.Errorf(wire.CodeUnavailable, "the node takes no commands"), true
	case err != nil:
		return wire.Errorf(wire.CodeUnavailable, "the node did not answer: %s", err), false
	}
	var reply wire.KeepReply
	if err := json.Unmarshal(answer, &reply); err != nil {
		return wire.Errorf(wire.CodeInternal, "the node's answer is not the JSON that is expected: %s", err), false
	}
	return reply.Error, true
}
