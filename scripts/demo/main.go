// Command demo makes the calls that the examples describe in their demo.json,
// compares the answers, and prints a table. It exits with 1 when a call failed.
//
//	demo --url http://127.0.0.1:8080 examples/hello examples/csv2json
package main

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"text/tabwriter"
	"time"
)

const (
	// callTimeout bounds one call, its cold start included.
	callTimeout = time.Minute
	// maxAnswerBytes is more than Dayfly ever sends.
	maxAnswerBytes = 16 << 20
	// shownBytes is how much of a wrong answer the table's footnotes show.
	shownBytes = 500
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, os.Args[1:], os.Stdout)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "error:", err)
		os.Exit(1)
	}
}

// run makes the calls of all folders and writes the table. Its error says how
// many calls failed.
func run(ctx context.Context, args []string, out io.Writer) error {
	flags := flag.NewFlagSet("demo", flag.ContinueOnError)
	url := flags.String("url", "http://127.0.0.1:8080", "where Dayfly listens")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if flags.NArg() == 0 {
		return errors.New("no folders: name the examples to call")
	}
	table := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "FUNCTION\tCALL\tANSWER\tTIME\tRESULT")
	var failures []error
	total := 0
	for _, folder := range flags.Args() {
		function, calls, err := readFolder(folder)
		if err != nil {
			return err
		}
		for _, c := range calls {
			total++
			started := time.Now()
			status, err := c.make(ctx, *url, function)
			result := "ok"
			if err != nil {
				result = "failed"
				failures = append(failures, fmt.Errorf("%s %s: %w", c.Method, c.url("", function), err))
			}
			fmt.Fprintf(table, "%s\t%s %s\t%s\t%d ms\t%s\n",
				function, c.Method, c.url("", function), status, time.Since(started).Milliseconds(), result)
		}
	}
	if err := table.Flush(); err != nil {
		return err
	}
	if len(failures) > 0 {
		return fmt.Errorf("%d of %d calls failed:\n%w", len(failures), total, errors.Join(failures...))
	}
	fmt.Fprintf(out, "all %d calls were answered as expected\n", total)
	return nil
}

// call is one request of a demo.json and what must come back.
type call struct {
	Method string `json:"method"`
	// Path follows /f/<function>, unless it starts with /f/ or /v1/ itself.
	Path    string            `json:"path"`
	Headers map[string]string `json:"headers"`
	// Body is sent as it is when it is a string, else as JSON; BodyBase64 is for
	// bytes. At most one of them is set.
	Body       json.RawMessage `json:"body"`
	BodyBase64 string          `json:"bodyBase64"`
	// ExpectStatus is 200 when it is not given.
	ExpectStatus   int     `json:"expectStatus"`
	ExpectContains strList `json:"expectContains"`
}

// strList is one string or a list of strings in JSON.
type strList []string

// UnmarshalJSON accepts both forms.
func (l *strList) UnmarshalJSON(data []byte) error {
	var one string
	if json.Unmarshal(data, &one) == nil {
		*l = strList{one}
		return nil
	}
	return json.Unmarshal(data, (*[]string)(l))
}

var nameLine = regexp.MustCompile(`(?m)^name:[ \t]*["']?([a-z0-9-]+)`)

// readFolder reads an example's name and its calls, of which there must be some.
func readFolder(folder string) (function string, calls []call, err error) {
	manifest, err := os.ReadFile(filepath.Join(folder, "dayfly.yaml"))
	if err != nil {
		return "", nil, err
	}
	name := nameLine.FindSubmatch(manifest)
	if name == nil {
		return "", nil, fmt.Errorf("%s: no name", filepath.Join(folder, "dayfly.yaml"))
	}
	path := filepath.Join(folder, "demo.json")
	data, err := os.ReadFile(path)
	if err != nil {
		return "", nil, err
	}
	calls, err = parseCalls(data)
	if err != nil {
		return "", nil, fmt.Errorf("%s: %w", path, err)
	}
	return string(name[1]), calls, nil
}

// parseCalls reads a demo.json and fills in the defaults. An unknown key is an
// error, because a misspelt expectation would check nothing.
func parseCalls(data []byte) ([]call, error) {
	var file struct {
		Calls []call `json:"calls"`
	}
	decoder := json.NewDecoder(bytes.NewReader(data))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&file); err != nil {
		return nil, err
	}
	if len(file.Calls) == 0 {
		return nil, errors.New("no calls")
	}
	for i := range file.Calls {
		c := &file.Calls[i]
		if len(c.Body) > 0 && c.BodyBase64 != "" {
			return nil, fmt.Errorf("calls[%d]: body and bodyBase64 are both set", i)
		}
		if c.ExpectStatus == 0 {
			c.ExpectStatus = http.StatusOK
		}
		if c.Method == "" {
			c.Method = http.MethodGet
		}
	}
	return file.Calls, nil
}

// url is where the call goes.
func (c call) url(base, function string) string {
	base = strings.TrimSuffix(base, "/")
	switch {
	case strings.HasPrefix(c.Path, "/f/"), strings.HasPrefix(c.Path, "/v1/"):
		return base + c.Path
	case c.Path == "" || strings.HasPrefix(c.Path, "/") || strings.HasPrefix(c.Path, "?"):
		return base + "/f/" + function + c.Path
	default:
		return base + "/f/" + function + "/" + c.Path
	}
}

// body is what the call sends.
func (c call) body() ([]byte, error) {
	if c.BodyBase64 != "" {
		return base64.StdEncoding.DecodeString(c.BodyBase64)
	}
	var text string
	if json.Unmarshal(c.Body, &text) == nil {
		return []byte(text), nil
	}
	return c.Body, nil
}

// make sends the call and returns the answer's status, and an error when the
// answer is not what was expected.
func (c call) make(ctx context.Context, base, function string) (status string, err error) {
	body, err := c.body()
	if err != nil {
		return "-", err
	}
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, c.Method, c.url(base, function), bytes.NewReader(body))
	if err != nil {
		return "-", err
	}
	for key, value := range c.Headers {
		request.Header.Set(key, value)
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return "-", err
	}
	defer func() { _ = response.Body.Close() }()
	answer, err := io.ReadAll(io.LimitReader(response.Body, maxAnswerBytes))
	if err != nil {
		return "-", err
	}
	return response.Status, c.check(response.StatusCode, answer)
}

// check compares an answer with what was expected.
func (c call) check(status int, answer []byte) error {
	if status != c.ExpectStatus {
		return fmt.Errorf("status %d instead of %d: %s", status, c.ExpectStatus, shorten(answer))
	}
	for _, want := range c.ExpectContains {
		if !bytes.Contains(answer, []byte(want)) {
			return fmt.Errorf("no %q in the answer: %s", want, shorten(answer))
		}
	}
	return nil
}

// shorten makes an answer fit for a terminal.
func shorten(answer []byte) string {
	if len(answer) <= shownBytes {
		return fmt.Sprintf("%q", answer)
	}
	return fmt.Sprintf("%q… (%d bytes)", answer[:shownBytes], len(answer))
}
