package invoker

import (
	"context"
	"encoding/json"
	"net"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/dayfly-run/dayfly/internal/bus"
	"github.com/dayfly-run/dayfly/internal/embed/embedtest"
	"github.com/dayfly-run/dayfly/wire"
)

// waiting plays a function that answers "wait" only when it is killed, and says on a
// channel that it has it.
func waiting(has chan<- struct{}) func(*process) int {
	return each(func(p *process, _ string, event []byte) ([]byte, error) {
		if string(event) == `"wait"` {
			has <- struct{}{}
			<-p.ctx.Done()
		}
		return event, nil
	})
}

// run calls over the door for callers in the same process.
func (n *node) run(v wire.VersionID, lease wire.LeaseID, event string) <-chan answer {
	done := make(chan answer, 1)
	go func() {
		reply, result, _ := n.inv.Run(context.Background(), wire.InvokeRequest{Invocation: newInvocation(), Version: v, Lease: lease}, []byte(event))
		done <- answer{reply, result}
	}()
	return done
}

func (n *node) fence(run string, epoch uint64) {
	n.tb.Helper()
	data, err := json.Marshal(wire.FenceRequest{Run: run, Epoch: epoch})
	must(n.tb, err)
	must(n.tb, shared.conn.Publish(wire.NodeFenceSubject(n.id), data))
}

func keptOf(s wire.NodeState, v wire.VersionID) int {
	for _, has := range s.Versions {
		if has.Version == v {
			return has.Kept
		}
	}
	return 0
}

// A run that the leader gave up ends, with what it runs and keeps; idle instances go on.
func TestFence(t *testing.T) {
	has := make(chan struct{}, 1)
	n := startNode(t, waiting(has))
	busy, idle, held := n.deploy(), n.deploy(), n.deploy()
	first := n.cold(idle, `1`)
	n.wantBody(first, `1`)
	call := n.run(busy, newLease(), `"wait"`)
	embedtest.Receive(t, has)
	n.mustKeep(wire.KeepRequest{Version: held, Count: 1, Epoch: 7})
	before := n.await("keeping one", func(s wire.NodeState) bool { return keptOf(s, held) == 1 })

	n.fence(before.Run, 6) // of a leader that no longer leads
	n.fence("another", 8)
	n.fence(before.Run, 8)
	n.wantError(embedtest.Receive(t, call), wire.CodeUnavailable, false, "given up while the function ran")
	after := n.await("in a new run", func(s wire.NodeState) bool { return s.Run != before.Run })
	if keptOf(after, held) != 0 {
		t.Error("it keeps what it was told in the run before")
	}
	again := n.warm(idle, `2`)
	n.wantBody(again, `2`)
	if again.Instance != first.Instance {
		t.Error("the idle instance is gone")
	}
	n.fence(before.Run, 9) // once more: that run is over
	n.fence(after.Run, 9)
	last := n.await("in a third run", func(s wire.NodeState) bool { return s.Run != before.Run && s.Run != after.Run })
	n.mu.Lock()
	defer n.mu.Unlock()
	if want := []string{before.Run, after.Run, last.Run}; !slices.Equal(n.runs, want) {
		t.Errorf("it was in the runs %q, want %q", n.runs, want)
	}
}

// A call that has no instance yet when the run ends may go elsewhere.
func TestFenceWhileStarting(t *testing.T) {
	starting, over := make(chan struct{}, 1), make(chan struct{})
	n := startNode(t, func(p *process) int {
		starting <- struct{}{}
		select {
		case <-p.ctx.Done():
		case <-over:
		}
		return 1
	})
	defer close(over)
	run := n.await("there", func(wire.NodeState) bool { return true }).Run
	call := n.run(n.deploy(), newLease(), `1`)
	embedtest.Receive(t, starting)
	n.fence(run, 1)
	n.wantError(embedtest.Receive(t, call), wire.CodeUnavailable, true, "given up before the function ran")
}

// valve is a way to NATS that a test can cut without either end noticing.
type valve struct {
	held func() // called when something waits for it to open; may be nil

	mu     sync.Mutex
	closed chan struct{} // guarded by mu: nil, or closed when it opens again
	pumps  sync.WaitGroup
}

// connect opens a connection, which ends with the test.
func (g *valve) connect(t *testing.T) *bus.Conn {
	t.Helper()
	conn, err := bus.Connect(bus.Config{Name: t.Name(), InProcess: g}, quiet())
	must(t, err)
	t.Cleanup(func() {
		g.open()
		conn.Close()
		g.pumps.Wait()
	})
	return conn
}

// InProcessConn opens a connection to the tests' server through the valve.
func (g *valve) InProcessConn() (net.Conn, error) {
	server, err := shared.nats.InProcessConn()
	if err != nil {
		return nil, err
	}
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	ends := make([]net.Conn, 2)
	for i, fd := range fds {
		f := os.NewFile(uintptr(fd), "valve")
		if ends[i], err = net.FileConn(f); err != nil {
			return nil, err
		}
		_ = f.Close()
	}
	g.pumps.Go(func() { g.pump(server, ends[1]) })
	g.pumps.Go(func() { g.pump(ends[1], server) })
	return ends[0], nil
}

// pump carries what is said while the valve is open, and later what was said before.
func (g *valve) pump(to, from net.Conn) {
	defer to.Close()
	defer from.Close()
	data := make([]byte, 32<<10)
	for {
		n, err := from.Read(data)
		g.mu.Lock()
		closed := g.closed
		g.mu.Unlock()
		if closed != nil {
			if g.held != nil {
				g.held()
			}
			<-closed
		}
		if _, e := to.Write(data[:n]); err != nil || e != nil {
			return
		}
	}
}

func (g *valve) shut() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.closed = make(chan struct{})
}

func (g *valve) open() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.closed != nil {
		close(g.closed)
		g.closed = nil
	}
}

// A node that nobody can hear finds out by itself.
func TestNodeThatIsCutOff(t *testing.T) {
	t.Parallel()
	var way valve
	conn := way.connect(t)
	has := make(chan struct{}, 1)
	n := startNode(t, waiting(has), func(c *Config, d *Deps) {
		c.LostAfter = 2 * wire.NodeLostAfter
		d.Conn = conn
	})
	t.Cleanup(way.open) // before the node stops
	busy, idle := n.deploy(), n.deploy()
	first := n.cold(idle, `1`)
	n.wantBody(first, `1`)
	before := n.await("there", func(wire.NodeState) bool { return true })
	call := n.run(busy, newLease(), `"wait"`)
	embedtest.Receive(t, has)
	n.mu.Lock()
	n.lossy = true
	n.mu.Unlock()
	way.shut()
	n.wantError(embedtest.Receive(t, call), wire.CodeUnavailable, false, "given up while the function ran")
	lease := newLease()
	n.wantError(embedtest.Receive(t, n.run(idle, lease, `2`)), wire.CodeUnavailable, true, "out of touch")
	n.inv.mu.Lock()
	if _, settled := n.inv.settled[lease]; !settled {
		t.Error("the lease is not settled")
	}
	n.inv.mu.Unlock()
	refused := n.inv.keep(wire.KeepRequest{Version: idle, Count: 1, Epoch: 1})
	if !wire.HasCode(refused, wire.CodeUnavailable) {
		t.Errorf("a command: %v", refused)
	}
	way.open()
	n.await("in a new run", func(s wire.NodeState) bool { return s.Run != before.Run })
	var again answer
	embedtest.Eventually(t, "the node in touch", func() bool {
		again = embedtest.Receive(t, n.run(idle, "", `3`))
		return again.Error == nil
	})
	if n.wantBody(again, `3`); again.Instance != first.Instance {
		t.Error("the idle instance is gone")
	}
}

// A heartbeat that could not be sent does not count as heard, although NATS is there.
func TestNodeWhoseWordsAreNotSent(t *testing.T) {
	t.Parallel()
	n := startNode(t, each(echo), func(c *Config, _ *Deps) {
		c.LostAfter = wire.NodeLostAfter
		c.Labels = map[string]string{"too-long": strings.Repeat("x", 2*shared.conn.MaxPayload())}
	})
	v := n.deploy()
	embedtest.Eventually(t, "the node out of touch", func() bool {
		a := embedtest.Receive(t, n.run(v, newLease(), `1`))
		return a.Error != nil && strings.Contains(a.Error.Message, "out of touch")
	})
}
