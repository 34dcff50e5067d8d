package invoker

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/dayfly-run/dayfly/internal/blob"
	"github.com/dayfly-run/dayfly/internal/bus"
	"github.com/dayfly-run/dayfly/internal/telemetry"
	"github.com/dayfly-run/dayfly/invoker/runtimeapi"
	"github.com/dayfly-run/dayfly/invoker/sandbox"
	"github.com/dayfly-run/dayfly/wire"
)

const (
	// deliveries bounds how many instances that died unseen one call may meet.
	deliveries = 3
	// storeBound limits what one call waits for S3, below what its caller waits for
	// the node beyond the function's own time.
	storeBound = 25 * time.Second
)

// serve answers one message on the node's invoke subject.
func (inv *Invoker) serve(m bus.Msg) {
	var req wire.InvokeRequest
	payload, err := wire.ParseFrame(m.Data, &req)
	if err != nil {
		inv.log.Error("invocation refused", telemetry.KeyError, err)
		inv.respond(m, 0, wire.InvokeReply{Error: wire.Errorf(wire.CodeInternal, "node %s: %s", inv.cfg.Node, err)}, nil)
		return
	}
	// Until it is answered, so that who inquires hears of it.
	ctx, end, taken := inv.underWay.begin(inv.ctx, req.Invocation, req.Offer)
	if !taken {
		inv.settle(req.Lease)
		inv.respond(m, req.Offer, wire.InvokeReply{Error: wire.Errorf(wire.CodeUnavailable, "the call came too late to node %s", inv.cfg.Node)}, nil)
		return
	}
	defer end()
	reply, result := inv.answer(ctx, req, payload)
	if key, err := inv.checkIn(req.Invocation, result); err != nil {
		inv.logOf(req).Error("result lost", telemetry.KeyError, err)
		reply.Error, result = wire.Errorf(wire.CodeInternal, "the result could not be handed over: %s", err), nil
	} else if key != "" {
		reply.PayloadKey, result = key, nil
	}
	inv.respond(m, req.Offer, reply, result)
}

// Run implements the door of a node for callers in the same process, which get results
// of any size. When ctx is done, the instance is killed.
func (inv *Invoker) Run(ctx context.Context, req wire.InvokeRequest, payload []byte) (reply wire.InvokeReply, result []byte, taken bool) {
	inv.mu.Lock()
	taken = inv.takes
	if taken {
		inv.calls.Add(1)
	}
	inv.mu.Unlock()
	if !taken {
		return reply, nil, false
	}
	defer inv.calls.Done()
	run, cancel := context.WithCancelCause(inv.ctx)
	defer cancel(nil)
	defer context.AfterFunc(ctx, func() { cancel(errStopped) })()
	run, end, _ := inv.underWay.begin(run, req.Invocation, 0) // it is taken: nobody inquires about it
	defer end()
	reply, result = inv.answer(run, req, payload)
	return reply, result, true
}

// answer runs an event and says how it went.
func (inv *Invoker) answer(ctx context.Context, req wire.InvokeRequest, payload []byte) (wire.InvokeReply, []byte) {
	var reply wire.InvokeReply
	var result []byte
	if inv.contact.holds(time.Now()) {
		reply, result = inv.execute(ctx, req, payload)
	} else {
		inv.settle(req.Lease)
		reply.Error = inv.outOfTouch()
	}
	reply.Node, reply.StateSeq = inv.cfg.Node, inv.stateSeq()
	if req.Event && len(result) > inv.maxInline() {
		result = nil // it is stored, and who asks for it finds it there
	}
	return reply, result
}

// logOf is the logger of one call. It is made when there is something to say: most
// calls have nothing.
func (inv *Invoker) logOf(req wire.InvokeRequest) *slog.Logger {
	return inv.log.With(telemetry.KeyInvocation, string(req.Invocation), telemetry.KeyFunction, req.Version.String())
}

// checkIn puts a result that is too large for a message into S3.
func (inv *Invoker) checkIn(id wire.InvocationID, result []byte) (key string, err error) {
	if len(result) <= inv.maxInline() {
		return "", nil
	}
	ctx, cancel := context.WithTimeout(inv.ctx, storeBound)
	defer cancel()
	key = wire.ResponseKey(id)
	return key, inv.deps.Store.PutBytes(ctx, key, result, "application/json")
}

// maxInline is the largest result that fits into a message, in bytes.
func (inv *Invoker) maxInline() int { return inv.deps.Conn.MaxPayload() - wire.FrameHeadroom }

// respond answers an offer, and remembers the answer.
func (inv *Invoker) respond(m bus.Msg, offer uint64, reply wire.InvokeReply, result []byte) {
	frame, err := wire.AppendFrame(make([]byte, 0, 512+len(result)), reply, result)
	if err == nil {
		if offer != 0 {
			inv.underWay.answered(answered{offer: offer, to: m.Reply(), frame: frame, at: time.Now()})
		}
		err = m.Respond(frame)
	}
	if err != nil {
		inv.log.Error("answer lost", telemetry.KeyError, err)
	}
}

// execute finds or starts an instance, runs the event and keeps what it left.
func (inv *Invoker) execute(ctx context.Context, req wire.InvokeRequest, payload []byte) (wire.InvokeReply, []byte) {
	if req.Start {
		return inv.start(ctx, req), nil
	}
	if req.Event {
		if wait := inv.stores.check(ctx, time.Now(), inv.probeStore); wait != nil {
			inv.settle(req.Lease)
			return wire.InvokeReply{Error: wait}, nil
		}
	}
	event := runtimeapi.Event{ID: req.Invocation, Payload: payload, Depth: req.Depth}
	for range deliveries {
		in, cold, err := inv.acquire(ctx, req)
		if err != nil {
			return inv.startFailed(req, err), nil
		}
		// Only now: events in memory are bounded by the instances that run them.
		if err = inv.checkOut(ctx, &req, &event); err != nil {
			inv.logOf(req).Error("payload lost", telemetry.KeyError, err)
			inv.release(in)
			return wire.InvokeReply{Error: wire.AsError(err)}, nil
		}
		reply, result, err := inv.runOn(ctx, in, cold, req, event)
		if !errors.Is(err, runtimeapi.ErrNotDelivered) {
			return reply, result
		}
		inv.logOf(req).Warn("instance had died unseen; trying another", telemetry.KeyInstance, string(in.id))
	}
	return wire.InvokeReply{Error: wire.Errorf(wire.CodeNoInstance, "instances die before they take the event")}, nil
}

// checkOut fetches a call's event that was too large for a message, once. An accepted
// event may be larger still: it is read on its way to the function.
func (inv *Invoker) checkOut(ctx context.Context, req *wire.InvokeRequest, event *runtimeapi.Event) (err error) {
	if req.PayloadKey == "" {
		return nil
	}
	bounded, cancel := context.WithTimeout(ctx, storeBound)
	defer cancel()
	if req.Event {
		event.Open, event.Size, err = inv.openPayload(ctx, bounded, req.PayloadKey)
	} else {
		event.Payload, err = inv.deps.Store.GetBytes(bounded, req.PayloadKey, wire.MaxEvent)
	}
	if errors.Is(err, blob.ErrNotFound) {
		return wire.Errorf(wire.CodeInternal, "the event could not be fetched: %s", err)
	}
	if err != nil { // nothing ran
		return wire.Errorf(wire.CodeUnavailable, "the event could not be fetched: %s", err)
	}
	req.PayloadKey = ""
	return nil
}

// runOn runs the event on an instance that is busy with it.
func (inv *Invoker) runOn(ctx context.Context, in *instance, cold bool, req wire.InvokeRequest, event runtimeapi.Event) (wire.InvokeReply, []byte, error) {
	if req.Event && in.keepsFiles() && !in.version.Spec.Output.Store {
		inv.clearOutput(in) // of calls whose files nobody keeps
	}
	begun := time.Now()
	took := inv.taker(in, req, &event)
	result, reusable, err := in.invoke(ctx, event, took, func() { inv.retireSoon(in, goneTimeout) })
	switch {
	case !errors.Is(err, runtimeapi.ErrNotDelivered):
	case cold: // another one would end like this one
		err = in.exitError(req.Invocation)
	default:
		inv.retireSoon(in, goneEnded)
		return wire.InvokeReply{}, nil, err
	}
	reply := wire.InvokeReply{
		Instance: in.id, Cold: cold, RunMicros: time.Since(begun).Microseconds(),
		Streamed: took.streamed, ContentType: took.contentType, Pieces: took.pieces,
	}
	if cold {
		reply.InitMicros = in.initTook.Microseconds()
	}
	record := wire.Record{
		Invocation: req.Invocation, Version: req.Version, State: wire.StateSucceeded,
		Node: inv.cfg.Node, Instance: in.id, Cold: cold, StartedAt: begun,
		InitMicros: reply.InitMicros, RunMicros: reply.RunMicros, Cause: req.Cause,
	}
	if req.Event || in.version.Spec.Output.Store {
		var clean bool
		record.Output, clean, err = inv.keepOutput(ctx, in, took.kept(result), reusable, err)
		reusable = reusable && clean
	}
	if reusable {
		reply.Spent = !inv.release(in)
	} else {
		reply.Spent = true
		inv.retireSoon(in, goneEnded)
	}
	if err != nil {
		reply.Error, result = inv.runFailed(err), nil
		record.State, record.Error = wire.StateFailed, reply.Error
		inv.logOf(req).Warn("invocation failed", telemetry.KeyCode, string(reply.Error.Code), telemetry.KeyError, reply.Error.Message,
			telemetry.KeyInstance, string(in.id))
	} else if inv.log.Enabled(ctx, slog.LevelDebug) {
		inv.logOf(req).Debug("invocation done", telemetry.KeyInstance, string(in.id), "cold", cold, "run_us", reply.RunMicros)
	}
	record.EndedAt = time.Now()
	if req.Event {
		reply.Output = record.Output
	} else if e := inv.record(ctx, record); e != nil {
		inv.logOf(req).Error("record lost", telemetry.KeyError, e)
	}
	inv.metrics.observe(reply, in.version.Spec.Runtime)
	inv.metrics.ran.add(in.version.VersionID, reply, record.EndedAt)
	return reply, result, nil
}

// runFailed turns a failure of an event that ran into an answer.
func (inv *Invoker) runFailed(err error) *wire.Error {
	switch {
	case errors.Is(err, errCancelled):
		return cancelled()
	case errors.Is(err, errStopped):
		stopped := wire.Errorf(wire.CodeUnavailable, "node %s was stopped while the function ran", inv.cfg.Node)
		stopped.Retryable = false // by us: it ran
		return stopped
	case errors.Is(err, errGivenUp):
		return mayHaveRun("node %s was given up while the function ran, and killed it", inv.cfg.Node)
	}
	return wire.AsError(err)
}

// startFailed turns a failure before the function ran into an answer.
func (inv *Invoker) startFailed(req wire.InvokeRequest, err error) wire.InvokeReply {
	if wire.HasCode(err, wire.CodeNoInstance) {
		return wire.InvokeReply{Error: wire.AsError(err)}
	}
	var e *wire.Error
	switch {
	case errors.Is(err, errCancelled):
		e = cancelled()
	case errors.As(err, &e):
	case errors.Is(err, errGivenUp):
		e = wire.Errorf(wire.CodeUnavailable, "node %s was given up before the function ran", inv.cfg.Node)
	case inv.ctx.Err() != nil:
		e = wire.Errorf(wire.CodeUnavailable, "node %s is being stopped", inv.cfg.Node)
	case errors.Is(err, sandbox.ErrUnavailable):
		e = wire.Errorf(wire.CodeUnavailable, "node %s cannot start containers: %s", inv.cfg.Node, err)
	case errors.Is(err, errStemEnded), errors.Is(err, sandbox.ErrEnded): // nothing of the function ran
		e = wire.Errorf(wire.CodeUnavailable, "node %s: containers end before they have their function: %s", inv.cfg.Node, err)
	default:
		e = wire.Errorf(wire.CodeInternal, "node %s could not start the function: %s", inv.cfg.Node, err)
	}
	inv.logOf(req).Warn("start failed", telemetry.KeyCode, string(e.Code), telemetry.KeyError, err)
	reply := wire.InvokeReply{Error: e, Cold: true}
	inv.metrics.observe(reply, "")
	inv.metrics.ran.add(req.Version, reply, time.Now())
	if !e.Retryable && !req.Event && !req.Start {
		now := time.Now()
		if err := inv.record(inv.ctx, wire.Record{
			Invocation: req.Invocation, Version: req.Version, State: wire.StateFailed, Node: inv.cfg.Node,
			Cold: true, StartedAt: now, EndedAt: now, Error: e, Cause: req.Cause,
		}); err != nil {
			inv.logOf(req).Error("record lost", telemetry.KeyError, err)
		}
	}
	return reply
}

// keepOutput stores the result and the files of an invocation that succeeded, and
// empties the folder of an instance that runs on. clean says whether it is empty.
func (inv *Invoker) keepOutput(ctx context.Context, in *instance, result kept, reusable bool, failure error) (out *wire.Output, clean bool, err error) {
	if failure != nil && !reusable {
		return nil, false, failure
	}
	bounded, cancel := context.WithTimeout(ctx, storeBound)
	defer cancel()
	if !in.keepsFiles() {
		if failure == nil {
			out, err = storeResult(bounded, inv.deps.Store, in.version.FunctionID, result)
			failure = inv.noteStored(ctx, err)
		}
		return out, true, failure
	}
	dir, err := in.container.OpenDir(outputRoot)
	if err != nil {
		if failure == nil {
			failure = fmt.Errorf("the output folder could not be opened: %w", err)
		}
		return nil, false, failure
	}
	defer dir.Close()
	if err = failure; err == nil {
		out, err = storeOutput(bounded, inv.deps.Store, dir, in.version.FunctionID, result)
		err = inv.noteStored(ctx, err)
	}
	return out, reusable && clearFolder(dir), err
}

// noteStored notes how it went to store what a function left, and returns why it did not
// go well: the cause, where the call ended meanwhile. Neither that nor what the function
// did wrong is S3's fault.
func (inv *Invoker) noteStored(ctx context.Context, err error) error {
	if err == nil {
		return nil
	}
	if _, functions := errors.AsType[*wire.Error](err); functions || errors.Is(err, blob.ErrSource) {
		return err
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	inv.stores.failed(time.Now())
	return err
}

// clearOutput empties the output folder of an instance. What it fails to remove is
// taken for the next invocation's.
func (inv *Invoker) clearOutput(in *instance) {
	dir, err := in.container.OpenDir(outputRoot)
	if err != nil {
		return // keepOutput says so
	}
	defer dir.Close()
	clearFolder(dir)
}
