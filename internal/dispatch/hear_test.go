package dispatch

import (
	"encoding/json"
	"fmt"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/dayfly-run/dayfly/internal/bus"
	"github.com/dayfly-run/dayfly/internal/embed/embedtest"
	"github.com/dayfly-run/dayfly/wire"
)

// TestWordsSayAsMuchAsStates gives one dispatcher whole states and another one what
// changed, while calls come and go: both know the same of all slots.
func TestWordsSayAsMuchAsStates(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		now := begin
		plain, words := newAdmission(), newAdmission()
		told := map[wire.NodeID]*wire.NodeState{}
		states := map[wire.NodeID]*wire.NodeState{"a": {Node: "a", Run: "r0"}, "b": {Node: "b", Run: "r0"}}
		var rides [][2]ride
		leases := 0
		nodes := rapid.SampledFrom([]wire.NodeID{"a", "b"})
		tell := func(t *rapid.T, id wire.NodeID, change func(*wire.NodeState)) {
			st := states[id]
			st.Seq++
			change(st)
			st.Sort()
			next := *st
			next.Versions, next.Settled = slices.Clone(st.Versions), slices.Clone(st.Settled)
			var w wire.NodeWord
			if last := told[id]; last != nil && rapid.IntRange(0, 9).Draw(t, "whole") > 0 {
				w.Delta = wire.Diff(last, &next)
			}
			if w.Delta == nil {
				whole := next
				w.Whole = &whole
			}
			told[id] = &next
			now = now.Add(time.Millisecond)
			plain.heard(next, now)
			words.hear(id, w, now)
		}
		both := func(do func(*admission) ride) {
			rides = append(rides, [2]ride{do(plain), do(words)})
			if r := rides[len(rides)-1]; (r[0].slot == nil) != (r[1].slot == nil) {
				t.Fatalf("a place by states: %t, by words: %t", r[0].slot != nil, r[1].slot != nil)
			}
			if rides[len(rides)-1][0].slot == nil {
				rides = rides[:len(rides)-1]
			}
		}
		t.Repeat(map[string]func(*rapid.T){
			"beat": func(t *rapid.T) { tell(t, nodes.Draw(t, "node"), func(*wire.NodeState) {}) },
			"change": func(t *rapid.T) {
				n := wire.VersionOnNode{
					Version: version(rapid.IntRange(1, 2).Draw(t, "version")), Starting: rapid.IntRange(0, 1).Draw(t, "starting"),
					Slots: rapid.IntRange(0, 3).Draw(t, "slots"),
				}
				tell(t, nodes.Draw(t, "node"), func(st *wire.NodeState) {
					st.Versions = append(slices.DeleteFunc(st.Versions, func(o wire.VersionOnNode) bool { return o.Version == n.Version }), n)
				})
			},
			"settle": func(t *rapid.T) {
				id := wire.LeaseID(fmt.Sprint("l", rapid.IntRange(0, leases).Draw(t, "lease")))
				tell(t, nodes.Draw(t, "node"), func(st *wire.NodeState) {
					if !slices.Contains(st.Settled, id) {
						st.Settled = append(st.Settled, id)
					}
				})
			},
			"drain": func(t *rapid.T) {
				draining := rapid.Bool().Draw(t, "draining")
				tell(t, nodes.Draw(t, "node"), func(st *wire.NodeState) { st.Draining = draining })
			},
			"restart": func(t *rapid.T) {
				id := nodes.Draw(t, "node")
				if told[id] == nil {
					return
				}
				*states[id] = wire.NodeState{Node: id, Run: told[id].Run + "+"}
				told[id] = nil
				tell(t, id, func(*wire.NodeState) {})
			},
			"take": func(t *rapid.T) {
				id, v := nodes.Draw(t, "node"), version(rapid.IntRange(1, 2).Draw(t, "version"))
				both(func(a *admission) ride {
					n := a.routes.nodes[id]
					if n == nil || n.slots[v] == nil || n.slots[v].free() <= 0 {
						return ride{}
					}
					n.slots[v].inFlight++
					n.inFlight++
					return ride{slot: n.slots[v]}
				})
			},
			"start": func(t *rapid.T) {
				id, v := nodes.Draw(t, "node"), version(rapid.IntRange(1, 2).Draw(t, "version"))
				leases++
				lease := wire.LeaseID(fmt.Sprint("l", leases))
				both(func(a *admission) ride { return a.routes.takeOn(id, v, lease, 1) })
			},
			"done": func(t *rapid.T) {
				if len(rides) == 0 {
					return
				}
				i := rapid.IntRange(0, len(rides)-1).Draw(t, "call")
				how := rapid.SampledFrom([]outcome{dead, alive, unused}).Draw(t, "outcome")
				seq := states[rides[i][0].node.id].Seq + uint64(rapid.IntRange(0, 2).Draw(t, "later")) //nolint:gosec // it is small
				plain.done(rides[i][0], how, seq)
				words.done(rides[i][1], how, seq)
				rides = slices.Delete(rides, i, i+1)
			},
			"wait": func(t *rapid.T) {
				now = now.Add(time.Duration(rapid.IntRange(1, 3000).Draw(t, "millis")) * time.Millisecond)
				plain.expire(now.Add(-wire.NodeLostAfter), now)
				words.expire(now.Add(-wire.NodeLostAfter), now)
			},
			"": func(t *rapid.T) {
				if got, want := slotsOf(words.routes), slotsOf(plain.routes); got != want {
					t.Fatalf("by words  %s\nby states %s", got, want)
				}
			},
		})
	})
}

// slotsOf says what is known of each node's slots.
func slotsOf(r *routes) (text string) {
	for _, id := range []wire.NodeID{"a", "b"} {
		n := r.nodes[id]
		if n == nil {
			continue
		}
		text += fmt.Sprintf("%s seq %d unsettled %d:", id, n.state.Seq, n.unsettled)
		for number := 1; number <= 2; number++ {
			if s := n.slots[version(number)]; s != nil {
				text += fmt.Sprintf(" [%d: %d of %d, %d starting, %d settled, %d rising]", number, s.inFlight, s.total, s.starting, s.settled, s.rising)
			}
		}
	}
	return text
}

// TestLostWordsAreAskedFor: a node of which a word was lost stays, with what it said
// before, and is asked for all of its state; so is one of which only changes were heard.
func TestLostWordsAreAskedFor(t *testing.T) {
	c := newCluster(t)
	asked := make(chan struct{}, 10)
	for _, id := range []wire.NodeID{"a", "b"} {
		if _, err := c.conn.Subscribe(wire.NodeAskSubject(id), "", func(bus.Msg) { asked <- struct{}{} }); err != nil {
			t.Fatal(err)
		}
	}
	say := func(id wire.NodeID, w wire.NodeWord) {
		t.Helper()
		data, err := json.Marshal(w)
		if err == nil {
			err = c.conn.Publish(wire.NodeStateSubject(id), data)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	say("b", wire.NodeWord{Delta: &wire.NodeDelta{Run: "r1", Seq: 5}})
	embedtest.Receive(t, asked)
	if c.knows("b") {
		t.Error("a node is known of which only a change was heard")
	}
	st := state("a", 1, 1)
	c.heardAs(st)
	say("a", wire.NodeWord{Delta: &wire.NodeDelta{Run: "r1", Seq: 3, Change: &wire.NodeChange{Draining: new(true)}}})
	embedtest.Receive(t, asked)
	for _, n := range c.Nodes() {
		if n.Node == "a" && (n.Draining || n.Seq != 1) {
			t.Errorf("a change counts that does not follow: %+v", n)
		}
	}
	st.Seq, st.Draining = 4, true
	c.heardAs(st)
}

// TestOtherProtocols: a node whose protocol is unknown here gets no calls, and shows.
func TestOtherProtocols(t *testing.T) {
	for protocol, want := range map[int]bool{0: false, wire.Protocol: true, wire.Protocol + 1: true, wire.Protocol - 2: false, wire.Protocol + 2: false} {
		a := newAdmission()
		st := state("a", 1, 1)
		st.Protocol = protocol
		a.heard(st, begin)
		if got := a.routes.take(version(1)) != nil; got != want {
			t.Errorf("protocol %d gets a call: %t", protocol, got)
		}
		if n := a.nodes(); len(n) != 1 || n[0].Incompatible == want {
			t.Errorf("protocol %d: %+v", protocol, n)
		}
	}
}

func TestDriftOfClocks(t *testing.T) {
	a := newAdmission()
	st := state("a", 1, 1)
	st.At = begin.Add(-1500 * time.Millisecond)
	a.heard(st, begin)
	if got := a.nodes()[0].DriftMillis; got != -1500 {
		t.Errorf("a clock that is behind: %d ms", got)
	}
	a.hear("a", wire.NodeWord{Whole: &st}, begin)
	a.hear("a", wire.NodeWord{Delta: &wire.NodeDelta{Run: "r1", Seq: 2, At: begin.Add(2 * time.Second)}}, begin.Add(time.Second))
	if got := a.nodes()[0].DriftMillis; got != 1000 {
		t.Errorf("a clock that is ahead: %d ms", got)
	}
	a.hear("a", wire.NodeWord{Delta: &wire.NodeDelta{Run: "r1", Seq: 4, At: begin}}, begin.Add(time.Second))
	if got := a.nodes()[0].DriftMillis; got != -1000 {
		t.Errorf("after a lost word: %d ms", got)
	}
}

// BenchmarkExpire: giving up the silent nodes looks at no others, however many there are.
func BenchmarkExpire(b *testing.B) {
	a := newAdmission()
	for i := range 10_000 {
		a.heard(wire.NodeState{Node: wire.NodeID(fmt.Sprint("n", i)), Run: "r", Seq: 1}, begin)
	}
	b.ReportAllocs()
	for b.Loop() {
		a.expire(begin, begin)
	}
}
