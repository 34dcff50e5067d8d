package roster_test

import (
	"encoding/json"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"pgregory.net/rapid"

	"github.com/dayfly-run/dayfly/internal/roster"
	"github.com/dayfly-run/dayfly/wire"
)

var begin = time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC)

func whole(run string, seq uint64) wire.NodeWord {
	return wire.NodeWord{Whole: &wire.NodeState{Node: "a", Run: run, Seq: seq}}
}

func beat(run string, seq uint64) wire.NodeWord {
	return wire.NodeWord{Delta: &wire.NodeDelta{Run: run, Seq: seq, Load: float64(seq)}}
}

func change(run string, seq uint64) wire.NodeWord {
	w := beat(run, seq)
	w.Delta.Change = &wire.NodeChange{Idle: &wire.Resources{Instances: int(seq)}} //nolint:gosec // it is small
	return w
}

func TestWhatWordsMean(t *testing.T) {
	type step struct {
		after time.Duration // since the step before
		word  wire.NodeWord
		want  roster.News
		ask   bool
		seq   uint64 // of the state, unless it is nothing
	}
	for name, steps := range map[string][]step{
		"one after the other": {
			{0, whole("r1", 1), roster.Changed, false, 1},
			{0, beat("r1", 2), roster.Beat, false, 2},
			{0, change("r1", 3), roster.Changed, false, 3},
			{0, whole("r1", 4), roster.Changed, false, 4},
		},
		"late and twice": {
			{0, whole("r1", 5), roster.Changed, false, 5},
			{0, beat("r1", 6), roster.Beat, false, 6},
			{0, beat("r1", 6), roster.Nothing, false, 0},
			{0, whole("r1", 5), roster.Nothing, false, 0},
			{0, whole("r1", 6), roster.Nothing, false, 0},
		},
		"a new listener asks once a second": {
			{0, beat("r1", 5), roster.Nothing, true, 0},
			{999 * time.Millisecond, beat("r1", 6), roster.Nothing, false, 0},
			{time.Millisecond, beat("r1", 7), roster.Nothing, true, 0},
			{0, whole("r1", 8), roster.Changed, false, 8},
			{0, beat("r1", 9), roster.Beat, false, 9},
		},
		"a lost word": {
			{0, whole("r1", 1), roster.Changed, false, 1},
			{0, change("r1", 3), roster.Missed, true, 1},
			{0, beat("r1", 4), roster.Missed, false, 1},
			{time.Second, beat("r1", 5), roster.Missed, true, 1},
			{0, whole("r1", 6), roster.Changed, false, 6},
			{0, beat("r1", 7), roster.Beat, false, 7},
		},
		"out of order": {
			{0, whole("r1", 1), roster.Changed, false, 1},
			{0, change("r1", 3), roster.Missed, true, 1},
			{0, change("r1", 2), roster.Nothing, false, 0},
			{0, beat("r1", 4), roster.Missed, false, 1},
		},
		"another run": {
			{0, whole("r1", 7), roster.Changed, false, 7},
			{0, beat("r2", 2), roster.Nothing, true, 0},
			{0, whole("r2", 3), roster.Changed, false, 3},
			{0, beat("r2", 4), roster.Beat, false, 4},
		},
		"the last word": {
			{0, whole("r1", 7), roster.Changed, false, 7},
			{0, wire.LastWord("a", "r1"), roster.Changed, false, 1<<64 - 1},
			{0, wire.LastWord("a", "r1"), roster.Nothing, false, 0},
			{0, beat("r1", 8), roster.Nothing, false, 0},
			{0, whole("r1", 9), roster.Nothing, false, 0},
			{0, whole("r2", 1), roster.Changed, false, 1},
		},
		"the run before": {
			{0, whole("r1", 7), roster.Changed, false, 7},
			{0, whole("r2", 1), roster.Changed, false, 1},
			{0, beat("r1", 8), roster.Nothing, false, 0},
			{0, whole("r1", 9), roster.Nothing, false, 0},
			{0, wire.LastWord("a", "r1"), roster.Nothing, false, 0},
			{0, wire.LastWord("a", "r0"), roster.Nothing, false, 0},
			{0, beat("r2", 2), roster.Beat, false, 2},
			{0, wire.LastWord("a", "r2"), roster.Changed, false, 1<<64 - 1},
		},
		"an older run": {
			{0, whole("r1", 7), roster.Changed, false, 7},
			{0, whole("r2", 1), roster.Changed, false, 1},
			{0, whole("r3", 1), roster.Changed, false, 1},
			{0, whole("r1", 9), roster.Nothing, false, 0},
			{0, beat("r1", 10), roster.Nothing, false, 0},
			{0, whole("r2", 2), roster.Nothing, false, 0},
			{0, beat("r3", 2), roster.Beat, false, 2},
			{0, whole("r4", 1), roster.Changed, false, 1},
			{0, whole("r3", 9), roster.Nothing, false, 0},
			{0, whole("r1", 11), roster.Nothing, false, 0},
			{0, beat("r4", 2), roster.Beat, false, 2},
		},
		"back after a pause": {
			{0, whole("r1", 1), roster.Changed, false, 1},
			{30 * time.Second, beat("r1", 2), roster.Beat, false, 2},
			{2 * time.Minute, beat("r1", 3), roster.Nothing, true, 0},
		},
	} {
		t.Run(name, func(t *testing.T) {
			var nodes roster.Nodes
			now := begin
			for i, s := range steps {
				now = now.Add(s.after)
				got := nodes.Hear("a", s.word, now)
				if got.News != s.want || got.Ask != s.ask || got.News != roster.Nothing && got.State.Seq != s.seq {
					t.Fatalf("word %d: %+v with state %+v, want %+v", i, got, got.State, s)
				}
			}
		})
	}
}

func TestWordsThatAreNone(t *testing.T) {
	for name, c := range map[string]struct{ subject, data string }{
		"no JSON":        {wire.NodeStateSubject("a"), "{"},
		"empty":          {wire.NodeStateSubject("a"), "{}"},
		"both":           {wire.NodeStateSubject("a"), `{"whole":{"node":"a","run":"r"},"delta":{"run":"r"}}`},
		"another's":      {wire.NodeStateSubject("a"), `{"whole":{"node":"b","run":"r"}}`},
		"no run":         {wire.NodeStateSubject("a"), `{"whole":{"node":"a"}}`},
		"no run at all":  {wire.NodeStateSubject("a"), `{"delta":{"seq":2}}`},
		"not on a state": {wire.NodeInvokeSubject("a"), `{"whole":{"node":"a","run":"r"}}`},
	} {
		t.Run(name, func(t *testing.T) {
			if _, w, err := roster.Word(c.subject, []byte(c.data)); err == nil {
				t.Errorf("taken as %+v", w)
			}
		})
	}
	if id, w, err := roster.Word(wire.NodeStateSubject("a"), []byte(`{"whole":{"node":"a","run":"r"}}`)); err != nil || id != "a" || w.Whole == nil {
		t.Errorf("%q %+v %v", id, w, err)
	}
}

func TestTooManyNodes(t *testing.T) {
	var nodes roster.Nodes
	for i := range 100_000 {
		id := wire.NodeID(fmt.Sprint("n", i))
		nodes.Hear(id, wire.NodeWord{Whole: &wire.NodeState{Node: id, Run: "r", Seq: 1}}, begin)
	}
	if got := nodes.Hear("a", whole("r1", 1), begin); got.News != roster.Nothing || got.Ask {
		t.Errorf("one more is %+v", got)
	}
	later := begin.Add(2 * time.Minute)
	if got := nodes.Hear("a", whole("r1", 2), later); got.News != roster.Changed {
		t.Errorf("when the others are gone it is %+v", got)
	}
}

// speaker is a node as it really is.
type speaker struct {
	state wire.NodeState
	told  *wire.NodeState // as of the last word; nil before the first
	runs  int
}

// say returns the next word.
func (s *speaker) say(all bool) wire.NodeWord {
	s.state.Seq++
	next := s.state
	next.Versions, next.Settled = slices.Clone(next.Versions), slices.Clone(next.Settled)
	var d *wire.NodeDelta
	if s.told != nil && !all {
		d = wire.Diff(s.told, &next)
	}
	s.told = &next
	if d == nil {
		whole := next
		return wire.NodeWord{Whole: &whole}
	}
	return wire.NodeWord{Delta: d}
}

// TestListenersHaveTheNodesState lets a node change and start anew, while its words are
// lost, repeated and late. What a listener has is always something that the node said,
// and after a whole word it is what the node said last, with every lease told.
func TestListenersHaveTheNodesState(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var nodes roster.Nodes
		now := begin
		node := &speaker{state: wire.NodeState{Node: "a", Run: "run0"}}
		said := map[string]wire.NodeState{} // by run and number
		settled := map[wire.LeaseID]bool{}  // those that the listener was told of
		var history [][]byte
		deliver := func(data []byte) roster.Heard {
			_, w, err := roster.Word(wire.NodeStateSubject("a"), data)
			if err != nil {
				t.Fatal(err)
			}
			h := nodes.Hear("a", w, now)
			if h.News == roster.Nothing {
				return h
			}
			want := said[fmt.Sprint(h.State.Run, h.State.Seq)]
			if diff := cmp.Diff(want, *h.State, cmpopts.IgnoreFields(wire.NodeState{}, "Settled"), cmpopts.EquateEmpty()); diff != "" {
				t.Fatalf("the node never said it (-want +got):\n%s", diff)
			}
			for _, id := range h.State.Settled {
				settled[id] = true
			}
			return h
		}
		speak := func(all bool) []byte {
			w := node.say(all)
			said[fmt.Sprint(node.state.Run, node.state.Seq)] = *node.told
			data, err := json.Marshal(w)
			if err != nil {
				t.Fatal(err)
			}
			history = append(history, data)
			return data
		}
		t.Repeat(map[string]func(*rapid.T){
			"change": func(t *rapid.T) {
				v := wire.VersionOnNode{Version: wire.VersionID{Number: rapid.IntRange(1, 3).Draw(t, "version")}, Idle: rapid.IntRange(0, 3).Draw(t, "idle")}
				node.state.Versions = slices.DeleteFunc(slices.Clone(node.state.Versions), func(o wire.VersionOnNode) bool { return o.Version == v.Version })
				if v.Idle > 0 {
					node.state.Versions = append(node.state.Versions, v)
				}
				node.state.Sort()
				node.state.Settled = append(node.state.Settled, wire.LeaseID(fmt.Sprintf("l%05d", len(history))))
				deliver(speak(false))
			},
			"beat":     func(t *rapid.T) { node.state.Load = rapid.Float64().Draw(t, "load"); deliver(speak(false)) },
			"lose one": func(*rapid.T) { speak(false) },
			"repeat": func(t *rapid.T) {
				if len(history) > 0 {
					deliver(rapid.SampledFrom(history[max(0, len(history)-20):]).Draw(t, "word"))
				}
			},
			"restart": func(*rapid.T) {
				node.runs++
				*node = speaker{runs: node.runs, state: wire.NodeState{Node: "a", Run: fmt.Sprint("run", node.runs)}}
				history = nil // words of an older run do not come behind those of a newer one
			},
			"wait": func(t *rapid.T) {
				now = now.Add(time.Duration(rapid.IntRange(1, 90_000).Draw(t, "millis")) * time.Millisecond)
			},
			"whole": func(t *rapid.T) {
				h := deliver(speak(true))
				if h.News != roster.Changed || h.State.Seq != node.state.Seq || h.State.Run != node.state.Run {
					t.Fatalf("a whole word is %+v", h)
				}
				for _, id := range node.state.Settled {
					if !settled[id] {
						t.Fatalf("lease %s was never told", id)
					}
				}
			},
		})
	})
}
