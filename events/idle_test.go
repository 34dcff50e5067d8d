package events_test

import (
	"context"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/dayfly-run/dayfly/events"
	"github.com/dayfly-run/dayfly/functions"
	"github.com/dayfly-run/dayfly/internal/bus"
	"github.com/dayfly-run/dayfly/internal/dispatch"
	"github.com/dayfly-run/dayfly/internal/embed/embedtest"
	"github.com/dayfly-run/dayfly/internal/intake"
	"github.com/dayfly-run/dayfly/internal/records"
	"github.com/dayfly-run/dayfly/wire"
)

var (
	// byHint is a worker that hears of events by hints alone, once it has started.
	byHint = events.Config{Idle: time.Nanosecond, LookEvery: time.Hour}
	// byLook is one that looks all the time.
	byLook = events.Config{Idle: time.Nanosecond, LookEvery: 20 * time.Millisecond}
)

// closed waits until no queue is open.
func (env *environment) closed(w *events.Worker) {
	env.t.Helper()
	embedtest.Eventually(env.t, "all queues are closed", func() bool { return events.Open(w) == 0 })
}

// put puts an event into its queue of which nobody hears.
func (env *environment) put(name string) wire.InvocationID {
	env.t.Helper()
	e := wire.Event{Invocation: wire.InvocationID(uuid.Must(uuid.NewV7()).String()), Ref: name, AcceptedAt: time.Now()}
	frame, err := wire.AppendFrame(nil, e, []byte("1"))
	if err == nil {
		err = env.conn.PublishStored(env.t.Context(), wire.EventSubject(functionID(name), e.Invocation), frame)
	}
	if err != nil {
		env.t.Fatal(err)
	}
	return e.Invocation
}

// TestIdleQueuesCostNothing: neither those that a worker finds nor those that it served.
func TestIdleQueuesCostNothing(t *testing.T) {
	t.Parallel()
	env := newEnvironment(t)
	const found, served = 60, 20
	for i := range found {
		q := wire.EventQueue{FunctionID: functionID(fmt.Sprint("found-", i)), Partition: i % wire.EventPartitions}
		if err := env.intake.OpenQueue(t.Context(), q); err != nil {
			t.Fatal(err)
		}
	}
	w := env.workerOn(env.conn, byLook)
	var ids []wire.InvocationID
	for i := range served {
		name := fmt.Sprint("served-", i)
		env.functions.set(name, nil)
		ids = append(ids, env.accept(name, "1"))
	}
	for i, id := range ids {
		env.await(fmt.Sprint("served-", i), id, wire.StateSucceeded)
	}
	env.closed(w)
	// From here on it only looks.
	var asked atomic.Int64
	looks := make(chan struct{}, 1000)
	sub, err := env.conn.Subscribe("$JS.API.>", "", func(m bus.Msg) {
		if strings.HasPrefix(m.Subject, "$JS.API.STREAM.INFO.") {
			looks <- struct{}{}
			return
		}
		asked.Add(1)
	})
	if err != nil {
		t.Fatal(err)
	}
	defer sub.Stop(env.conn)
	for range 10 {
		embedtest.Receive(t, looks)
	}
	if n := asked.Load(); n > 0 || events.Open(w) > 0 {
		t.Errorf("%d questions in ten looks, and %d queues are open", n, events.Open(w))
	}
}

// TestSleepingQueueWakes by the hint at an event, and sleeps again, as often as need be.
func TestSleepingQueueWakes(t *testing.T) {
	t.Parallel()
	env := newEnvironment(t)
	w := env.workerOn(env.conn, byHint)
	for _, order := range []string{"", "k", ""} {
		id := env.acceptRequest(intake.Request{Event: wire.Event{Ref: "f", Order: order}})
		env.await("f", id, wire.StateSucceeded)
		env.closed(w)
	}
}

// TestLostHint: the look finds an event of which nobody said anything, even where its
// queue has no consumer.
func TestLostHint(t *testing.T) {
	t.Parallel()
	env := newEnvironment(t)
	env.functions.set("g", nil)
	w := env.workerOn(env.conn, byLook)
	env.await("f", env.accept("f", "1"), wire.StateSucceeded)
	env.closed(w)
	env.await("f", env.put("f"), wire.StateSucceeded)
	env.await("g", env.put("g"), wire.StateSucceeded)
	env.closed(w)
}

// TestStartFindsEvents that were accepted while no worker ran.
func TestStartFindsEvents(t *testing.T) {
	env := newEnvironment(t)
	env.functions.set("g", nil)
	first, second := env.accept("f", "1"), env.acceptRequest(intake.Request{Event: wire.Event{Ref: "g", Order: "k"}})
	env.workerOn(env.conn, byHint)
	env.await("f", first, wire.StateSucceeded)
	env.await("g", second, wire.StateSucceeded)
}

// TestPauseKeepsAQueueOpen: an event that waits for its next attempt has it in time.
func TestPauseKeepsAQueueOpen(t *testing.T) {
	t.Parallel()
	env := newEnvironment(t)
	env.functions.set("f", func(s *functions.Spec) { s.Retry.DelayMillis = 5000 })
	env.node.run = script(boom())
	w := env.workerOn(env.conn, byHint)
	id := env.accept("f", "1")
	if r := env.await("f", id, wire.StateSucceeded); len(r.Attempts) != 2 {
		t.Errorf("record %+v", r)
	}
	env.closed(w)
}

// TestIdleWorkerTakesOver: a worker that has nothing to do keeps a queue open in which
// another one runs an event, and has it when that one dies.
func TestIdleWorkerTakesOver(t *testing.T) {
	t.Parallel()
	env := newEnvironment(t)
	began := make(chan struct{}, 1)
	env.node.run = func(ctx context.Context, _ dispatch.Call) (any, error) {
		if env.node.count("") == 1 {
			began <- struct{}{}
			<-ctx.Done()
			return nil, wire.AsError(context.Cause(ctx))
		}
		return "ok", nil
	}
	doomed := embedtest.Connect(t, env.server)
	env.workerOn(doomed, byHint)
	id := env.accept("f", "1")
	embedtest.Receive(t, began)
	heir := env.workerOn(env.conn, byHint) // finds the queue by its look
	looked := make(chan struct{}, 100)     // whether it may close the queue
	sub, err := env.conn.Subscribe("$JS.API.CONSUMER.INFO.>", "", func(bus.Msg) { looked <- struct{}{} })
	if err != nil {
		t.Fatal(err)
	}
	defer sub.Stop(env.conn)
	for range 2 {
		embedtest.Receive(t, looked)
	}
	doomed.Close()
	env.await("f", id, wire.StateSucceeded)
	env.closed(heir)
}

// TestEventsThatAreBack: a server that is killed may have an event again whose
// acknowledgement it took. A stream that keeps what is acknowledged is as one that has it
// back. The event is removed, and its queue closed.
func TestEventsThatAreBack(t *testing.T) {
	t.Parallel()
	server := embedtest.NATS(t, t.TempDir())
	conn := embedtest.Connect(t, server)
	kept := bus.StreamConfig{Name: wire.StreamEvents, Subjects: []string{wire.AllEvents}, MaxBytes: 1 << 20, Batches: true}
	for _, s := range append(records.Streams(time.Hour, 1), kept) {
		if err := conn.EnsureStream(t.Context(), s); err != nil {
			t.Fatal(err)
		}
	}
	env := bareEnvironment(t, conn, server, intake.Config{})
	w := env.workerOn(env.conn, byLook)
	id := env.accept("f", "1")
	env.await("f", id, wire.StateSucceeded) // and off its queue
	env.closed(w)
	if n := env.node.count(id); n != 1 {
		t.Errorf("%d calls", n)
	}
}

// TestQueuesOfRemovedFunctions have no consumer any more, and an event that is accepted
// for one nevertheless has its end.
func TestQueuesOfRemovedFunctions(t *testing.T) {
	t.Parallel()
	env := newEnvironment(t)
	env.functions.set("gone", nil)
	env.functions.set("waits", nil)
	w := env.workerOn(env.conn, byHint)
	for _, name := range []string{"f", "gone"} {
		env.await(name, env.accept(name, "1"), wire.StateSucceeded)
	}
	waiting := env.acceptRequest(intake.Request{Event: wire.Event{Ref: "waits", NotBefore: time.Now().Add(time.Hour)}})
	embedtest.Eventually(t, "the others are closed", func() bool { return events.Open(w) == 1 })
	env.functions.remove("gone")
	env.functions.remove("waits")
	events.Sweep(w, t.Context(), time.Now())
	consumers := map[string]bool{}
	if err := env.conn.Consumers(t.Context(), wire.StreamEvents, func(name string) { consumers[name] = true }); err != nil {
		t.Fatal(err)
	}
	of := func(name string) bool { return consumers[wire.EventQueue{FunctionID: functionID(name)}.Consumer()] }
	if !of("f") || of("gone") || !of("waits") {
		t.Errorf("consumers %v", consumers)
	}
	// The intake takes the queue to be there still.
	id := env.accept("gone", "1")
	if r := env.await("gone", id, wire.StateDead); r.Error.Code != wire.CodeNotFound {
		t.Errorf("record %+v", r)
	}
	if _, err := env.intake.Cancel(t.Context(), waiting); err != nil {
		t.Error(err)
	}
}
