// Command keepalive simulates a node on a trace of calls and prints how often a call
// finds no idle instance, by the node's memory and by the policy that says which
// instance goes: a fixed keep-alive, least recently used, plain greedy-dual, and
// [keepalive.Policy], which is the very code that the node runs. See README.md.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"runtime"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/dayfly-run/dayfly/bench/internal/command"
	"github.com/dayfly-run/dayfly/bench/internal/table"
	"github.com/dayfly-run/dayfly/bench/internal/trace"
	"github.com/dayfly-run/dayfly/invoker/keepalive"
)

// fixedLimit is the keep-alive that others have.
const fixedLimit = 10 * time.Minute

func main() { os.Exit(command.Run("keepalive", run)) }

// contender is a policy that the tables compare.
type contender struct {
	name string
	make func() policy
}

func contenders(idleLimit time.Duration) []contender {
	return []contender{
		{"fixed keep-alive, 10 min", func() policy { return newLRU(fixedLimit) }},
		{"least recently used", func() policy { return newLRU(0) }},
		{"plain greedy-dual", func() policy { return newGreedyDual() }},
		{"Dayfly", func() policy { return keepalive.New(keepalive.Limits{IdleLimit: idleLimit}) }},
		{"Dayfly, starting ahead", func() policy {
			return keepalive.New(keepalive.Limits{IdleLimit: idleLimit, StartsAhead: true})
		}},
	}
}

func run(ctx context.Context, args []string, out io.Writer) error {
	flags := flag.NewFlagSet("keepalive", flag.ContinueOnError)
	dir := flags.String("trace", "", "folder with a trace in the Azure Functions 2019 CSV format; without it a synthetic one")
	memory := flags.String("memory", "1GB,2GB,3GB,4GB,5GB,6GB,8GB,none", "memory caps of the node; none is no cap")
	functions := flags.Int("functions", 0, "how many functions; 0: 100 of the synthetic trace, all of a real one")
	days := flags.Int("days", 0, "how many days; 0: 2 of the synthetic trace, all of a real one")
	seed := flags.Uint64("seed", 1, "seed of the synthetic trace, or of the sample of a real one")
	seeds := flags.Int("seeds", 3, "how many synthetic traces, with this seed and the next; the tables show all calls together")
	byMinute := flags.Bool("by-minute", false, "spread a synthetic trace's calls evenly over their minute, as a trace that counts by minute is")
	idleLimit := flags.Duration("idle", keepalive.DefaultIdleLimit, "Dayfly's idle limit")
	if err := command.Parse(flags, args, os.Stderr); err != nil {
		return err
	}
	caps, err := parseCaps(*memory)
	if err != nil {
		return err
	}
	if *functions < 0 || *days < 0 || *seeds < 1 || *seeds > 100 {
		return errors.New("-functions and -days must not be negative, -seeds must be 1 to 100")
	}
	list := contenders(*idleLimit)
	sum := make([][]Result, len(list))
	for i := range sum {
		sum[i] = make([]Result, len(caps))
	}
	for k := range *seeds {
		t, err := trace.Open(*dir, trace.Part{Functions: *functions, Days: *days, Seed: *seed + uint64(k)})
		if err != nil {
			return err
		}
		if *byMinute {
			t.ByMinute()
		}
		fmt.Fprintln(out, t.Summary())
		if err := compare(ctx, t, list, caps, sum); err != nil {
			return err
		}
		if *dir != "" {
			break // the same trace again would only give it more weight
		}
	}
	return show(out, list, caps, sum)
}

// compare adds the results of each contender under each cap to sum.
func compare(ctx context.Context, t *trace.Trace, list []contender, caps []int64, sum [][]Result) error {
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(runtime.GOMAXPROCS(0))
	for i, one := range list {
		for j, bytes := range caps {
			group.Go(func() error {
				if err := context.Cause(ctx); err != nil {
					return err
				}
				result, err := Simulate(t, one.make(), bytes)
				if err != nil {
					return fmt.Errorf("%s at %s: %w", one.name, showCap(bytes), err)
				}
				sum[i][j] = sum[i][j].plus(result) // each has a place of its own
				return nil
			})
		}
	}
	return group.Wait()
}

// unlimited is more than any trace takes.
const unlimited = int64(1) << 60

// parseCaps reads a list like 1GB,512MB,none. GB is 10⁹ bytes, as in TARGETS.
func parseCaps(list string) ([]int64, error) {
	var caps []int64
	for text := range strings.SplitSeq(list, ",") {
		text = strings.TrimSpace(text)
		if text == "none" {
			caps = append(caps, unlimited)
			continue
		}
		digits, unit := strings.CutSuffix(text, "GB")
		scale := 1e9
		if !unit {
			if digits, unit = strings.CutSuffix(text, "MB"); unit {
				scale = 1e6
			}
		}
		n, err := strconv.ParseFloat(digits, 64)
		if err != nil || !unit || !(n > 0) || n*scale >= float64(unlimited) {
			return nil, fmt.Errorf("-memory: %q is no amount; write 5GB, 500MB or none", text)
		}
		caps = append(caps, int64(n*scale))
	}
	return caps, nil
}

func showCap(bytes int64) string {
	switch {
	case bytes == unlimited:
		return "no cap"
	case bytes < 1e9:
		return fmt.Sprintf("%g MB", float64(bytes)/1e6)
	}
	return fmt.Sprintf("%g GB", float64(bytes)/1e9)
}

// show prints one table for each thing to know.
func show(out io.Writer, list []contender, caps []int64, sum [][]Result) error {
	for _, what := range []struct {
		title string
		cell  func(Result) string
	}{
		{"Cold starts, % of all calls", func(r Result) string { return percent(r.Cold, r.Calls()) }},
		{"Waiting for cold starts, ms per call on average", func(r Result) string {
			return fmt.Sprintf("%.2f", 1000*r.Waited.Seconds()/float64(max(1, r.Calls())))
		}},
		{"Started ahead, % of all calls (never called: % of those)", func(r Result) string {
			if r.Ahead == 0 {
				return ""
			}
			return percent(r.Ahead, r.Calls()) + " (" + strconv.Itoa(100*r.Unused/r.Ahead) + ")"
		}},
		{"Refused, as running instances took all memory, % of all calls", func(r Result) string {
			if r.Refused == 0 {
				return ""
			}
			return percent(r.Refused, r.Calls())
		}},
		{"Memory of all instances, GB, mean / peak", func(r Result) string {
			return fmt.Sprintf("%.1f / %.1f", r.MeanBytes/1e9, float64(r.PeakBytes)/1e9)
		}},
	} {
		t := table.Table{Title: what.title, Columns: []string{""}}
		for _, bytes := range caps {
			t.Columns = append(t.Columns, showCap(bytes))
		}
		for i, one := range list {
			cells := []string{one.name}
			for j := range caps {
				cells = append(cells, what.cell(sum[i][j]))
			}
			t.Row(cells...)
		}
		if err := t.Print(out); err != nil {
			return err
		}
	}
	return nil
}

func percent(part, of int) string { return fmt.Sprintf("%.3f", 100*float64(part)/float64(max(1, of))) }
