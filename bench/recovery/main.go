// Command recovery measures how long a cluster needs to get over the loss of one of its
// processes: three NATS servers, S3, two gateways, two schedulers, two events workers and
// three invokers on one machine, each in a network namespace of its own.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"time"

	"github.com/dayfly-run/dayfly/bench/internal/command"
	"github.com/dayfly-run/dayfly/bench/internal/machine"
	"github.com/dayfly-run/dayfly/bench/internal/sample"
	"github.com/dayfly-run/dayfly/bench/internal/table"
	"github.com/dayfly-run/dayfly/functions"
	"github.com/dayfly-run/dayfly/test/cluster"
)

const (
	defaultRounds = 5
	// idle keeps warm instances over all rounds.
	idle = time.Hour
)

func main() { os.Exit(command.Run("recovery", run)) }

func run(ctx context.Context, args []string, out io.Writer) (err error) {
	flags := flag.NewFlagSet("recovery", flag.ContinueOnError)
	rounds := flags.Int("n", defaultRounds, "`rounds` of each loss")
	binary := flags.String("dayfly", "", "`program` to measure; by default it is built from this source")
	if err := command.Parse(flags, args, os.Stderr); err != nil {
		return err
	}
	if *rounds < 1 {
		return errors.New("-n must be positive")
	}
	if err := command.NeedRoot(); err != nil {
		return err
	}
	if err := machine.Describe(ctx, out); err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "dayfly-recovery-*")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	programs, err := cluster.Build(ctx, dir, *binary)
	if err != nil {
		return err
	}
	c, err := cluster.Start(ctx, cluster.Config{Programs: programs, Idle: idle})
	if c != nil {
		defer func() { err = errors.Join(err, c.Close()) }()
	}
	if err != nil {
		return err
	}
	if err := c.Deploy(ctx, function, func(s *functions.Spec) { s.MaxInstances = instances }); err != nil {
		return err
	}
	r := &recovery{cluster: c, took: map[string][]time.Duration{}, failed: map[string]int{}}
	if r.conn, err = c.Connect("recovery"); err != nil {
		return err
	}
	defer r.conn.Close()
	for round := range *rounds {
		for _, loss := range losses {
			fmt.Fprintf(os.Stderr, "round %d: %s\n", round+1, loss.what)
			if err := r.settle(ctx); err != nil {
				return fmt.Errorf("before %s: %w", loss.what, err)
			}
			if err := loss.measure(r, ctx, round); err != nil {
				return fmt.Errorf("%s: %w", loss.what, err)
			}
		}
	}
	return r.print(out)
}

// print writes the table.
func (r *recovery) print(out io.Writer) error {
	t := table.Table{
		Title:   "From the loss until … (median and worst of n; warm calls that failed in the seconds around it)",
		Columns: []string{"what is lost", "until", "n", "median", "worst", "must", "calls failed"},
	}
	for _, loss := range losses {
		for i, row := range loss.rows {
			all := r.took[row.until]
			if len(all) == 0 {
				return fmt.Errorf("%s: nothing measured for %q", loss.what, row.until)
			}
			failed := ""
			if i == 0 && loss.counts {
				failed = strconv.Itoa(r.failed[loss.what])
			}
			t.Row(loss.what, row.until, strconv.Itoa(len(all)), table.Millis(sample.Median(all)), table.Millis(slices.Max(all)), row.must, failed)
		}
	}
	return t.Print(out)
}
