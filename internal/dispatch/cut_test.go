package dispatch

import (
	"context"
	"testing"
	"time"

	"github.com/dayfly-run/dayfly/internal/bus"
	"github.com/dayfly-run/dayfly/internal/embed/embedtest"
	"github.com/dayfly-run/dayfly/internal/embed/natsserver"
	"github.com/dayfly-run/dayfly/wire"
)

// TestOwnServerFallsSilent: who hears nothing because its own way to NATS is cut takes no
// node for lost: a call that runs on one is answered once the way is there again.
func TestOwnServerFallsSilent(t *testing.T) {
	t.Parallel()
	server, err := natsserver.Start(natsserver.Config{Dir: t.TempDir(), Listen: "127.0.0.1:0"}, embedtest.Discard())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(server.Stop)
	way := embedtest.NewWay(t, server.URL())
	own, err := bus.Connect(bus.Config{Name: t.Name(), URL: way.URL}, embedtest.Discard())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(own.Close)
	c := newClusterOver(t, own, embedtest.Connect(t, server))
	answer := make(chan struct{})
	n := c.addNode("a", 1, func(req wire.InvokeRequest, event []byte) (*wire.InvokeReply, []byte) {
		<-answer
		return echo(false)(req, event)
	})
	words := make(chan struct{}, 1000)
	if _, err := c.conn.Subscribe(wire.NodeStateSubject("a"), "", func(bus.Msg) { words <- struct{}{} }); err != nil {
		t.Fatal(err)
	}
	lost := make(chan struct{})
	own.OnLost(func() { close(lost) })
	ended := make(chan error, 1)
	go func() {
		_, err := c.invoke(t.Context(), "{}")
		ended <- err
	}()
	embedtest.Receive(t, n.asked)

	way.Cut()
	for len(words) > 0 {
		<-words
	}
	for range 2*wire.NodeLostAfter/wire.HeartbeatEvery - 1 {
		embedtest.Receive(t, words)
	}
	embedtest.Receive(t, lost)
	select {
	case err := <-ended:
		t.Fatalf("the call ended while the way was cut: %v", err)
	default:
	}
	heard := func() uint64 {
		for _, n := range c.Nodes() {
			return n.Seq
		}
		t.Fatal("the node is not known any more")
		return 0
	}
	before := heard()
	way.Mend()
	embedtest.Eventually(t, "the node is heard again", func() bool { return heard() > before })
	flushing, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if err := own.Flush(flushing); err != nil { // the server knows where answers go, too
		t.Fatal(err)
	}
	close(answer)
	if err := embedtest.Receive(t, ended); err != nil {
		t.Error(err)
	}
	// Still, a node that is silent is found out.
	n.stop()
	embedtest.Eventually(t, "the node is forgotten", func() bool { return !c.knows("a") })
}
