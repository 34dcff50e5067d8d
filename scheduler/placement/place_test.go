package placement_test

import (
	"fmt"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/dayfly-run/dayfly/scheduler/placement"
	"github.com/dayfly-run/dayfly/wire"
)

func TestPlace(t *testing.T) {
	full := reserved(resources(gib, 4000, 100))
	tests := map[string]struct {
		nodes   []placement.Node
		request func(*wire.PlaceRequest)
		want    placement.Decision
	}{
		"the only node": {
			nodes: []placement.Node{emptyNode("a")},
			want:  placement.Decision{Node: "a"},
		},
		"less memory in use": {
			nodes: []placement.Node{
				with(emptyNode("a"), reserved(resources(300*mib, 0, 0))),
				with(emptyNode("b"), reserved(resources(200*mib, 0, 0))),
			},
			want: placement.Decision{Node: "b"},
		},
		"the larger share counts": {
			nodes: []placement.Node{
				with(emptyNode("a"), reserved(resources(100*mib, 2000, 1))), // half of the CPU
				with(emptyNode("b"), reserved(resources(400*mib, 1000, 1))), // 39 % of the memory
			},
			want: placement.Decision{Node: "b"},
		},
		"shares, not amounts": {
			nodes: []placement.Node{
				with(emptyNode("small"), reserved(resources(256*mib, 0, 0))),
				with(emptyNode("large"), reserved(resources(gib, 0, 0)), func(n *placement.Node) { n.Capacity.MemoryBytes = 16 * gib }),
			},
			want: placement.Decision{Node: "large"},
		},
		"idle instances do not count": {
			nodes: []placement.Node{
				with(emptyNode("a"), reserved(resources(500*mib, 0, 4)), idle(resources(500*mib, 0, 4))),
				with(emptyNode("b"), reserved(resources(100*mib, 0, 1))),
			},
			want: placement.Decision{Node: "a"},
		},
		"idle instances make room": {
			nodes: []placement.Node{with(emptyNode("a"), full, idle(resources(128*mib, 500, 1)))},
			want:  placement.Decision{Node: "a", Evicts: true},
		},
		"of equals the one that need not evict": {
			nodes: []placement.Node{
				with(emptyNode("a"), full, idle(resources(gib, 4000, 100))),
				emptyNode("b"),
				with(emptyNode("c"), full, idle(resources(gib, 4000, 100))),
			},
			want: placement.Decision{Node: "b"},
		},
		"measured load decides between equal reservations": {
			nodes: []placement.Node{with(emptyNode("a"), load(2)), with(emptyNode("b"), load(0.1))},
			want:  placement.Decision{Node: "b"},
		},
		"load counts up to a bound": {
			nodes: []placement.Node{
				with(emptyNode("a"), load(math.Inf(1))),
				with(emptyNode("b"), reserved(resources(700*mib, 0, 0))),
			},
			want: placement.Decision{Node: "a"},
		},
		"a load that is no number counts as none": {
			nodes: []placement.Node{with(emptyNode("a"), load(math.NaN())), with(emptyNode("b"), load(0.5))},
			want:  placement.Decision{Node: "a"},
		},
		"the code wins within the slack": {
			nodes: []placement.Node{
				emptyNode("a"),
				with(emptyNode("b"), codes("c7", "c0"), reserved(resources(200*mib, 0, 0))),
			},
			want: placement.Decision{Node: "b", Local: true},
		},
		"the code loses beyond the slack": {
			nodes: []placement.Node{
				emptyNode("a"),
				with(emptyNode("b"), codes("c0"), reserved(resources(300*mib, 0, 0))),
			},
			want: placement.Decision{Node: "a"},
		},
		"the code wins at just the slack": {
			nodes: []placement.Node{
				with(emptyNode("a"), reserved(resources(0, 400, 0))),
				with(emptyNode("b"), codes("c0"), reserved(resources(0, 400+4*placement.LocalSlack, 0))),
			},
			want: placement.Decision{Node: "b", Local: true},
		},
		"the code loses just above the slack": {
			nodes: []placement.Node{
				with(emptyNode("a"), reserved(resources(0, 400, 0))),
				with(emptyNode("b"), codes("c0"), reserved(resources(0, 404+4*placement.LocalSlack, 0))),
			},
			want: placement.Decision{Node: "a"},
		},
		"the least loaded of those with the code": {
			nodes: []placement.Node{
				emptyNode("a"),
				with(emptyNode("b"), codes("c0"), reserved(resources(150*mib, 0, 0))),
				with(emptyNode("c"), codes("c0"), reserved(resources(100*mib, 0, 0))),
			},
			want: placement.Decision{Node: "c", Local: true},
		},
		"a stem wins over the code": {
			nodes: []placement.Node{
				emptyNode("a"),
				with(emptyNode("b"), codes("c0"), reserved(resources(100*mib, 0, 0))),
				with(emptyNode("c"), stems("s0", 1), reserved(resources(200*mib, 0, 0))),
			},
			want: placement.Decision{Node: "c", Stem: true},
		},
		"a stem and the code win over a stem": {
			nodes: []placement.Node{
				with(emptyNode("a"), stems("s0", 5)),
				with(emptyNode("b"), stems("s0", 1), codes("c0"), reserved(resources(200*mib, 0, 0))),
			},
			want: placement.Decision{Node: "b", Stem: true, Local: true},
		},
		"a stem loses beyond the slack": {
			nodes: []placement.Node{
				with(emptyNode("a"), codes("c0")),
				with(emptyNode("b"), stems("s0", 1), codes("c0"), reserved(resources(300*mib, 0, 0))),
			},
			want: placement.Decision{Node: "a", Local: true},
		},
		"stems of another kind are no use": {
			nodes: []placement.Node{
				with(emptyNode("a"), stems("s1", 5), reserved(resources(10*mib, 0, 0))),
				emptyNode("b"),
			},
			want: placement.Decision{Node: "b"},
		},
		"stems that leases will take are no use": {
			nodes: []placement.Node{
				with(emptyNode("a"), stems("s0", -1), reserved(resources(10*mib, 0, 0))),
				with(emptyNode("b"), stems("s0", 0), reserved(resources(10*mib, 0, 0))),
				emptyNode("c"),
			},
			want: placement.Decision{Node: "c"},
		},
		"stems where the runtime is not": {
			nodes: []placement.Node{with(emptyNode("a"), stems("s0", 1), runtimes("go")), emptyNode("b")},
			want:  placement.Decision{Node: "b"},
		},
		"stems of a draining node": {
			nodes: []placement.Node{with(emptyNode("a"), stems("s0", 1), draining), emptyNode("b")},
			want:  placement.Decision{Node: "b"},
		},
		"a request that names no stem": {
			nodes: []placement.Node{
				with(emptyNode("a"), stems("", 5), reserved(resources(10*mib, 0, 0))),
				emptyNode("b"),
			},
			request: func(r *wire.PlaceRequest) { r.Stem = "" },
			want:    placement.Decision{Node: "b"},
		},
		"slack is measured from the least loaded that qualifies": {
			nodes: []placement.Node{
				with(emptyNode("a"), draining),
				with(emptyNode("b"), reserved(resources(300*mib, 0, 0))),
				with(emptyNode("c"), codes("c0"), reserved(resources(400*mib, 0, 0))),
			},
			want: placement.Decision{Node: "c", Local: true},
		},
		"a full node with the code is no use": {
			nodes: []placement.Node{with(emptyNode("a"), codes("c0"), full), emptyNode("b")},
			want:  placement.Decision{Node: "b"},
		},
		"past lost, draining, excluded and runtime-less nodes": {
			nodes: []placement.Node{
				with(emptyNode("a"), seen(wire.NodeLostAfter+1), codes("c0")),
				with(emptyNode("b"), draining, codes("c0")),
				with(emptyNode("c"), codes("c0")),
				with(emptyNode("d"), runtimes("go", "node"), codes("c0")),
				with(emptyNode("e"), reserved(resources(800*mib, 0, 0))),
			},
			request: func(r *wire.PlaceRequest) { r.Exclude = []wire.NodeID{"unknown", "c"} },
			want:    placement.Decision{Node: "e"},
		},
		"a silence of just the limit is no death": {
			nodes: []placement.Node{with(emptyNode("a"), seen(wire.NodeLostAfter))},
			want:  placement.Decision{Node: "a"},
		},
		"a node seen in the future lives": {
			nodes: []placement.Node{with(emptyNode("a"), seen(-time.Hour))},
			want:  placement.Decision{Node: "a"},
		},
		"more idle than reserved is no extra room": {
			nodes: []placement.Node{
				with(emptyNode("a"), idle(resources(gib, 0, 0))),
				with(emptyNode("b"), reserved(resources(500*mib, 0, 0)), func(n *placement.Node) { n.Capacity.MemoryBytes = 4 * gib }),
			},
			request: func(r *wire.PlaceRequest) { r.Needs.MemoryBytes = gib + 1 },
			want:    placement.Decision{Node: "b"},
		},
		"the last bit of room": {
			nodes:   []placement.Node{emptyNode("a")},
			request: func(r *wire.PlaceRequest) { r.Needs = resources(gib, 4000, 100) },
			want:    placement.Decision{Node: "a"},
		},
		"no code to look for": {
			nodes:   []placement.Node{emptyNode("a")},
			request: func(r *wire.PlaceRequest) { r.Code = "" },
			want:    placement.Decision{Node: "a"},
		},
		"one instance below the limit": {
			nodes:   []placement.Node{with(emptyNode("a"), runs(version(3), 2))},
			request: func(r *wire.PlaceRequest) { r.MaxInstances = 3 },
			want:    placement.Decision{Node: "a"},
		},
		"instances of another version do not count": {
			nodes:   []placement.Node{with(emptyNode("a"), runs(version(2), 9))},
			request: func(r *wire.PlaceRequest) { r.MaxInstances = 1 },
			want:    placement.Decision{Node: "a"},
		},
		"no limit": {
			nodes:   []placement.Node{with(emptyNode("a"), runs(version(3), 99))},
			request: func(r *wire.PlaceRequest) { r.MaxInstances = 0 },
			want:    placement.Decision{Node: "a"},
		},
		"of two nodes with one ID the later counts": {
			nodes: []placement.Node{with(emptyNode("a"), draining), emptyNode("a")},
			want:  placement.Decision{Node: "a"},
		},
		"a runtime named twice": {
			nodes: []placement.Node{with(emptyNode("a"), runtimes("python", "go", "python"))},
			want:  placement.Decision{Node: "a"},
		},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			r := usual()
			if test.request != nil {
				test.request(&r)
			}
			for seed := range uint64(20) {
				got, err := place(test.nodes, r, seed)
				if err != nil || got != test.want {
					t.Fatalf("seed %d: got %+v, %v; want %+v", seed, got, err, test.want)
				}
			}
		})
	}
}

// Equal nodes are all chosen now and then.
func TestTiesAreRandom(t *testing.T) {
	for name, code := range map[string]wire.Digest{"local": "c0", "remote": "c9"} {
		t.Run(name, func(t *testing.T) {
			s := placement.NewSnapshot()
			for _, id := range []wire.NodeID{"a", "b", "c", "d"} {
				s.Put(with(emptyNode(id), codes("c0")))
			}
			r, rnd, counts := usual(), seeded(1), map[wire.NodeID]int{}
			r.Code = code
			for range 1000 {
				counts[mustPlace(t, s, r, rnd).Node]++
			}
			if len(counts) != 4 {
				t.Fatalf("chosen: %v", counts)
			}
		})
	}
}

// Few nodes with the code among many without: the slack's edge holds and ties
// among them are random, too.
func TestFewHoldersAmongMany(t *testing.T) {
	for name, test := range map[string]struct {
		cpu   int64
		local bool
	}{
		"just within the slack": {4 * placement.LocalSlack, true},
		"just beyond the slack": {4*placement.LocalSlack + 4, false},
	} {
		t.Run(name, func(t *testing.T) {
			s := placement.NewSnapshot()
			for i := range 500 {
				s.Put(emptyNode(wire.NodeID(fmt.Sprintf("node-%d", i))))
			}
			for _, id := range []wire.NodeID{"a", "b", "c"} {
				s.Put(with(emptyNode(id), codes("c0"), reserved(resources(0, test.cpu, 0))))
			}
			s.Put(with(emptyNode("draining"), codes("c0"), draining))
			s.Put(with(emptyNode("other runtime"), codes("c0"), runtimes("go")))
			rnd, holders := seeded(1), map[wire.NodeID]bool{}
			for range 300 {
				d := mustPlace(t, s, usual(), rnd)
				if d.Local != test.local {
					t.Fatalf("got %+v, want local %t", d, test.local)
				}
				if d.Local {
					holders[d.Node] = true
				}
			}
			if test.local && len(holders) != 3 {
				t.Fatalf("only %v were chosen", holders)
			}
		})
	}
}

// Idle instances spread, too: what a node holds decides between equally busy ones.
func TestIdleInstancesSpread(t *testing.T) {
	s := placement.NewSnapshot(emptyNode("a"), emptyNode("b"), emptyNode("c"))
	r, rnd, counts := usual(), seeded(1), map[wire.NodeID]int{}
	r.Code = ""
	for range 9 {
		id := mustPlace(t, s, r, rnd).Node
		n, _ := s.Node(id)
		n.Reserved, n.Idle = n.Reserved.Plus(r.Needs), n.Idle.Plus(r.Needs)
		s.Put(n)
		counts[id]++
	}
	for id, n := range counts {
		if n != 3 {
			t.Fatalf("%s has %d of 9: %v", id, n, counts)
		}
	}
}

// The snapshot keeps nothing that the caller may change later.
func TestPutCopies(t *testing.T) {
	n := with(emptyNode("a"), codes("c0"), stems("s0", 1), runs(version(3), 1))
	s := placement.NewSnapshot(n)
	n.Codes[0], n.Runtimes[0], n.Versions[version(3)], n.Stems["s0"] = "c1", "go", 50, 0
	if d := mustPlace(t, s, usual(), seeded(1)); !d.Local || !d.Stem {
		t.Fatalf("got %+v", d)
	}
	s.Put(n)
	if _, err := placement.Place(s, usual(), now, seeded(1)); err == nil || err.Code != wire.CodeThrottled {
		t.Fatalf("after the second Put: %v", err)
	}
	r := usual()
	r.Code, r.Runtime, r.MaxInstances = "c1", "go", 0
	if d := mustPlace(t, s, r, seeded(1)); !d.Local {
		t.Fatalf("with the code and runtime of the second Put: %+v", d)
	}
}

func TestReserveCountsInstances(t *testing.T) {
	s, r := placement.NewSnapshot(emptyNode("a")), usual()
	r.MaxInstances = 1
	s.Reserve("a", claim(r))
	if _, err := placement.Place(s, r, now, seeded(1)); err == nil || err.Code != wire.CodeThrottled {
		t.Fatalf("with the limit reserved: %v", err)
	}
	s.Release("a", claim(r))
	mustPlace(t, s, r, seeded(1))
	s.Reserve("a", claim(r))
	s.Remove("a")
	s.Put(emptyNode("b"))
	mustPlace(t, s, r, seeded(1))
}

func TestInvalidRequests(t *testing.T) {
	for name, test := range map[string]struct {
		change func(*wire.PlaceRequest)
		want   string
	}{
		"memory":    {func(r *wire.PlaceRequest) { r.Needs.MemoryBytes = -1 }, "-1 bytes of memory"},
		"CPU":       {func(r *wire.PlaceRequest) { r.Needs.CPUMillis = -2 }, "-2 CPU millis"},
		"instances": {func(r *wire.PlaceRequest) { r.Needs.Instances = -3 }, "-3 instances"},
		"limit":     {func(r *wire.PlaceRequest) { r.MaxInstances = -4 }, "maxInstances -4"},
	} {
		t.Run(name, func(t *testing.T) {
			r := usual()
			test.change(&r)
			_, err := place([]placement.Node{emptyNode("a")}, r, 1)
			if err == nil || err.Code != wire.CodeInvalid || !strings.Contains(err.Message, test.want) {
				t.Fatalf("got %v, want invalid with %q", err, test.want)
			}
		})
	}
}
