// Package fleet simulates the nodes of a cluster. They say how they are as invokers do,
// and answer what invokers are asked about that, but run nothing.
package fleet

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/dayfly-run/dayfly/internal/bus"
	"github.com/dayfly-run/dayfly/wire"
)

// strides is over how many moments of a heartbeat the nodes' words are spread.
const strides = 50

// Mode is how the nodes speak. The zero value is that of nodes on which nothing happens.
type Mode struct {
	// Whole has each word carry all of the state; else it is what changed, and all at times.
	Whole bool
	// Change, if it is not nil, changes the state of a node, by its index, before a
	// heartbeat; turn counts the heartbeats of all. It puts new slices and maps in the place
	// of old ones. It is called by one goroutine at a time.
	Change func(turn, node int, st *wire.NodeState)
}

// Totals are what was counted since the start.
type Totals struct {
	Words, Bytes int64
	// GivenUp is how many runs of nodes the scheduler gave up.
	GivenUp int64
}

// Nodes are simulated nodes. They are safe for concurrent use.
type Nodes struct {
	conn  *bus.Conn
	nodes []*node
	byID  map[wire.NodeID]*node
	// bySubject are the nodes by where they are asked and fenced.
	bySubject map[string]*node

	mode                  atomic.Pointer[Mode]
	words, bytes, givenUp atomic.Int64
	failed                atomic.Pointer[error] // the first failure

	subscriptions []*bus.Subscription
	stop          context.CancelFunc
	stopped       chan struct{}
}

// node is one of them.
type node struct {
	index int

	mu sync.Mutex // guards what follows, and is held while a word is handed to the connection: words go out in the order of their numbers

	state     wire.NodeState
	told      wire.NodeState
	settled   []wire.LeaseID // and not told of
	nextWhole time.Time      // at the latest
	givenUp   int
}

// wholePause draws the pause up to the next whole word, as invokers do.
func wholePause() time.Duration {
	return wire.WholeEvery*3/4 + rand.N(wire.WholeEvery/2) //nolint:gosec // nobody gains by guessing it
}

// Start has nodes of these states speak, each in a run of its own, until [Nodes.Stop]. The
// connection stays the caller's, and open until then.
func Start(ctx context.Context, conn *bus.Conn, states []wire.NodeState) (_ *Nodes, err error) {
	f := &Nodes{conn: conn, byID: map[wire.NodeID]*node{}, bySubject: map[string]*node{}, stopped: make(chan struct{})}
	f.mode.Store(&Mode{})
	for i, st := range states {
		st.Run = runName(i, 0)
		st.Sort()
		n := &node{index: i, state: st}
		f.nodes = append(f.nodes, n)
		f.byID[st.Node] = n
		f.bySubject[wire.NodeAskSubject(st.Node)], f.bySubject[wire.NodeFenceSubject(st.Node)] = n, n
	}
	defer func() {
		if err != nil {
			f.unsubscribe()
		}
	}()
	for subject, handle := range map[string]func(bus.Msg){
		wire.NodeProbeSubject: f.asked, wire.NodeAskSubject("*"): f.asked, wire.NodeFenceSubject("*"): f.fenced,
	} {
		s, err := conn.Subscribe(subject, "", handle)
		if err != nil {
			return nil, err
		}
		f.subscriptions = append(f.subscriptions, s)
	}
	ctx, f.stop = context.WithCancel(ctx)
	go f.speak(ctx)
	return f, nil
}

func runName(node, givenUp int) string {
	return fmt.Sprintf("01998c2e-7d5a-7c11-%04x-%012x", givenUp, node)
}

// Stop silences the nodes; they do not say goodbye.
func (f *Nodes) Stop() {
	f.stop()
	<-f.stopped
	f.unsubscribe()
}

func (f *Nodes) unsubscribe() {
	for _, s := range f.subscriptions {
		s.Stop(f.conn)
	}
}

// Speak sets how the nodes speak from now on.
func (f *Nodes) Speak(m Mode) { f.mode.Store(&m) }

// Totals returns what was counted so far, and the first failure, if there was one.
func (f *Nodes) Totals() (Totals, error) {
	t := Totals{Words: f.words.Load(), Bytes: f.bytes.Load(), GivenUp: f.givenUp.Load()}
	if failed := f.failed.Load(); failed != nil {
		return t, *failed
	}
	return t, nil
}

func (f *Nodes) fail(err error) { f.failed.CompareAndSwap(nil, &err) }

// speak has each node say a word at every heartbeat, a part of them after the other.
func (f *Nodes) speak(ctx context.Context) {
	defer close(f.stopped)
	tick := time.NewTicker(wire.HeartbeatEvery / strides)
	defer tick.Stop()
	turn := 0
	for stride := 0; ; stride = (stride + 1) % strides {
		mode := f.mode.Load()
		for i := stride; i < len(f.nodes); i += strides {
			turn++
			f.nodes[i].with(func(n *node) {
				if mode.Change != nil {
					mode.Change(turn, i, &n.state)
				}
				f.say(n, mode.Whole)
			})
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

func (n *node) with(do func(*node)) {
	n.mu.Lock()
	defer n.mu.Unlock()
	do(n)
}

// say publishes a node's next word; n.mu is held.
func (f *Nodes) say(n *node, whole bool) {
	st := &n.state
	st.Seq++
	st.At = time.Now()
	st.Settled, n.settled = n.settled, nil
	slices.Sort(st.Settled)
	word := wire.NodeWord{Whole: st}
	if !whole && st.At.Before(n.nextWhole) {
		if d := wire.Diff(&n.told, st); d != nil {
			word = wire.NodeWord{Delta: d}
		}
	}
	if word.Whole != nil {
		n.nextWhole = st.At.Add(wholePause())
	}
	n.told = *st
	data, err := json.Marshal(word)
	if err == nil {
		err = f.conn.Publish(wire.NodeStateSubject(st.Node), data)
	}
	if err != nil {
		f.fail(err)
	}
	f.words.Add(1)
	f.bytes.Add(int64(len(data)))
}

// asked has the node of a subject, or all, say all of their states.
func (f *Nodes) asked(m bus.Msg) {
	nodes := f.nodes
	if m.Subject != wire.NodeProbeSubject {
		one := f.bySubject[m.Subject]
		if one == nil {
			return // a node of somebody else's
		}
		nodes = []*node{one}
	}
	for _, n := range nodes {
		n.with(func(n *node) { f.say(n, true) })
	}
}

// fenced has a node begin a new run, because the scheduler gave the old one up.
func (f *Nodes) fenced(m bus.Msg) {
	var req wire.FenceRequest
	if err := json.Unmarshal(m.Data, &req); err != nil {
		f.fail(fmt.Errorf("on %s: %w", m.Subject, err))
		return
	}
	one := f.bySubject[m.Subject]
	if one == nil {
		return
	}
	one.with(func(n *node) {
		if n.state.Run != req.Run {
			return
		}
		n.givenUp++
		n.state.Run, n.settled = runName(n.index, n.givenUp), nil
		f.givenUp.Add(1)
		f.say(n, true)
	})
}

// Settle has a node tell with its next word that it has taken a lease, as it does once: if
// that word is lost, the lease ends with its time.
func (f *Nodes) Settle(id wire.NodeID, lease wire.LeaseID) {
	f.on(id, func(n *node) { n.settled = append(n.settled, lease) })
}

// Say changes a node's state as [Mode] has it, and has it say so at once.
func (f *Nodes) Say(id wire.NodeID, change func(*wire.NodeState)) {
	f.on(id, func(n *node) {
		change(&n.state)
		f.say(n, f.mode.Load().Whole)
	})
}

func (f *Nodes) on(id wire.NodeID, do func(*node)) {
	n := f.byID[id]
	if n == nil {
		f.fail(errors.New("there is no node " + string(id)))
		return
	}
	n.with(do)
}
