package triggers

import (
	"cmp"
	"context"
	"encoding/json"
	"maps"
	"os"
	"slices"
	"testing"
	"time"

	"github.com/dayfly-run/dayfly/functions"
	"github.com/dayfly-run/dayfly/functions/registry"
	"github.com/dayfly-run/dayfly/functions/sources"
	"github.com/dayfly-run/dayfly/internal/blob"
	"github.com/dayfly-run/dayfly/internal/bus"
	"github.com/dayfly-run/dayfly/internal/embed/embedtest"
	"github.com/dayfly-run/dayfly/internal/embed/natsserver"
	"github.com/dayfly-run/dayfly/internal/embed/s3server"
	"github.com/dayfly-run/dayfly/internal/intake"
	"github.com/dayfly-run/dayfly/wire"
)

// s3 is the one S3 server of this process; set before any test runs.
var s3 *s3server.Server

func TestMain(m *testing.M) {
	//nolint:forbidigo // it is the tests' main
	os.Exit(embedtest.RunWithS3(m, func(s *s3server.Server) { s3 = s }))
}

var hello = wire.FunctionID{Namespace: "team-a", Name: "hello"}

// world is a real NATS and S3 in which functions are deployed.
type world struct {
	t        *testing.T
	dir      string
	server   *natsserver.Server
	conn     *bus.Conn
	store    *blob.Store
	registry *registry.Registry
	sources  *sources.Sources
	seen     map[string]accepted
	workers  []*worker
}

func newWorld(t *testing.T) *world {
	t.Helper()
	dir := t.TempDir()
	w := &world{t: t, dir: dir, server: embedtest.NATS(t, dir), store: embedtest.Store(t, s3), seen: map[string]accepted{}}
	w.conn = embedtest.Connect(t, w.server)
	var err error
	if w.registry, err = registry.Open(t.Context(), w.conn); err != nil {
		t.Fatal(err)
	}
	w.sources = sources.New(sources.Config{}, w.conn, embedtest.Discard())
	if err := w.sources.Open(t.Context()); err != nil {
		t.Fatal(err)
	}
	return w
}

// deploy does with a function's triggers what a gateway does.
func (w *world) deploy(triggers ...functions.Trigger) {
	w.t.Helper()
	err := w.sources.Prepare(w.t.Context(), hello, triggers)
	var d registry.Deployed
	if err == nil {
		d, err = w.registry.Deploy(w.t.Context(), hello, functions.Spec{Runtime: "python", Triggers: triggers}, functions.Artifact{}, time.Now())
	}
	for _, v := range w.workers { // one that has not heard of it takes what is removed for lost
		err = cmp.Or(err, v.cache.Await(w.t.Context(), d.Revision))
	}
	if err == nil {
		err = w.sources.Prune(w.t.Context(), hello, triggers)
	}
	if err != nil {
		w.t.Fatal(err)
	}
}

// worker is one process that takes triggers' messages.
type worker struct {
	*Triggers
	conn  *bus.Conn
	cache *registry.Cache
}

// join starts a worker with a connection of its own.
func (w *world) join() *worker {
	return w.joinAs(Config{}, func(conn *bus.Conn) Sources { return sources.New(sources.Config{}, conn, embedtest.Discard()) })
}

func (w *world) joinAs(cfg Config, mend func(*bus.Conn) Sources) *worker {
	w.t.Helper()
	conn, err := bus.Connect(bus.Config{Name: "worker", InProcess: w.server}, embedtest.Discard())
	if err != nil {
		w.t.Fatal(err)
	}
	reg, err := registry.Open(w.t.Context(), conn)
	if err != nil {
		w.t.Fatal(err)
	}
	cache := registry.NewCache(reg, embedtest.Discard())
	in := intake.New(intake.Config{}, conn, w.store, embedtest.Discard())
	v := &worker{conn: conn, cache: cache, Triggers: New(cfg, Deps{
		Conn: conn, Intake: in, Functions: cache, Sources: mend(conn), Log: embedtest.Discard(),
	})}
	for _, s := range []interface {
		Start(ctx context.Context) error
	}{cache, in, v.Triggers} {
		if err := s.Start(w.t.Context()); err != nil {
			w.t.Fatal(err)
		}
	}
	return v
}

// leave stops a worker in order.
func (v *worker) leave(t *testing.T) {
	t.Helper()
	for range 2 { // again: nothing happens
		if err := v.Stop(context.Background()); err != nil {
			t.Error(err)
		}
	}
	if err := v.cache.Stop(context.Background()); err != nil {
		t.Error(err)
	}
	v.conn.Close()
}

// kill ends a worker's connection in the middle of whatever it does, and then what is
// left of it.
func (v *worker) kill(t *testing.T) {
	t.Helper()
	v.conn.Close()
	v.leave(t)
}

// start joins a worker that leaves with the test.
func (w *world) start() {
	w.t.Helper()
	v := w.join()
	w.workers = append(w.workers, v)
	w.t.Cleanup(func() { v.leave(w.t) })
}

// accepted is an event that is on disk.
type accepted struct {
	wire.Event
	sequence uint64
	payload  []byte
}

// events lists what was accepted so far, in the order of the stream.
func (w *world) events() (all []accepted) {
	w.t.Helper()
	subjects, err := w.conn.Subjects(w.t.Context(), wire.StreamEvents, wire.AllEvents)
	for _, subject := range subjects {
		if _, known := w.seen[subject]; known || err != nil {
			continue
		}
		var m bus.StoredMessage
		if m, err = w.conn.LastMessage(w.t.Context(), wire.StreamEvents, subject); err != nil {
			break
		}
		e := accepted{sequence: m.Sequence}
		e.payload, err = wire.ParseFrame(m.Data, &e.Event)
		w.seen[subject] = e
	}
	if err != nil {
		w.t.Fatal(err)
	}
	return slices.SortedFunc(maps.Values(w.seen), func(a, b accepted) int { return cmp.Compare(a.sequence, b.sequence) })
}

// counted waits until the triggers know of all that was sent. A stream tells its consumers
// after it has a message, all of them of one before any of the next.
func (w *world) counted() {
	w.t.Helper()
	probe := bus.SourceConfig{Stream: wire.StreamInbox, Name: "probe", Subjects: []string{wire.NotificationSubject}, AckWait: time.Minute, MaxHeld: 10}
	if err := w.conn.EnsureSource(w.t.Context(), probe); err != nil {
		w.t.Fatal(err)
	}
	embedtest.Take(w.t, w.conn, probe.Stream, probe.Name, wire.NotificationSubject)
}

// await waits for a number of events and makes sure that there are no more.
func (w *world) await(n int) []accepted {
	w.t.Helper()
	var all []accepted
	embedtest.Eventually(w.t, "the events are accepted", func() bool {
		all = w.events()
		return len(all) >= n
	})
	if len(all) != n {
		w.t.Fatalf("%d events, want %d", len(all), n)
	}
	for _, e := range all {
		if !e.Invocation.Valid() || e.Ref != "hello.team-a" {
			w.t.Errorf("%+v", e.Event)
		}
	}
	return all
}

// records reads the records of a queue's event.
func records(t *testing.T, e accepted) []message {
	t.Helper()
	var payload struct {
		Records []message `json:"Records"` //nolint:tagliatelle // as AWS spells it
	}
	if err := json.Unmarshal(e.payload, &payload); err != nil {
		t.Fatal(err)
	}
	return payload.Records
}

// bodies lists the bodies of events, sorted.
func bodies(t *testing.T, events []accepted) (all []string) {
	t.Helper()
	for _, e := range events {
		for _, r := range records(t, e) {
			all = append(all, r.Body)
		}
	}
	slices.SortFunc(all, func(a, b string) int { return cmp.Or(len(a)-len(b), cmp.Compare(a, b)) })
	return all
}

func (w *world) send(m bus.Outgoing) {
	w.t.Helper()
	if _, err := w.conn.Send(w.t.Context(), m); err != nil {
		w.t.Fatal(err)
	}
}

func queue(q functions.QueueTrigger) functions.Trigger {
	q.Batch.Size = max(q.Batch.Size, 1)
	return functions.Trigger{Queue: &q}
}
