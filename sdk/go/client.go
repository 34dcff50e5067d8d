package dayfly

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
)

const (
	// maxPayload bounds an event and a result, in bytes, as the platform does.
	maxPayload = 6 << 20
	// maxMessage bounds the message of an error report, in bytes.
	maxMessage = 32 << 10
	// readBytes is the size of the connection's read buffer.
	readBytes = 8 << 10
	// keepBytes bounds the write buffer that is kept from answer to answer.
	keepBytes = 64 << 10

	apiPath = "/2018-06-01/runtime/"
)

// client speaks the Runtime API over one connection, one request at a time. It is
// far cheaper than [http.Client], whose goroutines take turns for each request:
// a function that does little spent half of its time there.
type client struct {
	network, address string
	host             string // for the Host header

	conn net.Conn // nil before the first request
	in   *bufio.Reader
	out  []byte
}

// newClient takes the unix socket when there is one, else the TCP address. It does
// not connect yet.
func newClient(getenv func(string) string) (*client, error) {
	if socket := getenv("DAYFLY_RUNTIME_SOCKET"); socket != "" {
		return &client{network: "unix", address: socket, host: "dayfly"}, nil
	}
	if address := getenv("AWS_LAMBDA_RUNTIME_API"); address != "" {
		return &client{network: "tcp", address: address, host: address}, nil
	}
	return nil, errors.New("neither DAYFLY_RUNTIME_SOCKET nor AWS_LAMBDA_RUNTIME_API is set: " +
		"this program is a function, run it with `dayfly deploy` and `dayfly invoke`")
}

// next waits for an event.
func (c *client) next(ctx context.Context) (Invocation, []byte, error) {
	resp, err := c.send(ctx, http.MethodGet, "invocation/next", nil, "")
	if err != nil {
		return Invocation{}, nil, fmt.Errorf("ask for an event: %w", err)
	}
	body, err := readEvent(resp)
	if err = errors.Join(err, c.done(resp)); err != nil {
		return Invocation{}, nil, err
	}
	return newInvocation(resp.Header), body, nil
}

func readEvent(resp *http.Response) ([]byte, error) {
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("ask for an event: the Runtime API answered %s", resp.Status)
	}
	if resp.ContentLength > maxPayload {
		return nil, errTooLarge()
	}
	if n := resp.ContentLength; n >= 0 {
		body := make([]byte, n)
		if _, err := io.ReadFull(resp.Body, body); err != nil {
			return nil, fmt.Errorf("read an event: %w", err)
		}
		return body, nil
	}
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxPayload+1))
	if err != nil {
		return nil, fmt.Errorf("read an event: %w", err)
	}
	if len(body) > maxPayload {
		return nil, errTooLarge()
	}
	return body, nil
}

func errTooLarge() error {
	return fmt.Errorf("read an event: it is larger than %d bytes", maxPayload)
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
	resp, err := c.send(ctx, http.MethodPost, path, body, errorType)
	if err != nil {
		return fmt.Errorf("post an answer: %w", err)
	}
	// Anything but an acceptance means that the invocation is over already:
	// there is nobody left to tell.
	return c.done(resp)
}

// send writes a request and reads the head of its answer, whose body the caller
// reads before it calls done.
func (c *client) send(ctx context.Context, method, path string, body []byte, errorType string) (*http.Response, error) {
	if c.conn == nil {
		conn, err := (&net.Dialer{}).DialContext(ctx, c.network, c.address)
		if err != nil {
			return nil, err
		}
		c.conn, c.in = conn, bufio.NewReaderSize(conn, readBytes)
	}
	if ctx.Done() != nil { // that of Start never is
		conn := c.conn
		defer context.AfterFunc(ctx, func() { _ = conn.Close() })()
	}
	out := append(c.out[:0], method...)
	out = append(append(append(out, ' '), apiPath...), path...)
	out = append(append(out, " HTTP/1.1\r\nHost: "...), c.host...)
	if method == http.MethodPost {
		out = append(out, "\r\nContent-Type: application/json\r\nContent-Length: "...)
		out = strconv.AppendInt(out, int64(len(body)), 10)
	}
	if errorType != "" {
		out = append(append(out, "\r\nLambda-Runtime-Function-Error-Type: "...), headerValue(errorType)...)
	}
	// In one write: the other side wakes up once.
	out = append(append(out, "\r\n\r\n"...), body...)
	if cap(out) <= keepBytes {
		c.out = out
	}
	if _, err := c.conn.Write(out); err != nil {
		return nil, err
	}
	return http.ReadResponse(c.in, nil)
}

// done reads what is left of an answer, so that the connection is ready for the
// next request, and gives it up when the other side does.
func (c *client) done(resp *http.Response) error {
	_, err := io.Copy(io.Discard, io.LimitReader(resp.Body, maxPayload))
	if err = errors.Join(err, resp.Body.Close()); err != nil {
		return fmt.Errorf("read an answer: %w", err)
	}
	if resp.Close {
		c.close()
	}
	return nil
}

// close ends the connection, if there is one; the next request opens another.
func (c *client) close() {
	if c.conn != nil {
		_ = c.conn.Close() // nothing waits to be written
		c.conn = nil
	}
}

// headerValue makes a text fit for a header.
func headerValue(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r > '~' {
			return '?'
		}
		return r
	}, s)
}
