package invoker

import (
	"context"
	"encoding/json"
	"sync"
	"time"

	"github.com/dayfly-run/dayfly/internal/bus"
	"github.com/dayfly-run/dayfly/internal/telemetry"
	"github.com/dayfly-run/dayfly/wire"
)

// calls are the invocations under way, so that they can be cancelled, and what is
// remembered of others, so that who lost a message about one can be told. It is safe for
// concurrent use. The zero value remembers nothing.
type calls struct {
	mu sync.Mutex // guards what follows
	// running has the newest of each invocation.
	running map[wire.InvocationID]*call
	past    past
	void    void
}

// call is one invocation. An event that was given out twice has two on one node.
type call struct {
	id     wire.InvocationID
	offer  uint64
	older  *call
	cancel context.CancelCauseFunc
}

// begin enters an invocation, which ends with the context that it returns. It is not
// taken where somebody was told that the offer never came.
func (c *calls) begin(ctx context.Context, id wire.InvocationID, offer uint64) (_ context.Context, end func(), taken bool) {
	ctx, cancel := context.WithCancelCause(ctx)
	entered := &call{id: id, offer: offer, cancel: cancel}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.void.has(offer) {
		cancel(nil)
		return ctx, nil, false
	}
	if c.running == nil {
		c.running = map[wire.InvocationID]*call{}
	}
	entered.older = c.running[id]
	c.running[id] = entered
	return ctx, func() {
		c.mu.Lock()
		c.remove(entered)
		c.mu.Unlock()
		cancel(nil)
	}, true
}

// remove takes a call out; c.mu is held.
func (c *calls) remove(ended *call) {
	newest := c.running[ended.id]
	switch {
	case newest != ended:
		for newest.older != ended {
			newest = newest.older
		}
		newest.older = ended.older
	case ended.older != nil:
		c.running[ended.id] = ended.older
	default:
		delete(c.running, ended.id)
	}
}

// none reports whether no invocation is under way.
func (c *calls) none() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.running) == 0
}

func (c *calls) cancel(id wire.InvocationID) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for running := c.running[id]; running != nil; running = running.older {
		running.cancel(errCancelled)
	}
}

// end ends all of them with a cause, and returns how many there were.
func (c *calls) end(cause error) (count int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, running := range c.running {
		for ; running != nil; running = running.older {
			running.cancel(cause)
			count++
		}
	}
	return count
}

// open begins to remember: what came before is not known.
func (c *calls) open(now time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.past.since = now
}

// answered remembers the answer to an offer. It is called before the call ends.
func (c *calls) answered(a answered) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.past.add(a)
}

// inquire says what became of offers, and which answers are to be sent again.
func (c *calls) inquire(offers []wire.Offer, now time.Time) (fates []wire.Fate, again []answered) {
	c.mu.Lock()
	defer c.mu.Unlock()
	fates = make([]wire.Fate, len(offers))
	missing := map[uint64]int{}
	for i, o := range offers {
		if fates[i] = wire.FateUnknown; c.has(o) {
			fates[i] = wire.FateUnderWay
		} else if o.Number != 0 {
			missing[o.Number] = i
		}
	}
	if len(missing) == 0 {
		return fates, nil
	}
	for _, a := range c.past.calls {
		i, asked := missing[a.offer]
		if !asked {
			continue
		}
		delete(missing, a.offer)
		if a.frame != nil {
			fates[i] = wire.FateAnswered
			again = append(again, a)
		}
	}
	for number, i := range missing {
		// The question took its time, too.
		age := time.Duration(offers[i].AgeMillis)*time.Millisecond + 2*wire.InquiryBound
		if c.past.reaches(now.Add(-age)) {
			c.void.add(number)
			fates[i] = wire.FateNever
		}
	}
	return fates, again
}

// has reports whether an offer is under way; c.mu is held.
func (c *calls) has(o wire.Offer) bool {
	for running := c.running[o.Invocation]; running != nil; running = running.older {
		if running.offer == o.Number {
			return true
		}
	}
	return false
}

// heardInquiry says what became of invocations that the node was offered.
func (inv *Invoker) heardInquiry(m bus.Msg) {
	var req wire.InquiryRequest
	err := json.Unmarshal(m.Data, &req)
	if n := len(req.Offers); err == nil && (n == 0 || n > wire.MaxInquiry) {
		err = wire.Errorf(wire.CodeInvalid, "an inquiry about %d offers; there must be 1 to %d", n, wire.MaxInquiry)
	}
	if err != nil {
		inv.log.Warn("inquiry refused", telemetry.KeyError, err)
		return
	}
	fates, again := inv.underWay.inquire(req.Offers, time.Now())
	for _, a := range again {
		if err == nil {
			err = inv.deps.Conn.Publish(a.to, a.frame)
		}
	}
	var reply []byte
	if err == nil {
		reply, err = json.Marshal(wire.InquiryReply{Fates: fates})
	}
	if err == nil {
		err = m.Respond(reply)
	}
	if err != nil {
		inv.log.Warn("inquiry not answered", telemetry.KeyError, err)
	}
}
