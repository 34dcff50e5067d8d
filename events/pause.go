package events

import (
	"maps"
	"sync"
	"time"

	"github.com/dayfly-run/dayfly/wire"
)

// maxPauses bounds the pauses that a worker remembers.
const maxPauses = 1 << 16

// pauses remembers since when this worker knows of the pauses that it keeps. Whoever
// decided on one may have had another clock, and where that was ahead the pause would seem
// not to end. It is safe for concurrent use.
type pauses struct {
	mu   sync.Mutex // guards what follows
	seen map[wire.InvocationID]pause
}

// pause is one that is kept.
type pause struct {
	revision uint64 // of the record that decided on it
	since    time.Time
	until    time.Time
}

// left is how much of a pause is left that a revision of an event's record decided on, by
// the time that has passed since it was asked for first.
func (p *pauses) left(id wire.InvocationID, revision uint64, meant time.Duration, now time.Time) time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	known, ok := p.seen[id]
	if !ok || known.revision != revision {
		p.makeRoom(now)
		known = pause{revision: revision, since: now, until: now.Add(meant)}
		p.seen[id] = known
	}
	return meant - now.Sub(known.since)
}

// over forgets the pause of an event.
func (p *pauses) over(id wire.InvocationID) {
	p.mu.Lock()
	delete(p.seen, id)
	p.mu.Unlock()
}

// makeRoom forgets what is over, when there are many. Of too many that are not it forgets
// all: those pauses begin anew, for once.
func (p *pauses) makeRoom(now time.Time) {
	if p.seen == nil {
		p.seen = map[wire.InvocationID]pause{}
	}
	if len(p.seen) < maxPauses {
		return
	}
	maps.DeleteFunc(p.seen, func(_ wire.InvocationID, known pause) bool { return now.After(known.until) })
	if len(p.seen) > maxPauses/2 {
		clear(p.seen)
	}
}
