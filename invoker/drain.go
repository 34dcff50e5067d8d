package invoker

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/dayfly-run/dayfly/internal/bus"
	"github.com/dayfly-run/dayfly/internal/telemetry"
	"github.com/dayfly-run/dayfly/wire"
)

// followOrders learns what operators want of this node, now and from now on. When it
// returns, the node drains if it has to.
func (inv *Invoker) followOrders(ctx context.Context) error {
	bucket, err := inv.deps.Conn.Bucket(ctx, bus.BucketConfig{Name: wire.BucketNodes, MaxValueBytes: wire.MaxNodeOrder})
	if err != nil {
		return err
	}
	// Its own key only. A gateway in the same process watches all of them: that is a
	// reading more of `up`, where there is one node, and none of a cluster's nodes.
	known := make(chan struct{})
	stop, err := bucket.WatchKeys(inv.ctx, string(inv.cfg.Node), inv.heardOrder, func() { close(known) })
	if err != nil {
		return err
	}
	inv.loops.Go(func() {
		<-inv.ctx.Done()
		stop()
	})
	select {
	case <-known:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("learn what is wanted of node %s: %w", inv.cfg.Node, context.Cause(ctx))
	}
}

func (inv *Invoker) heardOrder(e bus.Entry) {
	var order wire.NodeOrder // none, where it was taken back
	if !e.Deleted {
		if err := json.Unmarshal(e.Value, &order); err != nil {
			inv.log.Warn("order ignored", telemetry.KeyError, err)
			return
		}
	}
	inv.setDraining(order.Draining)
}

// setDraining has the node take nothing new and let what it has end, or work again as
// before. What it keeps it goes on serving with, until it is told to keep less.
func (inv *Invoker) setDraining(on bool) {
	inv.mu.Lock()
	if inv.draining == on || inv.stopping {
		inv.mu.Unlock()
		return
	}
	inv.draining = on
	for _, k := range inv.kept { // nothing is started for these
		for ; on && len(k.leases) > 0; k.leases = k.leases[1:] {
			inv.settleLocked(k.leases[0])
		}
	}
	inv.mu.Unlock()
	inv.stems.drain(on)
	inv.tendSoon()
	inv.report()
	if on {
		inv.log.Info("draining: nothing new is taken")
	} else {
		inv.log.Info("draining no more")
	}
}

// leaves reports whether instances of a version take no further event, as the node gives
// them up.
func (inv *Invoker) leaves(v wire.VersionID) bool {
	inv.mu.Lock()
	defer inv.mu.Unlock()
	return inv.leavesLocked(v)
}

// leavesLocked is leaves for who holds inv.mu.
func (inv *Invoker) leavesLocked(v wire.VersionID) bool {
	return inv.stopping || inv.draining && inv.pool.Kept(v) == 0
}

// drains is what is answered to who asks for more than a draining node gives; others may
// have it.
func (inv *Invoker) drains() *wire.Error {
	return wire.Errorf(wire.CodeNoCapacity, "node %s is draining", inv.cfg.Node)
}

// offer puts into a state that has all else what the node gives while it drains; inv.mu
// is held.
func (inv *Invoker) offer(s *wire.NodeState) {
	if s.Draining = inv.draining; !s.Draining {
		return
	}
	for i, v := range s.Versions {
		if inv.leavesLocked(v.Version) {
			s.Versions[i].Slots = 0
		}
	}
	s.Drained = s.Reserved.Instances == 0 && len(inv.aheads) == 0 && inv.underWay.none() && !inv.stems.some()
}
