package scheduler

import (
	"encoding/json"
	"time"

	"github.com/dayfly-run/dayfly/internal/telemetry"
	"github.com/dayfly-run/dayfly/wire"
)

const (
	// maxFenced and fencedFor bound the runs that are remembered as given up.
	maxFenced = 10_000
	fencedFor = 10 * time.Minute
	// fenceEvery is how often a node is told at most that its run is over.
	fenceEvery = time.Second
)

// fences are the runs of nodes that the leader gave up in its reign. What ran there was
// answered for and may run elsewhere, so that a word of such a run is not listened to:
// the node is told that the run is over. It has no clock and is not safe for concurrent
// use.
type fences struct {
	reign *reign
	runs  map[runOf]*fenced
	order []runOf // the oldest first
}

// runOf names a run of a node.
type runOf struct {
	node wire.NodeID
	run  string
}

// fenced is a run that was given up.
type fenced struct{ at, told time.Time }

func newFences(r *reign) *fences { return &fences{reign: r, runs: map[runOf]*fenced{}} }

// add gives a run up.
func (f *fences) add(run runOf, now time.Time) {
	if f.runs[run] == nil {
		f.runs[run] = &fenced{at: now}
		f.order = append(f.order, run)
	}
	for len(f.order) > 0 && (len(f.order) > maxFenced || now.Sub(f.runs[f.order[0]].at) > fencedFor) {
		delete(f.runs, f.order[0])
		f.order = f.order[1:]
	}
}

// heard reports whether a run was given up, and whether its node is to be told of it
// now. A nil fences has none.
func (f *fences) heard(run runOf, now time.Time) (over, tell bool) {
	if f == nil || f.runs[run] == nil {
		return false, false
	}
	known := f.runs[run]
	tell = known.told.IsZero() || now.Sub(known.told) >= fenceEvery
	if tell {
		known.told = now
	}
	return true, tell
}

// fence tells a node that a run of its is over.
func (s *Scheduler) fence(of runOf, r *reign) {
	if !r.holds() {
		return
	}
	data, err := json.Marshal(wire.FenceRequest{Run: of.run, Epoch: r.epoch})
	if err == nil {
		err = s.deps.Conn.Publish(wire.NodeFenceSubject(of.node), data)
	}
	if err != nil {
		s.log.Warn("a node was not told that it was given up", telemetry.KeyNode, string(of.node), telemetry.KeyError, err)
		return
	}
	s.log.Warn("a node is back that was given up: it ends what it runs", telemetry.KeyNode, string(of.node), keyEpoch, r.epoch)
}

// giveUp removes the nodes that are lost. If it leads beyond doubt, their runs are over
// for good.
func (s *Scheduler) giveUp(now time.Time) (lost []lostNode, expired int) {
	connected := s.deps.Conn.Healthy() == nil
	s.mu.Lock()
	defer s.mu.Unlock()
	s.nodes.listening = s.hearing.Look(now, connected)
	lost, expired = s.nodes.sweep(now)
	if s.fences != nil && s.fences.reign.holds() {
		for _, n := range lost {
			s.fences.add(runOf{n.id, n.run}, now)
		}
	}
	return lost, expired
}

// setFences begins or ends (nil) the memory of a reign.
func (s *Scheduler) setFences(f *fences) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.fences = f
}
