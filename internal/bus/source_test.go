package bus_test

import (
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/dayfly-run/dayfly/internal/bus"
	"github.com/dayfly-run/dayfly/internal/embed/embedtest"
	"github.com/dayfly-run/dayfly/internal/embed/natsserver"
)

// counted is how many messages a consumer knows of. The stream has them, and says so,
// a little earlier.
func counted(t *testing.T, js jetstream.JetStream, stream, name string) uint64 {
	t.Helper()
	consumer, err := js.Consumer(t.Context(), stream, name)
	if err != nil {
		t.Fatal(err)
	}
	return consumer.CachedInfo().NumPending + consumer.CachedInfo().Delivered.Consumer
}

// client is a client of NATS' own, for what this package does not tell.
func client(t *testing.T, server *natsserver.Server) jetstream.JetStream {
	t.Helper()
	nc, err := nats.Connect("", nats.InProcessServer(server))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	return js
}

func TestSourceTakesWhatItWants(t *testing.T) {
	server := embedtest.NATS(t, t.TempDir())
	conn, js := embedtest.Connect(t, server), client(t, server)
	if err := conn.EnsureStream(t.Context(), bus.StreamConfig{Name: "inbox", Subjects: []string{"a.>", "b"}, Refuse: true}); err != nil {
		t.Fatal(err)
	}
	source := bus.SourceConfig{Stream: "inbox", Name: "t1", Subjects: []string{"a.*", "b"}, AckWait: time.Minute, MaxHeld: 10}
	for range 2 {
		if err := conn.EnsureSource(t.Context(), source); err != nil {
			t.Fatal(err)
		}
	}
	for _, m := range []bus.Outgoing{
		{Subject: "a.x", ID: "1", Headers: map[string]string{"ce-id": "7"}, Data: []byte("one")},
		{Subject: "a.x", ID: "1", Data: []byte("one again")},
		{Subject: "a.x.y", Data: []byte("nobody wants it")},
		{Subject: "b", Data: []byte("two")},
	} {
		if stream, err := conn.Send(t.Context(), m); err != nil || stream != "inbox" {
			t.Fatalf("%s: %q, %v", m.Subject, stream, err)
		}
	}
	consumer, err := conn.Consumer(t.Context(), "inbox", "t1")
	if err != nil {
		t.Fatal(err)
	}
	embedtest.Eventually(t, "the consumer has counted", func() bool { return counted(t, js, "inbox", "t1") == 2 })
	var got []string
	if err := consumer.FetchReady(t.Context(), 10, func(d bus.Delivery) {
		got = append(got, d.Subject+" "+string(d.Data))
		if d.Sequence == 1 && !slices.Equal(d.Headers()["ce-id"], []string{"7"}) {
			t.Errorf("headers %v", d.Headers())
		}
		if _, scheduled := d.ScheduleNext(); scheduled {
			t.Error("it is of no schedule")
		}
	}); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"a.x one", "b two"}, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if err := consumer.FetchReady(t.Context(), 10, func(d bus.Delivery) { t.Errorf("%s came again", d.Subject) }); err != nil {
		t.Error(err)
	}
	found, err := conn.Sources(t.Context(), "t")
	if err != nil || len(found) != 1 || found[0].Name != "t1" || found[0].MaxHeld != 10 || !slices.Equal(found[0].Subjects, source.Subjects) {
		t.Errorf("%+v, %v", found, err)
	}
	for range 2 {
		if err := conn.RemoveSource(t.Context(), "inbox", "t1"); err != nil {
			t.Error(err)
		}
	}
	if err := conn.EnsureSource(t.Context(), bus.SourceConfig{Stream: "none", Name: "t1"}); !errors.Is(err, bus.ErrNotFound) {
		t.Errorf("%v", err)
	}
}

func TestSendSaysWhatIsWrong(t *testing.T) {
	conn := embedtest.Connect(t, embedtest.NATS(t, t.TempDir()))
	if _, err := conn.Send(t.Context(), bus.Outgoing{Subject: "nobody"}); !errors.Is(err, bus.ErrNoResponders) {
		t.Errorf("%v", err)
	}
	if err := conn.EnsureStream(t.Context(), bus.StreamConfig{Name: "small", Subjects: []string{"small"}, MaxBytes: 100, Refuse: true}); err != nil {
		t.Fatal(err)
	}
	if _, err := conn.Send(t.Context(), bus.Outgoing{Subject: "small", Data: make([]byte, 1000)}); !errors.Is(err, bus.ErrFull) {
		t.Errorf("%v", err)
	}
	if streams, err := conn.StreamsOn(t.Context(), "*"); err != nil || !slices.Equal(streams, []string{"small"}) {
		t.Errorf("%q, %v", streams, err)
	}
	if subjects, err := conn.StreamSubjects(t.Context(), "small"); err != nil || !slices.Equal(subjects, []string{"small"}) {
		t.Errorf("%q, %v", subjects, err)
	}
	if _, err := conn.StreamSubjects(t.Context(), "none"); !errors.Is(err, bus.ErrNotFound) {
		t.Errorf("%v", err)
	}
}

// TestTrimKeepsWhatSomebodyNeeds, be it held or not yet given out, and nothing else.
func TestTrimKeepsWhatSomebodyNeeds(t *testing.T) {
	server := embedtest.NATS(t, t.TempDir())
	conn, js := embedtest.Connect(t, server), client(t, server)
	if err := conn.EnsureStream(t.Context(), bus.StreamConfig{Name: "inbox", Subjects: []string{"in.*"}}); err != nil {
		t.Fatal(err)
	}
	take := map[string]*bus.Consumer{}
	for _, name := range []string{"a", "b", "idle"} {
		if err := conn.EnsureSource(t.Context(), bus.SourceConfig{Stream: "inbox", Name: name, Subjects: []string{"in." + name}, AckWait: time.Minute, MaxHeld: 10}); err != nil {
			t.Fatal(err)
		}
		consumer, err := conn.Consumer(t.Context(), "inbox", name)
		if err != nil {
			t.Fatal(err)
		}
		take[name] = consumer
	}
	sent := uint64(0) // what a consumer wants
	send := func(subjects ...string) {
		for _, subject := range subjects {
			if subject != "in.nobody" {
				sent++
			}
			if err := conn.PublishStored(t.Context(), subject, nil); err != nil {
				t.Fatal(err)
			}
		}
	}
	ack := func(name string, n int) {
		t.Helper()
		for _, d := range fetch(t, take[name], n, time.Minute) {
			if err := d.Ack(t.Context()); err != nil {
				t.Error(err)
			}
		}
	}
	left := func(want ...string) {
		t.Helper()
		last, err := conn.Trim(t.Context(), "inbox", 0)
		if err != nil {
			t.Fatal(err)
		}
		embedtest.Eventually(t, "the consumers have counted", func() (all bool) {
			known := uint64(0)
			for name := range take {
				known += counted(t, js, "inbox", name)
			}
			return known == sent
		})
		if again, err := conn.Trim(t.Context(), "inbox", last); err != nil || again != last {
			t.Fatalf("%d after %d, %v", again, last, err)
		}
		if subjects, err := conn.Subjects(t.Context(), "inbox", ">"); err != nil || !slices.Equal(subjects, want) {
			t.Errorf("%q are left, %v, want %q", subjects, err, want)
		}
	}
	left()
	send("in.nobody", "in.a")
	left("in.a", "in.nobody")
	ack("a", 1)
	left()
	send("in.a", "in.b", "in.a", "in.nobody")
	ack("a", 2)
	left("in.a", "in.b", "in.nobody") // the second in.a is behind in.b
	fetch(t, take["b"], 1, time.Minute)
	left("in.a", "in.b", "in.nobody") // it is held
	send("in.b")
	ack("b", 1)
	left("in.a", "in.b", "in.nobody") // the first one is held still
}

// TestScheduleTicks: a schedule publishes by itself and says when it does so next; one
// that is kept again goes on as it was.
func TestScheduleTicks(t *testing.T) {
	t.Parallel()
	begun := time.Now()
	conn := embedtest.Connect(t, embedtest.NATS(t, t.TempDir()))
	if err := conn.EnsureStream(t.Context(), bus.StreamConfig{Name: "clock", Subjects: []string{"at.*", "tick.*"}, Schedules: true}); err != nil {
		t.Fatal(err)
	}
	if err := conn.EnsureSource(t.Context(), bus.SourceConfig{Stream: "clock", Name: "t1", Subjects: []string{"tick.a"}, MaxHeld: 10}); err != nil {
		t.Fatal(err)
	}
	every := bus.Schedule{Fields: "* * * * * *", Zone: "Asia/Tokyo", Target: "tick.a", TTL: time.Hour}
	var sequences []uint64
	for range 2 {
		if err := conn.EnsureSchedule(t.Context(), "clock", "at.a", every); err != nil {
			t.Fatal(err)
		}
		last, err := conn.LastMessage(t.Context(), "clock", "at.a")
		if err != nil {
			t.Fatal(err)
		}
		sequences = append(sequences, last.Sequence)
	}
	if sequences[0] != sequences[1] {
		t.Errorf("the same schedule was written twice: %d", sequences)
	}
	consumer, err := conn.Consumer(t.Context(), "clock", "t1")
	if err != nil {
		t.Fatal(err)
	}
	if err := consumer.Fetch(t.Context(), 1, time.Minute, func(d bus.Delivery) {
		next, ok := d.ScheduleNext()
		if !ok || next.Before(begun) || time.Until(next) > time.Second || next.Nanosecond() != 0 {
			t.Errorf("next at %s, %t", next, ok)
		}
		sequences = append(sequences, d.Sequence)
	}); err != nil || len(sequences) != 3 {
		t.Fatalf("no tick: %v", err)
	}
	every.Zone = "UTC"
	if err := conn.EnsureSchedule(t.Context(), "clock", "at.a", every); err != nil {
		t.Fatal(err)
	}
	if last, err := conn.LastMessage(t.Context(), "clock", "at.a"); err != nil || last.Sequence <= sequences[0] {
		t.Errorf("another schedule is at %d, %v", last.Sequence, err)
	}
	if subjects, err := conn.Subjects(t.Context(), "clock", "at.*"); err != nil || !slices.Equal(subjects, []string{"at.a"}) {
		t.Errorf("%q, %v", subjects, err)
	}
	if err := conn.EnsureSchedule(t.Context(), "clock", "at.b", bus.Schedule{Fields: "x", Zone: "UTC", Target: "tick.b", TTL: time.Hour}); err == nil {
		t.Error("a schedule that is none is kept")
	}
}
