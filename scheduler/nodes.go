package scheduler

import (
	"container/list"
	"fmt"
	"maps"
	"math/rand/v2"
	"time"

	"github.com/dayfly-run/dayfly/scheduler/placement"
	"github.com/dayfly-run/dayfly/wire"
)

// maxNodes bounds the table.
const maxNodes = 100_000

// nodeTable is what is known of the nodes, and the leases given on them. It has
// no clock: all times given to it come from the same one, which does not go
// backwards. It is not safe for concurrent use.
type nodeTable struct {
	rnd      *rand.Rand
	snapshot *placement.Snapshot
	nodes    map[wire.NodeID]*node
	order    list.List // of their IDs, the longest silent first
	// outstanding holds the leases that are neither settled nor expired. It
	// outlives a node that is lost: one that comes back in the same run may still
	// get the calls.
	outstanding map[wire.NodeID]map[wire.LeaseID]lease
	count       int // of outstanding leases
	// calls has the outstanding lease of each call, its last.
	calls map[wire.InvocationID]placed
	// expiring lists all leases of the last [wire.LeaseTTL], oldest first, those
	// that were settled meanwhile included.
	expiring []expiry

	// holders says which nodes keep instances of a version, draining ones included.
	holders map[wire.VersionID]map[wire.NodeID]standing
	// keeps grows whenever holders changes or a node comes or goes.
	keeps uint64
	// lastRoom is when a node came last or kept less than before: there may be room
	// that there was not.
	lastRoom time.Time
}

type node struct {
	run      string
	seq      uint64
	lastSeen time.Time
	place    *list.Element // in order
	draining bool
	// stale says that a lease came or went since the snapshot was told of the node.
	stale bool
	kept  map[wire.VersionID]standing // its part of holders
}

// standing is what a node says of the instances of a version that it keeps: how
// many it was told to, and how many there are that take events.
type standing struct {
	told, ready int
	// behind is since when the second has been less than the first and has not
	// grown; zero when it is not.
	behind time.Time
}

// lease is what one instance takes, set aside on a run of a node.
type lease struct {
	placement.Claim
	run  string
	call wire.InvocationID // that asked for it, if any
	// kept says that it is for an instance that the node is told to keep.
	kept bool
}

// placed names a lease.
type placed struct {
	node  wire.NodeID
	lease wire.LeaseID
}

type expiry struct {
	placed
	at time.Time
}

// change is what a state meant for its node.
type change int

const (
	ignored change = iota // it was old
	updated
	joined
	restarted
	left
)

// lostNode is a node that was silent for too long.
type lostNode struct {
	runOf
	heard time.Time // last
}

func newNodeTable(rnd *rand.Rand) *nodeTable {
	return &nodeTable{
		rnd:         rnd,
		snapshot:    placement.NewSnapshot(),
		nodes:       map[wire.NodeID]*node{},
		outstanding: map[wire.NodeID]map[wire.LeaseID]lease{},
		calls:       map[wire.InvocationID]placed{},
		holders:     map[wire.VersionID]map[wire.NodeID]standing{},
	}
}

func (t *nodeTable) len() int    { return len(t.nodes) }
func (t *nodeTable) leases() int { return t.count }

// roomBut reports whether one more instance would have a place if there might be one
// more.
func (t *nodeTable) roomBut(r wire.PlaceRequest, now time.Time) bool {
	r.MaxInstances++
	_, err := placement.Place(t.snapshot, r, now, t.rnd)
	return err == nil
}

// place decides on one instance and keeps what it takes under the lease's ID; kept
// says that the node is to keep it. Its errors are those of [placement.Place].
func (t *nodeTable) place(r wire.PlaceRequest, id wire.LeaseID, kept bool, now time.Time) (wire.NodeID, *wire.Error) {
	d, err := placement.Place(t.snapshot, r, now, t.rnd)
	if err != nil {
		return "", err
	}
	claim := placement.Claim{Version: r.Version, Needs: r.Needs, Stem: r.Stem}
	t.snapshot.Reserve(d.Node, claim)
	leases := t.outstanding[d.Node]
	if leases == nil {
		leases = map[wire.LeaseID]lease{}
		t.outstanding[d.Node] = leases
	}
	t.nodes[d.Node].stale = true
	leases[id] = lease{Claim: claim, run: t.nodes[d.Node].run, call: r.Invocation, kept: kept}
	t.count++
	where := placed{node: d.Node, lease: id}
	if r.Invocation != "" {
		t.calls[r.Invocation] = where
	}
	t.expiring = append(t.expiring, expiry{placed: where, at: now.Add(wire.LeaseTTL)})
	return d.Node, nil
}

// report takes a node's state. Within a run only the newest counts; another run
// replaces all that was known, its leases included: what the earlier run was
// asked to start ended with it.
func (t *nodeTable) report(st wire.NodeState, now time.Time) (change, error) {
	if err := check(st); err != nil {
		return ignored, err
	}
	known := t.nodes[st.Node]
	what := updated
	switch {
	case st.Stopping:
		if known != nil && known.run != st.Run {
			return ignored, nil // the last word of a run that was replaced already
		}
		t.dropLeases(st.Node, func(run string) bool { return run == st.Run })
		if !t.remove(st.Node) {
			return ignored, nil
		}
		return left, nil
	case known == nil:
		if len(t.nodes) >= maxNodes {
			return ignored, fmt.Errorf("node %s is one too many: at most %d are kept", st.Node, maxNodes)
		}
		what, known = joined, &node{}
		t.nodes[st.Node] = known
	case known.run != st.Run:
		what = restarted
	case st.Seq <= known.seq:
		return ignored, nil
	}
	if what != updated || known.draining != drains(&st) {
		t.lastRoom = now
		t.keeps++
	}
	known.run, known.seq, known.draining = st.Run, st.Seq, drains(&st)
	t.heard(st.Node, known, now)
	t.hold(st.Node, known, keptOf(st), now)
	for _, id := range st.Settled {
		t.drop(st.Node, id)
	}
	t.dropLeases(st.Node, func(run string) bool { return run != st.Run })
	t.snapshot.Put(t.sum(st, now))
	known.stale = false
	return what, nil
}

// keptOf sums up what a state says of kept instances.
func keptOf(st wire.NodeState) (kept map[wire.VersionID]standing) {
	for _, v := range st.Versions {
		if v.Kept == 0 {
			continue
		}
		if kept == nil {
			kept = map[wire.VersionID]standing{}
		}
		kept[v.Version] = standing{told: v.Kept, ready: min(v.Kept, v.Idle+v.Busy)}
	}
	return kept
}

// hold replaces a node's part of holders; kept is its own from now on.
func (t *nodeTable) hold(id wire.NodeID, n *node, kept map[wire.VersionID]standing, now time.Time) {
	for v, has := range kept {
		switch had := n.kept[v]; {
		case has.ready >= has.told:
			continue
		case had.told == has.told && had.ready == has.ready:
			has.behind = had.behind
		default:
			has.behind = now
		}
		kept[v] = has
	}
	if maps.Equal(n.kept, kept) {
		return
	}
	t.keeps++
	for v, had := range n.kept {
		if kept[v].told < had.told {
			t.lastRoom = now
		}
		delete(t.holders[v], id)
		if len(t.holders[v]) == 0 {
			delete(t.holders, v)
		}
	}
	for v, has := range kept {
		if t.holders[v] == nil {
			t.holders[v] = map[wire.NodeID]standing{}
		}
		t.holders[v][id] = has
	}
	n.kept = kept
}

// check refuses a state that would make sums meaningless.
func check(st wire.NodeState) error {
	if st.Node == "" || st.Run == "" {
		return fmt.Errorf("state of node %q names no node or no run", st.Node)
	}
	for _, r := range []wire.Resources{st.Capacity, st.Reserved, st.Idle} {
		if !r.Fits(wire.Resources{}) {
			return fmt.Errorf("state of node %s has negative resources", st.Node)
		}
	}
	for _, v := range st.Versions {
		if v.Starting < 0 || v.Idle < 0 || v.Busy < 0 || v.Kept < 0 {
			return fmt.Errorf("state of node %s has a negative number of instances of %s", st.Node, v.Version)
		}
	}
	return nil
}

// sum adds the outstanding leases to what the node says of itself. An instance that
// it keeps counts also while it is not there, for the node starts it again; one that
// drains does so if it is to work again before the instance is kept elsewhere.
func (t *nodeTable) sum(st wire.NodeState, now time.Time) placement.Node {
	n := placement.Node{
		ID:       st.Node,
		Capacity: st.Capacity, Reserved: st.Reserved, Idle: st.Idle,
		LastSeen: now,
		Draining: st.Draining, Incompatible: !wire.Speaks(st.Protocol),
		Runtimes: st.Runtimes,
		Labels:   st.Labels,
		Stems:    st.Stems,
		Codes:    st.Codes,
		Versions: make(map[wire.VersionID]int, len(st.Versions)),
		Load:     st.Load,
	}
	for _, v := range st.Versions {
		n.Versions[v.Version] += v.Starting + v.Idle + v.Busy
	}
	if len(t.outstanding[st.Node]) > 0 { // the state's own map is the caller's
		n.Stems = make(map[string]int, len(st.Stems)+1)
		maps.Copy(n.Stems, st.Stems)
	}
	for _, l := range t.outstanding[st.Node] {
		if l.kept {
			n.Versions[l.Version]++
		}
	}
	for v, has := range keptOf(st) {
		n.Versions[v] = max(n.Versions[v], has.told)
	}
	for _, l := range t.outstanding[st.Node] {
		n.Reserved = n.Reserved.Plus(l.Needs)
		if !l.kept {
			n.Versions[l.Version]++
		}
		if l.Stem != "" {
			n.Stems[l.Stem]--
		}
	}
	return n
}

// sweep removes the nodes that were last heard before a moment, and the leases that are
// [wire.LeaseTTL] old.
func (t *nodeTable) sweep(lostBefore, now time.Time) (lost []lostNode, expired int) {
	lost = t.silent(lostBefore)
	for _, n := range lost {
		t.remove(n.node)
	}
	for len(t.expiring) > 0 && !t.expiring[0].at.After(now) {
		e := t.expiring[0]
		t.expiring = t.expiring[1:]
		l, ok := t.drop(e.node, e.lease)
		if !ok {
			continue
		}
		expired++
		t.snapshot.Release(e.node, l.Claim) // no-op for a lost node
	}
	return lost, expired
}

func (t *nodeTable) remove(id wire.NodeID) bool {
	if n := t.nodes[id]; n != nil {
		t.hold(id, n, nil, n.lastSeen)
		t.order.Remove(n.place)
		t.keeps++
	}
	delete(t.nodes, id)
	return t.snapshot.Remove(id)
}

// giveBack ends a lease that its node did not take.
func (t *nodeTable) giveBack(id wire.NodeID, of wire.LeaseID) {
	if l, ok := t.drop(id, of); ok {
		t.snapshot.Release(id, l.Claim)
	}
}

// giveBackOf ends the lease of a call that will not use it.
func (t *nodeTable) giveBackOf(call wire.InvocationID) {
	if at, ok := t.calls[call]; ok {
		t.giveBack(at.node, at.lease)
	}
}

// drop forgets a lease; the snapshot is the caller's affair.
func (t *nodeTable) drop(id wire.NodeID, of wire.LeaseID) (l lease, ok bool) {
	leases := t.outstanding[id]
	if l, ok = leases[of]; !ok {
		return lease{}, false
	}
	delete(leases, of)
	if t.calls[l.call].lease == of {
		delete(t.calls, l.call)
	}
	if len(leases) == 0 {
		delete(t.outstanding, id)
	}
	if n := t.nodes[id]; n != nil {
		n.stale = true
	}
	t.count--
	return l, true
}

// dropLeases forgets the leases on a node that were given on certain runs.
func (t *nodeTable) dropLeases(id wire.NodeID, onRun func(run string) bool) {
	for of, l := range t.outstanding[id] {
		if onRun(l.run) {
			t.drop(id, of)
		}
	}
}
