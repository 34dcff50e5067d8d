package gateway

import (
	"net/http"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/dayfly-run/dayfly/internal/bus"
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
