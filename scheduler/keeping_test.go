package scheduler_test

import (
	"context"
	"encoding/json"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/dayfly-run/dayfly/functions"
	"github.com/dayfly-run/dayfly/functions/registry"
	"github.com/dayfly-run/dayfly/internal/bus"
	"github.com/dayfly-run/dayfly/internal/embed/embedtest"
	"github.com/dayfly-run/dayfly/wire"
)

var resize = wire.FunctionID{Namespace: "default", Name: "resize"}

func version(n int) wire.VersionID { return wire.VersionID{FunctionID: resize, Number: n} }

// keepingNode is a node that keeps what it is told, at once.
type keepingNode struct {
	*node
	mu sync.Mutex // guards what follows
	// refuses is what it answers instead, slow keeps instances from getting ready.
	refuses *wire.Error
	slow    bool
	epoch   uint64
	taken   []wire.KeepRequest
}

func startKeepingNode(tb testing.TB, conn *bus.Conn, id wire.NodeID) *keepingNode {
	tb.Helper()
	n := &keepingNode{node: startNode(tb, conn, id)}
	sub, err := conn.Subscribe(wire.NodeControlSubject(id), "", func(m bus.Msg) {
		var req wire.KeepRequest
		if err := json.Unmarshal(m.Data, &req); err != nil {
			tb.Error(err)
			return
		}
		data, err := json.Marshal(wire.KeepReply{Error: n.take(tb, req)})
		if err == nil {
			err = m.Respond(data)
		}
		if err != nil {
			tb.Error(err)
		}
	})
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { sub.Stop(conn) })
	return n
}

func (n *keepingNode) take(tb testing.TB, req wire.KeepRequest) *wire.Error {
	tb.Helper()
	n.mu.Lock()
	defer n.mu.Unlock()
	if req.Epoch < n.epoch {
		tb.Errorf("a command of epoch %d after %d", req.Epoch, n.epoch)
	}
	n.epoch = req.Epoch
	if n.refuses != nil {
		return n.refuses
	}
	n.taken = append(n.taken, req)
	n.report(tb, func(st *wire.NodeState) {
		st.Versions = slices.DeleteFunc(slices.Clone(st.Versions), func(v wire.VersionOnNode) bool { return v.Version == req.Version })
		v := wire.VersionOnNode{Version: req.Version, Idle: req.Count, Kept: req.Count}
		if n.slow {
			v.Idle, v.Starting = 0, req.Count
		}
		if req.Count > 0 {
			st.Versions = append(st.Versions, v)
		}
		if req.Lease != "" {
			st.Settled = append(slices.Clone(st.Settled), req.Lease)
		}
	})
	return nil
}

// becomesReady ends a slow start.
func (n *keepingNode) becomesReady(tb testing.TB) {
	tb.Helper()
	n.report(tb, func(st *wire.NodeState) {
		st.Versions = slices.Clone(st.Versions)
		for i, v := range st.Versions {
			st.Versions[i].Idle, st.Versions[i].Starting = v.Idle+v.Starting, 0
		}
	})
}

func (n *keepingNode) set(change func(*keepingNode)) {
	n.mu.Lock()
	defer n.mu.Unlock()
	change(n)
}

func (n *keepingNode) commands() int {
	n.mu.Lock()
	defer n.mu.Unlock()
	return len(n.taken)
}

func (n *keepingNode) kept(v wire.VersionID) int {
	n.node.mu.Lock()
	defer n.node.mu.Unlock()
	for _, on := range n.state.Versions {
		if on.Version == v {
			return on.Kept
		}
	}
	return 0
}

// functionsOf starts a registry and its cache.
func functionsOf(tb testing.TB, conn *bus.Conn) (*registry.Registry, *registry.Cache) {
	tb.Helper()
	r, err := registry.Open(tb.Context(), conn)
	if err != nil {
		tb.Fatal(err)
	}
	c := registry.NewCache(r, quiet())
	if err := c.Start(tb.Context()); err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := c.Stop(context.Background()); err != nil {
			tb.Error(err)
		}
	})
	return r, c
}

func deploy(tb testing.TB, r *registry.Registry, least int) {
	tb.Helper()
	spec := functions.Spec{
		Runtime: functions.RuntimePython, Network: functions.NetworkEgress, MemoryBytes: 64 * mib, CPUMillis: 100,
		MinInstances: least, MaxInstances: 5,
	}
	code := functions.Artifact{Code: wire.Digest(strings.Repeat("0a", 32)), CodeBytes: 1}
	if _, err := r.Deploy(tb.Context(), resize, spec, code, time.Now()); err != nil {
		tb.Fatal(err)
	}
}

func TestKeepsInstances(t *testing.T) {
	server := startNATS(t)
	conn := connect(t, server)
	known, cache := functionsOf(t, connect(t, server))
	a, b := startKeepingNode(t, conn, "a"), startKeepingNode(t, conn, "b")
	keep := func(v wire.VersionID) [2]int { return [2]int{a.kept(v), b.kept(v)} }
	s := startKeeping(t, server, cache)
	embedtest.Eventually(t, "ready", ready(s))

	deploy(t, known, 3)
	embedtest.Eventually(t, "three are kept on two nodes", func() bool { k := keep(version(1)); return k == [2]int{1, 2} || k == [2]int{2, 1} })
	embedtest.Eventually(t, "the leases are settled and nothing is missing", func() bool {
		return s.metric(t, "dayfly_scheduler_leases") == 0 && s.metric(t, "dayfly_scheduler_keep_missing") == 0
	})
	if got := s.metric(t, "dayfly_scheduler_keep_wanted"); got != 3 {
		t.Errorf("%v instances wanted, want 3", got)
	}

	// The new version's instances take their time: the old ones stay as long.
	a.set(func(n *keepingNode) { n.slow = true })
	b.set(func(n *keepingNode) { n.slow = true })
	deploy(t, known, 2)
	embedtest.Eventually(t, "the new version is kept", func() bool { return keep(version(2)) == [2]int{1, 1} })
	embedtest.Eventually(t, "of the old one as many as the new one wants", func() bool { k := keep(version(1)); return k[0]+k[1] == 2 })
	a.becomesReady(t)
	embedtest.Eventually(t, "one stands in", func() bool { k := keep(version(1)); return k[0]+k[1] == 1 })
	b.becomesReady(t)
	embedtest.Eventually(t, "the old version is given up", func() bool { return keep(version(1)) == [2]int{} })

	if _, err := known.Delete(t.Context(), resize, time.Now()); err != nil {
		t.Fatal(err)
	}
	embedtest.Eventually(t, "nothing of what was deleted is kept", func() bool { return keep(version(2)) == [2]int{} })
}

func TestKeepsInstancesWhenNodesGo(t *testing.T) {
	server := startNATS(t)
	conn := connect(t, server)
	known, cache := functionsOf(t, connect(t, server))
	deploy(t, known, 2)
	a, b := startKeepingNode(t, conn, "a"), startKeepingNode(t, conn, "b")
	b.set(func(n *keepingNode) { n.refuses = wire.Errorf(wire.CodeInternal, "no") })
	s := startKeeping(t, server, cache)
	embedtest.Eventually(t, "both are kept where they are not refused", func() bool { return a.kept(version(1)) == 2 })

	a.report(t, func(st *wire.NodeState) { st.Run, st.Seq, st.Versions, st.Settled = "second run", 0, nil, nil })
	embedtest.Eventually(t, "they are kept again after a restart", func() bool { return a.kept(version(1)) == 2 })

	b.set(func(n *keepingNode) { n.refuses = nil })
	a.report(t, func(st *wire.NodeState) { st.Draining, st.Versions = true, nil })
	embedtest.Eventually(t, "a draining node is left", func() bool { return b.kept(version(1)) == 2 })

	b.silence()
	c := startKeepingNode(t, conn, "c")
	embedtest.Eventually(t, "a lost node is replaced", func() bool { return c.kept(version(1)) == 2 })
	embedtest.Eventually(t, "nothing is missing", func() bool { return s.metric(t, "dayfly_scheduler_keep_missing") == 0 })

	// It was only cut off. What it keeps in the run that was given up counts for nothing,
	// and in the next one it keeps nothing.
	fences := fencesOf(t, conn, "b")
	before := c.commands()
	b.report(t, nil)
	embedtest.Receive(t, fences)
	b.report(t, func(st *wire.NodeState) { st.Run, st.Versions = "after", nil })
	embedtest.Eventually(t, "the node is back", func() bool { return s.metric(t, "dayfly_scheduler_nodes") == 3 })
	if b.kept(version(1)) != 0 || c.kept(version(1)) != 2 || c.commands() != before {
		t.Errorf("%d are kept where it was cut off, %d elsewhere after %d more commands", b.kept(version(1)), c.kept(version(1)), c.commands()-before)
	}
}

// TestNewLeaderKeepsWhatIsKept: the commands of an earlier reign are not repeated, and
// those of the new one have its epoch.
func TestNewLeaderKeepsWhatIsKept(t *testing.T) {
	server := startNATS(t)
	conn := connect(t, server)
	known, cache := functionsOf(t, connect(t, server))
	deploy(t, known, 2)
	a := startKeepingNode(t, conn, "a")
	first, second := startKeeping(t, server, cache), startKeeping(t, server, cache)
	embedtest.Eventually(t, "both are kept", func() bool { return a.kept(version(1)) == 2 })
	leader, standby := first, second
	if second.leads(t) {
		leader, standby = second, first
	}
	before := a.commands()
	var epoch uint64
	a.set(func(n *keepingNode) { epoch = n.epoch })
	if err := leader.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	embedtest.Eventually(t, "the other one looked after them", func() bool { return standby.metric(t, "dayfly_scheduler_keep_wanted") == 2 })
	if got := leader.metric(t, "dayfly_scheduler_keep_wanted"); got != 0 {
		t.Errorf("who no longer leads wants %v instances", got)
	}
	deploy(t, known, 1)
	embedtest.Eventually(t, "the next version is kept instead", func() bool { return a.kept(version(2)) == 1 && a.kept(version(1)) == 0 })
	a.set(func(n *keepingNode) {
		if n.epoch <= epoch {
			t.Errorf("epoch %d after %d", n.epoch, epoch)
		}
		for _, c := range n.taken[before:] {
			if c.Version == version(1) && c.Count >= 2 {
				t.Errorf("told again what it kept already: %+v", c)
			}
		}
	})
}
