// Package cli is the command line of Dayfly's users: deploy a folder, call
// functions, read their logs and outputs. The commands that run the platform
// itself are not here.
//
// Results go to stdout, everything else to stderr. Tables are for people; with
// `-o json` the commands print what the API answered. See [ExitCode] for what a
// script gets.
package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/dayfly-run/dayfly/sdk/client"
	"github.com/dayfly-run/dayfly/wire"
	"github.com/spf13/cobra"
)

// Options are what the commands cannot find out by themselves.
type Options struct {
	// Version is that of this program.
	Version string
}

// Commands returns the user's commands, to be added to the root command beside
// those that run the platform. They read and write the command's own streams and
// end when its context is done.
func Commands(options Options) []*cobra.Command {
	return []*cobra.Command{
		initCommand(),
		devCommand(),
		deployCommand(),
		invokeCommand(),
		publishCommand(),
		listCommand(),
		describeCommand(),
		openCommand(),
		configCommand(),
		secretsCommand(),
		deleteCommand(),
		versionsCommand(),
		aliasCommand(),
		rollbackCommand(),
		diffCommand(),
		logsCommand(),
		topCommand(),
		nodesCommand(),
		drainCommand(),
		runtimesCommand(),
		invocationsCommand(),
		invocationCommand(),
		resultCommand(),
		cancelCommand(),
		deadLettersCommand(),
		doctorCommand(options.Version),
		versionCommand(options.Version),
		exitCodesTopic(),
	}
}

// urlVariable is the environment variable that --url overrides.
const urlVariable = "DAYFLY_URL"

// common holds the flags of every command that asks a server.
type common struct {
	url    string
	format format
}

func (c *common) register(cmd *cobra.Command) {
	c.format = formatTable
	cmd.Flags().StringVar(&c.url, "url", "", "the server's URL (default: $"+urlVariable+", then "+client.DefaultURL+")")
	cmd.Flags().VarP(&c.format, "output", "o", "what to print: table or json")
}

// session is one run of a command against a server.
type session struct {
	ctx    context.Context
	client *client.Client
	in     io.Reader
	out    io.Writer
	errOut io.Writer
	json   bool
	// urlFlag is what a suggested command repeats to reach the same server.
	urlFlag string
}

func (c *common) open(cmd *cobra.Command) (*session, error) {
	s := &session{
		ctx: cmd.Context(), in: cmd.InOrStdin(), out: cmd.OutOrStdout(), errOut: cmd.ErrOrStderr(),
		json: c.format == formatJSON,
	}
	address := client.DefaultURL
	switch {
	case c.url != "":
		address = c.url
		s.urlFlag = " --url " + c.url
	case os.Getenv(urlVariable) != "":
		address = os.Getenv(urlVariable)
	}
	var err error
	s.client, err = client.New(address)
	return s, err
}

// suggest writes a command that the user may run next.
func (s *session) suggest(format string, args ...any) string {
	return "dayfly " + fmt.Sprintf(format, args...) + s.urlFlag
}

// printJSON writes v as the API would, indented.
func (s *session) printJSON(v any) error {
	encoder := json.NewEncoder(s.out)
	encoder.SetEscapeHTML(false)
	encoder.SetIndent("", "  ")
	return encoder.Encode(v)
}

// noteMissing adds a hint to an error that says that something is not there.
func noteMissing(err error, hint string) error {
	if wire.HasCode(err, wire.CodeNotFound) {
		return withHint(err, hint)
	}
	return err
}

// format is the value of -o.
type format string

const (
	formatTable format = "table"
	formatJSON  format = "json"
)

// String, Set and Type make *format a flag.
func (f *format) String() string { return string(*f) }

// Set accepts the known formats only.
func (f *format) Set(s string) error {
	switch format(s) {
	case formatTable, formatJSON:
		*f = format(s)
		return nil
	}
	return errors.New("use table or json")
}

// Type names the choices in the help.
func (f *format) Type() string { return "table|json" }

// arguments accepts as many arguments as there are names; those in brackets may
// be left out, and one that ends in … may come again and again.
func arguments(names ...string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) > len(names) {
			if len(names) == 0 || !strings.HasSuffix(names[len(names)-1], "…]") {
				return usagef(cmd, "unexpected argument %q", args[len(names)])
			}
			return nil
		}
		for _, name := range names[len(args):] {
			if !strings.HasPrefix(name, "[") {
				return usagef(cmd, "%s is missing", name)
			}
		}
		return nil
	}
}

// refArgument reads a function reference.
func refArgument(cmd *cobra.Command, arg string) (wire.Ref, error) {
	ref, err := wire.ParseRef(arg)
	if err != nil {
		return wire.Ref{}, usagef(cmd, "%s", err)
	}
	return ref, nil
}

// invocationArgument reads an invocation's ID.
func invocationArgument(cmd *cobra.Command, arg string) (wire.InvocationID, error) {
	id := wire.InvocationID(arg)
	if !id.Valid() {
		return "", usagef(cmd, "%q is not an invocation ID; `dayfly invoke -v` shows it, as 01998c2e-7d5a-7c11-9f00-3a5be1c2d4f6", arg)
	}
	return id, nil
}
