package dispatch

import (
	"container/list"
	"fmt"
	"math"
	"time"

	"github.com/dayfly-run/dayfly/wire"
)

const (
	// probeMin and probeMax bound the pause between two questions to a scheduler that
	// refused. The first is about how long an instance takes to go, the second how
	// late a call may notice room that no node told of.
	probeMin = 25 * time.Millisecond
	probeMax = 500 * time.Millisecond
	// hopelessPause: a scheduler that names a longer pause than this knows that
	// waiting changes nothing.
	hopelessPause = 5 * time.Second
	// retryMin and retryMax bound the pause that a refused caller is told.
	retryMin = time.Second
	retryMax = time.Minute
)

// askState is whether calls of a version may ask the scheduler for an instance.
type askState int

const (
	open    askState = iota // as many at once as the window says
	shut                    // nobody until a pause is over: it refused
	probing                 // one asks whether it still refuses
)

// askEvent is what changes an askState.
type askEvent int

const (
	refused askEvent = iota
	probeBegun
	probePlaced
	probeRefused
	probeDropped // its call ended before the answer
)

// askMoves is the table of states. An event that a state does not list leaves it as
// it is: the answer to a question from before the state began.
var askMoves = map[askState]map[askEvent]askState{
	open:    {refused: shut},
	shut:    {probeBegun: probing},
	probing: {probePlaced: open, probeRefused: shut, probeDropped: shut},
}

// queue holds the calls of one version that wait, oldest first, and says who may ask
// the scheduler. It has no clock and is not safe for concurrent use.
type queue struct {
	calls  list.List // of *waiter
	asking int       // questions under way
	state  askState
	window int // of questions at once while open
	pause  time.Duration
	due    time.Time // when shut: the next question
	// refusal is why the last question failed, nil after one that did not.
	refusal   *wire.Error
	refusedAt time.Time
	// awaySince is when the first of the questions was asked that nobody answered.
	awaySince time.Time
	ended     rate // calls that end while others wait

	concurrency, maxInstances int // of the version; known once it is called
}

// waiter is a call that waits.
type waiter struct {
	seq uint64 // grows with every call
	// since is when the call came, and until when its patience ends. All calls of a
	// version are as patient, so that the first to come is the first to leave.
	since, until time.Time
	bytes        int64
	// turns has room for the one turn that ends the wait.
	turns chan turn
	place *list.Element // nil once the turn was given
}

// turn is what a call may do next: go to its ride, or ask the scheduler.
type turn struct {
	ride  ride
	fleet *fleet
	// asks says that the call asks; a prober asks for all that wait.
	asks, prober bool
	// err ends the call.
	err *refusal
}

func (q *queue) len() int { return q.calls.Len() }

// idle reports whether the queue says nothing that must be kept.
func (q *queue) idle() bool { return q.calls.Len() == 0 && q.asking == 0 }

// head is the oldest call that waits, or nil.
func (q *queue) head() *waiter {
	if e := q.calls.Front(); e != nil {
		return e.Value.(*waiter) //nolint:forcetypeassert // it holds nothing else
	}
	return nil
}

// terms notes what the version allows, from one of its calls.
func (q *queue) terms(c *Call) {
	q.concurrency, q.maxInstances = max(c.Concurrency, 1), c.Place.MaxInstances
	if q.window == 0 {
		q.window = wire.MaxPlacing
	}
}

// bound is how many calls may wait.
func (q *queue) bound() int {
	return max(wire.MinWaiting, wire.WaitingPerSlot*q.concurrency*q.maxInstances)
}

// push lets a call wait. One that waited before gets its old place.
func (q *queue) push(w *waiter) {
	for e := q.calls.Back(); e != nil; e = e.Prev() {
		if e.Value.(*waiter).seq < w.seq { //nolint:forcetypeassert // it holds nothing else
			w.place = q.calls.InsertAfter(w, e)
			return
		}
	}
	w.place = q.calls.PushFront(w)
}

// remove ends a wait.
func (q *queue) remove(w *waiter) {
	q.calls.Remove(w.place)
	w.place = nil
	if q.idle() {
		// Who comes later does not pay for how long others were refused.
		q.pause, q.ended = 0, rate{}
	}
}

// mayAsk reports whether the oldest of so many calls may ask the scheduler. There are
// that many instances of the version, and some of these start.
func (q *queue) mayAsk(calls, instances, starting int, now time.Time) bool {
	switch {
	case calls <= (q.asking+starting)*(q.concurrency-1):
		return false // those that start take all that wait
	case q.full(instances):
		return false
	case q.state == open:
		return q.asking < q.window
	}
	return q.state == shut && !now.Before(q.due)
}

// full reports whether so many instances and those asked for are all there may be.
func (q *queue) full(instances int) bool {
	return q.maxInstances > 0 && instances+q.asking >= q.maxInstances
}

// ask counts a question and says whether it is a probe.
func (q *queue) ask() (prober bool) {
	q.asking++
	return q.on(probeBegun)
}

// on takes an event and reports whether it changed the state.
func (q *queue) on(e askEvent) bool {
	next, ok := askMoves[q.state][e]
	if ok {
		q.state = next
	}
	return ok
}

// placedOne ends a question that brought an instance. After a probe questions grow
// from two at once, so that room for one does not bring sixteen.
func (q *queue) placedOne(prober bool) {
	q.asking--
	switch {
	case prober:
		q.on(probePlaced)
		q.window = 2
	case q.state == open:
		q.window = min(2*q.window, wire.MaxPlacing)
	default:
		return // it was asked before the refusal
	}
	q.pause, q.refusal, q.awaySince = 0, nil, time.Time{}
}

// refusedOne ends a question, asked at a moment, that failed.
func (q *queue) refusedOne(prober bool, asked, now time.Time, why *wire.Error) {
	q.asking--
	if why.Code != wire.CodeUnavailable {
		q.awaySince = time.Time{}
	} else if q.awaySince.IsZero() {
		q.awaySince = asked
	}
	if prober {
		q.on(probeRefused)
	} else if !q.on(refused) {
		q.refusal = why
		return
	}
	q.shutFor(now, why)
}

// nodesRefused notes that no node took a call, though the scheduler had placed it, and
// how often that has happened to it by now.
func (q *queue) nodesRefused(times int, now time.Time, why *wire.Error) {
	if q.on(refused) {
		q.pause = max(q.pause, probeMin<<min(times, 6)/4) // doubled below
		q.shutFor(now, why)
	}
}

func (q *queue) shutFor(now time.Time, why *wire.Error) {
	longest := probeMax
	if why.Code == wire.CodeUnavailable { // a new leader is there within moments
		longest = placePause
	}
	q.refusal, q.refusedAt = why, now
	q.pause = min(max(2*q.pause, probeMin), longest)
	q.due = now.Add(q.pause)
}

// droppedOne ends a question whose call is over.
func (q *queue) droppedOne(prober bool) {
	q.asking--
	if prober { // somebody else asks at once
		q.on(probeDropped)
	}
}

// nudge brings the next question forward, as there may be room now. It reports
// whether that changed anything.
func (q *queue) nudge() bool {
	due := q.refusedAt.Add(probeMin)
	if q.state != shut || !due.Before(q.due) {
		return false
	}
	q.due, q.pause = due, 0
	return true
}

// leaves is when a call gives up. lively says that instances of the version live, so
// that one of them may become free whatever the scheduler says.
func (q *queue) leaves(w *waiter, lively bool) time.Time {
	switch {
	case lively || q.refusal == nil:
	case hopeless(q.refusal):
		return w.since
	case q.refusal.Code == wire.CodeUnavailable:
		return earliest(w.until, latest(w.since, q.awaySince).Add(placeWait))
	}
	return w.until
}

func hopeless(e *wire.Error) bool { return e.RetryAfterMillis > hopelessPause.Milliseconds() }

func earliest(a, b time.Time) time.Time {
	if a.Before(b) {
		return a
	}
	return b
}

func latest(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// next is when something is due though nothing happens; calls wait.
func (q *queue) next(lively bool, now time.Time) time.Time {
	at := q.leaves(q.head(), lively)
	if q.state == shut && q.due.After(now) {
		at = earliest(at, q.due)
	}
	return at
}

// gaveUp is what a call is told that waited in vain.
func (q *queue) gaveUp(v wire.VersionID, instances int, since, until, now time.Time) *wire.Error {
	e := wire.Errorf(wire.CodeNoCapacity, "no instance of %s was ready; call again later", v)
	if q.refusal != nil {
		e.Code, e.Message, e.RetryAfterMillis = q.refusal.Code, q.refusal.Message, q.refusal.RetryAfterMillis
	} else if q.full(instances) {
		e = wire.Errorf(wire.CodeThrottled, "%s has %d of at most %d instances, and all are busy; call again later or raise maxInstances",
			v, instances+q.asking, q.maxInstances)
	}
	if waited := now.Sub(since); waited >= time.Millisecond {
		e.Message = fmt.Sprintf("after %s of waiting: %s", round(waited), e.Message)
	}
	if e.Code == wire.CodeThrottled {
		e.RetryAfterMillis = max(e.RetryAfterMillis, q.retryAfter(until.Sub(since), now).Milliseconds())
	}
	return e
}

// overfull is what a call is told that may not wait.
func (q *queue) overfull(v wire.VersionID, timeout time.Duration, now time.Time) *wire.Error {
	after := q.retryAfter(timeout, now)
	e := wire.Errorf(wire.CodeThrottled, "%d calls wait for an instance of %s, which is the most; call again in %s, or raise maxInstances",
		q.len(), v, round(after))
	e.RetryAfterMillis = after.Milliseconds()
	return e
}

// retryAfter is how long those that wait will take, as fast as calls ended lately.
func (q *queue) retryAfter(timeout time.Duration, now time.Time) time.Duration {
	after := timeout
	if perSecond := q.ended.perSecond(now); perSecond > 0 {
		after = time.Duration(min(float64(q.len())/perSecond, retryMax.Seconds()) * float64(time.Second))
	}
	return min(max(after, retryMin), retryMax)
}

// round leaves two digits or so for people to read.
func round(d time.Duration) time.Duration {
	if d < time.Second {
		return d.Round(time.Millisecond)
	}
	return d.Round(100 * time.Millisecond)
}

// rateMemory is the time constant of a [rate].
const rateMemory = 10 * time.Second

// rate counts events, the older the less. The zero value is ready.
type rate struct {
	since, last time.Time
	count       float64
}

func (r *rate) add(now time.Time) {
	if r.since.IsZero() {
		r.since, r.last = now, now
	}
	r.count = r.count*decay(now.Sub(r.last)) + 1
	r.last = now
}

// perSecond is zero until there is something to go by.
func (r *rate) perSecond(now time.Time) float64 {
	span := 1 - decay(now.Sub(r.since)) // of the memory that is filled
	if r.since.IsZero() || span <= 0 {
		return 0
	}
	return r.count * decay(now.Sub(r.last)) / (rateMemory.Seconds() * span)
}

func decay(d time.Duration) float64 { return math.Exp(-d.Seconds() / rateMemory.Seconds()) }
