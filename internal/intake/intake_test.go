package intake_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"testing"
	"testing/iotest"
	"time"

	"pgregory.net/rapid"

	"github.com/dayfly-run/dayfly/internal/blob"
	"github.com/dayfly-run/dayfly/internal/bus"
	"github.com/dayfly-run/dayfly/internal/embed/embedtest"
	"github.com/dayfly-run/dayfly/internal/embed/natsserver"
	"github.com/dayfly-run/dayfly/internal/embed/s3server"
	"github.com/dayfly-run/dayfly/internal/intake"
	"github.com/dayfly-run/dayfly/wire"
)

var s3 *s3server.Server

func TestMain(m *testing.M) {
	os.Exit(embedtest.RunWithS3(m, func(s *s3server.Server) { s3 = s }, embedtest.CutBatches()...))
}

type world struct {
	*intake.Intake
	t     *testing.T
	conn  *bus.Conn
	store *blob.Store
}

func newWorld(t *testing.T, cfg intake.Config) *world {
	t.Helper()
	return newWorldOn(t, embedtest.NATS(t, t.TempDir()), cfg)
}

func newWorldOn(t *testing.T, server *natsserver.Server, cfg intake.Config) *world {
	t.Helper()
	w := &world{t: t, conn: embedtest.Connect(t, server), store: embedtest.Store(t, s3)}
	w.Intake = intake.New(cfg, w.conn, w.store, embedtest.Discard())
	if err := w.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	return w
}

func (w *world) accept(r intake.Request) intake.Accepted {
	w.t.Helper()
	a, err := w.Accept(w.t.Context(), r)
	if err != nil || !a.Invocation.Valid() {
		w.t.Fatalf("%+v, %v", a, err)
	}
	return a
}

// event reads an event that waits.
func (w *world) event(id wire.InvocationID) (e wire.Event, body []byte) {
	w.t.Helper()
	m, err := w.conn.LastMessage(w.t.Context(), wire.StreamEvents, wire.AnyEventSubject(id))
	if err == nil {
		body, err = wire.ParseFrame(m.Data, &e)
	}
	if err != nil {
		w.t.Fatal(err)
	}
	return e, body
}

// waiting counts the events that wait, up to two of one subject.
func (w *world) waiting() int {
	w.t.Helper()
	subjects, err := w.conn.Subjects(w.t.Context(), wire.StreamEvents, wire.AllEvents)
	if err != nil {
		w.t.Fatal(err)
	}
	return len(subjects)
}

func (w *world) payloads() int {
	w.t.Helper()
	removed, err := w.store.DeleteOlder(w.t.Context(), wire.AllPayloads, time.Now().Add(time.Hour))
	if err != nil {
		w.t.Fatal(err)
	}
	return removed
}

func (w *world) wantError(r intake.Request, code wire.Code, words string) *wire.Error {
	w.t.Helper()
	_, err := w.Accept(w.t.Context(), r)
	if !wire.HasCode(err, code) || !strings.Contains(err.Error(), words) {
		w.t.Errorf("error %v, want %s with %q", err, code, words)
	}
	return wire.AsError(err)
}

func TestAccept(t *testing.T) {
	w := newWorld(t, intake.Config{})
	begun := time.Now()
	a := w.accept(intake.Request{Event: wire.Event{Ref: "f.team-a:beta", Source: wire.SourceCron, Depth: 2, Cause: "c"}, Payload: []byte(`{"x":1}`)})
	e, body := w.event(a.Invocation)
	if string(body) != `{"x":1}` || e.Ref != "f.team-a:beta" || e.Source != wire.SourceCron || e.Depth != 2 || e.Cause != "c" ||
		e.PayloadBytes != 7 || e.AcceptedAt.Before(begun.Add(-time.Second)) || e.Invocation != a.Invocation || a.Repeated {
		t.Errorf("%+v %s", e, body)
	}
	w.wantError(intake.Request{Event: wire.Event{Ref: "No Such"}}, wire.CodeInvalid, "No Such")
}

// TestQueuesAreOpened: a queue is there before its first event is accepted, and workers are
// told of it.
func TestQueuesAreOpened(t *testing.T) {
	w := newWorld(t, intake.Config{})
	hints := make(chan string, 100)
	sub, err := w.conn.Subscribe(wire.EventHintSubject, "", func(m bus.Msg) { hints <- string(m.Data) })
	if err != nil {
		t.Fatal(err)
	}
	defer sub.Stop(w.conn)
	f := wire.FunctionID{Namespace: "default", Name: "f"}
	names := map[string]bool{}
	for _, order := range []string{"", "k"} {
		w.accept(intake.Request{Event: wire.Event{Ref: "f", Order: order}})
		var hinted wire.EventQueue
		if err := json.Unmarshal([]byte(embedtest.Receive(t, hints)), &hinted); err != nil || hinted != (wire.Event{Order: order}).Queue(f) {
			t.Errorf("hint at %+v, %v", hinted, err)
		}
	}
	if err := w.conn.Consumers(t.Context(), wire.StreamEvents, func(name string) { names[name] = true }); err != nil {
		t.Fatal(err)
	}
	if len(names) != 2 || !names[wire.EventQueue{FunctionID: f}.Consumer()] || !names[wire.Event{Order: "k"}.Queue(f).Consumer()] {
		t.Errorf("consumers %v", names)
	}
}

func TestPayloads(t *testing.T) {
	w := newWorld(t, intake.Config{})
	w.payloads()
	for name, size := range map[string]int{"empty": 0, "small": 1000, "just inline": 1<<20 - wire.FrameHeadroom, "just not": 1<<20 - wire.FrameHeadroom + 1, "parts": 20 << 20} {
		for _, streamed := range []bool{false, true} {
			data := bytes.Repeat([]byte("x"), size)
			r := intake.Request{Event: wire.Event{Ref: "f"}, Payload: data}
			if streamed {
				r.Payload, r.Body = nil, struct{ io.Reader }{bytes.NewReader(data)}
			}
			e, body := w.event(w.accept(r).Invocation)
			if e.PayloadKey != "" {
				var err error
				if body, err = w.store.GetBytes(t.Context(), e.PayloadKey, wire.MaxAsyncPayload); err != nil {
					t.Fatal(err)
				}
			}
			if inline := size <= 1<<20-wire.FrameHeadroom; !bytes.Equal(body, data) || e.PayloadBytes != int64(size) || (e.PayloadKey == "") != inline {
				t.Errorf("%s, streamed %t: %d bytes at %q, said to be %d", name, streamed, len(body), e.PayloadKey, e.PayloadBytes)
			}
		}
	}
}

// zeros never ends.
type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

func TestPayloadsThatAreRefused(t *testing.T) {
	w := newWorld(t, intake.Config{})
	w.payloads()
	w.wantError(intake.Request{Event: wire.Event{Ref: "f"}, Body: zeros{}}, wire.CodeTooLarge, "104857600")
	for _, first := range []int{0, 3 << 20} {
		broken := io.MultiReader(strings.NewReader(strings.Repeat("x", first)), iotest.ErrReader(errors.New("the line broke")))
		w.wantError(intake.Request{Event: wire.Event{Ref: "f"}, Body: broken}, wire.CodeInvalid, "the line broke")
	}
	if n, left := w.waiting(), w.payloads(); n+left > 0 {
		t.Errorf("%d events and %d payloads are left", n, left)
	}
}

// TestDerivedEventsAreOne, however often they are offered, and while they wait for
// however long.
func TestDerivedEventsAreOne(t *testing.T) {
	w := newWorld(t, intake.Config{})
	w.payloads()
	id := intake.DeriveID(time.Now(), "schedule", "tick")
	large := strings.Repeat("x", 2<<20)
	for i := range 3 {
		a := w.accept(intake.Request{Event: wire.Event{Ref: "f", Invocation: id}, Payload: []byte(large)})
		if a.Invocation != id || a.Repeated != (i > 0) {
			t.Errorf("%d: %+v", i, a)
		}
	}
	e, _ := w.event(id)
	if found, err := w.store.Exists(t.Context(), e.PayloadKey); err != nil || !found {
		t.Errorf("the payload is there: %t, %v", found, err)
	}
	if left := w.payloads(); left != 1 {
		t.Errorf("%d payloads", left)
	}
}

// TestAcceptAfterALoss: an event is accepted whose connection to NATS was lost while it was
// being stored.
func TestAcceptAfterALoss(t *testing.T) {
	server, err := natsserver.Start(natsserver.Config{Dir: t.TempDir(), Listen: "127.0.0.1:0"}, embedtest.Discard())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(server.Stop)
	way := embedtest.NewWay(t, server.URL())
	conn, err := bus.Connect(bus.Config{Name: t.Name(), URL: way.URL}, embedtest.Discard())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(conn.Close)
	w := &world{t: t, conn: conn, store: embedtest.Store(t, s3)}
	w.Intake = intake.New(intake.Config{}, conn, w.store, embedtest.Discard())
	if err := w.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	request := intake.Request{Event: wire.Event{Ref: "hello", Source: wire.SourceHTTP}, Payload: []byte("1")}
	w.accept(request) // opens the queue
	way.Cut()
	accepted := make(chan error, 1)
	go func() {
		_, err := w.Accept(t.Context(), request)
		accepted <- err
	}()
	embedtest.Eventually(t, "the loss is noticed", func() bool { return conn.Healthy() != nil })
	way.Mend()
	if err := embedtest.Receive(t, accepted); err != nil {
		t.Error(err)
	}
	if n := w.waiting(); n != 2 {
		t.Errorf("%d events wait", n)
	}
}

// TestFullQueueRefuses, with a time to come back, and takes what was refused once there
// is room.
func TestFullQueueRefuses(t *testing.T) {
	w := newWorld(t, intake.Config{QueueBytes: 256 << 10})
	w.payloads()
	payload := make([]byte, 60<<10)
	var refused *wire.Error
	var accepted []wire.InvocationID
	for range 10 {
		a, err := w.Accept(t.Context(), intake.Request{Event: wire.Event{Ref: "f"}, Payload: payload})
		if err != nil {
			refused = wire.AsError(err)
			break
		}
		accepted = append(accepted, a.Invocation)
	}
	if refused == nil || refused.Code != wire.CodeThrottled || refused.RetryAfterMillis <= 0 || !refused.Retryable {
		t.Fatalf("after %d events: %v", len(accepted), refused)
	}
	w.wantError(intake.Request{Event: wire.Event{Ref: "f"}, Payload: payload, Key: "k"}, wire.CodeThrottled, "")
	if n := w.waiting(); n != len(accepted) {
		t.Errorf("%d of %d events wait", n, len(accepted))
	}
	if _, err := w.Cancel(t.Context(), accepted[0]); err != nil {
		t.Fatal(err)
	}
	if a := w.accept(intake.Request{Event: wire.Event{Ref: "f"}, Payload: payload, Key: "k"}); !w.has(a.Invocation) {
		t.Error("the key's event does not wait")
	}
}

func (w *world) has(id wire.InvocationID) bool {
	_, err := w.conn.LastMessage(w.t.Context(), wire.StreamEvents, wire.AnyEventSubject(id))
	return err == nil
}

// TestIdempotencyKeys: a repeat gets the first invocation, over intakes and restarts of
// the server.
func TestIdempotencyKeys(t *testing.T) {
	dir := t.TempDir()
	server := embedtest.NATS(t, dir)
	w := newWorldOn(t, server, intake.Config{})
	w.payloads()
	large := strings.Repeat("x", 2<<20)
	for _, payload := range []string{"1", large} {
		key := fmt.Sprint("key of ", len(payload))
		request := func(ref string) intake.Request {
			return intake.Request{Event: wire.Event{Ref: ref}, Body: strings.NewReader(payload), Key: key}
		}
		first := w.accept(request("f"))
		again := newWorldOn(t, server, intake.Config{}).accept(request("f"))
		if first.Repeated || !again.Repeated || again.Invocation != first.Invocation {
			t.Errorf("%+v and %+v", first, again)
		}
		w.wantError(intake.Request{Event: wire.Event{Ref: "f"}, Payload: []byte("2"), Key: key}, wire.CodeConflict, string(first.Invocation))
		w.wantError(request("f:3"), wire.CodeConflict, "another payload or version")
		if other := w.accept(request("g")); other.Invocation == first.Invocation {
			t.Error("two functions share a key")
		}
	}
	if n := w.waiting(); n != 4 {
		t.Errorf("%d events wait", n)
	}
	if left := w.payloads(); left != 2 {
		t.Errorf("%d payloads", left)
	}
	first := w.accept(intake.Request{Event: wire.Event{Ref: "f"}, Payload: []byte("x"), Key: "k"})
	server.Stop()
	after := newWorldOn(t, embedtest.NATS(t, dir), intake.Config{})
	if again := after.accept(intake.Request{Event: wire.Event{Ref: "f"}, Payload: []byte("x"), Key: "k"}); again.Invocation != first.Invocation {
		t.Errorf("%+v, want %+v", again, first)
	}
	after.wantError(intake.Request{Event: wire.Event{Ref: "f"}, Key: strings.Repeat("k", 1025)}, wire.CodeInvalid, "1025 bytes")
}

// TestKeysOfManyAtOnce: of many that ask at once with a key, all get one event.
func TestKeysOfManyAtOnce(t *testing.T) {
	w := newWorld(t, intake.Config{})
	var mu sync.Mutex
	ids := map[wire.InvocationID]int{}
	var all sync.WaitGroup
	for i := range 40 {
		all.Go(func() {
			a, err := w.Accept(t.Context(), intake.Request{Event: wire.Event{Ref: "f"}, Payload: []byte("1"), Key: fmt.Sprint(i % 4)})
			if err != nil {
				t.Error(err)
			}
			mu.Lock()
			ids[a.Invocation]++
			mu.Unlock()
		})
	}
	all.Wait()
	if len(ids) != 4 || w.waiting() != 4 {
		t.Errorf("%v, %d wait", ids, w.waiting())
	}
}

// TestKeyOfOneThatDied: its caller died after it had noted the key and before its event
// was stored. A repeat brings the event, under the first ID.
func TestKeyOfOneThatDied(t *testing.T) {
	w := newWorld(t, intake.Config{QueueBytes: 100 << 10})
	filler := w.accept(intake.Request{Event: wire.Event{Ref: "f"}, Payload: make([]byte, 60<<10)})
	r := intake.Request{Event: wire.Event{Ref: "f"}, Payload: make([]byte, 60<<10), Key: "k"}
	w.wantError(r, wire.CodeThrottled, "") // a death at the same place
	note, err := w.conn.LastMessage(t.Context(), wire.StreamIdempotency, wire.AllIdempotency)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Cancel(t.Context(), filler.Invocation); err != nil {
		t.Fatal(err)
	}
	again := w.accept(r)
	if !again.Repeated || !strings.Contains(string(note.Data), string(again.Invocation)) || !w.has(again.Invocation) {
		t.Errorf("%+v after %s", again, note.Data)
	}
}

func TestDeriveID(t *testing.T) {
	at := time.Date(2026, 5, 1, 12, 0, 0, 123_456_789, time.UTC)
	id := intake.DeriveID(at, "a", "b")
	if !id.Valid() || id != intake.DeriveID(at.Add(time.Microsecond), "a", "b") || id[14] != '7' {
		t.Errorf("%s", id)
	}
	for _, other := range []wire.InvocationID{
		intake.DeriveID(at, "ab"), intake.DeriveID(at, "a", "b", ""), intake.DeriveID(at.Add(time.Millisecond), "a", "b"), intake.DeriveID(at, "b", "a"),
	} {
		if other == id {
			t.Errorf("%s twice", id)
		}
	}
	rapid.Check(t, func(t *rapid.T) {
		earlier := time.UnixMilli(rapid.Int64Range(0, 1<<47).Draw(t, "time"))
		later := earlier.Add(time.Duration(rapid.Int64Range(1, 1<<40).Draw(t, "step")) * time.Millisecond)
		a, b := intake.DeriveID(earlier, "x"), intake.DeriveID(later, "y")
		if later.UnixMilli() < 1<<48 && a >= b || !a.Valid() {
			t.Fatalf("%s at %d, %s at %d", a, earlier.UnixMilli(), b, later.UnixMilli())
		}
	})
}

func TestAcceptEndsWithItsContext(t *testing.T) {
	w := newWorld(t, intake.Config{})
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := w.Accept(ctx, intake.Request{Event: wire.Event{Ref: "f"}}); !wire.HasCode(err, wire.CodeUnavailable) {
		t.Errorf("error %v", err)
	}
}
