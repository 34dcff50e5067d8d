// Package command is what the main functions of all benchmarks share: signals, flags, and
// one line for what went wrong.
package command

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"
)

// Run does the work of a program and returns its exit code. The context ends with an
// interrupt, a hang-up or a request to terminate, so that what was started and written is
// removed again. An error is printed once, after the program's name.
func Run(name string, do func(ctx context.Context, args []string, out io.Writer) error) int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	defer stop()
	return report(name, os.Stderr, do(ctx, os.Args[1:], os.Stdout))
}

func report(name string, out io.Writer, err error) int {
	if err == nil || errors.Is(err, flag.ErrHelp) {
		return 0
	}
	fmt.Fprintf(out, "%s: %v\n", name, err)
	return 1
}

// Parse reads flags; there are no arguments beside them. It prints nothing but the help
// that was asked for, and then returns [flag.ErrHelp].
func Parse(flags *flag.FlagSet, args []string, help io.Writer) error {
	flags.SetOutput(io.Discard)
	switch err := flags.Parse(args); {
	case errors.Is(err, flag.ErrHelp):
		flags.SetOutput(help)
		flags.Usage()
		return err
	case err != nil:
		return fmt.Errorf("%w; see -help", err)
	case flags.NArg() > 0:
		return fmt.Errorf("%q: there are no arguments; see -help", flags.Arg(0))
	}
	return nil
}

// NeedRoot fails unless this process is root's.
func NeedRoot() error {
	if os.Geteuid() != 0 {
		return errors.New("it needs root: run it as root, or with sudo")
	}
	return nil
}
