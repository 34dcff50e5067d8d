package invoker

import (
	"testing"
	"time"

	"github.com/dayfly-run/dayfly/internal/bus"
	"github.com/dayfly-run/dayfly/internal/embed/embedtest"
	"github.com/dayfly-run/dayfly/internal/embed/natsserver"
	"github.com/dayfly-run/dayfly/wire"
)

// lateness measures how late this program comes to run, until it is asked.
func lateness() (worst func() time.Duration) {
	const every = 10 * time.Millisecond
	stop, done := make(chan struct{}), make(chan time.Duration)
	go func() {
		tick := time.NewTicker(every)
		defer tick.Stop()
		var late time.Duration
		for last := time.Now(); ; {
			select {
			case <-stop:
				done <- late
				return
			case <-tick.C:
				now := time.Now()
				late, last = max(late, now.Sub(last)-every), now
			}
		}
	}()
	return func() time.Duration {
		close(stop)
		return <-done
	}
}

// TestServerFallsSilent: a node whose NATS server is paused or cut off goes to another one
// and keeps its run.
func TestServerFallsSilent(t *testing.T) {
	t.Parallel()
	// busy is how late a machine that has other work may run what was to run: the node then
	// cannot be in time, and the test says nothing.
	const rounds, busy = 5, 200 * time.Millisecond
	server, err := natsserver.Start(natsserver.Config{Dir: t.TempDir(), Listen: "127.0.0.1:0"}, quiet())
	must(t, err)
	t.Cleanup(server.Stop)
	ways := []*embedtest.Way{embedtest.NewWay(t, server.URL()), embedtest.NewWay(t, server.URL())}
	conn, err := bus.Connect(bus.Config{Name: "silenced", URL: ways[0].URL + "," + ways[1].URL}, quiet())
	must(t, err)
	t.Cleanup(conn.Close)
	back := make(chan struct{}, 10)
	defer conn.OnBack(func() { back <- struct{}{} })()
	n := startNode(t, each(echo), func(c *Config, d *Deps) {
		c.LostAfter = wire.NodeLostAfter
		d.Conn = conn
	})
	ear := embedtest.Connect(t, server)
	words := make(chan struct{}, 1000)
	sub, err := ear.Subscribe(wire.NodeStateSubject(n.id), "", func(bus.Msg) { words <- struct{}{} })
	must(t, err)
	t.Cleanup(func() { sub.Stop(ear) })
	used := 0
	if ways[1].Used() {
		used = 1
	}
	for round := range rounds {
		for len(words) > 0 {
			<-words
		}
		embedtest.Receive(t, words) // nearly all of its time is left
		run, worst, begun := n.inv.currentRun(), lateness(), time.Now()
		ways[used].Cut()
		embedtest.Receive(t, back)
		for len(words) > 0 {
			<-words
		}
		embedtest.Receive(t, words)
		embedtest.Receive(t, words) // by then it has found out whether it was too late
		late := worst()
		t.Logf("heard again after %s, on a machine that is %s late", time.Since(begun), late)
		switch {
		case n.inv.currentRun() == run:
			return
		case late < busy || round == rounds-1:
			t.Fatal("the node gave itself up")
		}
		ways[used].Mend()
		used = 1 - used
	}
}
