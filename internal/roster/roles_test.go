package roster_test

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

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
	return self(t, server, func() wire.RoleState { return state }).Start(t.Context())
}

// self answers for a process until the test ends.
func self(t *testing.T, server *natsserver.Server, state func() wire.RoleState) *roster.Self {
	t.Helper()
	self := roster.NewSelf(embedtest.Connect(t, server), state, embedtest.Discard())
	t.Cleanup(func() {
		for range 2 { // again: nothing happens
			if err := self.Stop(context.Background()); err != nil {
				t.Error(err)
			}
		}
	})
	return self
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
		0:                 "too old",
		wire.Protocol - 2: "too old",
		wire.Protocol + 2: "too new",
	} {
		want = fmt.Sprintf("the invoker of node n1 on h1 runs Dayfly v0 with protocol %d, %s", protocol, want)
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
	if _, err := conn.Subscribe(wire.RoleProtocolSubject, wire.RoleProtocolGroup(wire.Protocol+2), func(m bus.Msg) {
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

// TestAStartAsksOneOfEachProtocol, however many there are.
func TestAStartAsksOneOfEachProtocol(t *testing.T) {
	server := embedtest.NATS(t, t.TempDir())
	var told [2]atomic.Int32
	var all []*roster.Self
	for n := range 6 {
		which := n % 2
		s := self(t, server, func() wire.RoleState {
			told[which].Add(1)
			return wire.RoleState{Process: fmt.Sprint(n), Role: "gateway", Protocol: wire.Protocol + which}
		})
		if err := s.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
		all = append(all, s)
	}
	before := [2]int32{told[0].Load(), told[1].Load()}
	answers, err := embedtest.Connect(t, server).Ask(wire.RoleProtocolSubject, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer answers.Close()
	for range told {
		if _, err := answers.Next(t.Context(), time.Minute); err != nil {
			t.Fatal(err)
		}
	}
	for _, s := range all { // what they were asked is answered then
		if err := s.Stop(t.Context()); err != nil {
			t.Error(err)
		}
	}
	for which := range told {
		if n := told[which].Load() - before[which]; n != 1 {
			t.Errorf("%d answers of protocol %d, want 1", n, wire.Protocol+which)
		}
	}
}

// TestTwoMachinesWithOneNodeName: the second one does not start before the first has ended.
func TestTwoMachinesWithOneNodeName(t *testing.T) {
	server := embedtest.NATS(t, t.TempDir())
	first := wire.RoleState{Process: "1", Role: "invoker", Host: "h1", Node: "n1", Protocol: wire.Protocol, Since: time.Unix(0, 0)}
	s := self(t, server, func() wire.RoleState { return first })
	if err := s.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	second := first
	second.Process, second.Host = "2", "h2"
	other := second
	other.Node = "n2"
	if err := join(t, server, other); err != nil {
		t.Errorf("beside a node with another name: %v", err)
	}
	embedtest.Eventually(t, "the second one does not start", func() bool { // the answer may be late
		s := self(t, server, func() wire.RoleState { return second })
		err := s.Start(t.Context())
		if err == nil {
			return s.Stop(t.Context()) != nil
		}
		const want = "the invoker of node n1 on h1 has run under the same name since 1970-01-01T00:00:00Z: give each node its own with --node"
		if !wire.HasCode(err, wire.CodeInvalid) || !strings.Contains(err.Error(), want) {
			t.Fatal(err)
		}
		return true
	})
	if err := s.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := join(t, server, second); err != nil {
		t.Errorf("after the first has ended: %v", err)
	}
}

// TestTwoNodesOfOneNameThatStartAtOnce hear of each other: one answers before it asks.
func TestTwoNodesOfOneNameThatStartAtOnce(t *testing.T) {
	server := embedtest.NATS(t, t.TempDir())
	conn := embedtest.Connect(t, server)
	state := func(process string) wire.RoleState {
		return wire.RoleState{Process: process, Role: "invoker", Node: "n1", Protocol: wire.Protocol}
	}
	data, err := json.Marshal(state("1"))
	if err != nil {
		t.Fatal(err)
	}
	asked := make(chan *bus.Answers, 1)
	var first sync.Once
	if _, err := conn.Subscribe(wire.NodeRoleSubject("n1"), "", func(m bus.Msg) {
		first.Do(func() { // it starts as well
			answers, err := conn.Ask(wire.NodeRoleSubject("n1"), nil)
			if err != nil {
				t.Error(err)
			}
			asked <- answers
			if err := m.Respond(data); err != nil {
				t.Error(err)
			}
		})
	}); err != nil {
		t.Fatal(err)
	}
	_ = join(t, server, state("2")) // it may go on when the answer is late
	answers := embedtest.Receive(t, asked)
	defer answers.Close()
	m, err := answers.Next(t.Context(), time.Minute)
	var told wire.RoleState
	if err == nil {
		err = json.Unmarshal(m.Data, &told)
	}
	if err != nil || told.Process != "2" {
		t.Errorf("told %+v, %v", told, err)
	}
}
