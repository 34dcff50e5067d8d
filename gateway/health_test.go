package gateway

import (
	"encoding/json"
	"net/http"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/dayfly-run/dayfly/internal/bus"
	"github.com/dayfly-run/dayfly/internal/embed/embedtest"
	"github.com/dayfly-run/dayfly/wire"
)

// TestHealth: what is missing is named, with what to do.
func TestHealth(t *testing.T) {
	type answer struct {
		Build  string
		Checks []struct{ Name, Problem string }
	}
	w := newWorld(t)
	look := func() (missing []string) {
		t.Helper()
		got := decode[answer](t, w.ask(http.MethodGet, "/v1/health", nil), http.StatusOK)
		if got.Build != "test" || len(got.Checks) != 5 {
			t.Errorf("got %+v", got)
		}
		for _, c := range got.Checks {
			if c.Problem != "" {
				missing = append(missing, c.Name)
			}
			if c.Name == "builder" && c.Problem != "" && !strings.Contains(c.Problem, "dayfly builder") {
				t.Errorf("of the builder: %s", c.Problem)
			}
		}
		return missing
	}
	if diff := cmp.Diff([]string{"nodes", "scheduler", "builder"}, look()); diff != "" {
		t.Errorf("missing (-want +got):\n%s", diff)
	}
	w.node(w.deployed(hello), echo)
	w.scheduler(wire.PlaceReply{})
	if _, err := w.conn.Subscribe(wire.RebuildSubject, wire.BuildGroup, func(m bus.Msg) {
		if err := m.Respond([]byte("{}")); err != nil {
			t.Error(err)
		}
	}); err != nil {
		t.Fatal(err)
	}
	// The server must know of the subscription before others ask.
	if _, err := w.conn.Request(t.Context(), wire.RebuildSubject, []byte("{}")); err != nil {
		t.Fatal(err)
	}
	if missing := look(); missing != nil {
		t.Errorf("missing: %v", missing)
	}
	if err := w.Ready(t.Context()); err != nil {
		t.Error(err)
	}
}

// TestNodesThatTakeNothing: a gateway is not ready with nodes that drain, or that it does
// not understand.
func TestNodesThatTakeNothing(t *testing.T) {
	w := newWorld(t)
	say := func(n wire.NodeState) {
		t.Helper()
		data, err := json.Marshal(wire.NodeWord{Whole: &n})
		if err == nil {
			err = w.conn.Publish(wire.NodeStateSubject(n.Node), data)
		}
		if err != nil {
			t.Fatal(err)
		}
		embedtest.Eventually(t, "the node is heard", func() bool {
			got, lives := w.dispatcher.Node(n.Node)
			return lives && got.Seq == n.Seq
		})
	}
	hint := func() string {
		t.Helper()
		err := w.nodesReady(t.Context())
		if err == nil {
			return ""
		}
		return err.Error()
	}
	if got := hint(); !strings.Contains(got, "start an invoker") {
		t.Errorf("without nodes: %q", got)
	}
	warm := []wire.VersionOnNode{{Version: wire.VersionID{FunctionID: hello, Number: 1}, Slots: 1}}
	for i, n := range []wire.NodeState{
		{Protocol: wire.Protocol, Draining: true},
		{Protocol: wire.Protocol + 2, Versions: warm},
	} {
		n.Node, n.Run, n.Seq = "n1", "r1", uint64(i)+1
		if say(n); !strings.Contains(hint(), "`dayfly nodes`") || w.warm() {
			t.Errorf("with node %d: %q, warm %t", i, hint(), w.warm())
		}
	}
	say(wire.NodeState{Node: "n1", Run: "r1", Seq: 3, Protocol: wire.Protocol, Versions: warm})
	if got := hint(); got != "" || !w.warm() {
		t.Errorf("with a node: %q, warm %t", got, w.warm())
	}
}
