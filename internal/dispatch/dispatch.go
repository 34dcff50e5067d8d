// Package dispatch brings a call to an instance: to a warm one when a node has it,
// else to where the scheduler says. A warm call asks neither the scheduler nor S3.
package dispatch

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/dayfly-run/dayfly/internal/blob"
	"github.com/dayfly-run/dayfly/internal/bus"
	"github.com/dayfly-run/dayfly/internal/telemetry"
	"github.com/dayfly-run/dayfly/wire"
)

const (
	// attempts bounds the nodes that one call is offered to.
	attempts = 4
	// grace is what a call may take beyond the function's own limits: placing,
	// fetching code, starting a container.
	grace = 30 * time.Second
	// placeWait is how long a call waits for a scheduler that leads, and
	// placePause how long between two tries.
	placeWait  = 5 * time.Second
	placePause = 50 * time.Millisecond
	// meetWait is how long a call waits to hear of a node that the scheduler named:
	// the lease is worth more than asking again, which would take a second one.
	meetWait = 2 * wire.HeartbeatEvery
	// cleanupBound limits removing a claim check.
	cleanupBound = 30 * time.Second
)

// Call is one event for one version.
type Call struct {
	Invocation wire.InvocationID
	// Place is what the scheduler must know to start an instance.
	Place wire.PlaceRequest
	// Concurrency is how many calls one instance takes at once; at least 1.
	Concurrency int
	Timeout     time.Duration
	Payload     []byte
}

// Result is what came of a call that reached a node.
type Result struct {
	Body  []byte
	Reply wire.InvokeReply
}

// Dispatcher routes calls. It is a lifecycle service and safe for concurrent use.
type Dispatcher struct {
	conn  *bus.Conn
	store *blob.Store
	log   *slog.Logger

	sub     *bus.Subscription
	stop    chan struct{}
	running sync.WaitGroup // the sweeper and clean-ups

	mu     sync.Mutex
	routes *routes // guarded by mu
}

// New makes a dispatcher.
func New(conn *bus.Conn, store *blob.Store, log *slog.Logger) *Dispatcher {
	return &Dispatcher{conn: conn, store: store, log: log, routes: newRoutes()}
}

// Start listens to the nodes and asks them to report.
func (d *Dispatcher) Start(context.Context) error {
	sub, err := d.conn.Subscribe(wire.AllNodeStates, "", d.heard)
	if err != nil {
		return err
	}
	d.sub = sub
	d.stop = make(chan struct{})
	d.running.Go(d.sweep)
	return d.conn.Publish(wire.NodeProbeSubject, nil)
}

// Stop waits for clean-ups; the calls themselves belong to their callers.
func (d *Dispatcher) Stop(context.Context) error {
	if d.sub == nil {
		return nil
	}
	d.sub.Stop(d.conn)
	d.sub = nil
	close(d.stop)
	d.running.Wait()
	return nil
}

func (d *Dispatcher) heard(m bus.Msg) {
	var s wire.NodeState
	if err := json.Unmarshal(m.Data, &s); err != nil {
		d.log.Warn("node state refused", "subject", m.Subject, telemetry.KeyError, err)
		return
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.routes.apply(s, time.Now())
}

func (d *Dispatcher) sweep() {
	tick := time.NewTicker(wire.NodeLostAfter / 8)
	defer tick.Stop()
	for {
		select {
		case <-d.stop:
			return
		case now := <-tick.C:
			d.mu.Lock()
			d.routes.expire(now.Add(-wire.NodeLostAfter))
			d.mu.Unlock()
		}
	}
}

// NodeView is a node as it was last heard.
type NodeView struct {
	wire.NodeState
	LastSeen time.Time `json:"lastSeen"`
}

// Nodes returns the nodes that live, in no order.
func (d *Dispatcher) Nodes() []NodeView {
	d.mu.Lock()
	defer d.mu.Unlock()
	list := make([]NodeView, 0, len(d.routes.nodes))
	for _, n := range d.routes.nodes {
		list = append(list, NodeView{n.state, n.lastSeen})
	}
	return list
}

// Invoke runs a call to its end. The error, if any, is a [*wire.Error]; the result
// says then as much as is known. What was never delivered is offered to other
// nodes; what may have run is not.
func (d *Dispatcher) Invoke(ctx context.Context, call Call) (Result, error) {
	ctx, cancel := context.WithTimeout(ctx, call.Timeout+wire.InitTimeout+grace)
	defer cancel()
	req := wire.InvokeRequest{Invocation: call.Invocation, Version: call.Place.Version}
	if len(call.Payload) > d.conn.MaxPayload()-wire.FrameHeadroom {
		req.PayloadKey = wire.RequestKey(call.Invocation)
		if err := d.store.PutBytes(ctx, req.PayloadKey, call.Payload, "application/json"); err != nil {
			return Result{}, wire.Errorf(wire.CodeUnavailable, "the event could not be stored: %s", err)
		}
		defer d.cleanUp(ctx, req.PayloadKey)
		call.Payload = nil
	}
	return d.route(ctx, call, req)
}

// route offers the call to nodes until one takes it.
func (d *Dispatcher) route(ctx context.Context, call Call, req wire.InvokeRequest) (Result, error) {
	var last error
	refused := slices.Clone(call.Place.Exclude) // the caller's own stays as it is
	for range attempts {
		if s := d.takeWarm(req.Version); s != nil {
			result, err := d.send(ctx, s, req, call.Payload)
			if err == nil || !retryable(err) {
				return result, err
			}
			if !wire.HasCode(err, wire.CodeNoInstance) { // else only its warm instances are taken
				refused = append(refused, s.node.id)
			}
		}
		call.Place.Exclude = refused
		placed, err := d.place(ctx, call.Place)
		if err != nil {
			return Result{}, err
		}
		s, err := d.meet(ctx, placed.Node, req.Version)
		if err != nil {
			return Result{}, err
		}
		if s != nil {
			leased := req
			leased.Lease, leased.Epoch = placed.Lease, placed.Epoch
			result, err := d.send(ctx, s, leased, call.Payload)
			if err == nil || !retryable(err) {
				return result, err
			}
			last = err
		} else {
			last = wire.Errorf(wire.CodeUnavailable, "node %q is not known to this gateway", placed.Node)
		}
		refused = append(refused, placed.Node)
	}
	if wire.HasCode(last, wire.CodeNoInstance) { // a word between us and the nodes
		last = wire.Errorf(wire.CodeNoCapacity, "%d nodes had no instance for the call", attempts)
	}
	return Result{}, last
}

// retryable says that nothing ran, so that another node may.
func retryable(err error) bool {
	e := wire.AsError(err)
	return e.Retryable && !e.Code.OfFunction()
}

// meet takes a place on the node that the scheduler named. The scheduler may have
// heard of it before we did; nil says that we never do.
func (d *Dispatcher) meet(ctx context.Context, id wire.NodeID, v wire.VersionID) (*ride, error) {
	for waited := time.Duration(0); ; waited += placePause {
		if s := d.takeNode(id, v); s != nil || waited >= meetWait {
			return s, nil
		}
		if err := pause(ctx, placePause); err != nil {
			return nil, err
		}
	}
}

func (d *Dispatcher) takeWarm(v wire.VersionID) *ride {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.routes.take(v)
}

func (d *Dispatcher) takeNode(id wire.NodeID, v wire.VersionID) *ride {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.routes.takeOn(id, v)
}

// send asks one node to run the event.
func (d *Dispatcher) send(ctx context.Context, s *ride, req wire.InvokeRequest, payload []byte) (result Result, err error) {
	alive := false
	defer func() {
		d.mu.Lock()
		defer d.mu.Unlock()
		d.routes.done(s, alive, result.Reply.StateSeq)
	}()
	frame, err := wire.AppendFrame(make([]byte, 0, 512+len(payload)), req, payload)
	if err != nil {
		return result, wire.AsError(err)
	}
	callCtx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	//nolint:contextcheck // the node's life ends the call as well
	defer context.AfterFunc(s.node.lost, func() { cancel(errNodeLost) })()
	data, err := d.conn.Request(callCtx, wire.NodeInvokeSubject(s.node.id), frame)
	if err != nil {
		return result, d.unanswered(callCtx, s.slot, err)
	}
	result.Body, err = wire.ParseFrame(data, &result.Reply)
	if err != nil {
		return result, wire.Errorf(wire.CodeInternal, "node %s: %s", s.node.id, err)
	}
	if e := result.Reply.Error; e != nil {
		// A function that failed by itself leaves its instance alive.
		alive = e.Code == wire.CodeFunctionError && result.Reply.Instance != ""
		if result.Reply.Instance != "" && e.Retryable {
			ran := *e // an instance had the event, whatever else went wrong
			ran.Retryable = false
			return result, &ran
		}
		return result, e
	}
	alive = true
	if key := result.Reply.PayloadKey; key != "" {
		defer d.cleanUp(ctx, key)
		if result.Body, err = d.store.GetBytes(ctx, key, wire.MaxEvent); err != nil {
			return result, wire.Errorf(wire.CodeInternal, "the result could not be fetched: %s", err)
		}
	}
	return result, nil
}

// unanswered says why no answer came.
func (d *Dispatcher) unanswered(ctx context.Context, s *slot, err error) error {
	id := s.node.id
	switch {
	case errors.Is(err, bus.ErrNoResponders):
		return wire.Errorf(wire.CodeUnavailable, "node %s does not take invocations", id)
	case errors.Is(context.Cause(ctx), errNodeLost):
		e := wire.Errorf(wire.CodeUnavailable, "node %s was lost while it had the event, which may have run", id)
		e.Retryable = false // not by us: it may have run
		return e
	case errors.Is(context.Cause(ctx), context.DeadlineExceeded):
		return wire.Errorf(wire.CodeInternal, "node %s did not answer in time", id)
	}
	if cause := context.Cause(ctx); cause != nil {
		err = cause
	}
	e := wire.Errorf(wire.CodeUnavailable, "gave up waiting for node %s, which may go on: %s", id, err)
	e.Retryable = false
	return e
}

// place asks the leading scheduler for a node, waiting a while for one that leads.
func (d *Dispatcher) place(ctx context.Context, req wire.PlaceRequest) (wire.PlaceReply, error) {
	data, err := json.Marshal(req)
	if err != nil {
		return wire.PlaceReply{}, wire.AsError(err)
	}
	waiting, cancel := context.WithTimeout(ctx, placeWait)
	defer cancel()
	for {
		answer, err := d.conn.Request(waiting, wire.PlaceSubject, data)
		if err == nil {
			var reply wire.PlaceReply
			if err := json.Unmarshal(answer, &reply); err != nil {
				return reply, wire.Errorf(wire.CodeInternal, "the scheduler's answer is malformed: %s", err)
			}
			if reply.Error != nil {
				return reply, reply.Error
			}
			return reply, nil
		}
		if !errors.Is(err, bus.ErrNoResponders) || pause(waiting, placePause) != nil {
			if ctx.Err() != nil { // the call is over, whether a scheduler leads or not
				err = context.Cause(ctx)
			}
			return wire.PlaceReply{}, wire.Errorf(wire.CodeUnavailable, "no scheduler answers: %s", err)
		}
	}
}

// cleanUp removes a claim check in the background.
func (d *Dispatcher) cleanUp(ctx context.Context, key string) {
	d.running.Go(func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanupBound)
		defer cancel()
		if err := d.store.Delete(ctx, key); err != nil {
			d.log.Warn("claim check left behind", "key", key, telemetry.KeyError, err)
		}
	})
}

func pause(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return wire.Errorf(wire.CodeUnavailable, "gave up waiting: %s", context.Cause(ctx))
	}
}
