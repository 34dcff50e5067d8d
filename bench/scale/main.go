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
	"os/signal"
	"syscall"
	"time"

	"github.com/dayfly-run/dayfly/bench/internal/machine"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	var err error
	if role := os.Getenv(childVariable); role != "" {
		err = runChild(ctx, role, os.Stdin, os.Stdout)
	} else {
		err = run(ctx, os.Args[1:], os.Stdout)
	}
	stop()
	if err != nil && !errors.Is(err, flag.ErrHelp) {
		fmt.Fprintln(os.Stderr, "scale:", err)
		os.Exit(1)
	}
}

// settings are what the command line says.
type settings struct {
	nodes, functions int
	window           time.Duration
	only             string
}

func run(ctx context.Context, args []string, out io.Writer) error {
	var s settings
	flags := flag.NewFlagSet("scale", flag.ContinueOnError)
	flags.IntVar(&s.nodes, "nodes", 10_000, "how many nodes are simulated")
	flags.IntVar(&s.functions, "functions", 100_000, "how many functions are registered")
	flags.DurationVar(&s.window, "window", 10*time.Second, "how long each row is measured")
	flags.StringVar(&s.only, "only", "", "nodes or functions; both by default")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if s.nodes < 10 || s.nodes > 50_000 || s.functions < 1000 || s.functions > 1_000_000 || s.window < time.Second {
		return errors.New("-nodes must be 10 to 50000, -functions 1000 to 1000000, -window at least 1s")
	}
	if err := machine.Describe(ctx, out); err != nil {
		return err
	}
	if s.only != "functions" {
		if err := measureNodes(ctx, s, out); err != nil {
			return err
		}
	}
	if s.only != "nodes" {
		return measureFunctions(ctx, s, out)
	}
	return nil
}
