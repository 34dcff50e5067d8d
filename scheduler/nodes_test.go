package scheduler

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/dayfly-run/dayfly/wire"
)

const (
	mib = int64(1) << 20
	gib = int64(1) << 30
)

var epochStart = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

func newTestTable() *nodeTable { return newNodeTable(rand.New(rand.NewPCG(1, 2))) }

func resizeVersion() wire.VersionID {
	return wire.VersionID{FunctionID: wire.FunctionID{Namespace: wire.DefaultNamespace, Name: "resize"}, Number: 3}
}

// oneInstance asks for 128 MiB and half a core.
func oneInstance() wire.PlaceRequest {
	return wire.PlaceRequest{
		Version: resizeVersion(), Runtime: "python", Stem: "python/egress",
		Needs: wire.Resources{MemoryBytes: 128 * mib, CPUMillis: 500, Instances: 1}, Protocol: wire.Protocol,
	}
}

// stemsReady is how many stems of the usual kind an empty node has.
const stemsReady = 2

// stateOf is an empty node of 1 GiB, 4 cores and 100 instances.
func stateOf(id wire.NodeID, run string, seq uint64) wire.NodeState {
	return wire.NodeState{
		Node: id, Run: run, Seq: seq, Protocol: wire.Protocol, Runtimes: []string{"python"},
		Capacity: wire.Resources{MemoryBytes: gib, CPUMillis: 4000, Instances: 100},
		Stems:    map[string]int{"python/egress": stemsReady},
	}
}

func mustReport(t *testing.T, table *nodeTable, st wire.NodeState, now time.Time) change {
	t.Helper()
	what, err := table.report(st, now)
	if err != nil {
		t.Fatalf("report: %v", err)
	}
	return what
}

func mustPlace(t *testing.T, table *nodeTable, id wire.LeaseID, now time.Time) wire.NodeID {
	t.Helper()
	node, err := table.place(oneInstance(), id, false, now)
	if err != nil {
		t.Fatalf("place: %v", err)
	}
	return node
}

// reservedMemory is what node a has reserved, in MiB.
func reservedMemory(t *testing.T, table *nodeTable) int64 {
	t.Helper()
	n, ok := table.snapshot.Node("a")
	if !ok {
		t.Fatal("node a is not known")
	}
	return n.Reserved.MemoryBytes / mib
}

func TestReportChanges(t *testing.T) {
	table, now := newTestTable(), epochStart
	stopping := func(run string, seq uint64) wire.NodeState {
		st := stateOf("a", run, seq)
		st.Stopping = true
		return st
	}
	for i, step := range []struct {
		st    wire.NodeState
		want  change
		nodes int
	}{
		{stopping("r1", 1), ignored, 0},
		{stateOf("a", "r1", 5), joined, 1},
		{stateOf("a", "r1", 6), updated, 1},
		{stateOf("a", "r1", 6), ignored, 1},
		{stateOf("a", "r1", 4), ignored, 1},
		{stateOf("a", "r2", 1), restarted, 1},
		{stopping("r1", 7), ignored, 1},
		{stopping("r2", 2), left, 0},
		{stateOf("a", "r3", 1), joined, 1},
	} {
		if got := mustReport(t, table, step.st, now); got != step.want || table.len() != step.nodes {
			t.Errorf("step %d: change %d with %d nodes, want %d with %d", i, got, table.len(), step.want, step.nodes)
		}
	}
}

func TestReportRefusesNonsense(t *testing.T) {
	for name, spoil := range map[string]func(*wire.NodeState){
		"no node":            func(st *wire.NodeState) { st.Node = "" },
		"no run":             func(st *wire.NodeState) { st.Run = "" },
		"negative capacity":  func(st *wire.NodeState) { st.Capacity.CPUMillis = -1 },
		"negative reserved":  func(st *wire.NodeState) { st.Reserved.MemoryBytes = -1 },
		"negative idle":      func(st *wire.NodeState) { st.Idle.Instances = -1 },
		"negative kept":      func(st *wire.NodeState) { st.Versions = []wire.VersionOnNode{{Kept: -1}} },
		"negative instances": func(st *wire.NodeState) { st.Versions = []wire.VersionOnNode{{Idle: -1}} },
	} {
		t.Run(name, func(t *testing.T) {
			table, st := newTestTable(), stateOf("a", "r", 1)
			spoil(&st)
			if what, err := table.report(st, epochStart); err == nil || what != ignored || table.len() != 0 {
				t.Errorf("report = %d, %v with %d nodes", what, err, table.len())
			}
		})
	}
}

func TestLeaseCountsUntilSettled(t *testing.T) {
	table, now := newTestTable(), epochStart
	mustReport(t, table, stateOf("a", "r", 1), now)
	mustPlace(t, table, "l1", now)
	mustPlace(t, table, "l2", now)
	if got := reservedMemory(t, table); got != 256 {
		t.Errorf("%d MiB reserved after two leases, want 256", got)
	}

	mustReport(t, table, stateOf("a", "r", 2), now) // settles nothing
	if got := reservedMemory(t, table); got != 256 {
		t.Errorf("%d MiB reserved after a heartbeat, want 256", got)
	}

	started := stateOf("a", "r", 3)
	started.Reserved = oneInstance().Needs
	started.Versions = []wire.VersionOnNode{{Version: resizeVersion(), Starting: 1}}
	started.Settled = []wire.LeaseID{"l1", "unknown"}
	mustReport(t, table, started, now)
	if got := reservedMemory(t, table); got != 256 || table.leases() != 1 {
		t.Errorf("%d MiB and %d leases after one is settled, want 256 and 1", got, table.leases())
	}
	if n, _ := table.snapshot.Node("a"); n.Versions[resizeVersion()] != 2 {
		t.Errorf("%d instances, want 2", n.Versions[resizeVersion()])
	}

	givenBack := stateOf("a", "r", 4)
	givenBack.Settled = []wire.LeaseID{"l1", "l2"}
	mustReport(t, table, givenBack, now)
	if got := reservedMemory(t, table); got != 0 || table.leases() != 0 {
		t.Errorf("%d MiB and %d leases at the end, want none", got, table.leases())
	}
}

// TestBurstSpreadsOverStems has fewer stems than calls: what a lease takes counts
// until the node settled it.
func TestBurstSpreadsOverStems(t *testing.T) {
	table, now := newTestTable(), epochStart
	for id, n := range map[wire.NodeID]int{"a": 1, "b": 2, "c": 0} {
		st := stateOf(id, "r", 1)
		st.Stems = map[string]int{"python/egress": n}
		mustReport(t, table, st, now)
	}
	taken := map[wire.NodeID]int{}
	for i := range 3 {
		taken[mustPlace(t, table, wire.LeaseID(fmt.Sprint("l", i)), now)]++
	}
	if taken["a"] != 1 || taken["b"] != 2 {
		t.Errorf("three calls went to %v; a has one stem and b two", taken)
	}
	again := stateOf("b", "r", 2) // said before the calls arrived
	again.Stems["other"] = 1
	mustReport(t, table, again, now)
	if n, _ := table.snapshot.Node("b"); n.Stems["python/egress"] != 0 || n.Stems["other"] != 1 || again.Stems["python/egress"] != 2 {
		t.Errorf("after b's word %v stems are left; the word says %v", n.Stems, again.Stems)
	}
}

func TestLeaseExpires(t *testing.T) {
	table, now := newTestTable(), epochStart
	mustReport(t, table, stateOf("a", "r", 1), now)
	mustPlace(t, table, "l1", now)
	for seq := range uint64(wire.LeaseTTL / time.Second) {
		now = now.Add(time.Second)
		mustReport(t, table, stateOf("a", "r", seq+2), now)
		if lost, expired := table.sweep(now.Add(-1-wire.NodeLostAfter), now.Add(-1)); len(lost)+expired > 0 {
			t.Fatalf("%s after the lease: lost %v, %d expired", now.Sub(epochStart), lost, expired)
		}
	}
	if _, expired := table.sweep(now.Add(-wire.NodeLostAfter), now); expired != 1 || reservedMemory(t, table) != 0 {
		t.Errorf("%d leases expired, %d MiB reserved", expired, reservedMemory(t, table))
	}
}

func TestMaxInstancesCountsLeases(t *testing.T) {
	table, now := newTestTable(), epochStart
	mustReport(t, table, stateOf("a", "r", 1), now)
	r := oneInstance()
	r.MaxInstances = 1
	if _, err := table.place(r, "l1", false, now); err != nil {
		t.Fatalf("first: %v", err)
	}
	if _, err := table.place(r, "l2", false, now); err == nil || err.Code != wire.CodeThrottled {
		t.Errorf("second: %v, want throttled", err)
	}
}

func TestLostNode(t *testing.T) {
	table, now := newTestTable(), epochStart
	mustReport(t, table, stateOf("a", "r", 1), now)
	mustPlace(t, table, "l1", now)
	if lost, _ := table.sweep(now, now.Add(wire.NodeLostAfter)); len(lost) != 0 {
		t.Fatalf("lost %v while it may still be heard", lost)
	}
	now = now.Add(wire.NodeLostAfter + 1)
	if _, err := table.place(oneInstance(), "l2", false, now); err == nil || err.Code != wire.CodeNoCapacity {
		t.Errorf("placed on a silent node: %v", err)
	}
	lost, _ := table.sweep(now.Add(-wire.NodeLostAfter), now)
	if len(lost) != 1 || lost[0].node != "a" || table.len() != 0 {
		t.Fatalf("lost %v, %d nodes", lost, table.len())
	}

	t.Run("back in the same run, its lease counts", func(t *testing.T) {
		mustReport(t, table, stateOf("a", "r", 9), now)
		if got := reservedMemory(t, table); got != 128 {
			t.Errorf("%d MiB reserved, want 128", got)
		}
	})
	t.Run("another run has no part in it", func(t *testing.T) {
		mustReport(t, table, stateOf("a", "r2", 1), now)
		if got := reservedMemory(t, table); got != 0 || table.leases() != 0 {
			t.Errorf("%d MiB reserved, %d leases, want none", got, table.leases())
		}
	})
}

// history is the plain account of what the table was told, and what follows.
type history struct {
	now    time.Time
	grants []*grant
	last   map[wire.NodeID]*wire.NodeState // the newest that counts; nil once gone
	seen   map[wire.NodeID]time.Time
}

type grant struct {
	id   wire.LeaseID
	call wire.InvocationID
	node wire.NodeID
	run  string
	at   time.Time
	over bool // settled, expired, or its run ended
}

func (h *history) hear(st wire.NodeState) {
	last := h.last[st.Node]
	if last != nil && (st.Run == last.Run && st.Seq <= last.Seq && !st.Stopping || st.Stopping && st.Run != last.Run) {
		return
	}
	for _, g := range h.grants {
		if g.node != st.Node {
			continue
		}
		for _, id := range st.Settled {
			g.over = g.over || id == g.id && !st.Stopping
		}
		g.over = g.over || st.Stopping && g.run == st.Run || !st.Stopping && g.run != st.Run
	}
	if st.Stopping {
		delete(h.last, st.Node)
		return
	}
	h.last[st.Node], h.seen[st.Node] = &st, h.now
}

func (h *history) sweep() {
	for id, at := range h.seen {
		if h.now.Sub(at) > wire.NodeLostAfter {
			delete(h.last, id)
		}
	}
	for _, g := range h.grants {
		g.over = g.over || h.now.Sub(g.at) >= wire.LeaseTTL
	}
}

func (h *history) check(t *rapid.T, table *nodeTable) {
	outstanding := 0
	sums := map[wire.NodeID]wire.Resources{}
	counts, leased := map[wire.NodeID]int{}, map[wire.NodeID]int{}
	for id, st := range h.last {
		sums[id] = st.Reserved
		counts[id] = st.Reserved.Instances
	}
	for _, g := range h.grants {
		if !g.over {
			outstanding++
			sums[g.node] = sums[g.node].Plus(oneInstance().Needs)
			counts[g.node]++
			leased[g.node]++
		}
	}
	if table.leases() != outstanding || table.len() != len(h.last) {
		t.Fatalf("%d leases on %d nodes, want %d on %d", table.leases(), table.len(), outstanding, len(h.last))
	}
	for call, at := range table.calls {
		if l, ok := table.outstanding[at.node][at.lease]; !ok || l.call != call {
			t.Fatalf("call %s has the lease %s, which is not outstanding", call, at.lease)
		}
	}
	for id := range h.last {
		n, ok := table.snapshot.Node(id)
		if !ok {
			t.Fatalf("node %s is not in the snapshot", id)
		}
		if !(wire.Resources{}).Fits(wire.Resources{}.Minus(n.Reserved)) {
			t.Fatalf("node %s has %+v reserved", id, n.Reserved)
		}
		if n.Reserved != sums[id] || n.Versions[resizeVersion()] != counts[id] {
			t.Fatalf("node %s has %+v reserved and %d instances, want %+v and %d",
				id, n.Reserved, n.Versions[resizeVersion()], sums[id], counts[id])
		}
		if got, want := n.Stems["python/egress"], stemsReady-leased[id]; got != want {
			t.Fatalf("node %s has %d stems left, want %d", id, got, want)
		}
	}
}

// machine is a node as it really is.
type machine struct {
	id        wire.NodeID
	run, seq  int
	instances int
	settled   []wire.LeaseID
}

func (m *machine) state() wire.NodeState {
	m.seq++
	st := stateOf(m.id, fmt.Sprint("run", m.run), uint64(m.seq))
	need := oneInstance().Needs
	for range m.instances {
		st.Reserved = st.Reserved.Plus(need)
	}
	if m.instances > 0 {
		st.Versions = []wire.VersionOnNode{{Version: resizeVersion(), Busy: m.instances}}
	}
	st.Settled = append([]wire.LeaseID(nil), m.settled...)
	return st
}

// TestLeaseCountsOnce lets nodes start and end instances, report, repeat old
// reports, fall silent, stop and restart, and compares the sums with a plain
// account after every step.
func TestLeaseCountsOnce(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		table := newTestTable()
		h := &history{now: epochStart, last: map[wire.NodeID]*wire.NodeState{}, seen: map[wire.NodeID]time.Time{}}
		machines := []*machine{{id: "a"}, {id: "b"}, {id: "c"}}
		var sent []wire.NodeState
		deliver := func(st wire.NodeState) {
			if _, err := table.report(st, h.now); err != nil {
				t.Fatalf("report: %v", err)
			}
			h.hear(st)
		}
		calls := rapid.SampledFrom([]wire.InvocationID{"", "c1", "c2", "c3"})
		pick := func(t *rapid.T) *machine { return rapid.SampledFrom(machines).Draw(t, "machine") }
		t.Repeat(map[string]func(*rapid.T){
			"": func(t *rapid.T) { h.check(t, table) },
			"place": func(t *rapid.T) {
				id, r := wire.LeaseID(fmt.Sprint("lease", len(h.grants))), oneInstance()
				r.Invocation = calls.Draw(t, "call")
				node, err := table.place(r, id, false, h.now)
				if err != nil {
					return
				}
				h.grants = append(h.grants, &grant{id: id, call: r.Invocation, node: node, run: h.last[node].Run, at: h.now})
			},
			"give back": func(t *rapid.T) {
				call := calls.Draw(t, "call")
				table.giveBackOf(call)
				for _, g := range slices.Backward(h.grants) {
					if g.call == call && call != "" {
						g.over = true
						break
					}
				}
			},
			"settle": func(t *rapid.T) {
				if len(h.grants) == 0 {
					return
				}
				g := rapid.SampledFrom(h.grants).Draw(t, "lease")
				for _, m := range machines {
					if m.id == g.node && fmt.Sprint("run", m.run) == g.run {
						m.settled = append(m.settled, g.id)
						m.instances += rapid.IntRange(0, 1).Draw(t, "started")
					}
				}
			},
			"end instance": func(t *rapid.T) {
				m := pick(t)
				m.instances = max(m.instances-1, 0)
			},
			"report": func(t *rapid.T) {
				st := pick(t).state()
				sent = append(sent, st)
				deliver(st)
			},
			"lose a report": func(t *rapid.T) { pick(t).state() },
			"repeat a report": func(t *rapid.T) {
				if len(sent) > 0 {
					deliver(rapid.SampledFrom(sent).Draw(t, "old"))
				}
			},
			"stop": func(t *rapid.T) {
				st := pick(t).state()
				st.Stopping = true
				deliver(st)
			},
			"restart": func(t *rapid.T) {
				m := pick(t)
				*m = machine{id: m.id, run: m.run + 1}
			},
			"wait": func(t *rapid.T) {
				h.now = h.now.Add(time.Duration(rapid.IntRange(1, 6000).Draw(t, "millis")) * time.Millisecond)
				table.sweep(h.now.Add(-wire.NodeLostAfter), h.now)
				h.sweep()
			},
		})
	})
}
