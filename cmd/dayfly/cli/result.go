package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/dayfly-run/dayfly/wire"
	"github.com/spf13/cobra"
)

// longestWait is how long one question for a record may be held.
const longestWait = 30 * time.Second

func resultCommand() *cobra.Command {
	var flags common
	var wait time.Duration
	cmd := &cobra.Command{
		Use:   "result ID [FILE]",
		Short: "Print the stored result of an invocation, or a file it left",
		Long: `Result prints what an invocation left in the store, as it is: its result, or with
FILE one of the files from its output folder. It waits for an invocation that is
not over yet; one that failed is reported as by invoke.

Events that run later always leave their result. A call that somebody waited for
does so with "output: {store: true}" in the function's manifest.`,
		Example: `  dayfly result 01998c2e-7d5a-7c11-9f00-3a5be1c2d4f6
  dayfly result 01998c2e-7d5a-7c11-9f00-3a5be1c2d4f6 thumbs/cat.png > cat.png`,
		Args: arguments("ID", "[FILE]"),
		RunE: func(cmd *cobra.Command, args []string) error {
			id, err := invocationArgument(cmd, args[0])
			if err != nil {
				return err
			}
			s, err := flags.open(cmd)
			if err != nil {
				return err
			}
			if err := s.awaitEnd(id, wait); err != nil {
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
	cmd.Flags().DurationVar(&wait, "wait", time.Hour, "how long to wait for an invocation that is not over")
	return cmd
}

// awaitEnd returns nil once an invocation succeeded, its error if it did not, and an
// error that says so when the patience is over.
func (s *session) awaitEnd(id wire.InvocationID, patience time.Duration) error {
	deadline := time.Now().Add(patience)
	for {
		left := time.Until(deadline)
		r, err := s.client.Invocation(s.ctx, id, min(max(left, 0), longestWait))
		if err != nil {
			return noteMissing(err, "the newest ones: "+s.suggest("invocations"))
		}
		switch {
		case r.State == wire.StateSucceeded:
			return nil
		case r.State.Final():
			return s.ended(r)
		case time.Now().After(deadline):
			return withHint(wire.Errorf(wire.CodeUnavailable, "invocation %s is %s", id, r.State), "how it goes: "+s.suggest("invocation %s", id))
		}
	}
}

// ended says why an invocation has no result.
func (s *session) ended(r wire.Record) error {
	err := error(r.Error)
	if r.Error == nil {
		err = errors.New("invocation " + string(r.Invocation) + " is " + string(r.State))
	}
	if r.State == wire.StateDead {
		return withHint(err, "it is kept: "+s.suggest("dlq show %s %s", r.Version.FunctionID, r.Invocation))
	}
	return withHint(err, "all that is known: "+s.suggest("invocation %s", r.Invocation))
}

func cancelCommand() *cobra.Command {
	return ofInvocation("cancel ID", "End an invocation: one that waits is dropped, one that runs is killed",
		func(s *session, id wire.InvocationID) (wire.Record, error) { return s.client.Cancel(s.ctx, id) },
		func(s *session, r wire.Record) error {
			_, err := fmt.Fprintf(s.errOut, "%s is %s\n", r.Invocation, r.State)
			return err
		})
}
