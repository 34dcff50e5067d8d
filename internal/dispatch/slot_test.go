package dispatch

import (
	"testing"

	"github.com/dayfly-run/dayfly/wire"
)

// word is a node's state with instances of version 1 and the leases it has settled.
func word(seq uint64, starting, slots int, settled ...wire.LeaseID) wire.NodeState {
	return wire.NodeState{
		Node: "a", Run: "r1", Seq: seq, Protocol: wire.Protocol, Settled: settled,
		Versions: []wire.VersionOnNode{{Version: version(1), Starting: starting, Slots: slots}},
	}
}

// freeSlots is how many calls find an instance.
func freeSlots(r *routes) (n int) {
	var taken []*ride
	for c := r.take(version(1)); c != nil; c = r.take(version(1)) {
		taken = append(taken, c)
	}
	for _, c := range taken {
		r.done(*c, unused, 0)
	}
	return len(taken)
}

func wantFree(t *testing.T, r *routes, when string, want int) {
	t.Helper()
	if got := freeSlots(r); got != want {
		t.Errorf("%s: %d slots are free, want %d", when, got, want)
	}
}

// TestInstancesOfColdCallsAreBusy: a node counts the instance of a cold call from
// here as soon as it runs, but the call is on it.
func TestInstancesOfColdCallsAreBusy(t *testing.T) {
	r := newRoutes()
	r.apply(word(1, 0, 0), begin)
	c := r.start("a", version(1), "l1")
	r.apply(word(2, 1, 0, "l1"), begin)
	wantFree(t, r, "while it starts", 0)
	r.apply(word(3, 0, 1, "l1"), begin)
	wantFree(t, r, "while it runs", 0)
	r.apply(word(4, 0, 2, "l1"), begin)
	wantFree(t, r, "with an idle one beside it", 1)
	r.done(*c, alive, 4)
	wantFree(t, r, "after it", 2)
	r.apply(word(5, 0, 2, "l1"), begin)
	wantFree(t, r, "after the node's next word", 2)
}

// TestColdCallsBringTheirSlots, once: either the node has counted them, or not yet.
func TestColdCallsBringTheirSlots(t *testing.T) {
	for name, words := range map[string][]wire.NodeState{
		"no word":  nil,
		"starting": {word(2, 1, 0, "l1")},
		"running":  {word(2, 1, 0, "l1"), word(3, 0, 10, "l1")},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRoutes()
			r.apply(word(1, 0, 0), begin)
			c := r.takeOn("a", version(1), "l1", 10)
			for _, w := range words {
				r.apply(w, begin)
			}
			if len(words) == 2 {
				wantFree(t, r, "while the first call runs", 9)
			}
			r.done(c, alive, 3)
			wantFree(t, r, "after it", 10)
			r.apply(word(4, 0, 10), begin)
			wantFree(t, r, "after the node's next word", 10)
		})
	}
}

// TestDeadInstancesBringNothing, nor those that are there for one event only.
func TestDeadInstancesBringNothing(t *testing.T) {
	r := newRoutes()
	r.apply(word(1, 0, 1), begin)
	for i, w := range []wire.NodeState{{}, word(2, 1, 1, "l1"), word(3, 0, 2, "l2")} {
		c := r.start("a", version(1), wire.LeaseID([]string{"l0", "l1", "l2"}[i]))
		if w.Seq > 0 {
			r.apply(w, begin)
		}
		wantFree(t, r, "before", 1)
		r.done(*c, dead, 0)
		wantFree(t, r, "after", 1)
	}
	r.apply(word(4, 0, 0), begin)
	c := r.start("a", version(1), "l3")
	r.apply(word(5, 0, 0, "l3"), begin) // it runs, and takes no other event
	f := r.fleets[version(1)]
	if all, starting := f.instances(); all != 1 || starting != 0 {
		t.Errorf("%d instances, %d of them start; want 1 that runs", all, starting)
	}
	r.done(*c, dead, 0)
	if len(r.fleets) != 0 {
		t.Errorf("%d fleets are left", len(r.fleets))
	}
}

// TestUnusedRidesTeachNothing.
func TestUnusedRidesTeachNothing(t *testing.T) {
	r := newRoutes()
	r.apply(word(1, 0, 1), begin)
	r.done(*r.take(version(1)), unused, 0)
	wantFree(t, r, "warm", 1)
	r.done(*r.start("a", version(1), "l1"), unused, 0)
	wantFree(t, r, "cold", 1)
}

// TestRoomier: what makes the scheduler worth asking again.
func TestRoomier(t *testing.T) {
	r := newRoutes()
	say := func(seq uint64, reserved, idle int64) bool {
		return r.apply(wire.NodeState{
			Node: "a", Run: "r1", Seq: seq, Protocol: wire.Protocol,
			Reserved: wire.Resources{MemoryBytes: reserved, CPUMillis: 7}, Idle: wire.Resources{MemoryBytes: idle},
		}, begin)
	}
	for i, step := range []struct {
		reserved, idle int64
		want           bool
	}{{10, 0, true}, {10, 0, false}, {20, 0, false}, {20, 5, true}, {20, 4, false}, {19, 4, true}} {
		if got := say(uint64(i+1), step.reserved, step.idle); got != step.want {
			t.Errorf("step %d: %t", i, got)
		}
	}
	if say(3, 0, 0) {
		t.Error("an old word makes room")
	}
}
