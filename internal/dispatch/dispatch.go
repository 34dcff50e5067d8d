// Package dispatch brings a call to an instance: to a warm one when a node has it,
// else to where the scheduler says. A warm call asks neither the scheduler nor S3.
package dispatch

import (
	"cmp"
	"context"
	"encoding/json"
	"log/slog"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/uuid"

	"github.com/dayfly-run/dayfly/internal/blob"
	"github.com/dayfly-run/dayfly/internal/bus"
	"github.com/dayfly-run/dayfly/internal/roster"
	"github.com/dayfly-run/dayfly/internal/telemetry"
	"github.com/dayfly-run/dayfly/wire"
)

const (
	// attempts bounds the nodes that one call is offered to.
	attempts = 4
	// grace is what a call may take on its node beyond the function's own limits:
	// fetching code, starting a container.
	grace = 30 * time.Second
	// placeWait is how long a call waits for a scheduler that leads while there is
	// nothing else to wait for, and placePause how long between two tries.
	placeWait = 5 * time.Second
	// askWait bounds one question to the scheduler, whose answer may be lost. minAskWait
	// is what it gets though the call's patience is nearly over.
	askWait, minAskWait = 2 * time.Second, 250 * time.Millisecond
	placePause          = 50 * time.Millisecond
	// meetWait is how long a call waits to hear of a node that the scheduler named:
	// the lease is worth more than asking again, which would take a second one.
	meetWait = 2 * wire.HeartbeatEvery
	// cleanupBound limits removing a claim check.
	cleanupBound = 30 * time.Second
	// storeBound limits storing a claim check.
	storeBound = 30 * time.Second
)

// Call is one event for one version.
type Call struct {
	Invocation wire.InvocationID
	// Place is what the scheduler must know to start an instance.
	Place wire.PlaceRequest
	// Concurrency is how many calls one instance takes at once; at least 1.
	Concurrency int
	// Timeout is the function's own. So long does a call wait for an instance as well.
	Timeout time.Duration
	Payload []byte
	// PayloadKey says where the payload is in S3 already. It stays there.
	PayloadKey string
	// Event says that this is an attempt at an accepted event, see
	// [wire.InvokeRequest].
	Event bool
	// Cause is the invocation whose function calls, if one does, and Depth how many steps
	// from function to function lie behind this one.
	Cause wire.InvocationID
	Depth int
	// Start asks for an instance only, see [wire.InvokeRequest]; there is no payload.
	Start bool
	// Gone is closed when the caller leaves, which ends a wait for an instance and an
	// answer that comes in pieces, and nothing else; nil for never.
	Gone <-chan struct{}
	// Stream takes an answer that the function sends as it makes it; nil for all of it
	// at once.
	Stream Stream
}

// Result is what came of a call that reached a node. What went to [Call].Stream is not
// in the body.
type Result struct {
	Body  []byte
	Reply wire.InvokeReply
}

// Meter hears of the calls that had to wait, or could not. It is called by many
// goroutines at once and must not block.
type Meter interface {
	// Waited says how a wait ended, and how long it was.
	Waited(took time.Duration, end End)
}

// Dispatcher routes calls. It is a lifecycle service and safe for concurrent use.
type Dispatcher struct {
	conn      *bus.Conn
	store     *blob.Store
	meter     Meter
	log       *slog.Logger
	admission *admission

	localID wire.NodeID
	local   LocalNode // nil without a node in this process

	streams   streams
	inquirers inquirers
	offers    atomic.Uint64 // the number of the last message to a node
	subs      []*bus.Subscription
	states    *bus.Subscription // one of subs
	hearing   roster.Hearing
	stop      chan struct{}
	running   sync.WaitGroup // the sweeper and clean-ups
}

// New makes a dispatcher.
func New(conn *bus.Conn, store *blob.Store, meter Meter, log *slog.Logger) *Dispatcher {
	d := &Dispatcher{conn: conn, store: store, meter: meter, log: log, admission: newAdmission(), streams: streams{inbox: uuid.NewString()}}
	d.offers.Store(rand.Uint64()) //nolint:gosec // no secret: it keeps the numbers of dispatchers apart
	return d
}

// Start listens to the nodes and asks them to report.
func (d *Dispatcher) Start(context.Context) error {
	d.stop = make(chan struct{})
	for subject, handle := range map[string]func(bus.Msg){
		wire.AllNodeStates: d.heard, wire.AllStreams(d.streams.inbox): d.heardPiece,
	} {
		sub, err := d.conn.Subscribe(subject, "", handle)
		if err != nil {
			return err
		}
		d.subs = append(d.subs, sub)
		if subject == wire.AllNodeStates {
			d.states = sub
		}
	}
	d.running.Go(d.sweep)
	return d.conn.Publish(wire.NodeProbeSubject, nil)
}

// Drain turns away the calls that wait for an instance. Those that have one go on,
// and so do new ones that find one. It may be called again.
func (d *Dispatcher) Drain() { d.admission.close() }

// Stop waits for clean-ups; the calls themselves belong to their callers.
func (d *Dispatcher) Stop(context.Context) error {
	d.Drain()
	if d.stop == nil {
		return nil
	}
	for _, sub := range d.subs {
		sub.Stop(d.conn)
	}
	d.subs = nil
	close(d.stop)
	d.running.Wait()
	d.stop = nil
	return nil
}

// Waiting is how many calls wait for an instance.
func (d *Dispatcher) Waiting() int { return d.admission.count() }

func (d *Dispatcher) sweep() {
	tick := time.NewTicker(wire.NodeLostAfter / 8)
	defer tick.Stop()
	for {
		select {
		case <-d.stop:
			return
		case <-tick.C:
		}
		// Who has not heard all of it cannot say who was silent.
		if before := d.hearing.Look(context.Background(), d.conn, d.states).LostBefore(); !before.IsZero() {
			d.admission.expire(before, time.Now())
		}
	}
}

// Nodes returns the nodes that live, in no order. With many nodes that is much to copy,
// while calls wait; see [Dispatcher.Node] and [Dispatcher.AnyNode].
func (d *Dispatcher) Nodes() []NodeView { return d.admission.nodes() }

// Node returns a node, if it lives.
func (d *Dispatcher) Node(id wire.NodeID) (n NodeView, lives bool) { return d.admission.node(id) }

// AnyNode reports whether something holds for one of the nodes that live, and looks no
// further then. holds must be quick and not call the dispatcher: calls wait for it.
func (d *Dispatcher) AnyNode(holds func(NodeView) bool) bool { return d.admission.anyNode(holds) }

// Invoke runs a call to its end, which may wait first: for an instance that is free,
// or for room to start one. The error, if any, is a [*wire.Error]; the result says
// then as much as is known. What was never delivered is offered to other nodes; what
// may have run is not.
func (d *Dispatcher) Invoke(ctx context.Context, call Call) (Result, error) {
	e := errand{
		call: call, excluded: call.Place.Exclude,
		req: wire.InvokeRequest{
			Invocation: call.Invocation, Version: call.Place.Version, PayloadKey: call.PayloadKey, Event: call.Event, Start: call.Start,
			Cause: call.Cause, Depth: call.Depth,
		},
	}
	stream := d.streams.open(d.conn, &call)
	if stream != nil {
		e.req.Stream = wire.StreamSubject(d.streams.inbox, call.Invocation)
	}
	result, err := d.route(ctx, &e)
	if stream != nil {
		err = d.finished(ctx, stream, result, err)
	}
	if key := e.req.PayloadKey; key != "" && key != call.PayloadKey {
		d.cleanUp(ctx, key)
	}
	if t := &e.ticket; t.waited || t.end != "" {
		d.meter.Waited(t.wait, cmp.Or(t.end, EndServed))
	}
	return result, err
}

// errand is a call on its way to an instance.
type errand struct {
	call   Call
	ticket ticket
	req    wire.InvokeRequest
	// excluded are the caller's own; nodes that refuse are added to call.Place.Exclude.
	excluded []wire.NodeID
	failed   int // offers since the call last waited
}

// refusedBy notes that a node refused the call. After a few it has to wait, as with a
// scheduler that refuses, or fails where a wait would not mend it.
func (e *errand) refusedBy(id wire.NodeID, cold bool, err error) error {
	if cold || !wire.HasCode(err, wire.CodeNoInstance) { // else only its free instances are taken
		e.call.Place.Exclude = append(slices.Clip(e.call.Place.Exclude), id)
	}
	if e.failed++; e.failed < attempts {
		return nil
	}
	why := wire.AsError(err)
	switch why.Code {
	case wire.CodeUnavailable:
		return err
	case wire.CodeNoInstance: // a word between us and the nodes
		why = wire.Errorf(wire.CodeNoCapacity, "%d nodes had no instance for the call", attempts)
	}
	e.ticket.refused = why
	e.failed, e.call.Place.Exclude = 0, e.excluded
	return nil
}

// route offers the call to nodes until one takes it.
func (d *Dispatcher) route(ctx context.Context, e *errand) (Result, error) {
	for {
		got, err := d.admission.enter(ctx, &e.call, &e.ticket)
		if err != nil {
			return Result{}, err
		}
		if err := d.checkIn(ctx, e); err != nil {
			d.admission.giveBack(got)
			return Result{}, err
		}
		c, req := got.ride, e.req
		if got.asks {
			if c, req, err = d.start(ctx, e, got); err != nil {
				return Result{}, err
			}
			if c.slot == nil {
				continue
			}
		}
		result, err := d.send(ctx, c, req, &e.call)
		if err == nil || !retryable(err) {
			return result, err
		}
		if err := e.refusedBy(c.node.id, c.cold(), err); err != nil {
			return result, err
		}
	}
}

// checkIn stores an event that is too large for a message, once.
func (d *Dispatcher) checkIn(ctx context.Context, e *errand) error {
	if len(e.call.Payload) <= d.conn.MaxPayload()-wire.FrameHeadroom {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, storeBound)
	defer cancel()
	e.req.PayloadKey = wire.RequestKey(e.call.Invocation)
	if err := d.store.PutBytes(ctx, e.req.PayloadKey, e.call.Payload, "application/json"); err != nil {
		return wire.Errorf(wire.CodeUnavailable, "the event could not be stored: %s", err)
	}
	e.call.Payload = nil
	return nil
}

// retryable says that nothing ran, so that another node may.
func retryable(err error) bool {
	e := wire.AsError(err)
	return e.Retryable && !e.Code.OfFunction()
}

// start asks the scheduler for a node, and returns the call's ride there with what to
// send. Without one the call takes its next turn.
func (d *Dispatcher) start(ctx context.Context, e *errand, got turn) (ride, wire.InvokeRequest, error) {
	req, asked := e.req, time.Now()
	patience := time.Until(e.ticket.since.Add(e.call.Timeout))
	where, answered, err := d.place(ctx, e.call.Place, min(askWait, max(patience, minAskWait)))
	e.call.Place.Again = !answered
	switch why := wire.AsError(err); {
	case err == nil:
	case ctx.Err() != nil:
		d.admission.giveBack(got)
		return ride{}, req, wire.Errorf(wire.CodeUnavailable, "no scheduler answers: %s", context.Cause(ctx))
	case why.Code == wire.CodeThrottled, why.Code == wire.CodeNoCapacity, why.Code == wire.CodeUnavailable:
		t := &e.ticket
		t.refused, t.question, t.asked = why, got, asked
		return ride{}, req, nil
	default:
		d.admission.giveBack(got)
		return ride{}, req, err
	}
	c := d.admission.placed(got, where, e.call.Concurrency)
	for waited := time.Duration(0); c.slot == nil && waited < meetWait; waited += placePause {
		// The scheduler may have heard of the node before we did.
		if err := pause(ctx, placePause); err != nil {
			return ride{}, req, err
		}
		c = d.admission.board(e.call.Place.Version, where, e.call.Concurrency)
	}
	if c.slot == nil {
		unknown := wire.Errorf(wire.CodeUnavailable, "node %q is not known to this gateway", where.Node)
		return ride{}, req, e.refusedBy(where.Node, true, unknown)
	}
	req.Lease, req.Epoch = where.Lease, where.Epoch
	return c, req, nil
}

// place asks the leading scheduler for a node, once. Without an answer there may be a place
// all the same.
func (d *Dispatcher) place(ctx context.Context, req wire.PlaceRequest, bound time.Duration) (reply wire.PlaceReply, answered bool, err error) {
	data, err := json.Marshal(req)
	if err != nil {
		return reply, false, err
	}
	ctx, cancel := context.WithTimeout(ctx, bound)
	defer cancel()
	answer, err := d.conn.Request(ctx, wire.PlaceSubject, data)
	if err != nil {
		return reply, false, wire.Errorf(wire.CodeUnavailable, "no scheduler answers: %s", err)
	}
	if err := json.Unmarshal(answer, &reply); err != nil {
		return reply, true, wire.Errorf(wire.CodeInternal, "the scheduler's answer is malformed: %s", err)
	}
	if reply.Error != nil {
		return reply, true, reply.Error
	}
	return reply, true, nil
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
