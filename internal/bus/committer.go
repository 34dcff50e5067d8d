package bus

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

const (
	// batchMessages and batchBytes bound one batch: the server takes 1,000 messages,
	// and others wait while it does.
	batchMessages = 256
	batchBytes    = 4 << 20
	// unledBound is how long a write waits for a stream that nobody leads, and unledPause
	// how long between two tries: a server that goes hands on what it leads, and the next
	// leader listens a moment later. One that was killed is missed for longer than callers
	// should wait.
	unledBound = 2 * time.Second
	unledPause = 20 * time.Millisecond
)

// Committer stores messages in one stream that takes batches. Those that come while a
// write to disk is under way share the next one, so that durability does not cost a
// write each. It is safe for concurrent use, and has no goroutine of its own: the
// callers take turns.
type Committer struct {
	conn        *Conn
	maxMessages int
	maxBytes    int

	mu      sync.Mutex // guards what follows; never held across I/O
	queue   []*waiter
	bytes   int  // of the queue
	writing bool // somebody writes, or was told to
}

// waiter is a caller of [Committer.Store].
type waiter struct {
	message Message
	stored  Stored
	err     error
	// turn tells it to write the next batch, with itself in it; done that it is over.
	turn, done chan struct{}
}

// Lost reports whether an error says that the connection was lost before the answer came:
// what was asked for may have been done.
func Lost(err error) bool { return errors.Is(err, errLost) }

// NewCommitter makes a committer. No more than maxMessages and maxBytes wait at any
// time.
func (c *Conn) NewCommitter(maxMessages, maxBytes int) *Committer {
	return &Committer{conn: c, maxMessages: maxMessages, maxBytes: maxBytes}
}

// Store is [Conn.Store] in company. It fails with [ErrBusy] when too much waits
// already. When ctx is done first, the stream may get the message nevertheless.
func (k *Committer) Store(ctx context.Context, m Message) (Stored, error) {
	w := &waiter{message: m, turn: make(chan struct{}, 1), done: make(chan struct{})}
	if err := k.enter(w); err != nil {
		return Stored{}, err
	}
	select {
	case <-w.done:
	case <-w.turn:
		k.write(context.WithoutCancel(ctx)) // for others as well
	case <-ctx.Done():
		if k.leave(w) {
			return Stored{}, context.Cause(ctx)
		}
		select { // it is being written, or is to write
		case <-w.done:
		case <-w.turn:
			k.write(context.WithoutCancel(ctx))
		}
	}
	return w.stored, w.err
}

// enter queues a waiter; the first one writes.
func (k *Committer) enter(w *waiter) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if size := len(w.message.Data); len(k.queue) > 0 && (len(k.queue) >= k.maxMessages || k.bytes+size > k.maxBytes) {
		return ErrBusy
	}
	k.queue = append(k.queue, w)
	k.bytes += len(w.message.Data)
	if !k.writing {
		k.writing = true
		w.turn <- struct{}{}
	}
	return nil
}

// leave takes a waiter out of the queue, unless it is being written or is to write.
func (k *Committer) leave(w *waiter) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	for i, other := range k.queue {
		if other == w && len(w.turn) == 0 {
			k.queue = append(k.queue[:i], k.queue[i+1:]...)
			k.bytes -= len(w.message.Data)
			return true
		}
	}
	return false
}

// write stores the next batch, which has the caller's own message, and passes the
// turn on.
func (k *Committer) write(ctx context.Context) {
	batch := k.take()
	k.store(ctx, batch)
	for _, w := range batch {
		close(w.done)
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if len(k.queue) == 0 {
		k.writing = false
		return
	}
	k.queue[0].turn <- struct{}{}
}

func (k *Committer) take() []*waiter {
	k.mu.Lock()
	defer k.mu.Unlock()
	size, n := 0, 0
	for n < min(len(k.queue), batchMessages) && (n == 0 || size+len(k.queue[n].message.Data) <= batchBytes) {
		size += len(k.queue[n].message.Data)
		n++
	}
	batch := k.queue[:n:n]
	k.queue = append([]*waiter(nil), k.queue[n:]...)
	k.bytes -= size
	return batch
}

// store writes a batch, and what of it is unsettled again.
func (k *Committer) store(ctx context.Context, batch []*waiter) {
	untilLed(func() bool {
		k.try(ctx, batch)
		batch = slices.DeleteFunc(slices.Clone(batch), func(w *waiter) bool { return !unsettled(w.err) })
		return len(batch) == 0
	})
}

// errInProcess is what JetStream says of a message whose ID it is storing.
const errInProcess jetstream.ErrorCode = 10158

// unsettled says whether a write will have another outcome in a moment: nobody leads the
// stream, or the same message is being stored.
func unsettled(err error) bool {
	if no, ok := errors.AsType[refusal](err); ok {
		return no.ErrorCode == errInProcess
	}
	return errors.Is(err, ErrNoResponders)
}

// untilLed calls write until it says that somebody decided, for no longer than unledBound.
func untilLed(write func() bool) {
	for until := time.Now().Add(unledBound); !write() && time.Now().Before(until); {
		time.Sleep(unledPause)
	}
}

// try writes a batch. One of which a message was refused is written anew, each message
// by itself, to tell which.
func (k *Committer) try(ctx context.Context, batch []*waiter) {
	if len(batch) > 1 {
		messages := make([]Message, len(batch))
		for i, w := range batch {
			messages[i] = w.message
		}
		stored, err := k.conn.storeBatch(ctx, messages)
		if _, refused := errors.AsType[refusal](err); !refused {
			for i, w := range batch {
				if w.err = err; err == nil {
					w.stored = stored[i]
				}
			}
			return
		}
	}
	for _, w := range batch {
		w.stored, w.err = k.conn.Store(ctx, w.message)
	}
}
