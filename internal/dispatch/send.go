package dispatch

import (
	"context"
	"errors"
	"time"

	"github.com/dayfly-run/dayfly/internal/bus"
	"github.com/dayfly-run/dayfly/wire"
)

// lostGrace is what a call may take beyond its function's time once the connection to
// NATS was lost.
const lostGrace = time.Second

// send asks one node to run the event.
func (d *Dispatcher) send(ctx context.Context, s ride, req wire.InvokeRequest, call *Call) (result Result, err error) {
	how := dead
	defer func() { d.admission.done(s, how, result.Reply.StateSeq) }()
	ctx, stop := context.WithTimeout(ctx, call.Timeout+wire.InitTimeout+grace)
	defer stop()
	callCtx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	//nolint:contextcheck // the node's life ends the call as well
	defer context.AfterFunc(s.node.lost, func() { cancel(errNodeLost) })()
	// Question or answer may have been lost with the connection. A function that runs is
	// given its time nevertheless: its answer comes over the next one.
	defer d.conn.OnLost(func() {
		timer := time.NewTimer(call.Timeout + lostGrace)
		defer timer.Stop()
		select {
		case <-timer.C:
			cancel(errAnswerLost)
		case <-callCtx.Done():
		}
	})()
	defer d.watch(callCtx, s.node.id, &req, call.Timeout, cancel)()
	result.Reply, result.Body, err = d.ask(callCtx, s.node.id, req, call.Payload)
	if err != nil {
		never := errors.Is(context.Cause(callCtx), errNeverCame)
		if never {
			how = unused
		}
		call.Place.Again = never || errors.Is(err, bus.ErrNoResponders)
		why := *wire.AsError(d.unanswered(callCtx, s.slot, err))
		// Without an event nothing ran, and one instance too many does no harm.
		why.Retryable = why.Retryable || call.Start && why.Code == wire.CodeUnavailable
		return result, &why
	}
	e := result.Reply.Error
	// A function that failed by itself leaves its instance alive.
	if !result.Reply.Spent && (e == nil || e.Code == wire.CodeFunctionError && result.Reply.Instance != "") {
		how = alive
	}
	if e != nil {
		if result.Reply.Instance != "" && e.Retryable {
			ran := *e // an instance had the event, whatever else went wrong
			ran.Retryable = false
			return result, &ran
		}
		return result, e
	}
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
	if e, ok := errors.AsType[*wire.Error](err); ok {
		return e
	}
	switch {
	case errors.Is(err, bus.ErrNoResponders):
		return wire.Errorf(wire.CodeUnavailable, "node %s does not take invocations", id)
	case errors.Is(context.Cause(ctx), errNeverCame):
		return wire.Errorf(wire.CodeUnavailable, "node %s: %s", id, errNeverCame)
	case errors.Is(context.Cause(ctx), errNodeLost):
		e := wire.Errorf(wire.CodeUnavailable, "node %s was lost while it had the event, which may have run", id)
		e.Retryable = false // not by us: it may have run
		return e
	case errors.Is(context.Cause(ctx), errCallLost), errors.Is(context.Cause(ctx), errNoWord):
		e := wire.Errorf(wire.CodeUnavailable, "node %s: %s; it may have run", id, context.Cause(ctx))
		e.Retryable = false
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
