package scheduler

import (
	"container/list"
	"context"
	"encoding/json"
	"time"

	"github.com/dayfly-run/dayfly/internal/roster"
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

// fences are the runs of nodes that fell silent, whoever led then. What ran there was
// answered for and may run elsewhere, so that a word of such a run is not listened to,
// and its node is told by the leader that the run is over.
//
// A run is over once its node was silent for too long in a time in which the leader's
// lease was seen to be renewed, which takes most of the NATS servers: who is cut off
// together with a server of its own hears nobody else either, and ends nobody's run. It
// has no clock and is not safe for concurrent use.
type fences struct {
	reign *reign // nil unless it leads
	// forgiveAfter is how long a run goes on under another leader, which has not given it
	// up then, before it is taken for alive.
	forgiveAfter time.Duration
	runs         map[runOf]*fenced
	order        list.List // of *fenced, the oldest first
	over         int       // of runs
}

// runOf names a run of a node.
type runOf struct {
	node wire.NodeID
	run  string
}

// fenced is a run that was lost.
type fenced struct {
	of    runOf
	over  bool
	place *list.Element
	// heard is when its last word was, lost when it was missed.
	heard, lost time.Time
	// told is when its node was told last, and back when it was heard again under another
	// leader.
	told, back time.Time
}

func newFences(forgiveAfter time.Duration) *fences {
	return &fences{forgiveAfter: forgiveAfter, runs: map[runOf]*fenced{}}
}

// miss notes that a run was lost.
func (f *fences) miss(n lostNode, now time.Time) {
	if known := f.runs[n.runOf]; known != nil {
		f.forget(known)
	}
	e := &fenced{of: n.runOf, heard: n.heard, lost: now}
	e.place = f.order.PushBack(e)
	f.runs[n.runOf] = e
	for oldest := f.oldest(); len(f.runs) > maxFenced || now.Sub(oldest.lost) > fencedFor; oldest = f.oldest() {
		f.forget(oldest)
	}
}

func (f *fences) oldest() *fenced {
	return f.order.Front().Value.(*fenced) //nolint:forcetypeassert // nothing else is in it
}

func (f *fences) forget(e *fenced) {
	if e.over {
		f.over--
	}
	f.order.Remove(e.place)
	delete(f.runs, e.of)
}

// settle ends the runs that were last heard before a moment.
func (f *fences) settle(lostBefore time.Time) {
	if f.over == len(f.runs) {
		return
	}
	for _, e := range f.runs {
		if !e.over && e.heard.Before(lostBefore) {
			e.over = true
			f.over++
		}
	}
}

// hear takes a word of a run. It reports whether the run is over, and whether its node is
// to be told of it now.
func (f *fences) hear(of runOf, otherLeads func(time.Time) bool, now time.Time) (over, tell bool) {
	e := f.runs[of]
	switch {
	case e == nil:
		return false, false
	case !e.over:
		f.forget(e)
		return false, false
	case f.reign != nil:
		tell = e.told.IsZero() || now.Sub(e.told) >= fenceEvery
		if tell {
			e.told = now
		}
		return true, tell
	case !otherLeads(now):
		e.back = time.Time{}
	case e.back.IsZero():
		e.back = now
	case now.Sub(e.back) > f.forgiveAfter:
		f.forget(e)
		return false, false
	}
	return true, false
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

// giveUp removes the nodes that are lost, and ends runs beyond doubt.
func (s *Scheduler) giveUp(ctx context.Context) (lost []lostNode, expired int) {
	return s.judge(s.hearing.Look(ctx, s.deps.Conn, s.states), s.election.inTouch(), time.Now())
}

// judge decides who is lost, by the time in which all nodes were heard and that in which
// the lease was seen.
func (s *Scheduler) judge(heard, led roster.Span, now time.Time) (lost []lostNode, expired int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	lost, expired = s.nodes.sweep(heard.LostBefore(), now)
	for _, n := range lost {
		s.fences.miss(n, now)
	}
	if r := s.fences.reign; r != nil && r.holds() {
		led = led.Extend(heard.To)
	}
	s.fences.settle(heard.And(led).LostBefore())
	return lost, expired
}

// reignOver says in which reign runs are ended; nil for none.
func (s *Scheduler) reignOver(r *reign) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.fences.reign = r
}
