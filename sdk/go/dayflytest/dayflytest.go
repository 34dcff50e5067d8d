// Package dayflytest runs functions in tests, without Dayfly: it plays the platform on a
// unix socket.
//
//	func TestGreet(t *testing.T) {
//		p := dayflytest.New(t)
//		p.SetConfig(map[string]string{"greeting": "Hello"})
//		got, err := greet(p.Context(), Person{Name: "Ada"})
//		…
//	}
package dayflytest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"testing"
	"time"

	dayfly "github.com/dayfly-run/dayfly/sdk/go"
)

// Function plays another function, which the one under test calls. Its error becomes the
// [dayfly.Error] that the caller gets.
type Function func(event json.RawMessage) (any, error)

// Call is a call that was made of another function.
type Call struct {
	Ref   string
	Event string
	Async bool
	Key   string
	// Invocation is the one that called.
	Invocation string
}

// Message is one that was published.
type Message struct {
	Subject, Data string
}

// Platform plays Dayfly for one test. It is safe for concurrent use.
type Platform struct {
	// Output is the folder where [dayfly.Put] leaves files.
	Output string

	tb      testing.TB
	local   dayfly.Local
	events  chan *event
	stopped chan struct{}

	mu        sync.Mutex // guards what follows
	seq       int
	running   map[string]*event
	functions map[string]Function
	calls     []Call
	published []Message
	revision  int
	config    map[string]string
	changed   chan struct{} // closed and made anew at every change of config
}

type event struct {
	id       string
	payload  []byte
	deadline time.Time
	answer   chan outcome
}

type outcome struct {
	result []byte
	err    error
}

// timeout is what an invocation has.
const timeout = time.Minute

// New plays a platform until the test ends.
func New(tb testing.TB) *Platform {
	tb.Helper()
	dir, err := os.MkdirTemp("", "dayfly") // a socket's path must be short
	if err != nil {
		tb.Fatal(err)
	}
	p := &Platform{
		Output: filepath.Join(dir, "output"), tb: tb,
		local:  dayfly.Local{Socket: filepath.Join(dir, "runtime.sock"), Secrets: filepath.Join(dir, "secrets")},
		events: make(chan *event), stopped: make(chan struct{}),
		running: map[string]*event{}, functions: map[string]Function{}, config: map[string]string{}, changed: make(chan struct{}),
	}
	listener, err := net.Listen("unix", p.local.Socket)
	if err = errors.Join(err, os.Mkdir(p.Output, 0o700), os.Mkdir(p.local.Secrets, 0o700)); err != nil {
		tb.Fatal(err)
	}
	server := &http.Server{Handler: p.handler(), ReadHeaderTimeout: timeout}
	served := make(chan struct{})
	go func() {
		defer close(served)
		_ = server.Serve(listener) // it ends with Close
	}()
	tb.Cleanup(func() {
		close(p.stopped)
		err := server.Close()
		<-served
		if err := errors.Join(err, os.RemoveAll(dir)); err != nil {
			tb.Error(err)
		}
	})
	return p
}

// Context returns the context of a new invocation, as a handler gets it.
func (p *Platform) Context() context.Context {
	e := p.begin(nil)
	ctx, stop := dayfly.NewContext(context.Background(), dayfly.Invocation{
		ID: e.id, Deadline: e.deadline, Namespace: "default", Function: "test", Version: "1",
		ARN: "arn:dayfly:lambda:local:default:function:test:1", TraceID: "Root=" + e.id, MemoryMiB: 128, OutputDir: p.Output,
	}, p.local)
	p.tb.Cleanup(stop)
	return ctx
}

// begin makes an invocation.
func (p *Platform) begin(payload []byte) *event {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.seq++
	e := &event{
		id: fmt.Sprintf("00000000-0000-7000-8000-%012d", p.seq), payload: payload, deadline: time.Now().Add(timeout), answer: make(chan outcome, 1),
	}
	p.running[e.id] = e
	return e
}

// Run serves events with a handler as [dayfly.Start] does, over the Runtime API. The
// returned function gives it an event and waits for its answer; a failure of the handler
// is a [*dayfly.Error].
func Run[In, Out any](p *Platform, h func(ctx context.Context, in In) (Out, error)) (call func(event []byte) (result []byte, err error)) {
	p.tb.Helper()
	p.tb.Setenv("DAYFLY_OUTPUT_DIR", p.Output)
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- dayfly.Serve(ctx, p.local, h); close(ended) }()
	p.tb.Cleanup(func() {
		cancel()
		for range ended { // until it has ended
		}
	})
	return func(payload []byte) ([]byte, error) {
		e := p.begin(payload)
		select {
		case p.events <- e:
		case err := <-ended:
			return nil, fmt.Errorf("the function has ended: %w", err)
		}
		got := <-e.answer
		return got.result, got.err
	}
}

// Handle has calls of a function answered by f. The reference is as callers write it.
func (p *Platform) Handle(ref string, f Function) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.functions[ref] = f
}

// SetConfig makes values the configuration, as `dayfly config set` would.
func (p *Platform) SetConfig(values map[string]string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.revision++
	p.config = maps.Clone(values)
	close(p.changed)
	p.changed = make(chan struct{})
}

// SetSecret gives a secret a value.
func (p *Platform) SetSecret(name, value string) {
	p.tb.Helper()
	if err := os.WriteFile(filepath.Join(p.local.Secrets, name), []byte(value), 0o600); err != nil {
		p.tb.Fatal(err)
	}
}

// Calls lists the calls that were made of other functions, the oldest first.
func (p *Platform) Calls() []Call {
	p.mu.Lock()
	defer p.mu.Unlock()
	return append([]Call(nil), p.calls...)
}

// Published lists the messages that were published, the oldest first.
func (p *Platform) Published() []Message {
	p.mu.Lock()
	defer p.mu.Unlock()
	return append([]Message(nil), p.published...)
}

// currentConfig returns the configuration, and what is closed when there is another.
func (p *Platform) currentConfig() (revision string, values map[string]string, changed <-chan struct{}) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return strconv.Itoa(p.revision), p.config, p.changed
}
