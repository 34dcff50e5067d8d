package roster_test

import (
	"context"
	"encoding/json"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"github.com/dayfly-run/dayfly/internal/bus"
	"github.com/dayfly-run/dayfly/internal/embed/embedtest"
	"github.com/dayfly-run/dayfly/internal/embed/natsserver"
	"github.com/dayfly-run/dayfly/internal/roster"
	"github.com/dayfly-run/dayfly/wire"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// join starts a process' answering, and returns its error.
func join(t *testing.T, server *natsserver.Server, state wire.RoleState) error {
	t.Helper()
	self := roster.NewSelf(embedtest.Connect(t, server), func() wire.RoleState { return state }, embedtest.Discard())
	t.Cleanup(func() {
		for range 2 { // again: nothing happens
			if err := self.Stop(context.Background()); err != nil {
				t.Error(err)
			}
		}
	})
	return self.Start(t.Context())
}

func TestProcessesAnswer(t *testing.T) {
	server := embedtest.NATS(t, t.TempDir())
	conn := embedtest.Connect(t, server)
	roles, err := roster.Roles(t.Context(), conn, embedtest.Discard())
	if err != nil || len(roles) != 0 {
		t.Fatalf("nobody is there: %v, %v", roles, err)
	}
	for _, r := range []wire.RoleState{
		{Process: "3", Role: "scheduler", Host: "h1", Protocol: wire.Protocol, Leads: true},
		{Process: "2", Role: "gateway", Host: "h2", Protocol: wire.Protocol + 1},
		{Process: "1", Role: "gateway", Host: "h1", Protocol: wire.Protocol - 1},
	} {
		if err := join(t, server, r); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := conn.Subscribe(wire.RoleProbeSubject, "", func(m bus.Msg) {
		if err := m.Respond([]byte("{")); err != nil {
			t.Error(err)
		}
	}); err != nil {
		t.Fatal(err)
	}
	embedtest.Eventually(t, "all three answer, in order", func() bool { // one may be late
		roles, err := roster.Roles(t.Context(), conn, embedtest.Discard())
		if err != nil {
			t.Fatal(err)
		}
		if len(roles) != 3 {
			return false
		}
		for i, want := range []string{"1", "2", "3"} {
			if roles[i].Process != want || roles[i].At.IsZero() {
				t.Fatalf("they are %+v", roles)
			}
		}
		return true
	})
}

// TestProcessesThatDoNotUnderstandEachOther: the second one does not start, and says why.
func TestProcessesThatDoNotUnderstandEachOther(t *testing.T) {
	for protocol, want := range map[int]string{
		wire.Protocol - 2: "the invoker of node n1 on h1 runs Dayfly v0 with protocol -1, too old",
		wire.Protocol + 2: "the invoker of node n1 on h1 runs Dayfly v0 with protocol 3, too new",
	} {
		other := wire.RoleState{Role: "invoker", Host: "h1", Node: "n1", Build: "v0", Protocol: protocol}
		err := roster.Compatible([]roster.Role{{RoleState: wire.RoleState{Role: "gateway", Protocol: wire.Protocol}}, {RoleState: other}})
		if err == nil || !wire.HasCode(err, wire.CodeInvalid) || !strings.Contains(err.Error(), want) {
			t.Errorf("beside protocol %d: %v", protocol, err)
		}
	}
	server := embedtest.NATS(t, t.TempDir())
	conn := embedtest.Connect(t, server)
	data, err := json.Marshal(wire.RoleState{Role: "gateway", Host: "h1", Protocol: wire.Protocol + 2})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := conn.Subscribe(wire.RoleProbeSubject, "", func(m bus.Msg) {
		if err := m.Respond(data); err != nil {
			t.Error(err)
		}
	}); err != nil {
		t.Fatal(err)
	}
	embedtest.Eventually(t, "the second one does not start", func() bool { // the answer may be late
		return wire.HasCode(join(t, server, wire.RoleState{Role: "gateway", Protocol: wire.Protocol}), wire.CodeInvalid)
	})
}
