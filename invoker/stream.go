package invoker

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/dayfly-run/dayfly/internal/bus"
	"github.com/dayfly-run/dayfly/internal/telemetry"
	"github.com/dayfly-run/dayfly/invoker/runtimeapi"
	"github.com/dayfly-run/dayfly/wire"
)

const (
	// maxUploads bounds the results on their way to S3 at once: each holds a part of
	// itself in memory, see [blob.Store.PutStream]. The others wait in their functions.
	maxUploads = 8
	// maxPiece bounds a piece of an answer that is passed on, in bytes.
	maxPiece = 64 << 10
)

// taker takes the response of one invocation that is not simply a result in memory:
// one that its function streams, or an event's that is large.
type taker struct {
	inv *Invoker
	in  *instance
	req wire.InvokeRequest
	// What came of it, once it took one.
	took        bool
	streamed    bool
	contentType string
	pieces      uint64
	stored      bool
	bytes       int64
	collected   []byte
}

// taker makes the taker of an event's response.
func (inv *Invoker) taker(in *instance, req wire.InvokeRequest, event *runtimeapi.Event) *taker {
	t := &taker{inv: inv, in: in, req: req}
	event.Take, event.Inline, event.Limit = t.take, wire.MaxEvent, wire.MaxEvent
	if req.Event {
		event.Inline, event.Limit = int64(inv.maxInline()), wire.MaxAsyncPayload
	}
	event.StreamLimit = event.Limit
	if req.Stream != "" && !req.Event {
		event.StreamLimit = wire.MaxStreamed
	}
	return t
}

// kept is what is to be in S3 of the invocation's result.
func (t *taker) kept(result []byte) kept {
	k := kept{id: t.req.Invocation, body: result, bytes: int64(len(result)), contentType: "application/json"}
	if t.took {
		k.contentType, k.stored = cmp.Or(t.contentType, "application/octet-stream"), t.stored
	}
	if t.stored {
		k.bytes = t.bytes
	}
	return k
}

// take implements [runtimeapi.Event].
func (t *taker) take(ctx context.Context, r *runtimeapi.Response) (err error) {
	t.took, t.streamed = true, r.Streamed
	t.contentType = "application/json"
	if r.Streamed {
		t.contentType = r.Head.ContentType
	}
	switch {
	case t.req.Event && r.Streamed:
		return t.store(ctx, r)
	case t.req.Event:
		checked := &jsonReader{r: r}
		err = t.store(ctx, checked)
		if errors.Is(err, errNoJSON) {
			return noJSON(checked.start)
		}
		return err
	case r.Streamed && t.req.Stream != "":
		if t.in.version.Spec.Output.Store {
			return t.passOnAndStore(ctx, r)
		}
		return t.passOn(ctx, &r.Head, r)
	}
	t.collected, err = io.ReadAll(r)
	return err
}

// store puts a response into S3 on its way.
func (t *taker) store(ctx context.Context, r io.Reader) error {
	select {
	case t.inv.uploads <- struct{}{}:
		defer func() { <-t.inv.uploads }()
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	counted := &counting{r: r}
	key := wire.OutputResultKey(t.in.version.FunctionID, t.req.Invocation)
	if err := t.inv.deps.Store.PutStream(ctx, key, counted, cmp.Or(t.contentType, "application/octet-stream")); err != nil {
		return t.inv.noteStored(ctx, fmt.Errorf("store the output: %w", err))
	}
	t.stored, t.bytes = true, counted.n
	return nil
}

// counting counts what is read.
type counting struct {
	r io.Reader
	n int64
}

func (c *counting) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.n += int64(n)
	return n, err
}

// openPayload says how an event in S3 is read, and its size. Reading ends with ctx,
// looking for it with bounded.
func (inv *Invoker) openPayload(ctx, bounded context.Context, key string) (open func() (io.ReadCloser, error), size int64, err error) {
	object, err := inv.deps.Store.Get(bounded, key)
	if err != nil {
		return nil, 0, err
	}
	defer func() { _ = object.Close() }()
	if object.Size > wire.MaxAsyncPayload {
		return nil, 0, fmt.Errorf("it has %d bytes, at most %d are allowed", object.Size, int64(wire.MaxAsyncPayload))
	}
	return func() (io.ReadCloser, error) {
		source, err := inv.deps.Store.Get(ctx, key)
		if err != nil {
			return nil, wire.Errorf(wire.CodeUnavailable, "the event could not be fetched: %s", err)
		}
		return source, nil
	}, object.Size, nil
}

// passOnAndStore is passOn, with a copy to S3.
func (t *taker) passOnAndStore(ctx context.Context, r *runtimeapi.Response) error {
	reader, writer := io.Pipe()
	stored := make(chan error, 1)
	go func() {
		err := t.store(ctx, reader)
		_ = reader.CloseWithError(err) // it returns none
		stored <- err
	}()
	err := t.passOn(ctx, &r.Head, io.TeeReader(r, writer))
	_ = writer.CloseWithError(err) // nor does it; without an error the copy is whole
	return cmp.Or(err, <-stored)
}

// passOn sends a response to who asked, piece by piece, no faster than it is taken.
func (t *taker) passOn(ctx context.Context, head *wire.StreamHead, r io.Reader) error {
	f, end := t.inv.flows.begin(t.req.Invocation, func() { t.inv.underWay.cancel(t.req.Invocation) })
	defer end()
	piece := wire.StreamPiece{Node: t.inv.cfg.Node, Head: head}
	buffer := make([]byte, min(maxPiece, t.inv.maxInline()))
	n, over := 0, error(nil) // the head goes ahead, alone
	for {
		if n > 0 || piece.Head != nil {
			if err := f.await(ctx, wire.StreamCost(n)); err != nil {
				return err
			}
			piece.Seq++
			frame, err := wire.AppendFrame(make([]byte, 0, n+512), piece, buffer[:n])
			if err == nil {
				err = t.inv.deps.Conn.Publish(t.req.Stream, frame)
			}
			if err != nil {
				return fmt.Errorf("pass on the answer: %w", err)
			}
			t.pieces, piece.Head = piece.Seq, nil
		}
		switch {
		case errors.Is(over, io.EOF):
			return nil
		case over != nil:
			return over
		}
		n, over = r.Read(buffer)
	}
}

// flows are the answers that are passed on as they come. It is safe for concurrent use.
type flows struct {
	mu  sync.Mutex // guards what follows
	all map[wire.InvocationID]*flow
}

// flow is how far one answer is.
type flow struct {
	changed chan struct{} // holds one: taken has grown
	silence *time.Timer   // ends the invocation when nobody takes its answer any more

	mu    sync.Mutex // guards what follows
	sent  int64
	taken int64
}

// begin enters the answer of an invocation. giveUp is called once nobody takes it any
// more.
func (s *flows) begin(id wire.InvocationID, giveUp func()) (f *flow, end func()) {
	f = &flow{changed: make(chan struct{}, 1), silence: time.AfterFunc(wire.StreamLostAfter, giveUp)}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.all == nil {
		s.all = map[wire.InvocationID]*flow{}
	}
	s.all[id] = f
	return f, func() {
		f.silence.Stop()
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.all, id)
	}
}

func (s *flows) of(id wire.InvocationID) *flow {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.all[id]
}

// await waits until the window has room for a piece, and takes the room.
func (f *flow) await(ctx context.Context, cost int64) error {
	for {
		f.mu.Lock()
		fits := f.sent+cost-f.taken <= wire.StreamWindow
		if fits {
			f.sent += cost
		}
		f.mu.Unlock()
		if fits {
			return nil
		}
		select {
		case <-f.changed:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// heardAck lets an answer go on, or ends its invocation.
func (inv *Invoker) heardAck(m bus.Msg) {
	var ack wire.StreamAck
	if err := json.Unmarshal(m.Data, &ack); err != nil {
		inv.log.Warn("acknowledgement refused", telemetry.KeyError, err)
		return
	}
	f := inv.flows.of(ack.Invocation)
	switch {
	case f == nil: // it is over
	case ack.Gone:
		inv.underWay.cancel(ack.Invocation)
	default:
		f.silence.Reset(wire.StreamLostAfter)
		f.mu.Lock()
		f.taken = max(f.taken, ack.Taken)
		f.mu.Unlock()
		select {
		case f.changed <- struct{}{}:
		default:
		}
	}
}
