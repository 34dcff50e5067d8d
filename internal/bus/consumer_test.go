package bus_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/dayfly-run/dayfly/internal/bus"
	"github.com/dayfly-run/dayfly/internal/embed/embedtest"
	"github.com/dayfly-run/dayfly/internal/embed/natsserver"
)

var work = bus.ConsumerConfig{Stream: "queue", Name: "f", Subject: "queue.f.*", AckWait: time.Minute, MaxHeld: 100}

// openQueue makes the stream queue with a consumer for the subjects queue.f.*.
func openQueue(t *testing.T, conn *bus.Conn, cfg bus.ConsumerConfig) *bus.Consumer {
	t.Helper()
	if err := conn.EnsureStream(t.Context(), queue); err != nil {
		t.Fatal(err)
	}
	if err := conn.EnsureConsumer(t.Context(), cfg); err != nil {
		t.Fatal(err)
	}
	consumer, err := conn.Consumer(t.Context(), cfg.Stream, cfg.Name)
	if err != nil {
		t.Fatal(err)
	}
	return consumer
}

// fetch asks for n messages and returns those that came within wait.
func fetch(t *testing.T, consumer *bus.Consumer, n int, wait time.Duration) (got []bus.Delivery) {
	t.Helper()
	if err := consumer.Fetch(t.Context(), n, wait, func(d bus.Delivery) { got = append(got, d) }); err != nil {
		t.Fatal(err)
	}
	return got
}

// moment is a wait for what does not come.
const moment = 50 * time.Millisecond

func TestFetch(t *testing.T) {
	conn := open(t)
	consumer := openQueue(t, conn, work)
	if got := fetch(t, consumer, 5, moment); got != nil {
		t.Errorf("an empty queue gave %v", got)
	}
	begun := time.Now()
	store(t, conn, "queue.f.a", "1")
	store(t, conn, "queue.g.x", "of another")
	store(t, conn, "queue.f.b", "2")
	got := fetch(t, consumer, 2, time.Minute)
	if len(got) != 2 || got[0].Subject != "queue.f.a" || string(got[0].Data) != "1" || got[0].Sequence != 1 || got[0].Count != 1 || got[1].Sequence != 3 {
		t.Fatalf("%+v", got)
	}
	if at := got[0].StoredAt; at.Before(begun) || at.After(time.Now()) {
		t.Errorf("stored at %s", at)
	}
	// One is done, one comes back.
	if err := got[0].Ack(t.Context()); err != nil {
		t.Fatal(err)
	}
	_, err := conn.LastMessage(t.Context(), "queue", "queue.f.a")
	wantError(t, err, bus.ErrNotFound)
	if err := got[1].Again(0); err != nil {
		t.Fatal(err)
	}
	if got = fetch(t, consumer, 1, time.Minute); len(got) != 1 || got[0].Subject != "queue.f.b" || got[0].Count != 2 {
		t.Fatalf("%+v", got)
	}
	begun = time.Now()
	if err := got[0].Again(300 * time.Millisecond); err != nil {
		t.Fatal(err)
	}
	if got = fetch(t, consumer, 1, time.Minute); len(got) != 1 || time.Since(begun) < 200*time.Millisecond {
		t.Errorf("%+v after %s", got, time.Since(begun))
	}
}

// TestHold: what is said to be worked on is not given out again, and what is not is. The
// time between is long enough for a machine that is busy.
func TestHold(t *testing.T) {
	t.Parallel()
	conn := open(t)
	short := work
	short.AckWait = 5 * time.Second
	consumer := openQueue(t, conn, short)
	store(t, conn, "queue.f.held", "1")
	store(t, conn, "queue.f.left", "1")
	got := fetch(t, consumer, 2, time.Minute)
	done := make(chan struct{})
	var holding sync.WaitGroup
	defer holding.Wait()
	defer close(done)
	holding.Go(func() {
		tick := time.NewTicker(50 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
				if err := got[0].Hold(); err != nil {
					t.Error(err)
				}
			case <-done:
				return
			}
		}
	})
	// The one that is held would come first.
	if again := fetch(t, consumer, 1, time.Minute); len(again) != 1 || again[0].Subject != "queue.f.left" {
		t.Fatalf("%+v", again)
	}
}

// TestFetchGivesBack: what comes to one that has left goes to another at once.
func TestFetchGivesBack(t *testing.T) {
	conn := open(t)
	long := work
	long.AckWait = time.Hour // what is not given back does not come
	consumer := openQueue(t, conn, long)
	ctx, cancel := context.WithCancel(t.Context())
	left := make(chan error, 1)
	go func() {
		left <- consumer.Fetch(ctx, 10, time.Minute, func(bus.Delivery) { cancel() })
	}()
	for i := range 5 {
		store(t, conn, fmt.Sprint("queue.f.", i), "x")
	}
	if err := embedtest.Receive(t, left); !errors.Is(err, context.Canceled) {
		t.Errorf("error %v", err)
	}
	if got := fetch(t, consumer, 4, time.Minute); len(got) != 4 {
		t.Errorf("%d messages", len(got))
	}
}

func TestFetchEndsWithTheConsumer(t *testing.T) {
	conn := open(t)
	consumer := openQueue(t, conn, work)
	ended, asked := make(chan error, 1), make(chan error, 1)
	store(t, conn, "queue.f.a", "x")
	go func() {
		ended <- consumer.Fetch(t.Context(), 2, time.Minute, func(d bus.Delivery) { asked <- d.Ack(t.Context()) })
	}()
	if err := embedtest.Receive(t, asked); err != nil { // the server knows of the question
		t.Fatal(err)
	}
	if err := conn.RemoveSource(t.Context(), "queue", "f"); err != nil {
		t.Fatal(err)
	}
	wantError(t, embedtest.Receive(t, ended), bus.ErrNotFound)
	_, err := conn.Consumer(t.Context(), "queue", "f")
	wantError(t, err, bus.ErrNotFound)
	_, err = conn.Consumer(t.Context(), "nowhere", "f")
	wantError(t, err, bus.ErrNotFound)
}

// TestWaitsEndWithTheConnection: nobody waits for an answer that cannot come.
func TestWaitsEndWithTheConnection(t *testing.T) {
	dir := t.TempDir()
	server, err := natsserver.Start(natsserver.Config{Dir: dir, Listen: "127.0.0.1:0"}, embedtest.Discard())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(server.Stop)
	conn, err := bus.Connect(bus.Config{URL: server.URL()}, embedtest.Discard())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(conn.Close)
	consumer := openQueue(t, conn, work)
	ended, asked := make(chan error, 1), make(chan struct{}, 1)
	store(t, conn, "queue.f.a", "x")
	go func() {
		ended <- consumer.Fetch(t.Context(), 2, time.Hour, func(bus.Delivery) { asked <- struct{}{} })
	}()
	embedtest.Receive(t, asked)
	server.Stop()
	if err := embedtest.Receive(t, ended); err == nil {
		t.Error("a lost connection is no error")
	}
}

func TestAnnounce(t *testing.T) {
	conn := openStream(t, bus.StreamConfig{Name: "kept", Subjects: []string{"kept.*"}})
	heard := make(chan string, 10)
	subscribe(t, conn, "plain.x", "", func(m bus.Msg) { heard <- string(m.Data) })
	for range 2 { // a repeat is no error
		if err := conn.Announce(t.Context(), bus.Message{Subject: "kept.x", ID: "1", Data: []byte("1")}); err != nil {
			t.Fatal(err)
		}
	}
	if err := conn.Announce(t.Context(), bus.Message{Subject: "plain.x", Data: []byte("2")}); err != nil {
		t.Fatal(err)
	}
	if got := embedtest.Receive(t, heard); got != "2" {
		t.Errorf("heard %q", got)
	}
	if m, err := conn.LastMessage(t.Context(), "kept", "kept.x"); err != nil || m.Sequence != 1 {
		t.Errorf("%+v, %v", m, err)
	}
	if err := conn.Announce(t.Context(), bus.Message{Subject: "nobody.hears"}); err != nil {
		t.Error(err)
	}
}

func TestPurgeAndDiscard(t *testing.T) {
	conn := openStream(t, logs)
	store(t, conn, "log.a", "1", "2")
	store(t, conn, "log.b", "3")
	for range 2 { // again: nothing happens
		if err := conn.Discard(t.Context(), "logs", 1); err != nil {
			t.Fatal(err)
		}
	}
	if got := read(t, conn, "log.a", 9); len(got) != 1 || got[0] != "2" {
		t.Errorf("after a discard: %q", got)
	}
	if err := conn.Purge(t.Context(), "logs", "log.a"); err != nil {
		t.Fatal(err)
	}
	if got := read(t, conn, "log.*", 9); len(got) != 1 || got[0] != "3" {
		t.Errorf("after a purge: %q", got)
	}
	if conn.Discard(t.Context(), "nowhere", 1) == nil || conn.Purge(t.Context(), "nowhere", "x") == nil {
		t.Error("a stream that is not there was changed")
	}
}

// TestPassed: a stream that keeps what is acknowledged is as one that has it back.
func TestPassed(t *testing.T) {
	conn := open(t)
	passed := func(want bus.Backlog) (subjects []string) {
		t.Helper()
		got, err := conn.Passed(t.Context(), "kept", "f", func(m bus.StoredMessage) error {
			subjects = append(subjects, m.Subject+" "+string(m.Data))
			return nil
		})
		if err != nil || got != want {
			t.Fatalf("%+v, %v; want %+v", got, err, want)
		}
		return subjects
	}
	if err := conn.EnsureStream(t.Context(), bus.StreamConfig{Name: "kept", Subjects: []string{"kept.>"}, MaxBytes: 1 << 20}); err != nil {
		t.Fatal(err)
	}
	visit := func(bus.StoredMessage) error { return nil }
	_, err := conn.Passed(t.Context(), "kept", "f", visit)
	wantError(t, err, bus.ErrNotFound)
	if err := conn.EnsureConsumer(t.Context(), bus.ConsumerConfig{Stream: "kept", Name: "f", Subject: "kept.f.*", AckWait: time.Minute, MaxHeld: 100}); err != nil {
		t.Fatal(err)
	}
	consumer, err := conn.Consumer(t.Context(), "kept", "f")
	if err != nil {
		t.Fatal(err)
	}
	for i, subject := range []string{"kept.f.a", "kept.g.x", "kept.f.b", "kept.f.c", "kept.f.d"} {
		store(t, conn, subject, fmt.Sprint(i))
	}
	embedtest.Eventually(t, "the consumer has counted them", func() bool {
		backlog, err := conn.Passed(t.Context(), "kept", "f", visit)
		return err == nil && backlog == bus.Backlog{Waiting: 4}
	})
	held := fetch(t, consumer, 3, time.Minute)
	if got := passed(bus.Backlog{Waiting: 1, Held: 3}); got != nil || len(held) != 3 {
		t.Errorf("%d are held, passed are %q", len(held), got)
	}
	for _, d := range []bus.Delivery{held[0], held[1]} {
		if err := d.Ack(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if got, want := passed(bus.Backlog{Waiting: 1, Held: 1}), []string{"kept.f.a 0", "kept.f.b 2"}; !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
	failed := errors.New("failed")
	if _, err := conn.Passed(t.Context(), "kept", "f", func(bus.StoredMessage) error { return failed }); !errors.Is(err, failed) {
		t.Error(err)
	}
}
