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
	// placeBound is how long they are waited for, and placePause the pause between two
	// tries.
	placeBound = 15 * time.Second
	placePause = 100 * time.Millisecond
)

// placed makes a stream, and waits for servers of a cluster that are starting.
func (c *Conn) placed(ctx context.Context, create func(context.Context) error) error {
	late := time.NewTimer(placeBound)
	defer late.Stop()
	for {
		err := c.ask(ctx, askBound, create)
		refused, ok := errors.AsType[*jetstream.APIError](err)
		if !ok || refused.ErrorCode != noPeers && refused.ErrorCode != notReady {
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
