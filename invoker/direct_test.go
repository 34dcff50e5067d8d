package invoker

import (
	"context"
	"testing"

	"github.com/dayfly-run/dayfly/wire"
)

// TestRun: a caller in the same process gets what others get by message, until the node
// stops.
func TestRun(t *testing.T) {
	n := startNode(t, each(func(p *process, _ string, event []byte) ([]byte, error) {
		if string(event) == `"wait"` {
			<-p.ctx.Done()
		}
		return event, nil
	}))
	v := n.deploy()
	run := func(ctx context.Context, req wire.InvokeRequest, event string) (answer, bool) {
		req.Invocation, req.Version = newInvocation(), v
		reply, result, taken := n.inv.Run(ctx, req, []byte(event))
		return answer{reply, result}, taken
	}
	if a, taken := run(t.Context(), wire.InvokeRequest{}, `1`); !taken || !wire.HasCode(a.Error, wire.CodeNoInstance) {
		t.Errorf("without a lease: %+v, %t", a, taken)
	}
	for i := range 3 {
		a, taken := run(t.Context(), wire.InvokeRequest{Lease: newLease()}, `{"a":1}`)
		n.wantBody(a, `{"a":1}`)
		if !taken || a.Node != n.id || a.StateSeq == 0 || a.Cold != (i == 0) {
			t.Errorf("call %d: %+v, %t", i, a, taken)
		}
	}
	// Who leaves takes the instance with him.
	ctx, cancel := context.WithCancel(t.Context())
	cut := make(chan answer, 1)
	go func() {
		a, _ := run(ctx, wire.InvokeRequest{}, `"wait"`)
		cut <- a
	}()
	n.awaitCount(v, wire.VersionOnNode{Busy: 1, Slots: 1})
	cancel()
	n.wantError(receive(t, cut), wire.CodeUnavailable, false, "while the function ran")
	n.awaitCount(v, wire.VersionOnNode{})
	n.stop(patience)
	if a, taken := run(t.Context(), wire.InvokeRequest{Lease: newLease()}, `1`); taken {
		t.Errorf("after the stop: %+v", a)
	}
}
