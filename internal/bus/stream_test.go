package bus_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/dayfly-run/dayfly/internal/bus"
	"github.com/dayfly-run/dayfly/internal/embed/embedtest"
	"github.com/dayfly-run/dayfly/internal/embed/natsserver"
)

var logs = bus.StreamConfig{Name: "logs", Subjects: []string{"log.>"}, MaxAge: time.Hour, MaxBytes: 1 << 20, Async: true}

func openStream(t *testing.T, cfg bus.StreamConfig) *bus.Conn {
	t.Helper()
	conn := open(t)
	if err := conn.EnsureStream(t.Context(), cfg); err != nil {
		t.Fatal(err)
	}
	return conn
}

func store(t *testing.T, conn *bus.Conn, subject string, texts ...string) {
	t.Helper()
	for _, text := range texts {
		if err := conn.PublishStored(t.Context(), subject, []byte(text)); err != nil {
			t.Fatal(err)
		}
	}
}

func read(t *testing.T, conn *bus.Conn, subject string, tail int) (texts []string) {
	t.Helper()
	err := conn.Read(t.Context(), bus.ReadOptions{Stream: "logs", Subject: subject, Tail: tail}, func(m bus.StreamMsg) error {
		texts = append(texts, string(m.Data))
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return texts
}

func TestReadTail(t *testing.T) {
	conn := openStream(t, logs)
	if got := read(t, conn, "log.a", 5); got != nil {
		t.Errorf("an empty stream has %q", got)
	}
	store(t, conn, "log.a", "a1", "a2")
	// Far more of another subject than a first look takes in.
	for i := range 300 {
		store(t, conn, "log.b", fmt.Sprint("b", i))
	}
	store(t, conn, "log.a", "a3")
	store(t, conn, "log.b", "b300")
	for tail, want := range map[int][]string{
		0: nil, 1: {"a3"}, 2: {"a2", "a3"}, 3: {"a1", "a2", "a3"}, 4: {"a1", "a2", "a3"}, 10_000: {"a1", "a2", "a3"},
	} {
		if diff := cmp.Diff(want, read(t, conn, "log.a", tail)); diff != "" {
			t.Errorf("tail %d (-want +got):\n%s", tail, diff)
		}
	}
	if got := read(t, conn, "log.*", 2); !cmp.Equal(got, []string{"a3", "b300"}) {
		t.Errorf("of all subjects: %q", got)
	}
	if got := read(t, conn, "log.none", 2); got != nil {
		t.Errorf("of no subject: %q", got)
	}
}

func TestReadFollows(t *testing.T) {
	conn := openStream(t, logs)
	store(t, conn, "log.a", "1", "2", "3")
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	got, done := make(chan string, 10), make(chan error, 1)
	go func() {
		done <- conn.Read(ctx, bus.ReadOptions{Stream: "logs", Subject: "log.*", Tail: 1, Follow: true}, func(m bus.StreamMsg) error {
			got <- string(m.Data)
			return nil
		})
	}()
	for _, want := range []string{"3", "4", "5"} {
		if text := embedtest.Receive(t, got); text != want {
			t.Errorf("got %q, want %q", text, want)
		}
		store(t, conn, "log.b", string(want[0]+1))
	}
	cancel()
	if err := embedtest.Receive(t, done); err != nil {
		t.Errorf("a reader that leaves: %v", err)
	}
}

// TestReadFrom: reading goes on behind a message, or from a moment, and says how many of
// the past are left.
func TestReadFrom(t *testing.T) {
	conn := openStream(t, logs)
	store(t, conn, "log.a", "1", "2")
	store(t, conn, "log.b", "other")
	store(t, conn, "log.a", "3", "4")
	all := func(opts bus.ReadOptions) (got []bus.StreamMsg) {
		t.Helper()
		opts.Stream, opts.Subject = "logs", "log.a"
		err := conn.Read(t.Context(), opts, func(m bus.StreamMsg) error { got = append(got, m); return nil })
		if err != nil {
			t.Fatal(err)
		}
		return got
	}
	message := func(sequence uint64, text string, left uint64) bus.StreamMsg {
		return bus.StreamMsg{Sequence: sequence, Data: []byte(text), Left: left}
	}
	two, three, four := message(2, "2", 2), message(4, "3", 1), message(5, "4", 0)
	for name, test := range map[string]struct {
		opts bus.ReadOptions
		want []bus.StreamMsg
	}{
		"behind one":                  {bus.ReadOptions{After: 1}, []bus.StreamMsg{two, three, four}},
		"behind one of others":        {bus.ReadOptions{After: 3, Tail: 1}, []bus.StreamMsg{three, four}},
		"behind the last":             {bus.ReadOptions{After: 5}, nil},
		"since long ago":              {bus.ReadOptions{Since: time.Now().Add(-time.Hour), Tail: 3}, []bus.StreamMsg{two, three, four}},
		"since what has not been yet": {bus.ReadOptions{Since: time.Now().Add(time.Hour), Tail: 3}, nil},
	} {
		if diff := cmp.Diff(test.want, all(test.opts)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
}

func TestReadEndsWithItsHandler(t *testing.T) {
	conn := openStream(t, logs)
	store(t, conn, "log.a", "1", "2")
	enough := errors.New("enough")
	for _, follow := range []bool{false, true} {
		err := conn.Read(t.Context(), bus.ReadOptions{Stream: "logs", Subject: "log.a", Tail: 9, Follow: follow}, func(bus.StreamMsg) error { return enough })
		if !errors.Is(err, enough) {
			t.Errorf("follow %t: error = %v", follow, err)
		}
	}
}

func TestReadNoStream(t *testing.T) {
	err := open(t).Read(t.Context(), bus.ReadOptions{Stream: "logs", Subject: "x"}, func(bus.StreamMsg) error { return nil })
	if err == nil {
		t.Error("a stream that is not there was read")
	}
}

func TestLast(t *testing.T) {
	conn := openStream(t, bus.StreamConfig{Name: "records", Subjects: []string{"record.*"}, MaxPerSubject: 1})
	_, err := conn.Last(t.Context(), "records", "record.x")
	wantError(t, err, bus.ErrNotFound)
	store(t, conn, "record.x", "old", "new")
	data, err := conn.Last(t.Context(), "records", "record.x")
	if err != nil || string(data) != "new" {
		t.Errorf("last %q, %v", data, err)
	}
	if _, err := conn.Last(t.Context(), "nowhere", "record.x"); err == nil || errors.Is(err, bus.ErrNotFound) {
		t.Errorf("no stream: error = %v, want another than not found", err)
	}
	if err := conn.PublishStored(t.Context(), "nobody.keeps", nil); err == nil {
		t.Error("a message that no stream takes was stored")
	}
}

// TestStreamsAreBounded: the oldest make room, and a changed bound takes effect.
func TestStreamsAreBounded(t *testing.T) {
	conn := openStream(t, logs)
	store(t, conn, "log.a", "1", "2", "3")
	bounded := logs
	bounded.MaxPerSubject = 2
	if err := conn.EnsureStream(t.Context(), bounded); err != nil {
		t.Fatal(err)
	}
	if got := read(t, conn, "log.a", 9); !cmp.Equal(got, []string{"2", "3"}) {
		t.Errorf("kept %q", got)
	}
}

// TestAsyncStreamSurvivesAStop: what was acknowledged is there after a clean stop.
func TestAsyncStreamSurvivesAStop(t *testing.T) {
	dir := t.TempDir()
	server := embedtest.NATS(t, dir)
	conn := embedtest.Connect(t, server)
	if err := conn.EnsureStream(t.Context(), logs); err != nil {
		t.Fatal(err)
	}
	store(t, conn, "log.a", "1", "2")
	conn.Close()
	server.Stop()
	conn = embedtest.Connect(t, embedtest.NATS(t, dir))
	if got := read(t, conn, "log.a", 9); !cmp.Equal(got, []string{"1", "2"}) {
		t.Errorf("kept %q", got)
	}
}

// TestOnLost: who wants to hear of the connection's loss hears of it once.
func TestOnLost(t *testing.T) {
	server, err := natsserver.Start(natsserver.Config{Dir: t.TempDir(), Listen: "127.0.0.1:0"}, embedtest.Discard())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(server.Stop)
	conn, err := bus.Connect(bus.Config{URL: server.URL()}, embedtest.Discard())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(conn.Close)
	lost := make(chan string, 2)
	conn.OnLost(func() { lost <- "lost" })
	conn.OnLost(func() { lost <- "not asked any more" })()
	server.Stop()
	if said := embedtest.Receive(t, lost); said != "lost" || len(lost) > 0 {
		t.Errorf("%s, and %d more", said, len(lost))
	}
}

// TestMaxConsumers: a stream takes as many as it says, also one that said less before.
func TestMaxConsumers(t *testing.T) {
	conn := open(t)
	cfg := queue
	for cfg.MaxConsumers = 1; cfg.MaxConsumers <= 2; cfg.MaxConsumers++ {
		if err := conn.EnsureStream(t.Context(), cfg); err != nil {
			t.Fatal(err)
		}
		made := 0
		for _, name := range []string{"a", "b", "c"} {
			if conn.EnsureConsumer(t.Context(), bus.ConsumerConfig{Stream: cfg.Name, Name: name, Subject: "queue." + name + ".*", AckWait: time.Minute, MaxHeld: 1}) == nil {
				made++
			}
		}
		if made != cfg.MaxConsumers {
			t.Errorf("%d of 3 consumers were made, want %d", made, cfg.MaxConsumers)
		}
	}
}
