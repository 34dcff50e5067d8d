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
// that of neither side, the dispatcher's and the node's. Warm calls go on after each.
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
	c := newClusterOver(t, connect(0), connect(1))
	c.addNode("a", 2, nil)
	new(faithful).serve(c, "a")
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
}

// faithful is a double of a node that loses nothing which it had: it gives answers again,
// and does not take what it said never came.
type faithful struct {
	mu       sync.Mutex // guards what follows
	answered map[uint64]kept
}

// kept is an answer, or none where the offer is not taken any more.
type kept struct {
	to    string
	frame []byte
}

func (f *faithful) serve(c *cluster, id wire.NodeID) {
	c.t.Helper()
	f.answered = map[uint64]kept{}
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
		f.mu.Lock()
		old, came := f.answered[req.Offer]
		if !came {
			f.answered[req.Offer] = kept{m.Reply(), frame}
		}
		f.mu.Unlock()
		switch {
		case !came:
			_ = m.Respond(frame) // it may well be lost
		case old.frame != nil:
			c.t.Error("an offer came twice")
		}
	}); err != nil {
		c.t.Fatal(err)
	}
	c.inquiries(id, func(o wire.Offer) wire.Fate {
		f.mu.Lock()
		got, came := f.answered[o.Number]
		if !came {
			f.answered[o.Number] = kept{}
		}
		f.mu.Unlock()
		if got.frame == nil {
			return wire.FateNever
		}
		_ = c.conn.Publish(got.to, got.frame)
		return wire.FateAnswered
	})
}
