// Command steady calls a function again and again, and gives it events, until its
// standard input ends. Then it waits for the events and says what became of all. It
// exits with 1 when a call was not answered, or an event that was accepted did not run.
//
//	steady --url http://127.0.0.1:8080 --function hello
package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"os"
	"os/signal"
	"regexp"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"
)

const (
	// attemptBound limits one attempt.
	attemptBound = 5 * time.Second
	// pause is how long a client waits before it tries again.
	pause = 200 * time.Millisecond
	// callEvery and eventEvery are the distances between two calls, and two events.
	callEvery, eventEvery = 50 * time.Millisecond, 100 * time.Millisecond
	// settleBound is how long accepted events may take to be done.
	settleBound = 2 * time.Minute
	// maxAnswerBytes is more than the function sends.
	maxAnswerBytes = 1 << 20
	// shownErrors is how many failures are told in full.
	shownErrors = 5
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, os.Args[1:], os.Stdin, os.Stdout)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "error:", err)
		os.Exit(1)
	}
}

// run calls until in ends, and writes what came of it.
func run(ctx context.Context, args []string, in io.Reader, out io.Writer) error {
	flags := flag.NewFlagSet("steady", flag.ContinueOnError)
	url := flags.String("url", "http://127.0.0.1:8080", "where Dayfly listens")
	function := flags.String("function", "hello", "what is called")
	patience := flags.Duration("patience", 20*time.Second, "how long a call is tried again")
	if err := flags.Parse(args); err != nil {
		return err
	}
	c := &client{
		base: *url, function: *function, patience: *patience,
		http: http.Client{Timeout: attemptBound}, begun: time.Now(), repeats: map[string]*repeat{},
	}
	calling, end := context.WithCancel(ctx)
	go func() {
		defer end()
		_, _ = io.Copy(io.Discard, in) // its end is all that it says
	}()
	var loops sync.WaitGroup
	loops.Go(func() { every(calling, callEvery, func() { c.count(c.call(ctx)) }) })
	loops.Go(func() { every(calling, eventEvery, func() { c.accepted(c.event(ctx)) }) })
	loops.Wait()
	missing := c.settle(ctx)
	c.mu.Lock()
	defer c.mu.Unlock()
	fmt.Fprintf(out, "calls %d, failed %d, tried again %d; events %d, refused %d, not done %d; longest time to an answer %s\n",
		c.calls, c.failed, c.again, len(c.events), c.refused, missing, c.longest.Round(time.Millisecond))
	for _, why := range slices.Sorted(maps.Keys(c.repeats)) {
		r := c.repeats[why]
		fmt.Fprintf(out, "  tried again %d times, from %.1f to %.1f s: %s\n    for example: %s\n",
			r.count, r.first.Seconds(), r.last.Seconds(), why, r.example)
	}
	switch {
	case c.failed > 0 || c.refused > 0 || missing > 0:
		return errors.Join(append([]error{errors.New("not all was answered")}, c.errs...)...)
	case c.calls == 0 || len(c.events) == 0:
		return errors.New("nothing was called")
	}
	return nil
}

// every begins work at even distances, however long it takes, until ctx is done, and
// waits for what it began.
func every(ctx context.Context, distance time.Duration, work func()) {
	var running sync.WaitGroup
	defer running.Wait()
	tick := time.NewTicker(distance)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			running.Go(work)
		}
	}
}

// client makes calls and counts what came of them.
type client struct {
	base, function string
	patience       time.Duration
	http           http.Client
	begun          time.Time

	mu                            sync.Mutex // guards what follows
	calls, failed, again, refused int
	repeats                       map[string]*repeat // by why
	longest                       time.Duration
	events                        []string // where the record of each is
	errs                          []error
}

// repeat is why attempts were repeated.
type repeat struct {
	count       int
	first, last time.Duration // since the beginning
	example     string        // the whole message of the first one
}

// repeated counts an attempt that is repeated.
func (c *client) repeated(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.again++
	why, now := reason(err), time.Since(c.begun)
	r := c.repeats[why]
	if r == nil {
		r = &repeat{first: now, example: strings.Join(strings.Fields(err.Error()), " ")}
		c.repeats[why] = r
	}
	r.count++
	r.last = now
}

// call makes one call, again where it may be, and returns how long it took.
func (c *client) call(ctx context.Context) (time.Duration, error) {
	begun := time.Now()
	err := c.persist(ctx, func() error {
		_, err := c.send(ctx, "/v1/functions/"+c.function+"/invocations", nil, http.StatusOK)
		return err
	})
	return time.Since(begun), err
}

// event gives the function an event, and returns where its record is.
func (c *client) event(ctx context.Context) (record string, err error) {
	// The same event is accepted once, however often it is sent.
	header := http.Header{"Prefer": {"respond-async"}, "Idempotency-Key": {fmt.Sprintf("steady-%d", time.Now().UnixNano())}}
	err = c.persist(ctx, func() error {
		answer, err := c.send(ctx, "/f/"+c.function, header, http.StatusAccepted)
		record = answer.Get("Location")
		return err
	})
	return record, err
}

// persist tries until it works or patience ends.
func (c *client) persist(ctx context.Context, try func() error) error {
	ctx, cancel := context.WithTimeout(ctx, c.patience)
	defer cancel()
	for {
		err := try()
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(pause):
		}
		c.repeated(err)
	}
}

// codes are those of problem documents; other errors are of the connection, or the
// balancer's.
var codes = regexp.MustCompile(`"code":"([a-z_.]+)"`)

// reason is what an error says in few words.
func reason(err error) string {
	text := err.Error()
	if code := codes.FindStringSubmatch(text); code != nil {
		return code[1]
	}
	if timeout, ok := errors.AsType[net.Error](err); ok && timeout.Timeout() {
		return fmt.Sprintf("no answer in %s", attemptBound)
	}
	if op, ok := errors.AsType[*net.OpError](err); ok { // without its addresses
		return fmt.Sprintf("%s: %s", op.Op, op.Err)
	}
	if _, after, ok := strings.Cut(text, "is answered "); ok {
		text, _, _ = strings.Cut(after, ":")
	}
	return text
}

// send makes one request, and returns the answer's header.
func (c *client) send(ctx context.Context, path string, header http.Header, want int) (http.Header, error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, c.base+path, bytes.NewReader([]byte(`{"name": "cluster"}`)))
	if err != nil {
		return nil, err
	}
	r.Header.Set("Content-Type", "application/json")
	for name, values := range header {
		r.Header[name] = values
	}
	answer, err := c.http.Do(r)
	if err != nil {
		return nil, err
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(io.LimitReader(answer.Body, maxAnswerBytes))
	if err != nil {
		return nil, err
	}
	if answer.StatusCode != want {
		return nil, fmt.Errorf("%s is answered %s: %.300s", path, answer.Status, body)
	}
	return answer.Header, nil
}

func (c *client) count(took time.Duration, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.calls++
	c.longest = max(c.longest, took)
	if err != nil {
		c.failed++
		c.keep(err)
	}
}

func (c *client) accepted(record string, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err != nil {
		c.refused++
		c.keep(err)
		return
	}
	c.events = append(c.events, record)
}

// keep remembers the first errors. The caller holds mu.
func (c *client) keep(err error) {
	if len(c.errs) < shownErrors {
		c.errs = append(c.errs, err)
	}
}

// settle waits for the events, and returns how many of them did not succeed.
func (c *client) settle(ctx context.Context) (missing int) {
	ctx, cancel := context.WithTimeout(ctx, settleBound)
	defer cancel()
	c.mu.Lock()
	events := c.events
	c.mu.Unlock()
	for _, record := range events {
		if err := c.await(ctx, record); err != nil {
			missing++
			c.mu.Lock()
			c.keep(fmt.Errorf("event %s: %w", record, err))
			c.mu.Unlock()
		}
	}
	return missing
}

// await waits until a record says that its event succeeded.
func (c *client) await(ctx context.Context, record string) error {
	for {
		state, err := c.state(ctx, record)
		switch {
		case err == nil && state == "succeeded":
			return nil
		case err == nil && state != "accepted" && state != "running":
			return fmt.Errorf("it is %q", state)
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("it is %q: %w", state, errors.Join(err, ctx.Err()))
		case <-time.After(pause):
		}
	}
}

func (c *client) state(ctx context.Context, record string) (string, error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, c.base+record, nil)
	if err != nil {
		return "", err
	}
	answer, err := c.http.Do(r)
	if err != nil {
		return "", err
	}
	defer answer.Body.Close()
	var document struct {
		State string `json:"state"`
	}
	if answer.StatusCode != http.StatusOK {
		return "", errors.New(answer.Status)
	}
	err = json.NewDecoder(io.LimitReader(answer.Body, maxAnswerBytes)).Decode(&document)
	return document.State, err
}
