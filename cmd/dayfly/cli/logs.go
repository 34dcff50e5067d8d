package cli

import (
	"cmp"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/dayfly-run/dayfly/sdk/client"
	"github.com/dayfly-run/dayfly/wire"
	"github.com/spf13/cobra"
)

func logsCommand() *cobra.Command {
	var flags common
	var l logFlags
	cmd := &cobra.Command{
		Use:   "logs REF",
		Short: "Show what a function printed, wherever it ran",
		Long: `Logs shows what a function's invocations printed on all nodes, each line with its
time and the last eight characters of the invocation's ID. With -f it goes on, also
when the server restarts. REF with a number shows that version only.

A line's level is that of a JSON object's "level", of level= in it, or of a first word
such as WARN or [error]; other lines count as info. --tail counts the entries that fit;
for filters the newest 10000 are looked through. With -o json it prints one JSON object
a line, with the whole text.`,
		Example: `  dayfly logs thumbnail -f
  dayfly logs thumbnail --level warn --since 10m
  dayfly logs thumbnail --grep timeout --tail 20
  dayfly logs thumbnail --invocation 01998c2e-7d5a-7c11-9f00-3a5be1c2d4f6`,
		Args: arguments("REF"),
		RunE: func(cmd *cobra.Command, args []string) error {
			ref, err := refArgument(cmd, args[0])
			if err != nil {
				return err
			}
			options, err := l.options(cmd, time.Now())
			if err != nil {
				return err
			}
			s, err := flags.open(cmd)
			if err != nil {
				return err
			}
			return s.logs(ref, options)
		},
	}
	flags.register(cmd)
	f := cmd.Flags()
	f.BoolVarP(&l.follow, "follow", "f", false, "go on with what is printed from now on, until Ctrl-C")
	f.IntVar(&l.tail, "tail", wire.DefaultLogTail, "how many of the newest log entries to begin with")
	f.StringVar(&l.invocation, "invocation", "", "only what the invocation with this `ID` printed")
	f.StringVar(&l.level, "level", "", "only lines that are at least so grave: debug, info, warn or error")
	f.StringVar(&l.grep, "grep", "", "only lines with this `text` in them")
	f.IntVar(&l.version, "version", 0, "only what this version printed")
	f.StringVar(&l.instance, "instance", "", "only what the instance with this `ID`, or one that begins so, printed")
	f.StringVar(&l.since, "since", "", "only what is newer: a duration as 10m, or a time as 2026-05-01T12:00:00Z")
	return cmd
}

// logFlags are what the flags of logs say.
type logFlags struct {
	follow                                   bool
	tail, version                            int
	invocation, level, grep, instance, since string
}

// options reads them. Who asks for one invocation, or for a span of time, wants all of
// it.
func (l logFlags) options(cmd *cobra.Command, now time.Time) (client.LogOptions, error) {
	options := client.LogOptions{Follow: l.follow, Version: l.version, Instance: wire.InstanceID(l.instance), Contains: l.grep, Tail: l.tail}
	var err error
	switch {
	case l.tail < 0 || l.tail > wire.MaxLogTail:
		return options, usagef(cmd, "--tail %d is not possible; use 0 to %d", l.tail, wire.MaxLogTail)
	case l.version < 0:
		return options, usagef(cmd, "--version %d is not the number of a version", l.version)
	}
	if l.level != "" {
		if options.Level, err = wire.ParseLevel(l.level); err != nil {
			return options, usagef(cmd, "--level %s: use debug, info, warn or error", l.level)
		}
	}
	if l.since != "" {
		if options.Since, err = sinceArgument(cmd, l.since, now); err != nil {
			return options, err
		}
	}
	if l.invocation != "" {
		if options.Invocation, err = invocationArgument(cmd, l.invocation); err != nil {
			return options, err
		}
	}
	switch {
	case cmd.Flags().Changed("tail"):
		if l.tail == 0 {
			options.Tail = -1
		}
	case l.invocation != "" || l.since != "":
		options.Tail = wire.MaxLogTail
	}
	return options, nil
}

// sinceArgument reads how long ago a moment is, or the moment.
func sinceArgument(cmd *cobra.Command, text string, now time.Time) (time.Time, error) {
	if ago, err := time.ParseDuration(text); err == nil && ago >= 0 {
		return now.Add(-ago), nil
	}
	at, err := time.Parse(time.RFC3339, text)
	if err != nil {
		return at, usagef(cmd, "--since %s is neither a duration as 10m nor a time as %s", text, now.UTC().Format(time.RFC3339))
	}
	return at, nil
}

func (s *session) logs(ref wire.Ref, options client.LogOptions) error {
	read := s.client.Logs(s.ctx, ref.String(), options)
	if options.Follow {
		read = s.client.FollowLogs(s.ctx, ref.String(), options, s.lostLogs)
	}
	entries := 0
	for entry, err := range read {
		if err != nil {
			// Ctrl-C is how one stops following.
			if options.Follow && s.ctx.Err() != nil {
				return nil
			}
			return s.missing(err, ref)
		}
		entries++
		if err := s.printEntry(entry); err != nil {
			return err
		}
		if options.Invocation != "" && entry.Last {
			return nil
		}
	}
	if entries == 0 && !s.json {
		_, err := fmt.Fprintln(s.errOut, "There are no log entries.")
		return err
	}
	return nil
}

// lostLogs tells that a followed stream broke.
func (s *session) lostLogs(err error) {
	why := "the server ended it"
	if err != nil {
		why = err.Error()
	}
	fmt.Fprintln(s.errOut, paint(s.errOut, dim, "the log stream broke ("+why+"); it goes on when the server answers"))
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
		line = strings.TrimRight(line, "\r\n")
		if colour := levelColours[wire.LineLevel(line)]; colour != "" {
			line = paint(s.out, colour, line)
		}
		if _, err := fmt.Fprintf(s.out, "%s  %s\n", prefix, line); err != nil {
			return err
		}
	}
	return nil
}

// levelColours are those of lines that are not of the usual level.
var levelColours = map[wire.Level]string{wire.LevelDebug: dim, wire.LevelWarn: yellow, wire.LevelError: red}

// shortID is what tells invocations apart at a glance: the end of the ID, as its
// beginning is the time and the same for all of a minute.
func shortID(id wire.InvocationID) string {
	return fmt.Sprintf("%8s", cmp.Or(id[max(0, len(id)-8):], "-"))
}
