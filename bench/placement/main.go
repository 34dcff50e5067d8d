// Command placement measures the scheduler's decisions: in memory, over NATS with
// simulated nodes, and, on a trace, against other ways to choose a node. See README.md in
// the folder above.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/dayfly-run/dayfly/bench/internal/command"
	"github.com/dayfly-run/dayfly/bench/internal/machine"
	"github.com/dayfly-run/dayfly/invoker/keepalive"
)

func main() { os.Exit(command.Run("placement", run)) }

// options are what the flags say.
type options struct {
	sizes  []int
	rounds int
	span   time.Duration // of a round over NATS
	trace  traceOptions
}

// part measures one thing.
type part struct {
	name    string
	measure func(context.Context, options, io.Writer) error
}

func parse(args []string) (o options, list []part, err error) {
	flags := flag.NewFlagSet("placement", flag.ContinueOnError)
	names := flags.String("parts", "memory,nats,trace", "what to measure")
	sizes := flags.String("sizes", "1000,10000", "numbers of nodes, for memory and nats")
	flags.IntVar(&o.rounds, "n", 7, "rounds, of which the tables show the median")
	flags.DurationVar(&o.span, "span", 4*time.Second, "length of a round over NATS")
	flags.StringVar(&o.trace.dir, "trace", "", "folder with a trace in the Azure Functions 2019 CSV format; without it a synthetic one")
	flags.IntVar(&o.trace.functions, "functions", 1500, "how many functions of the trace")
	flags.IntVar(&o.trace.hours, "hours", 1, "how many hours of the trace")
	flags.IntVar(&o.trace.seeds, "seeds", 1, "how many synthetic traces, with the seeds 1, 2, …; the table shows all calls together")
	flags.IntVar(&o.trace.nodes, "nodes", 10, "nodes of the simulated cluster")
	flags.IntVar(&o.trace.stretch, "stretch", 4, "how many times longer calls run than in the trace, so that nodes hold many")
	flags.DurationVar(&o.trace.idle, "idle", keepalive.DefaultIdleLimit, "how long an instance may be idle while nobody needs its memory")
	busy := flags.String("busy", "20,50", "percentages of the simulated cluster's memory that run on average; a table for each")
	if err := command.Parse(flags, args, os.Stderr); err != nil {
		return o, nil, err
	}
	for _, n := range []struct {
		name               string
		value, least, most int
	}{
		{"-n", o.rounds, 1, 1000},
		{"-functions", o.trace.functions, 1, 1_000_000},
		{"-hours", o.trace.hours, 1, 31 * 24},
		{"-seeds", o.trace.seeds, 1, 100},
		{"-nodes", o.trace.nodes, 3, 10_000},
		{"-stretch", o.trace.stretch, 1, maxStretch},
	} {
		if n.value < n.least || n.value > n.most {
			return o, nil, fmt.Errorf("%s: %d is not a number from %d to %d", n.name, n.value, n.least, n.most)
		}
	}
	if o.span <= 0 || o.span > time.Hour || o.trace.idle < 0 {
		return o, nil, errors.New("-span must be positive and an hour at most, -idle not negative")
	}
	if o.sizes, err = numbers("-sizes", *sizes, 1, 100_000); err != nil {
		return o, nil, err
	}
	if o.trace.busy, err = numbers("-busy", *busy, 1, 95); err != nil {
		return o, nil, err
	}
	known := map[string]func(context.Context, options, io.Writer) error{"memory": inMemory, "nats": overNATS, "trace": onTrace}
	for name := range strings.SplitSeq(*names, ",") {
		measure, ok := known[name]
		if !ok {
			return o, nil, fmt.Errorf("-parts: %q is none; use memory, nats and trace", name)
		}
		list = append(list, part{name, measure})
	}
	return o, list, nil
}

func run(ctx context.Context, args []string, out io.Writer) error {
	o, list, err := parse(args)
	if err != nil {
		return err
	}
	if err := machine.Describe(ctx, out); err != nil {
		return err
	}
	for _, one := range list {
		if err := one.measure(ctx, o, out); err != nil {
			return fmt.Errorf("%s: %w", one.name, err)
		}
	}
	return nil
}

// numbers reads a list like 1000,10000.
func numbers(name, list string, least, most int) (all []int, err error) {
	for text := range strings.SplitSeq(list, ",") {
		n, err := strconv.Atoi(strings.TrimSpace(text))
		if err != nil || n < least || n > most {
			return nil, fmt.Errorf("%s: %q is not a number from %d to %d", name, text, least, most)
		}
		all = append(all, n)
	}
	return all, nil
}
