package dispatch

import (
	"context"
	"encoding/json"
	"errors"
	"time"

	"github.com/dayfly-run/dayfly/internal/bus"
	"github.com/dayfly-run/dayfly/wire"
)

const (
	// inquireEvery is how often a node is asked about a call that it has not answered.
	inquireEvery = time.Second
	// inquireTwice is how many answers of a kind in a row are believed: between a call's
	// arrival and its answer there are moments at which a node knows nothing of it.
	inquireTwice = 2
)

var (
	errCallLost = errors.New("it has no such call, which was lost on the way there, or its answer on the way back")
	errNoWord   = errors.New("it says nothing about the call")
)

// inquiry is what a node said about one call so far.
type inquiry struct{ unknown, silent int }

// said takes the outcome of one question and returns why the call is over, or nil. late
// says that the function's time is over.
func (q *inquiry) said(underWay bool, err error, late bool) error {
	switch {
	case errors.Is(err, bus.ErrNoResponders): // who will not come back is noticed by its heartbeats
		return nil
	case err != nil:
		q.silent++
	case underWay:
		*q = inquiry{}
	default:
		q.unknown++
		q.silent = 0
	}
	switch {
	case q.unknown >= inquireTwice:
		return errCallLost
	case q.silent >= inquireTwice && late:
		return errNoWord
	}
	return nil
}

// inquire asks a node about a call until ctx is done, and ends the call with a cause when
// no answer can come any more: core NATS loses what a server had when it died.
func (d *Dispatcher) inquire(ctx context.Context, id wire.NodeID, call wire.InvocationID, late time.Time, end context.CancelCauseFunc) {
	var q inquiry
	tick := time.NewTicker(inquireEvery)
	defer tick.Stop()
	for {
		underWay, err := d.askAbout(ctx, id, call)
		if ctx.Err() != nil {
			return
		}
		if why := q.said(underWay, err, time.Now().After(late)); why != nil {
			end(why)
			return
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

func (d *Dispatcher) askAbout(ctx context.Context, id wire.NodeID, call wire.InvocationID) (underWay bool, err error) {
	data, err := json.Marshal(wire.InquiryRequest{Invocation: call})
	if err != nil {
		return false, err
	}
	ctx, cancel := context.WithTimeout(ctx, inquireEvery)
	defer cancel()
	answer, err := d.conn.Request(ctx, wire.NodeInquirySubject(id), data)
	if err != nil {
		return false, err
	}
	var reply wire.InquiryReply
	err = json.Unmarshal(answer, &reply)
	return reply.UnderWay, err
}
