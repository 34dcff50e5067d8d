package cli

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	"github.com/dayfly-run/dayfly/functions"
	"github.com/dayfly-run/dayfly/wire"
	"github.com/spf13/cobra"
)

func configCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "config",
		Short: "Configure a function while it runs",
		Long: `Config sets values that a function reads while it runs: with config.get of the
SDKs, or GET /dayfly/v1/config of its Runtime API. A change reaches instances that
run within a second, without a deploy or a restart. Everybody who may ask the
server sees the values; what nobody may see is a secret (dayfly secrets).`,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(configSet(), configUnset(), configList(), configGet())
	return cmd
}

// settingsCommand is a command about the settings of a function, which its first
// argument names.
func settingsCommand(use, short string, names []string, run func(s *session, cmd *cobra.Command, id wire.FunctionID, args []string) error) *cobra.Command {
	var flags common
	cmd := &cobra.Command{
		Use: use, Short: short, Args: arguments(names...),
		RunE: func(cmd *cobra.Command, args []string) error {
			ref, err := refArgument(cmd, args[0])
			if err != nil {
				return err
			}
			if ref.Qualifier != wire.LiveAlias {
				return usagef(cmd, "settings are of a function with all its versions; write %s, without %q", ref.FunctionID, ":"+ref.Qualifier)
			}
			s, err := flags.open(cmd)
			if err != nil {
				return err
			}
			return run(s, cmd, ref.FunctionID, args[1:])
		},
	}
	flags.register(cmd)
	return cmd
}

func configSet() *cobra.Command {
	cmd := settingsCommand("set REF KEY=VALUE…", "Set values, all at once", []string{"REF", "KEY=VALUE", "[KEY=VALUE…]"},
		func(s *session, cmd *cobra.Command, id wire.FunctionID, args []string) error {
			values := map[string]string{}
			for _, arg := range args {
				name, value, both := strings.Cut(arg, "=")
				if !both {
					return usagef(cmd, "%q is no KEY=VALUE", arg)
				}
				if _, twice := values[name]; twice {
					return usagef(cmd, "%s is given twice; give one", name)
				}
				values[name] = value
			}
			return s.changeConfig(id, values, nil)
		})
	cmd.Example = "  dayfly config set thumbnail SIZE=128 MODE=fast"
	return cmd
}

func configUnset() *cobra.Command {
	return settingsCommand("unset REF KEY…", "Remove values", []string{"REF", "KEY", "[KEY…]"},
		func(s *session, _ *cobra.Command, id wire.FunctionID, args []string) error {
			return s.changeConfig(id, nil, args)
		})
}

func (s *session) changeConfig(id wire.FunctionID, set map[string]string, remove []string) error {
	config, err := s.client.ChangeConfig(s.ctx, id, set, remove)
	if err != nil {
		return err
	}
	return s.printConfig(id, config)
}

func configList() *cobra.Command {
	return settingsCommand("list REF", "List the values", []string{"REF"},
		func(s *session, _ *cobra.Command, id wire.FunctionID, _ []string) error {
			config, err := s.client.Config(s.ctx, id)
			if err != nil {
				return err
			}
			return s.printConfig(id, config)
		})
}

func (s *session) printConfig(id wire.FunctionID, config functions.Config) error {
	if s.json {
		return s.printJSON(config)
	}
	if len(config.Values) == 0 {
		_, err := fmt.Fprintf(s.errOut, "%s is not configured. Set a value: %s\n", id, s.suggest("config set %s KEY=VALUE", id))
		return err
	}
	rows := [][]string{{"KEY", "VALUE"}}
	for _, name := range slices.Sorted(maps.Keys(config.Values)) {
		rows = append(rows, []string{name, shownValue(config.Values[name])})
	}
	return writeTable(s.out, rows)
}

// shownValue is a value on one line of a table; -o json and get give it as it is.
func shownValue(value string) string {
	quoted := fmt.Sprintf("%q", value)
	if value == "" || strings.TrimSpace(value) != value || quoted != `"`+value+`"` {
		return quoted
	}
	return value
}

func configGet() *cobra.Command {
	return settingsCommand("get REF KEY", "Print one value as it is", []string{"REF", "KEY"},
		func(s *session, _ *cobra.Command, id wire.FunctionID, args []string) error {
			config, err := s.client.Config(s.ctx, id)
			if err != nil {
				return err
			}
			value, there := config.Values[args[0]]
			if !there {
				hint := "what there is: " + s.suggest("config list %s", id)
				return withHint(wire.Errorf(wire.CodeNotFound, "%s has no value %s", id, args[0]), hint)
			}
			if s.json {
				return s.printJSON(value)
			}
			_, err = io.WriteString(s.out, value+"\n")
			return err
		})
}
