package dispatch

import (
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/dayfly-run/dayfly/wire"
)

// TestAskMoves goes through the whole table: what it does not list changes nothing.
func TestAskMoves(t *testing.T) {
	want := map[askState][]askState{ // by event, in their order
		open:    {refused: shut, probeBegun: open, probePlaced: open, probeRefused: open, probeDropped: open},
		shut:    {refused: shut, probeBegun: probing, probePlaced: shut, probeRefused: shut, probeDropped: shut},
		probing: {refused: probing, probeBegun: probing, probePlaced: open, probeRefused: shut, probeDropped: shut},
	}
	for from, row := range want {
		for e, to := range row {
			q := queue{state: from}
			if moved := q.on(askEvent(e)); q.state != to || !moved && to != from {
				t.Errorf("state %d, event %d: state %d, want %d", from, e, q.state, to)
			}
		}
	}
}

// question is one that is under way.
type question struct {
	prober bool
	asked  time.Time
}

// TestQueueHolds drives a queue at random, beside a model of it.
func TestQueueHolds(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		q, now := &queue{}, begin
		c := limited(rapid.IntRange(0, 40).Draw(t, "maxInstances"), rapid.IntRange(1, 3).Draw(t, "concurrency"), time.Minute)
		q.terms(&c)
		var waiting []*waiter // in order
		var under []question
		var outside []*waiter // asked and may come back
		var lastRefused time.Time
		seq := uint64(0)
		t.Repeat(map[string]func(*rapid.T){
			"come": func(*rapid.T) {
				seq++
				w := &waiter{seq: seq, since: now, until: now.Add(time.Minute)}
				q.push(w)
				waiting = append(waiting, w)
			},
			"leave": func(t *rapid.T) {
				if len(waiting) == 0 {
					return
				}
				i := rapid.IntRange(0, len(waiting)-1).Draw(t, "who")
				q.remove(waiting[i])
				waiting = slices.Delete(waiting, i, i+1)
			},
			"ask": func(t *rapid.T) {
				instances := rapid.IntRange(0, 3).Draw(t, "instances")
				if len(waiting) == 0 || !q.mayAsk(len(waiting), instances, 0, now) {
					return
				}
				full := c.Place.MaxInstances > 0 && instances+len(under) >= c.Place.MaxInstances
				if full || len(under) >= wire.MaxPlacing+1 || len(waiting) <= len(under)*(c.Concurrency-1) {
					t.Fatalf("asks with %d waiting, %d under way and %d instances of %d", len(waiting), len(under), instances, c.Place.MaxInstances)
				}
				prober := q.ask()
				if prober && (slices.ContainsFunc(under, func(u question) bool { return u.prober }) || now.Sub(lastRefused) < probeMin) {
					t.Fatalf("a probe %s after the last refusal, %v under way", now.Sub(lastRefused), under)
				}
				under = append(under, question{prober, now})
				q.remove(waiting[0])
				outside = append(outside, waiting[0])
				waiting = waiting[1:]
			},
			"answer": func(t *rapid.T) {
				if len(under) == 0 {
					return
				}
				i := rapid.IntRange(0, len(under)-1).Draw(t, "which")
				u, w := under[i], outside[i]
				under, outside = slices.Delete(under, i, i+1), slices.Delete(outside, i, i+1)
				switch rapid.SampledFrom([]string{"placed", "refused", "away", "dropped"}).Draw(t, "answer") {
				case "placed":
					q.placedOne(u.prober)
				case "dropped":
					q.droppedOne(u.prober)
				case "away":
					q.refusedOne(u.prober, u.asked, now, wire.Errorf(wire.CodeUnavailable, "away"))
					waiting = comeBack(q, waiting, w)
				default:
					before := q.state
					q.refusedOne(u.prober, u.asked, now, wire.Errorf(wire.CodeThrottled, "no"))
					if before == open || u.prober {
						lastRefused = now
					}
					waiting = comeBack(q, waiting, w)
				}
			},
			"nudge": func(*rapid.T) { q.nudge() },
			"pass time": func(t *rapid.T) {
				now = now.Add(time.Duration(rapid.IntRange(1, 600).Draw(t, "ms")) * time.Millisecond)
			},
			"": func(t *rapid.T) {
				if q.len() != len(waiting) || q.asking != len(under) {
					t.Fatalf("%d wait and %d ask; want %d and %d", q.len(), q.asking, len(waiting), len(under))
				}
				i := 0
				for e := q.calls.Front(); e != nil; e = e.Next() {
					if e.Value != waiting[i] {
						t.Fatalf("the call at place %d is another one", i)
					}
					i++
				}
				probes := slices.ContainsFunc(under, func(u question) bool { return u.prober })
				if probes != (q.state == probing) {
					t.Fatalf("state %d, %v under way", q.state, under)
				}
				if q.state == shut && (q.refusal == nil || q.due.Sub(now) > probeMax) {
					t.Fatalf("shut for %s because of %v", q.due.Sub(now), q.refusal)
				}
			},
		})
	})
}

// comeBack puts a call that was refused where it was.
func comeBack(q *queue, waiting []*waiter, w *waiter) []*waiter {
	q.push(w)
	i, _ := slices.BinarySearchFunc(waiting, w, func(a, b *waiter) int { return int(a.seq) - int(b.seq) })
	return slices.Insert(waiting, i, w)
}

func TestPausesGrow(t *testing.T) {
	q := &queue{}
	c := limited(0, 1, time.Minute)
	q.terms(&c)
	q.push(&waiter{seq: 1, since: begin, until: begin.Add(time.Minute)})
	for i, want := range []int64{25, 50, 100, 200, 400, 500, 500} {
		prober := q.ask()
		if prober != (i > 0) {
			t.Fatalf("question %d is a probe: %t", i, prober)
		}
		q.refusedOne(prober, begin, begin, wire.Errorf(wire.CodeNoCapacity, "no"))
		if got := q.due.Sub(begin).Milliseconds(); got != want {
			t.Errorf("pause %d is %d ms", i, got)
		}
	}
	if !q.nudge() || q.nudge() || q.due.Sub(begin) != probeMin {
		t.Errorf("after a nudge the pause is %s", q.due.Sub(begin))
	}
	q.ask()
	q.placedOne(true)
	if q.window != 2 || !q.mayAsk(9, 0, 0, begin) || q.refusal != nil {
		t.Errorf("after a place: window %d, refusal %v", q.window, q.refusal)
	}
	for range 9 {
		q.ask()
		q.placedOne(false)
	}
	if q.window != wire.MaxPlacing {
		t.Errorf("window %d", q.window)
	}
}

func TestRate(t *testing.T) {
	var r rate
	if got := r.perSecond(begin); got != 0 {
		t.Errorf("nothing happens %v times a second", got)
	}
	now := begin
	for range 500 { // five seconds at 100 a second
		now = now.Add(10 * time.Millisecond)
		r.add(now)
	}
	if got := r.perSecond(now); got < 95 || got > 105 {
		t.Errorf("%v a second, want 100", got)
	}
	if got := r.perSecond(now.Add(20 * time.Second)); got > 20 {
		t.Errorf("%v a second after a long pause", got)
	}
}
