package gateway

import (
	"context"
	"fmt"
	"strconv"
	"time"

	"github.com/dayfly-run/dayfly/functions"
	"github.com/dayfly-run/dayfly/internal/intake"
	"github.com/dayfly-run/dayfly/internal/telemetry"
	"github.com/dayfly-run/dayfly/wire"
)

const (
	// startPatience is how long a deploy waits for room for its first instance, and
	// movePatience how long a change of live by hand does, which goes on without.
	startPatience = 10 * time.Second
	movePatience  = 2 * time.Second
)

// start has an instance of a version running somewhere. The error is a [*wire.Error]; one
// of the function says that it cannot start.
func (g *Gateway) start(ctx context.Context, v functions.Version, patience time.Duration) error {
	id, err := intake.NewID()
	if err != nil {
		return err
	}
	begun := time.Now()
	call := callOf(id, v)
	call.Start, call.Timeout = true, patience
	result, err := g.dispatcher.Invoke(ctx, call)
	g.log.Debug("instance asked for", telemetry.KeyFunction, v.String(), telemetry.KeyNode, string(result.Reply.Node),
		"cold", result.Reply.Cold, "took", time.Since(begun))
	return err
}

// checkStart fails unless an instance of a new version starts; the version stays as it
// is, and the error says so.
func (g *Gateway) checkStart(ctx context.Context, v functions.Version, f functions.Function) error {
	err := g.start(ctx, v, startPatience)
	if err == nil {
		return nil
	}
	e := *wire.AsError(err)
	stays := "no version is live"
	if live, some := f.Aliases[wire.LiveAlias]; some {
		stays = "live stays at version " + strconv.Itoa(live.Version)
	}
	e.Retryable = false // the version is there: another deploy would make one more
	if e.Code.OfFunction() {
		e.Message = fmt.Sprintf("version %d of %s is built but does not start, so %s: %s", v.Number, v.FunctionID, stays, e.Message)
	} else {
		e.Message = fmt.Sprintf("version %d of %s is built, but no instance of it could be started, so %s: %s; when that is mended, %s",
			v.Number, v.FunctionID, stays, e.Message, promoteHint(v))
	}
	return &e
}

// checkMove fails when a version that is to become live by hand does not start. Where
// there is no room to try, somebody's word is enough.
func (g *Gateway) checkMove(ctx context.Context, v functions.Version) error {
	err := g.start(ctx, v, movePatience)
	if err == nil {
		return nil
	}
	e := *wire.AsError(err)
	if !e.Code.OfFunction() {
		g.log.Warn("live moves to a version that was not tried", telemetry.KeyFunction, v.String(), telemetry.KeyError, e.Message)
		return nil
	}
	e.Message = fmt.Sprintf("version %d of %s does not start, so live stays where it is: %s", v.Number, v.FunctionID, e.Message)
	return &e
}
