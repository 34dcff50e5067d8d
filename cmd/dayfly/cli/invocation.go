package cli

import (
	"context"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/dayfly-run/dayfly/wire"
	"github.com/spf13/cobra"
)

func invocationCommand() *cobra.Command {
	var flags common
	cmd := &cobra.Command{
		Use:   "invocation ID",
		Short: "Show what became of one invocation",
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
			record, err := s.client.Invocation(s.ctx, id)
			if err != nil {
				return err
			}
			if s.json {
				return s.printJSON(record)
			}
			return s.printRecord(record)
		},
	}
	flags.register(cmd)
	return cmd
}

func (s *session) printRecord(r wire.Record) error {
	start := "warm"
	if r.Cold {
		start = "cold, started in " + humanDuration(time.Duration(r.InitMicros)*time.Microsecond)
	}
	rows := [][]string{
		{"invocation", string(r.Invocation)},
		{"version", r.Version.String()},
		{"state", string(r.State)},
		{"node", orDash(string(r.Node))},
		{"instance", orDash(string(r.Instance))},
		{"began", r.StartedAt.Local().Format("2006-01-02 15:04:05.000 MST") + ", " + humanAge(r.StartedAt, time.Now())},
		{"start", start},
	}
	if r.State != wire.StateRunning {
		rows = append(rows, []string{"ran", humanDuration(time.Duration(r.RunMicros) * time.Microsecond)})
	}
	if r.Output != nil {
		rows = append(rows, []string{"result", humanBytes(r.Output.ResultBytes) + ": " + s.suggest("output %s", r.Invocation)})
		for _, file := range r.Output.Files {
			rows = append(rows, []string{"file", humanBytes(file.Bytes) + ": " + s.suggest("output %s %q", r.Invocation, file.Path)})
		}
	}
	if r.Error != nil {
		rows = append(rows, []string{"error", strings.Join(strings.Fields(r.Error.Error()), " ")})
	}
	if err := writeTable(s.out, rows); err != nil || r.Error == nil {
		return err
	}
	var details strings.Builder
	writeDetails(&details, r.Error)
	_, err := io.WriteString(s.out, details.String())
	return err
}

func outputCommand() *cobra.Command {
	var flags common
	cmd := &cobra.Command{
		Use:   "output ID [FILE]",
		Short: "Print the stored result of an invocation, or a file it left",
		Long: `Output prints what an invocation left in the store, as it is: its result, or with
FILE one of the files from its output folder. Only functions with
"output: {store: true}" in their manifest leave something.`,
		Example: "  dayfly output 01998c2e-7d5a-7c11-9f00-3a5be1c2d4f6 thumbs/cat.png > cat.png",
		Args:    arguments("ID", "[FILE]"),
		RunE: func(cmd *cobra.Command, args []string) error {
			id, err := invocationArgument(cmd, args[0])
			if err != nil {
				return err
			}
			s, err := flags.open(cmd)
			if err != nil {
				return err
			}
			open := s.client.Output
			if len(args) == 2 {
				open = func(ctx context.Context, id wire.InvocationID) (io.ReadCloser, error) {
					return s.client.OutputFile(ctx, id, args[1])
				}
			}
			content, err := open(s.ctx, id)
			if err != nil {
				return noteMissing(err, "what it left: "+s.suggest("invocation %s", id))
			}
			defer func() { _ = content.Close() }()
			if err := copyRaw(s.out, content); err != nil {
				return fmt.Errorf("copy the output: %w", err)
			}
			return nil
		},
	}
	flags.register(cmd)
	return cmd
}
