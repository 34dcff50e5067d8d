package cli

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/dayfly-run/dayfly/sdk/client"
	"github.com/dayfly-run/dayfly/wire"
	"github.com/spf13/cobra"
)

func invokeCommand() *cobra.Command {
	var flags common
	var event eventFlags
	var verbose, async bool
	var key string
	cmd := &cobra.Command{
		Use:   "invoke REF",
		Short: "Call a function and print its result",
		Long: `Invoke calls a function with an event and prints its result to stdout as it is.

REF is name[.namespace][:version-or-alias]. When the function fails, its error,
trace and last log lines go to stderr and the exit code is 4.

With --async the event is put on disk, to be run later and again if it fails, and
its invocation's ID is printed.`,
		Example: `  dayfly invoke thumbnail --data '{"width": 128}'
  dayfly invoke thumbnail.team-a:3 --data @event.json
  dayfly result $(dayfly invoke thumbnail --async --data @event.json)
  jq -n '{width: 64}' | dayfly invoke thumbnail --data -`,
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
			if async {
				event.limit = wire.MaxAsyncPayload
			} else if key != "" {
				return usagef(cmd, "--idempotency-key is for events that run later; add --async")
			}
			data, err := event.read(cmd)
			if err != nil {
				return err
			}
			if async {
				return s.invokeAsync(ref, data, key)
			}
			return s.invoke(ref, data, verbose)
		},
	}
	flags.register(cmd)
	cmd.Flags().StringVarP(&event.data, "data", "d", "{}", "the event: JSON, @file, or - for stdin")
	cmd.Flags().BoolVar(&async, "async", false, "do not wait for the result")
	cmd.Flags().StringVar(&key, "idempotency-key", "", "of events with the same key only the first one runs")
	cmd.Flags().BoolVarP(&verbose, "verbose", "v", false, "tell invocation, version and times on stderr")
	return cmd
}

func (s *session) invoke(ref wire.Ref, event []byte, verbose bool) error {
	result, err := s.client.Invoke(s.ctx, ref.String(), bytes.NewReader(event))
	if verbose && result != nil {
		if detailErr := s.printCall(result); detailErr != nil {
			return errors.Join(err, detailErr)
		}
	}
	if err != nil {
		return s.invokeFailed(ref, result, err)
	}
	return copyRaw(s.out, bytes.NewReader(result.Body))
}

func (s *session) invokeAsync(ref wire.Ref, event []byte, key string) error {
	accepted, err := s.client.InvokeAsync(s.ctx, ref.String(), bytes.NewReader(event), key)
	if err != nil {
		return s.invokeFailed(ref, nil, err)
	}
	if s.json {
		return s.printJSON(map[string]any{"invocation": accepted.Invocation, "repeated": accepted.Repeated})
	}
	if accepted.Repeated {
		_, _ = fmt.Fprintln(s.errOut, "accepted before, under the same key")
	}
	_, err = fmt.Fprintln(s.out, accepted.Invocation)
	return err
}

// invokeFailed adds to err what the user may look at.
func (s *session) invokeFailed(ref wire.Ref, result *client.Result, err error) error {
	e, ok := errors.AsType[*wire.Error](err)
	switch {
	case !ok:
		return err
	case e.Code.OfFunction() && result != nil:
		return withHint(err, "all that it printed: "+s.suggest("logs %s --invocation %s", ref.FunctionID, result.Invocation))
	case e.Code == wire.CodeNotFound:
		return s.missing(err, ref)
	case e.Code == wire.CodeNoCapacity:
		return withHint(err, "what the nodes hold: "+s.suggest("nodes"))
	}
	return err
}

// printCall tells how a call went, on stderr, as stdout holds the result.
func (s *session) printCall(r *client.Result) error {
	if s.json {
		details, err := json.Marshal(struct {
			Invocation wire.InvocationID `json:"invocation"`
			Version    int               `json:"version"`
			Cold       bool              `json:"cold"`
			InitMicros int64             `json:"initMicros,omitempty"`
			RunMicros  int64             `json:"runMicros"`
		}{r.Invocation, r.Version, r.Cold, r.InitTime.Microseconds(), r.RunTime.Microseconds()})
		if err != nil {
			return err
		}
		_, err = fmt.Fprintf(s.errOut, "%s\n", details)
		return err
	}
	start := "warm"
	if r.Cold {
		start = "cold, started in " + humanDuration(r.InitTime)
	}
	return writeTable(s.errOut, [][]string{
		{"invocation", string(r.Invocation)},
		{"version", fmt.Sprint(r.Version)},
		{"start", start},
		{"ran", humanDuration(r.RunTime)},
	})
}

// eventFlags say what to send.
type eventFlags struct {
	data string
	// limit bounds the event, in bytes; 0 for that of a call.
	limit int64
}

// read returns the event and makes sure that it is JSON.
func (e eventFlags) read(cmd *cobra.Command) ([]byte, error) {
	data, err := e.readRaw(cmd)
	if err != nil {
		return nil, err
	}
	if err := checkJSON(data); err != nil {
		return nil, usagef(cmd, "%s is not JSON: %w", e.source(), err)
	}
	return data, nil
}

// readRaw returns the event, whatever it is.
func (e eventFlags) readRaw(cmd *cobra.Command) ([]byte, error) {
	data := []byte(e.data)
	var err error
	if path, isFile := strings.CutPrefix(e.data, "@"); isFile {
		data, err = e.readFile(path)
	} else if e.data == "-" {
		data, err = e.readFrom(cmd.InOrStdin())
	}
	if err != nil {
		return nil, usagef(cmd, "cannot read %s: %w", e.source(), err)
	}
	if int64(len(data)) > e.most() {
		return nil, wire.Errorf(wire.CodeTooLarge, "%s has more than %s, which is all that a call may carry; pass large data by reference, as a URL",
			e.source(), humanBytes(e.most()))
	}
	return data, nil
}

func (e eventFlags) most() int64 {
	if e.limit == 0 {
		return wire.MaxSyncPayload
	}
	return e.limit
}

// source says where the event comes from.
func (e eventFlags) source() string {
	if path, isFile := strings.CutPrefix(e.data, "@"); isFile {
		return "the event in " + path
	}
	if e.data == "-" {
		return "the event on stdin"
	}
	return "the event"
}

func (e eventFlags) readFile(path string) ([]byte, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer func() { _ = file.Close() }()
	return e.readFrom(file)
}

// readFrom reads one byte more than a call may carry, so that more is noticed.
func (e eventFlags) readFrom(r io.Reader) ([]byte, error) {
	return io.ReadAll(io.LimitReader(r, e.most()+1))
}

// checkJSON says where data stops being one JSON value.
func checkJSON(data []byte) error {
	if len(bytes.TrimSpace(data)) == 0 {
		return errors.New("it is empty")
	}
	var value json.RawMessage
	err := json.Unmarshal(data, &value)
	if err == nil {
		return nil
	}
	syntax, ok := errors.AsType[*json.SyntaxError](err)
	if !ok {
		return err
	}
	// The offset counts the bytes up to and with the wrong one; at the end of
	// the data there is no wrong one.
	before := data[:min(max(syntax.Offset-1, 0), int64(len(data)))]
	if strings.Contains(syntax.Error(), "unexpected end") {
		before = data
	}
	line := 1 + bytes.Count(before, []byte("\n"))
	column := 1 + len([]rune(string(before[bytes.LastIndexByte(before, '\n')+1:])))
	return fmt.Errorf("line %d, column %d: %w", line, column, syntax)
}
