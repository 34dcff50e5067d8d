package client

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/dayfly-run/dayfly/wire"
)

// UnreachableError says that nothing listens at the server's URL. Nothing was
// sent, so the call may be repeated.
type UnreachableError struct {
	URL string
	// Err is what connecting failed with.
	Err error
}

// Error names the URL and says what to do.
func (e *UnreachableError) Error() string {
	return fmt.Sprintf("no server answers at %s (%s); start one with \"dayfly up\", or set --url or DAYFLY_URL to where it runs", e.URL, e.Err)
}

// Unwrap returns what connecting failed with.
func (e *UnreachableError) Unwrap() error { return e.Err }

// ResponseError is an answer that Dayfly does not give: that of a proxy in
// front of it, or of another server at the same address.
type ResponseError struct {
	URL         string
	Status      int
	ContentType string
	// Location is where a redirect points.
	Location string
	// Excerpt is the beginning of the body, on one line, or what is wrong with it.
	Excerpt string
}

// Error shows the answer and says what to check.
func (e *ResponseError) Error() string {
	kind := e.ContentType
	if kind == "" {
		kind = "no content type"
	}
	status := strings.TrimSpace(strconv.Itoa(e.Status) + " " + http.StatusText(e.Status))
	text := fmt.Sprintf("%s answered %s (%s), which is not an answer of Dayfly's", e.URL, status, kind)
	if e.Excerpt != "" {
		text += ": " + e.Excerpt
	}
	switch {
	case e.Location != "":
		return text + "; it redirects to " + e.Location + ", use that server's URL"
	case e.Temporary():
		return text + "; a proxy in front of the server may be unable to reach it"
	}
	return text + "; check --url or DAYFLY_URL"
}

// Temporary reports whether the status is one with which proxies say "later".
func (e *ResponseError) Temporary() bool {
	switch e.Status {
	case http.StatusTooManyRequests, http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		return true
	}
	return false
}

// failure turns an answer that is no success into an error.
func (c *Client) failure(ctx context.Context, r request, resp *http.Response) error {
	if mediaType(resp) != wire.ProblemType {
		return c.unexpected(ctx, r, resp)
	}
	data, err := c.readAll(ctx, r, resp.Body, maxProblem)
	if err != nil {
		return err
	}
	var p wire.Problem
	if err := json.Unmarshal(data, &p); err != nil || p.Code == "" {
		return newResponseError(r, resp, data)
	}
	if p.RetryAfterMillis == 0 {
		p.RetryAfterMillis = retryAfter(resp).Milliseconds()
	}
	return p.Err()
}

// retryAfter reads the Retry-After header as Dayfly writes it: whole seconds.
func retryAfter(resp *http.Response) time.Duration {
	seconds, err := strconv.ParseUint(resp.Header.Get("Retry-After"), 10, 31)
	if err != nil {
		return 0
	}
	return time.Duration(seconds) * time.Second
}

// unexpected describes an answer that is not Dayfly's.
func (c *Client) unexpected(ctx context.Context, r request, resp *http.Response) error {
	// Enough for an excerpt; what cannot be read is not missed.
	data, _ := io.ReadAll(io.LimitReader(resp.Body, 4<<10))
	if ctx.Err() != nil {
		return c.transportError(ctx, r, ctx.Err())
	}
	return newResponseError(r, resp, data)
}

func newResponseError(r request, resp *http.Response, body []byte) *ResponseError {
	return &ResponseError{
		URL: r.url.Redacted(), Status: resp.StatusCode, ContentType: mediaType(resp),
		Location: resp.Header.Get("Location"), Excerpt: excerpt(body),
	}
}

// maxExcerpt is where the excerpt of a strange answer is cut, in bytes.
const maxExcerpt = 120

// excerpt puts the beginning of a body on one line.
func excerpt(body []byte) string {
	line := strings.Join(strings.Fields(strings.ToValidUTF8(string(body), "")), " ")
	if len(line) > maxExcerpt {
		line = strings.ToValidUTF8(line[:maxExcerpt], "") + "…"
	}
	if line == "" {
		return ""
	}
	return strconv.Quote(line)
}
