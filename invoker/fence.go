package invoker

import (
	"encoding/json"
	"errors"

	"github.com/google/uuid"

	"github.com/dayfly-run/dayfly/internal/bus"
	"github.com/dayfly-run/dayfly/internal/telemetry"
	"github.com/dayfly-run/dayfly/invoker/guard"
	"github.com/dayfly-run/dayfly/invoker/pool"
	"github.com/dayfly-run/dayfly/wire"
)

// errGivenUp is the cause that ends what a run has under way which was given up: it was
// answered for, and may run elsewhere already.
var errGivenUp = errors.New("the node was given up")

// heardFence ends a run that the leading scheduler gave up.
func (inv *Invoker) heardFence(m bus.Msg) {
	var req wire.FenceRequest
	if err := json.Unmarshal(m.Data, &req); err != nil {
		inv.log.Warn("fence request refused", telemetry.KeyError, err)
		return
	}
	inv.mu.Lock()
	stale := inv.outdated(req.Epoch)
	inv.mu.Unlock()
	if stale {
		inv.log.Warn("fence request refused: it is from a scheduler that no longer leads", "epoch", req.Epoch)
		return
	}
	inv.giveUp(req.Run, "the scheduler gave this node up")
}

// currentRun is the run that the node is in.
func (inv *Invoker) currentRun() string {
	inv.mu.Lock()
	defer inv.mu.Unlock()
	return inv.run
}

// giveUp ends a run, unless it has ended: what it has under way is killed, what it was
// told to keep forgotten, and a new run begins. Idle instances go over to that one.
func (inv *Invoker) giveUp(run, why string) {
	inv.mu.Lock()
	if inv.run != run {
		inv.mu.Unlock()
		return
	}
	inv.run = uuid.NewString()
	inv.keepNothing()
	var busy []*instance
	for id, in := range inv.instances {
		if inv.pool.State(id) == pool.Busy {
			busy = append(busy, in)
		}
	}
	ended := inv.underWay.end(errGivenUp)
	last := inv.lastWord()
	inv.mu.Unlock()
	for _, in := range busy {
		in.container.Kill()
	}
	inv.guard.SetWord(wire.NodeStateSubject(inv.cfg.Node), last)
	inv.metrics.givenUp.Inc()
	inv.log.Warn("this run of the node is over", "reason", why, "ended", ended, "killed", len(busy))
	inv.tellAll()
}

// startGuard starts the node's guard, if it has one.
func (inv *Invoker) startGuard() (err error) {
	if len(inv.cfg.Guard.Args) == 0 {
		return nil
	}
	if inv.guard, err = guard.New(inv.cfg.Guard, inv.log); err != nil {
		return err
	}
	inv.mu.Lock()
	last := inv.lastWord()
	inv.mu.Unlock()
	inv.guard.SetWord(wire.NodeStateSubject(inv.cfg.Node), last)
	return nil
}

// lastWord is what the guard says for a node that is gone; inv.mu is held. No word of
// the run comes after it.
func (inv *Invoker) lastWord() []byte {
	word, err := json.Marshal(wire.LastWord(inv.cfg.Node, inv.run))
	if err != nil {
		inv.log.Error("no last word", telemetry.KeyError, err)
	}
	return word
}
