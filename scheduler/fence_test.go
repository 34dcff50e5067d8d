package scheduler

import (
	"encoding/json"
	"log/slog"
	"strconv"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/dayfly-run/dayfly/internal/bus"
	"github.com/dayfly-run/dayfly/internal/roster"
	"github.com/dayfly-run/dayfly/wire"
)

func lostRun(run string, heard time.Time) lostNode { return lostNode{runOf{"n", run}, heard} }

func nobodyLeads(time.Time) bool   { return false }
func somebodyLeads(time.Time) bool { return true }

func TestFences(t *testing.T) {
	now := time.Now()
	f := newFences(4 * time.Second)
	f.reign = &reign{}
	f.miss(lostRun("a", now), now)
	f.miss(lostRun("back", now), now)
	f.miss(lostRun("later", now.Add(1)), now)
	f.settle(time.Time{})
	if over, _ := f.hear(runOf{"n", "back"}, nobodyLeads, now); over || f.over != 0 {
		t.Error("a run is over that was only missed")
	}
	f.settle(now.Add(1))
	f.settle(now.Add(1))
	if f.over != 1 {
		t.Errorf("%d runs are over", f.over)
	}
	type heard struct{ over, tell bool }
	for i, h := range []struct {
		of    runOf
		after time.Duration
		want  heard
	}{
		{runOf{"n", "back"}, 0, heard{}},
		{runOf{"n", "later"}, 0, heard{}},
		{runOf{"another", "a"}, 0, heard{}},
		{runOf{"n", "a"}, 0, heard{true, true}},
		{runOf{"n", "a"}, fenceEvery - 1, heard{over: true}},
		{runOf{"n", "a"}, fenceEvery, heard{true, true}},
		{runOf{"n", "a"}, fenceEvery + 1, heard{over: true}},
	} {
		if over, tell := f.hear(h.of, somebodyLeads, now.Add(h.after)); (heard{over, tell}) != h.want {
			t.Errorf("word %d: over %t, tell %t", i, over, tell)
		}
	}
}

func TestFencesAreBounded(t *testing.T) {
	now := time.Now()
	f := newFences(time.Second)
	f.miss(lostRun("a", now), now)
	f.settle(now.Add(1))
	f.miss(lostRun("b", now), now.Add(fencedFor))
	if over, _ := f.hear(runOf{"n", "a"}, nobodyLeads, now); !over {
		t.Error("forgotten too soon")
	}
	f.miss(lostRun("c", now), now.Add(fencedFor+1))
	if over, _ := f.hear(runOf{"n", "a"}, nobodyLeads, now); over || f.over != 0 {
		t.Error("never forgotten")
	}
	for i := range 2 * maxFenced {
		f.miss(lostRun(strconv.Itoa(i%maxFenced), now), now.Add(fencedFor+2))
		f.miss(lostRun(strconv.Itoa(i), now), now.Add(fencedFor+2))
	}
	f.settle(now.Add(1))
	if len(f.runs) != maxFenced || f.order.Len() != maxFenced || f.over != maxFenced {
		t.Errorf("%d runs are remembered, in an order of %d; %d are over", len(f.runs), f.order.Len(), f.over)
	}
	if over, _ := f.hear(runOf{"n", strconv.Itoa(2*maxFenced - 1)}, nobodyLeads, now); !over {
		t.Error("the newest one was forgotten")
	}
}

// A standby leaves a run to the leader that goes on with it, but not to one that is gone.
func TestRunsThatAnotherLeaderAccepts(t *testing.T) {
	const patience = 4 * time.Second
	for name, words := range map[string][]struct {
		at   time.Duration
		lead bool // another one does
		over bool
	}{
		"accepted":               {{0, true, true}, {patience, true, true}, {patience + 1, true, false}, {patience + 2, false, false}},
		"nobody leads":           {{0, false, true}, {time.Minute, false, true}},
		"the leader went":        {{0, true, true}, {patience, false, true}, {patience + 1, true, true}, {2*patience + 1, true, true}},
		"accepted by the second": {{0, false, true}, {1, true, true}, {patience + 2, true, false}},
	} {
		now := time.Now()
		f := newFences(patience)
		f.miss(lostRun("a", now), now)
		f.settle(now.Add(1))
		for i, w := range words {
			over, tell := f.hear(runOf{"n", "a"}, func(time.Time) bool { return w.lead }, now.Add(w.at))
			if over != w.over || tell {
				t.Errorf("%s, word %d: over %t, tell %t", name, i, over, tell)
			}
		}
	}
}

// observer is a scheduler that is told what it hears and sees. Its time is the bubble's.
type observer struct {
	*Scheduler
	t          *testing.T
	heard, led roster.Span
	seq        uint64
}

func observe(t *testing.T) *observer {
	t.Helper()
	log := slog.New(slog.DiscardHandler)
	return &observer{Scheduler: New(Config{}, Deps{Metrics: prometheus.NewRegistry(), Log: log}), t: t}
}

// pass lets time go by in which the nodes speak, and the lease is seen or not.
func (o *observer) pass(d time.Duration, lease bool, nodes ...wire.NodeID) {
	o.t.Helper()
	for range d / (250 * time.Millisecond) {
		after(250 * time.Millisecond)
		o.speak(nodes...)
		o.heard = o.heard.Extend(time.Now())
		if lease {
			o.led = o.led.Extend(time.Now())
		}
		o.judge(o.heard, o.led, time.Now())
	}
}

// speak has nodes say all of their state.
func (o *observer) speak(nodes ...wire.NodeID) {
	o.t.Helper()
	for _, id := range nodes {
		o.seq++
		st := stateOf(id, "r", o.seq)
		data, err := json.Marshal(wire.NodeWord{Whole: &st})
		if err != nil {
			o.t.Fatal(err)
		}
		o.hear(bus.Msg{Subject: wire.NodeStateSubject(id), Data: data})
	}
}

func (o *observer) want(when string, nodes, over int) {
	o.t.Helper()
	if o.nodes.len() != nodes || o.fences.over != over {
		o.t.Errorf("%s: %d nodes, %d runs over; want %d and %d", when, o.nodes.len(), o.fences.over, nodes, over)
	}
}

// leads makes it the leader from now on.
func (o *observer) leads() {
	r := &reign{epoch: 1, began: time.Now()}
	r.extend(time.Now().Add(time.Hour))
	o.reignOver(r)
}

// A standby remembers what it missed while another one led, so that it can end it later.
func TestStandbyEndsRuns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := observe(t)
		o.pass(10*time.Second, true, "a", "b")
		o.want("all speak", 2, 0)
		o.pass(wire.NodeLostAfter, true, "b")
		o.want("in time", 2, 0)
		o.pass(time.Second, true, "b")
		o.want("one is silent", 1, 1)
		o.leads()
		o.reignOver(nil)
		o.speak("a")
		o.want("it is back", 1, 1)
	})
}

// A node that went together with the leader is ended by the next one.
func TestNodeLostWithItsLeader(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := observe(t)
		o.pass(10*time.Second, true, "a", "b")
		o.pass(3*time.Second, false, "b")
		o.want("nobody leads", 1, 0)
		o.led = o.led.Extend(time.Now())
		o.leads()
		o.pass(wire.NodeLostAfter-250*time.Millisecond, true, "b")
		o.want("not for long", 1, 0)
		o.pass(500*time.Millisecond, true, "b")
		o.want("leading", 1, 1)
	})
}

// One that was cut off with a NATS server of its own ends nobody's run, whoever leads
// after that.
func TestSchedulerThatWasCutOffEndsNobody(t *testing.T) {
	for _, leads := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			o := observe(t)
			o.pass(10*time.Second, true, "a", "b", "c")
			o.pass(time.Minute, false, "c")
			o.want("cut off", 1, 0)
			o.led = o.led.Extend(time.Now()) // the first that it sees
			if leads {
				o.leads()
			}
			o.pass(500*time.Millisecond, true, "c")
			o.pass(time.Minute, true, "a", "b", "c")
			o.want("healed", 3, 0)
		})
	}
}

// A backlog of words makes nobody silent.
func TestSchedulerThatIsBehindEndsNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := observe(t)
		o.leads()
		o.pass(10*time.Second, true, "a", "b")
		for range 100 {
			after(250 * time.Millisecond)
			o.led = o.led.Extend(time.Now())
			o.judge(o.heard, o.led, time.Now()) // nothing more was heard
		}
		o.want("behind", 2, 0)
		o.pass(time.Second, true, "a") // which takes a moment, and the new beginning
		o.want("soon after", 2, 0)
		o.pass(2*wire.NodeLostAfter, true, "a")
		o.want("later", 1, 1)
	})
}

// What is written of the lease says that NATS decides here; what is seen again does not.
func TestElectionInTouch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newCandidate(&leaseKey{}, "a")
		see := func(revision uint64) roster.Span {
			a.see(bus.Entry{Key: wire.SchedulerLeaseKey, Revision: revision, Value: []byte(`{"holder":"b"}`)})
			return a.inTouch()
		}
		begin := time.Now()
		see(7)
		after(500 * time.Millisecond)
		if got, want := see(8), (roster.Span{From: begin, To: time.Now()}); got != want {
			t.Errorf("renewed: %+v, want %+v", got, want)
		}
		after(500 * time.Millisecond)
		if got := see(8); got.To.Equal(time.Now()) {
			t.Error("the same revision says something")
		}
		after(time.Minute)
		a.start(t)
		synctest.Wait()
		if !a.leads() {
			t.Fatal("does not lead")
		}
		from := time.Now()
		after(10 * time.Second)
		if got := a.inTouch(); !got.From.Equal(from) || time.Since(got.To) > time.Second {
			t.Errorf("leading: %+v, since %s", got, from)
		}
	})
}
