package client

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/dayfly-run/dayfly/wire"
)

// Result is the outcome of one call.
type Result struct {
	// Body is what the function returned.
	Body       []byte
	Invocation wire.InvocationID
	// Version is the number of the version that ran.
	Version int
	// Cold says that the call waited for an instance to start.
	Cold bool
	// InitTime is how long that took, RunTime how long the function ran.
	InitTime, RunTime time.Duration
}

// Invoke calls a function with an event of at most [wire.MaxSyncPayload] bytes,
// JSON unless the function wants otherwise, and waits for its result.
//
// When the server reports a failure of the call, the result is returned beside
// the error, without a body: it names the invocation.
func (c *Client) Invoke(ctx context.Context, ref string, payload io.Reader) (*Result, error) {
	r, err := parseRef(ref)
	if err != nil {
		return nil, err
	}
	event, err := readEvent(payload, wire.MaxSyncPayload)
	if err != nil {
		return nil, err
	}
	ctx, cancel := c.bounded(ctx, InvokeTimeout)
	defer cancel()
	req := request{
		method: http.MethodPost, url: c.at(nil, "v1", "functions", r.String(), "invocations"),
		body: bytes.NewReader(event), bytes: int64(len(event)), contentType: jsonType,
	}
	resp, err := c.send(ctx, req)
	if err != nil {
		if resp == nil {
			return nil, err
		}
		return resultOf(resp), err
	}
	defer closeBody(resp)
	result := resultOf(resp)
	// Any web server answers something to a POST; only Dayfly names the call.
	if result == nil {
		return nil, c.unexpected(ctx, req, resp)
	}
	result.Body, err = c.readAll(ctx, req, resp.Body, wire.MaxSyncPayload)
	return result, err
}

func readEvent(payload io.Reader, limit int64) ([]byte, error) {
	event, err := io.ReadAll(io.LimitReader(payload, limit+1))
	if err != nil {
		return nil, fmt.Errorf("read the event: %w", err)
	}
	if int64(len(event)) > limit {
		return nil, wire.Errorf(wire.CodeTooLarge, "the event has more than %d bytes, which is all that a call may carry", limit)
	}
	return event, nil
}

// Accepted says which invocation an event became.
type Accepted struct {
	Invocation wire.InvocationID
	// Repeated: the event was accepted before, under the same key.
	Repeated bool
}

// InvokeAsync gives a function an event of at most [wire.MaxAsyncPayload] bytes and
// returns once that is on disk; it runs later. Of events with the same key, which may
// be empty for none, only the first one runs.
func (c *Client) InvokeAsync(ctx context.Context, ref string, payload io.Reader, key string) (Accepted, error) {
	r, err := parseRef(ref)
	if err != nil {
		return Accepted{}, err
	}
	event, err := readEvent(payload, wire.MaxAsyncPayload)
	if err != nil {
		return Accepted{}, err
	}
	headers := map[string]string{"Prefer": wire.RespondAsync}
	if key != "" {
		headers[wire.HeaderIdempotencyKey] = key
	}
	ctx, cancel := c.bounded(ctx, InvokeTimeout)
	defer cancel()
	req := request{
		method: http.MethodPost, url: c.at(nil, "v1", "functions", r.String(), "invocations"),
		body: bytes.NewReader(event), bytes: int64(len(event)), contentType: jsonType, headers: headers,
	}
	resp, err := c.send(ctx, req)
	if err != nil {
		return Accepted{}, err
	}
	defer closeBody(resp)
	result := resultOf(resp)
	if result == nil || resp.StatusCode != http.StatusAccepted {
		return Accepted{}, c.unexpected(ctx, req, resp)
	}
	return Accepted{Invocation: result.Invocation, Repeated: resp.Header.Get(wire.HeaderRepeated) == "true"}, nil
}

// resultOf reads what the headers say, or returns nil if they name no invocation.
func resultOf(resp *http.Response) *Result {
	h := resp.Header
	if h.Get(wire.HeaderInvocation) == "" {
		return nil
	}
	// The server writes numbers; what is missing counts as zero.
	number := func(name string) int64 {
		n, err := strconv.ParseInt(h.Get(name), 10, 64)
		if err != nil {
			return 0
		}
		return n
	}
	return &Result{
		Invocation: wire.InvocationID(h.Get(wire.HeaderInvocation)),
		Version:    int(number(wire.HeaderVersion)),
		Cold:       h.Get(wire.HeaderCold) == "true",
		InitTime:   time.Duration(number(wire.HeaderInitMicros)) * time.Microsecond,
		RunTime:    time.Duration(number(wire.HeaderRunMicros)) * time.Microsecond,
	}
}

// Invocation returns what is known of an invocation. With a wait, which the server
// bounds by a minute, the answer comes when the invocation is over, or then.
func (c *Client) Invocation(ctx context.Context, id wire.InvocationID, wait time.Duration) (wire.Record, error) {
	var query url.Values
	if wait > 0 {
		query = url.Values{"wait": {wait.String()}}
	}
	var record wire.Record
	err := c.ofInvocation(ctx, id, c.timeout+wait, http.MethodGet, query, &record)
	return record, err
}

// Cancel ends an invocation: one that waits is dropped, one that runs is killed. It
// returns what is known of it then. One that is over already is a conflict.
func (c *Client) Cancel(ctx context.Context, id wire.InvocationID) (wire.Record, error) {
	var record wire.Record
	err := c.ofInvocation(ctx, id, c.timeout, http.MethodPost, nil, &record, "cancel")
	return record, err
}

func (c *Client) ofInvocation(
	ctx context.Context, id wire.InvocationID, timeout time.Duration, method string, query url.Values, out any, path ...string,
) error {
	if err := parseInvocation(id); err != nil {
		return err
	}
	return c.call(ctx, timeout, request{method: method, url: c.at(query, append([]string{"v1", "invocations", string(id)}, path...)...)}, out)
}

// InvocationFilter says which invocations to list.
type InvocationFilter struct {
	// State is one of them; empty for any.
	State wire.State
	// Limit is how many, the newest ones; zero for what the server finds fit.
	Limit int
}

// Invocations lists the invocations of a function, the newest first.
func (c *Client) Invocations(ctx context.Context, ref string, filter InvocationFilter) ([]wire.Record, error) {
	r, err := parseRef(ref)
	if err != nil {
		return nil, err
	}
	query := url.Values{}
	if filter.State != "" {
		query.Set("state", string(filter.State))
	}
	if filter.Limit > 0 {
		query.Set("limit", strconv.Itoa(filter.Limit))
	}
	var list struct {
		Invocations []wire.Record `json:"invocations"`
	}
	err = c.call(ctx, c.timeout, request{method: http.MethodGet, url: c.at(query, "v1", "functions", r.String(), "invocations")}, &list)
	return list.Invocations, err
}

// Output opens the stored result of an invocation. The caller closes it; ctx
// must live as long.
func (c *Client) Output(ctx context.Context, id wire.InvocationID) (io.ReadCloser, error) {
	return c.output(ctx, id)
}

// OutputFile opens a file that an invocation left in its output folder, by its
// slash-separated path there. The caller closes it; ctx must live as long.
func (c *Client) OutputFile(ctx context.Context, id wire.InvocationID, path string) (io.ReadCloser, error) {
	if !fs.ValidPath(path) || path == "." {
		return nil, wire.Errorf(wire.CodeInvalid,
			"%q is not the path of an output file; write it as the invocation lists it, as in thumbs/cat.png", path)
	}
	return c.output(ctx, id, strings.Split(path, "/")...)
}

func (c *Client) output(ctx context.Context, id wire.InvocationID, path ...string) (io.ReadCloser, error) {
	if err := parseInvocation(id); err != nil {
		return nil, err
	}
	segments := append([]string{"v1", "invocations", string(id), "output"}, path...)
	resp, err := c.send(ctx, request{method: http.MethodGet, url: c.at(nil, segments...)})
	if err != nil {
		return nil, err
	}
	return resp.Body, nil
}
