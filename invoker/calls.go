package invoker

import (
	"bytes"
	"context"
	"errors"
	"io"
	"sync"
	"time"

	"github.com/google/uuid"

	"github.com/dayfly-run/dayfly/internal/blob"
	"github.com/dayfly-run/dayfly/internal/bus"
	"github.com/dayfly-run/dayfly/internal/telemetry"
	"github.com/dayfly-run/dayfly/invoker/runtimeapi"
	"github.com/dayfly-run/dayfly/wire"
)

// answers are those that calls of the node's functions wait for, by the call.
type answers struct {
	mu      sync.Mutex // guards what follows
	waiting map[wire.InvocationID]chan callAnswer
}

type callAnswer struct {
	reply wire.CallReply
	body  []byte
}

// expect returns where the answers to a call come; end forgets it.
func (a *answers) expect(id wire.InvocationID) (came <-chan callAnswer, end func()) {
	ch := make(chan callAnswer, 1)
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.waiting == nil {
		a.waiting = map[wire.InvocationID]chan callAnswer{}
	}
	a.waiting[id] = ch
	return ch, func() {
		a.mu.Lock()
		defer a.mu.Unlock()
		delete(a.waiting, id)
	}
}

// heard passes an answer on. Of what nobody has taken yet the newest one counts: an
// outcome comes after all beats.
func (a *answers) heard(got callAnswer) {
	a.mu.Lock()
	defer a.mu.Unlock()
	ch := a.waiting[got.reply.ID]
	if ch == nil {
		return
	}
	select {
	case <-ch:
	default:
	}
	ch <- got // there is room: nobody else sends
}

func (inv *Invoker) heardCall(m bus.Msg) {
	var got callAnswer
	var err error
	if got.body, err = wire.ParseFrame(m.Data, &got.reply); err != nil {
		inv.log.Error("answer to a call refused", telemetry.KeyError, err)
		return
	}
	inv.answers.heard(got)
}

// reach asks a gateway for what a function of this node wants.
func (inv *Invoker) reach(ctx context.Context, caller wire.VersionID, o runtimeapi.Outward) (runtimeapi.Inward, error) {
	req := wire.CallRequest{
		ID: wire.InvocationID(uuid.NewString()), Node: inv.cfg.Node, Caller: caller, Cause: o.Cause, Depth: o.Depth + 1,
		Ref: o.Ref, Async: o.Async, Key: o.Key, Subject: o.Subject, PatienceMillis: time.Until(o.Deadline).Milliseconds(),
	}
	body, err := inv.readOutward(ctx, &req, o)
	if req.PayloadKey != "" {
		defer inv.dropClaim(req.PayloadKey)
	}
	if err != nil {
		return runtimeapi.Inward{}, err
	}
	got, err := inv.askGateway(ctx, req, body)
	if err != nil {
		return runtimeapi.Inward{}, err
	}
	in := runtimeapi.Inward{Invocation: got.reply.Invocation, ContentType: got.reply.ContentType}
	if key := got.reply.PayloadKey; key != "" {
		object, err := inv.deps.Store.Get(ctx, key)
		if err != nil {
			inv.dropClaim(key)
			return in, wire.Errorf(wire.CodeInternal, "the result could not be fetched: %s", err)
		}
		in.Body, in.Size = &claimed{object, func() { inv.dropClaim(key) }}, object.Size
		return in, nil
	}
	in.Body, in.Size = io.NopCloser(bytes.NewReader(got.body)), int64(len(got.body))
	return in, nil
}

// readOutward reads what a function sends: into memory, or, where it is too large for a
// message, into S3 on its way.
func (inv *Invoker) readOutward(ctx context.Context, req *wire.CallRequest, o runtimeapi.Outward) ([]byte, error) {
	inline := inv.maxInline()
	body, err := io.ReadAll(io.LimitReader(o.Body, int64(inline)+1))
	if err == nil && len(body) > inline {
		if o.Subject != "" {
			return nil, wire.Errorf(wire.CodeTooLarge, "the message is over %d bytes; put large data into S3 and publish its key", inline)
		}
		req.PayloadKey = wire.RequestKey(req.ID)
		err = inv.storeOutward(ctx, req.PayloadKey, io.MultiReader(bytes.NewReader(body), o.Body))
		body = nil
	}
	switch {
	case err == nil:
		return body, nil
	case errors.Is(err, runtimeapi.ErrBodyTooLarge):
		return nil, wire.Errorf(wire.CodeTooLarge, "the event is over %d bytes; put large data into S3 and send its key", o.Limit)
	case ctx.Err() != nil:
		return nil, wire.Errorf(wire.CodeUnavailable, "the call was given up: %s", context.Cause(ctx))
	case req.PayloadKey != "" && !errors.Is(err, blob.ErrSource):
		return nil, wire.Errorf(wire.CodeUnavailable, "the event could not be stored: %s", err)
	}
	return nil, wire.Errorf(wire.CodeInvalid, "the event could not be read: %s", err)
}

func (inv *Invoker) storeOutward(ctx context.Context, key string, body io.Reader) error {
	select {
	case inv.uploads <- struct{}{}:
		defer func() { <-inv.uploads }()
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	return inv.deps.Store.PutStream(ctx, key, body, "application/octet-stream")
}

// askGateway has a gateway do what a function wants, and waits for the outcome.
func (inv *Invoker) askGateway(ctx context.Context, req wire.CallRequest, body []byte) (callAnswer, error) {
	frame, err := wire.AppendFrame(make([]byte, 0, 512+len(body)), req, body)
	if err != nil {
		return callAnswer{}, wire.AsError(err)
	}
	came, end := inv.answers.expect(req.ID)
	defer end()
	if err := inv.deliverCall(ctx, frame); err != nil {
		return callAnswer{}, err
	}
	silence := time.NewTimer(wire.CallLostAfter)
	defer silence.Stop()
	for {
		select {
		case got := <-came:
			switch {
			case got.reply.Beat:
				silence.Reset(wire.CallLostAfter)
			case got.reply.Error != nil:
				return got, got.reply.Error
			default:
				return got, nil
			}
		case <-silence.C:
			return callAnswer{}, mayHaveRun("the gateway was lost with the call, which may have run: call again if that does no harm")
		case <-ctx.Done():
			return callAnswer{}, mayHaveRun("the call was given up, and may go on: %s", context.Cause(ctx))
		}
	}
}

// deliverCall gives a call to a gateway.
func (inv *Invoker) deliverCall(ctx context.Context, frame []byte) error {
	bounded, cancel := context.WithTimeout(ctx, wire.CallLostAfter)
	defer cancel()
	data, err := inv.deps.Conn.Request(bounded, wire.CallSubject, frame)
	var taken wire.CallReply
	if err == nil {
		_, err = wire.ParseFrame(data, &taken)
	}
	switch {
	case errors.Is(err, bus.ErrNoResponders):
		return wire.Errorf(wire.CodeUnavailable, "no gateway answers")
	case err != nil:
		return mayHaveRun("no gateway says that it has the call, which may run nevertheless: %s", err)
	case taken.Error != nil:
		return taken.Error
	}
	return nil
}

// mayHaveRun is the error of a call of which nobody knows whether it ran: only the caller
// may try again.
func mayHaveRun(format string, args ...any) *wire.Error {
	e := wire.Errorf(wire.CodeUnavailable, format, args...)
	e.Retryable = false
	return e
}

// dropClaim removes a claim check. What stays, the sweep takes.
func (inv *Invoker) dropClaim(key string) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(inv.ctx), storeBound)
	defer cancel()
	if err := inv.deps.Store.Delete(ctx, key); err != nil {
		inv.log.Warn("claim check left behind", "key", key, telemetry.KeyError, err)
	}
}

// claimed is a claim check being read, which is removed afterwards.
type claimed struct {
	io.ReadCloser

	drop func()
}

func (c *claimed) Close() error {
	err := c.ReadCloser.Close()
	c.drop()
	return err
}
