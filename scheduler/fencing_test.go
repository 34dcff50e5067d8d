package scheduler_test

import (
	"context"
	"encoding/json"
	"testing"

	"github.com/dayfly-run/dayfly/internal/bus"
	"github.com/dayfly-run/dayfly/internal/embed/embedtest"
	"github.com/dayfly-run/dayfly/internal/embed/natsserver"
	"github.com/dayfly-run/dayfly/scheduler"
	"github.com/dayfly-run/dayfly/wire"
)

// fencesOf hears what a node is told of runs that are over.
func fencesOf(t *testing.T, conn *bus.Conn, id wire.NodeID) <-chan wire.FenceRequest {
	t.Helper()
	heard := make(chan wire.FenceRequest, 100)
	sub, err := conn.Subscribe(wire.NodeFenceSubject(id), "", func(m bus.Msg) {
		var req wire.FenceRequest
		if err := json.Unmarshal(m.Data, &req); err != nil {
			t.Error(err)
		}
		heard <- req
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { sub.Stop(conn) })
	return heard
}

// A node that was silent for too long is told so when it is heard again, and gets nothing
// to do until it is in another run.
func TestNodeThatComesBack(t *testing.T) {
	t.Parallel()
	server := startNATS(t)
	conn := connect(t, server)
	fences := fencesOf(t, conn, "a")
	startNode(t, conn, "b").report(t, func(st *wire.NodeState) { st.Runtimes = []string{"node"} })
	a := startNode(t, conn, "a")
	s := startScheduler(t, server)
	nodes := func(n float64) func() bool {
		return func() bool { return s.metric(t, "dayfly_scheduler_nodes") == n }
	}
	embedtest.Eventually(t, "two nodes", nodes(2))
	embedtest.Eventually(t, "ready", ready(s))
	epoch := mustAsk(t, conn, usual()).Epoch
	a.silence()
	embedtest.Eventually(t, "one node", nodes(1))
	embedtest.Eventually(t, "its run is over", func() bool { return s.metric(t, "dayfly_scheduler_given_up") == 1 })
	a.report(t, nil)
	if got, want := embedtest.Receive(t, fences), (wire.FenceRequest{Run: "run", Epoch: epoch}); got != want {
		t.Errorf("it is told %+v, want %+v", got, want)
	}
	wantCode(t, mustAsk(t, conn, usual()), wire.CodeNoCapacity)
	a.report(t, func(st *wire.NodeState) { st.Run = "another" })
	embedtest.Eventually(t, "the node", func() bool {
		return mustAsk(t, conn, usual()).Node == "a"
	})
	if len(fences) != 0 {
		t.Errorf("it is told as well: %+v", <-fences)
	}
}

// A node that fell silent under one leader is told by the next one, which stood by then.
func TestNodeThatComesBackToAnotherLeader(t *testing.T) {
	t.Parallel()
	server := startNATS(t)
	conn := connect(t, server)
	fences := fencesOf(t, conn, "a")
	startNode(t, conn, "b").report(t, func(st *wire.NodeState) { st.Runtimes = []string{"node"} })
	a := startNode(t, conn, "a")
	first := startScheduler(t, server)
	embedtest.Eventually(t, "ready", ready(first))
	second := startScheduler(t, server)
	embedtest.Eventually(t, "two nodes", func() bool { return second.metric(t, "dayfly_scheduler_nodes") == 2 })
	a.silence()
	embedtest.Eventually(t, "the standby gives it up", func() bool { return second.metric(t, "dayfly_scheduler_given_up") == 1 })
	if err := first.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	embedtest.Eventually(t, "the second leads", second.Leads)
	onB := usual()
	onB.Runtime = "node"
	epoch := mustAsk(t, conn, onB).Epoch
	a.report(t, nil)
	if got, want := embedtest.Receive(t, fences), (wire.FenceRequest{Run: "run", Epoch: epoch}); got != want || epoch == 0 {
		t.Errorf("it is told %+v, want %+v", got, want)
	}
	wantCode(t, mustAsk(t, conn, usual()), wire.CodeNoCapacity)
}

// A standby that was cut off has missed what the nodes said, and holds it against none of
// them when it leads.
func TestStandbyThatWasCutOff(t *testing.T) {
	t.Parallel()
	server, err := natsserver.Start(natsserver.Config{Dir: t.TempDir(), Listen: "127.0.0.1:0"}, quiet())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(server.Stop)
	conn := connect(t, server)
	fences := fencesOf(t, conn, "a")
	startNode(t, conn, "a")
	first := startScheduler(t, server)
	embedtest.Eventually(t, "ready", ready(first))
	way := embedtest.NewWay(t, server.URL())
	own, err := bus.Connect(bus.Config{Name: t.Name(), URL: way.URL}, quiet())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(own.Close)
	second := newScheduler(own, scheduler.Config{LeaderTTL: lasting}, nothingKept{})
	if err := second.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := second.Stop(context.Background()); err != nil {
			t.Error(err)
		}
	})
	embedtest.Eventually(t, "the node", func() bool { return second.metric(t, "dayfly_scheduler_nodes") == 1 })
	words := make(chan struct{}, 1000)
	sub, err := conn.Subscribe(wire.NodeStateSubject("a"), "", func(bus.Msg) { words <- struct{}{} })
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { sub.Stop(conn) })

	way.Cut()
	for range 2*wire.NodeLostAfter/wire.HeartbeatEvery - 1 {
		embedtest.Receive(t, words)
	}
	if got := second.metric(t, "dayfly_scheduler_nodes"); got != 1 {
		t.Errorf("it knows %v nodes while it hears none", got)
	}
	way.Mend()
	embedtest.Eventually(t, "it is back", ready(second))
	if err := first.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	embedtest.Eventually(t, "the second leads", second.Leads)
	embedtest.Eventually(t, "an instance", func() bool { return mustAsk(t, conn, usual()).Node == "a" })
	if got := second.metric(t, "dayfly_scheduler_given_up"); got != 0 || len(fences) != 0 {
		t.Errorf("%v runs are over, %d nodes were told", got, len(fences))
	}
}
