// Package load sends HTTP requests and measures how long the answers take. It
// shares the machine with what it measures, so it does as little as it can: one
// prepared request, written and read by hand on connections that stay open.
package load

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"sync"
	"time"
)

// readBytes is the size of a connection's read buffer; a header line must fit.
const readBytes = 4 << 10

// stuckAfter is how long a run may last beyond its time before it fails.
const stuckAfter = 30 * time.Second

// Target is what is asked for: GET path from addr (host:port).
type Target struct {
	Addr, Path string
	// Async asks for the answer 202 before the function runs.
	Async bool
}

// Result is what one run measured. Latencies are in no order.
type Result struct {
	Latencies []time.Duration
	// Elapsed is from the start to the last answer.
	Elapsed time.Duration
}

// PerSecond is the rate of answers.
func (r Result) PerSecond() float64 { return float64(len(r.Latencies)) / r.Elapsed.Seconds() }

// client is one open connection.
type client struct {
	conn    net.Conn
	in      *bufio.Reader
	request []byte
	status  []byte // of the answer that is wanted
}

func dial(ctx context.Context, t Target, deadline time.Time) (*client, error) {
	conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", t.Addr)
	if err != nil {
		return nil, err
	}
	if err := conn.SetDeadline(deadline); err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	request, status := "GET "+t.Path+" HTTP/1.1\r\nHost: "+t.Addr+"\r\nUser-Agent: bench\r\nAccept: */*\r\n", "200"
	if t.Async {
		request, status = request+"Prefer: respond-async\r\n", "202"
	}
	return &client{conn: conn, in: bufio.NewReaderSize(conn, readBytes), request: []byte(request + "\r\n"), status: []byte(status)}, nil
}

// do sends the request and reads the whole answer, which must have the status that is
// wanted and a Content-Length.
func (c *client) do() error {
	if _, err := c.conn.Write(c.request); err != nil {
		return err
	}
	status, err := c.in.ReadSlice('\n')
	if err != nil {
		return fmt.Errorf("read the answer: %w", err)
	}
	_, rest, _ := bytes.Cut(bytes.TrimSpace(status), []byte(" "))
	ok := bytes.HasPrefix(rest, c.status)
	said := ""
	if !ok {
		said = string(rest)
	}
	length := -1
	for {
		line, err := c.in.ReadSlice('\n')
		if err != nil {
			return fmt.Errorf("read the answer's header: %w", err)
		}
		line = bytes.TrimSpace(line)
		if len(line) == 0 {
			break
		}
		name, value, _ := bytes.Cut(line, []byte(":"))
		if len(name) == len("Content-Length") && bytes.EqualFold(name, []byte("Content-Length")) {
			if length, err = strconv.Atoi(string(bytes.TrimSpace(value))); err != nil {
				return fmt.Errorf("read the answer's header: %w", err)
			}
		}
	}
	switch {
	case !ok && length >= 0:
		body, err := io.ReadAll(io.LimitReader(c.in, int64(min(length, 1000))))
		return errors.Join(fmt.Errorf("the answer is %s: %s", said, bytes.TrimSpace(body)), err)
	case !ok:
		return fmt.Errorf("the answer is %s", said)
	case length < 0:
		return errors.New("the answer has no Content-Length")
	}
	_, err = c.in.Discard(length)
	return err
}

// run gives each of n clients a goroutine and gathers their latencies. The work
// runs until next says that it is over; next returns the moment from which the
// latency of the coming request counts.
func run(ctx context.Context, t Target, n int, limit time.Duration, next func() (from time.Time, ok bool)) (Result, error) {
	clients := make([]*client, 0, n)
	defer func() {
		for _, c := range clients {
			_ = c.conn.Close() // the answers are in
		}
	}()
	for range n {
		c, err := dial(ctx, t, time.Now().Add(limit+stuckAfter))
		if err != nil {
			return Result{}, err
		}
		clients = append(clients, c)
	}
	defer context.AfterFunc(ctx, func() {
		for _, c := range clients {
			_ = c.conn.SetDeadline(time.Now()) // break off
		}
	})()
	all := make([][]time.Duration, n)
	errs := make([]error, n)
	var wait sync.WaitGroup
	begun := time.Now()
	for i, c := range clients {
		wait.Go(func() {
			taken := make([]time.Duration, 0, 1<<14)
			for {
				from, ok := next()
				if !ok {
					break
				}
				if errs[i] = c.do(); errs[i] != nil {
					break
				}
				taken = append(taken, time.Since(from))
			}
			all[i] = taken
		})
	}
	wait.Wait()
	result := Result{Elapsed: time.Since(begun)}
	for _, taken := range all {
		result.Latencies = append(result.Latencies, taken...)
	}
	if err := context.Cause(ctx); err != nil {
		return result, err
	}
	if err := errors.Join(errs...); err != nil {
		return result, fmt.Errorf("GET http://%s%s: %w", t.Addr, t.Path, errs[firstError(errs)])
	}
	if len(result.Latencies) == 0 {
		return result, fmt.Errorf("GET http://%s%s: no answer within %s", t.Addr, t.Path, limit)
	}
	return result, nil
}

func firstError(errs []error) int {
	for i, err := range errs {
		if err != nil {
			return i
		}
	}
	return 0
}

// Closed keeps n clients busy for a while: each sends its next request when it
// has the answer to the one before.
func Closed(ctx context.Context, t Target, n int, length time.Duration) (Result, error) {
	end := time.Now().Add(length)
	return run(ctx, t, n, length, func() (time.Time, bool) {
		now := time.Now()
		return now, now.Before(end)
	})
}

// Once sends n requests at the same time and waits for all answers.
func Once(ctx context.Context, t Target, n int) (Result, error) {
	slots := make(chan struct{}, n)
	for range n {
		slots <- struct{}{}
	}
	close(slots)
	return run(ctx, t, n, 2*time.Minute, func() (time.Time, bool) {
		_, ok := <-slots
		return time.Now(), ok
	})
}

// InTurn sends n requests one after the other on one connection. Its latencies are
// in their order.
func InTurn(ctx context.Context, t Target, n int) (Result, error) {
	sent := 0
	return run(ctx, t, 1, time.Minute, func() (time.Time, bool) {
		sent++
		return time.Now(), sent <= n
	})
}
