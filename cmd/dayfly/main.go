// Command dayfly is the whole of Dayfly in one binary: `up` runs every role with
// an embedded NATS and S3, `gateway`, `scheduler`, `invoker`, `builder` and `events`
// run one role each, and the rest are the commands of its users.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/dayfly-run/dayfly/cmd/dayfly/cli"
	"github.com/dayfly-run/dayfly/invoker/entry"
	"github.com/dayfly-run/dayfly/invoker/guard"
)

// version is set by the linker.
var version = "dev"

func main() {
	if entry.Wanted(os.Args) { // in a container, of an image that need not know us
		os.Exit(entry.Run(os.Args))
	}
	if guard.Wanted(os.Args) { // beside an invoker, and small
		os.Exit(guard.Run(os.Args))
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second signal ends at once
	err := rootCommand().ExecuteContext(ctx)
	if err != nil {
		cli.PrintError(os.Stderr, err)
	}
	os.Exit(cli.ExitCode(err))
}

func rootCommand() *cobra.Command {
	root := &cobra.Command{
		Use:     "dayfly",
		Short:   "Functions on your own machines",
		Long:    "Dayfly runs functions on your own machines: events in, short-lived containers, results out.",
		Version: version,
	}
	root.AddCommand(platformCommands()...)
	root.AddCommand(cli.Commands(cli.Options{Version: version})...)
	cli.Prepare(root)
	return root
}
