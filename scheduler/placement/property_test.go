package placement_test

import (
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strconv"
	"testing"

	"github.com/dayfly-run/dayfly/scheduler/placement"
	"github.com/dayfly-run/dayfly/wire"
	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"pgregory.net/rapid"
)

func byID(nodes []placement.Node, id wire.NodeID) *placement.Node {
	i := slices.IndexFunc(nodes, func(n placement.Node) bool { return n.ID == id })
	return &nodes[i]
}

// drawPlaced draws a cluster and a request that finds a node in it.
func drawPlaced(t *rapid.T) (nodes []placement.Node, r wire.PlaceRequest, seed uint64, d placement.Decision) {
	nodes, r, seed = drawNodes(t, 2), drawRequest(t), drawSeed(t)
	r.Runtime, r.Selector = "python", rapid.SampledFrom([]map[string]string{nil, {"disk": "ssd"}, {"node": "node-0"}}).Draw(t, "labels")
	// One node that surely qualifies keeps most draws useful.
	nodes[0] = with(nodes[0], seen(0), runtimes("python"), func(n *placement.Node) {
		n.Draining, n.Incompatible = false, false
		n.Labels["disk"], n.Labels[wire.LabelArch] = "ssd", r.Arch
		n.Capacity = n.Reserved.Plus(resources(gib, 4000, 10))
	})
	r.Exclude = slices.DeleteFunc(r.Exclude, func(id wire.NodeID) bool { return id == nodes[0].ID })
	d, err := place(nodes, r, seed)
	if err != nil {
		t.Fatalf("%s qualifies, but: %v", nodes[0].ID, err)
	}
	return nodes, r, seed, d
}

func TestChosenNodeQualifies(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		nodes, r, _, d := drawPlaced(t)
		n := byID(nodes, d.Node)
		switch {
		case now.Sub(n.LastSeen) > wire.NodeLostAfter:
			t.Fatalf("%s is lost", n.ID)
		case n.Draining:
			t.Fatalf("%s is draining", n.ID)
		case n.Incompatible:
			t.Fatalf("%s is incompatible", n.ID)
		case !chosen(*n, r):
			t.Fatalf("%s is not selected: %v, %v %s", n.ID, n.Labels, r.Selector, r.Arch)
		case slices.Contains(r.Exclude, n.ID):
			t.Fatalf("%s is excluded", n.ID)
		case !slices.Contains(n.Runtimes, r.Runtime):
			t.Fatalf("%s lacks the runtime", n.ID)
		case !n.Capacity.Fits(busy(*n).Plus(r.Needs)):
			t.Fatalf("%s is overcommitted: capacity %+v, busy %+v, needs %+v", n.ID, n.Capacity, busy(*n), r.Needs)
		}
		if local := slices.Contains(n.Codes, r.Code); local != d.Local {
			t.Fatalf("Local is %t, the node holds the code: %t", d.Local, local)
		}
		if stem := r.Stem != "" && n.Stems[r.Stem] > 0; stem != d.Stem {
			t.Fatalf("Stem is %t, the node has one: %t", d.Stem, stem)
		}
		if evicts := !n.Capacity.Fits(n.Reserved.Plus(r.Needs)); evicts != d.Evicts {
			t.Fatalf("Evicts is %t, must evict: %t", d.Evicts, evicts)
		}
	})
}

func checkReference(t *rapid.T, nodes []placement.Node, r wire.PlaceRequest, d placement.Decision, err *wire.Error) {
	ids, most := reference(nodes, r)
	if len(ids) == 0 {
		if err == nil || err.Code != wire.CodeNoCapacity {
			t.Fatalf("no node qualifies; got %+v, %v", d, err)
		}
		return
	}
	if err != nil {
		t.Fatalf("%v qualify, but: %v", ids, err)
	}
	if !slices.Contains(ids, d.Node) {
		t.Fatalf("got %+v, want one of %v, worth %d", d, ids, most)
	}
}

// It places whenever a node qualifies, and on the one that the rules say.
func TestAgreesWithReference(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		nodes, r := drawNodes(t, 0), drawRequest(t)
		d, err := place(nodes, r, drawSeed(t))
		checkReference(t, nodes, r, d, err)
	})
}

// In a larger cluster the search for a node with the code takes other paths.
func TestAgreesWithReferenceInLargeCluster(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		holders := rapid.SampledFrom([]int{1, 3, 30, 150, 300}).Draw(t, "holders")
		stems := rapid.SampledFrom([]int{0, 1, 30, 200, 300}).Draw(t, "with a stem")
		stemsFrom := rapid.SampledFrom([]int{0, 20, 270}).Draw(t, "the first with a stem")
		needs := rapid.SampledFrom([]int64{128, 600, 1000}).Draw(t, "needs MiB")
		levels := rapid.SampledFrom([]int64{1, 4, 40}).Draw(t, "levels of load")
		zones := rapid.SampledFrom([]int{1, 2, 3, 40}).Draw(t, "zones")
		rare := rapid.SampledFrom([]int{0, 1, 5, 100, 300}).Draw(t, "with a rare label")
		serials := rapid.Bool().Draw(t, "a label of its own each")
		running := rapid.SampledFrom([]int{0, 1, 5, 60}).Draw(t, "instances")
		busyZone := rapid.Int64Range(0, 12).Draw(t, "extra load of zone 0")
		moreOnHolders := rapid.Int64Range(0, 12).Draw(t, "extra load of holders")
		rnd := seeded(rapid.Uint64().Draw(t, "cluster"))
		nodes := make([]placement.Node, 300)
		for i := range nodes {
			n := emptyNode(wire.NodeID(fmt.Sprintf("node-%d", i)))
			n.Reserved.MemoryBytes = rnd.Int64N(levels) * 16 * mib
			if i < holders {
				n.Codes = []wire.Digest{"c0"}
				n.Reserved.MemoryBytes += moreOnHolders * 32 * mib
			}
			if i >= stemsFrom && i < stemsFrom+stems {
				n.Stems = map[string]int{"s0": 1 + i%2}
			}
			zone := i % zones
			if zone == 0 {
				n.Reserved.MemoryBytes += busyZone * 32 * mib
			}
			n = with(n, labelled(wire.LabelZone, fmt.Sprintf("z%d", zone), wire.LabelArch, "amd64"))
			if i*7%300 < rare {
				n = with(n, labelled("rare", "yes"))
			}
			if serials {
				n = with(n, labelled("serial", strconv.Itoa(i)))
			}
			if rnd.IntN(300) < running {
				n.Versions = map[wire.VersionID]int{version(3): 1 + rnd.IntN(2)}
			}
			switch rnd.IntN(10) {
			case 0:
				n.Runtimes = []string{"node"}
			case 1:
				n.Draining = true
			case 2:
				n.LastSeen = now.Add(-2 * wire.NodeLostAfter)
			}
			nodes[i] = n
		}
		r := usual()
		r.MaxInstances = 0
		r.Needs.MemoryBytes = needs * mib
		r.Selector = rapid.SampledFrom([]map[string]string{
			nil, {"rare": "yes"}, {"arch": "amd64"}, {"zone": "z0"}, {"zone": "z1", "rare": "yes"}, {"node": "node-5"}, {"serial": "17"},
		}).Draw(t, "selector")
		r.Exclude = []wire.NodeID{"node-0", "node-7", "node-299"}
		d, err := place(nodes, r, drawSeed(t))
		checkReference(t, nodes, r, d, err)
	})
}

func TestLessLoadKeepsTheChosen(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		nodes, r, seed, d := drawPlaced(t)
		n := byID(nodes, d.Node)
		less := func(what string, v int64) int64 { return rapid.Int64Range(0, v).Draw(t, "less "+what) }
		n.Reserved = resources(less("memory", n.Reserved.MemoryBytes), less("CPU", n.Reserved.CPUMillis),
			int(less("instances", int64(n.Reserved.Instances))))
		n.Load = rapid.Float64Range(0, n.Load).Draw(t, "less load")
		if rapid.Bool().Draw(t, "more idle") {
			n.Idle = n.Idle.Plus(resources(64*mib, 250, 1))
		}
		again, err := place(nodes, r, seed)
		if err != nil || again.Node != d.Node {
			t.Fatalf("was %s, with less load on it %s, %v", d.Node, again.Node, err)
		}
	})
}

func TestMoreLoadAttractsNothing(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		nodes, r, seed, d := drawPlaced(t)
		i := rapid.IntRange(0, len(nodes)-1).Draw(t, "busier")
		n := &nodes[i]
		if n.ID == d.Node {
			return
		}
		n.Reserved = n.Reserved.Plus(drawResources(t, 4, "more"))
		n.Load += rapid.SampledFrom([]float64{0, 0.001, 0.5, 2}).Draw(t, "more load")
		n.Idle.MemoryBytes = rapid.Int64Range(0, n.Idle.MemoryBytes).Draw(t, "less idle memory")
		again, err := place(nodes, r, seed)
		if err != nil || again.Node == n.ID {
			t.Fatalf("was %s, with more load on %s it is %s, %v", d.Node, n.ID, again.Node, err)
		}
	})
}

func TestSameInputSameDecisionInAnyOrder(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		nodes, r, seed := drawNodes(t, 0), drawRequest(t), drawSeed(t)
		r.MaxInstances = rapid.IntRange(0, 4).Draw(t, "max instances")
		first, firstErr := place(nodes, r, seed)
		again, againErr := place(rapid.Permutation(nodes).Draw(t, "order"), r, seed)
		if first != again {
			t.Fatalf("%+v, then %+v", first, again)
		}
		if diff := cmp.Diff(firstErr, againErr); diff != "" {
			t.Fatal(diff)
		}
	})
}

func TestSnapshotIsOnlyRead(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		nodes, r := drawNodes(t, 0), drawRequest(t)
		s, twin := placement.NewSnapshot(nodes...), placement.NewSnapshot(nodes...)
		_, _ = placement.Place(s, r, now, seeded(drawSeed(t)))
		if !reflect.DeepEqual(s, twin) {
			t.Fatal("Place changed the snapshot")
		}
	})
}

// Whatever happens, a decision takes one random number, so that a recorded
// sequence of decisions can be replayed.
func TestOneRandomNumberEach(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		r := drawRequest(t)
		r.MaxInstances = rapid.IntRange(-1, 3).Draw(t, "max instances")
		used, want := seeded(1), seeded(1)
		_, _ = placement.Place(placement.NewSnapshot(drawNodes(t, 0)...), r, now, used)
		want.Uint64()
		if used.Uint64() != want.Uint64() {
			t.Fatal("the random sequence moved by other than one")
		}
	})
}

// A cluster is filled until it refuses: no node was ever overcommitted, and
// none had room left.
func TestFillsToTheBrimAndNoFurther(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		nodes, r, rnd := drawNodes(t, 1), drawRequest(t), seeded(drawSeed(t))
		r.Needs = r.Needs.Plus(resources(64*mib, 250, 1))
		s := placement.NewSnapshot(nodes...)
		placed := 0
		for {
			d, err := placement.Place(s, r, now, rnd)
			if err != nil {
				break
			}
			placed++
			s.Reserve(d.Node, claim(r))
			n, _ := s.Node(d.Node)
			if !n.Capacity.Fits(busy(n)) {
				t.Fatalf("%s is overcommitted: %+v of %+v busy", n.ID, busy(n), n.Capacity)
			}
		}
		for i := range nodes {
			n, _ := s.Node(nodes[i].ID)
			if qualifies(n, r) {
				t.Fatalf("refused after %d, but %s has room", placed, n.ID)
			}
		}
	})
}

func TestEqualNodesShareEqually(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		nodes := make([]placement.Node, rapid.IntRange(1, 20).Draw(t, "nodes"))
		for i := range nodes {
			nodes[i] = with(emptyNode(wire.NodeID(fmt.Sprintf("node-%d", i))), codes("c0"))
		}
		s, rnd, counts := placement.NewSnapshot(nodes...), seeded(drawSeed(t)), map[wire.NodeID]int{}
		r := usual()
		r.MaxInstances = 0
		if rapid.Bool().Draw(t, "code unknown everywhere") {
			r.Code = "c9"
		}
		for range rapid.IntRange(0, 8*len(nodes)).Draw(t, "placements") {
			d, err := placement.Place(s, r, now, rnd)
			if err != nil {
				t.Fatal(err)
			}
			s.Reserve(d.Node, claim(r))
			counts[d.Node]++
		}
		least, most := 1<<30, 0
		for _, n := range nodes {
			least, most = min(least, counts[n.ID]), max(most, counts[n.ID])
		}
		if most-least > 1 {
			t.Fatalf("between %d and %d placements a node: %v", least, most, counts)
		}
	})
}

// A node with the code wins exactly as long as it is within the slack.
func TestLocalWithinSlack(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		// With a capacity of 1,000 instances one instance is one point of score.
		base := rapid.IntRange(0, 300).Draw(t, "least loaded")
		above := rapid.IntRange(0, 2*placement.LocalSlack).Draw(t, "local is above by")
		others := rapid.SampledFrom([]int{1, 10, 200}).Draw(t, "others")
		loaded := func(id wire.NodeID, instances int) placement.Node {
			n := emptyNode(id)
			n.Capacity.Instances, n.Reserved.Instances = 1000, instances
			return n
		}
		nodes := []placement.Node{with(loaded("local", base+above), codes("c0"))}
		for i := range others {
			nodes = append(nodes, loaded(wire.NodeID(fmt.Sprintf("other-%d", i)), base))
		}
		d, err := place(nodes, usual(), drawSeed(t))
		if err != nil {
			t.Fatal(err)
		}
		if want := above <= placement.LocalSlack; d.Local != want || want != (d.Node == "local") {
			t.Fatalf("local is %d above the least loaded: got %+v", above, d)
		}
	})
}

// What is preferred wins exactly as long as it is within the slack: a stem and the
// code over a stem, a stem over the code, the code over nothing.
func TestWorthWithinSlack(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		base := rapid.IntRange(0, 300).Draw(t, "least loaded")
		loaded := func(id wire.NodeID, instances int, changes ...func(*placement.Node)) placement.Node {
			n := with(emptyNode(id), changes...)
			n.Capacity.Instances, n.Reserved.Instances = 1000, instances
			return n
		}
		above := func(what string) int {
			return base + rapid.IntRange(0, 2*placement.LocalSlack).Draw(t, what+" is above by")
		}
		worthy := []placement.Node{ // best first
			loaded("both", above("both"), stems("s0", 1), codes("c0")),
			loaded("stem", above("stem"), stems("s0", 3)),
			loaded("code", above("code"), codes("c0"), stems("s0", 0)),
		}
		nodes := slices.Clone(worthy)
		for i := range rapid.SampledFrom([]int{1, 10, 200}).Draw(t, "others") {
			nodes = append(nodes, loaded(wire.NodeID(fmt.Sprintf("other-%d", i)), base, stems("s1", 2)))
		}
		d, err := place(nodes, usual(), drawSeed(t))
		if err != nil {
			t.Fatal(err)
		}
		want := slices.IndexFunc(worthy, func(n placement.Node) bool { return n.Reserved.Instances <= base+placement.LocalSlack })
		if want >= 0 && d.Node != worthy[want].ID || want < 0 && (d.Stem || d.Local) {
			t.Fatalf("got %+v of %+v", d, worthy)
		}
	})
}

// A burst takes each stem once, as far as the slack lets it.
func TestBurstTakesEachStemOnce(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		nodes, total := make([]placement.Node, rapid.IntRange(1, 20).Draw(t, "nodes")), 0
		for i := range nodes {
			n := rapid.IntRange(0, 3).Draw(t, "stems")
			nodes[i] = with(emptyNode(wire.NodeID(fmt.Sprintf("node-%d", i))), stems("s0", n))
			total += n
		}
		s, r, rnd := placement.NewSnapshot(nodes...), usual(), seeded(drawSeed(t))
		r.MaxInstances, r.Needs = 0, resources(mib, 1, 1) // far below the slack
		for i := range total + 3 {
			d, err := placement.Place(s, r, now, rnd)
			if err != nil || (i < total) != d.Stem {
				t.Fatalf("call %d of %d stems: %+v, %v", i, total, d, err)
			}
			s.Reserve(d.Node, claim(r))
		}
	})
}

// A snapshot that lived through changes decides as one made anew.
func TestChangedSnapshotEqualsNewOne(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s, model := placement.NewSnapshot(), map[wire.NodeID]placement.Node{}
		ids := make([]wire.NodeID, 6)
		for i := range ids {
			ids[i] = wire.NodeID(fmt.Sprintf("node-%d", i))
		}
		drawID := func(t *rapid.T) wire.NodeID { return rapid.SampledFrom(ids).Draw(t, "id") }
		// change keeps model independent of the maps that s was given.
		change := func(id wire.NodeID, needs wire.Resources, stem string, by int) {
			n := model[id]
			n.Reserved = n.Reserved.Plus(needs)
			n.Versions = changed(n.Versions, version(3), by)
			if stem != "" {
				n.Stems = changed(n.Stems, stem, -by)
			}
			model[id] = n
		}
		drawClaim := func(t *rapid.T) placement.Claim {
			return placement.Claim{
				Version: version(3), Needs: drawResources(t, 3, "claim"),
				Stem: rapid.SampledFrom([]string{"", "s0", "s1"}).Draw(t, "stem"),
			}
		}
		t.Repeat(map[string]func(*rapid.T){
			"put": func(t *rapid.T) {
				n := drawNode(t, drawID(t))
				s.Put(n)
				model[n.ID] = n
			},
			"remove": func(t *rapid.T) {
				id := drawID(t)
				_, known := model[id]
				if got := s.Remove(id); got != known {
					t.Fatalf("Remove(%s) = %t, want %t", id, got, known)
				}
				delete(model, id)
			},
			"reserve": func(t *rapid.T) {
				id, c := drawID(t), drawClaim(t)
				_, known := model[id]
				if got := s.Reserve(id, c); got != known {
					t.Fatalf("Reserve(%s) = %t, want %t", id, got, known)
				}
				if known {
					change(id, c.Needs, c.Stem, 1)
				}
			},
			"release": func(t *rapid.T) {
				id, c := drawID(t), drawClaim(t)
				_, known := model[id]
				if got := s.Release(id, c); got != known {
					t.Fatalf("Release(%s) = %t, want %t", id, got, known)
				}
				if known {
					change(id, wire.Resources{}.Minus(c.Needs), c.Stem, -1)
				}
			},
			"": func(t *rapid.T) { checkAgainst(t, s, model) },
		})
	})
}

// changed returns a copy of counts with one changed, without zeros.
func changed[K comparable](counts map[K]int, key K, by int) map[K]int {
	next := map[K]int{}
	maps.Copy(next, counts)
	if next[key] += by; next[key] == 0 {
		delete(next, key)
	}
	return next
}

func checkAgainst(t *rapid.T, s *placement.Snapshot, model map[wire.NodeID]placement.Node) {
	var nodes []placement.Node
	for _, n := range model {
		nodes = append(nodes, n)
		got, ok := s.Node(n.ID)
		if diff := cmp.Diff(n, got, cmpopts.EquateEmpty()); !ok || diff != "" {
			t.Fatalf("node %s (known: %t): %s", n.ID, ok, diff)
		}
	}
	if s.Len() != len(model) {
		t.Fatalf("Len is %d, want %d", s.Len(), len(model))
	}
	fresh := placement.NewSnapshot(nodes...)
	for _, code := range []wire.Digest{"c0", "c1", "c2"} {
		for _, runtime := range []string{"python", "node", "rust"} {
			for limit := range 4 {
				r := usual()
				r.Code, r.Runtime, r.MaxInstances = code, runtime, limit
				r.Stem = []string{"s0", "s1", "s2", ""}[limit]
				r.Selector = []map[string]string{nil, {"disk": "ssd"}, {"zone": "a"}, {"node": "node-1"}}[limit]
				r.Arch = []string{"", "", "amd64", ""}[limit]
				seed := uint64(limit) << 62 // starts ties at four points of the ring
				got, gotErr := placement.Place(s, r, now, seeded(seed))
				want, wantErr := placement.Place(fresh, r, now, seeded(seed))
				if got != want || !cmp.Equal(gotErr, wantErr) {
					t.Fatalf("seed %d, %+v:\n%+v, %v\nfresh: %+v, %v", seed, r, got, gotErr, want, wantErr)
				}
				if limit == 0 {
					checkReference(t, nodes, r, got, gotErr)
				}
			}
		}
	}
}
