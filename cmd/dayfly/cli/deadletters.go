package cli

import (
	"fmt"
	"strings"
	"time"

	"github.com/dayfly-run/dayfly/sdk/client"
	"github.com/dayfly-run/dayfly/wire"
	"github.com/spf13/cobra"
)

func deadLettersCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "dlq",
		Short: "Look after events that were given up",
		Long: `Dlq looks after the dead-letter queue of a function: the events that failed at
every attempt, or could not run at all. They stay for 14 days, also when the
function is deleted.`,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(dlqList(), dlqShow(), dlqRedrive(), dlqPurge())
	return cmd
}

func dlqList() *cobra.Command {
	var limit int
	cmd := ofFunction("list REF", "List them, the newest first", []string{"REF"}, func(s *session, ref wire.Ref, _ []wire.InvocationID) error {
		letters, err := s.client.DeadLetters(s.ctx, ref.String(), limit)
		if err != nil {
			return err
		}
		if s.json {
			return s.printJSON(map[string]any{"deadLetters": letters})
		}
		if len(letters) == 0 {
			_, err := fmt.Fprintf(s.errOut, "%s has no dead letters.\n", ref.FunctionID)
			return err
		}
		rows := [][]string{{"INVOCATION", "SOURCE", "DIED", "ATTEMPTS", "REASON"}}
		for _, l := range letters {
			rows = append(rows, []string{
				string(l.Event.Invocation), string(l.Event.Source), humanAge(l.DiedAt, time.Now()), fmt.Sprint(len(l.Event.Attempts)), reasonOf(l),
			})
		}
		return writeTable(s.out, rows)
	})
	cmd.Flags().IntVar(&limit, "limit", 50, "how many")
	return cmd
}

func reasonOf(l client.DeadLetter) string {
	if l.Reason == nil {
		return "-"
	}
	return oneLine(l.Reason)
}

func dlqShow() *cobra.Command {
	return ofFunction("show REF ID", "Show one with its attempts and payload", []string{"REF", "ID"}, func(s *session, ref wire.Ref, ids []wire.InvocationID) error {
		l, err := s.client.DeadLetter(s.ctx, ref.String(), ids[0])
		if err != nil {
			return err
		}
		if s.json {
			return s.printJSON(l)
		}
		rows := [][]string{
			{"invocation", string(l.Event.Invocation)}, {"for", l.Event.Ref}, {"source", string(l.Event.Source)},
			{"accepted", humanMoment(l.Event.AcceptedAt)}, {"died", humanMoment(l.DiedAt)},
		}
		rows = append(rows, attemptRows(l.Event.Attempts)...)
		rows = append(rows, []string{"reason", reasonOf(l)})
		payload := string(l.Payload)
		if payload == "" {
			payload = humanBytes(l.Event.PayloadBytes) + ", not shown"
		}
		rows = append(rows, []string{"payload", payload},
			[]string{"try again", s.suggest("dlq redrive %s %s", ref.FunctionID, l.Event.Invocation)})
		if err := writeTable(s.out, rows); err != nil || l.Reason == nil {
			return err
		}
		var details strings.Builder
		writeDetails(&details, l.Reason)
		_, err = fmt.Fprint(s.out, details.String())
		return err
	})
}

func dlqRedrive() *cobra.Command {
	return ofFunction("redrive REF [ID…]", "Give them another try: those that are named, or all", []string{"REF", "[ID…]"}, func(s *session, ref wire.Ref, ids []wire.InvocationID) error {
		count := 0
		for more := true; more; {
			back, others, err := s.client.Redrive(s.ctx, ref.String(), ids...)
			if err != nil {
				return err
			}
			count += len(back)
			more = others
		}
		return s.printCount("redriven", count)
	})
}

func dlqPurge() *cobra.Command {
	var all bool
	cmd := ofFunction("purge REF [ID…]", "Forget them: those that are named, or with --all every one", []string{"REF", "[ID…]"}, func(s *session, ref wire.Ref, ids []wire.InvocationID) error {
		if len(ids) == 0 && !all {
			return &usageError{err: fmt.Errorf("nothing is named; add IDs, or --all to forget every dead letter of %s", ref.FunctionID), command: "dayfly dlq purge"}
		}
		count, err := s.client.PurgeDeadLetters(s.ctx, ref.String(), ids...)
		if err != nil {
			return err
		}
		return s.printCount("purged", count)
	})
	cmd.Flags().BoolVar(&all, "all", false, "every dead letter of the function")
	return cmd
}

func (s *session) printCount(what string, n int) error {
	if s.json {
		return s.printJSON(map[string]int{what: n})
	}
	_, err := fmt.Fprintf(s.errOut, "%s %d\n", what, n)
	return err
}

// ofFunction makes a command about a function and, where its usage has them,
// invocations.
func ofFunction(use, short string, names []string, run func(*session, wire.Ref, []wire.InvocationID) error) *cobra.Command {
	var flags common
	cmd := &cobra.Command{
		Use: use, Short: short, Args: arguments(names...),
		RunE: func(cmd *cobra.Command, args []string) error {
			ref, err := refArgument(cmd, args[0])
			if err != nil {
				return err
			}
			ids := make([]wire.InvocationID, 0, len(args)-1)
			for _, arg := range args[1:] {
				id, err := invocationArgument(cmd, arg)
				if err != nil {
					return err
				}
				ids = append(ids, id)
			}
			s, err := flags.open(cmd)
			if err != nil {
				return err
			}
			return run(s, ref, ids)
		},
	}
	flags.register(cmd)
	return cmd
}
