package events_test

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/dayfly-run/dayfly/events"
	"github.com/dayfly-run/dayfly/functions"
	"github.com/dayfly-run/dayfly/internal/blob"
	"github.com/dayfly-run/dayfly/internal/bus"
	"github.com/dayfly-run/dayfly/internal/dispatch"
	"github.com/dayfly-run/dayfly/internal/embed/embedtest"
	"github.com/dayfly-run/dayfly/internal/embed/natsserver"
	"github.com/dayfly-run/dayfly/internal/embed/s3server"
	"github.com/dayfly-run/dayfly/internal/intake"
	"github.com/dayfly-run/dayfly/internal/records"
	"github.com/dayfly-run/dayfly/wire"
)

var s3 *s3server.Server

func TestMain(m *testing.M) {
	os.Exit(embedtest.RunWithS3(m, func(s *s3server.Server) { s3 = s }, embedtest.CutBatches()...))
}

// catalogue is what the registry would say.
type catalogue struct {
	mu    sync.Mutex
	specs map[string]functions.Spec
}

func (c *catalogue) set(name string, edit func(*functions.Spec)) {
	spec := functions.Spec{MaxInstances: 10, Concurrency: 1, TimeoutMillis: 30_000, EventSpec: functions.DefaultEventSpec()}
	spec.Retry.DelayMillis = 10
	if edit != nil {
		edit(&spec)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.specs[name] = spec
}

func (c *catalogue) remove(name string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.specs, name)
}

func (c *catalogue) Resolve(ref wire.Ref, _ int) (functions.Function, functions.Version, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	spec, ok := c.specs[ref.Name]
	if !ok || ref.Qualifier != wire.LiveAlias {
		return functions.Function{}, functions.Version{}, wire.Errorf(wire.CodeNotFound, "there is no function %s", ref)
	}
	return functions.Function{FunctionID: ref.FunctionID}, functions.Version{VersionID: wire.VersionID{FunctionID: ref.FunctionID, Number: 1}, Spec: spec}, nil
}

// node is a cluster of one node that runs a function of Go.
type node struct {
	t   testing.TB
	env *environment
	// run is the function. Its error is how the attempt ends.
	run func(ctx context.Context, call dispatch.Call) (any, error)

	mu    sync.Mutex
	calls []dispatch.Call
}

func (n *node) Invoke(ctx context.Context, call dispatch.Call) (dispatch.Result, error) {
	n.mu.Lock()
	n.calls = append(n.calls, call)
	n.mu.Unlock()
	if !call.Event {
		n.t.Error("the call does not say that it is for an event")
	}
	value, err := n.run(ctx, call)
	result := dispatch.Result{Reply: wire.InvokeReply{Node: "n1", Instance: "i1", RunMicros: 1, Error: nil}}
	if err != nil {
		if e := wire.AsError(err); e.Retryable {
			result.Reply = wire.InvokeReply{} // nothing ran
		}
		return result, wire.AsError(err)
	}
	if result.Body, err = json.Marshal(value); err == nil {
		err = n.env.store.PutBytes(ctx, wire.OutputResultKey(call.Place.Version.FunctionID, call.Invocation), result.Body, "application/json")
	}
	if err != nil {
		return result, wire.AsError(err)
	}
	result.Reply.Output = &wire.Output{ResultBytes: int64(len(result.Body))}
	return result, nil
}

// count is how often an invocation was called, or all for an empty ID.
func (n *node) count(id wire.InvocationID) (count int) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, c := range n.calls {
		if id == "" || c.Invocation == id {
			count++
		}
	}
	return count
}

type environment struct {
	t         testing.TB
	server    *natsserver.Server
	conn      *bus.Conn
	store     *blob.Store
	intake    *intake.Intake
	records   *records.Store
	functions *catalogue
	node      *node
}

func newEnvironment(t testing.TB) *environment {
	t.Helper()
	return openEnvironment(t, embedtest.NATS(t, t.TempDir()), intake.Config{})
}

func openEnvironment(t testing.TB, server *natsserver.Server, cfg intake.Config) *environment {
	t.Helper()
	return newEnvironmentOn(t, embedtest.Connect(t, server), server, cfg)
}

func newEnvironmentOn(t testing.TB, conn *bus.Conn, server *natsserver.Server, cfg intake.Config) *environment {
	t.Helper()
	env := bareEnvironment(t, conn, server, cfg)
	if err := env.intake.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	return env
}

// bareEnvironment has no streams yet.
func bareEnvironment(t testing.TB, conn *bus.Conn, server *natsserver.Server, cfg intake.Config) *environment {
	t.Helper()
	env := &environment{t: t, server: server, conn: conn, functions: &catalogue{specs: map[string]functions.Spec{}}, store: embedtest.Store(t, s3)}
	env.records = records.New(env.conn)
	env.intake = intake.New(cfg, env.conn, env.store, embedtest.Discard())
	env.node = &node{t: t, env: env, run: func(context.Context, dispatch.Call) (any, error) { return "ok", nil }}
	env.functions.set("f", nil)
	return env
}

// worker starts a worker, which ends with the test.
func (env *environment) worker() *events.Worker {
	env.t.Helper()
	return env.workerOn(env.conn, events.Config{})
}

func (env *environment) workerOn(conn *bus.Conn, cfg events.Config) *events.Worker {
	env.t.Helper()
	w := events.New(cfg, events.Deps{
		Conn: conn, Store: env.store, Intake: env.intake, Functions: env.functions, Dispatcher: env.node,
		Metrics: registry(), Log: embedtest.Discard(),
	})
	if err := w.Start(env.t.Context()); err != nil {
		env.t.Fatal(err)
	}
	env.t.Cleanup(func() { stop(env.t, w) })
	return w
}

// stop stops a worker at once.
func stop(t testing.TB, w *events.Worker) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if err := w.Stop(ctx); err != nil {
		t.Error(err)
	}
}

// accept puts an event for a function into its queue.
func (env *environment) accept(ref string, payload string) wire.InvocationID {
	env.t.Helper()
	return env.acceptRequest(intake.Request{Event: wire.Event{Ref: ref, Source: wire.SourceHTTP}, Payload: []byte(payload)})
}

func (env *environment) acceptRequest(r intake.Request) wire.InvocationID {
	env.t.Helper()
	accepted, err := env.intake.Accept(env.t.Context(), r)
	if err != nil {
		env.t.Fatal(err)
	}
	return accepted.Invocation
}

func (env *environment) record(name string, id wire.InvocationID) wire.Record {
	env.t.Helper()
	entry, err := env.records.Read(env.t.Context(), functionID(name), id)
	if err != nil {
		env.t.Fatal(err)
	}
	return entry.Record
}

// await waits for an event's state, and for a final one until the event is off its
// queue as well.
func (env *environment) await(name string, id wire.InvocationID, state wire.State) wire.Record {
	env.t.Helper()
	var r wire.Record
	embedtest.Eventually(env.t, string(id)+" is "+string(state), func() bool {
		r = env.record(name, id)
		return r.State == state && (!state.Final() || !env.queued(id))
	})
	return r
}

func (env *environment) queued(id wire.InvocationID) bool {
	env.t.Helper()
	return env.has(wire.StreamEvents, wire.AnyEventSubject(id))
}

func (env *environment) has(stream, subject string) bool {
	env.t.Helper()
	_, err := env.conn.LastMessage(env.t.Context(), stream, subject)
	if err != nil && !errors.Is(err, bus.ErrNotFound) {
		env.t.Fatal(err)
	}
	return err == nil
}

func (env *environment) object(key string) bool {
	env.t.Helper()
	found, err := env.store.Exists(env.t.Context(), key)
	if err != nil {
		env.t.Fatal(err)
	}
	return found
}

func functionID(name string) wire.FunctionID {
	return wire.FunctionID{Namespace: wire.DefaultNamespace, Name: name}
}

// script runs one end after the other, and succeeds from then on.
func script(ends ...error) func(context.Context, dispatch.Call) (any, error) {
	var mu sync.Mutex
	return func(context.Context, dispatch.Call) (any, error) {
		mu.Lock()
		defer mu.Unlock()
		if len(ends) == 0 {
			return "ok", nil
		}
		end := ends[0]
		ends = ends[1:]
		return "ok", end
	}
}

func always(end error) func(context.Context, dispatch.Call) (any, error) {
	return func(context.Context, dispatch.Call) (any, error) { return nil, end }
}

func boom() error { return &wire.Error{Code: wire.CodeFunctionError, Message: "boom"} }

// throttled is a refusal that does not ask for a pause.
func throttled() error {
	return &wire.Error{Code: wire.CodeThrottled, Message: "full", Retryable: true, RetryAfterMillis: 1}
}

func registry() prometheus.Registerer { return prometheus.NewRegistry() }

func farFuture() time.Time { return time.Now().Add(time.Hour) }
