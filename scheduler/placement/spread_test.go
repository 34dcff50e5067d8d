package placement_test

import (
	"fmt"
	"slices"
	"strconv"
	"testing"

	"pgregory.net/rapid"

	"github.com/dayfly-run/dayfly/scheduler/placement"
	"github.com/dayfly-run/dayfly/wire"
)

func TestSpreadOverZones(t *testing.T) {
	in := func(zone string) func(*placement.Node) { return labelled(wire.LabelZone, zone) }
	runsHere := runs(version(3), 1)
	for name, test := range map[string]struct {
		nodes []placement.Node
		want  wire.NodeID
	}{
		"another zone": {
			nodes: []placement.Node{
				with(emptyNode("a"), in("1"), runsHere), with(emptyNode("b"), in("1")), with(emptyNode("c"), in("2"), reserved(resources(100*mib, 0, 1))),
			},
			want: "c",
		},
		"another zone rather than the code": {
			nodes: []placement.Node{with(emptyNode("a"), in("1"), runsHere, codes("c0"), stems("s0", 1)), with(emptyNode("b"), in("2"))},
			want:  "b",
		},
		"the code within the zone": {
			nodes: []placement.Node{
				with(emptyNode("a"), in("1"), runsHere), with(emptyNode("b"), in("2")), with(emptyNode("c"), in("2"), codes("c0"), reserved(resources(100*mib, 0, 1))),
			},
			want: "c",
		},
		"the same zone when the other has no room": {
			nodes: []placement.Node{with(emptyNode("a"), in("1"), runsHere), with(emptyNode("b"), in("2"), reserved(resources(gib, 0, 1)))},
			want:  "a",
		},
		"the same zone when the other is much busier": {
			nodes: []placement.Node{with(emptyNode("a"), in("1"), runsHere), with(emptyNode("b"), in("2"), reserved(resources(512*mib, 0, 1)))},
			want:  "a",
		},
		"the zone with fewest": {
			nodes: []placement.Node{
				with(emptyNode("a"), in("1"), runs(version(3), 3)), with(emptyNode("b"), in("2"), runs(version(3), 2), reserved(resources(50*mib, 0, 1))),
				with(emptyNode("c"), in("3"), runs(version(3), 3)), with(emptyNode("d"), in("4"), draining),
			},
			want: "b",
		},
		"no zone is one as well": {
			nodes: []placement.Node{with(emptyNode("a"), runsHere), with(emptyNode("b"), in("1"), reserved(resources(50*mib, 0, 1)))},
			want:  "b",
		},
		"what others run does not count": {
			nodes: []placement.Node{with(emptyNode("a"), in("1"), runs(version(4), 3)), with(emptyNode("b"), in("2"), reserved(resources(50*mib, 0, 1)))},
			want:  "a",
		},
	} {
		t.Run(name, func(t *testing.T) {
			if d := mustPlace(t, placement.NewSnapshot(test.nodes...), usual(), seeded(1)); d.Node != test.want {
				t.Errorf("got %s, want %s", d.Node, test.want)
			}
		})
	}
}

// As a function grows, each instance goes to a zone that has fewest, of those with a node
// within the slack, and zones that are alike differ by one at most.
func TestZonesGrowTogether(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		zones := rapid.IntRange(1, 5).Draw(t, "zones")
		alike := rapid.Bool().Draw(t, "alike")
		var nodes []placement.Node
		for z := range zones {
			size := 4
			if !alike {
				size = rapid.IntRange(1, 6).Draw(t, fmt.Sprintf("nodes of zone %d", z))
			}
			for i := range size {
				n := with(emptyNode(wire.NodeID(fmt.Sprintf("node-%d-%d", z, i))), labelled(wire.LabelZone, strconv.Itoa(z)))
				if !alike {
					n.Reserved.MemoryBytes = rapid.Int64Range(0, 8).Draw(t, string(n.ID)) * 128 * mib
				}
				nodes = append(nodes, n)
			}
		}
		s, r, rnd := placement.NewSnapshot(nodes...), usual(), seeded(drawSeed(t))
		r.MaxInstances = 0
		for range rapid.IntRange(1, 40).Draw(t, "instances") {
			for i := range nodes {
				nodes[i], _ = s.Node(nodes[i].ID)
			}
			counts := inZones(nodes, r.Version)
			d, err := placement.Place(s, r, now, rnd)
			if err != nil {
				break
			}
			for _, n := range within(nodes, r, placement.LocalSlack) {
				if to := zoneOf(*byID(nodes, d.Node)); counts[zoneOf(n)] < counts[to] {
					t.Fatalf("went to zone %s with %d instances, %s in zone %s with %d would do", to, counts[to], n.ID, zoneOf(n), counts[zoneOf(n)])
				}
			}
			s.Reserve(d.Node, claim(r))
			if counts = counted(s, nodes, r.Version); alike && most(counts)-least(counts) > 1 {
				t.Fatalf("zones differ: %v", counts)
			}
		}
	})
}

func counted(s *placement.Snapshot, nodes []placement.Node, v wire.VersionID) map[string]int {
	var all []placement.Node
	for _, n := range nodes {
		now, _ := s.Node(n.ID)
		all = append(all, now)
	}
	return inZones(all, v)
}

func most(counts map[string]int) int  { return slices.Max(values(counts)) }
func least(counts map[string]int) int { return slices.Min(values(counts)) }

func values(counts map[string]int) (all []int) {
	for _, n := range counts {
		all = append(all, n)
	}
	return all
}

// More kinds of nodes than a decision remembers without taking memory.
func TestVeryManyKindsOfNodes(t *testing.T) {
	s := placement.NewSnapshot()
	for i := range 1500 {
		n := with(emptyNode(wire.NodeID(fmt.Sprintf("node-%d", i))), labelled("serial", strconv.Itoa(i), wire.LabelZone, strconv.Itoa(i%3)))
		s.Put(n)
	}
	r := usual()
	r.Selector = map[string]string{"serial": "1400"}
	if d := mustPlace(t, s, r, seeded(1)); d.Node != "node-1400" {
		t.Errorf("placed on %s", d.Node)
	}
	s.Reserve("node-1400", claim(r)) // in zone 2
	r.Selector = map[string]string{"zone": "2"}
	mustPlace(t, s, r, seeded(1))
	r.Selector = nil
	for seed := range uint64(20) {
		if d := mustPlace(t, s, r, seeded(seed)); placedIn(s, d) == "2" {
			t.Errorf("%s is in the zone that has an instance", d.Node)
		}
	}
	for i := range 1500 { // what no node has is forgotten
		s.Put(emptyNode(wire.NodeID(fmt.Sprintf("node-%d", i))))
	}
	if _, err := placement.Place(s, selecting(r, "serial", "1"), now, seeded(1)); err == nil {
		t.Error("a label that went is still there")
	}
}

func placedIn(s *placement.Snapshot, d placement.Decision) string {
	n, _ := s.Node(d.Node)
	return zoneOf(n)
}

func selecting(r wire.PlaceRequest, key, value string) wire.PlaceRequest {
	r.Selector = map[string]string{key: value}
	return r
}
