package roster

import (
	"container/list"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"github.com/dayfly-run/dayfly/wire"
)

const (
	// maxNodes bounds the nodes that are followed; words of more are left out.
	maxNodes = 100_000
	// askEvery is how often a node is asked for all of its state at most.
	askEvery = time.Second
	// forgetAfter is how long a silent node's state is kept: one that comes back goes on
	// where it was, and late words of a run that ended bring nothing back.
	forgetAfter = time.Minute
	// oldRuns is how many earlier runs of a node are known as such: more often it does not
	// start anew while a word of its is on the way.
	oldRuns = 8
)

// Nodes follows the words of nodes, so that who listens has their whole states. It has
// no clock: times given to it do not go backwards. It is not safe for concurrent use.
type Nodes struct {
	nodes map[wire.NodeID]*followed
	order list.List // of *followed, the longest silent first
}

// followed is a node of which a word was heard.
type followed struct {
	id    wire.NodeID
	state wire.NodeState // as of the newest word that could be followed
	seq   uint64         // of the newest word of state's run
	// before are the runs that state's replaced, in no order: their words are late.
	before [oldRuns]string
	next   int
	// whole says that there is a state, behind that a word since was missed, ended that
	// the run said its last word.
	whole, behind, ended bool
	heard, asked         time.Time
	place                *list.Element
}

// News is what a word meant.
type News int

// What a word can mean.
const (
	// Nothing: it is late, said twice, or of a run that is not known. Nobody's state
	// follows from it, nor that the node lives.
	Nothing News = iota
	// Missed: the node lives, but a word before this one was lost. Its state is the last
	// that is known.
	Missed
	// Beat: nothing changed but when the node was heard, and its load.
	Beat
	// Changed: the state is another one, or of another run. Settled lists the leases that
	// were not told of before, at least.
	Changed
)

// Heard is what is known after a word.
type Heard struct {
	News
	// State is the node's unless News is Nothing; it is read only, and what it points to
	// does not change any more.
	State *wire.NodeState
	// At is when the word was said, by the node's clock.
	At time.Time
	// Ask says that the node is to be asked for all of its state, see
	// [wire.NodeAskSubject].
	Ask bool
}

// Word reads a message on a node's state subject.
func Word(subject string, data []byte) (id wire.NodeID, w wire.NodeWord, err error) {
	if id, err = wire.NodeOfState(subject); err != nil {
		return id, w, err
	}
	if err := json.Unmarshal(data, &w); err != nil {
		return id, w, fmt.Errorf("word of node %s: %w", id, err)
	}
	switch {
	case (w.Whole == nil) == (w.Delta == nil):
		return id, w, fmt.Errorf("word of node %s has neither a whole state nor a change, or both", id)
	case w.Whole != nil && w.Whole.Node != id:
		return id, w, fmt.Errorf("word of node %q came on the subject of node %s", w.Whole.Node, id)
	case w.Whole != nil && w.Whole.Run == "", w.Delta != nil && w.Delta.Run == "":
		return id, w, fmt.Errorf("word of node %s names no run", id)
	}
	return id, w, nil
}

// Hear takes a node's word.
func (n *Nodes) Hear(id wire.NodeID, w wire.NodeWord, now time.Time) Heard {
	n.forget(now)
	known := n.nodes[id]
	if known == nil {
		if known = n.add(id, now); known == nil {
			return Heard{}
		}
	}
	if w.Whole != nil {
		return n.hearWhole(known, w.Whole, now)
	}
	return n.hearDelta(known, w.Delta, now)
}

func (n *Nodes) hearWhole(f *followed, s *wire.NodeState, now time.Time) Heard {
	switch {
	case !f.whole:
	case s.Run == f.state.Run && (f.ended || s.Seq <= f.seq), f.replaced(s.Run):
		return Heard{}
	case s.Run != f.state.Run:
		if s.Stopping { // somebody says it of a run that another one followed
			return Heard{}
		}
		f.before[f.next%oldRuns] = f.state.Run
		f.next++
	}
	s.Sort()
	f.state, f.seq = *s, s.Seq
	f.whole, f.behind, f.ended = true, false, s.Stopping
	n.touch(f, now)
	return Heard{News: Changed, State: &f.state, At: s.At}
}

func (n *Nodes) hearDelta(f *followed, d *wire.NodeDelta, now time.Time) Heard {
	switch {
	case f.whole && f.replaced(d.Run):
		return Heard{}
	case !f.whole || f.state.Run != d.Run:
		return Heard{Ask: f.ask(now)}
	case f.ended || d.Seq <= f.seq:
		return Heard{}
	}
	n.touch(f, now)
	f.behind = f.behind || d.Seq != f.seq+1
	f.seq = d.Seq
	if f.behind {
		return Heard{News: Missed, State: &f.state, At: d.At, Ask: f.ask(now)}
	}
	f.state = d.Apply(f.state)
	h := Heard{News: Beat, State: &f.state, At: d.At}
	if d.Change != nil {
		h.News = Changed
	}
	return h
}

// replaced reports whether a run is one that ended before the node's present one.
func (f *followed) replaced(run string) bool { return slices.Contains(f.before[:], run) }

// ask reports whether the node is to be asked now.
func (f *followed) ask(now time.Time) bool {
	if !f.asked.IsZero() && now.Sub(f.asked) < askEvery {
		return false
	}
	f.asked = now
	return true
}

func (n *Nodes) add(id wire.NodeID, now time.Time) *followed {
	if len(n.nodes) >= maxNodes {
		return nil
	}
	if n.nodes == nil {
		n.nodes = map[wire.NodeID]*followed{}
	}
	f := &followed{id: id, heard: now}
	f.place = n.order.PushBack(f)
	n.nodes[id] = f
	return f
}

func (n *Nodes) touch(f *followed, now time.Time) {
	f.heard = now
	n.order.MoveToBack(f.place)
}

// forget drops the nodes that were silent for long.
func (n *Nodes) forget(now time.Time) {
	for first := n.order.Front(); first != nil; first = n.order.Front() {
		f := first.Value.(*followed) //nolint:forcetypeassert // nothing else is in it
		if now.Sub(f.heard) <= forgetAfter {
			return
		}
		n.order.Remove(first)
		delete(n.nodes, f.id)
	}
}
