package gateway

import (
	"context"
	"encoding/json"
	"errors"
	"time"

	"github.com/dayfly-run/dayfly/internal/bus"
	"github.com/dayfly-run/dayfly/internal/telemetry"
	"github.com/dayfly-run/dayfly/wire"
)

const (
	// buildTimeout bounds a build, with the wait for a builder that has room.
	buildTimeout = 10 * time.Minute
	// maxBuilders bounds the builders that may be lost with one build: what ends three
	// of them is the bundle's fault.
	maxBuilders = 3
	// askAgainMin and askAgainMax bound the growing pause before a build is offered
	// again that no builder had room for.
	askAgainMin, askAgainMax = 20 * time.Millisecond, time.Second
	// builderBackWithin is how long one may take to come back when the last was lost.
	builderBackWithin = 10 * time.Second
)

// errAgain: the builder did not take the build, or stopped.
var errAgain = errors.New("the builder gave the build back")

// build has a bundle built. What the build prints goes to log piece by piece while it
// runs, in this goroutine; the reply holds it whole, up to a bound. When its builder is
// lost, another one takes the build: artifacts are named by their content, so that
// building twice does no harm. It ends with ctx, and the builder hears of it.
func (g *Gateway) build(ctx context.Context, req wire.BuildRequest, log func(string)) (reply wire.BuildReply, err error) {
	ctx, cancel := context.WithTimeoutCause(ctx, buildTimeout,
		wire.Errorf(wire.CodeThrottled, "no builder had room for %s; start more of them, or try again later", buildTimeout))
	defer cancel()
	data, err := json.Marshal(req)
	if err != nil {
		return reply, wire.AsError(err)
	}
	pause, lost := askAgainMin, 0
	var waitUntil time.Time // for a builder to come back
	for {
		reply, err = g.askToBuild(ctx, data, log)
		switch {
		case err == nil:
			return reply, nil
		case errors.Is(err, bus.ErrSilent):
			if lost++; lost == maxBuilders {
				return reply, wire.Errorf(wire.CodeUnavailable, "%d builders fell silent with this build; see their logs, then try again", lost)
			}
			g.log.Warn("a builder fell silent; the build is offered to another", "build", req.ID, telemetry.KeyError, err)
			log("\n[dayfly: the builder was lost; another one begins anew]\n")
			pause, waitUntil = askAgainMin, time.Now().Add(builderBackWithin)
		case errors.Is(err, errAgain):
			waitUntil = time.Now().Add(builderBackWithin)
		case errors.Is(err, bus.ErrNoResponders) && time.Now().Before(waitUntil):
		case errors.Is(err, bus.ErrNoResponders):
			return reply, wire.Errorf(wire.CodeUnavailable, "no builder is connected; start one with `dayfly builder`")
		default:
			return reply, err
		}
		select {
		case <-time.After(pause):
			pause = min(2*pause, askAgainMax)
		case <-ctx.Done():
			return reply, buildEnded(ctx)
		}
	}
}

// askToBuild offers the build to one builder and follows it to its end.
func (g *Gateway) askToBuild(ctx context.Context, data []byte, log func(string)) (wire.BuildReply, error) {
	answers, err := g.deps.Conn.Ask(wire.BuildSubject, data)
	if err != nil {
		return wire.BuildReply{}, wire.Errorf(wire.CodeUnavailable, "the builders cannot be reached: %s", err)
	}
	defer answers.Close()
	for {
		m, err := answers.Next(ctx, g.builderLost)
		switch {
		case ctx.Err() != nil:
			return wire.BuildReply{}, buildEnded(ctx)
		case errors.Is(err, bus.ErrSilent), errors.Is(err, bus.ErrNoResponders):
			return wire.BuildReply{}, err
		case err != nil:
			return wire.BuildReply{}, wire.Errorf(wire.CodeUnavailable, "the builders cannot be reached: %s", err)
		}
		if err := m.Respond(nil); err != nil { // it hears that somebody waits
			g.log.Debug("beat of a builder not answered", telemetry.KeyError, err)
		}
		var piece wire.BuildProgress
		if err := json.Unmarshal(m.Data, &piece); err != nil {
			return wire.BuildReply{}, wire.Errorf(wire.CodeInternal, "the builder's answer is malformed: %s", err)
		}
		if piece.Log != "" {
			log(piece.Log)
		}
		switch {
		case piece.Again:
			return wire.BuildReply{}, errAgain
		case piece.Reply == nil:
		case piece.Reply.Error != nil:
			return *piece.Reply, piece.Reply.Error
		default:
			return *piece.Reply, nil
		}
	}
}

// buildEnded says why a build is not waited for any more.
func buildEnded(ctx context.Context) error {
	cause := context.Cause(ctx)
	if e, ok := errors.AsType[*wire.Error](cause); ok {
		return e
	}
	return wire.Errorf(wire.CodeUnavailable, "the builder did not answer: %s", cause)
}
