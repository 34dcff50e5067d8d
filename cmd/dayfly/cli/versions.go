package cli

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/dayfly-run/dayfly/functions"
	"github.com/dayfly-run/dayfly/sdk/client"
	"github.com/dayfly-run/dayfly/wire"
	"github.com/spf13/cobra"
)

func versionsCommand() *cobra.Command {
	var flags common
	cmd := &cobra.Command{
		Use:   "versions REF",
		Short: "List the versions of a function, the newest first",
		Long: fmt.Sprintf(`Versions lists the versions of a function and the aliases that send calls to them.
The newest %d stay, and those that an alias names.`, wire.MaxVersions),
		Args: arguments("REF"),
		RunE: withFunction(&flags, func(s *session, ref wire.Ref, _ []string) error { return s.versions(ref) }),
	}
	flags.register(cmd)
	return cmd
}

// withFunction is a command whose first argument names a function as a whole.
func withFunction(flags *common, run func(s *session, ref wire.Ref, rest []string) error) func(*cobra.Command, []string) error {
	return func(cmd *cobra.Command, args []string) error {
		ref, err := refArgument(cmd, args[0])
		if err != nil {
			return err
		}
		if strings.Contains(args[0], ":") {
			return usagef(cmd, "name the function as a whole: %s, without %q", ref.FunctionID, ":"+ref.Qualifier)
		}
		s, err := flags.open(cmd)
		if err != nil {
			return err
		}
		return run(s, ref, args[1:])
	}
}

func (s *session) versions(ref wire.Ref) error {
	list, err := s.client.Versions(s.ctx, ref.FunctionID)
	if err != nil {
		return s.missing(err, ref)
	}
	if s.json {
		if list == nil {
			list = []client.ListedVersion{}
		}
		return s.printJSON(map[string]any{"versions": list})
	}
	rows := [][]string{{"VERSION", "ALIASES", "DEPLOYED", "RUNTIME", "SIZE", "DIGEST"}}
	for _, v := range list {
		var aliases []string
		for _, a := range v.Aliases {
			name := a.Name
			if a.Percent < 100 {
				name += fmt.Sprintf(" %d%%", a.Percent)
			}
			aliases = append(aliases, name)
		}
		rows = append(rows, []string{
			strconv.Itoa(v.Number), orDash(strings.Join(aliases, ", ")), humanAge(v.CreatedAt, time.Now()),
			v.Spec.Runtime, humanBytes(v.CodeBytes), fmt.Sprintf("%.12s", string(v.Code)),
		})
	}
	return writeTable(s.out, rows)
}

func aliasCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "alias",
		Short: "Show and change the aliases of a function",
		Long: `An alias is a name that points to a version, or splits its calls between two. The
alias live is what a plain name means.`,
	}
	cmd.AddCommand(aliasListCommand(), aliasSetCommand(), aliasDeleteCommand())
	return cmd
}

func aliasListCommand() *cobra.Command {
	var flags common
	cmd := &cobra.Command{
		Use: "list REF", Aliases: []string{"ls"}, Short: "List the aliases of a function",
		Args: arguments("REF"),
		RunE: withFunction(&flags, func(s *session, ref wire.Ref, _ []string) error {
			list, err := s.client.Aliases(s.ctx, ref.FunctionID)
			if err != nil {
				return s.missing(err, ref)
			}
			if s.json {
				return s.printJSON(map[string]any{"aliases": list})
			}
			rows := [][]string{{"ALIAS", "VERSION", "SPLIT", "URL"}}
			for _, name := range slices.Sorted(maps.Keys(list)) {
				a := list[name]
				rows = append(rows, []string{
					name, strconv.Itoa(a.Version), splitText(a), s.client.FunctionURL(wire.Ref{FunctionID: ref.FunctionID, Qualifier: name}),
				})
			}
			return writeTable(s.out, rows)
		}),
	}
	flags.register(cmd)
	return cmd
}

// splitText writes how an alias splits its calls.
func splitText(a functions.Alias) string {
	if len(a.Weights) == 0 {
		return "-"
	}
	var parts []string
	for _, number := range a.Versions() {
		parts = append(parts, fmt.Sprintf("%d: %d%%", number, a.Percent(number)))
	}
	return strings.Join(parts, ", ")
}

func aliasSetCommand() *cobra.Command {
	var flags common
	var version int
	var weight string
	cmd := &cobra.Command{
		Use:   "set REF ALIAS",
		Short: "Point an alias to a version, or split its calls between two",
		Long: `Set makes an alias or points it elsewhere. With --weight it sends a share of its
calls, in percent, to another version; triggers and minInstances go by --version.`,
		Example: "  dayfly alias set thumbnail prod --version 7\n  dayfly alias set thumbnail live --version 7 --weight 8=10",
		Args:    arguments("REF", "ALIAS"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if !functions.ValidAlias(args[1]) {
				return usagef(cmd, "%q cannot name an alias; use lower-case letters, digits and inner hyphens, at most 63, and not only digits", args[1])
			}
			if version < 1 {
				return usagef(cmd, "--version is missing; name the version that %s shall mean", args[1])
			}
			to := functions.Alias{Version: version}
			if weight != "" {
				other, percent, err := parseWeight(weight)
				if err != nil {
					return usagef(cmd, "--weight %s: %w", weight, err)
				}
				to.Weights = map[int]int{other: percent}
			}
			return withFunction(&flags, func(s *session, ref wire.Ref, _ []string) error { return s.setAlias(ref, args[1], to) })(cmd, args)
		},
	}
	flags.register(cmd)
	cmd.Flags().IntVar(&version, "version", 0, "the `number` of the version that the alias means")
	cmd.Flags().StringVar(&weight, "weight", "", "another version and its share of the calls, as `VERSION=PERCENT`")
	return cmd
}

func parseWeight(text string) (version, percent int, err error) {
	left, right, found := strings.Cut(text, "=")
	version, errLeft := strconv.Atoi(left)
	percent, errRight := strconv.Atoi(strings.TrimSuffix(right, "%"))
	if !found || errLeft != nil || errRight != nil || version < 1 || percent < 1 || percent > 99 {
		return 0, 0, fmt.Errorf("write it as VERSION=PERCENT with 1 to 99 percent, as in 8=10")
	}
	return version, percent, nil
}

func (s *session) setAlias(ref wire.Ref, name string, to functions.Alias) error {
	f, err := s.client.SetAlias(s.ctx, ref.FunctionID, name, to)
	if err != nil {
		return s.missing(err, ref)
	}
	if s.json {
		return s.printJSON(map[string]any{"function": f})
	}
	_, err = fmt.Fprintf(s.out, "%s of %s is version %s\n", name, ref.FunctionID, to)
	return err
}

func aliasDeleteCommand() *cobra.Command {
	var flags common
	cmd := &cobra.Command{
		Use: "delete REF ALIAS", Aliases: []string{"rm"}, Short: "Remove an alias, but for live",
		Args: arguments("REF", "ALIAS"),
		RunE: withFunction(&flags, func(s *session, ref wire.Ref, rest []string) error {
			if err := s.client.DeleteAlias(s.ctx, ref.FunctionID, rest[0]); err != nil {
				return s.missing(err, ref)
			}
			if s.json {
				return nil
			}
			_, err := fmt.Fprintf(s.out, "removed %s of %s\n", rest[0], ref.FunctionID)
			return err
		}),
	}
	flags.register(cmd)
	return cmd
}

func rollbackCommand() *cobra.Command {
	var flags common
	var to int
	cmd := &cobra.Command{
		Use:   "rollback REF",
		Short: "Make the version live that was live before",
		Long: `Rollback points live, all of it, to the version that was live before, or to the one
that --to names. Calls under way end on the version that they began on. Deploys that are
under way do not undo it; the next one does.`,
		Args: arguments("REF"),
		RunE: withFunction(&flags, func(s *session, ref wire.Ref, _ []string) error {
			begun := time.Now()
			done, err := s.client.Rollback(s.ctx, ref.FunctionID, to)
			if wire.HasCode(err, wire.CodeConflict) {
				return withHint(err, s.suggest("versions %s", ref.FunctionID))
			}
			if err != nil {
				return s.missing(err, ref)
			}
			if s.json {
				return s.printJSON(done)
			}
			_, err = fmt.Fprintf(s.out, "%s is back at version %d, from %d, after %s\n",
				ref.FunctionID, done.To, done.From, humanDuration(time.Since(begun).Round(time.Millisecond)))
			return err
		}),
	}
	flags.register(cmd)
	cmd.Flags().IntVar(&to, "to", 0, "the `number` of the version to go to")
	cmd.PreRunE = func(cmd *cobra.Command, _ []string) error {
		if cmd.Flags().Changed("to") && to < 1 {
			return usagef(cmd, "--to %d: name a version, from 1", to)
		}
		return nil
	}
	// What may be meant is known to the server.
	_ = cmd.RegisterFlagCompletionFunc("to", func(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
		return completeVersions(cmd, args), cobra.ShellCompDirectiveNoFileComp
	})
	return cmd
}

// completeVersions names the versions of the function that stands before.
func completeVersions(cmd *cobra.Command, args []string) []string {
	if len(args) == 0 {
		return nil
	}
	ref, err := wire.ParseRef(args[0])
	if err != nil {
		return nil
	}
	return asking(cmd, func(ctx context.Context, c *client.Client) ([]client.ListedVersion, error) {
		return c.Versions(ctx, ref.FunctionID)
	},
		func(v client.ListedVersion) string { return strconv.Itoa(v.Number) })
}
