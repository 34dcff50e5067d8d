package dispatch

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/dayfly-run/dayfly/internal/bus"
	"github.com/dayfly-run/dayfly/internal/embed/embedtest"
	"github.com/dayfly-run/dayfly/wire"
)

// TestWarmCallsAskNobodyElse: the scheduler and S3 are not on the warm path.
func TestWarmCallsAskNobodyElse(t *testing.T) {
	c := newCluster(t)
	c.addScheduler(placeOn("a"))
	n := c.addNode("a", 2, echo(false))
	for range 20 {
		result, err := c.invoke(t.Context(), `{"n":1}`)
		if err != nil || string(result.Body) != `{"n":1}` || result.Reply.Node != "a" || result.Reply.Instance != "i1" {
			t.Fatalf("%+v, %v", result, err)
		}
	}
	if len(c.placed) != 0 {
		t.Errorf("the scheduler was asked %d times", len(c.placed))
	}
	if diff := cmp.Diff(wire.InvokeRequest{Invocation: id, Version: version(1)}, n.request()); diff != "" {
		t.Errorf("request (-want +got):\n%s", diff)
	}
}

// TestWarmCallsWithoutAScheduler go on as if nothing was.
func TestWarmCallsWithoutAScheduler(t *testing.T) {
	c := newCluster(t)
	c.addNode("a", 1, echo(false))
	if _, err := c.invoke(t.Context(), "{}"); err != nil {
		t.Error(err)
	}
}

func TestColdCallTeachesTheWarmOne(t *testing.T) {
	c := newCluster(t)
	c.addScheduler(placeOn("a"))
	n := c.addNode("a", 0, echo(true))
	for range 3 {
		if _, err := c.invoke(t.Context(), "{}"); err != nil {
			t.Fatal(err)
		}
	}
	if len(c.placed) != 1 {
		t.Errorf("the scheduler was asked %d times, want once", len(c.placed))
	}
	want := wire.InvokeRequest{Invocation: id, Version: version(1), Lease: "lease-a", Epoch: 7}
	if diff := cmp.Diff(want, n.request()); diff != "" {
		t.Errorf("request (-want +got):\n%s", diff)
	}
	if req := embedtest.Receive(t, c.placed); req.Runtime != "python" || req.MaxInstances != 5 || len(req.Exclude) != 0 {
		t.Errorf("place request %+v", req)
	}
}

// TestRefusedCallsGoElsewhere, and the scheduler hears who refused.
func TestRefusedCallsGoElsewhere(t *testing.T) {
	c := newCluster(t)
	c.addScheduler(placeOn("a", "b", "c", "d"))
	c.addNode("a", 0, refuse(wire.CodeNoCapacity))
	c.addNode("b", 0, refuse(wire.CodeUnavailable))
	c.addNode("c", 0, nil) // no responders
	c.addNode("d", 0, echo(true))
	result, err := c.invoke(t.Context(), "{}")
	if err != nil || result.Reply.Node != "d" {
		t.Fatalf("%+v, %v", result, err)
	}
	for _, want := range [][]wire.NodeID{nil, {"a"}, {"a", "b"}, {"a", "b", "c"}} {
		if got := embedtest.Receive(t, c.placed).Exclude; !slices.Equal(got, want) {
			t.Errorf("excluded %v, want %v", got, want)
		}
	}
}

func TestWarmNodeIsGone(t *testing.T) {
	c := newCluster(t)
	c.addScheduler(placeOn("a", "b"))
	c.addNode("a", 1, nil) // its last word is still believed
	c.addNode("b", 0, echo(true))
	result, err := c.invoke(t.Context(), "{}")
	if err != nil || result.Reply.Node != "b" {
		t.Fatalf("%+v, %v", result, err)
	}
	if got := embedtest.Receive(t, c.placed).Exclude; !slices.Equal(got, []wire.NodeID{"a"}) {
		t.Errorf("excluded %v", got)
	}
}

// TestWarmInstanceIsTaken: another gateway was quicker; the node may still start one.
func TestWarmInstanceIsTaken(t *testing.T) {
	c := newCluster(t)
	c.addScheduler(placeOn("a"))
	c.addNode("a", 1, func(req wire.InvokeRequest, event []byte) (*wire.InvokeReply, []byte) {
		if req.Lease == "" {
			return refuse(wire.CodeNoInstance)(req, event)
		}
		return echo(true)(req, event)
	})
	if _, err := c.invoke(t.Context(), "{}"); err != nil {
		t.Fatal(err)
	}
	if got := embedtest.Receive(t, c.placed).Exclude; got != nil {
		t.Errorf("excluded %v", got)
	}
}

func TestEverybodyRefuses(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	ids := []wire.NodeID{"a", "b", "c", "d", "e"}
	c.addScheduler(placeOn(ids...))
	for _, id := range ids {
		c.addNode(id, 0, refuse(wire.CodeNoInstance))
	}
	_, err := c.Invoke(t.Context(), call("{}", patience))
	wantCode(t, err, wire.CodeNoCapacity, true) // no_instance never leaves the platform
	if n := len(c.placed); n < 2*attempts || n > (mostRounds+1)*attempts {
		t.Errorf("%d questions, want %d at once and as many again after each pause", n, attempts)
	}
}

// A call that nobody takes asks at once, and after 25, 75, 175, 375, 775, 1275, 1775,
// 2275 and 2775 ms, or later on a busy machine.
const (
	patience   = 3 * time.Second
	mostRounds = 10
)

func TestSchedulerSaysNo(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	c.addScheduler(placeOn())
	_, err := c.Invoke(t.Context(), call("{}", patience))
	wantCode(t, err, wire.CodeNoCapacity, true)
	if !strings.Contains(err.Error(), "s of waiting: no node has room") {
		t.Error(err)
	}
	if n := len(c.placed); n < 2 || n > mostRounds {
		t.Errorf("the scheduler was asked %d times", n)
	}
}

func TestSchedulerSaysNonsense(t *testing.T) {
	c := newCluster(t)
	if _, err := c.conn.Subscribe(wire.PlaceSubject, "", func(m bus.Msg) { _ = m.Respond([]byte("{")) }); err != nil {
		t.Fatal(err)
	}
	_, err := c.invoke(t.Context(), "{}")
	wantCode(t, err, wire.CodeInternal, false)
}

// TestSchedulerIsAway: a cold call waits a while for one that leads.
func TestSchedulerIsAway(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	begun := time.Now()
	_, err := c.invoke(t.Context(), "{}")
	wantCode(t, err, wire.CodeUnavailable, true)
	if took := time.Since(begun); took < placeWait-placePause {
		t.Errorf("gave up after %s", took)
	}
}

func TestSchedulerComesBack(t *testing.T) {
	c := newCluster(t)
	c.addNode("a", 0, echo(true))
	done := make(chan error, 1)
	go func() {
		_, err := c.invoke(t.Context(), "{}")
		done <- err
	}()
	c.addScheduler(placeOn("a"))
	if err := embedtest.Receive(t, done); err != nil {
		t.Error(err)
	}
}

// TestNodeUnknownAtFirst: the scheduler heard of the node before the gateway did;
// its one lease is used.
func TestNodeUnknownAtFirst(t *testing.T) {
	c := newCluster(t)
	c.addScheduler(placeOn("a"))
	done := make(chan error, 1)
	go func() {
		_, err := c.invoke(t.Context(), "{}")
		done <- err
	}()
	asked := embedtest.Receive(t, c.placed)
	c.addNode("a", 0, echo(true))
	if err := embedtest.Receive(t, done); err != nil || asked.Exclude != nil || len(c.placed) != 0 {
		t.Errorf("%v, excluded %v, asked %d more times", err, asked.Exclude, len(c.placed))
	}
}

// TestNodeIsLostDuringACall: it may have run, so nobody runs it again.
func TestNodeIsLostDuringACall(t *testing.T) {
	c := newCluster(t)
	c.addScheduler(placeOn("b"))
	n := c.addNode("a", 1, func(wire.InvokeRequest, []byte) (*wire.InvokeReply, []byte) { return nil, nil })
	c.addNode("b", 0, echo(true))
	done := make(chan error, 1)
	go func() {
		_, err := c.invoke(t.Context(), "{}")
		done <- err
	}()
	embedtest.Receive(t, n.asked)
	n.die()
	err := embedtest.Receive(t, done)
	wantCode(t, err, wire.CodeUnavailable, false)
	if !strings.Contains(err.Error(), "may have run") || len(c.placed) != 0 {
		t.Errorf("%v; the scheduler was asked %d times", err, len(c.placed))
	}
	embedtest.Eventually(t, "the node is forgotten", func() bool { return !c.knows("a") })
}

// TestNodeIsLostDuringAStart: no event ran, so another node may start the instance.
func TestNodeIsLostDuringAStart(t *testing.T) {
	c := newCluster(t)
	c.addScheduler(placeOn("b"))
	n := c.addNode("a", 1, func(wire.InvokeRequest, []byte) (*wire.InvokeReply, []byte) { return nil, nil })
	c.addNode("b", 0, echo(true))
	type outcome struct {
		Result
		err error
	}
	done := make(chan outcome, 1)
	go func() {
		start := call("", time.Minute)
		start.Start = true
		r, err := c.Invoke(t.Context(), start)
		done <- outcome{r, err}
	}()
	embedtest.Receive(t, n.asked)
	n.die()
	if got := embedtest.Receive(t, done); got.err != nil || got.Reply.Node != "b" {
		t.Errorf("%+v", got)
	}
}

func TestSilentNodeIsLost(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	n := c.addNode("a", 1, echo(false))
	n.stop()
	embedtest.Eventually(t, "the node is forgotten", func() bool { return !c.knows("a") })
}

// TestRanAndFailed: what an instance had is not given to another one, whatever the
// node's error says.
func TestRanAndFailed(t *testing.T) {
	for name, e := range map[string]*wire.Error{
		"function":     {Code: wire.CodeFunctionError, Message: "division by zero", Type: "ZeroDivisionError"},
		"timeout":      {Code: wire.CodeFunctionTimeout, Message: "too slow"},
		"node stopped": wire.Errorf(wire.CodeUnavailable, "node a was stopped while the function ran"),
	} {
		t.Run(name, func(t *testing.T) {
			c := newCluster(t)
			c.addScheduler(placeOn("b"))
			c.addNode("a", 1, func(wire.InvokeRequest, []byte) (*wire.InvokeReply, []byte) {
				return &wire.InvokeReply{Instance: "i1", Error: e}, nil
			})
			c.addNode("b", 0, echo(true))
			result, err := c.invoke(t.Context(), "{}")
			wantCode(t, err, e.Code, false)
			if result.Reply.Node != "a" || len(c.placed) != 0 {
				t.Errorf("%+v; the scheduler was asked %d times", result, len(c.placed))
			}
		})
	}
}

func TestInstanceOutlivesTheFunctionsError(t *testing.T) {
	for code, alive := range map[wire.Code]bool{wire.CodeFunctionError: true, wire.CodeFunctionTimeout: false} {
		c := newCluster(t)
		n := c.addNode("a", 1, func(wire.InvokeRequest, []byte) (*wire.InvokeReply, []byte) {
			return &wire.InvokeReply{Instance: "i1", Error: &wire.Error{Code: code}}, nil
		})
		n.stop() // no state says otherwise
		if _, err := c.invoke(t.Context(), "{}"); !wire.HasCode(err, code) {
			t.Fatal(err)
		}
		if s := c.admission.routes.take(version(1)); (s != nil) != alive {
			t.Errorf("after %s the instance takes calls: %t", code, s != nil)
		}
	}
}

func TestDeadline(t *testing.T) {
	c := newCluster(t)
	n := c.addNode("a", 1, func(wire.InvokeRequest, []byte) (*wire.InvokeReply, []byte) { return nil, nil })
	ctx, cancel := context.WithCancelCause(t.Context())
	go func() {
		<-n.asked
		cancel(context.DeadlineExceeded)
	}()
	_, err := c.invoke(ctx, "{}")
	wantCode(t, err, wire.CodeInternal, false)
	if !strings.Contains(err.Error(), "node a did not answer in time") {
		t.Error(err)
	}
}

func TestCutCallsSayWhy(t *testing.T) {
	c := newCluster(t)
	n := c.addNode("a", 1, func(wire.InvokeRequest, []byte) (*wire.InvokeReply, []byte) { return nil, nil })
	ctx, cancel := context.WithCancelCause(t.Context())
	go func() {
		<-n.asked
		cancel(errors.New("the gateway is being stopped"))
	}()
	_, err := c.invoke(ctx, "{}")
	wantCode(t, err, wire.CodeUnavailable, false)
	if !strings.Contains(err.Error(), "the gateway is being stopped") {
		t.Error(err)
	}
	_, err = c.invoke(ctx, "{}") // and one that waits for a scheduler
	wantCode(t, err, wire.CodeUnavailable, true)
	if !strings.Contains(err.Error(), "the gateway is being stopped") {
		t.Error(err)
	}
}

func TestMalformedAnswer(t *testing.T) {
	c := newCluster(t)
	c.addNode("a", 1, nil)
	if _, err := c.conn.Subscribe(wire.NodeInvokeSubject("a"), "", func(m bus.Msg) { _ = m.Respond([]byte{0, 0}) }); err != nil {
		t.Fatal(err)
	}
	_, err := c.invoke(t.Context(), "{}")
	wantCode(t, err, wire.CodeInternal, false)
}

// TestClaimChecks: what NATS does not take goes by S3, both ways, and is removed.
func TestClaimChecks(t *testing.T) {
	c := newCluster(t)
	large := bytes.Repeat([]byte("x"), 2<<20)
	var mu sync.Mutex
	var request wire.InvokeRequest
	c.addNode("a", 1, func(req wire.InvokeRequest, event []byte) (*wire.InvokeReply, []byte) {
		mu.Lock()
		request = req
		mu.Unlock()
		stored, err := c.store.GetBytes(t.Context(), req.PayloadKey, wire.MaxEvent)
		if err != nil || len(event) != 0 || !bytes.Equal(stored, large) {
			t.Errorf("%d bytes in the message, %d in S3, %v", len(event), len(stored), err)
		}
		key := wire.ResponseKey(req.Invocation)
		if err := c.store.PutBytes(t.Context(), key, stored, "application/json"); err != nil {
			t.Error(err)
		}
		return &wire.InvokeReply{Instance: "i1", PayloadKey: key}, nil
	})
	result, err := c.invoke(t.Context(), string(large))
	if err != nil || !bytes.Equal(result.Body, large) {
		t.Fatalf("%d bytes, %v", len(result.Body), err)
	}
	if err := c.Stop(t.Context()); err != nil { // waits for the clean-up
		t.Fatal(err)
	}
	mu.Lock()
	defer mu.Unlock()
	for _, key := range []string{request.PayloadKey, wire.ResponseKey(id)} {
		if found, err := c.store.Exists(t.Context(), key); found || err != nil || key == "" {
			t.Errorf("%s: exists %t, %v", key, found, err)
		}
	}
}

func TestClaimCheckIsLost(t *testing.T) {
	c := newCluster(t)
	c.addNode("a", 1, func(wire.InvokeRequest, []byte) (*wire.InvokeReply, []byte) {
		return &wire.InvokeReply{Instance: "i1", PayloadKey: "payloads/nothing"}, nil
	})
	_, err := c.invoke(t.Context(), "{}")
	wantCode(t, err, wire.CodeInternal, false)
}

func TestBadStatesAreLeftOut(t *testing.T) {
	c := newCluster(t)
	if err := c.conn.Publish(wire.NodeStateSubject("bad"), []byte("{")); err != nil {
		t.Fatal(err)
	}
	c.addNode("a", 1, echo(false)) // comes after it
	if nodes := c.Nodes(); len(nodes) != 1 {
		t.Errorf("nodes %v", nodes)
	}
}

// TestStartAsksTheNodes: a gateway that comes later does not wait for a heartbeat.
func TestStartAsksTheNodes(t *testing.T) {
	c := newCluster(t)
	probed := make(chan struct{}, 1)
	if _, err := c.conn.Subscribe(wire.NodeProbeSubject, "", func(bus.Msg) { probed <- struct{}{} }); err != nil {
		t.Fatal(err)
	}
	later := New(c.conn, c.store, c.waits, embedtest.Discard())
	if err := later.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	embedtest.Receive(t, probed)
	if err := later.Stop(t.Context()); err != nil {
		t.Error(err)
	}
}

func TestNodeViewAsJSON(t *testing.T) {
	data, err := json.Marshal(NodeView{NodeState: wire.NodeState{Node: "a"}, LastSeen: begin})
	if err != nil || !bytes.Contains(data, []byte(`"node":"a"`)) || !bytes.Contains(data, []byte(`"lastSeen":"2026-05-01T12:00:00Z"`)) {
		t.Errorf("%s, %v", data, err)
	}
}
