package placement_test

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/dayfly-run/dayfly/scheduler/placement"
	"github.com/dayfly-run/dayfly/wire"
)

// cluster makes a cluster at work: loads differ, a twentieth of the nodes cannot
// be used, each has stems, and codes lie as holds says.
func cluster(size int, holds func(i int) bool) *placement.Snapshot {
	rnd, s := seeded(1), placement.NewSnapshot()
	for i := range size {
		n := emptyNode(wire.NodeID(fmt.Sprintf("node-%05d", i)))
		n.Capacity = resources(64*gib, 32_000, 1000)
		n.Reserved = resources(rnd.Int64N(60*gib), rnd.Int64N(30_000), rnd.IntN(900))
		n.Idle = resources(rnd.Int64N(n.Reserved.MemoryBytes+1), rnd.Int64N(n.Reserved.CPUMillis+1), 0)
		n.Load = rnd.Float64()
		n.Runtimes = []string{"go", "node", "provided", "python"}
		n.Versions = map[wire.VersionID]int{version(3): rnd.IntN(3)}
		n.Stems = map[string]int{"s0": 2, "s1": 1, "s2": 1}
		for c := range 50 {
			n.Codes = append(n.Codes, wire.Digest(fmt.Sprintf("%064x", c*1000+i%1000)))
		}
		if holds(i) {
			n.Codes = append(n.Codes, "c0")
		}
		n.Draining = i%40 == 0
		if i%40 == 1 {
			n.LastSeen = now.Add(-time.Minute)
		}
		s.Put(n)
	}
	return s
}

func request() wire.PlaceRequest {
	r := usual()
	r.MaxInstances = 0
	return r
}

// BenchmarkPlace also reports the 99th percentile of single decisions.
func BenchmarkPlace(b *testing.B) {
	idle := func(s *placement.Snapshot) *placement.Snapshot {
		for i := range s.Len() {
			n, _ := s.Node(wire.NodeID(fmt.Sprintf("node-%05d", i)))
			n.Reserved, n.Idle, n.Load = wire.Resources{}, wire.Resources{}, 0
			s.Put(n)
		}
		return s
	}
	someStems := func(s *placement.Snapshot, every int) *placement.Snapshot {
		for i := range s.Len() {
			if n, _ := s.Node(wire.NodeID(fmt.Sprintf("node-%05d", i))); i%every != 0 {
				n.Stems = map[string]int{"s1": 1}
				s.Put(n)
			}
		}
		return s
	}
	for _, size := range []int{1000, 10_000} {
		for _, c := range []struct {
			name string
			s    *placement.Snapshot
		}{
			{"code=nowhere", cluster(size, func(int) bool { return false })},
			{"code=one_node", cluster(size, func(i int) bool { return i == size/2 })},
			{"code=tenth", cluster(size, func(i int) bool { return i%10 == 5 })},
			{"code=everywhere", cluster(size, func(int) bool { return true })},
			{"code=tenth,all_idle", idle(cluster(size, func(i int) bool { return i%10 == 5 }))},
			{"code=one_node,stems=tenth", someStems(cluster(size, func(i int) bool { return i == size/2 }), 10)},
			{"code=tenth,stems=two_nodes", someStems(cluster(size, func(i int) bool { return i%10 == 5 }), size/2)},
		} {
			s := c.s
			b.Run(fmt.Sprintf("nodes=%d/%s", size, c.name), func(b *testing.B) {
				r, rnd := request(), seeded(2)
				b.ReportAllocs()
				for b.Loop() {
					mustPlace(b, s, r, rnd)
				}
				b.StopTimer()
				reportP99(b, func() { mustPlace(b, s, r, rnd) })
			})
		}
	}
}

// BenchmarkPlaceAndReserve is what a scheduler does for each request.
func BenchmarkPlaceAndReserve(b *testing.B) {
	for _, size := range []int{1000, 10_000} {
		s := cluster(size, func(i int) bool { return i%10 == 5 })
		b.Run(fmt.Sprintf("nodes=%d", size), func(b *testing.B) {
			r, rnd := request(), seeded(2)
			b.ReportAllocs()
			for b.Loop() {
				id := mustPlace(b, s, r, rnd).Node
				s.Reserve(id, claim(r))
				s.Release(id, claim(r))
			}
		})
	}
}

// BenchmarkBurst takes every stem of the least-loaded nodes, again and again.
func BenchmarkBurst(b *testing.B) {
	for _, size := range []int{1000, 10_000} {
		s := cluster(size, func(i int) bool { return i == size/2 })
		b.Run(fmt.Sprintf("nodes=%d", size), func(b *testing.B) {
			r, rnd := request(), seeded(2)
			r.Needs = resources(mib, 1, 1)
			var placed []wire.NodeID
			one := func() {
				id := mustPlace(b, s, r, rnd).Node
				s.Reserve(id, claim(r))
				placed = append(placed, id)
				if len(placed) == 2*size {
					for _, id := range placed {
						s.Release(id, claim(r))
					}
					placed = placed[:0]
				}
			}
			for b.Loop() {
				one()
			}
			b.StopTimer()
			reportP99(b, one)
			for _, id := range placed {
				s.Release(id, claim(r))
			}
		})
	}
}

// BenchmarkBusyHolders is the search at its worst: half of the nodes hold the
// code and all of them are just too busy.
func BenchmarkBusyHolders(b *testing.B) {
	for _, size := range []int{1000, 10_000} {
		s := placement.NewSnapshot()
		for i := range size {
			n := emptyNode(wire.NodeID(fmt.Sprintf("node-%05d", i)))
			if i%2 == 0 {
				n.Codes, n.Reserved.MemoryBytes = []wire.Digest{"c0"}, 300*mib
			}
			s.Put(n)
		}
		b.Run(fmt.Sprintf("nodes=%d", size), func(b *testing.B) {
			r, rnd := request(), seeded(2)
			b.ReportAllocs()
			for b.Loop() {
				mustPlace(b, s, r, rnd)
			}
		})
	}
}

// BenchmarkRefuse is the answer when every node is full.
func BenchmarkRefuse(b *testing.B) {
	for _, size := range []int{1000, 10_000} {
		s := placement.NewSnapshot()
		for i := range size {
			n := emptyNode(wire.NodeID(fmt.Sprintf("node-%05d", i)))
			s.Put(with(n, reserved(n.Capacity)))
		}
		b.Run(fmt.Sprintf("nodes=%d", size), func(b *testing.B) {
			r, rnd := request(), seeded(2)
			one := func() {
				if _, err := placement.Place(s, r, now, rnd); err == nil {
					b.Fatal("placed on a full node")
				}
			}
			for b.Loop() {
				one()
			}
			b.StopTimer()
			reportP99(b, one)
		})
	}
}

// BenchmarkHeartbeat replaces a node whose reservations changed.
func BenchmarkHeartbeat(b *testing.B) {
	for _, size := range []int{1000, 10_000} {
		s := cluster(size, func(i int) bool { return i%10 == 5 })
		b.Run(fmt.Sprintf("nodes=%d", size), func(b *testing.B) {
			rnd := seeded(2)
			b.ReportAllocs()
			for b.Loop() {
				n, _ := s.Node(wire.NodeID(fmt.Sprintf("node-%05d", rnd.IntN(size))))
				n.Reserved = resources(rnd.Int64N(60*gib), rnd.Int64N(30_000), rnd.IntN(900))
				s.Put(n)
			}
		})
	}
}

func reportP99(b *testing.B, decide func()) {
	b.Helper()
	took := make([]time.Duration, 10_000)
	for i := range took {
		start := time.Now()
		decide()
		took[i] = time.Since(start)
	}
	slices.Sort(took)
	b.ReportMetric(float64(took[len(took)*99/100].Nanoseconds()), "p99-ns")
}
