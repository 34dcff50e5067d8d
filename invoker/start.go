package invoker

import (
	"context"

	"github.com/dayfly-run/dayfly/wire"
)

// start has an instance of a version ready, which a new one shows to be sound: its
// runtime has loaded the function and asked for an event.
func (inv *Invoker) start(ctx context.Context, req wire.InvokeRequest) wire.InvokeReply {
	in, cold, err := inv.acquire(ctx, req)
	if err != nil {
		return inv.startFailed(req, err)
	}
	// What it printed so far is of the start; what comes is of the calls.
	in.logs.end(req.Invocation)
	reply := wire.InvokeReply{Instance: in.id, Cold: cold}
	if cold {
		reply.InitMicros = in.initTook.Microseconds()
	}
	if inv.release(in) {
		return reply
	}
	reply.Spent = true
	if !in.once() && !inv.leaves(in.version.VersionID) { // it ended by itself as soon as it had started
		reply.Error = in.exitError(req.Invocation)
	}
	return reply
}
