package dispatch

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/dayfly-run/dayfly/wire"
)

// TestBurst: many calls of a function never called before are all answered, by as
// many instances as there may be, in the order in which they came.
func TestBurst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newScene(t, 5)
		s.start(0, 400, limited(125, 1, time.Minute), 10*time.Millisecond, alive, s.mustServe)
		s.calls.Wait()
		// The version may have 125 instances, the scheduler has room for 5 only.
		if s.most != 5 || len(s.asked) > 5+2*wire.MaxPlacing {
			t.Errorf("%d instances, %d questions", s.most, len(s.asked))
		}
		for i := 1; i < len(s.order); i++ {
			if s.order[i] < s.order[i-1]-wire.MaxPlacing {
				t.Errorf("call %d came after call %d", s.order[i], s.order[i-1])
			}
		}
		s.wantIdle()
	})
}

// TestOrder: one instance, and so strictly one after the other.
func TestOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newScene(t, 1)
		s.start(0, 50, limited(1, 1, time.Minute), 10*time.Millisecond, alive, s.mustServe)
		s.calls.Wait()
		for i, n := range s.order {
			if i != n {
				t.Fatalf("order %v", s.order)
			}
		}
		if len(s.asked) != 1 { // that the one instance is all is known here
			t.Errorf("the scheduler was asked %d times", len(s.asked))
		}
		s.wantIdle()
	})
}

// TestInstancesForOneEvent are never free: each call waits for room to start one.
func TestInstancesForOneEvent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newScene(t, 3)
		s.start(0, 60, limited(3, 1, time.Minute), 10*time.Millisecond, dead, s.mustServe)
		s.calls.Wait()
		if s.most != 3 || len(s.asked) != 60 || len(s.order) != 60 {
			t.Errorf("%d instances, %d questions for %d calls", s.most, len(s.asked), len(s.order))
		}
		s.wantIdle()
	})
}

// TestConcurrencySparesInstances: calls wait for instances that start when these take
// them all.
func TestConcurrencySparesInstances(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newScene(t, 50)
		s.start(0, 40, limited(50, 10, time.Minute), time.Second, alive, s.mustServe)
		if len(s.asked) != 4 {
			t.Errorf("the scheduler was asked %d times, want 4 instances of 10 for 40 calls", len(s.asked))
		}
		<-time.After(2 * time.Millisecond)
		// The node says that they run: the others need not wait for the first ones' end.
		s.say(40, 0, "l1", "l2", "l3", "l4")
		synctest.Wait()
		if len(s.order) != 40 {
			t.Errorf("%d calls run, want 40", len(s.order))
		}
		s.calls.Wait()
		s.wantIdle()
	})
}

// TestPatienceEnds after the function's own timeout, with the reason.
func TestPatienceEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newScene(t, 1)
		s.start(0, 1, limited(9, 1, time.Minute), 10*time.Second, alive, s.mustServe)
		<-time.After(10 * time.Millisecond)
		s.start(1, 4, limited(9, 1, 1500*time.Millisecond), 0, alive, func(_ int, err error) {
			wantCode(t, err, wire.CodeThrottled, true)
			e := wire.AsError(err)
			if !strings.HasPrefix(e.Message, "after 1.5s of waiting: all of 1 instances are there") || e.RetryAfterMillis < 1000 {
				t.Errorf("%+v", e)
			}
			if took := time.Since(s.begun); took != 1510*time.Millisecond {
				t.Errorf("gave up after %s", took)
			}
		})
		s.calls.Wait()
		// At first, then 25, 50, 100, 200 and 400 ms after the answer before, and every
		// half second.
		if n := len(s.asked); n < 6 || n > 12 {
			t.Errorf("asked at %v", s.asked)
		}
		s.wantIdle()
	})
}

// TestFullVersionSaysSo without asking a scheduler.
func TestFullVersionSaysSo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newScene(t, 1)
		s.start(0, 1, limited(1, 1, time.Minute), 10*time.Second, alive, s.mustServe)
		s.start(1, 2, limited(1, 1, time.Second), 0, alive, func(_ int, err error) {
			wantCode(t, err, wire.CodeThrottled, true)
			if !strings.Contains(err.Error(), "after 1s of waiting: x:1 has 1 of at most 1 instances") {
				t.Error(err)
			}
		})
		s.calls.Wait()
		if len(s.asked) != 1 {
			t.Errorf("asked at %v", s.asked)
		}
	})
}

// TestTooManyWait: beyond the bound a call is refused at once, and told when to come
// back by how fast calls end.
func TestTooManyWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newScene(t, 1)
		c := limited(1, 1, time.Hour)
		s.start(0, 1+wire.MinWaiting, c, time.Second, alive, s.mustServe)
		refuse := func(wantMillis ...int64) {
			t.Helper()
			_, err := s.enter(context.Background(), &c, new(ticket))
			wantCode(t, err, wire.CodeThrottled, true)
			if after := wire.AsError(err).RetryAfterMillis; after < wantMillis[0] || after > wantMillis[1] {
				t.Errorf("come back in %d ms, want %v", after, wantMillis)
			}
		}
		refuse(60_000, 60_000) // nothing is known: as long as a call may take, but no more than a minute
		<-time.After(60*time.Second + time.Millisecond)
		s.start(200, 260, c, time.Second, alive, s.mustServe)
		refuse(60_000, 60_000) // a thousand at one a second
		s.calls.Wait()
		s.wantIdle()

		s = newScene(t, 10)
		c = limited(10, 1, time.Hour)
		s.start(0, 10+wire.MinWaiting, c, 100*time.Millisecond, alive, s.mustServe)
		<-time.After(550 * time.Millisecond)
		s.start(200, 250, c, 100*time.Millisecond, alive, s.mustServe)
		refuse(9_000, 13_000) // a thousand at a hundred a second
		s.calls.Wait()
	})
}

// TestGatewayBounds hold for all versions together.
func TestGatewayBounds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newAdmission()
		ctx, cancel := context.WithCancelCause(t.Context())
		var calls sync.WaitGroup
		enter := func(n int, payload []byte) error {
			c := Call{Timeout: time.Minute, Payload: payload, Place: wire.PlaceRequest{Version: version(n)}}
			var tk ticket
			for {
				got, err := a.enter(ctx, &c, &tk)
				if err != nil {
					return err
				}
				tk.refused, tk.question, tk.asked = wire.Errorf(wire.CodeNoCapacity, "no room"), got, time.Now()
			}
		}
		payload := make([]byte, 8<<20)
		for n := range wire.MaxWaitingBytes / len(payload) {
			calls.Go(func() { _ = enter(n+1, payload) })
		}
		synctest.Wait()
		c := Call{Timeout: time.Minute, Payload: []byte("{}"), Place: wire.PlaceRequest{Version: version(1)}}
		_, err := a.enter(ctx, &c, new(ticket))
		wantCode(t, err, wire.CodeThrottled, true)
		if !strings.Contains(err.Error(), "32 calls with 256 MiB wait in this gateway") {
			t.Error(err)
		}
		for n := range wire.MaxWaiting - a.count() {
			calls.Go(func() { _ = enter(1000+n/50, nil) })
		}
		synctest.Wait()
		if n := a.count(); n != wire.MaxWaiting {
			t.Fatalf("%d calls wait", n)
		}
		c.Payload = nil
		_, err = a.enter(ctx, &c, new(ticket))
		wantCode(t, err, wire.CodeThrottled, true)
		cancel(errors.New("the test is over"))
		calls.Wait()
		if a.waiting != 0 || a.held != 0 || len(a.queues) != 0 || len(a.routes.fleets) != 0 {
			t.Errorf("%d calls with %d bytes in %d queues wait, %d fleets", a.waiting, a.held, len(a.queues), len(a.routes.fleets))
		}
	})
}

// TestSchedulerIsAwayWhileCallsWait: without an instance they give up soon, with one
// they wait for it.
func TestSchedulerIsAwayWhileCallsWait(t *testing.T) {
	away := wire.Errorf(wire.CodeUnavailable, "no scheduler answers")
	synctest.Test(t, func(t *testing.T) {
		s := newScene(t, 1)
		s.refusal = away
		var gaveUp atomic.Int64
		giveUp := func(_ int, err error) {
			wantCode(t, err, wire.CodeUnavailable, true)
			if took := time.Since(s.begun); took < placeWait || took > placeWait+placePause {
				t.Errorf("gave up after %s", took)
			}
			gaveUp.Add(1)
		}
		s.start(0, 30, limited(9, 1, time.Minute), time.Second, alive, giveUp)
		s.calls.Wait()
		if most := wire.MaxPlacing + int(placeWait/placePause) + 1; gaveUp.Load() != 30 || len(s.asked) > most {
			t.Errorf("%d calls gave up, after %d questions", gaveUp.Load(), len(s.asked))
		}
		s.admission.mu.Lock()
		left := len(s.routes.fleets)
		s.admission.mu.Unlock()
		if left != 0 {
			t.Errorf("%d fleets are left", left)
		}
	})
	synctest.Test(t, func(t *testing.T) {
		s := newScene(t, 0)
		s.refusal = away
		s.say(1, 0)
		s.start(0, 10, limited(9, 1, time.Minute), 2*time.Second, alive, s.mustServe)
		s.calls.Wait()
		s.wantIdle()
	})
	synctest.Test(t, func(t *testing.T) { // it comes back
		s := newScene(t, 9)
		s.refusal = away
		s.start(0, 9, limited(9, 1, time.Minute), time.Second, alive, s.mustServe)
		<-time.After(3 * time.Second)
		s.allow(9)
		back := time.Now()
		s.calls.Wait()
		if took := time.Since(back); took > 1200*time.Millisecond {
			t.Errorf("the calls ended %s after the scheduler was back", took)
		}
		s.wantIdle()
	})
}

// TestHopelessCallsDoNotWait: what no node will ever hold is refused at once.
func TestHopelessCallsDoNotWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newScene(t, 9)
		s.refusal = wire.Errorf(wire.CodeNoCapacity, "no node is large enough")
		s.refusal.RetryAfterMillis = 30_000
		s.start(0, 40, limited(9, 1, time.Minute), time.Second, alive, func(_ int, err error) {
			wantCode(t, err, wire.CodeNoCapacity, true)
			if e := wire.AsError(err); e.RetryAfterMillis != 30_000 || time.Since(s.begun) > 10*time.Millisecond {
				t.Errorf("after %s: %+v", time.Since(s.begun), e)
			}
		})
		s.calls.Wait()
	})
}

// TestRoomIsNoticed soon when a node says that it has more, however long the pause
// between two questions is by then.
func TestRoomIsNoticed(t *testing.T) {
	for name, say := range map[string]func(*scene){
		"reserved shrinks": func(s *scene) { s.say(0, 50) },
		"a node comes": func(s *scene) {
			s.heard(wire.NodeState{Node: "b", Run: "r1", Protocol: wire.Protocol, Seq: 1}, time.Now())
		},
		"idle grows": func(s *scene) {
			s.heard(wire.NodeState{Node: "a", Run: "r1", Protocol: wire.Protocol, Seq: 99, Reserved: wire.Resources{MemoryBytes: 100}, Idle: wire.Resources{MemoryBytes: 1}}, time.Now())
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newScene(t, 9)
				s.refusal = wire.Errorf(wire.CodeNoCapacity, "no room")
				s.say(0, 100)
				s.start(0, 5, limited(9, 1, time.Minute), time.Second, alive, s.mustServe)
				<-time.After(10*time.Second + 30*time.Millisecond)
				stopped := s.beat(time.Second / 2) // heartbeats that say nothing new change nothing
				<-time.After(time.Second)
				stopped()
				before := len(s.questions())
				s.allow(9)
				room := time.Now()
				say(s)
				synctest.Wait()
				<-time.After(probeMin + time.Millisecond)
				synctest.Wait()
				if n := len(s.questions()) - before; n < 1 {
					t.Errorf("%s later nobody has asked", time.Since(room))
				}
				s.calls.Wait()
				if took := time.Since(room); took > 1100*time.Millisecond {
					t.Errorf("the calls ended %s after there was room", took)
				}
				if before > 30 {
					t.Errorf("%d questions in 11 seconds", before)
				}
			})
		})
	}
}

// TestNodeIsLostWhileOthersWait: they go on waiting, and run elsewhere.
func TestNodeIsLostWhileOthersWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newScene(t, 0)
		s.say(2, 0)
		s.start(0, 6, limited(2, 1, time.Minute), 10*time.Second, dead, s.mustServe)
		if len(s.questions()) != 0 {
			t.Errorf("asked at %v, though all instances are known", s.asked)
		}
		<-time.After(wire.NodeLostAfter + time.Millisecond)
		s.expire(time.Now().Add(-wire.NodeLostAfter), time.Now())
		synctest.Wait()
		if n := len(s.questions()); n == 0 {
			t.Error("nobody asks for another instance")
		}
		s.heard(wire.NodeState{Node: "b", Run: "r1", Protocol: wire.Protocol, Seq: 1, Versions: []wire.VersionOnNode{{Version: version(1), Slots: 4}}}, time.Now())
		<-time.After(2 * time.Millisecond) // two have asked
		synctest.Wait()
		if len(s.order) != 6 {
			t.Errorf("calls %v run", s.order)
		}
		s.calls.Wait()
	})
}

// TestCallersThatLeave lose their place at once, and nothing else is lost.
func TestCallersThatLeave(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newScene(t, 1)
		s.start(0, 1, limited(1, 1, time.Minute), time.Second, alive, s.mustServe)
		gone := make(chan struct{})
		c := limited(1, 1, time.Minute)
		c.Gone = gone
		s.start(1, 3, c, time.Second, alive, func(_ int, err error) {
			wantCode(t, err, wire.CodeUnavailable, true)
			if time.Since(s.begun) != 0 {
				t.Errorf("left after %s", time.Since(s.begun))
			}
		})
		s.start(3, 4, limited(1, 1, time.Minute), time.Second, alive, s.mustServe)
		if n := s.count(); n != 3 {
			t.Fatalf("%d calls wait", n)
		}
		close(gone)
		synctest.Wait()
		if n := s.count(); n != 1 {
			t.Errorf("%d calls wait", n)
		}
		s.calls.Wait()
		if fmt.Sprint(s.order) != "[0 3]" {
			t.Errorf("calls %v ran", s.order)
		}
		s.wantIdle()
	})
}

// TestTurnsOfThoseWhoLeave go to the next: a caller may leave in the moment in which
// its turn comes.
func TestTurnsOfThoseWhoLeave(t *testing.T) {
	for range 50 {
		synctest.Test(t, func(t *testing.T) {
			s := newScene(t, 1)
			s.say(1, 0)
			r := s.routes.take(version(1))
			ctx, cancel := context.WithCancelCause(t.Context())
			c := limited(1, 1, time.Minute)
			s.calls.Go(func() {
				err := s.run(ctx, 0, c, time.Second, alive)
				if err != nil && !strings.Contains(err.Error(), "all is over") {
					t.Error(err)
				}
			})
			synctest.Wait()
			s.start(1, 2, c, time.Second, alive, s.mustServe)
			s.done(*r, alive, 0)
			cancel(errors.New("all is over"))
			s.calls.Wait()
			if took := time.Since(s.begun); took > 2*time.Second {
				t.Errorf("the second call ended after %s", took)
			}
			s.wantIdle()
		})
	}
}

// TestCallersDeadline is as good as the function's.
func TestCallersDeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newScene(t, 0)
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer cancel()
		err := s.run(ctx, 0, limited(9, 1, time.Minute), 0, alive)
		wantCode(t, err, wire.CodeThrottled, true)
		if took := time.Since(s.begun); took != 100*time.Millisecond {
			t.Errorf("after %s", took)
		}
	})
}

// TestClose turns away all that wait, and all that would.
func TestClose(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newScene(t, 1)
		c := limited(1, 1, time.Minute)
		s.start(0, 1, c, time.Second, alive, s.mustServe)
		stopped := func(_ int, err error) {
			wantCode(t, err, wire.CodeUnavailable, true)
			if time.Since(s.begun) != 0 {
				t.Errorf("after %s", time.Since(s.begun))
			}
		}
		s.start(1, 9, c, 0, alive, stopped)
		s.close()
		s.start(9, 10, c, 0, alive, stopped)
		s.calls.Wait()
		s.wantIdle()
		if err := s.run(t.Context(), 10, c, 0, alive); err != nil {
			t.Errorf("a call that need not wait: %v", err)
		}
	})
}

// heard takes a node's whole state.
func (a *admission) heard(s wire.NodeState, now time.Time) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.apply(s, now)
}
