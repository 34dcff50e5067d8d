package gateway

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"strings"
	"sync"
	"time"

	"github.com/dayfly-run/dayfly/functions"
	"github.com/dayfly-run/dayfly/internal/bus"
	"github.com/dayfly-run/dayfly/internal/intake"
	"github.com/dayfly-run/dayfly/internal/telemetry"
	"github.com/dayfly-run/dayfly/wire"
)

// maxFunctionCalls bounds the calls of functions that this gateway works on at once.
const maxFunctionCalls = 4096

// heardCall takes what a function asks of a gateway; see [wire.CallRequest].
func (g *Gateway) heardCall(m bus.Msg) {
	var req wire.CallRequest
	payload, err := wire.ParseFrame(m.Data, &req)
	switch {
	case err != nil:
		err = wire.Errorf(wire.CodeInternal, "%s", err)
	case g.isDraining():
		err = wire.Errorf(wire.CodeUnavailable, "the gateway is being stopped")
	default:
		select {
		case g.functionCalls <- struct{}{}:
		default:
			err = wire.Errorf(wire.CodeThrottled, "the gateway works on %d calls of functions", maxFunctionCalls)
		}
	}
	taken, failed := wire.AppendFrame(nil, wire.CallReply{ID: req.ID, Error: wire.AsError(err)}, nil)
	if failed == nil {
		failed = m.Respond(taken)
	}
	if failed != nil {
		g.log.Error("answer to a function's call lost", telemetry.KeyError, failed)
	}
	if err != nil {
		return
	}
	g.serving.Go(func() {
		defer func() { <-g.functionCalls }()
		g.serveCall(req, payload)
	})
}

// serveCall does what a function asks for and says what came of it.
func (g *Gateway) serveCall(req wire.CallRequest, payload []byte) {
	patience, cancel := context.WithTimeout(g.calls, time.Duration(req.PatienceMillis)*time.Millisecond)
	defer cancel()
	ended := make(chan struct{})
	var beating sync.WaitGroup
	beating.Go(func() { g.beat(patience, req, ended) })
	reply, body, err := g.call(patience, req, payload)
	close(ended)
	beating.Wait() // the outcome is the last word
	reply.ID, reply.Error = req.ID, wire.AsError(err)
	if err == nil && len(body) > g.maxInline() {
		reply.PayloadKey = wire.ResponseKey(req.ID)
		if err := g.deps.Store.PutBytes(g.calls, reply.PayloadKey, body, cmp.Or(reply.ContentType, "application/json")); err != nil {
			reply.PayloadKey, reply.Error = "", wire.Errorf(wire.CodeInternal, "the result could not be handed over: %s", err)
		}
		body = nil
	}
	g.tellNode(req, reply, body)
}

// beat says that a call is worked on, until it has ended or nobody waits any more.
func (g *Gateway) beat(patience context.Context, req wire.CallRequest, ended <-chan struct{}) {
	tick := time.NewTicker(wire.CallBeatEvery)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			g.tellNode(req, wire.CallReply{ID: req.ID, Beat: true}, nil)
		case <-ended:
			return
		case <-patience.Done():
			return
		}
	}
}

func (g *Gateway) tellNode(req wire.CallRequest, reply wire.CallReply, body []byte) {
	frame, err := wire.AppendFrame(make([]byte, 0, 256+len(body)), reply, body)
	if err == nil {
		err = g.deps.Conn.Publish(wire.NodeCallSubject(req.Node), frame)
	}
	if err != nil { // the node gives the call up after a while
		g.log.Error("answer to a function's call lost", telemetry.KeyNode, string(req.Node), telemetry.KeyError, err)
	}
}

// maxInline is the largest body that fits into a message with its frame, in bytes.
func (g *Gateway) maxInline() int { return g.deps.Conn.MaxPayload() - wire.FrameHeadroom }

// call does what a function asks for. Its error is a [*wire.Error].
func (g *Gateway) call(patience context.Context, req wire.CallRequest, payload []byte) (wire.CallReply, []byte, error) {
	if req.Depth > wire.MaxEventDepth {
		return wire.CallReply{}, nil, wire.Errorf(wire.CodeInvalid,
			"it would be the last of %d steps from function to function: a loop; look at what %s calls and publishes", req.Depth, req.Caller.FunctionID)
	}
	if req.Subject != "" {
		return wire.CallReply{}, nil, g.publish(patience, req, payload)
	}
	ref, err := refFrom(req.Ref, req.Caller.Namespace)
	if err != nil {
		return wire.CallReply{}, nil, err
	}
	_, v, err := g.resolve(ref.String())
	if err != nil {
		return wire.CallReply{}, nil, err
	}
	if req.PayloadKey == "" && !json.Valid(payload) {
		return wire.CallReply{}, nil, wire.Errorf(wire.CodeInvalid, "the event for %s is no JSON: it begins with %.40q", ref, payload)
	}
	if req.Async {
		return g.acceptCall(patience, req, ref, payload)
	}
	return g.runCall(patience, req, v, payload)
}

// refFrom reads a reference as a function of a namespace means it: one that names no
// namespace is of the same.
func refFrom(text, namespace string) (wire.Ref, error) {
	base, qualifier, qualified := strings.Cut(text, ":")
	if !strings.Contains(base, ".") {
		base += "." + namespace
	}
	if qualified {
		base += ":" + qualifier
	}
	ref, err := wire.ParseRef(base)
	if err != nil {
		return ref, wire.Errorf(wire.CodeInvalid, "%s", err)
	}
	return ref, nil
}

// runCall runs a function for another one. When nobody waits any more it gives up waiting
// for an instance; a function that runs goes on, as with any caller who leaves.
func (g *Gateway) runCall(patience context.Context, req wire.CallRequest, v functions.Version, payload []byte) (wire.CallReply, []byte, error) {
	id, err := intake.NewID()
	if err != nil {
		return wire.CallReply{}, nil, err
	}
	call := callOf(id, v)
	call.Payload, call.PayloadKey, call.Gone = payload, req.PayloadKey, patience.Done()
	call.Cause, call.Depth = req.Cause, req.Depth
	begun := time.Now()
	result, err := g.dispatcher.Invoke(g.calls, call)
	g.metrics.observe(err, time.Since(begun))
	if err != nil {
		g.log.Warn("call of a function failed", telemetry.KeyInvocation, string(id), telemetry.KeyFunction, v.String(),
			telemetry.KeyError, err, "caller", req.Caller.String(), "cause", string(req.Cause))
	}
	return wire.CallReply{Invocation: id, ContentType: cmp.Or(result.Reply.ContentType, "application/json")}, result.Body, err
}

// acceptCall takes an event of a function for another one.
func (g *Gateway) acceptCall(ctx context.Context, req wire.CallRequest, ref wire.Ref, payload []byte) (wire.CallReply, []byte, error) {
	request := intake.Request{
		Event:   wire.Event{Ref: ref.String(), Source: wire.SourceFunction, Cause: req.Cause, Depth: req.Depth},
		Payload: payload, Key: req.Key,
	}
	if req.PayloadKey != "" { // that of the node, which removes it
		object, err := g.deps.Store.Get(ctx, req.PayloadKey)
		if err != nil {
			return wire.CallReply{}, nil, wire.Errorf(wire.CodeUnavailable, "the event could not be fetched: %s", err)
		}
		defer func() { _ = object.Close() }()
		request.Body = object
	}
	accepted, err := g.deps.Intake.Accept(ctx, request)
	if err != nil {
		return wire.CallReply{}, nil, err
	}
	g.metrics.accepted.Inc()
	return wire.CallReply{Invocation: accepted.Invocation}, nil, nil
}

// publish puts a function's message where a stream keeps its subject, and gives it to
// those who listen now where none does.
func (g *Gateway) publish(ctx context.Context, req wire.CallRequest, payload []byte) error {
	switch {
	case !wire.ValidSubject(req.Subject):
		return wire.Errorf(wire.CodeInvalid, "%.255q is not a subject to publish on; write words with dots between them, as orders.failed, without spaces, * and >", req.Subject)
	case functions.SystemSubject(req.Subject):
		return wire.Errorf(wire.CodeInvalid, "subject %s belongs to the system; publish on one of your own", req.Subject)
	}
	err := g.deps.Conn.Announce(ctx, bus.Message{
		Subject: req.Subject, ID: string(req.ID), Data: payload,
		Headers: wire.CauseHeaders(req.Cause, req.Depth),
	})
	switch {
	case errors.Is(err, bus.ErrFull):
		return wire.Errorf(wire.CodeThrottled, "the stream of %s is full; publish again later", req.Subject)
	case err != nil:
		return wire.Errorf(wire.CodeUnavailable, "the message could not be published: %s", err)
	}
	return nil
}
