package dispatch

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"

	"github.com/dayfly-run/dayfly/wire"
)

// localNode is a double of a node in this process.
type localNode struct {
	gone  bool
	calls atomic.Int32
	begun chan struct{} // gets one for every call
}

func (n *localNode) Run(ctx context.Context, req wire.InvokeRequest, event []byte) (wire.InvokeReply, []byte, bool) {
	if n.gone {
		return wire.InvokeReply{}, nil, false
	}
	n.calls.Add(1)
	n.begun <- struct{}{}
	if string(event) == `"wait"` {
		<-ctx.Done()
	}
	return wire.InvokeReply{Node: "a", Instance: "local", Cold: req.Lease != ""}, event, true
}

// TestLocalNode: its calls take no message, and others do.
func TestLocalNode(t *testing.T) {
	c := newCluster(t)
	local := &localNode{begun: make(chan struct{}, 10)}
	c.Attach("a", local)
	c.addScheduler(placeOn("a", "b"))
	n := c.addNode("a", 1, echo(false))
	result, err := c.invoke(t.Context(), `{"n":1}`)
	if err != nil || string(result.Body) != `{"n":1}` || result.Reply.Instance != "local" || len(n.asked) != 0 {
		t.Fatalf("%+v, %v; %d messages", result, err, len(n.asked))
	}
	local.gone = true // it is being stopped: the call goes elsewhere
	c.addNode("b", 0, echo(true))
	result, err = c.invoke(t.Context(), "{}")
	if err != nil || result.Reply.Node != "b" || local.calls.Load() != 1 {
		t.Errorf("%+v, %v; %d local calls", result, err, local.calls.Load())
	}
}

// TestLocalCallsAreCut: the node ends the call with the caller's context, and what it
// says then counts for nothing.
func TestLocalCallsAreCut(t *testing.T) {
	c := newCluster(t)
	local := &localNode{begun: make(chan struct{}, 10)}
	c.Attach("a", local)
	c.addNode("a", 1, nil)
	ctx, cancel := context.WithCancelCause(t.Context())
	go func() {
		<-local.begun
		cancel(errors.New("the gateway is being stopped"))
	}()
	_, err := c.invoke(ctx, `"wait"`)
	wantCode(t, err, wire.CodeUnavailable, false)
}
