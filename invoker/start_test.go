package invoker

import (
	"testing"

	"github.com/dayfly-run/dayfly/wire"
)

// TestStart: an instance is there before anybody calls it, and only one for two that ask.
func TestStart(t *testing.T) {
	ran := make(chan string, 1)
	n := startNode(t, each(func(_ *process, _ string, event []byte) ([]byte, error) {
		ran <- string(event)
		return event, nil
	}))
	v := n.deploy()
	a, err := n.send(wire.InvokeRequest{Version: v, Start: true}, nil)
	must(t, err)
	n.wantError(a, wire.CodeNoInstance, true, "no free instance") // it has no lease
	a, err = n.send(wire.InvokeRequest{Version: v, Start: true, Lease: newLease()}, nil)
	must(t, err)
	if a.Error != nil || !a.Cold || a.Spent || a.InitMicros <= 0 || len(a.body) != 0 {
		t.Errorf("answer %+v %q", a.InvokeReply, a.body)
	}
	first := a.Instance
	n.awaitCount(v, wire.VersionOnNode{Idle: 1, Slots: 1})
	a, err = n.send(wire.InvokeRequest{Version: v, Start: true}, nil)
	must(t, err)
	if a.Error != nil || a.Cold || a.Instance != first {
		t.Errorf("answer %+v", a.InvokeReply)
	}
	n.wantBody(n.warm(v, `7`), `7`)
	if event := <-ran; event != `7` {
		t.Errorf("it ran with %s", event)
	}
}

// TestStartOfOneThatCannot: the answer is the function's own error, and nothing is left.
func TestStartOfOneThatCannot(t *testing.T) {
	n := startNode(t, func(p *process) int {
		p.print("traceback\n")
		p.fail("init/error", "no module named x")
		return 1
	})
	v := n.deploy()
	a, err := n.send(wire.InvokeRequest{Version: v, Start: true, Lease: newLease()}, nil)
	must(t, err)
	n.wantError(a, wire.CodeFunctionError, false, "no module named x")
	if a.Error.Logs != "traceback\n" {
		t.Errorf("logs %q", a.Error.Logs)
	}
	n.await("empty", func(s wire.NodeState) bool { return s.Reserved == wire.Resources{} })
}

// TestStartAlone: what takes one event in its life shows that it starts, and goes.
func TestStartAlone(t *testing.T) {
	n := startNode(t, each(echo))
	v := n.deploy(isolated)
	a, err := n.send(wire.InvokeRequest{Version: v, Start: true, Lease: newLease()}, nil)
	must(t, err)
	if a.Error != nil || !a.Cold || !a.Spent {
		t.Errorf("answer %+v", a.InvokeReply)
	}
	n.await("empty", func(s wire.NodeState) bool { return s.Reserved == wire.Resources{} })
}
