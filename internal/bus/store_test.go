package bus_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/dayfly-run/dayfly/internal/bus"
	"github.com/dayfly-run/dayfly/internal/embed/embedtest"
)

var queue = bus.StreamConfig{
	Name: "queue", Subjects: []string{"queue.*.*"}, MaxBytes: 64 << 10, MaxPerSubject: 1, Queue: true, Refuse: true, Batches: true,
}

func TestStoreTellsRepeats(t *testing.T) {
	conn := openStream(t, queue)
	first, err := conn.Store(t.Context(), bus.Message{Subject: "queue.f.1", ID: "1", Data: []byte("x")})
	if err != nil || first.Duplicate || first.Sequence == 0 {
		t.Fatalf("%+v, %v", first, err)
	}
	// The second has another subject, the third another ID.
	for _, m := range []bus.Message{{Subject: "queue.f.2", ID: "1"}, {Subject: "queue.f.1", ID: "2"}} {
		if s, err := conn.Store(t.Context(), m); err != nil || !s.Duplicate {
			t.Errorf("%+v: %+v, %v", m, s, err)
		}
	}
	if _, err := conn.Store(t.Context(), bus.Message{Subject: "nobody.keeps"}); !errors.Is(err, bus.ErrNoResponders) {
		t.Errorf("no stream: %v", err)
	}
}

func TestStoreExpects(t *testing.T) {
	conn := openStream(t, bus.StreamConfig{Name: "records", Subjects: []string{"record.*"}, MaxPerSubject: 1})
	var sequence uint64
	for i := range 3 {
		before := sequence
		s, err := conn.Store(t.Context(), bus.Message{Subject: "record.x", Expect: &before, Data: []byte{byte(i)}})
		if err != nil {
			t.Fatal(err)
		}
		_, err = conn.Store(t.Context(), bus.Message{Subject: "record.x", Expect: &before})
		wantError(t, err, bus.ErrConflict)
		sequence = s.Sequence
	}
	m, err := conn.LastMessage(t.Context(), "records", "record.x")
	if err != nil || m.Sequence != sequence || string(m.Data) != "\x02" || m.Subject != "record.x" {
		t.Errorf("%+v, %v", m, err)
	}
	_, err = conn.LastMessage(t.Context(), "records", "record.y")
	wantError(t, err, bus.ErrNotFound)
}

func TestFullStreamRefuses(t *testing.T) {
	conn := openStream(t, queue)
	data := make([]byte, 8<<10)
	refused := false
	for i := range 9 {
		_, err := conn.Store(t.Context(), bus.Message{Subject: fmt.Sprint("queue.f.", i), Data: data})
		refused = errors.Is(err, bus.ErrFull)
		if err != nil && !refused {
			t.Fatal(err)
		}
	}
	if !refused {
		t.Error("a full stream took everything")
	}
	if _, err := conn.LastMessage(t.Context(), "queue", "queue.f.0"); err != nil {
		t.Errorf("the first one: %v", err)
	}
}

// TestCommitter: many at once, with repeats and too much among them, each get their
// own answer, and what was stored is stored once.
func TestCommitter(t *testing.T) {
	wide := queue
	wide.MaxBytes = 1 << 20
	conn := openStream(t, wide)
	committer := conn.NewCommitter(10_000, 64<<20)
	const callers, each = 64, 20
	var mu sync.Mutex
	sequences, repeats := map[uint64]string{}, 0
	var all sync.WaitGroup
	for caller := range callers {
		all.Go(func() {
			for i := range each {
				id := fmt.Sprintf("%d-%d", caller, i)
				if i == each-1 {
					id = "same"
				}
				s, err := committer.Store(t.Context(), bus.Message{Subject: "queue.f." + id, ID: id, Data: []byte(id)})
				if err != nil {
					t.Error(err)
					return
				}
				mu.Lock()
				if s.Duplicate {
					repeats++
				} else if other, twice := sequences[s.Sequence]; twice {
					t.Errorf("%s and %s have sequence %d", id, other, s.Sequence)
				} else {
					sequences[s.Sequence] = id
				}
				mu.Unlock()
			}
		})
	}
	all.Wait()
	if repeats != callers-1 || len(sequences) != callers*each-repeats {
		t.Errorf("%d repeats, %d stored", repeats, len(sequences))
	}
	for sequence, id := range sequences {
		m, err := conn.LastMessage(t.Context(), "queue", "queue.f."+id)
		if err != nil || m.Sequence != sequence || string(m.Data) != id {
			t.Fatalf("%s at %d: %+v, %v", id, sequence, m, err)
		}
	}
}

// TestCommitterIsBounded: while the server is away, no more than the bound waits, and
// who leaves leaves at once.
func TestCommitterIsBounded(t *testing.T) {
	server := embedtest.NATS(t, t.TempDir())
	conn := embedtest.Connect(t, server)
	if err := conn.EnsureStream(t.Context(), queue); err != nil {
		t.Fatal(err)
	}
	committer := conn.NewCommitter(2, 100)
	away := make(chan struct{})
	conn.OnLost(func() { close(away) })
	server.Stop()
	embedtest.Receive(t, away)
	ctx, cancel := context.WithCancel(t.Context())
	results := make(chan error, 10)
	for i := range 10 {
		go func() {
			_, err := committer.Store(ctx, bus.Message{Subject: fmt.Sprint("queue.f.", i), Data: []byte("x")})
			results <- err
		}()
		if i == 0 { // the write would take others with it that came before it began
			embedtest.Eventually(t, "one is written", func() bool { return bus.Waiting(committer) == 0 })
		}
	}
	for range 7 { // one writes, two wait
		if err := embedtest.Receive(t, results); !errors.Is(err, bus.ErrBusy) {
			t.Errorf("error %v", err)
		}
	}
	cancel()
	for range 2 {
		if err := embedtest.Receive(t, results); !errors.Is(err, context.Canceled) {
			t.Errorf("error %v", err)
		}
	}
	conn.Close() // ends the write
	if err := embedtest.Receive(t, results); err == nil || strings.Contains(err.Error(), "busy") {
		t.Errorf("the one that was written: %v", err)
	}
}

// TestStoreWhileUnderWay: it asks again while the servers are storing the same message, so
// that who lost the answer hears what became of it.
func TestStoreWhileUnderWay(t *testing.T) {
	conn := open(t)
	asked := 0 // by one goroutine
	subscribe(t, conn, "queue.f.x", "", func(m bus.Msg) {
		answer := `{"error":{"code":409,"err_code":10158,"description":"duplicate message id is in process"}}`
		if asked++; asked == 3 {
			answer = `{"stream":"queue","seq":7,"duplicate":true}`
		}
		if err := m.Respond([]byte(answer)); err != nil {
			t.Error(err)
		}
	})
	stored, err := conn.NewCommitter(10, 1000).Store(t.Context(), bus.Message{Subject: "queue.f.x", ID: "x"})
	if err != nil || !stored.Duplicate || stored.Sequence != 7 {
		t.Errorf("%+v, %v", stored, err)
	}
}

func BenchmarkCommitter(b *testing.B) {
	conn := embedtest.Connect(b, embedtest.NATS(b, b.TempDir()))
	wide := queue
	wide.MaxBytes = 4 << 30
	if err := conn.EnsureStream(b.Context(), wide); err != nil {
		b.Fatal(err)
	}
	data := make([]byte, 300)
	for name, store := range map[string]func(context.Context, bus.Message) (bus.Stored, error){
		"alone": conn.Store, "shared": conn.NewCommitter(10_000, 64<<20).Store,
	} {
		for _, callers := range []int{1, 64} {
			b.Run(fmt.Sprintf("%s/c=%d", name, callers), func(b *testing.B) {
				var all sync.WaitGroup
				work := make(chan int)
				for range callers {
					all.Go(func() {
						for i := range work {
							id := fmt.Sprint(name, callers, "-", b.N, "-", i)
							if s, err := store(b.Context(), bus.Message{Subject: "queue.f." + id, ID: id, Data: data}); err != nil || s.Duplicate {
								b.Error(s, err)
							}
						}
					})
				}
				for i := range b.N {
					work <- i
				}
				close(work)
				all.Wait()
			})
		}
	}
}
