package scheduler

import (
	"slices"
	"time"

	"github.com/dayfly-run/dayfly/functions"
	"github.com/dayfly-run/dayfly/runtimes"
	"github.com/dayfly-run/dayfly/wire"
)

const (
	// maxKeeping bounds the commands under way: starting many containers at once
	// is slower than a few at a time.
	maxKeeping = 4
	// maxKeepTries bounds the placements that one pass may fail at, for requests
	// wait meanwhile.
	maxKeepTries = 8
	// keepWordWait is how long a command counts although the node's word does not
	// show it.
	keepWordWait = 2 * time.Second
	// keepPause is the pause of a version after its first failure; it doubles up to
	// keepPauseMax.
	keepPause    = 500 * time.Millisecond
	keepPauseMax = 10 * time.Second
	// keepStartWait is how long a node may take to start the next instance before
	// another one is asked.
	keepStartWait = 30 * time.Second
	// maxRefusers bounds the nodes that a version avoids after they refused it.
	maxRefusers = 16
)

// keeper decides on the commands that keep instances running, for one reign. It has
// no clock and does no I/O. What nodes keep it takes from the table, so that it
// knows as much as the reign before it. It is not safe for concurrent use.
type keeper struct {
	table *nodeTable
	// newLease makes up a lease's ID.
	newLease func() (wire.LeaseID, *wire.Error)

	// sent holds the commands that have no answer or that the nodes' words do not
	// show yet.
	sent     map[keepKey]*keepCommand
	underWay int
	// troubles holds the versions whose last command failed.
	troubles map[wire.VersionID]*trouble

	wanted, missing int // instances, at the last pass
}

type keepKey struct {
	node    wire.NodeID
	version wire.VersionID
}

// keepCommand tells a node how many instances of a version to keep.
type keepCommand struct {
	keepKey
	count    int
	more     bool         // rather than less
	lease    wire.LeaseID // empty when nothing new starts
	run      string
	at       time.Time
	underWay bool
}

// trouble is why a version waits.
type trouble struct {
	// failures counts them in succession, short how many of the last of these were
	// for want of room.
	failures, short int
	since, until    time.Time
	refusers        []wire.NodeID
}

func newKeeper(table *nodeTable, newLease func() (wire.LeaseID, *wire.Error)) *keeper {
	return &keeper{
		table: table, newLease: newLease,
		sent: map[keepKey]*keepCommand{}, troubles: map[wire.VersionID]*trouble{},
	}
}

// pass returns the commands that are due, which the caller sends and tells
// [keeper.done] of, and the versions that got none, with the reason. Again says
// that more may be due at once.
func (k *keeper) pass(versions []functions.Version, now time.Time) (due []keepCommand, failed map[wire.VersionID]*wire.Error, again bool) {
	k.settle(now)
	byID := make(map[wire.VersionID]functions.Version, len(versions))
	for _, v := range versions {
		byID[v.VersionID] = v
	}
	plan := k.plan(versions, now)
	k.forget(byID, plan)
	failed = map[wire.VersionID]*wire.Error{}
	skip := map[wire.VersionID]bool{}
	steps := plan.steps(maxKeeping)
	for len(steps) > 0 {
		s := steps[0]
		steps = steps[1:]
		if k.underWay >= maxKeeping || len(failed) >= maxKeepTries {
			return due, failed, len(failed) >= maxKeepTries
		}
		if s.node == "" && skip[s.version] {
			continue
		}
		c := keepCommand{keepKey: keepKey{s.node, s.version}, count: s.count}
		if s.node == "" {
			var err *wire.Error
			c, err = k.place(byID[s.version], now)
			if skip[s.version] = c.node == ""; err != nil {
				failed[s.version] = err
				k.fail(s.version, "", err, now)
				if v := byID[s.version]; err.Code == wire.CodeThrottled && !k.going(plan.held[s.version], s.version) && k.table.roomBut(requestFor(v), now) {
					steps = append(plan.makeWay(want{s.version, v.Spec.MinInstances}), steps...)
				}
			}
			if c.node == "" {
				continue
			}
		}
		if s.stuck {
			err := wire.Errorf(wire.CodeUnavailable, "node %s did not start it within %s", s.node, keepStartWait)
			failed[s.version] = err
			k.fail(s.version, s.node, err, now)
		}
		c.run, c.at, c.underWay = k.table.nodes[c.node].run, now, true
		k.sent[c.keepKey] = &c
		k.underWay++
		due = append(due, c)
	}
	return due, failed, false
}

// settle drops the commands that the nodes' words show or contradict for too long.
func (k *keeper) settle(now time.Time) {
	for key, c := range k.sent {
		n := k.table.nodes[c.node]
		gone := n == nil || n.run != c.run || n.draining && c.more
		shown := !gone && n.kept[c.version].told == c.count
		if !c.underWay && (gone || shown || now.Sub(c.at) > keepWordWait) {
			delete(k.sent, key)
		}
	}
}

// plan sums up what is wanted and what is held.
func (k *keeper) plan(versions []functions.Version, now time.Time) keepPlan {
	p := keepPlan{
		held: make(map[wire.VersionID][]holding, len(k.table.holders)),
		waits: func(v wire.VersionID) bool {
			t := k.troubles[v]
			return t != nil && now.Before(t.until) && !k.table.lastRoom.After(t.since)
		},
		short: func(v wire.VersionID) int {
			if t := k.troubles[v]; t != nil {
				return t.short
			}
			return 0
		},
	}
	for version, on := range k.table.holders {
		for node, has := range on {
			if k.sent[keepKey{node, version}] == nil {
				leaving := k.table.nodes[node].draining
				stuck := !leaving && !has.behind.IsZero() && now.Sub(has.behind) > keepStartWait
				p.held[version] = append(p.held[version], holding{node: node, standing: has, stuck: stuck, leaving: leaving})
			}
		}
	}
	for key, c := range k.sent {
		n := k.table.nodes[c.node]
		// One on its way reaches whichever run there is.
		if n == nil || n.run != c.run && !c.underWay {
			continue
		}
		told := c.count
		if n.draining { // it takes nothing more
			told = min(told, n.kept[c.version].told)
		}
		ready := min(n.kept[c.version].ready, told)
		p.held[c.version] = append(p.held[c.version], holding{node: key.node, standing: standing{told: told, ready: ready}, asked: true, leaving: n.draining})
	}
	k.wanted, k.missing = 0, 0
	for _, v := range versions {
		w := want{v.VersionID, v.Spec.MinInstances}
		stay, _ := partHoldings(p.held[w.version])
		told, _ := sumOf(stay)
		k.wanted += w.count
		k.missing += max(w.count-told, 0)
		p.wants = append(p.wants, w)
	}
	return p
}

// forget drops the troubles of versions of which as many are kept as are wanted, once
// their pause is over.
func (k *keeper) forget(wanted map[wire.VersionID]functions.Version, plan keepPlan) {
	for v := range k.troubles {
		stay, _ := partHoldings(plan.held[v])
		told, _ := sumOf(stay)
		if told == wanted[v].Spec.MinInstances && !plan.waits(v) {
			delete(k.troubles, v)
		}
	}
}

// place finds a node for one more instance: of those that keep fewest of the
// version, the one that a call would get. It returns no node and no error when only
// nodes are left whose words do not show the last command yet.
func (k *keeper) place(v functions.Version, now time.Time) (keepCommand, *wire.Error) {
	lease, err := k.newLease()
	if err != nil {
		return keepCommand{}, err
	}
	r := requestFor(v)
	told, avoid := k.toldOf(v.VersionID)
	levels := []int{0}
	for _, n := range told {
		levels = append(levels, n)
	}
	slices.Sort(levels)
	for _, level := range slices.Compact(levels) {
		r.Exclude = slices.Clone(avoid)
		for node, n := range told {
			if n > level {
				r.Exclude = append(r.Exclude, node)
			}
		}
		var node wire.NodeID
		if node, err = k.table.place(r, lease, true, now); err == nil {
			return keepCommand{keepKey: keepKey{node, v.VersionID}, count: told[node] + 1, more: true, lease: lease}, nil
		}
		if err.Code == wire.CodeThrottled {
			break
		}
	}
	if err.Code == wire.CodeThrottled {
		if node := k.running(v.VersionID, told, avoid); node != "" {
			return keepCommand{keepKey: keepKey{node, v.VersionID}, count: told[node] + 1, more: true}, nil
		}
	}
	if k.asking(v.VersionID) {
		return keepCommand{}, nil
	}
	return keepCommand{}, err
}

// going reports whether an instance of a version is on its way out: a draining node has
// more than it keeps, by held.
func (k *keeper) going(held []holding, v wire.VersionID) bool {
	kept := map[wire.NodeID]int{}
	for _, h := range held {
		kept[h.node] = h.told
	}
	for id, n := range k.table.nodes {
		if on, _ := k.table.snapshot.Node(id); n.draining && on.Versions[v] > kept[id] {
			return true
		}
	}
	return false
}

func requestFor(v functions.Version) wire.PlaceRequest {
	return v.PlaceRequest("", runtimes.StemKey(v.Spec.Runtime, v.Code, v.Spec.Network))
}

// toldOf returns what each node that stays was told to keep of a version, and the nodes
// that get no command about it now.
func (k *keeper) toldOf(v wire.VersionID) (told map[wire.NodeID]int, avoid []wire.NodeID) {
	told = map[wire.NodeID]int{}
	for node, has := range k.table.holders[v] {
		if !k.table.nodes[node].draining {
			told[node] = has.told
		}
	}
	for key, c := range k.sent {
		if n := k.table.nodes[key.node]; key.version != v || n != nil && n.draining {
			continue
		}
		told[key.node] = c.count
		avoid = append(avoid, key.node)
	}
	if t := k.troubles[v]; t != nil {
		avoid = append(avoid, t.refusers...)
	}
	return told, avoid
}

// asking reports whether a node has a command about a version that its word does not show.
func (k *keeper) asking(v wire.VersionID) bool {
	for key := range k.sent {
		if key.version == v {
			return true
		}
	}
	return false
}

// running returns a node with an instance of the version that it does not keep
// yet: when there are as many as there may be, one of these is kept.
func (k *keeper) running(v wire.VersionID, told map[wire.NodeID]int, avoid []wire.NodeID) wire.NodeID {
	var best wire.NodeID
	for id, n := range k.table.nodes {
		on, _ := k.table.snapshot.Node(id)
		if on.Versions[v] == 0 || n.draining || slices.Contains(avoid, id) {
			continue
		}
		there := on.Versions[v]
		for _, l := range k.table.outstanding[id] {
			if l.Version == v {
				there--
			}
		}
		if there > told[id] && (best == "" || told[id] < told[best] || told[id] == told[best] && id < best) {
			best = id
		}
	}
	return best
}

// fail notes that a version's command failed, on a node unless that is empty.
func (k *keeper) fail(v wire.VersionID, node wire.NodeID, reason *wire.Error, now time.Time) {
	t := k.troubles[v]
	if t == nil {
		t = &trouble{}
		k.troubles[v] = t
	}
	pause := min(keepPause<<min(t.failures, 10), keepPauseMax)
	t.failures++
	t.since, t.until = now, now.Add(pause)
	if t.short++; node != "" || reason.Code != wire.CodeNoCapacity {
		t.short = 0
	}
	switch {
	case node != "" && len(t.refusers) < maxRefusers:
		t.refusers = append(t.refusers, node)
	case node == "": // nobody is left: ask them all again
		t.refusers = nil
	}
}

// done tells what became of a command. Without an error the node took it. Refused
// says that it surely did not; otherwise nobody knows, and its word will tell.
func (k *keeper) done(c keepCommand, err *wire.Error, refused bool, now time.Time) {
	sent := k.sent[c.keepKey]
	sent.underWay, sent.at = false, now
	k.underWay--
	if err == nil {
		if n := k.table.nodes[c.node]; n != nil {
			sent.run = n.run
		}
		if c.more {
			delete(k.troubles, c.version)
		}
		return
	}
	k.fail(c.version, c.node, err, now)
	if refused {
		delete(k.sent, c.keepKey)
		k.table.giveBack(c.node, c.lease)
	}
}
