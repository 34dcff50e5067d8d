package cli

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"github.com/dayfly-run/dayfly/sdk/client"
	"github.com/dayfly-run/dayfly/wire"
	"github.com/spf13/cobra"
)

func invocationsCommand() *cobra.Command {
	var flags common
	var filter client.InvocationFilter
	var state string
	cmd := &cobra.Command{
		Use:   "invocations [REF]",
		Short: "List the newest invocations of a function, or of all",
		Args:  arguments("[REF]"),
		RunE: func(cmd *cobra.Command, args []string) error {
			states := []wire.State{wire.StateAccepted, wire.StateRunning, wire.StateSucceeded, wire.StateFailed, wire.StateDead, wire.StateCancelled}
			if filter.State = wire.State(state); state != "" && !slices.Contains(states, filter.State) {
				return usagef(cmd, "--state %s: use one of %v", state, states)
			}
			var refs []wire.Ref
			if len(args) == 1 {
				ref, err := refArgument(cmd, args[0])
				if err != nil {
					return err
				}
				refs = []wire.Ref{ref}
			}
			s, err := flags.open(cmd)
			if err != nil {
				return err
			}
			return s.invocations(refs, filter)
		},
	}
	flags.register(cmd)
	cmd.Flags().StringVar(&state, "state", "", "only those that are accepted, running, succeeded, failed, dead or cancelled")
	cmd.Flags().IntVar(&filter.Limit, "limit", 20, "how many")
	return cmd
}

// invocations lists those of some functions, or of all.
func (s *session) invocations(refs []wire.Ref, filter client.InvocationFilter) error {
	if refs == nil {
		all, err := s.client.Functions(s.ctx, "")
		if err != nil {
			return err
		}
		for _, f := range all {
			refs = append(refs, wire.Ref{FunctionID: f.FunctionID, Qualifier: wire.LiveAlias})
		}
	}
	records := []wire.Record{}
	for _, ref := range refs {
		list, err := s.client.Invocations(s.ctx, ref.FunctionID.String(), filter)
		if err != nil {
			return s.missing(err, ref)
		}
		records = append(records, list...)
	}
	slices.SortFunc(records, func(a, b wire.Record) int { return cmp.Compare(b.Invocation, a.Invocation) })
	records = records[:min(len(records), filter.Limit)]
	if s.json {
		return s.printJSON(map[string]any{"invocations": records})
	}
	if len(records) == 0 {
		_, err := fmt.Fprintln(s.errOut, "There are no such invocations.")
		return err
	}
	rows := [][]string{{"INVOCATION", "VERSION", "STATE", "BEGAN", "RAN", "ATTEMPTS", "ERROR"}}
	for _, r := range records {
		began, ran, failure := r.StartedAt, "-", "-"
		if began.IsZero() {
			began = r.AcceptedAt
		}
		if r.State != wire.StateRunning && r.Node != "" {
			ran = humanDuration(time.Duration(r.RunMicros) * time.Microsecond)
		}
		if r.Error != nil {
			failure = string(r.Error.Code)
		}
		attempts := len(r.Attempts)
		if attempts == 0 && r.Node != "" { // a call that somebody waited for
			attempts = 1
		}
		rows = append(rows, []string{
			string(r.Invocation), versionOf(r), string(r.State), humanAge(began, time.Now()), ran, fmt.Sprint(attempts), failure,
		})
	}
	return writeTable(s.out, rows)
}
