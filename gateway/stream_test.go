package gateway

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/dayfly-run/dayfly/internal/bus"
	"github.com/dayfly-run/dayfly/wire"
)

// streamer is a double of a node that sends answers in pieces.
type streamer struct {
	w    *world
	req  chan wire.InvokeRequest
	acks chan wire.StreamAck
	end  chan *wire.InvokeReply // how the call ends
	seq  uint64
}

func (w *world) streamer() *streamer {
	w.t.Helper()
	s := &streamer{w: w, req: make(chan wire.InvokeRequest, 10), acks: make(chan wire.StreamAck, 1000), end: make(chan *wire.InvokeReply)}
	_, err := w.conn.Subscribe(wire.NodeStreamSubject("n1"), "", func(m bus.Msg) {
		var ack wire.StreamAck
		if err := json.Unmarshal(m.Data, &ack); err != nil {
			w.t.Error(err)
		}
		s.acks <- ack
	})
	if err != nil {
		w.t.Fatal(err)
	}
	w.node(w.deployed(hello), func(req wire.InvokeRequest, _ []byte) (*wire.InvokeReply, []byte) {
		s.req <- req
		reply := <-s.end
		reply.Instance, reply.Streamed, reply.Pieces = "i1", true, s.seq
		return reply, nil
	})
	return s
}

// send sends a piece.
func (s *streamer) send(req wire.InvokeRequest, head *wire.StreamHead, body string) {
	s.w.t.Helper()
	s.seq++
	frame, err := wire.AppendFrame(nil, wire.StreamPiece{Node: "n1", Seq: s.seq, Head: head}, []byte(body))
	if err == nil {
		err = s.w.conn.Publish(req.Stream, frame)
	}
	if err != nil {
		s.w.t.Fatal(err)
	}
}

// get calls the function and returns once its head is here.
func (s *streamer) get(ctx context.Context, head *wire.StreamHead) (wire.InvokeRequest, *http.Response) {
	s.w.t.Helper()
	server := httptest.NewServer(s.w.Handler())
	s.w.t.Cleanup(server.Close)
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, server.URL+"/f/hello", nil)
	if err != nil {
		s.w.t.Fatal(err)
	}
	type came struct {
		response *http.Response
		err      error
	}
	responses := make(chan came, 1)
	go func() {
		response, err := server.Client().Do(r)
		responses <- came{response, err}
	}()
	req := <-s.req
	s.send(req, head, "")
	got := <-responses
	if got.err != nil {
		s.w.t.Fatal(got.err)
	}
	s.w.t.Cleanup(func() { _ = got.response.Body.Close() })
	return req, got.response
}

// TestServerSentEvents: each is here before the next is made.
func TestServerSentEvents(t *testing.T) {
	s := newWorld(t).streamer()
	req, response := s.get(t.Context(), &wire.StreamHead{ContentType: "text/event-stream"})
	if response.StatusCode != http.StatusOK || response.Header.Get("Content-Type") != "text/event-stream" || response.ContentLength != -1 {
		t.Errorf("%d %v", response.StatusCode, response.Header)
	}
	if got := response.Header.Get(wire.HeaderInvocation); got != string(req.Invocation) {
		t.Errorf("invocation %q", got)
	}
	lines := bufio.NewReader(response.Body)
	for _, tick := range []string{"data: 1\n", "data: 2\n"} {
		s.send(req, nil, tick)
		if got, err := lines.ReadString('\n'); err != nil || got != tick {
			t.Errorf("%q, %v", got, err)
		}
	}
	s.end <- &wire.InvokeReply{}
	if rest, err := io.ReadAll(lines); err != nil || len(rest) != 0 {
		t.Errorf("%q, %v", rest, err)
	}
}

// TestStreamedHead: what the function says of the answer, but not what is ours to say.
func TestStreamedHead(t *testing.T) {
	s := newWorld(t).streamer()
	_, response := s.get(t.Context(), &wire.StreamHead{
		HTTP: true, Status: http.StatusTeapot, Cookies: []string{"a=b"},
		Headers: map[string]string{"X-One": "1", "Content-Length": "5", "Dayfly-Version": "77", "Content-Type": "text/plain"},
	})
	h := response.Header
	if response.StatusCode != http.StatusTeapot || h.Get("X-One") != "1" || h.Get("Set-Cookie") != "a=b" || h.Get("Dayfly-Version") != "1" ||
		h.Get("Content-Type") != "text/plain" || response.ContentLength != -1 {
		t.Errorf("%d %v", response.StatusCode, h)
	}
	s.end <- &wire.InvokeReply{}
}

// TestStreamThatFails is broken off, and never looks whole.
func TestStreamThatFails(t *testing.T) {
	s := newWorld(t).streamer()
	req, response := s.get(t.Context(), &wire.StreamHead{ContentType: "text/plain"})
	s.send(req, nil, "some")
	s.end <- &wire.InvokeReply{Error: wire.Errorf(wire.CodeFunctionTimeout, "killed")}
	if got, err := io.ReadAll(response.Body); !errors.Is(err, io.ErrUnexpectedEOF) || string(got) != "some" {
		t.Errorf("%q, %v", got, err)
	}
}

// TestClientThatLeavesAStream: the function is killed.
func TestClientThatLeavesAStream(t *testing.T) {
	s := newWorld(t).streamer()
	ctx, leave := context.WithCancel(t.Context())
	req, _ := s.get(ctx, &wire.StreamHead{ContentType: "text/plain"})
	leave()
	for ack := range s.acks {
		if ack.Invocation != req.Invocation {
			t.Errorf("told of %s", ack.Invocation)
		}
		if ack.Gone {
			break
		}
	}
	s.end <- &wire.InvokeReply{Error: wire.Errorf(wire.CodeCancelled, "killed")}
}

// TestRawCallOfAStreamingFunction gets all of it at once, as what it is.
func TestRawCallOfAStreamingFunction(t *testing.T) {
	w := newWorld(t)
	w.node(w.deployed(hello), func(req wire.InvokeRequest, _ []byte) (*wire.InvokeReply, []byte) {
		if req.Stream != "" {
			t.Errorf("asked for pieces on %s", req.Stream)
		}
		return &wire.InvokeReply{Instance: "i1", Streamed: true, ContentType: "text/csv"}, []byte("a,b")
	})
	got := w.ask(http.MethodPost, "/v1/functions/hello/invocations", nil)
	if got.Code != http.StatusOK || got.Body.String() != "a,b" || got.Header().Get("Content-Type") != "text/csv" {
		t.Errorf("%d %v %s", got.Code, got.Header(), got.Body)
	}
}
