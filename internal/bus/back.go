package bus

import "sync"

// callbacks are functions that want to hear of something. The zero value has none.
type callbacks struct {
	mu  sync.Mutex // guards what follows
	all map[*func()]struct{}
}

func (c *callbacks) add(f func()) (remove func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.all == nil {
		c.all = map[*func()]struct{}{}
	}
	c.all[&f] = struct{}{}
	return func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		delete(c.all, &f)
	}
}

func (c *callbacks) call() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for f := range c.all {
		(*f)()
	}
}

// OnBack calls f whenever the connection stands again after it was lost, until stop has
// returned. f does not wait for anything, and calls neither OnBack nor a stop.
func (c *Conn) OnBack(f func()) (stop func()) { return c.back.add(f) }
