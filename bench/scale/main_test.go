package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/dayfly-run/dayfly/bench/internal/child"
	"github.com/dayfly-run/dayfly/bench/internal/command"
	"github.com/dayfly-run/dayfly/bench/internal/fleet"
	"github.com/dayfly-run/dayfly/internal/bus"
	"github.com/dayfly-run/dayfly/internal/embed/embedtest"
	"github.com/dayfly-run/dayfly/wire"
)

// TestMain lets the test binary be the parts that it starts.
func TestMain(m *testing.M) {
	if child.Role() != "" {
		os.Exit(command.Run("scale", run))
	}
	os.Exit(m.Run())
}

func TestTables(t *testing.T) {
	var out bytes.Buffer
	small := settings{nodes: 10, functions: 20, window: time.Second / 10, tries: 2}
	if err := measureNodes(t.Context(), small, &out); err != nil {
		t.Fatal(err)
	}
	if err := measureFunctions(t.Context(), small, &out); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"10 nodes, a heartbeat every", "| what changed: nothing ", "| all of the state each time ", "led after",
		"20 functions that are only registered", "| 3 ",
	} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("no %q in:\n%s", want, &out)
		}
	}
	if strings.Contains(out.String(), "none: ") || strings.Contains(out.String(), "then: ") {
		t.Errorf("a try failed:\n%s", &out)
	}
}

func TestFlags(t *testing.T) {
	for _, args := range []string{"-only=node", "-nodes=1", "-functions=10", "-window=1ms", "-window=2h", "nodes"} {
		if _, err := parse([]string{args}); err == nil {
			t.Errorf("%s is taken", args)
		}
	}
	if s, err := parse([]string{"-only=nodes", "-nodes=20"}); err != nil || s.only != onlyNodes || s.nodes != 20 {
		t.Errorf("%+v, %v", s, err)
	}
}

// What was timed before a failure is shown with it.
func TestTiming(t *testing.T) {
	tries := 0
	took, err := repeat(5, func() (time.Duration, error) {
		if tries++; tries == 3 {
			return 0, errors.New("too slow")
		}
		return time.Duration(tries) * 10 * time.Millisecond, nil
	})
	if got := timing(answer{Took: took}, err); got != "15 ms / 20 ms in 2 tries, then: too slow" {
		t.Errorf("%q", got)
	}
	if got := timing(answer{}, err); got != "none: too slow" {
		t.Errorf("%q", got)
	}
	if got := timing(answer{Took: took}, nil); got != "15 ms / 20 ms" {
		t.Errorf("%q", got)
	}
}

// probedFleet is a fleet of one node, which says all of its state with each word.
func probedFleet(t *testing.T, conn *bus.Conn) *simulated {
	t.Helper()
	f := &simulated{conn: conn, calls: make(chan time.Time, lateCalls)}
	if err := f.begin(t.Context(), 1); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(f.nodes.Stop)
	f.nodes.Speak(fleet.Mode{Whole: true})
	return f
}

func (f *simulated) now() (st wire.NodeState) {
	f.nodes.Say(nodeName(probed), func(now *wire.NodeState) { st = *now })
	return st
}

func listen(t *testing.T, conn *bus.Conn, subject string, handle func(bus.Msg)) {
	t.Helper()
	if _, err := conn.Subscribe(subject, "", handle); err != nil {
		t.Fatal(err)
	}
}

// A placement that fails leaves the probed node without room.
func TestFailedPlacement(t *testing.T) {
	conn := embedtest.Connect(t, embedtest.NATS(t, t.TempDir()))
	f := probedFleet(t, conn)
	refusal, err := json.Marshal(wire.PlaceReply{Error: wire.Errorf(wire.CodeInternal, "no")})
	if err != nil {
		t.Fatal(err)
	}
	listen(t, conn, wire.PlaceSubject, func(m bus.Msg) { _ = m.Respond(refusal) })
	if took, err := f.timePlacements(t.Context(), 1); err == nil {
		t.Errorf("a refusal took %s", took)
	}
	if got := f.now().Reserved; got != reserved() {
		t.Errorf("the node keeps its room: %+v", got)
	}
}

// A call that does not come leaves the probed node without an instance for it, and one that
// came late is none of the next try's.
func TestFailedCall(t *testing.T) {
	conn := embedtest.Connect(t, embedtest.NATS(t, t.TempDir()))
	f := probedFleet(t, conn)
	ctx, cancel := context.WithCancel(t.Context())
	f.calls <- time.Now()
	listen(t, conn, callSubject, func(m bus.Msg) { _ = m.Respond([]byte(callWaits)) })
	listen(t, conn, wire.NodeStateSubject(nodeName(probed)), func(m bus.Msg) {
		if bytes.Contains(m.Data, []byte(probeVersion().Name)) {
			cancel()
		}
	})
	if took, err := f.timeCall(ctx); err == nil {
		t.Errorf("no call came, and took %s", took)
	}
	if got := f.now().Versions; len(got) != nodeVersions {
		t.Errorf("the node keeps its instance: %+v", got)
	}
}
