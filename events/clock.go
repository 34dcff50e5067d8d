package events

import (
	"sync"
	"time"
)

// clock is that of NATS, which stamps events when it stores them. Ages are told by it,
// because the gateway that accepted an event has a clock of its own, and so has every
// worker. It is safe for concurrent use.
type clock struct {
	mu     sync.Mutex // guards what follows
	offset time.Duration
}

// observe learns from an answer of NATS that says when it was given, by NATS' clock. What
// is known is changed no more than that answer asks for: between question and answer lies
// the way, and the same clock must not seem to be another.
func (c *clock) observe(sent, received, answered time.Time) {
	least, most := answered.Sub(received), answered.Sub(sent)
	c.mu.Lock()
	c.offset = max(least, min(c.offset, most))
	c.mu.Unlock()
}

// at is what NATS' clock says at a moment of the worker's.
func (c *clock) at(moment time.Time) time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return moment.Add(c.offset)
}

// age is how long ago, at a moment of the worker's, NATS stored what it stamped so; never
// less than nothing.
func (c *clock) age(moment, storedAt time.Time) time.Duration {
	return max(0, c.at(moment).Sub(storedAt))
}
