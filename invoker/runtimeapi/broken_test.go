package runtimeapi_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/dayfly-run/dayfly/invoker/runtimeapi"
	"github.com/dayfly-run/dayfly/wire"
)

const askNext = "GET /2018-06-01/runtime/invocation/next HTTP/1.1\r\nHost: x\r\n\r\n"

// deaf is a connection that broke before anything could be written to it.
type deaf struct{ *httptest.ResponseRecorder }

func (deaf) Write([]byte) (int, error) { return 0, errors.New("broken pipe") }

// ask lets a connection that is broken take the next event.
func (b *bench) askBroken() {
	request := httptest.NewRequest(http.MethodGet, "/2018-06-01/runtime/invocation/next", nil)
	b.ServeHTTP(deaf{httptest.NewRecorder()}, request.WithContext(context.WithoutCancel(b.tb.Context())))
}

func TestEventSurvivesABrokenConnection(t *testing.T) {
	b := open(t)
	done := b.invoke(t.Context(), runtimeapi.Event{ID: id, Payload: []byte("once")})
	for range 3 {
		b.askBroken()
	}
	b.pending(done)
	if got := b.next(); string(got.body) != "once" {
		t.Fatalf("event %q", got.body)
	}
	b.respond(id, "done")
	if out := b.await(done); string(out.result) != "done" {
		t.Fatalf("%q, %v", out.result, out.err)
	}
}

func TestBrokenConnectionAndEndIsNotDelivered(t *testing.T) {
	for range 50 {
		b := open(t)
		done := b.invoke(t.Context(), runtimeapi.Event{ID: id})
		b.askBroken()
		b.End()
		if out := b.await(done); !errors.Is(out.err, runtimeapi.ErrNotDelivered) {
			t.Fatal(out.err)
		}
	}
}

// A client that went away while it waited must not swallow the event.
func TestClientGoneWhileWaiting(t *testing.T) {
	for range 50 {
		b := open(t)
		conn := b.raw(askNext)
		<-b.Ready()
		must(t, conn.Close())
		done := b.invoke(t.Context(), runtimeapi.Event{ID: id, Payload: []byte("e")})
		if got := b.next(); string(got.body) != "e" {
			t.Fatalf("event %q", got.body)
		}
		b.respond(id, "r")
		if out := b.await(done); string(out.result) != "r" {
			t.Fatalf("%q, %v", out.result, out.err)
		}
	}
}

// A client that went away in the midst of an event cannot have acted on it.
func TestClientGoneInTheMidstOfAnEvent(t *testing.T) {
	b := open(t)
	payload := strings.Repeat("x", wire.MaxEvent)
	done := b.invoke(t.Context(), runtimeapi.Event{ID: id, Payload: []byte(payload)})
	conn := b.raw(askNext)
	line, err := bufio.NewReader(conn).ReadString('\n')
	if err != nil || !strings.Contains(line, "200") {
		t.Fatalf("%q, %v", line, err)
	}
	must(t, conn.Close())
	if got := b.next(); len(got.body) != len(payload) {
		t.Fatalf("event of %d bytes", len(got.body))
	}
	b.respond(id, "r")
	if out := b.await(done); string(out.result) != "r" {
		t.Fatalf("%q, %v", out.result, out.err)
	}
}

// A response that breaks off is none: the invocation stays open for another.
func TestResponseBreaksOff(t *testing.T) {
	b := open(t)
	done := b.invoke(t.Context(), runtimeapi.Event{ID: id})
	b.next()
	for _, body := range []string{
		"Content-Length: 100\r\n\r\nhalf",
		"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\nno number\r\n",
	} {
		conn := b.raw("POST /2018-06-01/runtime/invocation/" + string(id) + "/response HTTP/1.1\r\nHost: x\r\n" + body)
		if unix, ok := conn.(interface{ CloseWrite() error }); ok {
			must(t, unix.CloseWrite())
		}
		answer, err := io.ReadAll(conn)
		must(t, err)
		if !strings.HasPrefix(string(answer), "HTTP/1.1 400 ") {
			t.Errorf("answer to a response that breaks off: %q", answer)
		}
		must(t, conn.Close())
	}
	b.pending(done)
	b.respond(id, "whole")
	if out := b.await(done); string(out.result) != "whole" {
		t.Fatalf("%q, %v", out.result, out.err)
	}
}

// Several connections ask at once and some answer twice or what they were not
// asked: each invocation gets its own answer exactly once.
func TestManyClients(t *testing.T) {
	const clients, events = 4, 200
	b := open(t)
	ctx, cancel := context.WithCancel(t.Context())
	var runtime sync.WaitGroup
	turn := make(chan struct{}, 1) // asking while another has the event gives that up
	for range clients {
		runtime.Go(func() {
			for {
				select {
				case turn <- struct{}{}:
				case <-ctx.Done():
					return
				}
				got, err := b.do(ctx, http.MethodGet, base+"invocation/next", nil, nil)
				if err != nil {
					return
				}
				name := got.header.Get("Lambda-Runtime-Aws-Request-Id")
				var both sync.WaitGroup
				for range 2 {
					both.Go(func() {
						_, _ = b.do(ctx, http.MethodPost, base+"invocation/"+name+"/response", strings.NewReader(string(got.body)), nil)
						_, _ = b.do(ctx, http.MethodPost, base+"invocation/nonsense/error", strings.NewReader("x"), nil)
					})
				}
				both.Wait()
				<-turn
			}
		})
	}
	for n := range events {
		e := runtimeapi.Event{ID: wire.InvocationID(fmt.Sprint("event-", n)), Payload: fmt.Appendf(nil, "%d", n)}
		result, err := b.Invoke(t.Context(), e)
		if err != nil || string(result) != fmt.Sprint(n) {
			t.Fatalf("event %d: %q, %v", n, result, err)
		}
	}
	cancel()
	runtime.Wait()
}

// TestNothingIsNoEvent: who asks on a connection that cannot be read any more, but can be
// written, gets no empty event.
func TestNothingIsNoEvent(t *testing.T) {
	b := open(t)
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	ask := func() reply {
		w := httptest.NewRecorder()
		b.ServeHTTP(w, httptest.NewRequestWithContext(gone, http.MethodGet, base+"invocation/next", nil))
		return reply{w.Code, w.Header(), w.Body.Bytes()}
	}
	wantRefusal(t, ask(), http.StatusServiceUnavailable, "Unavailable")
	// An event that waits is kept for another one, whether it was taken or not.
	done := b.invoke(t.Context(), runtimeapi.Event{ID: id, Payload: []byte("e")})
	for range 20 {
		wantRefusal(t, ask(), http.StatusServiceUnavailable, "Unavailable")
	}
	if got := b.next(); string(got.body) != "e" {
		t.Fatalf("event %q", got.body)
	}
	b.respond(id, "r")
	if out := b.await(done); string(out.result) != "r" {
		t.Fatalf("%q, %v", out.result, out.err)
	}
}

// TestEndOfACallLeavesItsConnection: a call's context ends as soon as it is answered, while
// the runtime asks for the next event on the same connection already.
func TestEndOfACallLeavesItsConnection(t *testing.T) {
	for name, trailer := range map[string]string{
		"answered": "", "failed": "Lambda-Runtime-Function-Error-Type: Oops\r\n",
	} {
		t.Run(name, func(t *testing.T) {
			b := open(t)
			conn := b.raw(askNext)
			defer conn.Close()
			from := bufio.NewReader(conn)
			for n := range 300 {
				e, _ := taking(100, 100)
				e.Payload = []byte(strconv.Itoa(n))
				ctx, cancel := context.WithCancel(t.Context())
				invoked := make(chan struct{})
				go func() {
					defer close(invoked)
					_, _ = b.Invoke(ctx, e)
					cancel()
				}()
				if got, err := readReply(from); err != nil || got.status != http.StatusOK || string(got.body) != strconv.Itoa(n) {
					t.Fatalf("event %d: %d %q, %v", n, got.status, got.body, err)
				}
				_, err := io.WriteString(conn, "POST /2018-06-01/runtime/invocation/"+string(id)+"/response HTTP/1.1\r\nHost: x\r\n"+
					"Lambda-Runtime-Function-Response-Mode: streaming\r\nTransfer-Encoding: chunked\r\nTrailer: Lambda-Runtime-Function-Error-Type\r\n\r\n"+
					"4\r\nsome\r\n0\r\n"+trailer+"\r\n"+askNext)
				must(t, err)
				if got, err := readReply(from); err != nil || got.status != http.StatusAccepted {
					t.Fatalf("response %d: %d %q, %v", n, got.status, got.body, err)
				}
				<-invoked
			}
		})
	}
}

// readReply reads an answer off a raw connection.
func readReply(from *bufio.Reader) (reply, error) {
	response, err := http.ReadResponse(from, nil)
	if err != nil {
		return reply{}, err
	}
	defer response.Body.Close()
	data, err := io.ReadAll(response.Body)
	return reply{response.StatusCode, response.Header, data}, err
}
