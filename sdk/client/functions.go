package client

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"sync"

	"github.com/dayfly-run/dayfly/functions"
	"github.com/dayfly-run/dayfly/wire"
)

// Deployment is what a deploy made.
type Deployment struct {
	Function functions.Function `json:"function"`
	Version  functions.Version  `json:"version"`
	// URL is where the function's HTTP trigger answers.
	URL string `json:"url"`
	// BuildLog is what the build printed.
	BuildLog string `json:"buildLog"`
}

// Resolved is a function and the version that a reference stands for.
type Resolved struct {
	Function functions.Function `json:"function"`
	Version  functions.Version  `json:"version"`
}

// Deploy uploads a bundle, a gzip-compressed tar of a function's folder, into a
// namespace (empty: the default one), and waits until it is built and live. It
// reads the bundle from its start, at most [wire.MaxBundlePacked] bytes, and not
// any more once it has returned.
func (c *Client) Deploy(ctx context.Context, namespace string, bundle io.ReadSeeker) (Deployment, error) {
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
	body := &upload{reader: bundle}
	defer body.stop()
	var deployment Deployment
	err = c.call(ctx, DeployTimeout, request{
		method: http.MethodPost, url: c.at(url.Values{"namespace": {namespace}}, "v1", "functions"),
		body: body, bytes: size, contentType: gzipType, askFirst: true,
	}, &deployment)
	return deployment, err
}

// Functions lists the functions of a namespace, or of all when it is empty,
// sorted by namespace and name.
func (c *Client) Functions(ctx context.Context, namespace string) ([]functions.Function, error) {
	query := url.Values{}
	if namespace != "" {
		if err := checkNamespace(namespace); err != nil {
			return nil, err
		}
		query.Set("namespace", namespace)
	}
	var list struct {
		Functions []functions.Function `json:"functions"`
	}
	err := c.call(ctx, c.timeout, request{method: http.MethodGet, url: c.at(query, "v1", "functions")}, &list)
	return list.Functions, err
}

// Function returns a function and the version that ref stands for.
func (c *Client) Function(ctx context.Context, ref string) (Resolved, error) {
	r, err := parseRef(ref)
	if err != nil {
		return Resolved{}, err
	}
	var resolved Resolved
	err = c.call(ctx, c.timeout, request{method: http.MethodGet, url: c.at(nil, "v1", "functions", r.String())}, &resolved)
	return resolved, err
}

// Delete deletes a function with all its versions and aliases.
func (c *Client) Delete(ctx context.Context, id wire.FunctionID) error {
	r, err := parseRef(id.Name + "." + id.Namespace)
	if err != nil {
		return err
	}
	return c.call(ctx, c.timeout, request{method: http.MethodDelete, url: c.at(nil, "v1", "functions", r.String())}, nil)
}

func checkNamespace(namespace string) error {
	if !wire.ValidName(namespace) {
		return wire.Errorf(wire.CodeInvalid,
			"%q is not a namespace: use lower-case letters, digits and inner hyphens, at most 63", fmt.Sprintf("%.80s", namespace))
	}
	return nil
}

// measure returns the size of what is to be uploaded, and goes to its start.
func measure(what string, r io.Seeker, most int64) (int64, error) {
	size, err := r.Seek(0, io.SeekEnd)
	if err != nil {
		return 0, fmt.Errorf("measure the %s: %w", what, err)
	}
	if _, err := r.Seek(0, io.SeekStart); err != nil {
		return 0, fmt.Errorf("rewind the %s: %w", what, err)
	}
	switch {
	case size == 0:
		return 0, wire.Errorf(wire.CodeInvalid, "the %s is empty", what)
	case size > most:
		return 0, wire.Errorf(wire.CodeTooLarge, "the %s has %d bytes; at most %d are allowed", what, size, most)
	}
	return size, nil
}

var errStopped = errors.New("the call is over")

// upload is a request's body that is not read once the call is over: an HTTP
// transport may do so when the answer comes before the body is sent.
type upload struct {
	mu      sync.Mutex
	reader  io.Reader
	stopped bool
}

func (u *upload) Read(p []byte) (int, error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.stopped {
		return 0, errStopped
	}
	return u.reader.Read(p)
}

func (u *upload) stop() {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.stopped = true
}
