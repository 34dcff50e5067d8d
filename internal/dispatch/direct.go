package dispatch

import (
	"context"

	"github.com/dayfly-run/dayfly/internal/bus"
	"github.com/dayfly-run/dayfly/wire"
)

// LocalNode is a node in this process. It is called by many goroutines at once.
type LocalNode interface {
	// Run runs an event as the node's invoke subject would, and returns when it is over
	// or soon after ctx is done. It returns false, and runs nothing, when the node takes
	// no invocations.
	Run(ctx context.Context, req wire.InvokeRequest, payload []byte) (reply wire.InvokeReply, result []byte, taken bool)
}

// Attach makes calls to a node in this process go to it directly: without a message,
// which is half of what a short call costs. It is called before Start, once.
func (d *Dispatcher) Attach(id wire.NodeID, n LocalNode) { d.localID, d.local = id, n }

// ask has one node run the event, and returns when it answers.
func (d *Dispatcher) ask(ctx context.Context, id wire.NodeID, req wire.InvokeRequest, payload []byte) (reply wire.InvokeReply, result []byte, err error) {
	if d.local != nil && id == d.localID {
		reply, result, taken := d.local.Run(ctx, req, payload)
		if !taken {
			return reply, nil, bus.ErrNoResponders
		}
		return reply, result, context.Cause(ctx)
	}
	frame, err := wire.AppendFrame(make([]byte, 0, 512+len(payload)), req, payload)
	if err != nil {
		return reply, nil, wire.AsError(err)
	}
	data, err := d.conn.Request(ctx, wire.NodeInvokeSubject(id), frame)
	if err != nil {
		return reply, nil, err
	}
	result, err = wire.ParseFrame(data, &reply)
	if err != nil {
		return reply, nil, wire.Errorf(wire.CodeInternal, "node %s: %s", id, err)
	}
	return reply, result, nil
}
