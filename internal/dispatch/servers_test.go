package dispatch

import (
	"encoding/json"
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
	// What its doubles have, they answer at once.
	if _, err := c.conn.Subscribe(wire.NodeInquirySubject("a"), "", func(m bus.Msg) {
		data, err := json.Marshal(wire.InquiryReply{})
		if err == nil {
			err = m.Respond(data)
		}
		if err != nil {
			t.Error(err)
		}
	}); err != nil {
		t.Fatal(err)
	}
	n := c.addNode("a", 2, echo(false))
	calls, done := &calling{}, make(chan struct{})
	var running sync.WaitGroup
	running.Go(func() {
		tick := time.NewTicker(callEvery)
		defer tick.Stop()
		for {
			_, err := c.Invoke(t.Context(), call("{}", 20*time.Second))
			calls.note(err)
			for len(n.asked) > 0 { // its notes of the calls
				<-n.asked
			}
			select {
			case <-done:
				return
			case <-tick.C:
			}
		}
	})
	t.Cleanup(func() { close(done); running.Wait() })
	more := func(what string) {
		t.Helper()
		begun := time.Now()
		from, _, _ := calls.read()
		embedtest.Eventually(t, "calls go on "+what, func() bool { good, _, _ := calls.read(); return good >= from+50 })
		_, bad, last := calls.read()
		t.Logf("%s: 50 calls took %s; %d failed so far (%v)", what, time.Since(begun), bad, last)
	}
	more("with all")
	if _, bad, last := calls.read(); bad > 0 {
		t.Errorf("%d calls failed without a reason: %v", bad, last)
	}
	for _, lost := range []struct {
		server int
		whose  string
	}{{2, "without a server of nobody"}, {0, "without the dispatcher's"}, {1, "without the node's"}} {
		servers.KillServer(lost.server)
		more(lost.whose)
		servers.StartServer(lost.server)
		servers.AwaitSettled(t)
		more("with all again")
	}
}
