package bus_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/dayfly-run/dayfly/internal/bus"
	"github.com/dayfly-run/dayfly/internal/embed/embedtest"
)

// TestUpdates: what is there already is not told.
func TestUpdates(t *testing.T) {
	b := openBucket(t, open(t), 0)
	for _, before := range [][]string{nil, {"a", "b"}} {
		for _, key := range before {
			write(t, b, key)
		}
		seen := make(chan bus.Entry, 10)
		stop, err := b.Updates(t.Context(), func(e bus.Entry) { seen <- e })
		if err != nil {
			t.Fatal(err)
		}
		key := fmt.Sprint("later-", len(before))
		revision := write(t, b, key)
		if e := embedtest.Receive(t, seen); e.Key != key || e.Revision != revision {
			t.Errorf("entry %+v, want %s", e, key)
		}
		stop()
	}
}

// TestUpdatesGoOn: what is written while the reading is broken off is told.
func TestUpdatesGoOn(t *testing.T) {
	t.Parallel()
	conn := open(t)
	b := openBucket(t, conn, 0)
	write(t, b, "a")
	seen := make(chan bus.Entry, 10)
	stop, err := b.Updates(t.Context(), func(e bus.Entry) { seen <- e })
	if err != nil {
		t.Fatal(err)
	}
	defer stop()
	endReadings(t, conn)
	write(t, b, "b")
	if e := embedtest.Receive(t, seen); e.Key != "b" {
		t.Errorf("entry %+v, want b", e)
	}
}

// endReadings removes all consumers without anybody being told.
func endReadings(t *testing.T, conn *bus.Conn) {
	t.Helper()
	sources, err := conn.Sources(t.Context(), "")
	if err != nil || len(sources) == 0 {
		t.Fatalf("consumers %+v, %v", sources, err)
	}
	for _, s := range sources {
		if err := conn.RemoveSource(t.Context(), s.Stream, s.Name); err != nil {
			t.Fatal(err)
		}
	}
}

// heard returns what a new watcher hears before it is ready.
func heard(t *testing.T, b *bus.Bucket) (entries []bus.Entry) {
	t.Helper()
	w := watch(t, b)
	embedtest.Receive(t, w.ready)
	for range len(w.entries) {
		entries = append(entries, <-w.entries)
	}
	return entries
}

// TestRemovalsAreForgotten: a removed key leaves nothing behind in the end, and a watcher
// that was away meanwhile hears of the removal nevertheless.
func TestRemovalsAreForgotten(t *testing.T) {
	t.Parallel()
	conn := open(t)
	b := bus.Forgetful(openBucket(t, conn, 0), time.Second)
	revisions := map[string]uint64{}
	for _, key := range []string{"stays", "goes", "changes"} {
		revisions[key] = write(t, b, key)
	}
	w := watch(t, b)
	embedtest.Receive(t, w.ready)
	for range revisions {
		embedtest.Receive(t, w.entries)
	}
	endReadings(t, conn)
	if err := b.Delete(t.Context(), "goes", revisions["goes"]); err != nil {
		t.Fatal(err)
	}
	embedtest.Eventually(t, "the removal is forgotten", func() bool { return len(heard(t, b)) == 2 })
	changed, err := b.Update(t.Context(), "changes", []byte("x"), revisions["changes"])
	if err != nil {
		t.Fatal(err)
	}
	if e := embedtest.Receive(t, w.entries); e.Key != "changes" || e.Revision != changed {
		t.Errorf("entry %+v, want the change", e)
	}
	if e := embedtest.Receive(t, w.entries); e.Key != "goes" || !e.Deleted || e.Revision < changed {
		t.Errorf("entry %+v, want the removal", e)
	}
	last := write(t, b, "last")
	if e := embedtest.Receive(t, w.entries); e.Key != "last" || e.Revision != last {
		t.Errorf("entry %+v, want only what is new", e)
	}
	if len(w.ready) > 0 {
		t.Error("ready twice")
	}
}

// TestRemovalsAreRemembered by default, and in a bucket that keeps its keys for a while
// for as long as that.
func TestRemovalsAreRemembered(t *testing.T) {
	for _, ttl := range []time.Duration{0, time.Hour} {
		b := openBucket(t, open(t), ttl)
		if err := b.Delete(t.Context(), "k", write(t, b, "k")); err != nil {
			t.Fatal(err)
		}
		if entries := heard(t, b); len(entries) != 1 || !entries[0].Deleted {
			t.Errorf("a bucket that keeps keys for %s: %+v", ttl, entries)
		}
	}
}
