package invoker

import (
	"encoding/json"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/dayfly-run/dayfly/internal/telemetry"
	"github.com/dayfly-run/dayfly/wire"
)

// occasion is why a node says how it is.
type occasion int

const (
	// onChange: something may have changed.
	onChange occasion = iota
	// onBeat: it is time for a heartbeat.
	onBeat
	// onStop: it is the last word of the run.
	onStop
)

// told is what the cluster was told of the node.
type told struct {
	mu sync.Mutex // guards what follows, and is held while a word is handed to the connection: words go out in the order of their numbers

	last      *wire.NodeState // nil when the next word must be whole
	nextWhole time.Time       // at the latest
}

// wholePause draws the pause up to the next whole word: nodes that were all asked at the
// same moment do not speak together for ever after.
func wholePause() time.Duration {
	return wire.WholeEvery*3/4 + rand.N(wire.WholeEvery/2) //nolint:gosec // nobody gains by guessing it
}

// tell publishes the node's next word: what changed since the one before, and at times
// all of the state. It reports whether the word is on its way.
func (inv *Invoker) tell(why occasion) (said bool) {
	t := &inv.told
	t.mu.Lock()
	defer t.mu.Unlock()
	s := inv.state(why, t.last)
	s.Sort()
	word, now := wire.NodeWord{Whole: &s}, time.Now()
	if t.last != nil && why != onStop && !inv.wholeWanted.Swap(false) && now.Before(t.nextWhole) {
		if d := wire.Diff(t.last, &s); d != nil {
			word = wire.NodeWord{Delta: d}
		}
	}
	if word.Whole != nil {
		t.nextWhole = now.Add(wholePause())
	}
	t.last = &s
	data, err := json.Marshal(word)
	if err == nil {
		err = inv.deps.Conn.Publish(wire.NodeStateSubject(inv.cfg.Node), data)
	}
	if err != nil {
		t.last = nil
		inv.log.Warn("heartbeat lost", telemetry.KeyError, err)
	}
	return err == nil
}

// tellAll has all of the state told soon.
func (inv *Invoker) tellAll() {
	inv.wholeWanted.Store(true)
	inv.report()
}
