package bus

import (
	"context"
	"errors"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

const (
	// noPeers and notReady are what a NATS cluster says while some of its servers are
	// only just there: JSClusterNoPeersErrF and JSClusterNotAvailErr of nats-server.
	noPeers  jetstream.ErrorCode = 10005
	notReady jetstream.ErrorCode = 10008
	// placeBound is how long they are waited for: they elect a leader for every stream,
	// which takes them up to 9 s each time.
	placeBound = time.Minute
	// againBound is how long other questions are repeated, and firstBound how long the
	// first answer is waited for.
	againBound, firstBound = 8 * time.Second, 1500 * time.Millisecond
	// placePause stands between two tries.
	placePause = 100 * time.Millisecond
)

// placed makes a stream, and waits for servers of a cluster that are starting. One that
// does not answer is asked again: making what is there already does no harm.
func (c *Conn) placed(ctx context.Context, create func(context.Context) error) error {
	return c.repeat(ctx, placeBound, askBound, create)
}

// again is [Conn.ask] for a question that does no harm when it is put twice. Its answer
// may be lost with a server; so the first one is not waited for long.
func (c *Conn) again(ctx context.Context, question func(context.Context) error) error {
	return c.repeat(ctx, againBound, firstBound, question)
}

// repeat puts a question again while a cluster finds itself, until late. Each time it
// waits for an answer for twice as long as before, from first on.
func (c *Conn) repeat(ctx context.Context, late, first time.Duration, question func(context.Context) error) error {
	end := time.NewTimer(late)
	defer end.Stop()
	for bound := first; ; bound = min(2*bound, askBound) {
		err := c.ask(ctx, bound, question)
		if !starting(err) {
			return err
		}
		select {
		case <-time.After(placePause):
		case <-end.C:
			return err
		case <-ctx.Done():
			return err
		}
	}
}

// starting says whether an error may go away once a cluster has found itself.
func starting(err error) bool {
	if errors.Is(err, errUnanswered) || errors.Is(err, errLost) {
		return true
	}
	refused, ok := errors.AsType[*jetstream.APIError](err)
	return ok && (refused.ErrorCode == noPeers || refused.ErrorCode == notReady)
}
