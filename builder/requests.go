package builder

import (
	"context"
	"encoding/json"
	"errors"
	"time"

	"github.com/dayfly-run/dayfly/internal/bus"
	"github.com/dayfly-run/dayfly/internal/telemetry"
	"github.com/dayfly-run/dayfly/wire"
)

// request is one of those that wait.
type request struct {
	bus.Msg
	out *report // nil for what is no build
}

// enqueue hands a request to the workers.
func (b *Builder) enqueue(m bus.Msg) {
	r := request{Msg: m}
	if m.Subject == wire.BuildSubject {
		r.out = newReport(b.ctx, b.deps.Conn, m.Reply(), b.log)
	}
	if err := b.push(r); err != nil {
		b.giveBack(r, err)
	}
}

func (b *Builder) push(r request) *wire.Error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.stopping {
		return wire.Errorf(wire.CodeUnavailable, "%s", errStopping)
	}
	select {
	case b.queue <- r:
		return nil
	default:
		return wire.Errorf(wire.CodeThrottled, "%d builds are waiting already; try again in a while", maxQueued)
	}
}

// giveBack ends a request that was not begun: a build is another builder's.
func (b *Builder) giveBack(r request, e *wire.Error) {
	b.builds.WithLabelValues(string(e.Code)).Observe(0)
	if r.out != nil {
		r.out.close(wire.BuildProgress{Again: true})
		return
	}
	b.answer(r.Msg, wire.RebuildReply{Error: e})
}

// serve does one build and tells its requester of it.
func (b *Builder) serve(r request) {
	begun := time.Now()
	var req wire.BuildRequest
	var reply wire.BuildReply
	err := json.Unmarshal(r.Data, &req)
	if err != nil {
		err = wire.Errorf(wire.CodeInvalid, "malformed build request: %s", err)
	} else {
		reply, err = b.build(r.out.ctx, req, r.out)
	}
	reply.Log = r.out.printed()
	last, result := wire.BuildProgress{Reply: &reply}, "ok"
	log := b.log.With("build", req.ID)
	switch cause := context.Cause(r.out.ctx); {
	case err == nil:
		log.Info("built", "code", string(reply.Code), "bytes", reply.CodeBytes, "cached", reply.Cached, "took", time.Since(begun))
	case errors.Is(cause, errStopping):
		last, result = wire.BuildProgress{Again: true}, string(wire.CodeUnavailable)
		log.Warn("build given back", telemetry.KeyError, cause)
	default:
		reply.Error = wire.AsError(err)
		result = string(reply.Error.Code)
		log.Warn("build failed", telemetry.KeyCode, result, telemetry.KeyError, reply.Error.Message)
	}
	b.builds.WithLabelValues(result).Observe(time.Since(begun).Seconds())
	r.out.close(last)
}

func (b *Builder) answer(m bus.Msg, reply any) {
	data, err := json.Marshal(reply)
	if err == nil {
		err = m.Respond(data)
	}
	if err != nil {
		b.log.Error("answer lost", telemetry.KeyError, err)
	}
}
