package dispatch

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"os"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/dayfly-run/dayfly/internal/blob"
	"github.com/dayfly-run/dayfly/internal/bus"
	"github.com/dayfly-run/dayfly/internal/embed/embedtest"
	"github.com/dayfly-run/dayfly/internal/embed/s3server"
	"github.com/dayfly-run/dayfly/wire"
)

// s3 is the one S3 server of this process; set before any test runs.
var s3 *s3server.Server

func TestMain(m *testing.M) {
	if embedtest.RunServer() {
		return
	}
	//nolint:forbidigo // it is the tests' main
	os.Exit(embedtest.RunWithS3(m, func(s *s3server.Server) { s3 = s }))
}

// cluster is a dispatcher among nodes and a scheduler that are test doubles: they
// answer on the real subjects of a real NATS server.
type cluster struct {
	*Dispatcher
	t      testing.TB
	conn   *bus.Conn // that of the doubles
	store  *blob.Store
	placed chan wire.PlaceRequest // what the scheduler was asked
	waits  *meter
}

// meter counts how waits ended.
type meter struct {
	mu   sync.Mutex
	ends map[End]int
}

func (m *meter) Waited(_ time.Duration, end End) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.ends[end]++
}

func (m *meter) count(end End) int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.ends[end]
}

func newCluster(tb testing.TB) *cluster {
	tb.Helper()
	server := embedtest.NATS(tb, tb.TempDir())
	return newClusterOver(tb, embedtest.Connect(tb, server), embedtest.Connect(tb, server))
}

// newClusterOver makes a cluster of which the dispatcher has a connection, and the doubles
// have another one.
func newClusterOver(tb testing.TB, own, doubles *bus.Conn) *cluster {
	tb.Helper()
	store, m := embedtest.Store(tb, s3), &meter{ends: map[End]int{}}
	c := &cluster{
		Dispatcher: New(own, store, m, embedtest.Discard()),
		t:          tb, conn: doubles, store: store, placed: make(chan wire.PlaceRequest, 1000), waits: m,
	}
	if err := c.Start(tb.Context()); err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		for range 2 { // again: nothing happens
			if err := c.Stop(context.Background()); err != nil {
				tb.Error(err)
			}
		}
	})
	return c
}

// node is a double of an invoker.
type fakeNode struct {
	c     *cluster
	state wire.NodeState
	asked chan wire.InvokeRequest
	sub   *bus.Subscription
	stop  func()
}

// reply is what a double answers; nil answers nothing.
type reply func(req wire.InvokeRequest, event []byte) (*wire.InvokeReply, []byte)

// addNode starts a node with idle instances of version 1 and waits until the
// dispatcher knows it. Without answer it does not listen for calls.
func (c *cluster) addNode(id wire.NodeID, idle int, answer reply) *fakeNode {
	c.t.Helper()
	n := &fakeNode{c: c, state: state(id, 0, idle), asked: make(chan wire.InvokeRequest, 1000)}
	if answer != nil {
		sub, err := c.conn.Subscribe(wire.NodeInvokeSubject(id), "", func(m bus.Msg) { n.serve(m, answer) })
		if err != nil {
			c.t.Fatal(err)
		}
		n.sub = sub
	}
	ctx, cancel := context.WithCancel(context.Background())
	var beating sync.WaitGroup
	n.say()
	beating.Go(func() { n.beat(ctx) })
	n.stop = sync.OnceFunc(func() { cancel(); beating.Wait() })
	c.t.Cleanup(n.stop)
	embedtest.Eventually(c.t, "node "+string(id), func() bool { return c.knows(id) })
	return n
}

func (n *fakeNode) serve(m bus.Msg, answer reply) {
	var req wire.InvokeRequest
	event, err := wire.ParseFrame(m.Data, &req)
	if err != nil {
		n.c.t.Error(err)
		return
	}
	n.asked <- req
	r, body := answer(req, event)
	if r == nil {
		return
	}
	r.Node = n.state.Node
	frame, err := wire.AppendFrame(nil, r, body)
	if err == nil {
		err = m.Respond(frame)
	}
	if err != nil {
		n.c.t.Error(err)
	}
}

// request is the next that the node was sent, without its number.
func (n *fakeNode) request() wire.InvokeRequest {
	n.c.t.Helper()
	req := embedtest.Receive(n.c.t, n.asked)
	if req.Offer == 0 {
		n.c.t.Errorf("request %+v has no number", req)
	}
	req.Offer = 0
	return req
}

// beat says again and again that the node lives.
func (n *fakeNode) beat(ctx context.Context) {
	tick := time.NewTicker(wire.HeartbeatEvery)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			n.say()
		case <-ctx.Done():
			return
		}
	}
}

func (n *fakeNode) say() {
	n.state.Seq++
	data, err := json.Marshal(wire.NodeWord{Whole: &n.state})
	if err == nil {
		err = n.c.conn.Publish(wire.NodeStateSubject(n.state.Node), data)
	}
	if err != nil {
		n.c.t.Error(err)
	}
}

// die is a node's last word.
func (n *fakeNode) die() {
	n.stop()
	n.state.Stopping = true
	n.say()
}

func (c *cluster) knows(id wire.NodeID) bool {
	return slices.ContainsFunc(c.Nodes(), func(n NodeView) bool { return n.Node == id })
}

// addScheduler starts a scheduler that answers with decide.
func (c *cluster) addScheduler(decide func(wire.PlaceRequest) wire.PlaceReply) {
	c.t.Helper()
	_, err := c.conn.Subscribe(wire.PlaceSubject, "", func(m bus.Msg) {
		var req wire.PlaceRequest
		if err := json.Unmarshal(m.Data, &req); err != nil {
			c.t.Error(err)
			return
		}
		c.placed <- req
		data, err := json.Marshal(decide(req))
		if err == nil {
			err = m.Respond(data)
		}
		if err != nil {
			c.t.Error(err)
		}
	})
	if err != nil {
		c.t.Fatal(err)
	}
}

// placeOn names the first of the nodes that is not excluded.
func placeOn(ids ...wire.NodeID) func(wire.PlaceRequest) wire.PlaceReply {
	return func(req wire.PlaceRequest) wire.PlaceReply {
		for _, id := range ids {
			if !slices.Contains(req.Exclude, id) {
				return wire.PlaceReply{Node: id, Lease: "lease-" + wire.LeaseID(id), Epoch: 7}
			}
		}
		return wire.PlaceReply{Error: wire.Errorf(wire.CodeNoCapacity, "no node has room")}
	}
}

const id = wire.InvocationID("01998c2e-7d5a-7c11-9f00-3a5be1c2d4f6")

func (c *cluster) invoke(ctx context.Context, payload string) (Result, error) {
	return c.Invoke(ctx, call(payload, time.Minute))
}

// call is one of version 1.
func call(payload string, timeout time.Duration) Call {
	return Call{
		Invocation: id, Timeout: timeout, Concurrency: 1, Payload: []byte(payload),
		Place: wire.PlaceRequest{Version: version(1), Runtime: "python", MaxInstances: 5},
	}
}

// echo answers with the event.
func echo(cold bool) reply {
	return func(_ wire.InvokeRequest, event []byte) (*wire.InvokeReply, []byte) {
		return &wire.InvokeReply{Instance: "i1", Cold: cold, RunMicros: 5}, bytes.Clone(event)
	}
}

// refuse answers with an error of the platform, before anything ran.
func refuse(code wire.Code) reply {
	return func(wire.InvokeRequest, []byte) (*wire.InvokeReply, []byte) {
		return &wire.InvokeReply{Error: wire.Errorf(code, "refused")}, nil
	}
}

// wantCode fails unless err is a *wire.Error with the code.
func wantCode(tb testing.TB, err error, code wire.Code, retryable bool) {
	tb.Helper()
	e, ok := errors.AsType[*wire.Error](err)
	if !ok || e.Code != code || e.Retryable != retryable {
		tb.Errorf("error %T %v, retryable %t; want %s, %t", err, err, ok && e.Retryable, code, retryable)
	}
}

// heardAs has the dispatcher hear a node's word.
func (c *cluster) heardAs(s wire.NodeState) {
	c.t.Helper()
	data, err := json.Marshal(wire.NodeWord{Whole: &s})
	if err == nil {
		err = c.conn.Publish(wire.NodeStateSubject(s.Node), data)
	}
	if err != nil {
		c.t.Fatal(err)
	}
	embedtest.Eventually(c.t, "the node's word is heard", func() bool {
		return slices.ContainsFunc(c.Nodes(), func(n NodeView) bool { return n.Node == s.Node && n.Seq >= s.Seq })
	})
}

// beatAs says a node's word again and again until it is stopped.
func (c *cluster) beatAs(s wire.NodeState) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	n := &fakeNode{c: c, state: s}
	var beating sync.WaitGroup
	beating.Go(func() { n.beat(ctx) })
	return func() { cancel(); beating.Wait() }
}
