// Package trace reads and makes traces of calls, for simulations.
package trace

import (
	"cmp"
	"fmt"
	"slices"
	"time"
)

const (
	minutesPerDay = 24 * 60
	minuteMicros  = int64(time.Minute / time.Microsecond)
	day           = 24 * time.Hour
	mib           = 1 << 20

	// maxCalls bounds what a trace may hold: 16 bytes a call, so 800 MB.
	maxCalls = 50_000_000
)

// Function is what the simulator knows of one function.
type Function struct {
	Name string
	// Trigger is the trace's word: http, timer, queue, event and so on.
	Trigger string
	// Bytes is the memory that an instance takes, busy or idle.
	Bytes int64
	// ColdStart is how much longer a call takes that has to start an instance.
	ColdStart time.Duration
}

// Call is one invocation. It is small, as a trace has millions of them.
type Call struct {
	// AtMicros is since the trace's beginning.
	AtMicros int64
	// RunMillis is how long the function runs, without a cold start.
	RunMillis int32
	// Function is an index into the trace's functions.
	Function int32
}

// At returns when the call arrives, counted from the trace's beginning.
func (c Call) At() time.Duration { return time.Duration(c.AtMicros) * time.Microsecond }

// Run returns how long the function runs.
func (c Call) Run() time.Duration { return time.Duration(c.RunMillis) * time.Millisecond }

// Trace is what happened, in order of time.
type Trace struct {
	// Name says where the trace is from, for the tables' titles.
	Name      string
	Days      int
	Functions []Function
	Calls     []Call
}

// sort puts the calls in order; calls of one moment stand in order of functions.
func (t *Trace) sort() {
	slices.SortFunc(t.Calls, func(a, b Call) int {
		return cmp.Or(cmp.Compare(a.AtMicros, b.AtMicros), cmp.Compare(a.Function, b.Function), cmp.Compare(a.RunMillis, b.RunMillis))
	})
}

// ByMinute lays the calls out as a trace that counts them by minute has them: those
// of a function stand in equal distances in their minute. Bursts within it are lost.
func (t *Trace) ByMinute() {
	minutes := map[[2]int64][]int{} // of a function and minute, the indices of its calls
	for i, c := range t.Calls {
		key := [2]int64{int64(c.Function), c.AtMicros / minuteMicros}
		minutes[key] = append(minutes[key], i)
	}
	for key, calls := range minutes {
		for k, i := range calls {
			t.Calls[i].AtMicros = inMinute(key[1], k, len(calls))
		}
	}
	t.sort()
}

// inMinute returns when the k-th of n calls in a minute comes.
func inMinute(minute int64, k, n int) int64 {
	return minute*minuteMicros + int64(k)*minuteMicros/int64(n)
}

// Summary says in a line what the trace holds.
func (t *Trace) Summary() string {
	var bytes, busy int64
	for _, f := range t.Functions {
		bytes += f.Bytes
	}
	for _, c := range t.Calls {
		busy += int64(c.RunMillis) * (t.Functions[c.Function].Bytes / mib)
	}
	span := int64(max(t.Days, 1)) * day.Milliseconds()
	return fmt.Sprintf("%s: %d functions, %d calls in %d day(s); one instance of each takes %.1f GB, running ones take %.2f GB on average",
		t.Name, len(t.Functions), len(t.Calls), t.Days, float64(bytes)/1e9, float64(busy)/float64(span)*mib/1e9)
}
