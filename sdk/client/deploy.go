package client

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"

	"github.com/dayfly-run/dayfly/functions"
	"github.com/dayfly-run/dayfly/wire"
)

// Deployment is what a deploy made.
type Deployment struct {
	Function functions.Function `json:"function"`
	Version  functions.Version  `json:"version"`
	// Live says that the live alias stands at the version; Note says why it does not.
	Live bool   `json:"live"`
	Note string `json:"note,omitempty"`
	// URL is where the function's HTTP trigger answers.
	URL string `json:"url"`
	// BuildLog is what the build printed.
	BuildLog string `json:"buildLog"`
	// Cached says that an earlier build of the same bundle was used.
	Cached bool `json:"cached"`
}

// DeployOption changes how a deploy goes.
type DeployOption func(*deploy)

// deploy is one deploy.
type deploy struct {
	query    url.Values
	log      io.Writer
	progress func(done, total int64)
}

// WithoutLive makes the version without moving the live alias to it, or trying whether
// it starts.
func WithoutLive() DeployOption { return func(d *deploy) { d.query.Set("live", "false") } }

// WithVendored has the build use the dependencies that are in the bundle, and fetch none.
func WithVendored() DeployOption { return func(d *deploy) { d.query.Set("vendor", "true") } }

// WithBuildLog has what the build prints written to w as it comes; [Deployment].BuildLog
// has it as well. An error of w ends nothing.
func WithBuildLog(w io.Writer) DeployOption { return func(d *deploy) { d.log = w } }

// WithProgress has f told how many bytes of the bundle the server has, one call at a
// time. What the server had before counts from the start; a part that is sent again is
// taken off first.
func WithProgress(f func(done, total int64)) DeployOption {
	return func(d *deploy) { d.progress = f }
}

// Deploy uploads a bundle, a gzip-compressed tar or a zip of a function's folder, into a
// namespace (empty: the default one), and waits until it is built and, unless
// [WithoutLive] says otherwise, live. It reads the bundle, at most
// [wire.MaxBundlePacked] bytes, wherever it stands, and not any more once it has
// returned.
//
// A bundle of more than a MiB is uploaded in parts before the deploy is asked for. Parts
// that the server has are not sent again: a deploy that was broken off goes on where it
// was. A part that fails is tried again a few times.
func (c *Client) Deploy(ctx context.Context, namespace string, bundle io.ReadSeeker, options ...DeployOption) (Deployment, error) {
	if namespace == "" {
		namespace = wire.DefaultNamespace
	}
	if err := checkNamespace(namespace); err != nil {
		return Deployment{}, err
	}
	size, err := measure("bundle", bundle, wire.MaxBundlePacked)
	if err != nil {
		return Deployment{}, err
	}
	d := &deploy{query: url.Values{"namespace": {namespace}}, progress: func(int64, int64) {}}
	for _, option := range options {
		option(d)
	}
	ctx, cancel := c.bounded(ctx, DeployTimeout)
	defer cancel()
	if size > smallBundle {
		digest, err := c.uploadBundle(ctx, bundle, size, d.progress)
		if err != nil {
			return Deployment{}, err
		}
		d.query.Set("bundle", string(digest))
		return c.askDeploy(ctx, d, nil, 0)
	}
	body := &upload{reader: bundle}
	defer body.stop()
	return c.askDeploy(ctx, d, &countedReader{r: body, count: newCounter(size, d.progress)}, size)
}

// askDeploy sends the request that deploys, with the bundle or its name.
func (c *Client) askDeploy(ctx context.Context, d *deploy, body io.Reader, size int64) (deployment Deployment, err error) {
	r := request{
		method: http.MethodPost, url: c.at(d.query, "v1", "functions"), body: body, bytes: size, contentType: bundleType, askFirst: body != nil,
	}
	if d.log != nil {
		r.headers = map[string]string{"Accept": ndjsonType}
	}
	resp, err := c.send(ctx, r)
	if err != nil {
		return deployment, err
	}
	defer closeBody(resp)
	switch mediaType(resp) {
	case jsonType:
		data, err := c.readAll(ctx, r, resp.Body, maxJSON)
		if err != nil {
			return deployment, err
		}
		if err := json.Unmarshal(data, &deployment); err != nil {
			return deployment, &ResponseError{URL: r.url.Redacted(), Status: resp.StatusCode, ContentType: jsonType, Excerpt: err.Error()}
		}
		return deployment, nil
	case ndjsonType:
		if d.log == nil {
			d.log = io.Discard
		}
		return c.followDeploy(ctx, r, resp, d.log)
	}
	return deployment, c.unexpected(ctx, r, resp)
}

// deployLine is one line of the answer to a deploy that tells of the build as it goes.
type deployLine struct {
	Log        string        `json:"log"`
	Deployment *Deployment   `json:"deployment"`
	Problem    *wire.Problem `json:"problem"`
}

// followDeploy passes on what the build prints until the last line says how it went.
func (c *Client) followDeploy(ctx context.Context, r request, resp *http.Response, log io.Writer) (Deployment, error) {
	malformed := func(what string) error {
		return &ResponseError{URL: r.url.Redacted(), Status: resp.StatusCode, ContentType: ndjsonType, Excerpt: what}
	}
	lines := bufio.NewScanner(resp.Body)
	lines.Buffer(make([]byte, 0, 64<<10), maxJSON)
	for lines.Scan() {
		if len(bytes.TrimSpace(lines.Bytes())) == 0 {
			continue
		}
		var line deployLine
		if err := json.Unmarshal(lines.Bytes(), &line); err != nil {
			if lines.Scan(); lines.Err() != nil { // half a line: the connection broke
				break
			}
			return Deployment{}, malformed(err.Error())
		}
		switch {
		case line.Problem != nil:
			return Deployment{}, line.Problem.Err()
		case line.Deployment != nil:
			return *line.Deployment, nil
		}
		_, _ = io.WriteString(log, line.Log) // nobody may look at it any more
	}
	switch err := lines.Err(); {
	case errors.Is(err, bufio.ErrTooLong):
		return Deployment{}, malformed(fmt.Sprintf("a line has more than %d bytes", maxJSON))
	case err != nil:
		return Deployment{}, c.transportError(ctx, r, err)
	}
	return Deployment{}, malformed("it ended without saying what became of the deploy")
}
