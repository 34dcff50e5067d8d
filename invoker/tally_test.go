package invoker

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/dayfly-run/dayfly/wire"
)

func TestTallies(t *testing.T) {
	version := func(name string, number int) wire.VersionID {
		return wire.VersionID{FunctionID: wire.FunctionID{Namespace: "default", Name: name}, Number: number}
	}
	now := time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC)
	var counts tallies
	if got := counts.list(now); got != nil {
		t.Errorf("of nothing: %v", got)
	}
	counts.add(version("b", 1), wire.InvokeReply{RunMicros: 100, Cold: true}, now)
	counts.add(version("a", 2), wire.InvokeReply{Error: wire.Errorf(wire.CodeFunctionError, "x"), RunMicros: 7}, now.Add(time.Second))
	counts.add(version("b", 1), wire.InvokeReply{RunMicros: 50}, now.Add(5*time.Second))
	want := []wire.Ran{{Version: version("a", 2), Calls: 1, Errors: 1, RunMicros: 7}, {Version: version("b", 1), Calls: 2, Cold: 1, RunMicros: 150}}
	if diff := cmp.Diff(want, counts.list(now.Add(tallyKept))); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	// What was forgotten begins at zero.
	if diff := cmp.Diff(want[1:], counts.list(now.Add(tallyKept+2*time.Second))); diff != "" {
		t.Errorf("later (-want +got):\n%s", diff)
	}
	counts.add(version("a", 2), wire.InvokeReply{}, now.Add(tallyKept+2*time.Second))
	if got := counts.list(now.Add(tallyKept + 2*time.Second)); len(got) != 2 || got[0].Calls != 1 {
		t.Errorf("again: %v", got)
	}
	for n := range 2 * maxTallies {
		counts.add(version("c", n), wire.InvokeReply{}, now)
	}
	if len(counts.count) != maxTallies {
		t.Errorf("%d versions are counted", len(counts.count))
	}
}
