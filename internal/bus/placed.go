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
	// placePause stands between two tries.
	placePause = 100 * time.Millisecond
)

// placed makes a stream, and waits for servers of a cluster that are starting. One that
// does not answer is asked again: making what is there already does no harm.
func (c *Conn) placed(ctx context.Context, create func(context.Context) error) error {
	late := time.NewTimer(placeBound)
	defer late.Stop()
	for {
		err := c.ask(ctx, askBound, create)
		if !starting(err) {
			return err
		}
		select {
		case <-time.After(placePause):
		case <-late.C:
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
