package bus_test

import (
	"testing"
	"time"

	"github.com/dayfly-run/dayfly/internal/bus"
	"github.com/dayfly-run/dayfly/internal/embed/embedtest"
	"github.com/dayfly-run/dayfly/internal/embed/natsserver"
	"github.com/dayfly-run/dayfly/wire"
)

// TestCut: a server that is cut off says nothing, and closes nothing. A client finds that
// out, gives up what it waits for, and goes another way.
func TestCut(t *testing.T) {
	t.Parallel()
	server, err := natsserver.Start(natsserver.Config{Dir: t.TempDir(), Listen: "127.0.0.1:0"}, embedtest.Discard())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(server.Stop)
	ways := []*embedtest.Way{embedtest.NewWay(t, server.URL()), embedtest.NewWay(t, server.URL())}
	conn, err := bus.Connect(bus.Config{URL: ways[0].URL + "," + ways[1].URL}, embedtest.Discard())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(conn.Close)
	b := openBucket(t, conn, 0)
	w := watch(t, b)
	embedtest.Receive(t, w.ready)
	lost, back := make(chan struct{}), make(chan struct{}, 1)
	conn.OnLost(func() { close(lost) })
	conn.OnBack(func() { t.Error("it was not to hear of it any more") })()
	defer conn.OnBack(func() { back <- struct{}{} })()

	begun := time.Now()
	for _, way := range ways {
		if way.Used() {
			way.Cut()
		}
	}
	if _, err := b.Create(t.Context(), "k", nil); err == nil {
		t.Error("a write to a server that is cut off was answered")
	}
	embedtest.Receive(t, lost)
	t.Logf("noticed after %s", time.Since(begun))
	embedtest.Receive(t, back)
	written := map[uint64]string{write(t, b, "after"): "after"}
	t.Logf("goes on after %s", time.Since(begun))
	w.follows(t, b, written)
}

// TestCutIsNoticedInTime: when its server falls silent, a node is heard over another one
// before it is given up. What it said last may be as old as a heartbeat.
func TestCutIsNoticedInTime(t *testing.T) {
	const least = 250 * time.Millisecond // to connect and to say something
	if left := wire.NodeLostAfter - wire.HeartbeatEvery - bus.NoticedWithin; left < least {
		t.Errorf("%s are left, %s are needed", left, least)
	}
}
