package cli

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/dayfly-run/dayfly/functions"
	"github.com/dayfly-run/dayfly/sdk/client"
	"github.com/dayfly-run/dayfly/wire"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// GroupPlatform is the group of the commands that run the platform.
const GroupPlatform = "platform"

// groups order the commands in the root's help: what one types every day first.
var groups = []struct {
	id, title string
	commands  []string
}{
	{"everyday", "Every day:", []string{"init", "dev", "deploy", "invoke", "logs"}},
	{"functions", "Functions:", []string{
		"list", "describe", "open", "versions", "alias", "rollback", "diff", "config", "secrets", "delete",
	}},
	{"events", "Events and invocations:", []string{"publish", "invocations", "invocation", "result", "cancel", "dlq"}},
	{"cluster", "The cluster:", []string{"top", "nodes", "drain", "runtimes", "doctor"}},
	{GroupPlatform, "Run the platform:", nil}, // set where they are made
	{"about", "This program:", []string{"completion", "exit-codes", "help", "version"}},
}

// Prepare makes the root command, with all its commands added, group them in its
// help, complete names, and report wrong usage as errors that [ExitCode] and
// [PrintError] know; cobra prints nothing of its own about errors.
func Prepare(root *cobra.Command) {
	root.SilenceErrors, root.SilenceUsage = true, true
	root.SuggestionsMinimumDistance = 2
	root.SetFlagErrorFunc(flagError)
	root.RunE = func(cmd *cobra.Command, _ []string) error { return cmd.Help() }
	root.InitDefaultHelpCmd()
	root.InitDefaultCompletionCmd()
	group := map[string]string{}
	for _, g := range groups {
		root.AddGroup(&cobra.Group{ID: g.id, Title: g.title})
		for _, name := range g.commands {
			group[name] = g.id
		}
	}
	for _, cmd := range root.Commands() {
		if id, ok := group[cmd.Name()]; ok {
			cmd.GroupID = id
		}
	}
	prepare(root)
}

// prepare sets what holds for a command and all below it.
func prepare(cmd *cobra.Command) {
	validate := cmd.Args
	if cmd.HasSubCommands() && !cmd.Runnable() {
		cmd.RunE = func(cmd *cobra.Command, _ []string) error { return cmd.Help() }
		validate = nil // without a run, cobra would not have asked it
	}
	switch {
	case validate == nil && cmd.HasSubCommands():
		cmd.Args = noSuchCommand
	case validate != nil:
		cmd.Args = func(cmd *cobra.Command, args []string) error {
			err := validate(cmd, args)
			if _, known := errors.AsType[*usageError](err); err == nil || known {
				return err
			}
			return usagef(cmd, "%w", err)
		}
	}
	complete(cmd)
	for _, sub := range cmd.Commands() {
		prepare(sub)
	}
}

// noSuchCommand refuses what looks like a command and is none.
func noSuchCommand(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	cmd.SuggestionsMinimumDistance = cmd.Root().SuggestionsMinimumDistance
	if near := cmd.SuggestionsFor(args[0]); len(near) > 0 {
		return usagef(cmd, "there is no command %q; did you mean %s?", args[0], strings.Join(near, " or "))
	}
	return usagef(cmd, "there is no command %q", args[0])
}

// flagError says which flag a misspelt one was probably meant to be.
func flagError(cmd *cobra.Command, err error) error {
	unknown, ok := errors.AsType[*pflag.NotExistError](err)
	if !ok || unknown.GetSpecifiedShortnames() != "" {
		return usagef(cmd, "%w", err)
	}
	var known []string
	cmd.Flags().VisitAll(func(f *pflag.Flag) { known = append(known, f.Name) })
	if near := functions.Nearest(unknown.GetSpecifiedName(), known); near != "" {
		return usagef(cmd, "%w; did you mean --%s?", err, near)
	}
	return usagef(cmd, "%w", err)
}

// usageError is a wrong command line.
type usageError struct {
	err error
	// command is what --help explains.
	command string
}

func (e *usageError) Error() string { return e.err.Error() }
func (e *usageError) Unwrap() error { return e.err }

func usagef(cmd *cobra.Command, format string, args ...any) error {
	return &usageError{err: fmt.Errorf(format, args...), command: cmd.CommandPath()}
}

// lookAround bounds asking the server for what a hint or a completion names.
const lookAround = 2 * time.Second

// missing adds to an error that says that a function, or a version of it, is not
// there what the user may have meant.
func (s *session) missing(err error, ref wire.Ref) error {
	if !wire.HasCode(err, wire.CodeNotFound) {
		return err
	}
	ctx, cancel := context.WithTimeout(s.ctx, lookAround)
	defer cancel()
	// Without the list there is still the command that shows it.
	list, _ := s.client.Functions(ctx, "")
	near := nearestFunction(list, ref.FunctionID)
	switch near {
	case "":
		return withHint(err, "what there is: "+s.suggest("list"))
	case ref.FunctionID.String():
		return withHint(err, "what there is: "+s.suggest("versions %s", near))
	}
	return withHint(err, fmt.Sprintf("did you mean %s? All there is: %s", near, s.suggest("list")))
}

// nearestFunction names the function itself if it is there, else one of the same name
// elsewhere, else one whose name is nearly the same.
func nearestFunction(list []functions.Function, id wire.FunctionID) string {
	var all []string
	elsewhere := ""
	for _, f := range list {
		if f.FunctionID == id {
			return id.String()
		}
		if f.Name == id.Name {
			elsewhere = f.FunctionID.String()
		}
		all = append(all, f.FunctionID.String())
	}
	if elsewhere != "" {
		return elsewhere
	}
	return functions.Nearest(id.String(), all)
}

// complete gives a command's arguments and flags their completions, by the words with
// which its usage names them.
func complete(cmd *cobra.Command) {
	if cmd.ValidArgsFunction == nil && cmd.ValidArgs == nil && !cmd.HasSubCommands() {
		words := strings.Fields(cmd.Use)[1:]
		cmd.ValidArgsFunction = func(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
			if len(args) >= len(words) {
				return nil, cobra.ShellCompDirectiveNoFileComp
			}
			switch strings.Trim(words[len(args)], "[]…") {
			case "DIR":
				return nil, cobra.ShellCompDirectiveFilterDirs
			case "FILE", "SOURCE":
				return nil, cobra.ShellCompDirectiveDefault
			case "REF", "NAME[.NAMESPACE":
				return completeFunctions(cmd), cobra.ShellCompDirectiveNoFileComp
			case "ID":
				return completeInvocations(cmd, args), cobra.ShellCompDirectiveNoFileComp
			}
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
	}
	for flag, choices := range map[string][]string{
		"output": {string(formatTable), string(formatJSON)}, "runtime": functions.Runtimes(),
		"level": {"debug", "info", "warn", "error"},
	} {
		if cmd.Flags().Lookup(flag) == nil {
			continue
		}
		// It fails only for a flag that is not there.
		_ = cmd.RegisterFlagCompletionFunc(flag, cobra.FixedCompletions(choices, cobra.ShellCompDirectiveNoFileComp))
	}
}

// asking runs a question of a completion, which must be quick and never fail.
func asking[T any](cmd *cobra.Command, ask func(context.Context, *client.Client) ([]T, error), text func(T) string) []string {
	flags := common{format: formatTable}
	if f := cmd.Flags().Lookup("url"); f != nil {
		flags.url = f.Value.String()
	}
	s, err := flags.open(cmd)
	if err != nil {
		return nil
	}
	parent := cmd.Context()
	if parent == nil { // cobra completes without one
		parent = context.Background()
	}
	ctx, cancel := context.WithTimeout(parent, lookAround)
	defer cancel()
	found, err := ask(ctx, s.client)
	if err != nil {
		return nil
	}
	texts := make([]string, 0, len(found))
	for _, item := range found {
		texts = append(texts, text(item))
	}
	return texts
}

func completeFunctions(cmd *cobra.Command) []string {
	return asking(cmd, func(ctx context.Context, c *client.Client) ([]functions.Function, error) { return c.Functions(ctx, "") },
		func(f functions.Function) string { return f.FunctionID.String() + "\t" + counted(f.Latest, "version") })
}

// completeInvocations names the newest invocations of the function that stands before.
func completeInvocations(cmd *cobra.Command, args []string) []string {
	if len(args) == 0 {
		return nil
	}
	return asking(cmd, func(ctx context.Context, c *client.Client) ([]wire.Record, error) {
		return c.Invocations(ctx, args[0], client.InvocationFilter{})
	}, func(r wire.Record) string { return string(r.Invocation) + "\t" + string(r.State) })
}
