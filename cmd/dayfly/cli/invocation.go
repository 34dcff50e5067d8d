package cli

import (
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/dayfly-run/dayfly/wire"
	"github.com/spf13/cobra"
)

func invocationCommand() *cobra.Command {
	return ofInvocation("invocation ID", "Show what became of one invocation", func(s *session, id wire.InvocationID) (wire.Record, error) {
		return s.client.Invocation(s.ctx, id, 0)
	}, (*session).printRecord)
}

// ofInvocation is a command that asks for the record of one invocation and prints it.
func ofInvocation(use, short string, ask func(*session, wire.InvocationID) (wire.Record, error), printed func(*session, wire.Record) error) *cobra.Command {
	var flags common
	cmd := &cobra.Command{
		Use:   use,
		Short: short,
		Args:  arguments("ID"),
		RunE: func(cmd *cobra.Command, args []string) error {
			id, err := invocationArgument(cmd, args[0])
			if err != nil {
				return err
			}
			s, err := flags.open(cmd)
			if err != nil {
				return err
			}
			record, err := ask(s, id)
			if err != nil {
				return err
			}
			if s.json {
				return s.printJSON(record)
			}
			return printed(s, record)
		},
	}
	flags.register(cmd)
	return cmd
}

func (s *session) printRecord(r wire.Record) error {
	rows := [][]string{
		{"invocation", string(r.Invocation)},
		{"version", orDash(versionOf(r))},
		{"state", string(r.State)},
	}
	if !r.AcceptedAt.IsZero() {
		rows = append(rows, []string{"accepted", humanMoment(r.AcceptedAt)})
	}
	if r.Source != "" {
		rows = append(rows, []string{"source", string(r.Source)})
	}
	if r.Cause != "" {
		rows = append(rows, []string{"came of", string(r.Cause)})
	}
	if r.Node != "" {
		start := "warm"
		if r.Cold {
			start = "cold, started in " + humanDuration(time.Duration(r.InitMicros)*time.Microsecond)
		}
		rows = append(rows, []string{"node", string(r.Node)}, []string{"instance", orDash(string(r.Instance))},
			[]string{"began", humanMoment(r.StartedAt)}, []string{"start", start})
		if r.State != wire.StateRunning {
			rows = append(rows, []string{"ran", humanDuration(time.Duration(r.RunMicros) * time.Microsecond)})
		}
	}
	rows = append(rows, attemptRows(r.Attempts)...)
	if !r.NextAttemptAt.IsZero() {
		rows = append(rows, []string{"next attempt", humanMoment(r.NextAttemptAt)})
	}
	if r.Output != nil {
		rows = append(rows, []string{"result", humanBytes(r.Output.ResultBytes) + ": " + s.suggest("result %s", r.Invocation)})
		for _, file := range r.Output.Files {
			rows = append(rows, []string{"file", humanBytes(file.Bytes) + ": " + s.suggest("result %s %q", r.Invocation, file.Path)})
		}
	}
	if r.Error != nil {
		rows = append(rows, []string{"error", oneLine(r.Error)})
	}
	if err := writeTable(s.out, rows); err != nil || r.Error == nil {
		return err
	}
	var details strings.Builder
	writeDetails(&details, r.Error)
	_, err := io.WriteString(s.out, details.String())
	return err
}

// attemptRows describe the attempts at an event, if there was more than one.
func attemptRows(attempts []wire.Attempt) [][]string {
	if len(attempts) < 2 {
		return nil
	}
	rows := make([][]string, 0, len(attempts))
	for i, a := range attempts {
		end := "well"
		if a.Error != nil {
			end = oneLine(a.Error)
		}
		rows = append(rows, []string{fmt.Sprintf("attempt %d", i+1), fmt.Sprintf("%s on %s, %s: %s",
			a.StartedAt.Local().Format(time.TimeOnly), orDash(string(a.Node)), humanDuration(a.EndedAt.Sub(a.StartedAt)), end)})
	}
	return rows
}

func oneLine(e *wire.Error) string { return strings.Join(strings.Fields(e.Error()), " ") }

// versionOf is the version that an invocation ran, or its function while none is chosen.
func versionOf(r wire.Record) string {
	if r.Version.Number == 0 {
		return r.Version.FunctionID.String()
	}
	return r.Version.String()
}

func humanMoment(at time.Time) string {
	return at.Local().Format("2006-01-02 15:04:05.000 MST") + ", " + humanAge(at, time.Now())
}
