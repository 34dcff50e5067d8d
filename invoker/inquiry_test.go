package invoker

import (
	"encoding/json"
	"testing"

	"github.com/dayfly-run/dayfly/internal/embed/embedtest"
	"github.com/dayfly-run/dayfly/wire"
)

// TestInquiry: a node knows of an invocation from its arrival until its answer.
func TestInquiry(t *testing.T) {
	busy := make(chan struct{})
	n := startNode(t, each(func(_ *process, _ string, event []byte) ([]byte, error) {
		<-busy
		return event, nil
	}))
	v, id := n.deploy(), newInvocation()
	underWay := func() bool {
		t.Helper()
		data, err := json.Marshal(wire.InquiryRequest{Invocation: id})
		must(t, err)
		answer, err := shared.conn.Request(t.Context(), wire.NodeInquirySubject(n.id), data)
		must(t, err)
		var reply wire.InquiryReply
		must(t, json.Unmarshal(answer, &reply))
		return reply.UnderWay
	}
	if underWay() {
		t.Error("the node has a call that nobody sent")
	}
	answered := make(chan answer, 1)
	go func() {
		a, err := n.send(wire.InvokeRequest{Invocation: id, Version: v, Lease: newLease()}, []byte(`1`))
		if err != nil {
			a.Error = wire.AsError(err)
		}
		answered <- a
	}()
	embedtest.Eventually(t, "the node has the call", underWay)
	close(busy)
	if a := receive(t, answered); a.Error != nil {
		t.Error(a.Error)
	}
	embedtest.Eventually(t, "the call is over", func() bool { return !underWay() })
}
