// Package gateway is Dayfly's front door: it turns HTTP requests into invocations
// and their results into responses, and serves the management API.
package gateway

import (
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/go-chi/chi/v5"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/dayfly-run/dayfly/functions"
	"github.com/dayfly-run/dayfly/functions/registry"
	"github.com/dayfly-run/dayfly/functions/settings"
	"github.com/dayfly-run/dayfly/functions/sources"
	"github.com/dayfly-run/dayfly/internal/blob"
	"github.com/dayfly-run/dayfly/internal/bus"
	"github.com/dayfly-run/dayfly/internal/dispatch"
	"github.com/dayfly-run/dayfly/internal/garbage"
	"github.com/dayfly-run/dayfly/internal/httpapi"
	"github.com/dayfly-run/dayfly/internal/intake"
	"github.com/dayfly-run/dayfly/internal/records"
	"github.com/dayfly-run/dayfly/internal/roots"
	"github.com/dayfly-run/dayfly/internal/telemetry"
	"github.com/dayfly-run/dayfly/runtimes"
	"github.com/dayfly-run/dayfly/wire"
)

// logs is the stream that the gateway reads logs from.
var logs = bus.StreamConfig{
	Name: wire.StreamLogs, Subjects: []string{wire.AllLogs}, MaxAge: 24 * time.Hour, MaxBytes: 512 << 20, Async: true,
}

// Deps are what a gateway works with; it closes none of them.
type Deps struct {
	Conn     *bus.Conn
	Store    *blob.Store
	Registry *registry.Registry
	// Settings are the configuration and the secrets of functions; it is open.
	Settings *settings.Store
	// Cache is the copy of Registry that calls are resolved in; it runs for longer
	// than the gateway.
	Cache *registry.Cache
	// Intake takes events that run later, and Dispatcher brings calls to instances; they
	// run for longer than the gateway.
	Intake     *intake.Intake
	Dispatcher *dispatch.Dispatcher
	// Sources sets up what triggers listen to; it is open.
	Sources *sources.Sources
	Metrics prometheus.Registerer
	Log     *slog.Logger
	// Build is the version of this binary, shown in the OpenAPI document.
	Build string
}

// errStopping is the cause that ends what is left when a stop's patience is over.
var errStopping = errors.New("the gateway is being stopped")

// Gateway serves HTTP. It is a lifecycle service; its handler may be used between
// Start and Stop.
type Gateway struct {
	deps       Deps
	log        *slog.Logger
	cache      *registry.Cache
	dispatcher *dispatch.Dispatcher
	records    *records.Store
	metrics    *metrics
	roots      *roots.Index    // set by Start, as are keeper and orders
	keeper     *garbage.Keeper // of what deploys are about to use
	orders     *orders         // of operators to nodes
	router     chi.Router

	wasReady atomic.Bool // see Ready

	// builderLost is how long a builder may say nothing before a build is another's.
	builderLost time.Duration

	draining chan struct{} // closed by drain: end streams
	drain    func()
	calls    context.Context         //nolint:containedctx // calls outlive the requests that began them
	cut      context.CancelCauseFunc // ends calls

	called        *bus.Subscription // calls of functions; nil unless started
	functionCalls chan struct{}     // holds one for each of them that is under way
	serving       sync.WaitGroup    // the same
}

// New makes a gateway.
func New(deps Deps) *Gateway {
	g := &Gateway{
		deps: deps, log: deps.Log,
		cache:      deps.Cache,
		dispatcher: deps.Dispatcher,
		records:    records.New(deps.Conn),
		metrics:    newMetrics(deps.Metrics),
		draining:   make(chan struct{}),

		builderLost: wire.BuildLostAfter,

		functionCalls: make(chan struct{}, maxFunctionCalls),
	}
	g.drain = sync.OnceFunc(func() { close(g.draining) })
	g.calls, g.cut = context.WithCancelCause(context.Background())
	g.router = chi.NewRouter()
	g.router.NotFound(func(w http.ResponseWriter, r *http.Request) {
		httpapi.WriteProblem(w, wire.Errorf(wire.CodeNotFound,
			"there is nothing at %s; functions are at /f/NAME, the API at /v1/openapi.json", r.URL.Path), "")
	})
	g.router.MethodNotAllowed(g.methodNotAllowed)
	g.router.HandleFunc("/f/{ref}", g.serveHTTPTrigger)
	g.router.HandleFunc("/f/{ref}/*", g.serveHTTPTrigger)
	g.routeManagement()
	return g
}

// methodNotAllowed says which methods a path has. No code stands for that status.
func (g *Gateway) methodNotAllowed(w http.ResponseWriter, r *http.Request) {
	path := r.URL.RawPath
	if path == "" {
		path = r.URL.Path
	}
	var allowed []string
	for _, method := range []string{http.MethodDelete, http.MethodGet, http.MethodPatch, http.MethodPost, http.MethodPut} {
		if g.router.Match(chi.NewRouteContext(), method, path) {
			allowed = append(allowed, method)
		}
	}
	list := strings.Join(allowed, ", ")
	p := httpapi.NewProblem(wire.Errorf(wire.CodeInvalid, "%s is not allowed on %s; use %s", r.Method, r.URL.Path, list), "")
	p.Status = http.StatusMethodNotAllowed
	w.Header().Set("Allow", list)
	httpapi.WriteDocument(w, p)
}

// Handler serves the gateway's routes; routes of the process may be added beside it.
func (g *Gateway) Handler() chi.Router { return g.router }

// Start opens the stream of logs, and takes the calls of functions.
func (g *Gateway) Start(ctx context.Context) error {
	if err := g.deps.Conn.EnsureStream(ctx, logs); err != nil {
		return err
	}
	index, err := roots.OpenIndex(ctx, g.deps.Conn)
	if err != nil {
		return err
	}
	g.roots = index
	if g.keeper, err = garbage.OpenKeeper(ctx, g.deps.Conn); err != nil {
		return err
	}
	if g.orders, err = openOrders(ctx, g.deps.Conn, g.checkNode, g.log); err != nil {
		return err
	}
	if g.called, err = g.deps.Conn.Subscribe(wire.CallSubject, wire.CallGroup, g.heardCall); err != nil {
		g.orders.close()
	}
	return err
}

// Drain ends streams that would stay open, and answers the calls that wait for an
// instance; see [httpapi.Server].
func (g *Gateway) Drain() {
	g.drain()
	g.dispatcher.Drain()
}

// Cut ends the calls that still run with an error; see [httpapi.Server].
func (g *Gateway) Cut() { g.cut(errStopping) }

// Stop takes no more calls of functions, and lets those under way end until ctx is done.
// [Gateway.Drain] and [Gateway.Cut] end what HTTP requests began.
func (g *Gateway) Stop(ctx context.Context) error {
	if g.called == nil {
		return nil
	}
	g.called.Stop(g.deps.Conn)
	g.called = nil
	defer g.orders.close()
	defer context.AfterFunc(ctx, g.Cut)()
	g.serving.Wait()
	return nil
}

// resolve finds the version that a call by a reference goes to: where its alias splits
// its calls, one of two.
func (g *Gateway) resolve(text string) (functions.Function, functions.Version, error) {
	return g.resolveBy(text, rand.IntN(100)) //nolint:gosec // no secret: it spreads calls
}

// resolveBy is resolve with a draw, see [functions.Function.Resolve].
func (g *Gateway) resolveBy(text string, draw int) (functions.Function, functions.Version, error) {
	ref, err := wire.ParseRef(text)
	if err != nil {
		return functions.Function{}, functions.Version{}, wire.Errorf(wire.CodeInvalid, "%s", err)
	}
	return g.cache.Resolve(ref, draw)
}

// callOf begins a call of a version.
func callOf(id wire.InvocationID, v functions.Version) dispatch.Call {
	return dispatch.Call{
		Invocation:  id,
		Place:       v.PlaceRequest(id, runtimes.StemKey(v.Spec.Runtime, v.Code, v.Spec.Network)),
		Concurrency: v.Spec.Concurrency, Timeout: v.Spec.Timeout(),
	}
}

// invoke runs an event on a version and writes the headers that every answer to a
// call has. A caller that leaves ends its wait for an instance, but not the function,
// unless that sends its answer as it makes it, to stream.
func (g *Gateway) invoke(w http.ResponseWriter, r *http.Request, id wire.InvocationID, v functions.Version, event []byte, stream dispatch.Stream) (dispatch.Result, error) {
	begun := time.Now()
	call := callOf(id, v)
	call.Payload, call.Gone, call.Stream = event, r.Context().Done(), stream
	result, err := g.dispatcher.Invoke(g.calls, call)
	took := time.Since(begun)
	setCallHeaders(w.Header(), id, v, result.Reply)
	g.metrics.observe(err, took)
	if err != nil {
		e := wire.AsError(err)
		g.log.Warn("call failed", telemetry.KeyInvocation, string(id), telemetry.KeyFunction, v.String(),
			telemetry.KeyCode, string(e.Code), telemetry.KeyError, e.Message, "took", took)
		return result, err
	}
	if g.log.Enabled(g.calls, slog.LevelDebug) {
		g.log.Debug("call done", telemetry.KeyInvocation, string(id), telemetry.KeyFunction, v.String(),
			"took", took, "cold", result.Reply.Cold, telemetry.KeyNode, string(result.Reply.Node))
	}
	return result, nil
}
