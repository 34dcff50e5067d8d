package dispatch

import (
	"context"
	"encoding/json"
	"errors"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/dayfly-run/dayfly/internal/bus"
	"github.com/dayfly-run/dayfly/internal/embed/embedtest"
	"github.com/dayfly-run/dayfly/wire"
)

// taking is a caller that takes an answer in pieces.
type taking struct {
	mu    sync.Mutex // guards what follows
	heads []wire.StreamHead
	text  strings.Builder

	each func(piece string) error // called for each piece
}

func (s *taking) Begin(head wire.StreamHead) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.heads = append(s.heads, head)
	return nil
}

func (s *taking) Write(piece []byte) error {
	s.mu.Lock()
	s.text.Write(piece)
	s.mu.Unlock()
	if s.each != nil {
		return s.each(string(piece))
	}
	return nil
}

func (s *taking) got() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.text.String()
}

// piece sends one from a double of a node.
func (c *cluster) piece(req wire.InvokeRequest, seq uint64, body string) {
	p := wire.StreamPiece{Node: "n1", Seq: seq}
	if seq == 1 {
		p.Head = &wire.StreamHead{ContentType: "text/plain"}
	}
	frame, err := wire.AppendFrame(nil, p, []byte(body))
	if err == nil {
		err = c.conn.Publish(req.Stream, frame)
	}
	if err != nil {
		c.t.Error(err)
	}
}

// acks listens to what the node of the doubles is told.
func (c *cluster) acks() <-chan wire.StreamAck {
	c.t.Helper()
	acks := make(chan wire.StreamAck, 10_000)
	_, err := c.conn.Subscribe(wire.NodeStreamSubject("n1"), "", func(m bus.Msg) {
		var ack wire.StreamAck
		if err := json.Unmarshal(m.Data, &ack); err != nil {
			c.t.Error(err)
		}
		acks <- ack
	})
	if err != nil {
		c.t.Fatal(err)
	}
	return acks
}

func streamed(s Stream) Call {
	streaming := call("x", 30*time.Second)
	streaming.Stream = s
	return streaming
}

func TestAnswerInPieces(t *testing.T) {
	c := newCluster(t)
	c.addNode("n1", 1, func(req wire.InvokeRequest, _ []byte) (*wire.InvokeReply, []byte) {
		for i, text := range []string{"", "a", "b", "c"} {
			c.piece(req, uint64(i+1), text)
		}
		return &wire.InvokeReply{Instance: "i1", Streamed: true, Pieces: 4}, nil
	})
	var got taking
	result, err := c.Invoke(t.Context(), streamed(&got))
	if err != nil || len(result.Body) != 0 || got.got() != "abc" {
		t.Errorf("%q, %+v, %v", got.got(), result, err)
	}
	if diff := cmp.Diff([]wire.StreamHead{{ContentType: "text/plain"}}, got.heads); diff != "" {
		t.Error(diff)
	}
	if left := len(c.streams.all); left != 0 {
		t.Errorf("%d answers are left", left)
	}
}

// TestPiecesAfterTheReply still belong to the answer: they come another way.
func TestPiecesAfterTheReply(t *testing.T) {
	c := newCluster(t)
	requests := make(chan wire.InvokeRequest, 1)
	c.addNode("n1", 1, func(req wire.InvokeRequest, _ []byte) (*wire.InvokeReply, []byte) {
		requests <- req
		return &wire.InvokeReply{Instance: "i1", Streamed: true, Pieces: 2}, nil
	})
	go func() {
		req := <-requests
		c.piece(req, 1, "")
		c.piece(req, 2, "late")
	}()
	var got taking
	if _, err := c.Invoke(t.Context(), streamed(&got)); err != nil || got.got() != "late" {
		t.Errorf("%q, %v", got.got(), err)
	}
}

// TestLostPiecesBreakTheAnswerOff: in the midst, at its end, and with the node.
func TestLostPiecesBreakTheAnswerOff(t *testing.T) {
	for name, seqs := range map[string][]uint64{"first": {2}, "midst": {1, 2, 4}, "end": {1, 2}, "twice": {1, 2, 2}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := newCluster(t)
			c.addNode("n1", 1, func(req wire.InvokeRequest, _ []byte) (*wire.InvokeReply, []byte) {
				for _, seq := range seqs {
					c.piece(req, seq, "x")
				}
				return &wire.InvokeReply{Instance: "i1", Streamed: true, Pieces: 4}, nil
			})
			_, err := c.Invoke(t.Context(), streamed(&taking{}))
			wantCode(t, err, wire.CodeUnavailable, false)
		})
	}
	t.Run("node", func(t *testing.T) {
		c := newCluster(t)
		var n *fakeNode
		began := make(chan struct{})
		n = c.addNode("n1", 1, func(req wire.InvokeRequest, _ []byte) (*wire.InvokeReply, []byte) {
			c.piece(req, 1, "")
			c.piece(req, 2, "some")
			return nil, nil
		})
		got := taking{each: func(string) error { close(began); return nil }}
		go func() { <-began; n.die() }()
		_, err := c.Invoke(t.Context(), streamed(&got))
		wantCode(t, err, wire.CodeUnavailable, false)
		if got.got() != "some" {
			t.Errorf("%q", got.got())
		}
	})
}

// TestSlowCallerHoldsTheNodeBack: what it took is told, and what comes beyond the window
// ends the call.
func TestSlowCallerHoldsTheNodeBack(t *testing.T) {
	c := newCluster(t)
	acks, over := c.acks(), make(chan struct{})
	var sending sync.WaitGroup
	t.Cleanup(sending.Wait)
	c.addNode("n1", 1, func(req wire.InvokeRequest, _ []byte) (*wire.InvokeReply, []byte) {
		sending.Go(func() { // as a node that does not wait
			for seq := uint64(1); seq < 40; seq++ {
				c.piece(req, seq, strings.Repeat("x", 64<<10))
			}
		})
		<-over
		return &wire.InvokeReply{Instance: "i1", Error: wire.Errorf(wire.CodeCancelled, "killed")}, nil
	})
	release := make(chan struct{})
	got := taking{each: func(string) error { <-release; return nil }}
	done := make(chan error, 1)
	go func() {
		_, err := c.Invoke(context.WithoutCancel(t.Context()), streamed(&got))
		done <- err
	}()
	embedtest.Eventually(t, "too much came", func() bool {
		s := c.streams.of(id)
		if s == nil {
			return false
		}
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.queued > wire.StreamWindow {
			t.Errorf("%d bytes wait", s.queued)
		}
		return errors.Is(s.broken, errOverflow)
	})
	close(release)
	var told int64
	for ack := range acks {
		if ack.Invocation != id || ack.Taken < told && !ack.Gone {
			t.Fatalf("told %+v after %d", ack, told)
		}
		if told = ack.Taken; ack.Gone {
			break
		}
	}
	close(over)
	wantCode(t, <-done, wire.CodeUnavailable, false)
}

// TestCallerThatLeaves: the node is told to kill, whether the answer flows or not.
func TestCallerThatLeaves(t *testing.T) {
	for name, leave := range map[string]func(gone chan struct{}) error{
		"closes": func(gone chan struct{}) error { close(gone); return nil },
		"fails":  func(chan struct{}) error { return errors.New("connection reset") },
	} {
		t.Run(name, func(t *testing.T) {
			c := newCluster(t)
			acks, killed := c.acks(), make(chan struct{})
			c.addNode("n1", 1, func(req wire.InvokeRequest, _ []byte) (*wire.InvokeReply, []byte) {
				c.piece(req, 1, "")
				c.piece(req, 2, "some")
				<-killed
				return &wire.InvokeReply{Instance: "i1", Error: wire.Errorf(wire.CodeCancelled, "killed"), Pieces: 2}, nil
			})
			gone := make(chan struct{})
			call := streamed(&taking{each: func(string) error { return leave(gone) }})
			call.Gone = gone
			go func() {
				for ack := range acks {
					if ack.Gone {
						close(killed)
						return
					}
				}
			}()
			_, err := c.Invoke(t.Context(), call)
			wantCode(t, err, wire.CodeCancelled, false)
		})
	}
}

// TestAnswerAtOnce: who could take pieces gets the whole as well.
func TestAnswerAtOnce(t *testing.T) {
	c := newCluster(t)
	c.addNode("n1", 1, echo(false))
	var got taking
	result, err := c.Invoke(t.Context(), streamed(&got))
	if err != nil || string(result.Body) != "x" || got.got() != "" || len(c.streams.all) != 0 {
		t.Errorf("%+v, %v", result, err)
	}
}
