package invoker

import (
	"context"
	"sync/atomic"
	"time"

	"github.com/dayfly-run/dayfly/wire"
)

// contactLook is how often a node asks itself whether the cluster can still hear it.
const contactLook = wire.NodeLostAfter / 8

// contact is what a node knows of how long the cluster has heard of it at least: until
// when nobody can have given it up for being silent. It counts from when a word was
// said of which NATS said later that it has it; so a node that was paused finds out
// like one that was cut off.
type contact struct {
	// limit is how long a node may be silent; 0 for ever.
	limit time.Duration
	began time.Time
	until atomic.Int64 // nanoseconds after began, by the monotonic clock
	// given says that the run was given up and no word was heard since; only the loop
	// touches it.
	given bool

	said  atomic.Int64  // when the newest heartbeat was, as until
	beats chan struct{} // holds one when there is a newer one
}

func newContact(limit time.Duration, now time.Time) *contact {
	return &contact{limit: limit, began: now, beats: make(chan struct{}, 1)}
}

// begin says that the run begins: until now nobody knew the node.
func (c *contact) begin(now time.Time) { c.until.Store(int64(now.Add(c.limit).Sub(c.began))) }

// holds reports whether nobody can have given the node up.
func (c *contact) holds(now time.Time) bool {
	return c.limit == 0 || int64(now.Sub(c.began)) < c.until.Load()
}

// beat notes that a heartbeat was said.
func (c *contact) beat(at time.Time) {
	c.said.Store(int64(at.Sub(c.began)))
	select {
	case c.beats <- struct{}{}:
	default:
	}
}

// turn is what to do at a look at the contact.
type turn int

const (
	stay  turn = iota
	leave      // the run is over: end what it runs
	back       // the cluster hears the node again
)

// look decides. heard is when the newest word was said that NATS has, or zero.
func (c *contact) look(now, heard time.Time) turn {
	holds := c.holds(now)
	if !heard.IsZero() {
		c.until.Store(max(c.until.Load(), int64(heard.Add(c.limit).Sub(c.began))))
	}
	switch {
	case !holds && !c.given:
		c.given = true
		return leave
	case c.given && c.holds(now):
		c.given = false
		return back
	}
	return stay
}

// outOfTouch is the answer to what came while the node may have been given up.
func (inv *Invoker) outOfTouch() *wire.Error {
	return wire.Errorf(wire.CodeUnavailable, "node %s is out of touch with the cluster", inv.cfg.Node)
}

// stayInTouch ends the run when the cluster cannot have heard of the node for too long.
func (inv *Invoker) stayInTouch() {
	c := inv.contact
	if c.limit == 0 {
		return
	}
	heard := make(chan time.Time, 1)
	inv.loops.Go(func() { inv.confirm(heard) })
	tick := time.NewTicker(min(contactLook, c.limit/8))
	defer tick.Stop()
	for {
		var at time.Time
		select {
		case <-inv.ctx.Done():
			return
		case <-tick.C:
		case at = <-heard:
		}
		switch c.look(time.Now(), at) {
		case stay:
		case leave:
			inv.giveUp(inv.currentRun(), "nobody can have heard of this node for too long")
		case back:
			inv.tellAll()
		}
	}
}

// confirm asks NATS after heartbeats whether it has them, one at a time.
func (inv *Invoker) confirm(heard chan<- time.Time) {
	c := inv.contact
	for {
		select {
		case <-inv.ctx.Done():
			return
		case <-c.beats:
		}
		said := c.began.Add(time.Duration(c.said.Load()))
		ctx, cancel := context.WithTimeout(inv.ctx, c.limit)
		err := inv.deps.Conn.Flush(ctx)
		cancel()
		if err != nil {
			continue // the look finds out when it is too long
		}
		select {
		case heard <- said:
		case <-inv.ctx.Done():
			return
		}
	}
}
