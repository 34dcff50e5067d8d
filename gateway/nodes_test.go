package gateway

import (
	"errors"
	"net/http"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/dayfly-run/dayfly/internal/bus"
	"github.com/dayfly-run/dayfly/internal/dispatch"
	"github.com/dayfly-run/dayfly/internal/embed/embedtest"
	"github.com/dayfly-run/dayfly/wire"
)

func TestDrainNode(t *testing.T) {
	w := newWorld(t)
	wantProblem(t, w.ask(http.MethodPut, "/v1/nodes/n1/drain", nil), 404, wire.CodeNotFound, "`dayfly nodes`")
	w.node(w.deployed(hello), echo)
	const path = "/v1/nodes/n1/drain"
	for _, method := range []string{http.MethodGet, http.MethodPut, http.MethodDelete} {
		wantProblem(t, w.ask(method, "/v1/nodes/n2/drain", nil), 404, wire.CodeNotFound, "do you mean n1?")
		wantProblem(t, w.ask(method, "/v1/nodes/no.key%3E/drain", nil), 404, wire.CodeNotFound, "no node")
	}
	if got := decode[wire.DrainState](t, w.ask(http.MethodGet, path, nil), 200); got.Ordered || got.Gone || got.Draining {
		t.Errorf("before: %+v", got)
	}
	first := decode[wire.DrainState](t, w.ask(http.MethodPut, path, nil), 200)
	if !first.Ordered || first.Since.IsZero() || first.Drained || first.Node != "n1" {
		t.Errorf("%+v", first)
	}
	for _, method := range []string{http.MethodPut, http.MethodGet} { // once more changes nothing
		if got := decode[wire.DrainState](t, w.ask(method, path, nil), 200); !got.Ordered || !got.Since.Equal(first.Since) {
			t.Errorf("%s: %+v, first %+v", method, got, first)
		}
	}
	for range 2 {
		if got := decode[wire.DrainState](t, w.ask(http.MethodDelete, path, nil), 200); got.Ordered || !got.Since.IsZero() {
			t.Errorf("taken back: %+v", got)
		}
	}
	if got := decode[wire.DrainState](t, w.ask(http.MethodPut, path, nil), 200); !got.Ordered {
		t.Errorf("again: %+v", got)
	}
}

// TestGoneNodes: an order to a node that does not live is seen, and can be taken back.
func TestGoneNodes(t *testing.T) {
	w := newWorld(t)
	if _, err := w.orders.bucket.Create(t.Context(), "lost", []byte(`{"draining":true}`)); err != nil {
		t.Fatal(err)
	}
	type list struct{ Nodes []nodeView }
	nodes := func() []nodeView { return decode[list](t, w.ask(http.MethodGet, "/v1/nodes", nil), 200).Nodes }
	embedtest.Eventually(t, "the order is heard of", func() bool {
		n := nodes()
		return len(n) == 1 && n[0].Node == "lost" && n[0].Gone && n[0].Draining
	})
	w.alive()
	if got := nodes(); len(got) != 2 || got[1].Node != "n1" || got[1].Gone || !got[1].OtherBuild {
		t.Errorf("%+v", got)
	}
	if got := decode[wire.DrainState](t, w.ask(http.MethodGet, "/v1/nodes/lost/drain", nil), 200); !got.Ordered || !got.Gone || got.Drained {
		t.Errorf("%+v", got)
	}
	if got := decode[wire.DrainState](t, w.ask(http.MethodDelete, "/v1/nodes/lost/drain", nil), 200); got.Ordered {
		t.Errorf("%+v", got)
	}
	embedtest.Eventually(t, "it is forgotten", func() bool { return len(nodes()) == 1 })
	wantProblem(t, w.ask(http.MethodDelete, "/v1/nodes/lost/drain", nil), 404, wire.CodeNotFound, "lost")
}

// TestUnreadableOrders change nothing, and can be overwritten and taken back.
func TestUnreadableOrders(t *testing.T) {
	w := newWorld(t)
	damage := func(id string) {
		t.Helper()
		_, err := w.orders.bucket.Create(t.Context(), id, []byte("nonsense"))
		if err != nil {
			e, err := w.orders.bucket.Get(t.Context(), id)
			if err == nil {
				_, err = w.orders.bucket.Update(t.Context(), id, []byte("nonsense"), e.Revision)
			}
			if err != nil {
				t.Fatal(err)
			}
		}
	}
	const path = "/v1/nodes/n1/drain"
	damage("n1")
	wantProblem(t, w.ask(http.MethodGet, path, nil), 500, wire.CodeInternal, "`dayfly drain`")
	for range 2 {
		if got := decode[wire.DrainState](t, w.ask(http.MethodPut, path, nil), 200); !got.Ordered || got.Since.IsZero() {
			t.Errorf("ordered anew: %+v", got)
		}
	}
	embedtest.Eventually(t, "the order is heard of", func() bool { return len(w.orders.draining()) == 1 })
	damage("n1")
	damage("n2")
	w.alive() // n1
	if _, err := w.orders.bucket.Create(t.Context(), "n3", []byte(`{"draining":true}`)); err != nil {
		t.Fatal(err)
	}
	embedtest.Eventually(t, "what comes behind is heard of", func() bool {
		_, heard := w.orders.draining()["n3"]
		return heard
	})
	if _, drains := w.orders.draining()["n1"]; !drains || len(w.orders.draining()) != 2 {
		t.Errorf("a damaged order counts: %v", w.orders.draining())
	}
	if got := decode[wire.DrainState](t, w.ask(http.MethodDelete, path, nil), 200); got.Ordered {
		t.Errorf("taken back: %+v", got)
	}
	if got := decode[wire.DrainState](t, w.ask(http.MethodGet, path, nil), 200); got.Ordered {
		t.Errorf("afterwards: %+v", got)
	}
}

// TestOrdersAreChangedByCompareAndSet: who is overtaken reads again, and gives up at last.
func TestOrdersAreChangedByCompareAndSet(t *testing.T) {
	w := newWorld(t)
	w.alive()
	tries := 0
	_, err := w.orders.change(t.Context(), "n1", func(wire.NodeOrder, uint64) (wire.NodeOrder, error) {
		if tries++; tries < 3 {
			return wire.NodeOrder{}, bus.ErrConflict
		}
		return wire.NodeOrder{}, nil
	})
	if err != nil || tries != 3 {
		t.Errorf("%d tries: %v", tries, err)
	}
	for failure, code := range map[error]wire.Code{bus.ErrExists: wire.CodeConflict, errors.New("NATS is down"): wire.CodeUnavailable} {
		_, err := w.orders.change(t.Context(), "n1", func(wire.NodeOrder, uint64) (wire.NodeOrder, error) { return wire.NodeOrder{}, failure })
		if !wire.HasCode(err, code) {
			t.Errorf("%v: %v, want %s", failure, err, code)
		}
	}
}

func TestDrainState(t *testing.T) {
	since := time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC)
	v := wire.VersionID{FunctionID: hello, Number: 3}
	on := func(id wire.NodeID, edit func(*wire.NodeState), versions ...wire.VersionOnNode) dispatch.NodeView {
		n := dispatch.NodeView{NodeState: wire.NodeState{Node: id, Versions: versions}}
		if edit != nil {
			edit(&n.NodeState)
		}
		return n
	}
	drains := func(s *wire.NodeState) {
		s.Draining, s.Reserved.Instances, s.Stems = true, 4, map[string]int{"python/none": 2}
	}
	nodes := []dispatch.NodeView{
		on("a", drains, wire.VersionOnNode{Version: v, Idle: 1, Busy: 2, Kept: 2}, wire.VersionOnNode{Version: wire.VersionID{FunctionID: other, Number: 1}, Busy: 1}),
		on("b", nil, wire.VersionOnNode{Version: v, Starting: 1, Idle: 1, Kept: 2}),
		on("c", drains, wire.VersionOnNode{Version: v, Idle: 1, Kept: 1}),
		on("e", nil, wire.VersionOnNode{Version: v, Idle: 1, Kept: 1}),
	}
	nodes[3].Incompatible = true
	for _, test := range []struct {
		id    wire.NodeID
		nodes []dispatch.NodeView
		want  wire.DrainState
	}{
		{"a", nodes, wire.DrainState{
			Node: "a", Ordered: true, Since: since, Draining: true, Instances: 4, Busy: 3, Stems: 2,
			Kept: []wire.KeptOnNode{{Version: v, Count: 2, Elsewhere: 2, Ready: 1}},
		}},
		{"x", nodes, wire.DrainState{Node: "x", Ordered: true, Since: since, Gone: true}},
		{"d", slices.Insert(slices.Clone(nodes), 0, on("d", func(s *wire.NodeState) { s.Draining, s.Drained = true, true })),
			wire.DrainState{Node: "d", Ordered: true, Since: since, Draining: true, Drained: true}},
	} {
		at := slices.IndexFunc(test.nodes, func(n dispatch.NodeView) bool { return n.Node == test.id })
		var node dispatch.NodeView
		if at >= 0 {
			node = test.nodes[at]
		}
		got := drainOf(test.id, wire.NodeOrder{Draining: true, At: since}, node, at >= 0)
		countElsewhere(&got, test.nodes)
		if diff := cmp.Diff(test.want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", test.id, diff)
		}
	}
}
