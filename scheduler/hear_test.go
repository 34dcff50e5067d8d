package scheduler

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"pgregory.net/rapid"

	"github.com/dayfly-run/dayfly/internal/roster"
	"github.com/dayfly-run/dayfly/wire"
)

// listener is a table that hears words, as a scheduler does.
type listener struct {
	table *nodeTable
	words roster.Nodes
	told  map[wire.NodeID]*wire.NodeState
}

// hear takes the word with which a node leads from what it told before to a state.
func (l *listener) hear(t *rapid.T, st wire.NodeState, whole bool, now time.Time) {
	var w wire.NodeWord
	if told := l.told[st.Node]; told != nil && !whole {
		w.Delta = wire.Diff(told, &st)
	}
	if w.Delta == nil {
		w.Whole = &st
	}
	l.told[st.Node] = &st
	data, err := json.Marshal(w)
	if err != nil {
		t.Fatal(err)
	}
	id, heard, err := roster.Word(wire.NodeStateSubject(st.Node), data)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := l.table.take(l.words.Hear(id, heard, now), now); err != nil {
		t.Fatal(err)
	}
}

// TestWordsSayAsMuchAsStates gives one table whole states and another one what changed:
// both know the same after every step, whatever leases come and go meanwhile.
func TestWordsSayAsMuchAsStates(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		now := epochStart
		//nolint:gosec // both tables must draw the same
		plain := newNodeTable(rand.New(rand.NewPCG(1, 2)))
		//nolint:gosec // as above
		l := &listener{table: newNodeTable(rand.New(rand.NewPCG(1, 2))), told: map[wire.NodeID]*wire.NodeState{}}
		machines := []*machine{{id: "a"}, {id: "b"}}
		granted := map[wire.LeaseID]wire.NodeID{}
		pick := func(t *rapid.T) *machine { return rapid.SampledFrom(machines).Draw(t, "machine") }
		report := func(t *rapid.T, m *machine, change func(*wire.NodeState)) {
			st := m.state()
			change(&st)
			st.Sort()
			if _, err := plain.report(st, now); err != nil {
				t.Fatal(err)
			}
			l.hear(t, st, rapid.IntRange(0, 9).Draw(t, "whole") == 0, now)
		}
		t.Repeat(map[string]func(*rapid.T){
			"beat": func(t *rapid.T) { report(t, pick(t), func(*wire.NodeState) {}) },
			"load": func(t *rapid.T) {
				report(t, pick(t), func(st *wire.NodeState) { st.Load = rapid.Float64Range(0, 5).Draw(t, "load") })
			},
			"keep": func(t *rapid.T) {
				kept := rapid.IntRange(0, 2).Draw(t, "kept")
				report(t, pick(t), func(st *wire.NodeState) {
					if len(st.Versions) > 0 {
						st.Versions[0].Kept = kept
					}
				})
			},
			"drain": func(t *rapid.T) { report(t, pick(t), func(st *wire.NodeState) { st.Draining = true }) },
			"stop": func(t *rapid.T) {
				m := pick(t)
				report(t, m, func(st *wire.NodeState) { st.Stopping = true })
				*m = machine{id: m.id, run: m.run + 1}
			},
			"restart": func(t *rapid.T) {
				m := pick(t)
				*m = machine{id: m.id, run: m.run + 1}
			},
			"place": func(t *rapid.T) {
				id := wire.LeaseID(fmt.Sprint("lease", len(granted)))
				kept := rapid.Bool().Draw(t, "kept")
				one, refused := plain.place(oneInstance(), id, kept, now)
				other, refusedToo := l.table.place(oneInstance(), id, kept, now)
				if one != other || (refused == nil) != (refusedToo == nil) {
					t.Fatalf("placed on %q (%v) by states, on %q (%v) by words", one, refused, other, refusedToo)
				}
				granted[id] = one
			},
			"settle": func(t *rapid.T) {
				m := pick(t)
				for id, node := range granted {
					if node == m.id && len(m.settled) < 3 {
						m.settled = append(m.settled, id)
						m.instances = len(m.settled)
						break
					}
				}
				report(t, m, func(*wire.NodeState) {})
			},
			"give back": func(t *rapid.T) {
				id := wire.LeaseID(fmt.Sprint("lease", rapid.IntRange(0, len(granted)).Draw(t, "lease")))
				plain.giveBack(granted[id], id)
				l.table.giveBack(granted[id], id)
			},
			"wait": func(t *rapid.T) {
				now = now.Add(time.Duration(rapid.IntRange(1, 3000).Draw(t, "millis")) * time.Millisecond)
				lost, expired := plain.sweep(now.Add(-wire.NodeLostAfter), now)
				lostToo, expiredToo := l.table.sweep(now.Add(-wire.NodeLostAfter), now)
				if len(lost) != len(lostToo) || expired != expiredToo {
					t.Fatalf("lost %v and %v, %d and %d leases", lost, lostToo, expired, expiredToo)
				}
			},
			"": func(t *rapid.T) {
				if plain.len() != l.table.len() || plain.leases() != l.table.leases() {
					t.Fatalf("%d nodes and %d leases by states, %d and %d by words", plain.len(), plain.leases(), l.table.len(), l.table.leases())
				}
				for _, m := range machines {
					want, known := plain.snapshot.Node(m.id)
					got, knownToo := l.table.snapshot.Node(m.id)
					if diff := cmp.Diff(want, got, cmpopts.EquateEmpty()); known != knownToo || diff != "" {
						t.Fatalf("node %s (-states +words):\n%s", m.id, diff)
					}
				}
				if diff := cmp.Diff(plain.holders, l.table.holders, cmp.AllowUnexported(standing{}), cmpopts.EquateEmpty()); diff != "" {
					t.Fatalf("what is kept (-states +words):\n%s", diff)
				}
			},
		})
	})
}

// TestAMissedWordLosesNobody: a node whose words were lost lives, and what it said before
// counts until it says all of it again.
func TestAMissedWordLosesNobody(t *testing.T) {
	table, now := newTestTable(), epochStart
	var words roster.Nodes
	hear := func(w wire.NodeWord) change {
		what, err := table.take(words.Hear("a", w, now), now)
		if err != nil {
			t.Fatal(err)
		}
		return what
	}
	st := stateOf("a", "r1", 1)
	if got := hear(wire.NodeWord{Whole: &st}); got != joined {
		t.Fatalf("the first word is %v", got)
	}
	for seq := uint64(3); seq < 10; seq++ {
		now = now.Add(wire.NodeLostAfter)
		hear(wire.NodeWord{Delta: &wire.NodeDelta{Run: "r1", Seq: seq}})
		if lost, _ := table.sweep(now, now.Add(wire.NodeLostAfter)); len(lost) != 0 {
			t.Fatalf("given up although it speaks: %v", lost)
		}
		if _, err := table.place(oneInstance(), wire.LeaseID(fmt.Sprint(seq)), false, now.Add(wire.NodeLostAfter)); err != nil {
			t.Fatalf("it gets nothing: %v", err)
		}
	}
	now = now.Add(wire.NodeLostAfter + 1)
	if lost, _ := table.sweep(now.Add(-wire.NodeLostAfter), now); len(lost) != 1 {
		t.Fatalf("a silent node is not given up: %v", lost)
	}
	hear(wire.NodeWord{Delta: &wire.NodeDelta{Run: "r1", Seq: 10}})
	if table.len() != 0 {
		t.Fatal("it is back with a state that nobody knows")
	}
	again := stateOf("a", "r1", 11)
	if got := hear(wire.NodeWord{Whole: &again}); got != joined {
		t.Errorf("a node that is back is %v", got)
	}
}

// TestNodesOfAnotherProtocol get nothing to do.
func TestNodesOfAnotherProtocol(t *testing.T) {
	for protocol, want := range map[int]bool{0: false, wire.Protocol: true, wire.Protocol + 1: true, wire.Protocol + 2: false, -2: false} {
		table := newTestTable()
		st := stateOf("a", "r1", 1)
		st.Protocol = protocol
		mustReport(t, table, st, epochStart)
		if _, err := table.place(oneInstance(), "l1", false, epochStart); (err == nil) != want {
			t.Errorf("placed on a node of protocol %d: %v", protocol, err)
		}
	}
}

// TestOnlySilentNodesAreLookedAt: the table keeps nodes in the order of their last words,
// however these came.
func TestOnlySilentNodesAreLookedAt(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		table, now := newTestTable(), epochStart
		heard := map[wire.NodeID]time.Time{}
		t.Repeat(map[string]func(*rapid.T){
			"word": func(t *rapid.T) {
				id := wire.NodeID(rapid.SampledFrom([]string{"a", "b", "c", "d"}).Draw(t, "node"))
				st := stateOf(id, "r1", uint64(now.UnixNano())) //nolint:gosec // it only grows
				if !table.beat(&st, now) {
					if _, err := table.report(st, now); err != nil {
						t.Fatal(err)
					}
				}
				heard[id] = now
			},
			"wait": func(t *rapid.T) {
				now = now.Add(time.Duration(rapid.IntRange(1, 1500).Draw(t, "millis")) * time.Millisecond)
				want := 0
				for id, at := range heard {
					if now.Sub(at) > wire.NodeLostAfter {
						want++
						delete(heard, id)
					}
				}
				if lost, _ := table.sweep(now.Add(-wire.NodeLostAfter), now); len(lost) != want {
					t.Fatalf("lost %v, want %d", lost, want)
				}
				since := now.Add(-time.Second)
				want = 0
				for _, at := range heard {
					if !at.Before(since) {
						want++
					}
				}
				if got := table.heardSince(since); got != want || table.len() != len(heard) {
					t.Fatalf("%d of %d nodes heard in the last second, want %d of %d", got, table.len(), want, len(heard))
				}
			},
		})
	})
}

// TestManyNodesAreFollowed: 2,000 nodes join, beat, and one in a hundred loses a word;
// nobody is lost, only those are asked, and a heartbeat that says nothing takes no memory.
func TestManyNodesAreFollowed(t *testing.T) {
	const nodes = 2000
	var words roster.Nodes
	table, now := newTestTable(), epochStart
	hear := func(i int, w wire.NodeWord) roster.Heard {
		h := words.Hear(wire.NodeID(fmt.Sprint("n", i)), w, now)
		if _, err := table.take(h, now); err != nil {
			t.Fatal(err)
		}
		return h
	}
	whole := func(i int, seq uint64) wire.NodeWord {
		st := stateOf(wire.NodeID(fmt.Sprint("n", i)), "r", seq)
		return wire.NodeWord{Whole: &st}
	}
	for i := range nodes {
		hear(i, whole(i, 1))
	}
	for beat := uint64(2); beat < 8; beat++ {
		now = now.Add(wire.HeartbeatEvery)
		asked := 0
		for i := range nodes {
			if beat == 5 && i%100 == 0 {
				continue // it is lost
			}
			if h := hear(i, wire.NodeWord{Delta: &wire.NodeDelta{Run: "r", Seq: beat, Load: float64(i % 7)}}); h.Ask {
				asked++
				hear(i, whole(i, beat+1)) // its next word repeats the number
			}
		}
		if want := nodes / 100; beat == 6 && asked != want || beat != 6 && asked != 0 {
			t.Fatalf("at beat %d %d nodes are asked", beat, asked)
		}
		if lost, _ := table.sweep(now.Add(-wire.NodeLostAfter), now); len(lost) != 0 || table.len() != nodes || table.heardSince(now) < nodes-nodes/100 {
			t.Fatalf("at beat %d %d nodes are lost, %d known, %d heard", beat, len(lost), table.len(), table.heardSince(now))
		}
	}
	seq := uint64(100)
	hear(1, whole(1, seq))
	st := stateOf("n1", "r", seq)
	if got := testing.AllocsPerRun(100, func() { table.beat(&st, now) }); got != 0 {
		t.Errorf("a heartbeat takes %v allocations", got)
	}
}

// BenchmarkHeartbeats takes the idle heartbeats of many nodes, and those that say what
// changed.
func BenchmarkHeartbeats(b *testing.B) {
	const nodes = 10_000
	for _, how := range []string{"idle", "load", "changed", "whole"} {
		b.Run(how, func(b *testing.B) {
			var words roster.Nodes
			table, now := newTestTable(), epochStart
			ids := make([]wire.NodeID, nodes)
			for i := range ids {
				ids[i] = wire.NodeID(fmt.Sprint("n", i))
				st := stateOf(ids[i], "r", 1)
				if _, err := table.take(words.Hear(ids[i], wire.NodeWord{Whole: &st}, now), now); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				id, seq := ids[i%nodes], uint64(i/nodes+2) //nolint:gosec // it is small
				var w wire.NodeWord
				switch how {
				case "idle":
					w.Delta = &wire.NodeDelta{Run: "r", Seq: seq}
				case "load":
					w.Delta = &wire.NodeDelta{Run: "r", Seq: seq, Load: float64(i%100) / 100}
				case "changed":
					w.Delta = &wire.NodeDelta{Run: "r", Seq: seq, Change: &wire.NodeChange{Reserved: &wire.Resources{MemoryBytes: int64(i%100) * mib}}}
				case "whole":
					st := stateOf(id, "r", seq)
					w.Whole = &st
				}
				if _, err := table.take(words.Hear(id, w, now), now); err != nil {
					b.Fatal(err)
				}
			}
			if got := table.snapshot.Len(); got != nodes {
				b.Fatalf("%d nodes", got)
			}
		})
	}
}
