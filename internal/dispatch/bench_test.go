package dispatch

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/dayfly-run/dayfly/internal/bus"
	"github.com/dayfly-run/dayfly/wire"
)

// benchNode answers every call with the same bytes, as little else as it can.
func benchNode(c *cluster, state wire.NodeState) {
	frame, err := wire.AppendFrame(nil, &wire.InvokeReply{Node: "a", Instance: "i1", RunMicros: 5}, []byte("{}"))
	if err != nil {
		c.t.Fatal(err)
	}
	if _, err := c.conn.Subscribe(wire.NodeInvokeSubject("a"), "", func(m bus.Msg) { _ = m.Respond(frame) }); err != nil {
		c.t.Fatal(err)
	}
	c.heardAs(state)
}

// BenchmarkWarmCall is a call with a free instance: one request over NATS.
func BenchmarkWarmCall(b *testing.B) {
	c := newCluster(b)
	benchNode(c, state("a", 1, 1000))
	stop := c.beatAs(state("a", 1, 1000))
	defer stop()
	call := Call{
		Invocation: id, Timeout: 10 * time.Second, Concurrency: 1, Payload: []byte("{}"),
		Place: wire.PlaceRequest{Version: version(1), Runtime: "python", MaxInstances: 5},
	}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := c.Invoke(b.Context(), call); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkColdCall is a call of a version never called before: two requests.
func BenchmarkColdCall(b *testing.B) {
	c := newCluster(b)
	benchNode(c, state("a", 1, 0))
	stop := c.beatAs(state("a", 1, 0))
	defer stop()
	data, err := json.Marshal(wire.PlaceReply{Node: "a", Lease: "lease-a", Epoch: 7})
	if err != nil {
		b.Fatal(err)
	}
	if _, err := c.conn.Subscribe(wire.PlaceSubject, "", func(m bus.Msg) { _ = m.Respond(data) }); err != nil {
		b.Fatal(err)
	}
	n := 0
	b.ReportAllocs()
	for b.Loop() {
		n++
		call := Call{
			Invocation: id, Timeout: 10 * time.Second, Concurrency: 1, Payload: []byte("{}"),
			Place: wire.PlaceRequest{Version: version(n), Runtime: "python", MaxInstances: 5},
		}
		if _, err := c.Invoke(b.Context(), call); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkTurn is what admission adds to a warm call.
func BenchmarkTurn(b *testing.B) {
	a := newAdmission()
	for _, node := range []wire.NodeID{"a", "b", "c"} {
		a.heard(state(node, 1, 4), begin)
	}
	c := call("{}", time.Minute)
	b.ReportAllocs()
	for b.Loop() {
		var t ticket
		got, err := a.enter(b.Context(), &c, &t)
		if err != nil {
			b.Fatal(err)
		}
		a.done(got.ride, alive, 0)
	}
}
