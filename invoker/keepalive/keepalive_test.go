package keepalive

import (
	"fmt"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/dayfly-run/dayfly/wire"
)

const mib = 1 << 20

// script drives a policy by hand.
type script struct {
	*Policy
	now time.Time
	n   int
}

func newScript(limits Limits) *script { return &script{Policy: New(limits), now: epoch} }

func (s *script) pass(d time.Duration) { s.now = s.now.Add(d) }

// cold starts an instance for a call.
func (s *script) cold(version int, bytes int64, cost time.Duration) wire.InstanceID {
	s.n++
	id := wire.InstanceID(fmt.Sprintf("%s-%d", versionID(version).Name, s.n))
	s.Start(id, versionID(version), bytes, s.now)
	s.Measured(id, cost)
	return id
}

// call uses an idle instance for a moment.
func (s *script) call(id wire.InstanceID) {
	s.Busy(id, s.now)
	s.Idle(id, s.now)
}

func (s *script) order() []wire.InstanceID { return slices.Collect(s.Victims(s.now)) }

func TestOrder(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		bytes [2]int64
		cost  [2]time.Duration
		every [2]int // seconds between calls
	}{
		"the larger goes first":          {[2]int64{200 * mib, 100 * mib}, [2]time.Duration{time.Second, time.Second}, [2]int{10, 10}},
		"the cheaper goes first":         {[2]int64{100 * mib, 100 * mib}, [2]time.Duration{time.Second, 2 * time.Second}, [2]int{10, 10}},
		"the less frequent goes first":   {[2]int64{100 * mib, 100 * mib}, [2]time.Duration{time.Second, time.Second}, [2]int{60, 10}},
		"frequency counts against price": {[2]int64{100 * mib, 100 * mib}, [2]time.Duration{2 * time.Second, time.Second}, [2]int{80, 10}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newScript(Limits{})
			ids := [2]wire.InstanceID{}
			for i := range ids {
				ids[i] = s.cold(i, test.bytes[i], test.cost[i])
				s.Idle(ids[i], s.now)
			}
			for range 1000 {
				s.pass(time.Second)
				for i, id := range ids {
					if int(s.now.Sub(epoch).Seconds())%test.every[i] == 0 {
						s.call(id)
					}
				}
			}
			if got := s.order(); !slices.Equal(got, ids[:]) {
				t.Errorf("order %v, want %v", got, ids)
			}
		})
	}
}

// TestYesterdaysFavouriteGoes: what was called a thousand times yields, after a
// while, to what is called now and then.
func TestYesterdaysFavouriteGoes(t *testing.T) {
	t.Parallel()
	s := newScript(Limits{})
	favourite := s.cold(0, 100*mib, time.Second)
	s.Idle(favourite, s.now)
	for range 1000 {
		s.pass(time.Second)
		s.call(favourite)
	}
	modest := s.cold(1, 100*mib, time.Second)
	s.Idle(modest, s.now)
	if got := s.order(); got[0] != modest {
		t.Errorf("the favourite goes before what was called once: %v", got)
	}
	for range 100 {
		s.pass(10 * time.Minute)
		s.call(modest)
	}
	if got := s.order(); got[0] != favourite {
		t.Errorf("the favourite of long ago stays: %v", got)
	}
}

// TestBurstLeavesLittle: of many instances that a burst left, all but one go before
// another function's only one.
func TestBurstLeavesLittle(t *testing.T) {
	t.Parallel()
	s := newScript(Limits{})
	other := s.cold(1, 100*mib, time.Second)
	s.Idle(other, s.now)
	var burst []wire.InstanceID
	for range 5 {
		burst = append(burst, s.cold(0, 100*mib, time.Second))
	}
	for _, id := range burst {
		s.Idle(id, s.now)
	}
	last := burst[len(burst)-1] // the owner uses the most recently used one
	for i := range 600 {
		s.pass(time.Second)
		s.call(last)
		if i%60 == 0 {
			s.call(other)
		}
	}
	want := append(slices.Clone(burst[:4]), other, last)
	if got := s.order(); !slices.Equal(got, want) {
		t.Errorf("order %v, want %v", got, want)
	}
}

// TestTimerIsStartedAhead: a timer goes first, is asked for just before its call,
// and is last to go then.
func TestTimerIsStartedAhead(t *testing.T) {
	t.Parallel()
	s := newScript(Limits{StartsAhead: true})
	timer, other := s.cold(0, 100*mib, time.Second), s.cold(1, 100*mib, time.Second)
	s.Idle(timer, s.now)
	s.Idle(other, s.now)
	for i := range 50 {
		s.pass(time.Minute)
		s.call(other)
		if i%10 == 9 {
			s.call(timer)
		}
	}
	if got := s.order(); got[0] != timer {
		t.Fatalf("order %v: the timer could be started again", got)
	}
	s.Remove(timer, s.now)
	at, ok := s.NextDue(s.now)
	if early := s.now.Add(10 * time.Minute).Sub(at); !ok || early < 2*time.Second || early > 10*time.Second {
		t.Fatalf("next due %s before the call (%t)", early, ok)
	}
	if due := s.Due(at.Add(-time.Millisecond)); len(due) > 0 {
		t.Fatalf("due too early: %v", due)
	}
	s.now = at
	if due := s.Due(s.now); !slices.Equal(due, []wire.VersionID{versionID(0)}) {
		t.Fatalf("due %v", due)
	}
	s.StartAhead("ahead", versionID(0), 100*mib, s.now)
	s.pass(time.Second)
	s.Idle("ahead", s.now)
	if got := s.order(); got[0] != other {
		t.Errorf("order %v: the timer's call is at hand", got)
	}
	if due := s.Due(s.now); len(due) > 0 {
		t.Errorf("due again: %v", due)
	}
	s.pass(time.Minute) // the call never came
	s.call(other)
	if got := s.order(); got[0] != "ahead" {
		t.Errorf("order %v: the timer seems to be gone", got)
	}
}

func TestUnknownAndRepeated(t *testing.T) {
	t.Parallel()
	s := newScript(Limits{})
	s.Busy("nobody", s.now)
	s.Idle("nobody", s.now)
	s.Measured("nobody", time.Second)
	s.Remove("nobody", s.now)
	id := s.cold(0, 0, 0) // no bytes, no cost
	s.Start(id, versionID(1), mib, s.now)
	s.Idle(id, s.now)
	s.Idle(id, s.now)
	s.Busy(id, s.now.Add(-time.Hour)) // backwards
	s.Idle(id, s.now)
	if got := s.order(); !slices.Equal(got, []wire.InstanceID{id}) {
		t.Errorf("order %v", got)
	}
	s.Remove(id, s.now)
	s.Remove(id, s.now)
	if got := s.order(); len(got) > 0 {
		t.Errorf("order %v of nothing", got)
	}
}

// TestForgets: the versions without instance are bounded, and no heap keeps them.
func TestForgets(t *testing.T) {
	t.Parallel()
	s := newScript(Limits{MaxAbsent: 10, StartsAhead: true})
	for i := range 1000 {
		id := s.cold(i, mib, time.Second)
		s.Idle(id, s.now)
		s.Remove(id, s.now)
		s.pass(time.Second)
	}
	s.order()
	if len(s.versions) != 10 || len(s.instances) != 0 || len(s.dirty) != 0 {
		t.Errorf("%d versions, %d instances, %d dirty", len(s.versions), len(s.instances), len(s.dirty))
	}
	for kind, h := range s.heaps {
		if h.Len() > 0 {
			t.Errorf("heap %d holds %d", kind, h.Len())
		}
	}
}

func TestBins(t *testing.T) {
	t.Parallel()
	for b := range bins {
		if got := bin(low(b)); got != b {
			t.Errorf("%v begins class %d and is counted in %d", low(b), b, got)
		}
		if b > 0 && bin(low(b)-1) >= b {
			t.Errorf("just before %v is in class %d", low(b), bin(low(b)-1))
		}
	}
	if bin(-time.Hour) != 0 || bin(1<<62) != lastBin {
		t.Error("the ends are not caught")
	}
}

func TestRhythm(t *testing.T) {
	t.Parallel()
	var r rhythm
	at := epoch
	for range 3 {
		r.call(at)
		at = at.Add(5 * time.Minute)
	}
	if _, _, ok := r.next(); ok {
		t.Error("two periods are believed")
	}
	r.call(at)
	from, until, ok := r.next()
	if due := at.Add(5 * time.Minute); !ok || from.After(due) || until.Before(due) || until.Sub(from) > 5*time.Second {
		t.Errorf("next from %v until %v (%t), want about %v", from, until, ok, due)
	}
	r.call(at.Add(time.Minute)) // out of turn
	if _, _, ok := r.next(); ok {
		t.Error("a broken rhythm is believed")
	}
	r = rhythm{}
	for i := range 20 {
		r.call(epoch.Add(time.Duration(i) * time.Second))
	}
	if _, _, ok := r.next(); ok {
		t.Error("starting ahead every second")
	}
}

// BenchmarkCall is what a warm call costs.
func BenchmarkCall(b *testing.B) {
	s, ids := filled(1000)
	for i := range b.N {
		s.pass(time.Millisecond)
		s.call(ids[i*7919%len(ids)])
	}
}

// BenchmarkVictim is what a question costs with a call between each two.
func BenchmarkVictim(b *testing.B) {
	for _, n := range []int{100, 1000, 10_000} {
		b.Run(strconv.Itoa(n), func(b *testing.B) {
			s, ids := filled(n)
			for i := range b.N {
				s.pass(time.Millisecond)
				s.call(ids[i*7919%len(ids)])
				for range s.Victims(s.now) {
					break
				}
			}
		})
	}
}

func filled(n int) (*script, []wire.InstanceID) {
	s := newScript(Limits{})
	var ids []wire.InstanceID
	for i := range n {
		ids = append(ids, s.cold(i, int64(i%300+20)*mib, time.Duration(i%900+50)*time.Millisecond))
		s.Idle(ids[i], s.now)
		s.pass(time.Duration(i%13) * time.Second)
	}
	return s, ids
}
