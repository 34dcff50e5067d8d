package main

import (
	"cmp"
	"hash/fnv"
	"math/rand/v2"
	"slices"
	"strconv"
	"time"

	"github.com/dayfly-run/dayfly/scheduler/placement"
	"github.com/dayfly-run/dayfly/wire"
)

// policy says which node starts an instance.
type policy interface {
	// pick returns the index of a node that has room for one instance of a function, or
	// -1 when none has.
	pick(c *cluster, function int32) int
}

// random takes any node.
type random struct{}

func (random) pick(c *cluster, function int32) int {
	from := c.rnd.IntN(len(c.servers))
	// The next one with room is not quite as likely as the others, which matters only
	// when most are full.
	return firstFrom(c, from, function)
}

// roundRobin takes one after the other.
type roundRobin struct{ next int }

func (r *roundRobin) pick(c *cluster, function int32) int {
	at := firstFrom(c, r.next, function)
	if at >= 0 {
		r.next = (at + 1) % len(c.servers)
	}
	return at
}

func firstFrom(c *cluster, from int, function int32) int {
	for i := range c.servers {
		if at := (from + i) % len(c.servers); c.fits(at, function) {
			return at
		}
	}
	return -1
}

// leastLoaded takes the node of whose memory least runs; of equals that which holds least.
type leastLoaded struct{}

func (leastLoaded) pick(c *cluster, function int32) int {
	best := -1
	from := c.rnd.IntN(len(c.servers))
	for i := range c.servers {
		at := (from + i) % len(c.servers)
		if !c.fits(at, function) {
			continue
		}
		if best < 0 || cmp.Or(cmp.Compare(c.servers[at].busy, c.servers[best].busy), cmp.Compare(c.servers[at].held, c.servers[best].held)) < 0 {
			best = at
		}
	}
	return best
}

// affinity has an order of the nodes for each function, by a hash, and takes the first
// that has room.
type affinity struct{ orders map[int32][]int }

func (a *affinity) pick(c *cluster, function int32) int {
	order, known := a.orders[function]
	if !known {
		order = make([]int, len(c.servers))
		weights := make([]uint64, len(c.servers))
		for i := range order {
			h := fnv.New64a()
			_, _ = h.Write([]byte(strconv.Itoa(int(function)) + "/" + strconv.Itoa(i)))
			order[i], weights[i] = i, rand.New(rand.NewPCG(h.Sum64(), 0)).Uint64() //nolint:gosec // no secret
		}
		slices.SortFunc(order, func(x, y int) int { return cmp.Compare(weights[x], weights[y]) })
		a.orders[function] = order
	}
	for _, at := range order {
		if c.fits(at, function) {
			return at
		}
	}
	return -1
}

// ours is the scheduler's own code.
type ours struct {
	slack    int32
	snapshot *placement.Snapshot
	index    map[wire.NodeID]int
}

func newOurs(slack int32) *ours {
	return &ours{slack: slack, snapshot: placement.NewSnapshot(), index: map[wire.NodeID]int{}}
}

func (o *ours) pick(c *cluster, function int32) int {
	now := time.UnixMicro(c.now)
	for i, s := range c.servers {
		c.refillStems(s)
		if s.dirty {
			n := c.describe(s)
			n.LastSeen = now
			o.snapshot.Put(n)
			o.index[s.id] = i
			s.dirty = false
			continue
		}
		o.snapshot.Touch(s.id, now, 0)
	}
	d, err := placement.PlaceWithin(o.snapshot, wire.PlaceRequest{
		Version: c.versions[function], Runtime: runtimeOf(function), Code: c.artifacts[function], Stem: runtimeOf(function),
		Needs: wire.Resources{MemoryBytes: c.bytes(function), CPUMillis: cpuOf, Instances: 1},
	}, now, c.rnd, o.slack)
	if err != nil {
		return -1
	}
	return o.index[d.Node]
}
