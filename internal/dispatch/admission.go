package dispatch

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/dayfly-run/dayfly/internal/roster"
	"github.com/dayfly-run/dayfly/wire"
)

// maxNudged bounds the versions that one node's word makes ask the scheduler again.
const maxNudged = 16

// End is how a call's wait ended.
type End string

const (
	// EndServed: the call went to an instance, or failed for a reason of its own.
	EndServed End = "served"
	// EndFull: it could not wait, because too many do already.
	EndFull End = "full"
	// EndDeadline: its patience was over, or nothing to wait for was left.
	EndDeadline End = "deadline"
	// EndLeft: its caller left.
	EndLeft End = "left"
	// EndStopped: the gateway stops.
	EndStopped End = "stopped"
)

// refusal is why a call gets no turn.
type refusal struct {
	end End
	err *wire.Error
}

// admission lets calls to instances, and has them wait while there is none. It does
// no I/O, and is safe for concurrent use.
type admission struct {
	mu      sync.Mutex
	words   roster.Nodes
	routes  *routes
	seq     uint64              // of the last call that had to wait or ask
	waiting int                 // calls that wait
	held    int64               // bytes of their events
	queues  map[*fleet]struct{} // those with calls that wait
	nudged  time.Time           // when a node's word last made many ask
	closed  bool                // calls do not wait any more
}

func newAdmission() *admission {
	return &admission{routes: newRoutes(), queues: map[*fleet]struct{}{}}
}

// ticket is what a call keeps between its turns. The zero value is a new call's.
type ticket struct {
	seq   uint64
	since time.Time // when it first found no instance
	// refused is set when the scheduler refused, or all nodes that the call was
	// offered to. With the first it is the answer to a question, asked at a moment.
	refused  *wire.Error
	question turn
	asked    time.Time
	rounds   int // how often all nodes refused
	waited   bool
	wait     time.Duration // from since to its last turn that it waited for
	end      End           // set once it was refused
}

// enter returns the call's next turn, which it waits for where it must. A turn to ask
// must be ended with placed or giveBack, or with a ticket that says why the scheduler
// refused; a ride with done or giveBack.
func (a *admission) enter(ctx context.Context, call *Call, t *ticket) (turn, error) {
	a.mu.Lock()
	f := a.routes.fleets[call.Place.Version]
	if f != nil && f.queue.len() == 0 && t.refused == nil {
		if c := f.take(); c.slot != nil {
			a.mu.Unlock()
			return turn{ride: c, fleet: f}, nil
		}
	}
	got, w := a.queue(call, t, time.Now())
	a.mu.Unlock()
	if w != nil {
		t.waited = true
		got = a.wait(ctx, call, got.fleet, w)
		t.wait = time.Since(t.since)
	}
	if got.err != nil {
		t.end = got.err.end
		return turn{}, got.err.err
	}
	return got, nil
}

// queue finds a turn for a call that finds no free instance at once, or lets it wait.
// a.mu is held.
func (a *admission) queue(call *Call, t *ticket, now time.Time) (turn, *waiter) {
	f := a.routes.fleet(call.Place.Version)
	q := &f.queue
	q.terms(call)
	returns := t.seq != 0
	if !returns {
		a.seq++
		t.seq, t.since = a.seq, now
	}
	if t.refused != nil {
		if t.question.asks {
			q.refusedOne(t.question.prober, t.asked, now, t.refused)
		} else {
			t.rounds++
			q.nodesRefused(t.rounds, now, t.refused)
		}
		t.refused, t.question = nil, turn{}
	}
	first := q.len() == 0
	if instances, starting := f.instances(); first && q.mayAsk(1, instances, starting, now) && now.Sub(t.since) < call.Timeout {
		return turn{fleet: f, asks: true, prober: q.ask()}, nil
	}
	if no := a.refuse(f, call, returns, now); no != nil {
		a.routes.pruneFleet(f)
		return turn{err: no}, nil
	}
	w := &waiter{
		seq: t.seq, since: t.since, until: t.since.Add(call.Timeout),
		bytes: int64(len(call.Payload)), turns: make(chan turn, 1),
	}
	q.push(w)
	a.waiting++
	a.held += w.bytes
	a.queues[f] = struct{}{}
	a.settle(f, now)
	return turn{fleet: f}, w
}

// refuse says why a call may not wait. One that returns has its place already.
func (a *admission) refuse(f *fleet, call *Call, returns bool, now time.Time) *refusal {
	q := &f.queue
	switch {
	case a.closed:
		return stopping()
	case returns:
		return nil
	case q.len() >= q.bound():
		return &refusal{EndFull, q.overfull(f.version, call.Timeout, now)}
	case a.waiting < wire.MaxWaiting && a.held+int64(len(call.Payload)) <= wire.MaxWaitingBytes:
		return nil
	}
	after := q.retryAfter(call.Timeout, now)
	e := wire.Errorf(wire.CodeThrottled, "%d calls with %d MiB wait in this gateway, which is the most; call again in %s, or add nodes",
		a.waiting, a.held>>20, round(after))
	e.RetryAfterMillis = after.Milliseconds()
	return &refusal{EndFull, e}
}

func stopping() *refusal {
	return &refusal{EndStopped, wire.Errorf(wire.CodeUnavailable, "the gateway is being stopped; call again")}
}

// wait returns the turn that ends the wait.
func (a *admission) wait(ctx context.Context, call *Call, f *fleet, w *waiter) turn {
	select {
	case got := <-w.turns:
		return got
	case <-ctx.Done():
	case <-call.Gone:
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	now := time.Now()
	if w.place != nil {
		a.remove(f, w)
	} else if got := <-w.turns; got.err != nil {
		return got
	} else {
		a.undo(got)
	}
	defer a.settle(f, now)
	switch cause := context.Cause(ctx); {
	case cause == nil:
		return turn{err: &refusal{EndLeft, wire.Errorf(wire.CodeUnavailable, "the caller left while the call waited for an instance")}}
	case errors.Is(cause, context.DeadlineExceeded):
		return turn{err: a.gaveUp(f, w, now)}
	default:
		return turn{err: &refusal{EndStopped, wire.Errorf(wire.CodeUnavailable, "gave up waiting for an instance: %s", cause)}}
	}
}

// giveBack ends a turn that was not used, or whose call is over.
func (a *admission) giveBack(t turn) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.undo(t)
	a.settle(t.fleet, time.Now())
}

// undo is giveBack for who holds a.mu and settles afterwards.
func (a *admission) undo(t turn) {
	if t.asks {
		t.fleet.queue.droppedOne(t.prober)
	} else {
		a.routes.done(t.ride, unused, 0)
	}
}

func (a *admission) gaveUp(f *fleet, w *waiter, now time.Time) *refusal {
	instances, _ := f.instances()
	return &refusal{EndDeadline, f.queue.gaveUp(f.version, instances, w.since, w.until, now)}
}

// settle gives turns to the calls of a version that wait, oldest first, as far as
// there are any, and turns away those whose patience is over. a.mu is held.
func (a *admission) settle(f *fleet, now time.Time) {
	q := &f.queue
	lively := f.lively()
	for w := q.head(); w != nil && !q.leaves(w, lively).After(now); w = q.head() {
		no := a.gaveUp(f, w, now)
		a.give(f, w, turn{err: no})
	}
	for w := q.head(); w != nil; w = q.head() {
		if c := f.take(); c.slot != nil {
			a.give(f, w, turn{ride: c, fleet: f})
			continue
		}
		instances, starting := f.instances()
		if !q.mayAsk(q.len(), instances, starting, now) {
			break
		}
		a.give(f, w, turn{fleet: f, asks: true, prober: q.ask()})
	}
	if q.len() == 0 {
		f.alarm.cancel()
		a.routes.pruneFleet(f)
		return
	}
	f.alarm.set(q.next(lively, now), now, func() { a.wake(f) })
}

// give ends a call's wait with its turn.
func (a *admission) give(f *fleet, w *waiter, t turn) {
	a.remove(f, w)
	w.turns <- t // has room
}

func (a *admission) remove(f *fleet, w *waiter) {
	f.queue.remove(w)
	a.waiting--
	a.held -= w.bytes
	if f.queue.len() == 0 {
		delete(a.queues, f)
	}
}

// wake looks after a queue whose timer has gone off.
func (a *admission) wake(f *fleet) {
	a.mu.Lock()
	defer a.mu.Unlock()
	f.alarm.at = time.Time{}
	a.settle(f, time.Now())
}

// placed ends a turn to ask that brought a place. The ride is zero when the node is
// not known here.
func (a *admission) placed(t turn, where wire.PlaceReply, brings int) ride {
	a.mu.Lock()
	defer a.mu.Unlock()
	c := a.routes.takeOn(where.Node, t.fleet.version, where.Lease, brings)
	t.fleet.queue.placedOne(t.prober)
	a.settle(t.fleet, time.Now())
	return c
}

// board is the ride of a call that was placed on a node which is known only now.
func (a *admission) board(v wire.VersionID, where wire.PlaceReply, brings int) ride {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.routes.takeOn(where.Node, v, where.Lease, brings)
}

// done ends a ride.
func (a *admission) done(c ride, how outcome, seq uint64) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.routes.done(c, how, seq)
	if f := c.fleet; f.queue.len() > 0 {
		now := time.Now()
		f.queue.ended.add(now)
		a.settle(f, now)
	}
}

// expire gives up the nodes that were last heard before a moment.
func (a *admission) expire(before, now time.Time) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.routes.expire(before)
	a.settleChanged(now)
}

func (a *admission) settleChanged(now time.Time) {
	for _, f := range a.routes.changed {
		f.changed = false
		a.settle(f, now)
	}
	clear(a.routes.changed)
	a.routes.changed = a.routes.changed[:0]
}

// nudge has the scheduler asked again where it refused, as a node has more room. With
// many versions it is a few at a time.
func (a *admission) nudge(now time.Time) {
	if len(a.queues) > maxNudged && now.Sub(a.nudged) < probeMin {
		return
	}
	a.nudged = now
	left := maxNudged
	for f := range a.queues {
		if left--; left < 0 {
			return
		}
		if f.queue.nudge() {
			a.settle(f, now)
		}
	}
}

// close turns away the calls that wait, and has no other wait.
func (a *admission) close() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.closed = true
	now := time.Now()
	for f := range a.queues {
		for w := f.queue.head(); w != nil; w = f.queue.head() {
			a.give(f, w, turn{err: stopping()})
		}
		a.settle(f, now)
	}
}

// count returns how many calls wait.
func (a *admission) count() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.waiting
}

// alarm is the one timer of a version, set while calls wait.
type alarm struct {
	timer *time.Timer
	at    time.Time
}

// set has ring called at a moment, and at no other.
func (l *alarm) set(at, now time.Time, ring func()) {
	switch {
	case at.Equal(l.at):
		return
	case l.timer == nil:
		l.timer = time.AfterFunc(at.Sub(now), ring)
	default:
		l.timer.Reset(at.Sub(now))
	}
	l.at = at
}

func (l *alarm) cancel() {
	if l.timer != nil {
		l.timer.Stop()
		*l = alarm{}
	}
}
