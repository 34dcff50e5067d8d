package invoker

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/dayfly-run/dayfly/functions"
	"github.com/dayfly-run/dayfly/invoker/pool"
	"github.com/dayfly-run/dayfly/invoker/sandbox/fake"
	"github.com/dayfly-run/dayfly/wire"
)

// keep sends the node a command, as the leading scheduler does.
func (n *node) keep(req wire.KeepRequest) *wire.Error {
	n.tb.Helper()
	data, err := json.Marshal(req)
	must(n.tb, err)
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	data, err = shared.conn.Request(ctx, wire.NodeControlSubject(n.id), data)
	must(n.tb, err)
	var reply wire.KeepReply
	must(n.tb, json.Unmarshal(data, &reply))
	return reply.Error
}

func (n *node) mustKeep(req wire.KeepRequest) {
	n.tb.Helper()
	if err := n.keep(req); err != nil {
		n.tb.Fatal(err)
	}
}

func (n *node) wantRefused(req wire.KeepRequest, code wire.Code) {
	n.tb.Helper()
	if err := n.keep(req); err == nil || err.Code != code {
		n.tb.Errorf("%+v: %v, want %s", req, err, code)
	}
}

func TestKeptInstances(t *testing.T) {
	n := startNode(t, each(echo), idleLimit(20*time.Millisecond))
	v := n.deploy()
	first, second := newLease(), newLease()
	n.mustKeep(wire.KeepRequest{Version: v, Count: 1, Epoch: 3, Lease: first})
	n.awaitCount(v, wire.VersionOnNode{Idle: 1, Slots: 1, Kept: 1})
	n.mustKeep(wire.KeepRequest{Version: v, Count: 2, Epoch: 3, Lease: second})
	s := n.await("keeping two", func(s wire.NodeState) bool { return len(s.Versions) == 1 && s.Versions[0].Idle == 2 })
	if !slices.Contains(s.Settled, first) || !slices.Contains(s.Settled, second) {
		t.Errorf("settled are %v", s.Settled)
	}
	if s.Idle != (wire.Resources{}) {
		t.Errorf("%+v would be given back, but they are kept", s.Idle)
	}
	a := n.warm(v, `1`)
	n.wantBody(a, `1`)
	if a.Cold {
		t.Error("a call of a kept instance waited for a start")
	}
	// One that is gone is replaced.
	n.inv.mu.Lock()
	in := n.inv.instances[a.Instance]
	n.inv.mu.Unlock()
	in.container.Kill()
	<-in.gone
	n.awaitCount(v, wire.VersionOnNode{Idle: 2, Slots: 2, Kept: 2})
	n.wantRefused(wire.KeepRequest{Version: v, Count: 0, Epoch: 2}, wire.CodeUnavailable)
	n.wantRefused(wire.KeepRequest{Version: v, Count: 1000, Epoch: 3}, wire.CodeInvalid)
	n.mustKeep(wire.KeepRequest{Version: v, Count: 0, Epoch: 4})
	n.await("empty", func(s wire.NodeState) bool { return s.Reserved == wire.Resources{} && len(s.Versions) == 0 })
}

// TestKeptAreNotEvicted: another function gets no room from them, and they get room
// from idle ones.
func TestKeptAreNotEvicted(t *testing.T) {
	n := startNode(t, each(echo), instances(2))
	kept, idle, other := n.deploy(), n.deploy(), n.deploy()
	n.wantBody(n.cold(idle, `1`), `1`)
	n.wantBody(n.cold(other, `1`), `1`)
	n.mustKeep(wire.KeepRequest{Version: kept, Count: 1})
	n.awaitCount(kept, wire.VersionOnNode{Idle: 1, Slots: 1, Kept: 1})
	n.mustKeep(wire.KeepRequest{Version: kept, Count: 2})
	n.awaitCount(kept, wire.VersionOnNode{Idle: 2, Slots: 2, Kept: 2})
	n.wantError(n.cold(other, `2`), wire.CodeNoCapacity, true, "no room")
	n.mustKeep(wire.KeepRequest{Version: kept, Count: 1})
	n.wantBody(n.cold(other, `3`), `3`)
	n.awaitCount(kept, wire.VersionOnNode{Idle: 1, Slots: 1, Kept: 1})
}

// TestKeptWhatIsThere: instances that calls started count; the lease is given back.
func TestKeptWhatIsThere(t *testing.T) {
	n := startNode(t, each(echo))
	v := n.deploy()
	n.wantBody(n.cold(v, `1`), `1`)
	lease := newLease()
	n.mustKeep(wire.KeepRequest{Version: v, Count: 1, Lease: lease})
	s := n.await("keeping", func(s wire.NodeState) bool { return len(s.Versions) == 1 && s.Versions[0].Kept == 1 })
	if !slices.Contains(s.Settled, lease) || s.Versions[0].Idle != 1 || n.sandbox.Started() != 1 {
		t.Errorf("%+v, %d started", s, n.sandbox.Started())
	}
}

// TestKeptDoesNotStart: it is tried again after a pause, and given up when the version
// is deleted.
func TestKeptDoesNotStart(t *testing.T) {
	n := startNode(t, each(echo))
	v := n.deploy()
	n.sandbox.Set(func(k *fake.Knobs) { k.StartError = errors.New("no such image") })
	lease := newLease()
	n.mustKeep(wire.KeepRequest{Version: v, Count: 1, Lease: lease})
	n.await("rid of the lease", func(s wire.NodeState) bool { return slices.Contains(s.Settled, lease) })
	n.sandbox.Set(func(k *fake.Knobs) { k.StartError = nil })
	n.awaitCount(v, wire.VersionOnNode{Idle: 1, Slots: 1, Kept: 1})
	_, err := n.registry.Delete(t.Context(), v.FunctionID, time.Now())
	must(t, err)
	n.inv.mu.Lock()
	for _, in := range n.inv.instances {
		in.container.Kill()
	}
	n.inv.mu.Unlock()
	n.await("empty", func(s wire.NodeState) bool { return len(s.Versions) == 0 && s.Reserved == wire.Resources{} })
}

func TestStoppingNodeKeepsNothing(t *testing.T) {
	hold := make(chan struct{})
	n := startNode(t, each(func(_ *process, _ string, event []byte) ([]byte, error) {
		<-hold
		return event, nil
	}))
	v, kept := n.deploy(), n.deploy()
	n.mustKeep(wire.KeepRequest{Version: kept, Count: 1})
	n.awaitCount(kept, wire.VersionOnNode{Idle: 1, Slots: 1, Kept: 1})
	call := n.background(v, `1`)
	n.awaitCount(v, wire.VersionOnNode{Busy: 1, Slots: 1})
	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		n.stop(patience)
	}()
	s := n.await("draining", func(s wire.NodeState) bool { return s.Draining })
	for _, on := range s.Versions {
		if on.Kept != 0 || on.Slots != 0 {
			t.Errorf("a node that stops keeps %+v", on)
		}
	}
	close(hold)
	n.wantBody(<-call, `1`)
	<-stopped
}

func TestMalformedCommand(t *testing.T) {
	n := startNode(t, each(echo))
	data, err := shared.conn.Request(t.Context(), wire.NodeControlSubject(n.id), []byte("nonsense"))
	must(t, err)
	var reply wire.KeepReply
	must(t, json.Unmarshal(data, &reply))
	if reply.Error == nil || reply.Error.Code != wire.CodeInternal {
		t.Errorf("%+v", reply)
	}
}

// TestKeptInstanceLogs: what it prints before its first call is the instance's own.
func TestKeptInstanceLogs(t *testing.T) {
	n := startNode(t, func(p *process) int {
		p.print("loading\n")
		return each(echo)(p)
	})
	v := n.deploy()
	logs := listen[wire.LogEntry](t, wire.LogSubject(v.FunctionID, ""))
	n.mustKeep(wire.KeepRequest{Version: v, Count: 1})
	if e := receive(t, logs); e.Invocation != "" || e.Text != "loading\n" || e.Last || e.Version != v {
		t.Errorf("%+v", e)
	}
}

// expect lets the node believe that a version is called every minute, and that the
// next call is near.
func (n *node) expect(v wire.VersionID) {
	n.tb.Helper()
	shape := pool.Shape{Needs: (functions.Spec{MemoryBytes: 128 * mib, CPUMillis: 100}).Needs(), Slots: 1}
	n.inv.mu.Lock()
	defer n.inv.mu.Unlock()
	at := time.Now()
	used := func(id string, v wire.VersionID, at time.Time) {
		must(n.tb, n.inv.pool.Add(wire.InstanceID(id), v, shape, at))
		for _, to := range []pool.State{pool.Busy, pool.Draining, pool.Gone} {
			must(n.tb, n.inv.pool.Move(wire.InstanceID(id), to, at))
		}
	}
	for i := range 5 {
		used(fmt.Sprint("before-", i), v, at)
		at = at.Add(time.Minute)
	}
	if _, ok := n.inv.pool.NextDue(at.Add(-30 * time.Second)); !ok {
		n.tb.Fatal("no call is expected")
	}
	// The clock of the pool goes by the latest that it was told.
	used("other", wire.VersionID{FunctionID: wire.FunctionID{Namespace: "default", Name: "other"}, Number: 1}, at.Add(-time.Second))
	n.inv.tendSoon()
}

func TestStartsAheadOfACall(t *testing.T) {
	n := startNode(t, each(echo))
	v := n.deploy()
	n.expect(v)
	n.awaitCount(v, wire.VersionOnNode{Idle: 1, Slots: 1})
	a := n.warm(v, `1`)
	n.wantBody(a, `1`)
	if a.Cold {
		t.Error("the call waited for a start")
	}
}

// TestStartsAheadEvictNobody: an instance for a call that may come is not worth one
// that is there.
func TestStartsAheadEvictNobody(t *testing.T) {
	n := startNode(t, each(echo), instances(1))
	v, other := n.deploy(), n.deploy()
	n.expect(v)
	n.awaitCount(v, wire.VersionOnNode{Idle: 1, Slots: 1})
	n.inv.aheads <- struct{}{}
	n.inv.startAhead(other)
	n.wantBody(n.warm(v, `1`), `1`)
	n.wantError(n.warm(other, `1`), wire.CodeNoInstance, true, "")
}
