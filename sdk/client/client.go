// Package client is the Go client of Dayfly's management API: deploy functions,
// call them, read their logs and outputs.
//
// A failure that the server reports is a [*wire.Error]: its code says whether
// the function failed or the platform. A server that cannot be reached is an
// [*UnreachableError], an answer that is not Dayfly's a [*ResponseError].
package client

import (
	"fmt"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/dayfly-run/dayfly/wire"
)

// DefaultURL is where `dayfly up` listens unless told otherwise.
const DefaultURL = "http://127.0.0.1:8080"

// How long the client waits for one answer. Streams (logs, outputs) have no
// bound but their context.
const (
	// DefaultTimeout bounds every call that no constant below names.
	DefaultTimeout = 30 * time.Second
	// DeployTimeout bounds an upload and its build.
	DeployTimeout = 15 * time.Minute
	// InvokeTimeout is the longest that a function may run, and some time to
	// start it and to carry its result.
	InvokeTimeout = wire.MaxTimeout + time.Minute
	// dialTimeout bounds connecting, so that a host that is down is soon told.
	dialTimeout = 5 * time.Second
)

// Client calls one Dayfly server. It is safe for concurrent use.
type Client struct {
	base    *url.URL
	http    *http.Client
	timeout time.Duration
}

// Option changes how a [Client] works.
type Option func(*Client)

// WithHTTPClient makes the client send with hc, which is copied. Redirects are
// still not followed: they would turn a POST into a GET.
func WithHTTPClient(hc *http.Client) Option {
	return func(c *Client) { clone := *hc; c.http = &clone }
}

// WithTimeout replaces [DefaultTimeout].
func WithTimeout(d time.Duration) Option {
	return func(c *Client) { c.timeout = d }
}

// New returns a client of the server at baseURL, as in "http://127.0.0.1:8080".
// It connects to nothing yet. The error, a [*wire.Error] with code invalid, says
// what is wrong with the URL.
func New(baseURL string, opts ...Option) (*Client, error) {
	base, err := parseBase(baseURL)
	if err != nil {
		return nil, err
	}
	c := &Client{base: base, timeout: DefaultTimeout}
	for _, opt := range opts {
		opt(c)
	}
	if c.http == nil {
		c.http = &http.Client{Transport: newTransport()}
	}
	c.http.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	return c, nil
}

func newTransport() *http.Transport {
	return &http.Transport{
		Proxy:               http.ProxyFromEnvironment,
		DialContext:         (&net.Dialer{Timeout: dialTimeout}).DialContext,
		ForceAttemptHTTP2:   true,
		TLSHandshakeTimeout: dialTimeout,
		MaxIdleConns:        100,
		MaxIdleConnsPerHost: 32,
		IdleConnTimeout:     90 * time.Second,
		// Deploy asks before it sends; a server that does not say "continue"
		// gets the body all the same.
		ExpectContinueTimeout: time.Second,
	}
}

func parseBase(baseURL string) (*url.URL, error) {
	base, err := url.Parse(baseURL)
	switch {
	case err != nil, base.Scheme != "http" && base.Scheme != "https", base.Host == "":
		example := DefaultURL
		if bare := strings.TrimLeft(baseURL, ":/"); bare != "" && !strings.Contains(bare, "://") {
			example = "http://" + bare
		}
		return nil, wire.Errorf(wire.CodeInvalid, "the server's URL %q is not an http or https URL; write it as %s", baseURL, example)
	case base.RawQuery != "" || base.Fragment != "":
		return nil, wire.Errorf(wire.CodeInvalid, "the server's URL %q has a query or a fragment; remove what follows the path", base.Redacted())
	}
	return base, nil
}

// URL returns the server's URL.
func (c *Client) URL() string { return strings.TrimSuffix(c.base.Redacted(), "/") }

// FunctionURL returns where the HTTP trigger of a function answers.
func (c *Client) FunctionURL(ref wire.Ref) string { return c.URL() + "/f/" + ref.String() }

// at returns the URL of a path, given by its segments, below the server's URL.
func (c *Client) at(query url.Values, segments ...string) *url.URL {
	escaped := make([]string, len(segments))
	for i, segment := range segments {
		// Not PathEscape: what that escapes beyond need, routers would keep so.
		escaped[i] = (&url.URL{Path: segment}).EscapedPath()
	}
	u := c.base.JoinPath(escaped...)
	u.RawQuery = query.Encode()
	return u
}

// parseRef reads a reference; its error is a [*wire.Error] with code invalid.
func parseRef(ref string) (wire.Ref, error) {
	r, err := wire.ParseRef(ref)
	if err != nil {
		return wire.Ref{}, wire.Errorf(wire.CodeInvalid, "%s", err)
	}
	return r, nil
}

// parseInvocation checks an invocation's ID before it becomes part of a path.
func parseInvocation(id wire.InvocationID) error {
	if !id.Valid() {
		return wire.Errorf(wire.CodeInvalid,
			"%q is not an invocation ID; it looks like 01998c2e-7d5a-7c11-9f00-3a5be1c2d4f6", fmt.Sprintf("%.80s", string(id)))
	}
	return nil
}
