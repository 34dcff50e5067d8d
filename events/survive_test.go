package events_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"

	"github.com/dayfly-run/dayfly/events"
	"github.com/dayfly-run/dayfly/internal/bus"
	"github.com/dayfly-run/dayfly/internal/dispatch"
	"github.com/dayfly-run/dayfly/internal/embed/embedtest"
	"github.com/dayfly-run/dayfly/internal/embed/natsserver"
	"github.com/dayfly-run/dayfly/internal/intake"
	"github.com/dayfly-run/dayfly/wire"
)

// TestWorkerDies: what it held is run by another one.
func TestWorkerDies(t *testing.T) {
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
	env.workerOn(doomed, events.Config{})
	id := env.accept("f", "1")
	embedtest.Receive(t, began)
	doomed.Close() // as far as anybody can see, it is dead
	env.worker()
	r := env.await("f", id, wire.StateSucceeded)
	if len(r.Attempts) != 1 || env.node.count(id) != 2 {
		t.Errorf("%d calls, record %+v", env.node.count(id), r)
	}
}

// TestStopGivesBack: a worker that is stopped does not make others wait.
func TestStopGivesBack(t *testing.T) {
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
	first := env.worker()
	id := env.accept("f", "1")
	embedtest.Receive(t, began)
	env.worker()
	given := make(chan struct{}, 10)
	if _, err := env.conn.Subscribe("$JS.ACK."+wire.StreamEvents+".>", "", func(m bus.Msg) {
		if string(m.Data) == "-NAK" {
			given <- struct{}{}
		}
	}); err != nil {
		t.Fatal(err)
	}
	stop(t, first)
	embedtest.Receive(t, given)
	if r := env.await("f", id, wire.StateSucceeded); len(r.Attempts) != 1 {
		t.Errorf("record %+v", r)
	}
	stop(t, first) // again: nothing happens
}

// TestStopGivesBackWhatWaits: an event that waits for an instance is another worker's at
// once, however much patience a stop has.
func TestStopGivesBackWhatWaits(t *testing.T) {
	env := newEnvironment(t)
	began := make(chan struct{}, 1)
	env.node.run = func(_ context.Context, call dispatch.Call) (any, error) {
		if env.node.count("") == 1 {
			began <- struct{}{}
			<-call.Gone
			return nil, wire.Errorf(wire.CodeUnavailable, "the caller left while the call waited for an instance")
		}
		return "ok", nil
	}
	first := env.worker()
	id := env.accept("f", "1")
	embedtest.Receive(t, began)
	if err := first.Stop(context.Background()); err != nil {
		t.Error(err)
	}
	if r := env.record("f", id); r.State == wire.StateSucceeded || len(r.Attempts) != 0 {
		t.Errorf("given back as %+v", r)
	}
	env.worker()
	if r := env.await("f", id, wire.StateSucceeded); len(r.Attempts) != 1 {
		t.Errorf("record %+v", r)
	}
}

// TestStopWaits: a stop with patience lets what runs end.
func TestStopWaits(t *testing.T) {
	env := newEnvironment(t)
	began, goOn := make(chan struct{}, 1), make(chan struct{})
	env.node.run = func(context.Context, dispatch.Call) (any, error) {
		began <- struct{}{}
		<-goOn
		return "ok", nil
	}
	w := env.worker()
	id := env.accept("f", "1")
	embedtest.Receive(t, began)
	done := make(chan error, 1)
	go func() { done <- w.Stop(context.Background()) }()
	close(goOn)
	if err := embedtest.Receive(t, done); err != nil {
		t.Error(err)
	}
	if r := env.record("f", id); r.State != wire.StateSucceeded || env.queued(id) {
		t.Errorf("record %+v", r)
	}
}

// TestNothingIsLost: events are accepted and run while the NATS server is restarted and
// workers are stopped and started. Each one that was accepted runs, and no record says
// succeeded whose output is not in S3.
func TestNothingIsLost(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	// An address of its own, on which nobody gets the port while the server is away.
	server := listen(t, dir, fmt.Sprintf("127.%d.%d.%d:0", 1+rand.N(254), rand.N(255), 1+rand.N(254)))
	address := strings.TrimPrefix(server.URL(), "nats://")
	env := newEnvironmentOn(t, dial(t, server.URL()), server, intake.Config{})
	env.node.run = func(_ context.Context, call dispatch.Call) (any, error) {
		if env.node.count(call.Invocation) == 1 && strings.HasSuffix(string(call.Invocation), "0") {
			return nil, boom()
		}
		return "ok", nil
	}
	env.worker()
	const senders, each = 8, 20
	var mu sync.Mutex
	accepted := map[wire.InvocationID]bool{}
	half, all := make(chan struct{}), sync.WaitGroup{}
	for sender := range senders {
		all.Go(func() {
			for i := range each {
				if sender == 0 && i == each/2 {
					close(half)
				}
				key := fmt.Sprintf("%d-%d", sender, i)
				for { // as a client would: with a key, until it is accepted
					a, err := env.intake.Accept(t.Context(), intake.Request{Event: wire.Event{Ref: "f"}, Payload: []byte("1"), Key: key})
					if err == nil {
						mu.Lock()
						accepted[a.Invocation] = true
						mu.Unlock()
						break
					}
					if t.Context().Err() != nil {
						return
					}
				}
			}
		})
	}
	restart := func() {
		lost := make(chan struct{})
		env.conn.OnLost(func() { close(lost) })
		server.Stop()
		server = listen(t, dir, address)
		embedtest.Receive(t, lost)
		embedtest.Eventually(t, "the connection is back", func() bool { return env.conn.Healthy() == nil })
	}
	embedtest.Receive(t, half)
	doomed := env.worker()
	restart()
	stop(t, doomed)
	all.Wait()
	restart()
	if len(accepted) != senders*each {
		t.Fatalf("%d events", len(accepted))
	}
	for id := range accepted {
		r := env.await("f", id, wire.StateSucceeded)
		if env.node.count(id) == 0 || len(r.Attempts) == 0 || !env.object(wire.OutputResultKey(functionID("f"), id)) {
			t.Errorf("%d calls, record %+v", env.node.count(id), r)
		}
	}
	if calls := env.node.count(""); calls > 2*len(accepted) {
		t.Errorf("%d calls of %d events", calls, len(accepted))
	}
}

func listen(t *testing.T, dir, address string) *natsserver.Server {
	t.Helper()
	server, err := natsserver.Start(natsserver.Config{Dir: dir, Listen: address}, embedtest.Discard())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(server.Stop)
	return server
}

func dial(t *testing.T, url string) *bus.Conn {
	t.Helper()
	conn, err := bus.Connect(bus.Config{URL: url, Name: t.Name()}, embedtest.Discard())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(conn.Close)
	return conn
}
