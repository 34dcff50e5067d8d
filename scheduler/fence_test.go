package scheduler

import (
	"strconv"
	"testing"
	"time"

	"github.com/dayfly-run/dayfly/wire"
)

func TestFences(t *testing.T) {
	now := time.Now()
	var none *fences
	if over, tell := none.heard(runOf{"n", "r"}, now); over || tell {
		t.Error("one that does not lead has given up a run")
	}
	f := newFences(nil)
	f.add(runOf{"n", "a"}, now)
	f.add(runOf{"n", "a"}, now.Add(time.Second))
	if over, _ := f.heard(runOf{"another", "a"}, now); over {
		t.Error("another node's run was given up")
	}
	type heard struct{ over, tell bool }
	for i, h := range []struct {
		run   string
		after time.Duration
		want  heard
	}{
		{"b", 0, heard{}},
		{"a", 0, heard{true, true}},
		{"a", fenceEvery - 1, heard{over: true}},
		{"a", fenceEvery, heard{true, true}},
		{"a", fenceEvery + 1, heard{over: true}},
	} {
		if over, tell := f.heard(runOf{"n", h.run}, now.Add(h.after)); (heard{over, tell}) != h.want {
			t.Errorf("word %d: over %t, tell %t", i, over, tell)
		}
	}
	f.add(runOf{"n", "b"}, now.Add(fencedFor))
	if over, _ := f.heard(runOf{"n", "a"}, now); !over {
		t.Error("forgotten too soon")
	}
	f.add(runOf{"n", "c"}, now.Add(fencedFor+1))
	if over, _ := f.heard(runOf{"n", "a"}, now); over {
		t.Error("never forgotten")
	}
	for i := range 2 * maxFenced {
		f.add(runOf{"n", strconv.Itoa(i)}, now.Add(fencedFor+2))
	}
	if len(f.runs) != maxFenced || len(f.order) != maxFenced {
		t.Errorf("%d runs are remembered, in an order of %d", len(f.runs), len(f.order))
	}
	if over, _ := f.heard(runOf{"n", strconv.Itoa(2*maxFenced - 1)}, now); !over {
		t.Error("the newest one was forgotten")
	}
}

// Who did not listen must not take a node for silent.
func TestNobodyIsLostWhileNobodyListened(t *testing.T) {
	table, now := newTestTable(), epochStart
	mustReport(t, table, stateOf("a", "r", 1), now)
	now = now.Add(wire.NodeLostAfter + time.Second)
	table.listening = now.Add(-wire.NodeLostAfter)
	if lost, _ := table.sweep(now); len(lost) != 0 {
		t.Fatalf("%v is lost", lost)
	}
	lost, _ := table.sweep(now.Add(1))
	if len(lost) != 1 || lost[0].id != "a" || lost[0].run != "r" {
		t.Errorf("lost are %v", lost)
	}
}
