package dayfly

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
)

const (
	// maxPayload bounds an event and a result, in bytes, as wire.MaxEvent does.
	maxPayload = 10 << 20
	// maxMessage bounds the message of an error report, in bytes.
	maxMessage = 32 << 10

	apiPath = "/2018-06-01/runtime/"
)

// client speaks the Runtime API.
type client struct {
	http *http.Client
	base string
}

// newClient takes the unix socket when there is one, else the TCP address.
func newClient(getenv func(string) string) (*client, error) {
	transport := &http.Transport{MaxIdleConns: 1, DisableCompression: true}
	c := &client{http: &http.Client{Transport: transport}}
	if socket := getenv("DAYFLY_RUNTIME_SOCKET"); socket != "" {
		transport.DialContext = func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", socket)
		}
		c.base = "http://dayfly" + apiPath
		return c, nil
	}
	if address := getenv("AWS_LAMBDA_RUNTIME_API"); address != "" {
		c.base = "http://" + address + apiPath
		return c, nil
	}
	return nil, errors.New("neither DAYFLY_RUNTIME_SOCKET nor AWS_LAMBDA_RUNTIME_API is set: " +
		"this program is a function, run it with `dayfly deploy` and `dayfly invoke`")
}

// next waits for an event.
func (c *client) next(ctx context.Context) (Invocation, []byte, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, c.base+"invocation/next", nil)
	if err != nil {
		return Invocation{}, nil, err
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return Invocation{}, nil, fmt.Errorf("ask for an event: %w", err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxPayload+1))
	switch {
	case err != nil:
		return Invocation{}, nil, fmt.Errorf("read an event: %w", err)
	case resp.StatusCode != http.StatusOK:
		return Invocation{}, nil, fmt.Errorf("ask for an event: the Runtime API answered %s", resp.Status)
	case len(body) > maxPayload:
		return Invocation{}, nil, fmt.Errorf("read an event: it is larger than %d bytes", maxPayload)
	}
	return newInvocation(resp.Header), body, nil
}

// respond posts a result.
func (c *client) respond(ctx context.Context, id string, result []byte) error {
	return c.post(ctx, "invocation/"+id+"/response", result, "")
}

// fail posts what went wrong with an event.
func (c *client) fail(ctx context.Context, id string, report errorReport) error {
	body, err := json.Marshal(report)
	if err != nil {
		return err
	}
	return c.post(ctx, "invocation/"+id+"/error", body, report.Type)
}

func (c *client) post(ctx context.Context, path string, body []byte, errorType string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, c.base+path, bytes.NewReader(body))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/json")
	if errorType != "" {
		req.Header.Set("Lambda-Runtime-Function-Error-Type", errorType)
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return fmt.Errorf("post an answer: %w", err)
	}
	defer resp.Body.Close()
	// Read to the end, or the connection is not used again.
	if _, err := io.Copy(io.Discard, io.LimitReader(resp.Body, maxMessage)); err != nil {
		return fmt.Errorf("post an answer: %w", err)
	}
	// Anything but an acceptance means that the invocation is over already:
	// there is nobody left to tell.
	return nil
}
