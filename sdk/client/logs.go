package client

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/dayfly-run/dayfly/wire"
)

// maxLogLine bounds one entry of the stream, in bytes: JSON writes a byte of
// text as six at worst.
const maxLogLine = 6*wire.MaxInvocationLog + 4<<10

// LogOptions selects log entries.
type LogOptions struct {
	// Follow keeps the stream open for what is printed from now on.
	Follow bool
	// Tail is how many of the newest entries come first, at most [wire.MaxLogTail];
	// 0 leaves it to the server, less than 0 asks for none.
	Tail int
	// Invocation, if set, is the only one whose entries come.
	Invocation wire.InvocationID
	// Version and Instance, if set, are the only ones whose entries come. The beginning
	// of an instance's ID is enough.
	Version  int
	Instance wire.InstanceID
	// Level, if set, leaves out lines that are less grave, and Contains those without
	// that text.
	Level    wire.Level
	Contains string
	// Since, if set, leaves out what is older.
	Since time.Time
	// After, if set, goes on behind the entry with that sequence; Tail and Since say
	// nothing then.
	After uint64
}

// Logs returns what a function's invocations printed, oldest first. The request
// is sent when the sequence is ranged over, and again every time that it is. An
// error is the last thing that it yields. A followed stream ends when ctx is
// done, which is an error that wraps the context's, or when the server ends it,
// which is none; see [Client.FollowLogs].
func (c *Client) Logs(ctx context.Context, ref string, options LogOptions) iter.Seq2[wire.LogEntry, error] {
	return func(yield func(wire.LogEntry, error) bool) {
		c.logs(ctx, ref, options, yield, func(time.Time) {})
	}
}

// logs yields a stream of entries; opened hears the server's time when there is one.
func (c *Client) logs(ctx context.Context, ref string, options LogOptions, yield func(wire.LogEntry, error) bool, opened func(time.Time)) {
	req, err := c.logsRequest(ref, options)
	if err != nil {
		yield(wire.LogEntry{}, err)
		return
	}
	// Cancelling ends a followed stream that its reader has left.
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	resp, err := c.send(ctx, req)
	if err != nil {
		yield(wire.LogEntry{}, err)
		return
	}
	defer func() { _ = resp.Body.Close() }()
	if mediaType(resp) != ndjsonType {
		yield(wire.LogEntry{}, c.unexpected(ctx, req, resp))
		return
	}
	now, err := http.ParseTime(resp.Header.Get("Date"))
	if err != nil { // a proxy may drop it; our clock then has to do
		now = time.Now()
	}
	opened(now)
	c.readEntries(ctx, req, resp, yield)
}

// readEntries yields the entries of a stream and, if it broke, the error.
func (c *Client) readEntries(ctx context.Context, req request, resp *http.Response, yield func(wire.LogEntry, error) bool) {
	malformed := func(err error) error {
		return &ResponseError{URL: req.url.Redacted(), Status: resp.StatusCode, ContentType: ndjsonType, Excerpt: err.Error()}
	}
	lines := bufio.NewScanner(resp.Body)
	lines.Buffer(make([]byte, 0, 64<<10), maxLogLine)
	for lines.Scan() {
		if len(bytes.TrimSpace(lines.Bytes())) == 0 {
			continue
		}
		var entry wire.LogEntry
		if err := json.Unmarshal(lines.Bytes(), &entry); err != nil {
			// A connection that broke leaves half a line behind.
			if lines.Scan(); lines.Err() != nil {
				break
			}
			yield(wire.LogEntry{}, malformed(err))
			return
		}
		if !yield(entry, nil) {
			return
		}
	}
	switch err := lines.Err(); {
	case errors.Is(err, bufio.ErrTooLong):
		yield(wire.LogEntry{}, malformed(fmt.Errorf("a line has more than %d bytes", maxLogLine)))
	case err != nil:
		yield(wire.LogEntry{}, c.transportError(ctx, req, err))
	}
}

func (c *Client) logsRequest(ref string, options LogOptions) (request, error) {
	r, err := parseRef(ref)
	if err != nil {
		return request{}, err
	}
	query := url.Values{}
	if options.Follow {
		query.Set("follow", "true")
	}
	if options.Tail > wire.MaxLogTail {
		return request{}, wire.Errorf(wire.CodeInvalid, "a tail of %d entries is too long; at most %d are kept ready", options.Tail, wire.MaxLogTail)
	}
	if options.Tail != 0 {
		query.Set("tail", strconv.Itoa(max(options.Tail, 0)))
	}
	if options.Invocation != "" {
		if err := parseInvocation(options.Invocation); err != nil {
			return request{}, err
		}
		query.Set("invocation", string(options.Invocation))
	}
	options.filter(query)
	return request{method: http.MethodGet, url: c.at(query, "v1", "functions", r.String(), "logs")}, nil
}

// filter adds what selects lines, and where to begin.
func (o LogOptions) filter(query url.Values) {
	if o.Version != 0 {
		query.Set("version", strconv.Itoa(o.Version))
	}
	if o.Instance != "" {
		query.Set("instance", string(o.Instance))
	}
	if o.Level != 0 {
		query.Set("level", o.Level.String())
	}
	if o.Contains != "" {
		query.Set("contains", o.Contains)
	}
	if !o.Since.IsZero() {
		query.Set("since", o.Since.UTC().Format(time.RFC3339Nano))
	}
	if o.After != 0 {
		query.Set("after", strconv.FormatUint(o.After, 10))
	}
}
