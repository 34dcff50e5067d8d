package bus_test

import (
	"errors"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/dayfly-run/dayfly/internal/bus"
	"github.com/dayfly-run/dayfly/internal/embed/embedtest"
)

func openBucket(t *testing.T, conn *bus.Conn, ttl time.Duration) *bus.Bucket {
	t.Helper()
	b, err := conn.Bucket(t.Context(), bus.BucketConfig{Name: "things", TTL: ttl, MaxValueBytes: 512})
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// timeless compares entries but for when they were written.
var timeless = cmpopts.IgnoreFields(bus.Entry{}, "At")

// wantError fails unless err is exactly one of the package's errors.
func wantError(t *testing.T, err, want error) {
	t.Helper()
	for _, e := range []error{bus.ErrNotFound, bus.ErrExists, bus.ErrConflict} {
		if errors.Is(err, e) != errors.Is(want, e) {
			t.Errorf("error %v: errors.Is(%v) = %t, want %v", err, e, errors.Is(err, e), want)
		}
	}
	if (err == nil) != (want == nil) {
		t.Errorf("error = %v, want %v", err, want)
	}
}

func TestBucketIsCompareAndSet(t *testing.T) {
	ctx, b := t.Context(), openBucket(t, open(t), 0)
	_, err := b.Get(ctx, "k")
	wantError(t, err, bus.ErrNotFound)
	first, err := b.Create(ctx, "k", []byte("1"))
	wantError(t, err, nil)
	_, err = b.Create(ctx, "k", []byte("x"))
	wantError(t, err, bus.ErrExists)
	second, err := b.Update(ctx, "k", []byte("2"), first)
	wantError(t, err, nil)
	_, err = b.Update(ctx, "k", []byte("x"), first)
	wantError(t, err, bus.ErrConflict)
	wantError(t, b.Delete(ctx, "k", first), bus.ErrConflict)
	e, err := b.Get(ctx, "k")
	wantError(t, err, nil)
	if diff := cmp.Diff(bus.Entry{Key: "k", Value: []byte("2"), Revision: second}, e, timeless); diff != "" || e.At.IsZero() {
		t.Errorf("(-want +got):\n%s", diff)
	}
	wantError(t, b.Delete(ctx, "k", second), nil)
	_, err = b.Get(ctx, "k")
	wantError(t, err, bus.ErrNotFound)
	_, err = b.Update(ctx, "k", []byte("x"), second)
	wantError(t, err, bus.ErrConflict)
	again, err := b.Create(ctx, "k", []byte("3"))
	wantError(t, err, nil)
	if again <= second {
		t.Errorf("revision %d after %d", again, second)
	}
	if _, err := b.Create(ctx, "big", make([]byte, 513)); err == nil {
		t.Error("a value over the bound was taken")
	}
}

func TestBucketSurvivesARestart(t *testing.T) {
	dir := t.TempDir()
	server := embedtest.NATS(t, dir)
	conn := embedtest.Connect(t, server)
	b := openBucket(t, conn, 0)
	revision, err := b.Create(t.Context(), "k", []byte("v"))
	if err != nil {
		t.Fatal(err)
	}
	conn.Close()
	server.Stop()
	b = openBucket(t, embedtest.Connect(t, embedtest.NATS(t, dir)), 0)
	e, err := b.Get(t.Context(), "k")
	if err != nil || string(e.Value) != "v" || e.Revision != revision {
		t.Errorf("entry %+v, %v", e, err)
	}
	_, err = b.Create(t.Context(), "k", nil)
	wantError(t, err, bus.ErrExists)
}

// TestBucketIsOpenedAsItIs: another process may have made it with other bounds.
func TestBucketIsOpenedAsItIs(t *testing.T) {
	conn := open(t)
	openBucket(t, conn, 0)
	if _, err := conn.Bucket(t.Context(), bus.BucketConfig{Name: "things", MaxValueBytes: 32}); err != nil {
		t.Error(err)
	}
}

func TestBucketForgets(t *testing.T) {
	t.Parallel()
	b := openBucket(t, open(t), time.Second)
	gone := make(chan bus.Entry, 10)
	revision, err := b.Create(t.Context(), "k", []byte("v"))
	if err != nil {
		t.Fatal(err)
	}
	ctx := t.Context()
	for { // the server looks at ages as it likes; asking is the only way to see it
		_, err := b.Get(ctx, "k")
		if errors.Is(err, bus.ErrNotFound) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		select {
		case <-gone:
		case <-time.After(50 * time.Millisecond):
		}
	}
	_, err = b.Update(ctx, "k", nil, revision)
	wantError(t, err, bus.ErrConflict)
	_, err = b.Create(ctx, "k", nil)
	wantError(t, err, nil)
}

func TestWatch(t *testing.T) {
	ctx, b := t.Context(), openBucket(t, open(t), 0)
	for _, key := range []string{"a", "b"} {
		if _, err := b.Create(ctx, key, []byte("1")); err != nil {
			t.Fatal(err)
		}
	}
	seen, ready := make(chan bus.Entry, 10), make(chan struct{}, 10)
	stop, err := b.Watch(ctx, func(e bus.Entry) { seen <- e }, func() { ready <- struct{}{} })
	if err != nil {
		t.Fatal(err)
	}
	embedtest.Receive(t, ready)
	if len(seen) != 2 {
		t.Errorf("%d entries before ready, want 2", len(seen))
	}
	a := embedtest.Receive(t, seen)
	embedtest.Receive(t, seen)
	next, err := b.Update(ctx, "a", []byte("2"), a.Revision)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(bus.Entry{Key: "a", Value: []byte("2"), Revision: next}, embedtest.Receive(t, seen), timeless); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if err := b.Delete(ctx, "a", next); err != nil {
		t.Fatal(err)
	}
	if e := embedtest.Receive(t, seen); e.Key != "a" || !e.Deleted || e.Revision <= next {
		t.Errorf("entry %+v, want a deleted one", e)
	}
	stop()
	if _, err := b.Create(ctx, "c", nil); err != nil {
		t.Fatal(err)
	}
	if len(seen) != 0 || len(ready) != 0 {
		t.Errorf("after the stop came %d entries", len(seen))
	}
}

func TestWatchOfSomeKeys(t *testing.T) {
	b := openBucket(t, open(t), 0)
	for _, key := range []string{"a", "b"} {
		if _, err := b.Create(t.Context(), key, nil); err != nil {
			t.Fatal(err)
		}
	}
	seen, ready := make(chan bus.Entry, 10), make(chan struct{}, 10)
	stop, err := b.WatchKeys(t.Context(), "b", func(e bus.Entry) { seen <- e }, func() { ready <- struct{}{} })
	if err != nil {
		t.Fatal(err)
	}
	defer stop()
	embedtest.Receive(t, ready)
	e := embedtest.Receive(t, seen)
	if e.Key != "b" || len(seen) != 0 {
		t.Errorf("before ready came %+v and %d more", e, len(seen))
	}
	if err := b.Delete(t.Context(), "b", e.Revision); err != nil {
		t.Fatal(err)
	}
	if e := embedtest.Receive(t, seen); e.Key != "b" || !e.Deleted {
		t.Errorf("entry %+v, want a deleted one", e)
	}
}

func TestWatchOfAnEmptyBucketIsReady(t *testing.T) {
	b := openBucket(t, open(t), 0)
	ready := make(chan struct{})
	stop, err := b.Watch(t.Context(), func(bus.Entry) { t.Error("an entry of nothing") }, func() { close(ready) })
	if err != nil {
		t.Fatal(err)
	}
	embedtest.Receive(t, ready)
	stop()
}
