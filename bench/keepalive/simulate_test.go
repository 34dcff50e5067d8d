package main

import (
	"fmt"
	"io"
	"iter"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/dayfly-run/dayfly/bench/internal/trace"
	"github.com/dayfly-run/dayfly/invoker/keepalive"
	"github.com/dayfly-run/dayfly/wire"
)

// watched checks what the simulator does with a policy.
type watched struct {
	policy
	t        *rapid.T
	capacity int64
	bytes    map[wire.InstanceID]int64
	idle     map[wire.InstanceID]bool
	used     int64
	started  int
	removed  int
}

func (w *watched) enter(id wire.InstanceID, bytes int64) {
	w.started++
	w.bytes[id] = bytes
	if w.used += bytes; w.used > w.capacity {
		w.t.Fatalf("%d bytes of %d", w.used, w.capacity)
	}
}

func (w *watched) Start(id wire.InstanceID, v wire.VersionID, bytes int64, now time.Time) {
	w.enter(id, bytes)
	w.policy.Start(id, v, bytes, now)
}

func (w *watched) StartAhead(id wire.InstanceID, v wire.VersionID, bytes int64, now time.Time) {
	w.enter(id, bytes)
	w.policy.StartAhead(id, v, bytes, now)
}

func (w *watched) Busy(id wire.InstanceID, now time.Time) {
	if !w.idle[id] {
		w.t.Fatalf("%s is used twice at once", id)
	}
	w.idle[id] = false
	w.policy.Busy(id, now)
}

func (w *watched) Idle(id wire.InstanceID, now time.Time) {
	w.idle[id] = true
	w.policy.Idle(id, now)
}

func (w *watched) Remove(id wire.InstanceID, now time.Time) {
	if !w.idle[id] {
		w.t.Fatalf("%s is removed and not idle", id)
	}
	w.removed++
	w.used -= w.bytes[id]
	delete(w.idle, id)
	delete(w.bytes, id)
	w.policy.Remove(id, now)
}

var someTrace = rapid.Custom(func(t *rapid.T) *trace.Trace {
	made := &trace.Trace{Days: 1}
	for i := range rapid.IntRange(1, 6).Draw(t, "functions") {
		made.Functions = append(made.Functions, trace.Function{
			Name: fmt.Sprint("f", i), Bytes: int64(rapid.IntRange(1, 60).Draw(t, "mib")) << 20,
			ColdStart: time.Duration(rapid.IntRange(1, 3000).Draw(t, "cold")) * time.Millisecond,
		})
	}
	var at int64
	for range rapid.IntRange(0, 200).Draw(t, "calls") {
		at += int64(rapid.SampledFrom([]int{0, 1, 1e6, 60e6, 300e6}).Draw(t, "gap"))
		made.Calls = append(made.Calls, trace.Call{
			AtMicros: at, RunMillis: int32(rapid.IntRange(1, 20_000).Draw(t, "run")),
			Function: int32(rapid.IntRange(0, len(made.Functions)-1).Draw(t, "function")),
		})
	}
	return made
})

// TestAccounting: every call and every instance is counted once, the memory stays
// under the cap, and nothing that runs is removed.
func TestAccounting(t *testing.T) {
	for _, one := range contenders(5 * time.Minute) {
		t.Run(one.name, func(t *testing.T) {
			rapid.Check(t, func(t *rapid.T) {
				made := someTrace.Draw(t, "trace")
				w := &watched{
					policy: one.make(), t: t, capacity: int64(rapid.IntRange(10, 200).Draw(t, "cap")) << 20,
					bytes: map[wire.InstanceID]int64{}, idle: map[wire.InstanceID]bool{},
				}
				r, err := Simulate(made, w, w.capacity)
				if err != nil {
					t.Fatal(err)
				}
				switch {
				case r.Calls() != len(made.Calls):
					t.Fatalf("%d calls of %d", r.Calls(), len(made.Calls))
				case r.Cold+r.Ahead != w.started || r.Evicted+r.Expired != w.removed || r.Live != w.started-w.removed:
					t.Fatalf("%+v, but %d started and %d removed", r, w.started, w.removed)
				case r.PeakBytes > w.capacity || r.MeanBytes > float64(r.PeakBytes)*(1+1e-9):
					t.Fatalf("peak %d, mean %f of %d", r.PeakBytes, r.MeanBytes, w.capacity)
				case r.Unused > r.Ahead:
					t.Fatalf("%d unused of %d started ahead", r.Unused, r.Ahead)
				}
			})
		})
	}
}

func calls(functions int, atSeconds ...int) *trace.Trace {
	made := &trace.Trace{Days: 1}
	for i := range functions {
		made.Functions = append(made.Functions, trace.Function{Name: strconv.Itoa(i), Bytes: 100 << 20, ColdStart: time.Second})
	}
	for i, at := range atSeconds {
		made.Calls = append(made.Calls, trace.Call{AtMicros: int64(at) * 1e6, RunMillis: 1000, Function: int32(i % functions)})
	}
	return made
}

func TestSimulateByHand(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		trace    *trace.Trace
		policy   policy
		capacity int64
		want     Result
	}{
		"cold, then warm": {
			calls(1, 0, 10, 20), newLRU(0), 100 << 20,
			Result{Cold: 1, Warm: 2, Live: 1, Waited: time.Second},
		},
		"two at once": { // the first runs until 2 s
			calls(1, 0, 1, 10), newLRU(0), 200 << 20,
			Result{Cold: 2, Warm: 1, Live: 2, Waited: 2 * time.Second},
		},
		"no room beside a running one": {
			calls(1, 0, 1, 10), newLRU(0), 100 << 20,
			Result{Cold: 1, Warm: 1, Refused: 1, Live: 1, Waited: time.Second},
		},
		"too large at all": {calls(1, 0, 1), newLRU(0), 99 << 20, Result{Refused: 2}},
		"two share the room of one": {
			calls(2, 0, 10, 20, 30), newLRU(0), 100 << 20,
			Result{Cold: 4, Evicted: 3, Live: 1, Waited: 4 * time.Second},
		},
		"the idle limit": {
			calls(1, 0, 600, 1300), newLRU(10 * time.Minute), 100 << 20, // idle from 2 s, and from 601 s
			Result{Cold: 2, Warm: 1, Expired: 1, Live: 1, Waited: 2 * time.Second},
		},
		"started ahead": { // five-minute timer, and another function that takes its place
			calls(2, 0, 100, 300, 400, 600, 700, 900, 1000, 1200, 1300, 1500, 1600),
			keepalive.New(keepalive.Limits{StartsAhead: true}), 100 << 20,
			Result{Cold: 8, Warm: 4, Ahead: 4, Evicted: 11, Live: 1, Waited: 8 * time.Second},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got, err := Simulate(test.trace, test.policy, test.capacity)
			if err != nil {
				t.Fatal(err)
			}
			got.PeakBytes, got.MeanBytes = 0, 0
			if got != test.want {
				t.Errorf("got  %+v\nwant %+v", got, test.want)
			}
		})
	}
}

// liar names what it must not.
type liar struct {
	*simple
	victim, expired wire.InstanceID
	due             bool
}

func (l *liar) Victims(time.Time) iter.Seq[wire.InstanceID] {
	return slices.Values([]wire.InstanceID{l.victim})
}

func (l *liar) Expired(time.Time) []wire.InstanceID {
	if l.expired == "" {
		return nil
	}
	return []wire.InstanceID{l.expired}
}

func (l *liar) Due(time.Time) []wire.VersionID {
	if !l.due {
		return nil
	}
	return []wire.VersionID{{Number: 7}}
}

func TestSimulateRefusesLies(t *testing.T) {
	t.Parallel()
	for name, l := range map[string]*liar{
		"a running victim": {victim: "i1"},
		"a strange victim": {victim: "i99"},
		"expired nothing":  {expired: "i99"},
		"due nothing":      {due: true},
	} {
		l.simple = newLRU(0)
		if _, err := Simulate(calls(1, 0, 1), l, 100<<20); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

// TestOursIsBetter holds the claim of the README, on a smaller trace.
func TestOursIsBetter(t *testing.T) {
	t.Parallel()
	shape := trace.PublishedShape()
	shape.Days, shape.MaxCallsPerDay = 1, 8000
	made, err := trace.Synthesize(shape)
	if err != nil {
		t.Fatal(err)
	}
	const capacity = 3e9
	cold := map[string]int{}
	for _, one := range contenders(keepalive.DefaultIdleLimit) {
		r, err := Simulate(made, one.make(), capacity)
		if err != nil {
			t.Fatal(err)
		}
		cold[one.name] = r.Cold
	}
	best := min(cold["fixed keep-alive, 10 min"], cold["least recently used"], cold["plain greedy-dual"])
	if ours, ahead := cold["Dayfly"], cold["Dayfly, starting ahead"]; float64(ours) > 0.8*float64(best) || ahead > ours {
		t.Errorf("cold starts: %v", cold)
	}
}

func TestRun(t *testing.T) {
	t.Parallel()
	var out strings.Builder
	if err := run(t.Context(), []string{"-functions=8", "-days=1", "-seeds=1", "-memory=500MB,none"}, &out); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"synthetic trace (seed 1): 8 functions", "500 MB", "no cap", "| Dayfly, starting ahead"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("no %q in\n%s", want, out.String())
		}
	}
	for _, args := range [][]string{
		{"-memory=5"}, {"-memory=-1GB"}, {"-memory=NaNGB"}, {"-memory="}, {"-seeds=0"}, {"-functions=-1"}, {"-trace=/nowhere-at-all"},
	} {
		if err := run(t.Context(), args, io.Discard); err == nil {
			t.Errorf("%v: no error", args)
		}
	}
}
