package dispatch

import (
	"context"
	"encoding/json"
	"errors"
	"strings"
	"sync"
	"time"

	"github.com/dayfly-run/dayfly/internal/bus"
	"github.com/dayfly-run/dayfly/internal/telemetry"
	"github.com/dayfly-run/dayfly/wire"
)

const (
	// ackAfter is how much is taken of an answer before the node hears of it.
	ackAfter = wire.StreamWindow / 4
	// missingWait is how long pieces of an answer may come after its end.
	missingWait = 5 * time.Second
)

// Stream takes an answer that a function sends as it makes it. Its methods are called one
// after the other, by another goroutine than that of [Dispatcher.Invoke], but only while
// that runs. They may take their time: the function waits. An error ends the call, and
// the instance is killed.
type Stream interface {
	// Begin is called once, before the first Write.
	Begin(head wire.StreamHead) error
	// Write takes a piece, which it must not keep.
	Write(piece []byte) error
}

// Why an answer is not taken to its end.
var (
	errGap      = errors.New("pieces of the answer were lost on their way")
	errOverflow = errors.New("the node sends more of the answer than was asked for")
	errLeft     = errors.New("the caller has left")
)

// streams are the answers that may come in pieces, by their invocation. It is safe for
// concurrent use.
type streams struct {
	inbox string

	mu  sync.Mutex // guards what follows
	all map[wire.InvocationID]*stream
}

// stream is one such answer. Most never begin.
type stream struct {
	call *Call
	conn *bus.Conn

	mu     sync.Mutex // guards what follows
	began  bool
	queue  []part
	queued int64  // the cost of all in queue
	seq    uint64 // of the latest that came
	node   wire.NodeID
	broken error
	final  bool   // the call is over
	last   uint64 // the number of the last piece, when it is
	wake   chan struct{}
	done   chan struct{} // closed when nothing more is given to the caller
}

// part is a piece that waits to be taken.
type part struct {
	head *wire.StreamHead
	body []byte
}

func (p part) cost() int64 { return wire.StreamCost(len(p.body)) }

// open enters a call whose answer may come in pieces; nil when its caller takes none.
func (s *streams) open(conn *bus.Conn, call *Call) *stream {
	if call.Stream == nil {
		return nil
	}
	entered := &stream{call: call, conn: conn}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.all == nil {
		s.all = map[wire.InvocationID]*stream{}
	}
	s.all[call.Invocation] = entered
	return entered
}

func (s *streams) close(id wire.InvocationID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.all, id)
}

func (s *streams) of(id wire.InvocationID) *stream {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.all[id]
}

// heardPiece takes a piece in. It does not block.
func (d *Dispatcher) heardPiece(m bus.Msg) {
	var piece wire.StreamPiece
	body, err := wire.ParseFrame(m.Data, &piece)
	if err != nil {
		d.log.Warn("piece of an answer refused", "subject", m.Subject, telemetry.KeyError, err)
		return
	}
	if s := d.streams.of(wire.InvocationID(m.Subject[strings.LastIndexByte(m.Subject, '.')+1:])); s != nil {
		s.heard(piece, body)
	}
}

func (s *stream) heard(piece wire.StreamPiece, body []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.begin()
	got := part{head: piece.Head, body: body}
	s.node = piece.Node
	switch {
	case s.broken != nil:
		return
	case piece.Seq != s.seq+1 || (piece.Seq == 1) != (piece.Head != nil):
		s.broken = errGap
	case s.queued+got.cost() > wire.StreamWindow:
		s.broken = errOverflow
	default:
		s.seq++
		s.queued += got.cost()
		s.queue = append(s.queue, got)
	}
	s.stir()
}

// begin starts to give the answer to the caller; s.mu is held.
func (s *stream) begin() {
	if s.began {
		return
	}
	s.began, s.wake, s.done = true, make(chan struct{}, 1), make(chan struct{})
	go s.pump()
}

// stir has the pump look again; s.mu is held.
func (s *stream) stir() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// next takes a piece off the queue. over says that there will be none, and why: nil
// when the answer is whole.
func (s *stream) next() (p part, some, over bool, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case len(s.queue) > 0:
		p, s.queue = s.queue[0], s.queue[1:]
		s.queued -= p.cost()
		return p, true, false, nil
	case s.broken != nil:
		return p, false, true, s.broken
	}
	return p, false, s.final && s.seq >= s.last, nil
}

// pump gives the pieces to the caller, and tells the node.
func (s *stream) pump() {
	defer close(s.done)
	tick := time.NewTicker(wire.StreamAckEvery)
	defer tick.Stop()
	taken, told := int64(0), int64(0)
	for {
		p, some, over, err := s.next()
		switch {
		case over && err == nil:
			return
		case some:
			err = s.give(p)
			taken += p.cost()
		}
		if err != nil {
			s.giveUp(err)
			return
		}
		if taken-told >= ackAfter {
			s.tell(wire.StreamAck{Taken: taken})
			told = taken
		}
		if some {
			continue
		}
		select {
		case <-s.wake:
		case <-tick.C:
			s.tell(wire.StreamAck{Taken: taken})
		case <-s.call.Gone:
			s.giveUp(errLeft)
			return
		}
	}
}

func (s *stream) give(p part) error {
	select {
	case <-s.call.Gone:
		return errLeft
	default:
	}
	if p.head != nil {
		if err := s.call.Stream.Begin(*p.head); err != nil {
			return err
		}
	}
	if len(p.body) == 0 {
		return nil
	}
	return s.call.Stream.Write(p.body)
}

// giveUp has the node kill the instance.
func (s *stream) giveUp(err error) {
	s.mu.Lock()
	s.broken, s.queue = err, nil
	s.mu.Unlock()
	s.tell(wire.StreamAck{Gone: true})
}

// tell sends the node a word. One that is lost is made up for by the next, or by silence.
func (s *stream) tell(ack wire.StreamAck) {
	s.mu.Lock()
	node := s.node
	s.mu.Unlock()
	ack.Invocation = s.call.Invocation
	if data, err := json.Marshal(ack); err == nil && node != "" {
		_ = s.conn.Publish(wire.NodeStreamSubject(node), data)
	}
}

// finish waits until the caller has all that came of an answer, when its call is over,
// and says why it is not whole. How many pieces there are is what the node said, or zero
// when nobody knows.
func (s *stream) finish(ctx context.Context, pieces uint64) error {
	s.mu.Lock()
	s.final, s.last = true, pieces
	if pieces > 0 {
		s.begin()
	}
	if !s.began {
		s.mu.Unlock()
		return nil
	}
	s.stir()
	s.mu.Unlock()
	late := time.NewTimer(missingWait)
	defer late.Stop()
	left := ctx.Done()
	for {
		select {
		case <-s.done:
			s.mu.Lock()
			defer s.mu.Unlock()
			return s.broken
		case <-left:
			s.end(context.Cause(ctx))
			left = nil
		case <-late.C:
			if s.missing() {
				s.end(errGap)
			}
		}
	}
}

func (s *stream) missing() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.seq < s.last
}

// end breaks the answer off.
func (s *stream) end(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.broken == nil {
		s.broken, s.queue = err, nil
	}
	s.stir()
}

// finished is the end of a call whose answer may have come in pieces.
func (d *Dispatcher) finished(ctx context.Context, s *stream, result Result, err error) error {
	broken := s.finish(ctx, result.Reply.Pieces)
	d.streams.close(s.call.Invocation)
	switch {
	case broken == nil, err != nil && !wire.HasCode(err, wire.CodeCancelled):
		return err
	case errors.Is(broken, errGap), errors.Is(broken, errOverflow):
		lost := wire.Errorf(wire.CodeUnavailable, "node %s: %s", result.Reply.Node, broken)
		lost.Retryable = false // it ran
		return lost
	}
	return wire.Errorf(wire.CodeCancelled, "the answer is not taken to its end: %s", broken)
}
