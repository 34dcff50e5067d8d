package scheduler

import (
	"context"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
	"pgregory.net/rapid"

	"github.com/dayfly-run/dayfly/internal/embed/embedtest"
)

func TestMain(m *testing.M) {
	if runChild() || embedtest.RunServer() {
		return
	}
	goleak.VerifyTestMain(m)
}

func TestElectionKeepsEpoch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newCandidate(&leaseKey{}, "a")
		a.start(t)
		synctest.Wait()
		if !a.leads() {
			t.Fatal("does not lead at once without others")
		}
		epoch := a.epoch()
		after(time.Minute)
		if !a.leads() || a.epoch() != epoch || len(a.reigns) != 1 || a.key.revision <= epoch {
			t.Errorf("after a minute: leads %t, epoch %d, was %d, %d reigns, revision %d",
				a.leads(), a.epoch(), epoch, len(a.reigns), a.key.revision)
		}
		want := fmt.Sprintf(`{"holder":"a","epoch":%d}`, epoch)
		if got := string(a.key.value); got != want {
			t.Errorf("lease %s, want %s", got, want)
		}
	})
}

func TestElectionHandsOver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		key := &leaseKey{}
		a, b := newCandidate(key, "a"), newCandidate(key, "b")
		stop := a.start(t)
		synctest.Wait()
		b.start(t)
		after(10 * time.Second)
		if !a.leads() || b.leads() || !b.otherLeads(time.Now()) || a.otherLeads(time.Now()) {
			t.Fatalf("a leads %t, b leads %t", a.leads(), b.leads())
		}
		begun := time.Now()
		stop()
		synctest.Wait()
		if !a.lastWord {
			t.Error("did not answer what was there when it stopped")
		}
		if took := time.Since(begun); a.leads() || !b.leads() || b.epoch() <= a.epoch() || took > 0 {
			t.Errorf("after %s: a leads %t, b leads %t, epochs %d and %d", took, a.leads(), b.leads(), a.epoch(), b.epoch())
		}
	})
}

func TestElectionCutOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		key := &leaseKey{}
		a, b := newCandidate(key, "a"), newCandidate(key, "b")
		a.start(t)
		synctest.Wait()
		b.start(t)
		after(500 * time.Millisecond)
		a.set(true, false)
		after(1600 * time.Millisecond)
		if a.leads() || a.serving != nil {
			t.Error("still leads 2.1 s after the last success")
		}
		if b.leads() {
			t.Error("the other leads before the lease has ended")
		}
		after(1200 * time.Millisecond)
		if !b.leads() {
			t.Error("nobody leads 3.3 s after the last renewal")
		}
		a.set(false, false)
		after(time.Minute)
		if a.leads() || !b.leads() || len(b.reigns) != 1 {
			t.Errorf("later: a leads %t, b leads %t in reign %d", a.leads(), b.leads(), len(b.reigns))
		}
	})
}

func TestElectionLeaseTaken(t *testing.T) {
	for name, value := range map[string]string{
		"overwritten": `{"holder":"thief","epoch":77}`,
		"garbage":     `?`,
		"deleted":     "",
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				a := newCandidate(&leaseKey{}, "a")
				a.start(t)
				synctest.Wait()
				first := a.epoch()
				a.key.mu.Lock()
				a.key.write([]byte(value), value == "")
				a.key.mu.Unlock()
				synctest.Wait()
				if a.leads() || a.lastWord {
					t.Error("answers without the lease")
				}
				after(testTTL + time.Second)
				if !a.leads() || a.epoch() <= first {
					t.Errorf("leads again: %t, epoch %d after %d", a.leads(), a.epoch(), first)
				}
			})
		})
	}
}

func TestElectionLosesAnswers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newCandidate(&leaseKey{}, "a")
		a.set(false, true) // the key is created, but nobody tells
		a.start(t)
		synctest.Wait()
		first := a.epoch()
		if !a.leads() || first < 2 {
			t.Fatalf("waits for its own forgotten lease: leads %t in epoch %d", a.leads(), first)
		}
		after(time.Second)
		a.set(false, true) // the next renewal
		after(1100 * time.Millisecond)
		if a.leads() {
			t.Error("leads without knowing the revision of its lease")
		}
		after(time.Second)
		if !a.leads() || a.epoch() <= first {
			t.Errorf("leads again: %t, epoch %d after %d", a.leads(), a.epoch(), first)
		}
	})
}

func TestElectionCannotServe(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		key := &leaseKey{}
		a, b := newCandidate(key, "a"), newCandidate(key, "b")
		tries := 0
		a.serve = func(context.Context, *reign) error { tries++; return errLost }
		a.start(t)
		synctest.Wait()
		b.start(t)
		after(10 * time.Second)
		if !b.leads() || tries != 1 {
			t.Errorf("the other leads %t after %d tries of the first", b.leads(), tries)
		}
	})
}

func TestElectionStopWhileCutOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newCandidate(&leaseKey{}, "a")
		stop := a.start(t)
		synctest.Wait()
		a.set(true, false)
		begun := time.Now()
		stop()
		if took := time.Since(begun); took > time.Second || a.leads() {
			t.Errorf("stopped after %s, leads %t", took, a.leads())
		}
	})
}

// TestElectionOneLeads cuts three candidates off and on, loses answers and
// steals the lease, and looks every 20 ms that at most one would answer, and
// that epochs grow.
func TestElectionOneLeads(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		type event struct {
			pause     time.Duration
			who       int
			cut, deaf bool
			deleted   bool
		}
		events := rapid.SliceOfN(rapid.Custom(func(t *rapid.T) event {
			return event{
				pause:   time.Duration(rapid.IntRange(1, 200).Draw(t, "pause in 20 ms")) * 20 * time.Millisecond,
				who:     rapid.IntRange(0, 2).Draw(t, "who"),
				cut:     rapid.Bool().Draw(t, "cut"),
				deaf:    rapid.Bool().Draw(t, "deaf"),
				deleted: rapid.IntRange(0, 9).Draw(t, "deleted") == 0,
			}
		}), 1, 12).Draw(rt, "events")
		var found string
		synctest.Test(t, func(t *testing.T) {
			key := &leaseKey{}
			all := []*candidate{newCandidate(key, "a"), newCandidate(key, "b"), newCandidate(key, "c")}
			for _, c := range all {
				c.start(t)
			}
			highest, stolen := uint64(0), false
			look := func() {
				var leading []uint64
				for _, c := range all {
					if c.leads() {
						leading = append(leading, c.epoch())
					}
				}
				// Who is cut off cannot know that its lease was deleted: then
				// only the epochs tell, so two may lead for a while.
				if len(leading) > 1 && !stolen {
					found = fmt.Sprintf("%d lead: epochs %v", len(leading), leading)
				}
				if len(leading) == 1 && !stolen {
					if leading[0] < highest {
						found = fmt.Sprintf("epoch %d after %d", leading[0], highest)
					}
					highest = leading[0]
				}
			}
			for _, e := range events {
				all[e.who].set(e.cut, e.deaf)
				if e.deleted {
					key.mu.Lock()
					key.write(nil, true)
					key.mu.Unlock()
					stolen = true
				}
				for range e.pause / (20 * time.Millisecond) {
					after(20 * time.Millisecond)
					look()
				}
			}
			for _, c := range all {
				c.set(false, false)
			}
			after(2 * testTTL)
			stolen = false
			highest = 0
			look()
			leads := 0
			for _, c := range all {
				if c.leads() {
					leads++
				}
			}
			if leads != 1 && found == "" {
				found = fmt.Sprintf("%d lead once all is well", leads)
			}
		})
		if found != "" {
			rt.Fatal(found)
		}
	})
}
