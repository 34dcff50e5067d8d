package dispatch

import (
	"time"

	"github.com/dayfly-run/dayfly/internal/bus"
	"github.com/dayfly-run/dayfly/internal/roster"
	"github.com/dayfly-run/dayfly/internal/telemetry"
	"github.com/dayfly-run/dayfly/wire"
)

// NodeView is a node as it was last heard.
type NodeView struct {
	wire.NodeState
	LastSeen time.Time `json:"lastSeen"`
	// DriftMillis is how far the node's clock is ahead of ours, less what its last word
	// took to get here.
	DriftMillis int64 `json:"driftMillis,omitempty"`
	// Incompatible says that we do not speak the node's protocol: it gets nothing to do.
	Incompatible bool `json:"incompatible,omitempty"`
}

// heard takes a node's word.
func (d *Dispatcher) heard(m bus.Msg) {
	defer d.hearing.Heard()
	id, word, err := roster.Word(m.Subject, m.Data)
	if err != nil {
		d.log.Warn("node state refused", "subject", m.Subject, telemetry.KeyError, err)
		return
	}
	if !d.admission.hear(id, word, time.Now()) {
		return
	}
	if err := d.conn.Publish(wire.NodeAskSubject(id), nil); err != nil {
		d.log.Warn("a node was not asked for its state", telemetry.KeyNode, string(id), telemetry.KeyError, err)
	}
}

// hear takes a node's word, and reports whether the node is to be asked for all of its
// state.
func (a *admission) hear(id wire.NodeID, w wire.NodeWord, now time.Time) (ask bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	h := a.words.Hear(id, w, now)
	switch h.News {
	case roster.Changed:
		a.apply(*h.State, now)
	case roster.Beat:
		if a.routes.beat(h.State, h.At, true, now) {
			a.settleChanged(now)
		} else { // it was given up meanwhile
			a.apply(*h.State, now)
		}
	case roster.Missed:
		a.routes.beat(h.State, h.At, false, now)
	case roster.Nothing:
	}
	return h.Ask
}

// apply takes a node's state; a.mu is held.
func (a *admission) apply(s wire.NodeState, now time.Time) {
	roomier := a.routes.apply(s, now)
	a.settleChanged(now)
	if roomier {
		a.nudge(now)
	}
}

// view is a node as others see it; its admission's mu is held.
func (n *node) view() NodeView {
	return NodeView{
		NodeState: n.state, LastSeen: n.lastSeen, DriftMillis: n.drift.Milliseconds(), Incompatible: !wire.Speaks(n.state.Protocol),
	}
}

// nodes lists the nodes that live.
func (a *admission) nodes() []NodeView {
	a.mu.Lock()
	defer a.mu.Unlock()
	list := make([]NodeView, 0, len(a.routes.nodes))
	for _, n := range a.routes.nodes {
		list = append(list, n.view())
	}
	return list
}

func (a *admission) node(id wire.NodeID) (view NodeView, lives bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	n, lives := a.routes.nodes[id]
	if lives {
		view = n.view()
	}
	return view, lives
}

func (a *admission) anyNode(holds func(NodeView) bool) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, n := range a.routes.nodes {
		if holds(n.view()) {
			return true
		}
	}
	return false
}
