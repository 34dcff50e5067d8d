package main

import (
	"cmp"
	"iter"
	"slices"
	"time"

	"github.com/dayfly-run/dayfly/wire"
)

// resident is an instance as the baselines see it.
type resident struct {
	id       wire.InstanceID
	version  wire.VersionID
	bytes    int64
	idle     bool
	since    time.Time
	order    int // of becoming idle
	priority float64
}

// simple is what the baselines share: it evicts what is idle longest.
type simple struct {
	limit     time.Duration // idle; 0: none
	residents map[wire.InstanceID]*resident
	queue     []*resident // in order of becoming idle; those that are not idle in that order any more are skipped
	orders    []int
	ordered   int
}

// newLRU evicts the least recently used, and drops what is idle for longer than
// limit, if there is one.
func newLRU(limit time.Duration) *simple {
	return &simple{limit: limit, residents: map[wire.InstanceID]*resident{}}
}

func (s *simple) Start(id wire.InstanceID, v wire.VersionID, bytes int64, _ time.Time) {
	s.residents[id] = &resident{id: id, version: v, bytes: bytes}
}

func (s *simple) StartAhead(id wire.InstanceID, v wire.VersionID, bytes int64, now time.Time) {
	s.Start(id, v, bytes, now)
}

func (s *simple) Measured(wire.InstanceID, time.Duration) {}

func (s *simple) Busy(id wire.InstanceID, _ time.Time) { s.residents[id].idle = false }

func (s *simple) Idle(id wire.InstanceID, now time.Time) {
	r := s.residents[id]
	s.ordered++
	r.idle, r.since, r.order = true, now, s.ordered
	s.queue, s.orders = append(s.queue, r), append(s.orders, s.ordered)
}

func (s *simple) Remove(id wire.InstanceID, _ time.Time) {
	s.residents[id].idle = false
	delete(s.residents, id)
}

func (s *simple) Victims(time.Time) iter.Seq[wire.InstanceID] { return s.byAge() }

// byAge yields the idle instances, the one idle longest first.
func (s *simple) byAge() iter.Seq[wire.InstanceID] {
	return func(yield func(wire.InstanceID) bool) {
		stale := func(i int) bool { return !s.queue[i].idle || s.queue[i].order != s.orders[i] }
		drop := 0
		for drop < len(s.queue) && stale(drop) {
			drop++
		}
		s.queue, s.orders = s.queue[drop:], s.orders[drop:]
		for i := range s.queue {
			if !stale(i) && !yield(s.queue[i].id) {
				return
			}
		}
	}
}

func (s *simple) Expired(now time.Time) (ids []wire.InstanceID) {
	if s.limit == 0 {
		return nil
	}
	for id := range s.byAge() {
		if now.Sub(s.residents[id].since) <= s.limit {
			break
		}
		ids = append(ids, id)
	}
	return ids
}

func (s *simple) Due(time.Time) []wire.VersionID { return nil }

// greedyDual is plain greedy-dual size-frequency as FaasCache (ASPLOS'21) has it:
// priority = clock + calls of the function × cold start ÷ memory, set at each use;
// the clock rises to the priority of what was evicted. The calls are counted while
// an instance lives.
type greedyDual struct {
	*simple
	clock float64
	calls map[wire.VersionID]float64
	live  map[wire.VersionID]int
	cost  map[wire.VersionID]time.Duration
}

func newGreedyDual() *greedyDual {
	return &greedyDual{
		simple: newLRU(0), calls: map[wire.VersionID]float64{},
		live: map[wire.VersionID]int{}, cost: map[wire.VersionID]time.Duration{},
	}
}

func (g *greedyDual) Start(id wire.InstanceID, v wire.VersionID, bytes int64, now time.Time) {
	g.simple.Start(id, v, bytes, now)
	g.live[v]++
	g.used(g.residents[id])
}

func (g *greedyDual) Measured(id wire.InstanceID, cost time.Duration) {
	g.cost[g.residents[id].version] = cost
}

func (g *greedyDual) Busy(id wire.InstanceID, now time.Time) {
	g.simple.Busy(id, now)
	g.used(g.residents[id])
}

func (g *greedyDual) used(r *resident) {
	g.calls[r.version]++
	r.priority = g.clock
}

// rank is the priority now; all instances of a version share its calls.
func (g *greedyDual) rank(r *resident) float64 {
	return r.priority + g.calls[r.version]*g.cost[r.version].Seconds()/float64(r.bytes>>20)
}

func (g *greedyDual) Remove(id wire.InstanceID, now time.Time) {
	r := g.residents[id]
	g.clock = max(g.clock, g.rank(r))
	g.simple.Remove(id, now)
	if g.live[r.version]--; g.live[r.version] == 0 {
		delete(g.calls, r.version)
	}
}

func (g *greedyDual) Victims(time.Time) iter.Seq[wire.InstanceID] {
	var list []*resident
	for _, r := range g.residents {
		if r.idle {
			list = append(list, r)
		}
	}
	slices.SortFunc(list, func(a, b *resident) int {
		return cmp.Or(cmp.Compare(g.rank(a), g.rank(b)), cmp.Compare(a.order, b.order))
	})
	return func(yield func(wire.InstanceID) bool) {
		for _, r := range list {
			if !yield(r.id) {
				return
			}
		}
	}
}
