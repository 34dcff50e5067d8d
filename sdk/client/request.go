package client

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net"
	"net/http"
	"net/url"
	"time"

	"github.com/dayfly-run/dayfly/wire"
)

const (
	jsonType   = "application/json"
	ndjsonType = "application/x-ndjson"
	bundleType = "application/octet-stream"
	tarType    = "application/x-tar"

	// maxJSON bounds an answer's document, maxProblem an error's. Bytes.
	maxJSON    = 64 << 20
	maxProblem = 1 << 20
)

// request is what differs between calls.
type request struct {
	method      string
	url         *url.URL
	body        io.Reader
	bytes       int64
	contentType string
	headers     map[string]string
	// askFirst makes the server agree before the body is sent.
	askFirst bool
}

// send sends a request and returns its answer if that is a success. The caller
// closes the body.
func (c *Client) send(ctx context.Context, r request) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, r.method, r.url.String(), r.body)
	if err != nil {
		return nil, fmt.Errorf("make request: %w", err)
	}
	req.Header.Set("User-Agent", "dayfly-go")
	if r.body != nil {
		req.ContentLength = r.bytes
		req.Header.Set("Content-Type", r.contentType)
	}
	for name, value := range r.headers {
		req.Header.Set(name, value)
	}
	if r.askFirst {
		req.Header.Set("Expect", "100-continue")
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return nil, c.transportError(ctx, r, err)
	}
	if resp.StatusCode < 200 || resp.StatusCode > 299 {
		defer closeBody(resp)
		return resp, c.failure(ctx, r, resp)
	}
	return resp, nil
}

// call sends a request within the timeout and reads the JSON answer into out,
// which is nil when the answer has no content.
func (c *Client) call(ctx context.Context, timeout time.Duration, r request, out any) error {
	ctx, cancel := c.bounded(ctx, timeout)
	defer cancel()
	resp, err := c.send(ctx, r)
	if err != nil {
		return err
	}
	defer closeBody(resp)
	if out == nil {
		return nil
	}
	if mediaType(resp) != jsonType {
		return c.unexpected(ctx, r, resp)
	}
	data, err := c.readAll(ctx, r, resp.Body, maxJSON)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(data, out); err != nil {
		return &ResponseError{URL: r.url.Redacted(), Status: resp.StatusCode, ContentType: jsonType, Excerpt: err.Error()}
	}
	return nil
}

// bounded ends ctx after the timeout, with a cause that says so.
func (c *Client) bounded(ctx context.Context, timeout time.Duration) (context.Context, context.CancelFunc) {
	return context.WithTimeoutCause(ctx, timeout,
		wire.Errorf(wire.CodeUnavailable, "the server at %s did not answer within %s", c.URL(), timeout))
}

// readAll reads a body of at most limit bytes.
func (c *Client) readAll(ctx context.Context, r request, body io.Reader, limit int64) ([]byte, error) {
	data, err := io.ReadAll(io.LimitReader(body, limit+1))
	if err != nil {
		return nil, c.transportError(ctx, r, err)
	}
	if int64(len(data)) > limit {
		return nil, wire.Errorf(wire.CodeTooLarge, "the answer of %s has more than %d bytes", r.url.Redacted(), limit)
	}
	return data, nil
}

// transportError says in the caller's terms why there is no answer.
func (c *Client) transportError(ctx context.Context, r request, err error) error {
	var urlError *url.Error
	if errors.As(err, &urlError) {
		err = urlError.Err
	}
	if ctx.Err() != nil {
		cause := context.Cause(ctx)
		if _, ours := errors.AsType[*wire.Error](cause); ours {
			return cause
		}
		return fmt.Errorf("%s %s: %w", r.method, r.url.Redacted(), cause)
	}
	if op, ok := errors.AsType[*net.OpError](err); ok && op.Op == "dial" {
		return &UnreachableError{URL: c.URL(), Err: op.Err}
	}
	return fmt.Errorf("%s %s: the connection failed: %w", r.method, r.url.Redacted(), err)
}

func mediaType(resp *http.Response) string {
	mediaType, _, err := mime.ParseMediaType(resp.Header.Get("Content-Type"))
	if err != nil {
		return ""
	}
	return mediaType
}

// closeBody reads what little is left, so that the connection can be used again.
func closeBody(resp *http.Response) {
	_, _ = io.CopyN(io.Discard, resp.Body, 4<<10)
	_ = resp.Body.Close()
}
