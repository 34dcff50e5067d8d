package gateway

import (
	"context"
	"time"

	"github.com/dayfly-run/dayfly/wire"
)

// buildTimeout bounds a build.
const buildTimeout = 10 * time.Minute

// build has a bundle built. What the build prints goes to log piece by piece while it
// runs, by one goroutine; the reply holds it whole. It ends with ctx.
func (g *Gateway) build(ctx context.Context, req wire.BuildRequest, log func(string)) (reply wire.BuildReply, err error) {
	ctx, cancel := context.WithTimeout(ctx, buildTimeout)
	defer cancel()
	if err := g.askBuilder(ctx, wire.BuildSubject, req, &reply); err != nil {
		return reply, err
	}
	if reply.Log != "" {
		log(reply.Log)
	}
	if reply.Error != nil {
		return reply, reply.Error
	}
	return reply, nil
}
