package dispatch

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/dayfly-run/dayfly/internal/bus"
	"github.com/dayfly-run/dayfly/wire"
)

const (
	// inquireEvery is how often a node is asked about the calls that it has not answered,
	// and how old they are when they are first asked about.
	inquireEvery = time.Second
	// inquireTwice is how many answers of a kind in a row are believed: between a call's
	// arrival and its answer there are moments at which a node knows nothing of it.
	inquireTwice = 2
	// inquireAgain is how often a node may say that it has sent its answer again.
	inquireAgain = 5
)

var (
	errNeverCame = errors.New("the call was lost on the way there")
	errCallLost  = errors.New("it has no such call, which was lost on the way there, or its answer on the way back")
	errNoWord    = errors.New("it says nothing about the call")
)

// inquiry is what a node said about one call so far.
type inquiry struct{ unknown, answered, silent int }

// said takes the outcome of one question and returns why the call is over, or nil. late
// says that the function's time is over.
func (q *inquiry) said(fate wire.Fate, err error, late bool) error {
	switch {
	case errors.Is(err, bus.ErrNoResponders): // who will not come back is noticed by its heartbeats
		return nil
	case err != nil:
		q.silent++
	case fate == wire.FateNever:
		return errNeverCame
	case fate == wire.FateUnderWay:
		*q = inquiry{}
	case fate == wire.FateAnswered:
		q.answered++
		q.silent = 0
	default:
		q.unknown++
		q.silent = 0
	}
	switch {
	case q.unknown >= inquireTwice, q.answered >= inquireAgain:
		return errCallLost
	case q.silent >= inquireTwice && late:
		return errNoWord
	}
	return nil
}

// doubt is a call that its node has not answered for a while.
type doubt struct {
	invocation wire.InvocationID
	offer      uint64
	sent       time.Time
	late       time.Time // when the function's time is over
	end        context.CancelCauseFunc
	inquiry
}

// inquirers ask nodes about calls: core NATS loses what a server had when it died. It is
// safe for concurrent use.
type inquirers struct {
	mu  sync.Mutex // guards what follows
	all map[wire.NodeID]*inquirer
}

// inquirer asks one node, as long as it has calls to ask about.
type inquirer struct {
	doubts map[uint64]*doubt // by their offer; guarded by inquirers.mu
	stop   context.CancelFunc
}

// watch numbers the message that gives a node a call, and has the node asked about it if
// it has not answered after a while, unless stop was called before. One in this process
// need not be asked.
func (d *Dispatcher) watch(ctx context.Context, id wire.NodeID, req *wire.InvokeRequest, timeout time.Duration, end context.CancelCauseFunc) (stop func()) {
	if d.local != nil && id == d.localID {
		return func() {}
	}
	req.Offer = d.offers.Add(1)
	call := &doubt{invocation: req.Invocation, offer: req.Offer, sent: time.Now(), end: end}
	call.late = call.sent.Add(timeout)
	timer := time.AfterFunc(inquireEvery, func() { d.inquire(ctx, id, call) })
	return func() { timer.Stop() }
}

// inquire has a node asked about a call until ctx is done, and ends the call with a cause
// when no answer can come any more. It does not block.
func (d *Dispatcher) inquire(ctx context.Context, id wire.NodeID, call *doubt) {
	all := &d.inquirers
	all.mu.Lock()
	defer all.mu.Unlock()
	q := all.all[id]
	if q == nil {
		asking, stop := context.WithCancel(context.WithoutCancel(ctx))
		q = &inquirer{doubts: map[uint64]*doubt{}, stop: stop}
		if all.all == nil {
			all.all = map[wire.NodeID]*inquirer{}
		}
		all.all[id] = q
		go d.askOn(asking, id, q)
	}
	q.doubts[call.offer] = call
	context.AfterFunc(ctx, func() { all.remove(id, q, call.offer) })
}

// remove takes a call out that is over, and ends the inquirer with its last one.
func (all *inquirers) remove(id wire.NodeID, q *inquirer, offer uint64) {
	all.mu.Lock()
	defer all.mu.Unlock()
	delete(q.doubts, offer)
	if len(q.doubts) == 0 && all.all[id] == q {
		delete(all.all, id)
		q.stop()
	}
}

func (all *inquirers) doubts(q *inquirer) []*doubt {
	all.mu.Lock()
	defer all.mu.Unlock()
	return slices.Collect(maps.Values(q.doubts))
}

// askOn asks a node about its calls until ctx is done.
func (d *Dispatcher) askOn(ctx context.Context, id wire.NodeID, q *inquirer) {
	tick := time.NewTicker(inquireEvery)
	defer tick.Stop()
	for {
		d.askAll(ctx, id, d.inquirers.doubts(q))
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// askAll asks a node about calls once. After a question without an answer it asks no
// further one.
func (d *Dispatcher) askAll(ctx context.Context, id wire.NodeID, calls []*doubt) {
	var err error
	for some := range slices.Chunk(calls, wire.MaxInquiry) {
		fates := make([]wire.Fate, len(some))
		if err == nil {
			err = d.askAbout(ctx, id, some, fates)
		}
		if ctx.Err() != nil {
			return
		}
		now := time.Now()
		for i, call := range some {
			if why := call.said(fates[i], err, now.After(call.late)); why != nil {
				call.end(why)
			}
		}
	}
}

// askAbout puts one question, and sets the calls' fates.
func (d *Dispatcher) askAbout(ctx context.Context, id wire.NodeID, calls []*doubt, fates []wire.Fate) error {
	asked := time.Now()
	req := wire.InquiryRequest{Offers: make([]wire.Offer, len(calls))}
	for i, c := range calls {
		req.Offers[i] = wire.Offer{Invocation: c.invocation, Number: c.offer, AgeMillis: asked.Sub(c.sent).Milliseconds()}
	}
	data, err := json.Marshal(req)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, wire.InquiryBound)
	defer cancel()
	answer, err := d.conn.Request(ctx, wire.NodeInquirySubject(id), data)
	if err != nil {
		return err
	}
	var reply wire.InquiryReply
	if err := json.Unmarshal(answer, &reply); err != nil {
		return fmt.Errorf("what became of calls: %w", err)
	}
	if len(reply.Fates) != len(calls) || time.Since(asked) > wire.InquiryBound {
		return errors.New("what became of calls: the answer is late, or not to the question")
	}
	copy(fates, reply.Fates)
	return nil
}
