package keepalive

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/dayfly-run/dayfly/wire"
)

var epoch = time.Date(2026, time.January, 1, 0, 0, 0, 0, time.UTC)

func versionID(n int) wire.VersionID {
	return wire.VersionID{FunctionID: wire.FunctionID{Namespace: "default", Name: fmt.Sprint("f", n)}, Number: 1}
}

// modelInstance is what the model remembers of an instance.
type modelInstance struct {
	id      wire.InstanceID
	version *version
	idle    bool
	ahead   bool
	since   time.Time
	order   int // of becoming idle
}

// model does what the policy does in the plainest way: it has one list, works every
// value out anew for each question, and searches. Only the figures of a version,
// which history and rhythm have tests of their own for, are shared.
type model struct {
	policy   *Policy
	limits   Limits
	now      time.Time
	versions []*version // in order of first sight
	absent   []*version // the one absent longest first
	all      []*modelInstance
	named    map[*version]time.Time // the call for which Due named it last
	made     int
	order    int
}

func (m *model) living(v *version, want func(*modelInstance) bool) (list []*modelInstance) {
	for _, in := range m.all {
		if (v == nil || in.version == v) && (want == nil || want(in)) {
			list = append(list, in)
		}
	}
	return list
}

func isIdle(in *modelInstance) bool { return in.idle }
func isBusy(in *modelInstance) bool { return !in.idle }

func (m *model) pass(t *rapid.T) {
	steps := []time.Duration{0, time.Millisecond, time.Second, 50 * time.Second, time.Minute, 10 * time.Minute, 7 * time.Hour}
	m.now = m.now.Add(rapid.SampledFrom(steps).Draw(t, "pass"))
}

func (m *model) start(t *rapid.T) {
	n := rapid.IntRange(0, 4).Draw(t, "version")
	ahead := rapid.Bool().Draw(t, "ahead")
	bytes := int64(n+1) * 50 << 20
	var v *version
	for _, o := range m.versions {
		if o.id == versionID(n) {
			v = o
		}
	}
	if v == nil {
		m.made++
		v = &version{id: versionID(n), seq: uint64(m.made)}
		m.versions = append(m.versions, v)
	}
	m.absent = slices.DeleteFunc(m.absent, func(o *version) bool { return o == v })
	v.mib = float64(bytes) / (1 << 20)
	v.busy = len(m.living(v, isBusy))
	if !ahead {
		v.called(m.now)
	}
	m.order++
	in := &modelInstance{id: wire.InstanceID(fmt.Sprint("i", m.order)), version: v, ahead: ahead}
	m.all = append(m.all, in)
	cost := time.Duration(rapid.IntRange(1, 2000).Draw(t, "cost")) * time.Millisecond
	v.measured(cost)
	if ahead {
		m.policy.StartAhead(in.id, v.id, bytes, m.now)
	} else {
		m.policy.Start(in.id, v.id, bytes, m.now)
	}
	m.policy.Measured(in.id, cost)
}

// pick returns a living instance, or false if there is none.
func (m *model) pick(t *rapid.T) (*modelInstance, bool) {
	if len(m.all) == 0 {
		return nil, false
	}
	return rapid.SampledFrom(m.all).Draw(t, "instance"), true
}

func (m *model) busy(t *rapid.T) {
	in, ok := m.pick(t)
	if !ok {
		return
	}
	m.policy.Busy(in.id, m.now)
	if !in.idle {
		return // it is busy already, and the policy must not mind
	}
	in.version.busy = len(m.living(in.version, isBusy))
	in.version.called(m.now)
	in.idle, in.ahead = false, false
}

func (m *model) rest(t *rapid.T) {
	in, ok := m.pick(t)
	if !ok {
		return
	}
	m.policy.Idle(in.id, m.now)
	if in.idle {
		return
	}
	m.order++
	in.idle, in.since, in.order = true, m.now, m.order
	if s := in.version.slot(len(m.living(in.version, isBusy))); !in.ahead || s.since.IsZero() {
		s.since = m.now
	}
}

func (m *model) remove(t *rapid.T) {
	in, ok := m.pick(t)
	if !ok {
		return
	}
	m.policy.Remove(in.id, m.now)
	m.all = slices.DeleteFunc(m.all, func(o *modelInstance) bool { return o == in })
	if !in.idle && !in.ahead {
		in.version.slot(len(m.living(in.version, isBusy))).since = m.now
	}
	if len(m.living(in.version, nil)) > 0 {
		return
	}
	m.absent = append(m.absent, in.version)
	if len(m.absent) > m.limits.MaxAbsent {
		gone := m.absent[0]
		m.absent = m.absent[1:]
		m.versions = slices.DeleteFunc(m.versions, func(o *version) bool { return o == gone })
	}
}

// ranked returns all idle instances in the order in which they should go.
func (m *model) ranked() (ids []wire.InstanceID) {
	gone := map[*version]int{}
	for {
		var best *version
		var least float64
		for _, v := range m.versions {
			left := len(m.living(v, isIdle)) - gone[v]
			if left == 0 {
				continue
			}
			value, _ := v.worth(len(m.living(v, nil))-1-gone[v], m.now, m.limits.StartsAhead)
			if best == nil || value < least {
				best, least = v, value
			}
		}
		if best == nil {
			return ids
		}
		list := m.living(best, isIdle)
		slices.SortFunc(list, func(a, b *modelInstance) int { return a.order - b.order })
		ids = append(ids, list[gone[best]].id)
		gone[best]++
	}
}

func (m *model) victims(t *rapid.T) {
	want := m.ranked()
	got := slices.Collect(m.policy.Victims(m.now))
	if !slices.Equal(got, want) {
		t.Fatalf("victims %v, want %v", got, want)
	}
	limit := rapid.IntRange(0, 3).Draw(t, "read")
	var some []wire.InstanceID
	for id := range m.policy.Victims(m.now) {
		if len(some) == limit {
			break
		}
		some = append(some, id)
	}
	if !slices.Equal(some, want[:min(limit, len(want))]) {
		t.Fatalf("first victims %v of %v", some, want)
	}
}

func (m *model) expired(t *rapid.T) {
	list := m.living(nil, func(in *modelInstance) bool { return in.idle && m.now.Sub(in.since) > m.limits.IdleLimit })
	slices.SortFunc(list, func(a, b *modelInstance) int { return a.order - b.order })
	var want []wire.InstanceID
	for _, in := range list {
		want = append(want, in.id)
	}
	if got := m.policy.Expired(m.now); !slices.Equal(got, want) {
		t.Fatalf("expired %v, want %v", got, want)
	}
}

func (m *model) due(t *rapid.T) {
	got := m.policy.Due(m.now)
	if !m.limits.StartsAhead && len(got) > 0 {
		t.Fatalf("due %v, though nobody starts them", got)
	}
	for _, id := range got {
		i := slices.IndexFunc(m.versions, func(v *version) bool { return v.id == id })
		if i < 0 {
			t.Fatalf("due %v, which is forgotten", id)
		}
		v := m.versions[i]
		from, until, ok := v.rhythm.next()
		switch {
		case !ok || m.now.Before(from.Add(-2*v.cost)) || !m.now.Before(until):
			t.Fatalf("due %v at %v, but its rhythm says %v to %v (%t)", id, m.now, from, until, ok)
		case len(m.living(v, nil)) > 0:
			t.Fatalf("due %v, which lives", id)
		case m.named[v].Equal(v.rhythm.last):
			t.Fatalf("due %v twice for one call", id)
		}
		m.named[v] = v.rhythm.last
	}
	if at, ok := m.policy.NextDue(m.now); ok && !at.After(m.now) {
		t.Fatalf("next due at %v, which is not after %v", at, m.now)
	}
}

// check looks at the policy's own books.
func (m *model) check(t *rapid.T) {
	if len(m.policy.instances) != len(m.all) || len(m.policy.versions) != len(m.versions) {
		t.Fatalf("%d instances of %d versions, want %d of %d",
			len(m.policy.instances), len(m.policy.versions), len(m.all), len(m.versions))
	}
	if n := m.policy.absent.Len(); n != len(m.absent) || n > m.limits.MaxAbsent {
		t.Fatalf("%d absent versions, want %d of at most %d", n, len(m.absent), m.limits.MaxAbsent)
	}
	for _, v := range m.versions {
		o := m.policy.versions[v.id]
		if o.live != len(m.living(v, nil)) || o.busy != len(m.living(v, isBusy)) || len(o.idle) != o.live-o.busy {
			t.Fatalf("%v: %d live, %d busy, %d idle; want %d live, %d busy",
				v.id, o.live, o.busy, len(o.idle), len(m.living(v, nil)), len(m.living(v, isBusy)))
		}
	}
}

func TestPolicyAgainstModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		limits := Limits{
			IdleLimit:   rapid.SampledFrom([]time.Duration{time.Minute, time.Hour}).Draw(t, "idle limit"),
			MaxAbsent:   rapid.IntRange(1, 3).Draw(t, "absent"),
			StartsAhead: rapid.Bool().Draw(t, "ahead"),
		}
		m := &model{policy: New(limits), limits: limits, now: epoch, named: map[*version]time.Time{}}
		t.Repeat(map[string]func(*rapid.T){
			"pass": m.pass, "start": m.start, "busy": m.busy, "rest": m.rest, "remove": m.remove,
			"victims": m.victims, "expired": m.expired, "due": m.due, "": m.check,
		})
	})
}

// TestRateAgainstDefinition works the rate out from single idle times.
func TestRateAgainstDefinition(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var h history
		var waits []int
		for range rapid.IntRange(0, memory-1).Draw(t, "n") {
			b := rapid.IntRange(0, lastBin).Draw(t, "bin")
			h.add(low(b))
			waits = append(waits, b)
		}
		at := rapid.IntRange(0, lastBin).Draw(t, "age")
		left := slices.DeleteFunc(waits, func(b int) bool { return b < at })
		all := float64(len(left)) + doubt
		want := doubt / all / (low(at) + unknownWait).Seconds()
		for keep := at; keep < bins; keep++ {
			wait := func(b int) float64 { return max(middle(b)-low(at), unit/2).Seconds() }
			hits, kept := 0.0, 0.0
			for _, b := range left {
				if b <= keep {
					hits++
				}
				kept += wait(min(b, keep))
			}
			if !slices.Contains(left, keep) {
				continue
			}
			want = max(want, hits/(kept+doubt*wait(keep)))
		}
		if got := h.rate(at); got < want*(1-1e-9) || got > want*(1+1e-9) {
			t.Fatalf("rate %g at class %d of %v, want %g", got, at, left, want)
		}
	})
}
