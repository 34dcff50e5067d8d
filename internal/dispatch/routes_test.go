package dispatch

import (
	"fmt"
	"slices"
	"strconv"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/dayfly-run/dayfly/wire"
)

// take takes a place among the warm instances of a version, or returns nil.
func (r *routes) take(v wire.VersionID) *ride {
	if f := r.fleets[v]; f != nil {
		if c := f.take(); c.slot != nil {
			return &c
		}
	}
	return nil
}

// start sends a cold call to a node, or returns nil.
func (r *routes) start(id wire.NodeID, v wire.VersionID, lease wire.LeaseID) *ride {
	if c := r.takeOn(id, v, lease, 1); c.slot != nil {
		return &c
	}
	return nil
}

var begin = time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC)

func version(n int) wire.VersionID {
	return wire.VersionID{FunctionID: wire.FunctionID{Namespace: "default", Name: "x"}, Number: n}
}

// state is a node's word with idle instances of version 1.
func state(id wire.NodeID, seq uint64, idle int) wire.NodeState {
	return wire.NodeState{Node: id, Run: "r1", Protocol: wire.Protocol, Seq: seq, Versions: []wire.VersionOnNode{{Version: version(1), Idle: idle, Slots: idle}}}
}

func TestTakeGoesToTheLeastBusyNode(t *testing.T) {
	r := newRoutes()
	r.apply(state("a", 1, 2), begin)
	r.apply(state("b", 1, 2), begin)
	r.start("a", version(2), "l1") // a call to another version counts as well
	var got []wire.NodeID
	for range 4 {
		got = append(got, r.take(version(1)).node.id)
	}
	slices.Sort(got[1:3])
	if fmt.Sprint(got) != "[b a b a]" {
		t.Errorf("calls went to %v", got)
	}
	if s := r.take(version(1)); s != nil {
		t.Errorf("a fifth call took an instance on %s", s.node.id)
	}
	if s := r.take(version(3)); s != nil {
		t.Error("took an instance that nobody has")
	}
}

func TestBusyInstancesOfOthersCountAsTaken(t *testing.T) {
	r := newRoutes()
	s := state("a", 1, 0)
	s.Versions = []wire.VersionOnNode{{Version: version(1), Starting: 3}}
	r.apply(s, begin)
	if r.take(version(1)) != nil {
		t.Error("took an instance that is only starting")
	}
}

// TestLateWord: what a node said before its answer does not undo what the answer
// showed, though it comes later.
func TestLateWord(t *testing.T) {
	r := newRoutes()
	r.apply(state("a", 1, 0), begin)
	r.done(*r.start("a", version(1), "l2"), alive, 3)
	for seq := uint64(2); seq <= 3; seq++ {
		r.apply(state("a", seq, 0), begin)
		s := r.take(version(1))
		if s == nil {
			t.Fatalf("after word %d the instance is forgotten", seq)
		}
		r.done(*s, alive, 3)
	}
	r.apply(state("a", 4, 0), begin)
	if r.take(version(1)) != nil {
		t.Error("a newer word does not count")
	}
}

// TestColdCallsTakeNothing: a call that starts an instance leaves the warm one to
// others.
func TestColdCallsTakeNothing(t *testing.T) {
	r := newRoutes()
	r.apply(state("a", 1, 1), begin)
	cold := r.start("a", version(1), "l3")
	warm := r.take(version(1))
	if warm == nil {
		t.Fatal("the warm instance is kept from a call")
	}
	if r.take(version(1)) != nil {
		t.Fatal("took one instance twice")
	}
	r.done(*cold, alive, 0)
	if r.take(version(1)) == nil {
		t.Error("the instance that the cold call started is not known")
	}
	r.done(*warm, alive, 0)
}

func TestDoneTeaches(t *testing.T) {
	r := newRoutes()
	r.apply(state("a", 1, 0), begin)
	cold := r.start("a", version(1), "l4")
	r.done(*cold, alive, 0)
	warm := r.take(version(1))
	if warm == nil {
		t.Fatal("the instance that a call started is not known")
	}
	r.done(*warm, dead, 0)
	if r.take(version(1)) != nil {
		t.Error("took an instance that died")
	}
	if len(r.fleets) != 0 || len(r.nodes["a"].slots) != 0 {
		t.Errorf("%d versions, %d slots are left", len(r.fleets), len(r.nodes["a"].slots))
	}
}

func TestLateStatesAreLeftOut(t *testing.T) {
	r := newRoutes()
	r.apply(state("a", 5, 1), begin)
	for _, seq := range []uint64{4, 5} {
		r.apply(state("a", seq, 9), begin.Add(time.Second))
	}
	if n := r.nodes["a"]; n.slots[version(1)].total != 1 || n.lastSeen != begin {
		t.Errorf("total %d, last seen %s", n.slots[version(1)].total, n.lastSeen)
	}
}

// TestNodesAreLost: however a node is lost, calls to it end and none go there.
func TestNodesAreLost(t *testing.T) {
	for name, lose := range map[string]func(*routes){
		"silent": func(r *routes) { r.expire(begin.Add(time.Nanosecond)) },
		"stopping": func(r *routes) {
			r.apply(wire.NodeState{Node: "a", Run: "r1", Protocol: wire.Protocol, Seq: 2, Stopping: true}, begin)
		},
		"another run": func(r *routes) { r.apply(wire.NodeState{Node: "a", Run: "r2", Protocol: wire.Protocol, Seq: 1}, begin) },
	} {
		t.Run(name, func(t *testing.T) {
			r := newRoutes()
			r.apply(state("a", 1, 2), begin)
			s := r.take(version(1))
			lose(r)
			if s.node.lost.Err() == nil {
				t.Error("the call goes on")
			}
			if r.take(version(1)) != nil {
				t.Error("a lost node gets a call")
			}
			r.done(*s, alive, 0)
			if r.take(version(1)) != nil || len(r.fleets) != 0 {
				t.Error("a call that ends brings a lost node back")
			}
			r.apply(wire.NodeState{Node: "a", Run: "r3", Protocol: wire.Protocol, Seq: 1, Versions: state("a", 1, 1).Versions}, begin)
			if s := r.take(version(1)); s == nil || s.node.lost.Err() != nil {
				t.Error("the node is not taken back")
			}
		})
	}
}

func TestNodesThatLiveStay(t *testing.T) {
	r := newRoutes()
	r.apply(state("a", 1, 1), begin)
	r.expire(begin)
	if r.take(version(1)) == nil {
		t.Error("a node that was heard just now is lost")
	}
	r.apply(wire.NodeState{Node: "b", Run: "r1", Protocol: wire.Protocol, Seq: 9, Stopping: true}, begin)
	if r.nodes["b"] != nil {
		t.Error("the last word of an unknown node makes it known")
	}
}

// TestDrainingNodes get the calls that they say they take, and no others: what an answer
// showed does not count there.
func TestDrainingNodes(t *testing.T) {
	r := newRoutes()
	r.apply(state("a", 1, 1), begin)
	answered := r.take(version(1))
	r.done(*answered, alive, 9)
	s := state("a", 2, 1)
	s.Draining = true
	r.apply(s, begin)
	kept := r.take(version(1))
	if kept == nil {
		t.Fatal("a draining node got no call for an instance that it offers")
	}
	if r.take(version(1)) != nil {
		t.Error("a draining node got more calls than it takes")
	}
	r.done(*kept, alive, 9)
	s = state("a", 3, 0)
	s.Draining = true
	r.apply(s, begin)
	if r.take(version(1)) != nil {
		t.Error("a draining node got a call that it does not take")
	}
	if r.start("a", version(1), "l5") == nil {
		t.Error("a draining node cannot refuse by itself")
	}
	if r.start("nobody", version(1), "l6") != nil {
		t.Error("took a place on an unknown node")
	}
}

// TestRoutesHold drives routes at random and checks after every step what must
// always be true.
func TestRoutesHold(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		r, now := newRoutes(), begin
		seqs := map[wire.NodeID]uint64{}
		var taken []*ride
		leases := 0
		nodes := rapid.SampledFrom([]wire.NodeID{"a", "b", "c"})
		versions := rapid.Map(rapid.IntRange(1, 3), version)
		t.Repeat(map[string]func(*rapid.T){
			"hear": func(t *rapid.T) {
				now = now.Add(time.Millisecond)
				id := nodes.Draw(t, "node")
				if !rapid.Bool().Draw(t, "late") {
					seqs[id]++
				}
				s := wire.NodeState{
					Node: id, Run: rapid.SampledFrom([]string{"r1", "r1", "r1", "r2"}).Draw(t, "run"), Seq: seqs[id], Protocol: wire.Protocol,
					Draining: rapid.IntRange(0, 5).Draw(t, "draining") == 0, Stopping: rapid.IntRange(0, 9).Draw(t, "stopping") == 0,
				}
				for n := 1; n <= 3; n++ {
					s.Versions = append(s.Versions, wire.VersionOnNode{
						Version: version(n), Starting: rapid.IntRange(0, 2).Draw(t, "starting"), Slots: rapid.IntRange(0, 4).Draw(t, "slots"),
					})
				}
				for _, c := range taken {
					if c.cold() && c.node.id == id && rapid.Bool().Draw(t, "settled") {
						s.Settled = append(s.Settled, c.lease)
					}
				}
				r.apply(s, now)
			},
			"expire": func(t *rapid.T) {
				r.expire(now.Add(-time.Duration(rapid.IntRange(0, 5).Draw(t, "age")) * time.Millisecond))
			},
			"take": func(t *rapid.T) {
				v := versions.Draw(t, "version")
				s := r.take(v)
				if s == nil {
					return
				}
				if s.fleet.version != v || s.inFlight+s.landed() > s.total {
					t.Fatalf("took %v: %d in flight and %d landed of %d", s.fleet.version, s.inFlight, s.landed(), s.total)
				}
				if s.node.lost.Err() != nil || r.nodes[s.node.id] != s.node {
					t.Fatalf("took an instance on %s, which is lost", s.node.id)
				}
				taken = append(taken, s)
			},
			"start": func(t *rapid.T) {
				id := nodes.Draw(t, "node")
				leases++
				s := r.start(id, versions.Draw(t, "version"), wire.LeaseID(strconv.Itoa(leases)))
				if (s != nil) != (r.nodes[id] != nil) {
					t.Fatalf("node %s known %t, slot %v", id, r.nodes[id] != nil, s)
				}
				if s != nil {
					taken = append(taken, s)
				}
			},
			"done": func(t *rapid.T) {
				if len(taken) == 0 {
					return
				}
				i := rapid.IntRange(0, len(taken)-1).Draw(t, "call")
				r.done(*taken[i], rapid.SampledFrom([]outcome{dead, alive, unused}).Draw(t, "outcome"), 0)
				taken = slices.Delete(taken, i, i+1)
			},
			"": func(t *rapid.T) { checkRoutes(t, r, taken) },
		})
	})
}

func checkRoutes(t *rapid.T, r *routes, taken []*ride) {
	inFlight, starting, onNode, cold := map[*slot]int{}, map[*slot]int{}, map[*node]int{}, map[*node]int{}
	for _, s := range taken {
		if s.cold() {
			starting[s.slot]++
			cold[s.node]++
		} else {
			inFlight[s.slot]++
		}
		onNode[s.node]++
		if live := r.nodes[s.node.id] == s.node; live != (s.node.lost.Err() == nil) {
			t.Fatalf("node %s known %t, its calls end: %v", s.node.id, live, s.node.lost.Err())
		}
	}
	for s, n := range inFlight {
		if s.inFlight != n {
			t.Fatalf("slot says %d in flight, %d are", s.inFlight, n)
		}
	}
	listed := 0
	for v, f := range r.fleets {
		if len(f.slots) == 0 {
			t.Fatalf("an empty fleet of %v is kept", v)
		}
		for _, s := range f.slots {
			listed++
			if s.fleet != f || f.version != v || r.nodes[s.node.id] != s.node || s.node.slots[v] != s {
				t.Fatalf("%v lists a slot of %v on %s that is none", v, s.fleet.version, s.node.id)
			}
		}
	}
	for id, n := range r.nodes {
		if n.id != id || n.inFlight != onNode[n] || len(n.leases) != cold[n] {
			t.Fatalf("node %s says %d in flight with %d leases, %d with %d are", id, n.inFlight, len(n.leases), onNode[n], cold[n])
		}
		unsettled := n.unsettled
		for _, s := range n.slots {
			listed--
			unsettled -= s.starting - s.settled
			if s.inFlight != inFlight[s] || s.starting != starting[s] || s.total < 0 || s.total+s.inFlight+s.starting == 0 {
				t.Fatalf("slot with %d in flight of %d, %d starting, is kept", s.inFlight, s.total, s.starting)
			}
			if s.settled < 0 || s.settled > s.starting || s.rising < 0 {
				t.Fatalf("slot with %d settled of %d, %d rising", s.settled, s.starting, s.rising)
			}
		}
		if unsettled != 0 {
			t.Fatalf("node %s has %d more unsettled leases than its slots", id, unsettled)
		}
	}
	if listed != 0 {
		t.Fatalf("%d more slots are listed than nodes have", listed)
	}
}
