package invoker

import (
	"context"
	"encoding/json"
	"errors"
	"slices"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/dayfly-run/dayfly/functions"
	"github.com/dayfly-run/dayfly/internal/bus"
	"github.com/dayfly-run/dayfly/wire"
)

// order says what is wanted of a node, as a gateway does; the zero order takes it back.
func order(t *testing.T, id wire.NodeID, o wire.NodeOrder) {
	t.Helper()
	bucket, err := shared.conn.Bucket(t.Context(), bus.BucketConfig{Name: wire.BucketNodes, MaxValueBytes: wire.MaxNodeOrder})
	must(t, err)
	data, err := json.Marshal(o)
	must(t, err)
	old, err := bucket.Get(t.Context(), string(id))
	switch {
	case errors.Is(err, bus.ErrNotFound):
		_, err = bucket.Create(t.Context(), string(id), data)
	case err == nil && o == wire.NodeOrder{}:
		err = bucket.Delete(t.Context(), string(id), old.Revision)
	case err == nil:
		_, err = bucket.Update(t.Context(), string(id), data, old.Revision)
	}
	must(t, err)
}

func withStems(c *Config, _ *Deps) {
	c.Stems = StemConfig{Floor: 1, Ceiling: 2, BudgetBytes: 1 << 30, Starts: 2, Network: functions.NetworkNone}
}

func stemsOf(s wire.NodeState) (n int) {
	for _, ready := range s.Stems {
		n += ready
	}
	return n
}

func of(s wire.NodeState, v wire.VersionID) wire.VersionOnNode {
	for _, on := range s.Versions {
		if on.Version == v {
			return on
		}
	}
	return wire.VersionOnNode{Version: v}
}

// TestDrain: a node that drains ends what it has, serves with what it keeps until it is
// told to keep less, and takes nothing else.
func TestDrain(t *testing.T) {
	hold := make(chan struct{})
	n := startNode(t, each(func(_ *process, _ string, event []byte) ([]byte, error) {
		if string(event) == `"hold"` {
			<-hold
		}
		return event, nil
	}), withStems)
	kept, idle, busy := n.deploy(), n.deploy(), n.deploy()
	n.mustKeep(wire.KeepRequest{Version: kept, Count: 1})
	n.awaitCount(kept, wire.VersionOnNode{Idle: 1, Slots: 1, Kept: 1})
	n.wantBody(n.cold(idle, `1`), `1`)
	call := n.background(busy, `"hold"`)
	n.await("at work", func(s wire.NodeState) bool { return of(s, busy).Busy == 1 && stemsOf(s) > 0 })

	order(t, n.id, wire.NodeOrder{Draining: true})
	s := n.await("draining", func(s wire.NodeState) bool {
		return s.Draining && of(s, idle) == wire.VersionOnNode{Version: idle} && stemsOf(s) == 0
	})
	if s.Drained || of(s, kept).Slots != 1 || of(s, busy).Slots != 0 || of(s, busy).Busy != 1 {
		t.Errorf("%+v", s)
	}
	n.wantBody(n.warm(kept, `2`), `2`)
	n.wantError(n.warm(idle, `2`), wire.CodeNoCapacity, true, "draining")
	n.wantError(n.cold(idle, `2`), wire.CodeNoCapacity, true, "draining")
	lease := newLease()
	n.wantRefused(wire.KeepRequest{Version: kept, Count: 2, Lease: lease}, wire.CodeNoCapacity)
	n.await("rid of the lease", func(s wire.NodeState) bool { return slices.Contains(s.Settled, lease) })

	close(hold)
	a := <-call
	n.wantBody(a, `"hold"`)
	if !a.Spent {
		t.Error("an instance of a node that drains takes another call")
	}
	n.await("rid of what was busy", func(s wire.NodeState) bool { return of(s, busy) == wire.VersionOnNode{Version: busy} && !s.Drained })
	n.mustKeep(wire.KeepRequest{Version: kept, Count: 0})
	n.await("drained", func(s wire.NodeState) bool { return s.Drained && s.Reserved == wire.Resources{} })

	order(t, n.id, wire.NodeOrder{})
	n.await("back", func(s wire.NodeState) bool { return !s.Draining && !s.Drained && stemsOf(s) > 0 })
	n.wantBody(n.cold(idle, `3`), `3`)
}

// TestStartsDraining: an order outlives the node's runs.
func TestStartsDraining(t *testing.T) {
	n := startNode(t, each(echo), withStems, func(c *Config, _ *Deps) {
		order(t, c.Node, wire.NodeOrder{Draining: true})
	})
	v := n.deploy()
	n.wantError(n.cold(v, `1`), wire.CodeNoCapacity, true, "draining")
	s := n.await("drained", func(s wire.NodeState) bool { return s.Drained })
	if !s.Draining || len(s.Versions) != 0 {
		t.Errorf("%+v", s)
	}
	if started := n.sandbox.Started(); started != 0 {
		t.Errorf("%d containers were started", started)
	}
}

// TestDrainedInstanceThatWasAskedFor: a deploy that has an instance started meanwhile hears
// that it starts.
func TestDrainedInstanceThatWasAskedFor(t *testing.T) {
	bound, let := make(chan struct{}), make(chan struct{})
	n := startNode(t, func(p *process) int {
		close(bound)
		<-let
		return each(echo)(p)
	})
	v := n.deploy()
	done := make(chan answer, 1)
	go func() {
		a, err := n.send(wire.InvokeRequest{Version: v, Lease: newLease(), Start: true}, nil)
		if err != nil {
			a.Error = wire.AsError(err)
		}
		done <- a
	}()
	<-bound
	order(t, n.id, wire.NodeOrder{Draining: true})
	n.await("draining, not drained", func(s wire.NodeState) bool { return s.Draining && !s.Drained })
	close(let)
	if a := <-done; a.Error != nil || !a.Spent {
		t.Errorf("%+v", a.InvokeReply)
	}
	n.await("drained", func(s wire.NodeState) bool { return s.Drained })
}

func TestUnreadableOrder(t *testing.T) {
	n := startNode(t, each(echo))
	n.inv.heardOrder(bus.Entry{Key: string(n.id), Value: []byte("nonsense")})
	v := n.deploy()
	n.wantBody(n.cold(v, `1`), `1`)
}

// TestOrdersAreWaitedFor: a node that does not learn what is wanted of it does not start.
func TestOrdersAreWaitedFor(t *testing.T) {
	t.Parallel()
	n := startNode(t, each(echo))
	n.stop(patience)
	asks := make(chan struct{}, 1)
	way := valve{held: func() {
		select {
		case asks <- struct{}{}:
		default:
		}
	}}
	cfg, deps := n.cfg, n.inv.deps
	cfg.Node += "-again"
	deps.Conn, deps.Metrics = way.connect(t), prometheus.NewRegistry()
	again := New(cfg, deps)
	way.shut()
	ctx, cancel := context.WithCancelCause(t.Context())
	started := make(chan error, 1)
	go func() { started <- again.Start(ctx) }()
	receive(t, asks)
	select {
	case err := <-started:
		t.Fatalf("it started: %v", err)
	default:
	}
	enough := errors.New("the start took long enough")
	cancel(enough)
	if err := receive(t, started); !errors.Is(err, enough) {
		t.Errorf("%v", err)
	}
}
