package invoker

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/dayfly-run/dayfly/functions"
	"github.com/dayfly-run/dayfly/internal/blob"
	"github.com/dayfly-run/dayfly/internal/bus"
	"github.com/dayfly-run/dayfly/internal/telemetry"
	"github.com/dayfly-run/dayfly/invoker/pool"
	"github.com/dayfly-run/dayfly/invoker/runtimeapi"
	"github.com/dayfly-run/dayfly/invoker/sandbox"
	"github.com/dayfly-run/dayfly/runtimes"
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
		inv.respond(m, wire.InvokeReply{Error: wire.Errorf(wire.CodeInternal, "node %s: %s", inv.cfg.Node, err)}, nil)
		return
	}
	reply, result := inv.execute(inv.ctx, req, payload)
	reply.Node, reply.StateSeq = inv.cfg.Node, inv.stateSeq()
	if key, err := inv.checkIn(req.Invocation, result); err != nil {
		inv.logOf(req).Error("result lost", telemetry.KeyError, err)
		reply.Error, result = wire.Errorf(wire.CodeInternal, "the result could not be handed over: %s", err), nil
	} else if key != "" {
		reply.PayloadKey, result = key, nil
	}
	inv.respond(m, reply, result)
}

// logOf is the logger of one call. It is made when there is something to say: most
// calls have nothing.
func (inv *Invoker) logOf(req wire.InvokeRequest) *slog.Logger {
	return inv.log.With(telemetry.KeyInvocation, string(req.Invocation), telemetry.KeyFunction, req.Version.String())
}

// checkIn puts a result that is too large for a message into S3.
func (inv *Invoker) checkIn(id wire.InvocationID, result []byte) (key string, err error) {
	if len(result) <= inv.deps.Conn.MaxPayload()-wire.FrameHeadroom {
		return "", nil
	}
	ctx, cancel := context.WithTimeout(inv.ctx, storeBound)
	defer cancel()
	key = wire.ResponseKey(id)
	return key, inv.deps.Store.PutBytes(ctx, key, result, "application/json")
}

func (inv *Invoker) respond(m bus.Msg, reply wire.InvokeReply, result []byte) {
	frame, err := wire.AppendFrame(make([]byte, 0, 512+len(result)), reply, result)
	if err == nil {
		err = m.Respond(frame)
	}
	if err != nil {
		inv.log.Error("answer lost", telemetry.KeyError, err)
	}
}

// execute finds or starts an instance, runs the event and keeps what it left.
func (inv *Invoker) execute(ctx context.Context, req wire.InvokeRequest, payload []byte) (wire.InvokeReply, []byte) {
	for range deliveries {
		in, cold, err := inv.acquire(ctx, req)
		if err != nil {
			return inv.startFailed(req, err), nil
		}
		// Only now: events in memory are bounded by the instances that run them.
		if payload, err = inv.checkOut(ctx, &req, payload); err != nil {
			inv.logOf(req).Error("payload lost", telemetry.KeyError, err)
			inv.release(in)
			return wire.InvokeReply{Error: wire.AsError(err)}, nil
		}
		reply, result, err := inv.runOn(ctx, in, cold, req, payload)
		if !errors.Is(err, runtimeapi.ErrNotDelivered) {
			return reply, result
		}
		inv.logOf(req).Warn("instance had died unseen; trying another", telemetry.KeyInstance, string(in.id))
	}
	return wire.InvokeReply{Error: wire.Errorf(wire.CodeNoInstance, "instances die before they take the event")}, nil
}

// checkOut fetches an event that was too large for a message, once.
func (inv *Invoker) checkOut(ctx context.Context, req *wire.InvokeRequest, payload []byte) ([]byte, error) {
	if req.PayloadKey == "" {
		return payload, nil
	}
	ctx, cancel := context.WithTimeout(ctx, storeBound)
	defer cancel()
	payload, err := inv.deps.Store.GetBytes(ctx, req.PayloadKey, wire.MaxEvent)
	if errors.Is(err, blob.ErrNotFound) {
		return nil, wire.Errorf(wire.CodeInternal, "the event could not be fetched: %s", err)
	}
	if err != nil { // nothing ran
		return nil, wire.Errorf(wire.CodeUnavailable, "the event could not be fetched: %s", err)
	}
	req.PayloadKey = ""
	return payload, nil
}

// runOn runs the event on an instance that is busy with it.
func (inv *Invoker) runOn(ctx context.Context, in *instance, cold bool, req wire.InvokeRequest, payload []byte) (wire.InvokeReply, []byte, error) {
	begun := time.Now()
	result, reusable, err := in.invoke(ctx, req.Invocation, payload)
	switch {
	case !errors.Is(err, runtimeapi.ErrNotDelivered):
	case cold: // another one would end like this one
		err = in.exitError()
	default:
		inv.retireSoon(in)
		return wire.InvokeReply{}, nil, err
	}
	reply := wire.InvokeReply{Instance: in.id, Cold: cold, RunMicros: time.Since(begun).Microseconds()}
	if cold {
		reply.InitMicros = in.initTook.Microseconds()
	}
	record := wire.Record{
		Invocation: req.Invocation, Version: req.Version, State: wire.StateSucceeded,
		Node: inv.cfg.Node, Instance: in.id, Cold: cold, StartedAt: begun,
		InitMicros: reply.InitMicros, RunMicros: reply.RunMicros,
	}
	if in.version.Spec.Output.Store {
		var clean bool
		record.Output, clean, err = inv.keepOutput(ctx, in, req.Invocation, result, reusable, err)
		reusable = reusable && clean
	}
	if reusable {
		inv.release(in)
	} else {
		inv.retireSoon(in)
	}
	if err != nil {
		if errors.Is(err, errStopped) {
			stopped := wire.Errorf(wire.CodeUnavailable, "node %s was stopped while the function ran", inv.cfg.Node)
			stopped.Retryable = false // by us: it ran
			err = stopped
		}
		reply.Error, result = wire.AsError(err), nil
		record.State, record.Error = wire.StateFailed, reply.Error
		inv.logOf(req).Warn("invocation failed", telemetry.KeyCode, string(reply.Error.Code), telemetry.KeyError, reply.Error.Message,
			telemetry.KeyInstance, string(in.id))
	} else if inv.log.Enabled(ctx, slog.LevelDebug) {
		inv.logOf(req).Debug("invocation done", telemetry.KeyInstance, string(in.id), "cold", cold, "run_us", reply.RunMicros)
	}
	record.EndedAt = time.Now()
	if e := inv.record(ctx, record); e != nil {
		inv.logOf(req).Error("record lost", telemetry.KeyError, e)
	}
	inv.metrics.observe(reply, in.version.Spec.Runtime)
	return reply, result, nil
}

// startFailed turns a failure before the function ran into an answer.
func (inv *Invoker) startFailed(req wire.InvokeRequest, err error) wire.InvokeReply {
	if wire.HasCode(err, wire.CodeNoInstance) {
		return wire.InvokeReply{Error: wire.AsError(err)}
	}
	var e *wire.Error
	switch {
	case errors.As(err, &e):
	case inv.ctx.Err() != nil:
		e = wire.Errorf(wire.CodeUnavailable, "node %s is being stopped", inv.cfg.Node)
	case errors.Is(err, sandbox.ErrUnavailable):
		e = wire.Errorf(wire.CodeUnavailable, "node %s cannot start containers: %s", inv.cfg.Node, err)
	default:
		e = wire.Errorf(wire.CodeInternal, "node %s could not start the function: %s", inv.cfg.Node, err)
	}
	inv.logOf(req).Warn("start failed", telemetry.KeyCode, string(e.Code), telemetry.KeyError, err)
	reply := wire.InvokeReply{Error: e, Cold: true}
	inv.metrics.observe(reply, "")
	if !e.Retryable {
		now := time.Now()
		if err := inv.record(inv.ctx, wire.Record{
			Invocation: req.Invocation, Version: req.Version, State: wire.StateFailed, Node: inv.cfg.Node,
			Cold: true, StartedAt: now, EndedAt: now, Error: e,
		}); err != nil {
			inv.logOf(req).Error("record lost", telemetry.KeyError, err)
		}
	}
	return reply
}

// acquire gives the call an instance that is busy with it: a warm one, or with a
// lease a new one.
func (inv *Invoker) acquire(ctx context.Context, req wire.InvokeRequest) (in *instance, cold bool, err error) {
	defer inv.settle(req.Lease)
	inv.mu.Lock()
	if inv.draining {
		inv.mu.Unlock()
		return nil, false, wire.Errorf(wire.CodeNoCapacity, "node %s is draining", inv.cfg.Node)
	}
	if id, ok := inv.pool.Take(req.Version, time.Now()); ok {
		in := inv.instances[id]
		inv.mu.Unlock()
		return in, false, nil
	}
	stale := req.Epoch < inv.epoch
	inv.epoch = max(inv.epoch, req.Epoch)
	inv.mu.Unlock()
	switch {
	case req.Lease == "":
		return nil, false, wire.Errorf(wire.CodeNoInstance, "node %s has no free instance", inv.cfg.Node)
	case stale:
		return nil, false, wire.Errorf(wire.CodeUnavailable, "the lease is from a scheduler that no longer leads")
	}
	in, err = inv.startInstance(ctx, req)
	return in, true, err
}

// startInstance makes an instance for a call: a stem is bound to the version. One
// that dies on the way is replaced.
func (inv *Invoker) startInstance(ctx context.Context, req wire.InvokeRequest) (in *instance, err error) {
	begun := time.Now()
	v, err := inv.deps.Registry.Version(ctx, req.Version)
	if err != nil {
		return nil, err
	}
	rt, ok := runtimes.Lookup(v.Spec.Runtime)
	if !ok {
		return nil, wire.Errorf(wire.CodeInvalid, "runtime %q is not known to node %s; upgrade the node", v.Spec.Runtime, inv.cfg.Node)
	}
	for range deliveries {
		if in, err = inv.stems.get(ctx, rt, v.Spec.Network); err != nil {
			return nil, err
		}
		if err = inv.adopt(ctx, in, v, req); !errors.Is(err, errStemEnded) {
			break
		}
		inv.logOf(req).Warn("a container died before it had its function; trying another", telemetry.KeyInstance, string(in.id))
	}
	if err != nil {
		return nil, err
	}
	in.initTook = time.Since(begun)
	inv.report()
	inv.watchers.Go(func() { inv.retireWhenEnded(in) })
	inv.logOf(req).Info("instance started", telemetry.KeyInstance, string(in.id), "took", in.initTook)
	return in, nil
}

// adopt reserves what an instance needs, binds the stem to the version and makes it
// busy with the call. On error nothing is left of it.
func (inv *Invoker) adopt(ctx context.Context, in *instance, v functions.Version, req wire.InvokeRequest) error {
	if err := inv.reserve(ctx, in.id, v, req.Lease); err != nil {
		inv.stems.discard(in)
		return err
	}
	inv.report()
	err := inv.bindCode(ctx, in, v, req.Invocation)
	if err == nil {
		inv.mu.Lock()
		inv.instances[in.id] = in
		err = inv.pool.Move(in.id, pool.Busy, time.Now())
		inv.mu.Unlock()
	}
	if err != nil {
		inv.stems.discard(in)
		if in.releaseCode != nil {
			in.releaseCode()
		}
		inv.forget(in.id)
	}
	return err
}

// bindCode binds a stem to code that stays in the cache as long as it runs.
func (inv *Invoker) bindCode(ctx context.Context, in *instance, v functions.Version, first wire.InvocationID) (err error) {
	dir, release, err := inv.codes.hold(ctx, v.Code)
	if err != nil {
		return err
	}
	in.releaseCode = release
	return in.bind(ctx, v, dir, first)
}

// reserve enters a new instance into the pool, evicting idle ones where it must. At
// the same moment the lease is settled: no word of the node has both or none.
func (inv *Invoker) reserve(ctx context.Context, id wire.InstanceID, v functions.Version, lease wire.LeaseID) error {
	needs := v.Spec.Needs()
	for {
		inv.mu.Lock()
		err := inv.pool.Add(id, v.VersionID, needs, time.Now())
		if !errors.Is(err, pool.ErrNoRoom) {
			inv.settleLocked(lease)
			inv.mu.Unlock()
			return err
		}
		victims, ok := inv.pool.Evictable(needs)
		evicted := make([]*instance, 0, len(victims))
		for _, victim := range victims {
			if in := inv.instances[victim]; inv.withdrawLocked(in) {
				evicted = append(evicted, in)
			}
		}
		freed := inv.freed
		inv.mu.Unlock()
		if !ok {
			return wire.Errorf(wire.CodeNoCapacity, "node %s has no room for %d MiB and %d.%03d cores",
				inv.cfg.Node, needs.MemoryBytes>>20, needs.CPUMillis/1000, needs.CPUMillis%1000)
		}
		for _, in := range evicted {
			go inv.remove(in)
		}
		select { // those that are being removed make the room
		case <-freed:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// keepOutput stores the result and the files of an invocation that succeeded, and
// empties the folder of an instance that runs on. clean says whether it is empty.
func (inv *Invoker) keepOutput(ctx context.Context, in *instance, id wire.InvocationID, result []byte, reusable bool, failure error) (out *wire.Output, clean bool, err error) {
	if failure != nil && !reusable {
		return nil, false, failure
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
		ctx, cancel := context.WithTimeout(ctx, storeBound)
		defer cancel()
		out, err = storeOutput(ctx, inv.deps.Store, dir, in.version.FunctionID, id, result)
	}
	return out, reusable && clearFolder(dir), err
}
