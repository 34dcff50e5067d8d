package bus

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"
)

// maxAnswers bounds the pieces of an answer that wait to be read; more are lost.
const maxAnswers = 1 << 15

// Answers is an answer that comes in pieces. It is for one goroutine; Close ends it.
type Answers struct{ sub *nats.Subscription }

// Ask sends a message whose answer comes in any number of pieces. It waits for none of
// them. Who answers hears [ErrNoResponders] once the answers are closed, if it asks.
func (c *Conn) Ask(subject string, data []byte) (*Answers, error) {
	inbox := c.nc.NewInbox()
	sub, err := c.nc.SubscribeSync(inbox)
	if err != nil {
		return nil, fmt.Errorf("ask on %s: %w", subject, err)
	}
	a := &Answers{sub: sub}
	if err = sub.SetPendingLimits(maxAnswers, -1); err == nil {
		err = c.nc.PublishRequest(subject, inbox, data)
	}
	if err != nil {
		a.Close()
		return nil, fmt.Errorf("ask on %s: %w", subject, err)
	}
	return a, nil
}

// Next waits for the next piece, until ctx is done. [ErrNoResponders] says that nobody
// got the question, and [ErrSilent] that silence passed without a piece. [ErrMissed] says
// once that pieces were lost, those that came last; the ones before are still there.
func (a *Answers) Next(ctx context.Context, silence time.Duration) (Msg, error) {
	wait, cancel := context.WithTimeoutCause(ctx, silence, ErrSilent)
	defer cancel()
	m, err := a.sub.NextMsgWithContext(wait)
	switch {
	case errors.Is(err, nats.ErrNoResponders):
		return Msg{}, ErrNoResponders
	case errors.Is(err, nats.ErrSlowConsumer):
		return Msg{}, ErrMissed
	case err != nil && wait.Err() != nil:
		return Msg{}, fmt.Errorf("wait for an answer: %w", context.Cause(wait))
	case err != nil:
		return Msg{}, fmt.Errorf("wait for an answer: %w", err)
	}
	return Msg{Subject: m.Subject, Data: m.Data, msg: m}, nil
}

// Close takes no more pieces. It may be called again.
func (a *Answers) Close() {
	_ = a.sub.Unsubscribe() // it fails only when there is nothing to end
}
