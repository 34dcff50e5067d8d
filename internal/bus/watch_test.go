package bus_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/dayfly-run/dayfly/internal/bus"
	"github.com/dayfly-run/dayfly/internal/embed/embedtest"
)

// watched is what a watch told.
type watched struct {
	entries chan bus.Entry
	ready   chan struct{}
}

func watch(t *testing.T, b *bus.Bucket) watched {
	t.Helper()
	w := watched{entries: make(chan bus.Entry, 1000), ready: make(chan struct{}, 10)}
	stop, err := b.Watch(t.Context(), func(e bus.Entry) { w.entries <- e }, func() { w.ready <- struct{}{} })
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(stop)
	return w
}

// write creates a key, and tries again where no server could take it.
func write(t *testing.T, b *bus.Bucket, key string) uint64 {
	t.Helper()
	var written uint64
	embedtest.Eventually(t, key+" is written", func() bool {
		_, err := b.Create(t.Context(), key, []byte(key))
		if err != nil {
			t.Log(err) // it may be there nevertheless
		}
		e, err := b.Get(t.Context(), key)
		written = e.Revision
		return err == nil
	})
	return written
}

// follows fails unless the watch tells of writes in their order, each of them once, and
// of what is written now next.
func (w watched) follows(t *testing.T, b *bus.Bucket, want map[uint64]string) {
	t.Helper()
	const next = "the-last"
	want[write(t, b, next)] = next
	var last uint64
	for range want {
		e := embedtest.Receive(t, w.entries)
		if e.Revision <= last || want[e.Revision] != e.Key || string(e.Value) != e.Key {
			t.Errorf("entry %+v after revision %d", e, last)
		}
		last = e.Revision
	}
}

// TestWatchThatTheServerEnds: the consumer behind a watch goes without anybody being told.
func TestWatchThatTheServerEnds(t *testing.T) {
	t.Parallel()
	conn := open(t)
	b := openBucket(t, conn, 0)
	written := map[uint64]string{write(t, b, "a"): "a"}
	w := watch(t, b)
	embedtest.Receive(t, w.ready)
	sources, err := conn.Sources(t.Context(), "")
	if err != nil || len(sources) != 1 {
		t.Fatalf("consumers %+v, %v", sources, err)
	}
	if err := conn.RemoveSource(t.Context(), sources[0].Stream, sources[0].Name); err != nil {
		t.Fatal(err)
	}
	written[write(t, b, "b")] = "b"
	w.follows(t, b, written)
	if len(w.ready) > 0 {
		t.Error("ready twice")
	}
}

// TestWatchLeavesNothing: a watch or list that ended has no consumer any more.
func TestWatchLeavesNothing(t *testing.T) {
	conn := open(t)
	b := openBucket(t, conn, 0)
	write(t, b, "a")
	stop, err := b.Watch(t.Context(), func(bus.Entry) {}, func() {})
	if err != nil {
		t.Fatal(err)
	}
	stop()
	if keys, err := b.Keys(t.Context(), ">"); err != nil || len(keys) != 1 {
		t.Errorf("keys %v, %v", keys, err)
	}
	embedtest.Eventually(t, "no consumer is left", func() bool {
		sources, err := conn.Sources(t.Context(), "")
		return err == nil && len(sources) == 0
	})
}

// TestWatchOfManyKeys: more than the server sends without being asked to go on.
func TestWatchOfManyKeys(t *testing.T) {
	conn := open(t)
	b, err := conn.Bucket(t.Context(), bus.BucketConfig{Name: "large", MaxValueBytes: 1 << 20})
	if err != nil {
		t.Fatal(err)
	}
	const keys = 24
	for i := range keys {
		if _, err := b.Create(t.Context(), fmt.Sprint(i), make([]byte, 512<<10)); err != nil {
			t.Fatal(err)
		}
	}
	w := watch(t, b)
	embedtest.Receive(t, w.ready)
	if n := len(w.entries); n != keys {
		t.Errorf("%d entries before ready, want %d", n, keys)
	}
}

// TestWatchOverLostServers: the server that a watch comes from, and that leads the bucket,
// is paused; then another one is killed. Keys are written all the while; the watch misses
// none and tells of none twice.
func TestWatchOverLostServers(t *testing.T) {
	t.Parallel()
	cluster := embedtest.NATSProcesses(t)
	writer := openBucket(t, cluster.Connect(t), 0)
	written := map[uint64]string{}
	put := func(key string) { written[write(t, writer, key)] = key }
	put("first")
	leader := max(cluster.Leader("KV_things"), 0)
	// It hears of the others from that one.
	conn, err := bus.Connect(bus.Config{URL: cluster.ServerURL(leader), Replicas: cluster.Servers()}, embedtest.Discard())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(conn.Close)
	w := watch(t, openBucket(t, conn, 0))
	embedtest.Receive(t, w.ready)

	lost := make(chan struct{})
	conn.OnLost(func() { close(lost) })
	begun := time.Now()
	resume := cluster.PauseServer(leader)
	embedtest.Receive(t, lost)
	t.Logf("the client noticed after %s", time.Since(begun))
	put("without-the-leader")
	t.Logf("written %s after the leader was paused", time.Since(begun))
	resume()
	cluster.AwaitSettled(t)
	put("with-all")
	other := (leader + 1) % cluster.Servers()
	cluster.KillServer(other)
	put("without-another")
	cluster.StartServer(other)
	w.follows(t, writer, written)
	if len(w.ready) > 0 {
		t.Error("ready twice")
	}
}
