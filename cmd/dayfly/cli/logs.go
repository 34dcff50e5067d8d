package cli

import (
	"cmp"
	"encoding/json"
	"fmt"
	"strings"

	"github.com/dayfly-run/dayfly/sdk/client"
	"github.com/dayfly-run/dayfly/wire"
	"github.com/spf13/cobra"
)

func logsCommand() *cobra.Command {
	var flags common
	var options client.LogOptions
	var invocation string
	var tail int
	cmd := &cobra.Command{
		Use:   "logs REF",
		Short: "Show what a function printed",
		Long: `Logs shows what a function's invocations printed, each line with its time and the
last eight characters of the invocation's ID. With -o json it prints one JSON
object a line, with the whole text.`,
		Example: "  dayfly logs thumbnail -f\n  dayfly logs thumbnail --invocation 01998c2e-7d5a-7c11-9f00-3a5be1c2d4f6",
		Args:    arguments("REF"),
		RunE: func(cmd *cobra.Command, args []string) error {
			ref, err := refArgument(cmd, args[0])
			if err != nil {
				return err
			}
			if tail < 0 || tail > wire.MaxLogTail {
				return usagef(cmd, "--tail %d is not possible; use 0 to %d", tail, wire.MaxLogTail)
			}
			if invocation != "" {
				if options.Invocation, err = invocationArgument(cmd, invocation); err != nil {
					return err
				}
				// Who asks for one invocation wants all of it.
				if !cmd.Flags().Changed("tail") {
					tail = wire.MaxLogTail
				}
			}
			if options.Tail = tail; tail == 0 {
				options.Tail = -1
			}
			s, err := flags.open(cmd)
			if err != nil {
				return err
			}
			return s.logs(ref, options)
		},
	}
	flags.register(cmd)
	cmd.Flags().BoolVarP(&options.Follow, "follow", "f", false, "go on with what is printed from now on, until Ctrl-C")
	cmd.Flags().IntVar(&tail, "tail", wire.DefaultLogTail, "how many of the newest log entries to begin with")
	cmd.Flags().StringVar(&invocation, "invocation", "", "only what this invocation printed")
	return cmd
}

func (s *session) logs(ref wire.Ref, options client.LogOptions) error {
	entries := 0
	for entry, err := range s.client.Logs(s.ctx, ref.String(), options) {
		if err != nil {
			// Ctrl-C is how one stops following.
			if options.Follow && s.ctx.Err() != nil {
				return nil
			}
			return noteMissing(err, "what there is: "+s.suggest("list"))
		}
		entries++
		if err := s.printEntry(entry); err != nil {
			return err
		}
		if options.Invocation != "" && entry.Last {
			return nil
		}
	}
	if options.Follow {
		return wire.Errorf(wire.CodeUnavailable, "the server ended the log stream; it may be restarting")
	}
	if entries == 0 && !s.json {
		_, err := fmt.Fprintln(s.errOut, "There are no log entries.")
		return err
	}
	return nil
}

// printEntry writes one entry: a line of JSON, or its lines with a prefix.
func (s *session) printEntry(entry wire.LogEntry) error {
	if s.json {
		return json.NewEncoder(s.out).Encode(entry)
	}
	if entry.Text == "" {
		return nil
	}
	prefix := paint(s.out, dim, entry.Time.Local().Format("01-02 15:04:05.000")+" "+shortID(entry.Invocation))
	for line := range strings.Lines(entry.Text) {
		if _, err := fmt.Fprintf(s.out, "%s  %s\n", prefix, strings.TrimRight(line, "\r\n")); err != nil {
			return err
		}
	}
	return nil
}

// shortID is what tells invocations apart at a glance: the end of the ID, as its
// beginning is the time and the same for all of a minute.
func shortID(id wire.InvocationID) string {
	return fmt.Sprintf("%8s", cmp.Or(id[max(0, len(id)-8):], "-"))
}
