package dispatch

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/dayfly-run/dayfly/wire"
)

// scene is an admission in a bubble of fake time, with one node "a" and a scheduler
// that are functions: what takes time there takes fake time.
type scene struct {
	*admission
	t *testing.T

	mu        sync.Mutex
	limit     int // of instances
	instances int
	most      int
	asked     []time.Duration // since the start
	refusal   *wire.Error     // what the scheduler says whatever the limit is
	begun     time.Time
	seq       atomic.Uint64 // of the node's last word
	order     []int         // the calls as they got their ride
	calls     sync.WaitGroup
}

func newScene(t *testing.T, limit int) *scene {
	t.Helper()
	s := &scene{admission: newAdmission(), t: t, limit: limit, begun: time.Now()}
	s.say(0, 0)
	return s
}

// say is the node's word: so many slots, and so much memory reserved.
func (s *scene) say(slots int, reserved int64, settled ...wire.LeaseID) {
	w := wire.NodeState{Node: "a", Run: "r1", Protocol: wire.Protocol, Seq: s.seq.Add(1), Reserved: wire.Resources{MemoryBytes: reserved}, Settled: settled}
	if slots > 0 {
		w.Versions = []wire.VersionOnNode{{Version: version(1), Slots: slots}}
	}
	s.heard(w, time.Now())
}

// decide is the scheduler: a question takes a millisecond.
func (s *scene) decide() (wire.PlaceReply, *wire.Error) {
	s.mu.Lock()
	s.asked = append(s.asked, time.Since(s.begun))
	lease := wire.LeaseID(fmt.Sprint("l", len(s.asked)))
	s.mu.Unlock()
	<-time.After(time.Millisecond)
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.refusal != nil:
		return wire.PlaceReply{}, s.refusal
	case s.instances >= s.limit:
		return wire.PlaceReply{}, wire.Errorf(wire.CodeThrottled, "all of %d instances are there", s.limit)
	}
	s.instances++
	s.most = max(s.most, s.instances)
	return wire.PlaceReply{Node: "a", Lease: lease}, nil
}

func (s *scene) questions() []time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.asked
}

// allow changes how many instances there may be.
func (s *scene) allow(limit int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.limit, s.refusal = limit, nil
}

// run is a call from its beginning to its end, as the dispatcher does it; n is its
// number, how what it leaves.
func (s *scene) run(ctx context.Context, n int, c Call, takes time.Duration, how outcome) error {
	var t ticket
	for {
		got, err := s.enter(ctx, &c, &t)
		if err != nil {
			return err
		}
		r := got.ride
		if got.asks {
			asked := time.Now()
			where, refused := s.decide()
			if refused != nil {
				t.refused, t.question, t.asked = refused, got, asked
				continue
			}
			r = s.placed(got, where, c.Concurrency)
		}
		s.mu.Lock()
		s.order = append(s.order, n)
		s.mu.Unlock()
		<-time.After(takes)
		if how == dead {
			s.mu.Lock()
			s.instances--
			s.mu.Unlock()
		}
		s.done(r, how, s.seq.Load())
		return nil
	}
}

// start runs calls with the numbers from..to at once, each entering after the one
// before. ended gets the error of each.
func (s *scene) start(from, to int, c Call, takes time.Duration, how outcome, ended func(n int, err error)) {
	for n := from; n < to; n++ {
		s.calls.Go(func() { ended(n, s.run(context.Background(), n, c, takes, how)) })
		synctest.Wait()
	}
}

func (s *scene) mustServe(n int, err error) {
	if err != nil {
		s.t.Errorf("call %d: %v", n, err)
	}
}

func limited(maxInstances, concurrency int, timeout time.Duration) Call {
	c := call("{}", timeout)
	c.Concurrency, c.Place.MaxInstances = concurrency, maxInstances
	return c
}

// wantIdle fails unless nothing waits and nothing is kept for what has ended.
func (s *scene) wantIdle() {
	s.t.Helper()
	s.admission.mu.Lock()
	defer s.admission.mu.Unlock()
	if s.waiting != 0 || s.held != 0 || len(s.queues) != 0 {
		s.t.Errorf("%d calls with %d bytes in %d queues wait", s.waiting, s.held, len(s.queues))
	}
	for _, f := range s.routes.fleets {
		if !f.queue.idle() || f.alarm.timer != nil || len(f.slots) == 0 {
			s.t.Errorf("%s: %d wait, %d ask, %d slots, timer %v", f.version, f.queue.len(), f.queue.asking, len(f.slots), f.alarm.timer)
		}
	}
}

// beat repeats the node's last word until it is stopped.
func (s *scene) beat(every time.Duration) (stop func()) {
	done := make(chan struct{})
	var beating sync.WaitGroup
	beating.Go(func() {
		tick := time.NewTicker(every)
		defer tick.Stop()
		for {
			select {
			case <-done:
				return
			case <-tick.C:
				s.say(0, 100)
			}
		}
	})
	return func() { close(done); beating.Wait() }
}
