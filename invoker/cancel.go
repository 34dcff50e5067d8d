package invoker

import (
	"context"
	"encoding/json"
	"errors"
	"sync"

	"github.com/dayfly-run/dayfly/internal/bus"
	"github.com/dayfly-run/dayfly/internal/telemetry"
	"github.com/dayfly-run/dayfly/wire"
)

// errCancelled is the cause that ends an invocation because somebody asked for it.
var errCancelled = errors.New("the invocation was cancelled")

// calls are the invocations under way, so that they can be cancelled. It is safe for
// concurrent use.
type calls struct {
	mu      sync.Mutex // guards what follows
	running map[*call]struct{}
}

// call is one invocation. An event that was given out twice has two on one node.
type call struct {
	id     wire.InvocationID
	cancel context.CancelCauseFunc
}

// begin enters an invocation, which ends with the context that it returns.
func (c *calls) begin(ctx context.Context, id wire.InvocationID) (_ context.Context, end func()) {
	ctx, cancel := context.WithCancelCause(ctx)
	entered := &call{id: id, cancel: cancel}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.running == nil {
		c.running = map[*call]struct{}{}
	}
	c.running[entered] = struct{}{}
	return ctx, func() {
		c.mu.Lock()
		delete(c.running, entered)
		c.mu.Unlock()
		cancel(nil)
	}
}

// none reports whether no invocation is under way.
func (c *calls) none() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.running) == 0
}

// has reports whether an invocation is under way.
func (c *calls) has(id wire.InvocationID) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	for running := range c.running { // few, and seldom looked through
		if running.id == id {
			return true
		}
	}
	return false
}

func (c *calls) cancel(id wire.InvocationID) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for running := range c.running { // few, and seldom looked through
		if running.id == id {
			running.cancel(errCancelled)
		}
	}
}

// end ends all of them with a cause, and returns how many there were.
func (c *calls) end(cause error) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	for running := range c.running {
		running.cancel(cause)
	}
	return len(c.running)
}

// heardCancel ends an invocation, if it is here, with its instance.
func (inv *Invoker) heardCancel(m bus.Msg) {
	var req wire.CancelRequest
	if err := json.Unmarshal(m.Data, &req); err != nil {
		inv.log.Warn("cancel request refused", telemetry.KeyError, err)
		return
	}
	inv.underWay.cancel(req.Invocation)
}

// heardInquiry says whether an invocation is under way here.
func (inv *Invoker) heardInquiry(m bus.Msg) {
	var req wire.InquiryRequest
	err := json.Unmarshal(m.Data, &req)
	var reply []byte
	if err == nil {
		reply, err = json.Marshal(wire.InquiryReply{UnderWay: inv.underWay.has(req.Invocation)})
	}
	if err == nil {
		err = m.Respond(reply)
	}
	if err != nil {
		inv.log.Warn("inquiry not answered", telemetry.KeyError, err)
	}
}

// cancelled is the answer to an invocation that was.
func cancelled() *wire.Error {
	return wire.Errorf(wire.CodeCancelled, "the invocation was cancelled while it ran")
}
