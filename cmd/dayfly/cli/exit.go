package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/dayfly-run/dayfly/sdk/client"
	"github.com/dayfly-run/dayfly/wire"
	"github.com/spf13/cobra"
)

// Exit codes of the program.
const (
	ExitOK = 0
	// ExitFailed means that the platform failed, or anything unforeseen.
	ExitFailed = 1
	// ExitUsage means that the command line or the input is wrong.
	ExitUsage = 2
	// ExitNotFound means that what was asked for does not exist.
	ExitNotFound = 3
	// ExitFunction means that the function failed, not the platform.
	ExitFunction = 4
	// ExitRetry means that the same command may work later.
	ExitRetry = 5
)

func exitCodesTopic() *cobra.Command {
	return &cobra.Command{
		Use:   "exit-codes",
		Short: "What the exit codes mean",
		Long: `Exit codes:

  0  it worked
  1  the platform failed, or something unforeseen
  2  the command line or the input is wrong
  3  what was asked for does not exist
  4  the function failed, not the platform
  5  throttled, no capacity, or no server there: try again later`,
	}
}

// ExitCode returns the exit code for what a command returned.
func ExitCode(err error) int {
	if err == nil {
		return ExitOK
	}
	if _, ok := errors.AsType[*usageError](err); ok {
		return ExitUsage
	}
	if _, ok := errors.AsType[*client.UnreachableError](err); ok {
		return ExitRetry
	}
	if e, ok := errors.AsType[*client.ResponseError](err); ok && e.Temporary() {
		return ExitRetry
	}
	e, ok := errors.AsType[*wire.Error](err)
	if !ok {
		return ExitFailed
	}
	switch e.Code {
	case wire.CodeInvalid, wire.CodeTooLarge:
		return ExitUsage
	case wire.CodeNotFound:
		return ExitNotFound
	case wire.CodeThrottled, wire.CodeNoCapacity, wire.CodeUnavailable:
		return ExitRetry
	}
	if e.Code.OfFunction() {
		return ExitFunction
	}
	return ExitFailed
}

// hintError carries what the user may do about err.
type hintError struct {
	err  error
	hint string
}

func (e *hintError) Error() string { return e.err.Error() }
func (e *hintError) Unwrap() error { return e.err }

func withHint(err error, hint string) error { return &hintError{err: err, hint: hint} }

// PrintError tells a person what went wrong: the message, what the function had
// to say if it was the one that failed, and what to do next.
func PrintError(w io.Writer, err error) {
	var text strings.Builder
	e, fromWire := errors.AsType[*wire.Error](err)
	switch {
	case errors.Is(err, context.Canceled):
		text.WriteString("interrupted")
	case fromWire && e.Code.OfFunction():
		text.WriteString(e.Error())
	case fromWire && e == bare(err):
		text.WriteString(e.Message)
	default:
		text.WriteString(err.Error())
	}
	text.WriteString("\n")
	if fromWire {
		writeDetails(&text, e)
	}
	for _, hint := range hints(err) {
		text.WriteString("hint: " + hint + "\n")
	}
	// There is nobody left to tell if even this cannot be written.
	_, _ = fmt.Fprintf(w, "%s %s", paint(w, red, "error:"), text.String())
}

// bare returns err without the wrappers of this package.
func bare(err error) error {
	for {
		switch e := err.(type) {
		case *hintError:
			err = e.err
		case *usageError:
			err = e.err
		default:
			return err
		}
	}
}

// writeDetails writes what the function had to say.
func writeDetails(text *strings.Builder, e *wire.Error) {
	if e.Type != "" {
		fmt.Fprintf(text, "  type: %s\n", e.Type)
	}
	block := func(title, content string) {
		if content = strings.TrimRight(content, "\n"); content != "" {
			fmt.Fprintf(text, "  %s:\n    %s\n", title, strings.ReplaceAll(content, "\n", "\n    "))
		}
	}
	block("trace", strings.Join(e.Trace, "\n"))
	block("last log lines", e.Logs)
}

// hints lists what the user may do, most specific first.
func hints(err error) []string {
	var list []string
	if e, ok := errors.AsType[*hintError](err); ok {
		list = append(list, e.hint)
	}
	if e, ok := errors.AsType[*wire.Error](err); ok && e.RetryAfterMillis > 0 {
		list = append(list, "try again in "+humanDuration(time.Duration(e.RetryAfterMillis)*time.Millisecond))
	}
	if e, ok := errors.AsType[*usageError](err); ok {
		list = append(list, e.command+" --help")
	}
	return list
}
