package invoker

import (
	"testing"

	"github.com/dayfly-run/dayfly/wire"
)

// TestStartedInstanceLogs: what an instance prints after a start that is no call belongs
// to the calls that come later.
func TestStartedInstanceLogs(t *testing.T) {
	n := startNode(t, func(p *process) int {
		p.print("loading\n")
		return each(func(p *process, _ string, event []byte) ([]byte, error) {
			p.print("running " + string(event) + "\n")
			return event, nil
		})(p)
	})
	v := n.deploy()
	logs := listen[wire.LogEntry](t, wire.FunctionLogs(v.FunctionID))
	// whole reads all pieces of one log.
	whole := func() (id wire.InvocationID, text string) {
		for {
			e := receive(t, logs)
			if text += e.Text; e.Last {
				return e.Invocation, text
			}
		}
	}
	started, err := n.send(wire.InvokeRequest{Version: v, Lease: newLease(), Start: true}, nil)
	must(t, err)
	if started.Error != nil || !started.Cold {
		t.Fatalf("the start: %+v", started)
	}
	if _, text := whole(); text != "loading\n" {
		t.Errorf("of the start: %q", text)
	}
	for range 2 {
		id := newInvocation()
		a, err := n.send(wire.InvokeRequest{Invocation: id, Version: v}, []byte("1"))
		must(t, err)
		n.wantBody(a, "1")
		if of, text := whole(); of != id || text != "running 1\n" {
			t.Errorf("of a call: %q of %q, want it to be of %s", text, of, id)
		}
	}
}
