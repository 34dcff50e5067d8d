package scheduler

import (
	"container/list"
	"log/slog"
	"time"

	"github.com/dayfly-run/dayfly/internal/bus"
	"github.com/dayfly-run/dayfly/internal/roster"
	"github.com/dayfly-run/dayfly/internal/telemetry"
	"github.com/dayfly-run/dayfly/wire"
)

// hear takes a node's word.
func (s *Scheduler) hear(m bus.Msg) {
	defer s.hearing.Heard()
	id, word, err := roster.Word(m.Subject, m.Data)
	if err != nil {
		s.log.Warn("node state ignored", "subject", m.Subject, telemetry.KeyError, err)
		return
	}
	now := time.Now()
	s.mu.Lock()
	heard := s.words.Hear(id, word, now)
	run, last := word.RunAndEnd()
	of := runOf{id, run}
	if over, tell := s.fences.hear(of, s.election.otherLeads, now); over {
		r := s.fences.reign
		s.mu.Unlock()
		if tell && !last {
			s.fence(of, r)
		}
		return
	}
	before := s.nodes.keeps
	change, err := s.nodes.take(heard, now)
	kept := s.nodes.keeps != before
	build, protocol := "", 0
	if heard.State != nil {
		build, protocol = heard.State.Build, heard.State.Protocol
	}
	s.mu.Unlock()
	if heard.Ask {
		s.askNode(id)
	}
	if kept {
		s.wakeKeeper()
	}
	node := slog.String(telemetry.KeyNode, string(id))
	switch {
	case err != nil:
		s.log.Warn("node state ignored", node, slog.Any(telemetry.KeyError, err))
	case change == joined:
		s.log.Info("node joined", node, slog.String("build", build))
	case change == restarted:
		s.log.Info("node restarted", node, slog.String("build", build))
	case change == left:
		s.log.Info("node left", node)
	}
	if (change == joined || change == restarted) && !wire.Speaks(protocol) {
		s.log.Warn("the node gets nothing to do: its protocol is unknown here; upgrade the older of the two",
			node, slog.String("build", build), slog.Int("protocol", protocol), slog.Int("ours", wire.Protocol))
	}
}

// askNode asks one node for all of its state.
func (s *Scheduler) askNode(id wire.NodeID) {
	if err := s.deps.Conn.Publish(wire.NodeAskSubject(id), nil); err != nil {
		s.log.Warn("a node was not asked for its state", telemetry.KeyNode, string(id), telemetry.KeyError, err)
	}
}

// take takes what is known of a node after a word.
func (t *nodeTable) take(h roster.Heard, now time.Time) (change, error) {
	switch h.News {
	case roster.Changed:
		return t.report(*h.State, now)
	case roster.Beat:
		if !t.beat(h.State, now) { // it was given up meanwhile
			return t.report(*h.State, now)
		}
	case roster.Missed:
		t.beat(h.State, now)
	case roster.Nothing:
	}
	return ignored, nil
}

// beat notes that a node lives whose state is known, but for its load. It reports whether
// the run is known.
func (t *nodeTable) beat(st *wire.NodeState, now time.Time) bool {
	known := t.nodes[st.Node]
	if known == nil || known.run != st.Run {
		return false
	}
	known.seq = max(known.seq, st.Seq)
	t.heard(st.Node, known, now)
	if known.stale {
		known.stale = false
		t.snapshot.Put(t.sum(*st, now))
		return true
	}
	return t.snapshot.Touch(st.Node, now, st.Load)
}

// heard notes when a node was heard last.
func (t *nodeTable) heard(id wire.NodeID, n *node, now time.Time) {
	n.lastSeen = now
	if n.place == nil {
		n.place = t.order.PushBack(id)
		return
	}
	t.order.MoveToBack(n.place)
}

// silent lists the nodes that were last heard before a moment; it looks at no others.
func (t *nodeTable) silent(before time.Time) (lost []lostNode) {
	for e := t.order.Front(); e != nil; e = e.Next() {
		id := nodeAt(e)
		n := t.nodes[id]
		if !n.lastSeen.Before(before) {
			break
		}
		lost = append(lost, lostNode{runOf{id, n.run}, n.lastSeen})
	}
	return lost
}

// heardSince counts the nodes that were heard at that time or later.
func (t *nodeTable) heardSince(at time.Time) (n int) {
	for e := t.order.Back(); e != nil && !t.nodes[nodeAt(e)].lastSeen.Before(at); e = e.Prev() {
		n++
	}
	return n
}

func nodeAt(e *list.Element) wire.NodeID {
	return e.Value.(wire.NodeID) //nolint:forcetypeassert // nothing else is in it
}

// drains says that a node gets nothing new: it drains, or speaks another language.
func drains(st *wire.NodeState) bool { return st.Draining || !wire.Speaks(st.Protocol) }
