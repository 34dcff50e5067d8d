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
	"os/signal"
	"strconv"
	"strings"
	"time"

	"github.com/dayfly-run/dayfly/bench/internal/machine"
	"github.com/dayfly-run/dayfly/invoker/keepalive"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	err := run(ctx, os.Args[1:], os.Stdout)
	stop()
	switch {
	case err == nil, errors.Is(err, flag.ErrHelp):
	default:
		fmt.Fprintln(os.Stderr, "placement:", err)
		os.Exit(1)
	}
}

// options are what the flags say.
type options struct {
	sizes  []int
	rounds int
	span   time.Duration // of a round over NATS
	trace  traceOptions
}

func run(ctx context.Context, args []string, out io.Writer) error {
	flags := flag.NewFlagSet("placement", flag.ContinueOnError)
	var o options
	parts := flags.String("parts", "memory,nats,trace", "what to measure")
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
	if err := flags.Parse(args); err != nil {
		return err
	}
	var err error
	if o.sizes, err = numbers("-sizes", *sizes, 1, 100_000); err != nil {
		return err
	}
	if o.trace.busy, err = numbers("-busy", *busy, 1, 95); err != nil {
		return err
	}
	if o.rounds < 1 || o.trace.functions < 1 || o.trace.hours < 1 || o.trace.seeds < 1 || o.trace.stretch < 1 || o.trace.nodes < 3 || o.span <= 0 {
		return errors.New("-n, -functions, -hours, -seeds, -stretch and -span must be positive, -nodes at least 3")
	}
	if err := machine.Describe(ctx, out); err != nil {
		return err
	}
	known := map[string]func(context.Context, options, io.Writer) error{"memory": inMemory, "nats": overNATS, "trace": onTrace}
	for part := range strings.SplitSeq(*parts, ",") {
		measure, ok := known[part]
		if !ok {
			return fmt.Errorf("-parts: %q is none; use memory, nats and trace", part)
		}
		if err := measure(ctx, o, out); err != nil {
			return fmt.Errorf("%s: %w", part, err)
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
