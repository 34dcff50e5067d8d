// Command scale measures what large clusters cost: the words of 10,000 nodes that a real
// NATS server carries to a scheduler and a gateway, each in a process of its own, and what
// a function that is only registered takes in memory. See README.md one folder up.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/dayfly-run/dayfly/bench/internal/child"
	"github.com/dayfly-run/dayfly/bench/internal/command"
	"github.com/dayfly-run/dayfly/bench/internal/machine"
)

func main() { os.Exit(command.Run("scale", run)) }

// settings are what the command line says.
type settings struct {
	nodes, functions int
	// window is how long each row is measured, warmUp how long the parts get used to it
	// before.
	window, warmUp time.Duration
	// tries is how often each way is timed.
	tries int
	only  string
}

// What -only takes.
const (
	onlyNodes     = "nodes"
	onlyFunctions = "functions"
)

func parse(args []string) (settings, error) {
	s := settings{warmUp: 2 * time.Second, tries: 200}
	flags := flag.NewFlagSet("scale", flag.ContinueOnError)
	flags.IntVar(&s.nodes, "nodes", 10_000, "how many nodes are simulated")
	flags.IntVar(&s.functions, "functions", 100_000, "how many functions are registered")
	flags.DurationVar(&s.window, "window", 10*time.Second, "how long each row is measured")
	flags.StringVar(&s.only, "only", "", "nodes or functions; both by default")
	if err := command.Parse(flags, args, os.Stderr); err != nil {
		return s, err
	}
	switch {
	case s.nodes < 10 || s.nodes > 50_000 || s.functions < 1000 || s.functions > 1_000_000 || s.window < time.Second || s.window > time.Hour:
		return s, errors.New("-nodes must be 10 to 50000, -functions 1000 to 1000000, -window 1s to 1h")
	case s.only != "" && s.only != onlyNodes && s.only != onlyFunctions:
		return s, fmt.Errorf("-only: %q is neither nodes nor functions", s.only)
	}
	return s, nil
}

func run(ctx context.Context, args []string, out io.Writer) error {
	if role := child.Role(); role != "" {
		return serve(ctx, role, os.Stdin, out)
	}
	s, err := parse(args)
	if err != nil {
		return err
	}
	if err := machine.Describe(ctx, out); err != nil {
		return err
	}
	if s.only != onlyFunctions {
		if err := measureNodes(ctx, s, out); err != nil {
			return err
		}
	}
	if s.only != onlyNodes {
		return measureFunctions(ctx, s, out)
	}
	return nil
}
