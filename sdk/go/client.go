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
	// maxPayload bounds an event and a result, in bytes, as the platform does where no
	// caller waits; of other results it takes less.
	maxPayload = 100 << 20
	// maxMessage bounds the message of an error report, in bytes.
	maxMessage = 32 << 10
	// readBytes is the size of the connection's read buffer.
	readBytes = 8 << 10
	// keepBytes bounds the write buffer that is kept from answer to answer.
	keepBytes = 64 << 10

	apiPath = "/2018-06-01/runtime/"
)

// client speaks the Runtime API over one connection. It is far cheaper than
// [http.Client], whose goroutines take turns for each request: a function that does
// little spent half of its time there. An answer waits for the question that
// follows it, and both go out in one write: each side wakes up once for an event.
type client struct {
	network, address string
	host             string // for the Host header
	marks            bool   // other clients answer events at the same time

	conn net.Conn // nil before the first request
	in   *bufio.Reader
	out  []byte  // requests to send
	body *stream // of the answer to the event under way, once that is sent as it is made
	owed int     // of those in out, the answers to which nobody reads
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

// next sends the answer to the event before, if there was one, and waits for the
// next event.
func (c *client) next(ctx context.Context) (Invocation, []byte, error) {
	c.request(http.MethodGet, "invocation/next", nil, "")
	err := c.send(ctx)
	if err == nil && c.conn == nil { // closed after the answer: the question was lost
		c.request(http.MethodGet, "invocation/next", nil, "")
		err = c.send(ctx)
	}
	if err != nil {
		return Invocation{}, nil, fmt.Errorf("ask for an event: %w", err)
	}
	defer c.closeAfter(ctx)()
	resp, err := http.ReadResponse(c.in, nil)
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

// respond answers an event with a result, once next or flush is called.
func (c *client) respond(id string, result []byte) {
	c.request(http.MethodPost, "invocation/"+id+"/response", result, "")
	c.owed++
}

// fail answers an event with what went wrong, once next or flush is called.
func (c *client) fail(id string, report errorReport) error {
	body, err := json.Marshal(report)
	if err != nil {
		return err
	}
	c.request(http.MethodPost, "invocation/"+id+"/error", body, report.Type)
	c.owed++
	return nil
}

// flush sends the answer to the last event.
func (c *client) flush(ctx context.Context) error {
	if err := c.send(ctx); err != nil {
		return fmt.Errorf("post an answer: %w", err)
	}
	return nil
}

// request adds a request to those that wait to be sent.
func (c *client) request(method, path string, body []byte, errorType string) {
	out := append(c.out, method...)
	out = append(append(append(out, ' '), apiPath...), path...)
	out = append(append(out, " HTTP/1.1\r\nHost: "...), c.host...)
	if method == http.MethodPost {
		out = append(out, "\r\nContent-Type: application/json\r\nContent-Length: "...)
		out = strconv.AppendInt(out, int64(len(body)), 10)
	}
	if errorType != "" {
		out = append(append(out, "\r\nLambda-Runtime-Function-Error-Type: "...), headerValue(errorType)...)
	}
	c.out = append(append(out, "\r\n\r\n"...), body...)
}

// send writes the requests that wait, in one piece, and reads the answers to those
// that are answers themselves.
func (c *client) send(ctx context.Context) error {
	if c.conn == nil {
		conn, err := (&net.Dialer{}).DialContext(ctx, c.network, c.address)
		if err != nil {
			return err
		}
		c.conn, c.in = conn, bufio.NewReaderSize(conn, readBytes)
	}
	defer c.closeAfter(ctx)()
	_, err := c.conn.Write(c.out)
	if c.out = c.out[:0]; cap(c.out) > keepBytes {
		c.out = nil
	}
	for ; err == nil && c.owed > 0 && c.conn != nil; c.owed-- {
		var resp *http.Response
		if resp, err = http.ReadResponse(c.in, nil); err == nil {
			// Anything but an acceptance means that the invocation is over already:
			// there is nobody left to tell.
			err = c.done(resp)
		}
	}
	return err
}

// closeAfter closes the connection when ctx is done before the returned function is
// called.
func (c *client) closeAfter(ctx context.Context) (stop func() bool) {
	if ctx.Done() == nil { // that of Start never is
		return func() bool { return true }
	}
	conn := c.conn
	return context.AfterFunc(ctx, func() { _ = conn.Close() })
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
