package cli

import (
	"bufio"
	"errors"
	"fmt"
	"io"
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

func listCommand() *cobra.Command {
	var flags common
	var namespace string
	cmd := &cobra.Command{
		Use:     "list",
		Aliases: []string{"ls"},
		Short:   "List the functions",
		Args:    arguments(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			s, err := flags.open(cmd)
			if err != nil {
				return err
			}
			return s.list(namespace)
		},
	}
	flags.register(cmd)
	cmd.Flags().StringVar(&namespace, "namespace", "", "only those of this namespace")
	return cmd
}

func (s *session) list(namespace string) error {
	list, err := s.client.Functions(s.ctx, namespace)
	if err != nil {
		return err
	}
	if s.json {
		if list == nil {
			list = []functions.Function{}
		}
		return s.printJSON(map[string]any{"functions": list})
	}
	if len(list) == 0 {
		_, err := fmt.Fprintln(s.errOut, "There are no functions. Deploy one: "+s.suggest("deploy DIR"))
		return err
	}
	rows := [][]string{{"FUNCTION", "LIVE", "VERSIONS", "UPDATED", "URL"}}
	for _, f := range list {
		live := "-"
		if alias, ok := f.Aliases[wire.LiveAlias]; ok {
			live = strconv.Itoa(alias.Version)
		}
		rows = append(rows, []string{
			f.FunctionID.String(), live, strconv.Itoa(f.Latest), humanAge(f.UpdatedAt, time.Now()),
			s.client.FunctionURL(wire.Ref{FunctionID: f.FunctionID, Qualifier: wire.LiveAlias}),
		})
	}
	return writeTable(s.out, rows)
}

func describeCommand() *cobra.Command {
	var flags common
	cmd := &cobra.Command{
		Use:   "describe REF",
		Short: "Show a function, its aliases, and how a version runs",
		Long: `Describe shows a function and the version that REF stands for: name[.namespace]
for the live one, name:3 or name:alias for another.`,
		Args: arguments("REF"),
		RunE: func(cmd *cobra.Command, args []string) error {
			ref, err := refArgument(cmd, args[0])
			if err != nil {
				return err
			}
			s, err := flags.open(cmd)
			if err != nil {
				return err
			}
			resolved, err := s.client.Function(s.ctx, ref.String())
			if err != nil {
				return s.missing(err, ref)
			}
			if s.json {
				return s.printJSON(resolved)
			}
			return s.printResolved(ref, resolved)
		},
	}
	flags.register(cmd)
	return cmd
}

func (s *session) printResolved(ref wire.Ref, r client.Resolved) error {
	f, v, spec, now := r.Function, r.Version, r.Version.Spec, time.Now()
	var aliases []string
	for _, name := range slices.Sorted(maps.Keys(f.Aliases)) {
		aliases = append(aliases, fmt.Sprintf("%s → %s", name, f.Aliases[name]))
	}
	rows := [][]string{
		{"function", f.FunctionID.String()},
		{"URL", s.client.FunctionURL(ref)},
		{"aliases", orDash(strings.Join(aliases, ", "))},
		{"versions", strconv.Itoa(f.Latest)},
		{"created", humanAge(f.CreatedAt, now)},
		{"updated", humanAge(f.UpdatedAt, now)},
		{""},
		{"version", strconv.Itoa(v.Number)},
		{"runtime", spec.Runtime},
		{"handler", orDash(spec.Handler)},
		{"memory", humanBytes(spec.MemoryBytes)},
		{"CPU", cores(spec.CPUMillis) + " cores"},
		{"timeout", humanDuration(spec.Timeout())},
		{"instances", fmt.Sprintf("%d to %d, each with %s at once", spec.MinInstances, spec.MaxInstances, counted(spec.Concurrency, "call"))},
		{"network", spec.Network},
		{"output", map[bool]string{true: "stored", false: "not stored"}[spec.Output.Store]},
		{"code", fmt.Sprintf("sha256:%s (%s)", v.Code, humanBytes(v.CodeBytes))},
		{"deployed", humanAge(v.CreatedAt, now)},
	}
	if len(spec.NodeSelector) > 0 {
		rows = append(rows, []string{"nodes with", wire.ShowLabels(spec.NodeSelector)})
	}
	if v.Arch != "" {
		rows = append(rows, []string{"made for", v.Arch})
	}
	for i, trigger := range spec.Triggers {
		title := ""
		if i == 0 {
			title = "triggers"
		}
		rows = append(rows, []string{title, trigger.String()})
	}
	for i, name := range slices.Sorted(maps.Keys(spec.Env)) {
		title := ""
		if i == 0 {
			title = "env"
		}
		rows = append(rows, []string{title, name + "=" + strconv.Quote(spec.Env[name])})
	}
	for i, use := range spec.Secrets {
		title := ""
		if i == 0 {
			title = "secrets"
		}
		rows = append(rows, []string{title, use.Name + map[string]string{
			functions.SecretAsEnv: " (variable)", functions.SecretAsFile: " (file)",
		}[use.As]})
	}
	return writeTable(s.out, rows)
}

func orDash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

func deleteCommand() *cobra.Command {
	var flags common
	var yes bool
	cmd := &cobra.Command{
		Use:   "delete NAME[.NAMESPACE]",
		Short: "Delete a function with all its versions",
		Args:  arguments("NAME[.NAMESPACE]"),
		RunE: func(cmd *cobra.Command, args []string) error {
			ref, err := refArgument(cmd, args[0])
			if err != nil {
				return err
			}
			if strings.Contains(args[0], ":") {
				return usagef(cmd, "delete removes a function with all its versions; write %s, without %q", ref.FunctionID, ":"+ref.Qualifier)
			}
			s, err := flags.open(cmd)
			if err != nil {
				return err
			}
			if !yes {
				if err := s.confirm(cmd, "Delete "+ref.FunctionID.String()+" with all its versions?"); err != nil {
					return err
				}
			}
			return s.delete(ref.FunctionID)
		},
	}
	flags.register(cmd)
	cmd.Flags().BoolVarP(&yes, "yes", "y", false, "do not ask")
	return cmd
}

func (s *session) delete(id wire.FunctionID) error {
	if err := s.client.Delete(s.ctx, id); err != nil {
		return s.missing(err, wire.Ref{FunctionID: id})
	}
	if s.json {
		return nil
	}
	_, err := fmt.Fprintf(s.out, "deleted %s\n", id)
	return err
}

// errDeclined is the answer no.
var errDeclined = errors.New("nothing was deleted")

// confirm asks a person; without one it is an error.
func (s *session) confirm(cmd *cobra.Command, question string) error {
	if !interactive(s.in) {
		return usagef(cmd, "nobody is there to ask; use --yes to delete")
	}
	if _, err := fmt.Fprint(s.errOut, question+" [y/N] "); err != nil {
		return err
	}
	answer, err := bufio.NewReader(io.LimitReader(s.in, 64)).ReadString('\n')
	if err != nil && !errors.Is(err, io.EOF) {
		return fmt.Errorf("read the answer: %w", err)
	}
	switch strings.ToLower(strings.TrimSpace(answer)) {
	case "y", "yes":
		return nil
	}
	return errDeclined
}
