package dispatch

import (
	"sync"
	"testing"
	"time"

	"github.com/dayfly-run/dayfly/internal/bus"
	"github.com/dayfly-run/dayfly/internal/embed/embedtest"
	"github.com/dayfly-run/dayfly/wire"
)

// calling makes one call after the other, and counts.
type calling struct {
	mu        sync.Mutex // guards what follows
	good, bad int
	last      error
}

func (a *calling) note(err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if err != nil {
		a.bad++
		a.last = err
		return
	}
	a.good++
}

// read returns the counts of calls that ended, and why the last one failed.
func (a *calling) read() (good, bad int, last error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.good, a.bad, a.last
}

// callEvery is the pause between two calls.
const callEvery = 2 * time.Millisecond

// TestWarmCallsWhileServersGo: without a scheduler, each of three NATS servers is killed:
// that of neither side, the dispatcher's and the node's; at last the dispatcher's is
// paused. Warm calls go on after each, and one that runs all the while is answered.
func TestWarmCallsWhileServersGo(t *testing.T) {
	servers := embedtest.NATSProcesses(t)
	connect := func(i int) *bus.Conn {
		conn, err := bus.Connect(bus.Config{Name: t.Name(), URL: servers.ServerURL(i)}, embedtest.Discard())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(conn.Close)
		return conn
	}
	own := connect(0)
	c := newClusterOver(t, own, connect(1))
	c.addNode("a", 3, nil)
	node := &faithful{hold: make(chan struct{})}
	node.serve(c, "a")
	long := make(chan error, 1)
	go func() {
		_, err := c.Invoke(t.Context(), call(held, 10*time.Minute))
		long <- err
	}()
	calls, done := &calling{}, make(chan struct{})
	var running sync.WaitGroup
	running.Go(func() {
		tick := time.NewTicker(callEvery)
		defer tick.Stop()
		for {
			_, err := c.Invoke(t.Context(), call("{}", 20*time.Second))
			calls.note(err)
			select {
			case <-done:
				return
			case <-tick.C:
			}
		}
	})
	t.Cleanup(func() { close(done); running.Wait() })
	// more awaits calls, of which so many may fail.
	more := func(what string, mayFail int) {
		t.Helper()
		begun := time.Now()
		from, badBefore, _ := calls.read()
		embedtest.Eventually(t, "calls go on "+what, func() bool { good, _, _ := calls.read(); return good >= from+50 })
		_, bad, last := calls.read()
		t.Logf("%s: 50 calls took %s; %d failed so far (%v)", what, time.Since(begun), bad, last)
		if bad > badBefore+mayFail {
			t.Errorf("%s: %d calls failed, at most %d may: %v", what, bad-badBefore, mayFail, last)
		}
	}
	more("with all", 0)
	for _, lost := range []struct {
		server  int
		whose   string
		mayFail int
	}{{2, "without a server of nobody", 0}, {0, "without the dispatcher's", 2}, {1, "without the node's", 2}} {
		servers.KillServer(lost.server)
		more(lost.whose, lost.mayFail)
		servers.StartServer(lost.server)
		servers.AwaitSettled(t)
		more("with all again", 0)
	}
	moved := make(chan struct{})
	own.OnLost(func() { close(moved) })
	for i := 0; i < servers.Servers() && !closed(moved); i++ { // which it is by now, nobody knows
		resume := servers.PauseServer(i)
		more("while one is paused", 2)
		resume()
	}
	embedtest.Receive(t, moved)
	close(node.hold)
	if err := embedtest.Receive(t, long); err != nil {
		t.Errorf("the call that ran all the while: %v", err)
	}
}

func closed(ch <-chan struct{}) bool {
	select {
	case <-ch:
		return true
	default:
		return false
	}
}

// held is an event that a faithful node holds.
const held = `"held"`

// faithful is a double of a node that loses nothing which it had: it gives answers again,
// and does not take what it said never came.
type faithful struct {
	hold chan struct{} // closed when what is held may end

	mu     sync.Mutex // guards what follows
	offers map[uint64]offered
}

// offered is what became of an offer.
type offered struct {
	fate  wire.Fate
	to    string
	frame []byte
}

func (f *faithful) serve(c *cluster, id wire.NodeID) {
	c.t.Helper()
	f.offers = map[uint64]offered{}
	if _, err := c.conn.Subscribe(wire.NodeInvokeSubject(id), "", func(m bus.Msg) {
		var req wire.InvokeRequest
		event, err := wire.ParseFrame(m.Data, &req)
		if err != nil {
			c.t.Error(err)
			return
		}
		frame, err := wire.AppendFrame(nil, &wire.InvokeReply{Node: id, Instance: "i1"}, event)
		if err != nil {
			c.t.Error(err)
			return
		}
		answer := func() {
			f.set(req.Offer, offered{wire.FateAnswered, m.Reply(), frame})
			_ = m.Respond(frame) // it may well be lost
		}
		switch before := f.set(req.Offer, offered{fate: wire.FateUnderWay}); {
		case before == wire.FateNever: // nobody waits for it
		case before != "":
			c.t.Errorf("an offer came that was %s", before)
		case string(event) == held:
			go func() { <-f.hold; answer() }()
		default:
			answer()
		}
	}); err != nil {
		c.t.Fatal(err)
	}
	c.inquiries(id, func(o wire.Offer) wire.Fate {
		switch fate := f.set(o.Number, offered{fate: wire.FateNever}); fate {
		case "":
			return wire.FateNever
		case wire.FateAnswered:
			f.mu.Lock()
			again := f.offers[o.Number]
			f.mu.Unlock()
			_ = c.conn.Publish(again.to, again.frame)
			return fate
		default:
			return fate
		}
	})
}

// set notes what became of an offer, and returns what was known before. What runs is
// answered; all else stays as it was.
func (f *faithful) set(number uint64, next offered) (before wire.Fate) {
	f.mu.Lock()
	defer f.mu.Unlock()
	before = f.offers[number].fate
	if before == "" || before == wire.FateUnderWay && next.fate == wire.FateAnswered {
		f.offers[number] = next
	}
	return before
}
