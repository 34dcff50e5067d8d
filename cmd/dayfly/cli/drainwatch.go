package cli

import (
	"context"
	"errors"
	"time"

	"github.com/dayfly-run/dayfly/wire"
)

// drainWatch waits for a node that drains.
type drainWatch struct {
	look func(context.Context) (wire.DrainState, error)
	tell func(progress string)
	gone string // what to do about a node that is not heard of
	// timeout limits the wait; 0 for as long as the node is seen, see [drainPatience].
	timeout time.Duration
}

// wait returns when the node is drained. In an upgrade gateways are restarted and nodes
// have two runs with nothing between them, so a look that shows nothing ends no wait.
func (w drainWatch) wait(ctx context.Context, state wire.DrainState) (wire.DrainState, error) {
	waiting, cancel := ctx, context.CancelFunc(func() {})
	if w.timeout > 0 {
		waiting, cancel = context.WithTimeout(ctx, w.timeout)
	}
	defer cancel()
	look := time.NewTicker(drainLook)
	defer look.Stop()
	seen, shown := time.Now(), ""
	var unseen error // why the last look shows nothing
	for {
		switch {
		case unseen != nil:
		case state.Drained:
			return state, nil
		case !state.Ordered:
			return state, wire.Errorf(wire.CodeConflict, "somebody took the order to node %s back", state.Node)
		case state.Gone:
			unseen = withHint(wire.Errorf(wire.CodeUnavailable, "nothing is heard of node %s; it drains when it comes back", state.Node), w.gone)
		default:
			seen = time.Now()
		}
		now := drainProgress(state)
		if unseen != nil {
			now = unseen.Error()
			if e, ok := errors.AsType[*wire.Error](unseen); ok {
				now = e.Message
			}
			if !passes(unseen) || w.timeout == 0 && time.Since(seen) >= drainPatience {
				return state, unseen
			}
		}
		if now != shown {
			shown = now
			w.tell(now)
		}
		select {
		case <-look.C:
			var next wire.DrainState
			if next, unseen = w.look(waiting); unseen == nil {
				state = next
			}
		case <-waiting.Done():
		}
		switch {
		case ctx.Err() != nil:
			return state, ctx.Err()
		case waiting.Err() != nil:
			return state, w.late(state, shown)
		}
	}
}

// late is what a wait ends with whose time is over.
func (w drainWatch) late(state wire.DrainState, shown string) error {
	err := wire.Errorf(wire.CodeUnavailable, "node %s is not drained after %s: %s", state.Node, w.timeout, shown)
	if state.Gone {
		return withHint(err, w.gone)
	}
	return err
}

// passes says whether what a look failed with may pass by itself: all that is not an
// answer of Dayfly's which says otherwise.
func passes(err error) bool {
	if _, answered := errors.AsType[*wire.Error](err); answered {
		return ExitCode(err) == ExitRetry
	}
	return true
}
