package invoker

import (
	"cmp"
	"slices"
	"sync"
	"time"

	"github.com/dayfly-run/dayfly/wire"
)

const (
	// tallyKept is how long the counts of a version stay after its last invocation.
	tallyKept = 10 * time.Second
	// maxTallies bounds the versions that are counted; more are not told of.
	maxTallies = 1000
)

// tallies count what ran of late, by version, for whoever watches the cluster. The
// metrics count for ever, but not by version: there may be any number of these.
type tallies struct {
	mu    sync.Mutex
	count map[wire.VersionID]*tally
}

type tally struct {
	wire.Ran
	last time.Time
}

// add counts an invocation that ended.
func (t *tallies) add(v wire.VersionID, reply wire.InvokeReply, now time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	one := t.count[v]
	if one == nil {
		if len(t.count) == maxTallies {
			return
		}
		if t.count == nil {
			t.count = map[wire.VersionID]*tally{}
		}
		one = &tally{Ran: wire.Ran{Version: v}}
		t.count[v] = one
	}
	one.last = now
	one.Calls++
	one.RunMicros += reply.RunMicros
	if reply.Error != nil {
		one.Errors++
	}
	if reply.Cold {
		one.Cold++
	}
}

// list returns the counts of versions that ran of late, in a stable order, and forgets
// the others.
func (t *tallies) list(now time.Time) []wire.Ran {
	t.mu.Lock()
	defer t.mu.Unlock()
	var list []wire.Ran
	for v, one := range t.count {
		if now.Sub(one.last) > tallyKept {
			delete(t.count, v)
			continue
		}
		list = append(list, one.Ran)
	}
	slices.SortFunc(list, func(a, b wire.Ran) int {
		return cmp.Or(cmp.Compare(a.Version.FunctionID.String(), b.Version.FunctionID.String()), cmp.Compare(a.Version.Number, b.Version.Number))
	})
	return list
}
