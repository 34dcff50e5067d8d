package main

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"math"
	"runtime"
	"slices"
	"strconv"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/dayfly-run/dayfly/bench/internal/table"
	"github.com/dayfly-run/dayfly/bench/internal/trace"
	"github.com/dayfly-run/dayfly/scheduler/placement"
)

// traceOptions say which trace runs on which cluster.
type traceOptions struct {
	dir       string
	functions int
	hours     int
	seeds     int
	stretch   int
	idle      time.Duration
	nodes     int
	busy      []int // percent
}

// contender is a policy that the table compares.
type contender struct {
	name  string
	make  func() policy
	zones int
}

// slacks are the values of [placement.LocalSlack] that the table compares.
func slacks() []int32 { return []int32{0, 50, 100, 200, 300, 500, 1000} }

func contenders() []contender {
	list := []contender{
		{"random", func() policy { return random{} }, 1},
		{"round robin", func() policy { return &roundRobin{} }, 1},
		{"least loaded", func() policy { return leastLoaded{} }, 1},
		{"affinity by hash", func() policy { return &affinity{orders: map[int32][]int{}} }, 1},
	}
	for _, slack := range slacks() {
		list = append(list, contender{"Dayfly, slack " + strconv.Itoa(int(slack)), func() policy { return newOurs(slack) }, 1})
	}
	return append(list,
		contender{"least loaded, 3 zones", func() policy { return leastLoaded{} }, 3},
		contender{fmt.Sprintf("Dayfly, slack %d, 3 zones", placement.LocalSlack), func() policy { return newOurs(placement.LocalSlack) }, 3})
}

// onTrace prints what each policy makes of a trace.
func onTrace(ctx context.Context, o options, out io.Writer) error {
	list := contenders()
	results := make([][][]outcome, len(o.trace.busy)) // by busy, contender, seed
	for i := range results {
		results[i] = make([][]outcome, len(list))
		for j := range list {
			results[i][j] = make([]outcome, o.trace.seeds)
		}
	}
	for seed := range o.trace.seeds {
		t, err := openTrace(o.trace, uint64(seed+1))
		if err != nil {
			return err
		}
		fmt.Fprintln(out, t.Summary())
		group, ctx := errgroup.WithContext(ctx)
		group.SetLimit(runtime.GOMAXPROCS(0))
		for i, percent := range o.trace.busy {
			for j, one := range list {
				group.Go(func() (err error) {
					if ctx.Err() != nil {
						return context.Cause(ctx)
					}
					results[i][j][seed], err = simulate(t, one.make(), setupFor(t, o.trace, percent, one.zones))
					return err
				})
			}
		}
		if err := group.Wait(); err != nil {
			return err
		}
		if o.trace.dir != "" {
			for i := range results {
				for j := range results[i] {
					results[i][j] = results[i][j][:1]
				}
			}
			break
		}
	}
	for i, percent := range o.trace.busy {
		if err := showOutcomes(out, fmt.Sprintf("On a trace: %d nodes, %d %% of their memory runs on average", o.trace.nodes, percent), list, results[i]); err != nil {
			return err
		}
	}
	return nil
}

// maxStretch bounds how many times longer calls run.
const maxStretch = 1000

// openTrace reads or makes a trace, cuts it off and has its calls run longer.
func openTrace(o traceOptions, seed uint64) (*trace.Trace, error) {
	t, err := trace.Open(o.dir, trace.Part{Functions: o.functions, Days: 1 + (o.hours-1)/24, Seed: seed})
	if err != nil {
		return nil, err
	}
	end, _ := slices.BinarySearchFunc(t.Calls, time.Duration(o.hours)*time.Hour, func(c trace.Call, end time.Duration) int { return cmp.Compare(c.At(), end) })
	t.Calls = t.Calls[:end]
	for i := range t.Calls {
		longer := int64(t.Calls[i].RunMillis) * int64(o.stretch)
		t.Calls[i].RunMillis = int32(min(longer, math.MaxInt32)) //nolint:gosec // it is that at most
	}
	return t, nil
}

// setupFor sizes the nodes so that so many percent of their memory runs on average, but
// each holds at least two of the largest instances.
func setupFor(t *trace.Trace, o traceOptions, percent, zones int) setup {
	var busy float64 // byte-seconds
	largest := int64(0)
	for _, f := range t.Functions {
		largest = max(largest, f.Bytes)
	}
	for _, c := range t.Calls {
		busy += c.Run().Seconds() * float64(t.Functions[c.Function].Bytes)
	}
	mean := busy / (time.Duration(o.hours) * time.Hour).Seconds()
	return setup{
		nodes: o.nodes, zones: zones, nodeBytes: max(int64(mean*100/float64(percent)/float64(o.nodes)), 2*largest),
		idleLimit: o.idle, codeSlots: 200, stems: 2, refill: 350 * time.Millisecond,
		stemCost: 4 * time.Millisecond, fetchCost: 8 * time.Millisecond, startCost: 300 * time.Millisecond, seed: 1,
	}
}

func showOutcomes(out io.Writer, title string, list []contender, results [][]outcome) error {
	t := table.Table{Title: title, Columns: []string{
		"", "cold starts, % of calls", "code there, % of cold", "stem there, % of cold", "a cold start waits, mean",
		"busiest node / mean", "busiest node, p99 of its memory", "evicted, % of calls", "refused, % of calls", "in several zones, % of several",
	}}
	for i, one := range list {
		o := together(results[i])
		zones := ""
		if one.zones > 1 {
			zones = percentOf(o.apart, o.several)
		}
		t.Row(one.name, fmt.Sprintf("%.3f", 100*share(o.cold, o.calls())), percentOf(o.code, o.cold), percentOf(o.stem, o.cold),
			fmt.Sprintf("%.1f ms", 1000*o.waited.Seconds()/float64(max(o.cold, 1))), fmt.Sprintf("%.2f", o.uneven), fmt.Sprintf("%.0f %%", 100*o.hottest),
			fmt.Sprintf("%.3f", 100*share(o.evicted, o.calls())), fmt.Sprintf("%.3f", 100*share(o.refused, o.calls())), zones)
	}
	return t.Print(out)
}

// together adds up the outcomes of several traces; loads become the mean.
func together(all []outcome) (sum outcome) {
	for _, o := range all {
		sum.warm, sum.cold, sum.refused = sum.warm+o.warm, sum.cold+o.cold, sum.refused+o.refused
		sum.code, sum.stem, sum.evicted = sum.code+o.code, sum.stem+o.stem, sum.evicted+o.evicted
		sum.several, sum.apart, sum.waited = sum.several+o.several, sum.apart+o.apart, sum.waited+o.waited
		sum.uneven += o.uneven / float64(len(all))
		sum.hottest += o.hottest / float64(len(all))
	}
	return sum
}

func share(part, of int) float64 { return float64(part) / float64(max(of, 1)) }

func percentOf(part, of int) string { return fmt.Sprintf("%.1f", 100*share(part, of)) }
