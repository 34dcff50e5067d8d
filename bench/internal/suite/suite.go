// Package suite is what the benchmark commands share: flags, a folder that goes
// away again, the head of the output, and the order of things.
package suite

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/dayfly-run/dayfly/bench/internal/asyncevents"
	"github.com/dayfly-run/dayfly/bench/internal/baseline"
	"github.com/dayfly-run/dayfly/bench/internal/cluster"
	"github.com/dayfly-run/dayfly/bench/internal/coldstarts"
	"github.com/dayfly-run/dayfly/bench/internal/command"
	"github.com/dayfly-run/dayfly/bench/internal/machine"
	"github.com/dayfly-run/dayfly/bench/internal/warmcalls"
	whole "github.com/dayfly-run/dayfly/test/cluster"
)

// Parts of a run.
type Parts struct{ Warm, Cold, Events bool }

// options are the command line.
type options struct {
	quick  bool
	rounds int
	binary string
}

// Run is the whole of a benchmark command. It returns the exit code.
func Run(parts Parts) int {
	return command.Run("bench", func(ctx context.Context, args []string, out io.Writer) error {
		if baseline.IsChild() {
			return baseline.RunChild(ctx)
		}
		o, err := parse(args)
		if err != nil {
			return err
		}
		return run(ctx, parts, o, out)
	})
}

func parse(args []string) (o options, err error) {
	flags := flag.NewFlagSet("bench", flag.ContinueOnError)
	flags.BoolVar(&o.quick, "quick", false, "one or two short rounds: shows that it works, in less than a minute")
	flags.IntVar(&o.rounds, "n", 0, "`rounds` of each measurement; more take longer and say more (by default 5)")
	flags.StringVar(&o.binary, "dayfly", "", "`program` to measure; by default it is built from this source")
	if err := command.Parse(flags, args, os.Stderr); err != nil {
		return o, err
	}
	if o.rounds < 0 {
		return o, errors.New("-n must be positive")
	}
	return o, command.NeedRoot()
}

func run(ctx context.Context, parts Parts, o options, out io.Writer) (err error) {
	begun := time.Now()
	note := func(format string, args ...any) {
		fmt.Fprintf(os.Stderr, "%4.0fs  %s\n", time.Since(begun).Seconds(), fmt.Sprintf(format, args...))
	}
	if err := machine.Describe(ctx, out); err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "dayfly-bench-*")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	// Functions reach into the data below as another user.
	if err := os.Chmod(dir, 0o711); err != nil {
		return err
	}
	site := cluster.Site{Binary: o.binary, Dir: dir}
	if site.Binary == "" {
		note("building dayfly")
		site.Binary = filepath.Join(dir, "dayfly")
		if err := whole.Compile(ctx, site.Binary, "./cmd/dayfly"); err != nil {
			return err
		}
	}
	if parts.Warm {
		if err := warmcalls.Run(ctx, warmOptions(o, site, out, note)); err != nil {
			return err
		}
	}
	if parts.Cold {
		if err := coldstarts.Run(ctx, coldOptions(o, site, out, note)); err != nil {
			return err
		}
	}
	if parts.Events {
		if err := asyncevents.Run(ctx, eventOptions(o, site, out, note)); err != nil {
			return err
		}
	}
	_, err = fmt.Fprintf(out, "\nThe whole run took %s.\n", time.Since(begun).Round(time.Second))
	return err
}

func warmOptions(o options, site cluster.Site, out io.Writer, note func(string, ...any)) warmcalls.Options {
	w := warmcalls.Options{
		Site: site, Rounds: 5, Segment: 500 * time.Millisecond, OpenFor: 4 * time.Second,
		Clients: []int{1, 16, 64}, Out: out, Note: note,
	}
	if o.quick {
		w.Rounds, w.Segment, w.OpenFor, w.Clients = 2, 200*time.Millisecond, time.Second, []int{1, 16}
	}
	if o.rounds > 0 {
		w.Rounds = o.rounds
	}
	return w
}

func coldOptions(o options, site cluster.Site, out io.Writer, note func(string, ...any)) coldstarts.Options {
	c := coldstarts.Options{Site: site, Out: out, Note: note, Counts: coldstarts.Counts{
		Cached: 100, Remote: 20, NoStem: 10, Bursts: 4, Wakes: 15, Idlers: 8, Sustained: 6 * time.Second,
	}}
	if o.quick {
		c.Counts = coldstarts.Counts{Cached: 10, Remote: 3, NoStem: 3, Bursts: 1, Wakes: 5, Idlers: 4, Sustained: 3 * time.Second}
	}
	if o.rounds > 0 {
		c.Counts.Cached, c.Counts.Remote, c.Counts.NoStem, c.Counts.Bursts = o.rounds, o.rounds, o.rounds, o.rounds
	}
	return c
}

func eventOptions(o options, site cluster.Site, out io.Writer, note func(string, ...any)) asyncevents.Options {
	e := asyncevents.Options{Site: site, Rounds: 5, Segment: time.Second, OpenFor: 4 * time.Second, Clients: 64, Out: out, Note: note}
	if o.quick {
		e.Rounds, e.Segment, e.OpenFor = 2, 300*time.Millisecond, 2*time.Second
	}
	if o.rounds > 0 {
		e.Rounds = o.rounds
	}
	return e
}
