package fleet

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/dayfly-run/dayfly/internal/bus"
	"github.com/dayfly-run/dayfly/internal/embed/embedtest"
	"github.com/dayfly-run/dayfly/wire"
)

// said is a node's word.
type said struct {
	node wire.NodeID
	word wire.NodeWord
}

// start has nodes speak, and returns what they say.
func start(t *testing.T, conn *bus.Conn, ids ...wire.NodeID) (*Nodes, <-chan said) {
	t.Helper()
	words := make(chan said, 10_000)
	_, err := conn.Subscribe(wire.NodeStateSubject("*"), "", func(m bus.Msg) {
		one := said{node: wire.NodeID(strings.Split(m.Subject, ".")[2])}
		if err := json.Unmarshal(m.Data, &one.word); err != nil {
			t.Error(err)
		}
		words <- one
	})
	if err != nil {
		t.Fatal(err)
	}
	var states []wire.NodeState
	for _, id := range ids {
		states = append(states, wire.NodeState{
			Node: id, Protocol: wire.Protocol, Capacity: wire.Resources{MemoryBytes: 1 << 30, CPUMillis: 1000, Instances: 10},
		})
	}
	f, err := Start(t.Context(), conn, states)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		f.Stop()
		if _, err := f.Totals(); err != nil {
			t.Error(err)
		}
	})
	return f, words
}

// next waits for a word of a node that will do.
func next(t *testing.T, words <-chan said, id wire.NodeID, will func(wire.NodeWord) bool) wire.NodeWord {
	t.Helper()
	for {
		if one := embedtest.Receive(t, words); one.node == id && will(one.word) {
			return one.word
		}
	}
}

func whole(w wire.NodeWord) bool { return w.Whole != nil }
func delta(w wire.NodeWord) bool { return w.Delta != nil }

// onlyChanges puts off the whole words that nobody asks for.
func onlyChanges(f *Nodes) {
	for _, n := range f.nodes {
		n.with(func(n *node) { n.nextWhole = time.Now().Add(time.Hour) })
	}
}

func publish(t *testing.T, conn *bus.Conn, subject string, message any) {
	t.Helper()
	data, err := json.Marshal(message)
	if err == nil {
		err = conn.Publish(subject, data)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// The first word is whole, the next ones are what changed, and a lease is told of once.
func TestWords(t *testing.T) {
	conn := embedtest.Connect(t, embedtest.NATS(t, t.TempDir()))
	f, words := start(t, conn, "a", "b")
	for _, id := range []wire.NodeID{"a", "b"} {
		first := next(t, words, id, func(wire.NodeWord) bool { return true })
		if first.Whole == nil || first.Whole.Seq != 1 {
			t.Errorf("the first word of %s: %+v", id, first)
		}
	}
	onlyChanges(f)
	if beat := next(t, words, "a", delta); beat.Delta.Change != nil {
		t.Errorf("nothing changed, but the word says %+v", beat.Delta.Change)
	}
	f.Settle("a", "lease")
	f.Say("a", func(st *wire.NodeState) { st.Reserved.Instances = 7 })
	told := next(t, words, "a", func(w wire.NodeWord) bool { return delta(w) && w.Delta.Change != nil })
	if c := told.Delta.Change; !slices.Equal(c.Settled, []wire.LeaseID{"lease"}) || c.Reserved == nil || c.Reserved.Instances != 7 {
		t.Errorf("%+v", c)
	}
	if beat := next(t, words, "a", delta); beat.Delta.Change != nil {
		t.Errorf("told again: %+v", beat.Delta.Change)
	}
	f.Speak(Mode{Whole: true, Change: func(_, node int, st *wire.NodeState) { st.Reserved.Instances = 10 + node }})
	changed := next(t, words, "b", func(w wire.NodeWord) bool { return whole(w) && w.Whole.Seq > 1 })
	if changed.Whole.Reserved.Instances != 11 {
		t.Errorf("%+v", changed.Whole)
	}
}

// Nodes answer those who ask for their state, and begin a new run when they were given up.
func TestAskedAndFenced(t *testing.T) {
	conn := embedtest.Connect(t, embedtest.NATS(t, t.TempDir()))
	f, words := start(t, conn, "a", "b")
	first := next(t, words, "a", whole).Whole
	next(t, words, "b", whole)
	onlyChanges(f)
	next(t, words, "a", delta)
	publish(t, conn, wire.NodeAskSubject("a"), nil)
	next(t, words, "a", whole)
	next(t, words, "b", delta)
	publish(t, conn, wire.NodeProbeSubject, nil)
	next(t, words, "b", whole)

	publish(t, conn, wire.NodeFenceSubject("a"), wire.FenceRequest{Run: "another"})
	publish(t, conn, wire.NodeFenceSubject("a"), wire.FenceRequest{Run: first.Run})
	anew := next(t, words, "a", func(w wire.NodeWord) bool { return whole(w) && w.Whole.Run != first.Run }).Whole
	if got, err := f.Totals(); err != nil || got.GivenUp != 1 || got.Words == 0 || got.Bytes == 0 {
		t.Errorf("%+v, %v", got, err)
	}
	publish(t, conn, wire.NodeFenceSubject("a"), wire.FenceRequest{Run: anew.Run})
	next(t, words, "a", func(w wire.NodeWord) bool { return whole(w) && w.Whole.Run != first.Run && w.Whole.Run != anew.Run })
}

// Nodes that stood still for so long that a scheduler gave them up come back.
func TestBackAfterStandstill(t *testing.T) {
	conn := embedtest.Connect(t, embedtest.NATS(t, t.TempDir()))
	f, _ := start(t, conn, "a", "b", "c")
	s, err := StartScheduler(t.Context(), conn, embedtest.Discard())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = s.Stop(t.Context()) }()
	knows := func(want int) func() bool {
		return func() bool {
			n, err := s.Known()
			if err != nil {
				t.Error(err)
			}
			return n == want
		}
	}
	embedtest.Eventually(t, "the scheduler knows all", knows(3))
	f.nodes[0].with(func(*node) { embedtest.Eventually(t, "the scheduler gives all up", knows(0)) })
	embedtest.Eventually(t, "the scheduler knows all again", knows(3))
}

func TestUnknownNode(t *testing.T) {
	f := &Nodes{}
	f.Settle("a", "lease")
	if _, err := f.Totals(); err == nil {
		t.Error("a lease of nobody's is settled")
	}
}
