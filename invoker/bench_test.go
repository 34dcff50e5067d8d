package invoker

import (
	"context"
	"testing"

	"github.com/dayfly-run/dayfly/wire"
)

// BenchmarkWarmInvoke is a warm call from NATS through the Runtime API and back, all
// in one process. The function's own HTTP client is part of it.
func BenchmarkWarmInvoke(b *testing.B) {
	n := startNode(b, each(echo))
	v := n.deploy()
	n.wantBody(n.cold(v, `{"hello":"world"}`), `{"hello":"world"}`)
	frame, err := wire.AppendFrame(nil, wire.InvokeRequest{Invocation: newInvocation(), Version: v}, []byte(`{"hello":"world"}`))
	must(b, err)
	subject := wire.NodeInvokeSubject(n.id)
	ctx, cancel := context.WithTimeout(b.Context(), 10*patience)
	defer cancel()
	b.ReportAllocs()
	for b.Loop() {
		data, err := shared.conn.Request(ctx, subject, frame)
		if err != nil {
			b.Fatal(err)
		}
		var reply wire.InvokeReply
		if _, err := wire.ParseFrame(data, &reply); err != nil || reply.Error != nil {
			b.Fatal(err, reply.Error)
		}
	}
}

// BenchmarkWarmInvokeParallel is the same on as many instances as there are callers.
func BenchmarkWarmInvokeParallel(b *testing.B) {
	n := startNode(b, each(echo))
	v := n.deploy()
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			a, err := n.send(wire.InvokeRequest{Version: v, Lease: newLease()}, []byte(`{"hello":"world"}`))
			if err != nil || a.Error != nil {
				b.Error(err, a.Error)
				return
			}
		}
	})
}
