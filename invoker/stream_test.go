package invoker

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"runtime"
	"runtime/debug"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/dayfly-run/dayfly/internal/bus"
	"github.com/dayfly-run/dayfly/invoker/runtimeapi"
	"github.com/dayfly-run/dayfly/wire"
)

// sends posts a response whose body a test writes.
func (p *process) sends(id, kind string, trailer http.Header, write func(w io.Writer) error) {
	reader, writer := io.Pipe()
	go func() { _ = writer.CloseWithError(write(writer)) }()
	request, err := http.NewRequestWithContext(p.ctx, http.MethodPost, "http://runtime/2018-06-01/runtime/invocation/"+id+"/response", reader)
	if err != nil {
		return
	}
	request.Header.Set("Content-Type", kind)
	request.Header.Set("Lambda-Runtime-Function-Response-Mode", "streaming")
	request.Trailer = trailer
	if response, err := p.client.Do(request); err == nil {
		_ = response.Body.Close()
	}
}

// streams plays a function that answers every event as write does.
func streams(kind string, trailer http.Header, write func(p *process, w io.Writer) error) func(*process) int {
	return func(p *process) int {
		for {
			id, _, err := p.next()
			if err != nil {
				return 1
			}
			p.sends(id, kind, trailer, func(w io.Writer) error { return write(p, w) })
		}
	}
}

// streaming is a call whose answer comes in pieces.
type streaming struct {
	n      *node
	id     wire.InvocationID
	pieces <-chan part
	done   <-chan answer
	taken  int64
}

type part struct {
	wire.StreamPiece
	body string
}

func (n *node) stream(v wire.VersionID) *streaming {
	n.tb.Helper()
	s := &streaming{n: n, id: newInvocation()}
	pieces := make(chan part, 10_000)
	subject := wire.StreamSubject(string(n.id), s.id)
	sub, err := shared.conn.Subscribe(subject, "", func(m bus.Msg) {
		var p part
		body, err := wire.ParseFrame(m.Data, &p.StreamPiece)
		if err != nil {
			n.tb.Error(err)
		}
		p.body = string(body)
		pieces <- p
	})
	must(n.tb, err)
	n.tb.Cleanup(func() { sub.Stop(shared.conn) })
	done := make(chan answer, 1)
	go func() {
		a, err := n.send(wire.InvokeRequest{Invocation: s.id, Version: v, Lease: newLease(), Stream: subject}, []byte(`1`))
		if err != nil {
			a.Error = wire.AsError(err)
		}
		done <- a
	}()
	s.pieces, s.done = pieces, done
	return s
}

func (s *streaming) ack(gone bool) {
	s.n.tb.Helper()
	data, err := json.Marshal(wire.StreamAck{Invocation: s.id, Taken: s.taken, Gone: gone})
	must(s.n.tb, err)
	must(s.n.tb, shared.conn.Publish(wire.NodeStreamSubject(s.n.id), data))
}

// TestPiecesComeAsTheyAreMade: each is here before the function makes the next.
func TestPiecesComeAsTheyAreMade(t *testing.T) {
	step := make(chan struct{})
	n := startNode(t, streams("text/event-stream", nil, func(_ *process, w io.Writer) error {
		for i := range 3 {
			if _, err := fmt.Fprintf(w, "data: %d\n\n", i); err != nil {
				return err
			}
			<-step
		}
		return nil
	}))
	s := n.stream(n.deploy())
	head := receive(t, s.pieces)
	if diff := cmp.Diff(part{StreamPiece: wire.StreamPiece{Node: n.id, Seq: 1, Head: &wire.StreamHead{ContentType: "text/event-stream"}}}, head, cmp.AllowUnexported(part{})); diff != "" {
		t.Error(diff)
	}
	for i := range 3 {
		p := receive(t, s.pieces)
		if p.Seq != uint64(i+2) || p.Head != nil || p.body != fmt.Sprintf("data: %d\n\n", i) {
			t.Errorf("piece %+v", p)
		}
		step <- struct{}{}
	}
	a := receive(t, s.done)
	if a.Error != nil || !a.Streamed || a.Pieces != 4 || a.ContentType != "text/event-stream" || len(a.body) != 0 || a.Spent {
		t.Errorf("answer %+v", a.InvokeReply)
	}
}

// TestHTTPPrelude: what it says of the answer comes ahead of it.
func TestHTTPPrelude(t *testing.T) {
	const prelude = `{"statusCode":201,"headers":{"etag":7,"content-type":"text/plain"},"cookies":["a=b"]}` + "\x00\x00\x00\x00\x00\x00\x00\x00"
	n := startNode(t, streams("application/vnd.awslambda.http-integration-response", nil, func(_ *process, w io.Writer) error {
		_, err := io.WriteString(w, prelude+"body")
		return err
	}))
	v := n.deploy()
	s := n.stream(v)
	want := &wire.StreamHead{ContentType: "text/plain", HTTP: true, Status: 201, Headers: map[string]string{"Etag": "7", "Content-Type": "text/plain"}, Cookies: []string{"a=b"}}
	if diff := cmp.Diff(want, receive(t, s.pieces).Head); diff != "" {
		t.Error(diff)
	}
	if p := receive(t, s.pieces); p.body != "body" {
		t.Errorf("piece %+v", p)
	}
	receive(t, s.done)
	// Who takes no pieces gets all of it at once.
	a := n.warm(v, `1`)
	n.wantBody(a, "body")
	if !a.Streamed || a.ContentType != "text/plain" || a.Pieces != 0 {
		t.Errorf("answer %+v", a.InvokeReply)
	}
	id, event := n.attempt(v, wire.InvokeRequest{}, `1`)
	if event.Error != nil || event.Output.ResultBytes != 4 {
		t.Errorf("answer %+v", event.InvokeReply)
	}
	wantStored(t, wire.OutputResultKey(v.FunctionID, id), "body")
}

// TestStreamedAndStored: what is passed on is kept as well.
func TestStreamedAndStored(t *testing.T) {
	n := startNode(t, streams("text/plain", nil, func(_ *process, w io.Writer) error {
		_, err := io.WriteString(w, "kept")
		return err
	}))
	v := n.deploy(storing)
	s := n.stream(v)
	receive(t, s.pieces)
	if p := receive(t, s.pieces); p.body != "kept" {
		t.Errorf("piece %+v", p)
	}
	if a := receive(t, s.done); a.Error != nil {
		t.Errorf("answer %+v", a.Error)
	}
	wantStored(t, wire.OutputResultKey(v.FunctionID, s.id), "kept")
}

// TestFailuresInTheMidst: what was sent was sent, and the answer says what went wrong.
func TestFailuresInTheMidst(t *testing.T) {
	arrived := make(chan struct{})
	for name, test := range map[string]struct {
		play  func(*process) int
		code  wire.Code
		words string
	}{
		"trailer": {
			streams("text/plain", http.Header{
				"Lambda-Runtime-Function-Error-Type": {"Oops"}, "Lambda-Runtime-Function-Error-Body": {"eyJlcnJvck1lc3NhZ2UiOiJubyBtb3JlIn0="},
			}, func(_ *process, w io.Writer) error {
				_, err := io.WriteString(w, "some")
				return err
			}), wire.CodeFunctionError, "no more",
		},
		"broken": {
			streams("text/plain", nil, func(_ *process, w io.Writer) error {
				_, err := io.WriteString(w, "some")
				<-arrived
				return errors.Join(err, io.ErrClosedPipe)
			}), wire.CodeFunctionError, "to the end",
		},
		"no prelude": {
			streams("application/vnd.awslambda.http-integration-response", nil, func(_ *process, w io.Writer) error {
				_, err := io.WriteString(w, "some")
				return err
			}), wire.CodeFunctionError, "8 NUL bytes",
		},
		"deadline": {
			streams("text/plain", nil, func(p *process, w io.Writer) error {
				_, err := io.WriteString(w, "some")
				<-p.ctx.Done()
				return err
			}), wire.CodeFunctionTimeout, "timeout of 3s",
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			n := startNode(t, test.play)
			limit := patience
			if name == "deadline" {
				limit = 3 * time.Second
			}
			s := n.stream(n.deploy(timeout(limit)))
			if name == "broken" {
				receive(t, s.pieces)
				close(arrived)
			}
			a := receive(t, s.done)
			n.wantError(a, test.code, false, test.words)
		})
	}
}

// TestLimitsOfResponses: what an event leaves, what is passed on, and all else.
func TestLimitsOfResponses(t *testing.T) {
	n := startNode(t, each(echo))
	inline := int64(n.inv.maxInline())
	for _, test := range []struct {
		req                    wire.InvokeRequest
		inline, limit, streams int64
	}{
		{wire.InvokeRequest{}, wire.MaxEvent, wire.MaxEvent, wire.MaxEvent},
		{wire.InvokeRequest{Stream: "s"}, wire.MaxEvent, wire.MaxEvent, wire.MaxStreamed},
		{wire.InvokeRequest{Event: true}, inline, wire.MaxAsyncPayload, wire.MaxAsyncPayload},
		{wire.InvokeRequest{Event: true, Stream: "s"}, inline, wire.MaxAsyncPayload, wire.MaxAsyncPayload},
	} {
		var e runtimeapi.Event
		n.inv.taker(nil, test.req, &e)
		if e.Inline != test.inline || e.Limit != test.limit || e.StreamLimit != test.streams {
			t.Errorf("%+v: %d inline, %d, %d streamed", test.req, e.Inline, e.Limit, e.StreamLimit)
		}
	}
}

// TestWindow: a function sends no more than is taken.
func TestWindow(t *testing.T) {
	t.Parallel()
	const size = 10 << 20
	sent := make(chan struct{})
	n := startNode(t, streams("text/plain", nil, func(_ *process, w io.Writer) error {
		defer close(sent)
		for range size >> 20 {
			if _, err := w.Write(bytes.Repeat([]byte("x"), 1<<20)); err != nil {
				return err
			}
		}
		return nil
	}))
	s := n.stream(n.deploy())
	var ahead, total int64
	for quiet := false; !quiet; {
		select {
		case p := <-s.pieces:
			ahead += wire.StreamCost(len(p.body))
			total += int64(len(p.body))
		case <-sent:
			t.Fatal("the function did not wait")
		case a := <-s.done:
			t.Fatalf("answer %+v", a.InvokeReply)
		case <-time.After(100 * time.Millisecond): // nothing can tell that nothing happens
			quiet = ahead > wire.StreamWindow/2
		}
	}
	if ahead > wire.StreamWindow {
		t.Errorf("%d ahead of who takes it", ahead)
	}
	s.taken = ahead
	s.ack(false)
	for total < size {
		p := receive(t, s.pieces)
		total += int64(len(p.body))
		s.taken += wire.StreamCost(len(p.body))
		s.ack(false)
	}
	if a := receive(t, s.done); a.Error != nil || total != size {
		t.Errorf("%d bytes, answer %+v", total, a.InvokeReply)
	}
}

// TestNobodyTakesIt: the instance is killed.
func TestNobodyTakesIt(t *testing.T) {
	t.Parallel()
	n := startNode(t, streams("text/plain", nil, func(p *process, w io.Writer) error {
		_, err := io.WriteString(w, "some")
		<-p.ctx.Done()
		return err
	}))
	v := n.deploy()
	s := n.stream(v)
	receive(t, s.pieces)
	s.ack(true)
	a := receive(t, s.done)
	n.wantError(a, wire.CodeCancelled, false, "cancelled")
	n.awaitCount(v, wire.VersionOnNode{})
	// Who asked died: it does not even say so.
	silent := n.stream(v)
	receive(t, silent.pieces)
	n.wantError(receive(t, silent.done), wire.CodeCancelled, false, "cancelled")
}

// peak measures how much memory work takes at most, in bytes.
func peak(work func()) uint64 {
	defer debug.SetGCPercent(debug.SetGCPercent(20))
	runtime.GC()
	var before, now runtime.MemStats
	runtime.ReadMemStats(&before)
	done := make(chan struct{})
	go func() { defer close(done); work() }()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	most := before.HeapInuse
	for {
		select {
		case <-tick.C:
			runtime.ReadMemStats(&now)
			most = max(most, now.HeapInuse)
		case <-done:
			return most - before.HeapInuse
		}
	}
}

// TestLargeEventsTakeNoMemory: several of the largest size at once pass through.
func TestLargeEventsTakeNoMemory(t *testing.T) {
	const size, atOnce, bound = wire.MaxAsyncPayload, 2, 100 << 20
	n := startNode(t, func(p *process) int {
		for { // the event goes back as it comes: no copy is kept here either
			request, err := http.NewRequestWithContext(p.ctx, http.MethodGet, "http://runtime/2018-06-01/runtime/invocation/next", nil)
			if err != nil {
				return 1
			}
			event, err := p.client.Do(request)
			if err != nil {
				return 1
			}
			id := event.Header.Get("Lambda-Runtime-Aws-Request-Id")
			back, err := http.NewRequestWithContext(p.ctx, http.MethodPost, "http://runtime/2018-06-01/runtime/invocation/"+id+"/response", event.Body)
			if err != nil {
				return 1
			}
			back.ContentLength = event.ContentLength
			response, err := p.client.Do(back)
			_ = event.Body.Close()
			if err != nil {
				return 1
			}
			_ = response.Body.Close()
		}
	})
	v := n.deploy()
	const key = "payloads/large-event/request"
	must(t, shared.store.Put(t.Context(), key, io.LimitReader(pattern{}, size), size, "application/json"))
	taken := peak(func() {
		var calls sync.WaitGroup
		for range atOnce {
			calls.Go(func() {
				id := newInvocation()
				a, err := n.send(wire.InvokeRequest{Invocation: id, Version: v, Lease: newLease(), Event: true, PayloadKey: key}, nil)
				if err != nil || a.Error != nil || a.Output == nil || a.Output.ResultBytes != size || len(a.body) != 0 {
					t.Errorf("answer %+v, %v", a.InvokeReply, err)
					return
				}
				object, err := shared.store.Get(t.Context(), wire.OutputResultKey(v.FunctionID, id))
				if err != nil || object.Size != size {
					t.Errorf("stored: %+v, %v", object, err)
					return
				}
				_ = object.Close()
			})
		}
		calls.Wait()
	})
	t.Logf("%d events of %d MiB at once took %d MiB, with the S3 server", atOnce, size>>20, taken>>20)
	if taken > bound {
		t.Errorf("they took %d MiB, at most %d", taken>>20, bound>>20)
	}
}

// pattern is digits without end.
type pattern struct{}

func (pattern) Read(p []byte) (int, error) { return copy(p, strings.Repeat("1", 32<<10)), nil }

// TestLargeResultThatIsNoJSON: what is not looked at whole is looked at nevertheless.
func TestLargeResultThatIsNoJSON(t *testing.T) {
	n := startNode(t, each(func(*process, string, []byte) ([]byte, error) {
		return append(bytes.Repeat([]byte("1"), 5*mib), 'x'), nil
	}))
	v := n.deploy()
	id, a := n.attempt(v, wire.InvokeRequest{Lease: newLease()}, `1`)
	n.wantError(a, wire.CodeFunctionError, false, `no JSON: it begins with "1111`)
	if found, err := shared.store.Exists(t.Context(), wire.OutputResultKey(v.FunctionID, id)); found || err != nil {
		t.Errorf("it was stored: %t, %v", found, err)
	}
}

// TestLargeResultOverTheLimit: it is the function's failure.
func TestLargeResultOverTheLimit(t *testing.T) {
	n := startNode(t, each(func(_ *process, _ string, event []byte) ([]byte, error) {
		return bytes.Repeat(event, wire.MaxAsyncPayload+1), nil
	}))
	v := n.deploy()
	_, a := n.attempt(v, wire.InvokeRequest{Lease: newLease()}, `1`)
	n.wantError(a, wire.CodeFunctionError, false, "is over")
	if !strings.Contains(a.Error.Type, "ResponseSizeTooLarge") {
		t.Errorf("type %q", a.Error.Type)
	}
}
