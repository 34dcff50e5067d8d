package keepalive

import (
	"container/list"
	"time"

	"github.com/dayfly-run/dayfly/wire"
)

const (
	// maxSlots bounds the histories of a version; the slots beyond share the last.
	maxSlots = 16
	// costWeight is the weight of the past in the mean cost of a cold start.
	costWeight = 4
	// startable is the worth of an instance that can be started ahead of its next
	// call, beside one that cannot: its loss costs the work, but nobody waits.
	startable = 0.2
)

// version is what the policy knows of one version, also while none of its
// instances lives.
//
// Instances of a version are alike, and the one that was used last is used next. So
// a version that needs k instances at once uses slots 0 to k-1, and what it would
// miss if one of n instances went is slot n-1, whichever instance that is.
type version struct {
	id    wire.VersionID
	seq   uint64 // in order of first sight; breaks ties
	mib   float64
	cost  time.Duration // mean of what was measured; 0: nothing yet
	slots []slot
	live  int
	busy  int         // of live; those that start are busy
	idle  []*instance // the least recently used first
	// rhythm is that of all calls.
	rhythm rhythm

	dirty bool
	// What follows is true when the version is not dirty.
	value   float64   // of the highest slot, if an instance is idle
	changes time.Time // when value does, if nothing happens before
	ahead   time.Time // when to start an instance, if none lives; zero: never
	places  [heaps]int

	ghost *list.Element // in the list of versions without instance
}

// slot stands for the k-th instance of a version.
type slot struct {
	history
	since time.Time // when it was last given back; zero: never
}

func (v *version) slot(k int) *slot {
	k = min(k, maxSlots-1)
	for len(v.slots) <= k {
		v.slots = append(v.slots, slot{})
	}
	return &v.slots[k]
}

// called notes that a call takes the lowest free slot.
func (v *version) called(now time.Time) {
	s := v.slot(v.busy)
	if !s.since.IsZero() {
		s.add(now.Sub(s.since))
	}
	v.rhythm.call(now)
}

func (v *version) measured(cost time.Duration) {
	if v.cost == 0 {
		v.cost = cost
		return
	}
	v.cost += (cost - v.cost) / costWeight
}

// worth returns what keeping slot k saves, in seconds of waiting for a second and a
// MiB kept, and until when that stays so.
func (v *version) worth(k int, now time.Time, startsAhead bool) (value float64, until time.Time) {
	s := v.slot(k)
	b := bin(now.Sub(s.since))
	if b < lastBin {
		until = s.since.Add(low(b + 1))
	} else {
		until = now.Add(low(lastBin))
	}
	cost := v.cost
	if cost <= 0 {
		cost = unknownCost
	}
	saved := cost.Seconds() / v.mib
	if k == 0 && startsAhead {
		if from, end, ok := v.rhythm.next(); ok && now.Before(end) {
			start := from.Add(-2 * v.cost)
			if !now.Before(start) {
				return saved / (end.Sub(start).Seconds() / 2), end
			}
			if start.Before(until) {
				until = start
			}
			saved *= startable
		}
	}
	return saved * s.rate(b), until
}

// refresh makes the fields after dirty true.
func (v *version) refresh(now time.Time, startsAhead bool) {
	v.dirty = false
	if len(v.idle) > 0 {
		v.value, v.changes = v.worth(v.live-1, now, startsAhead)
	}
	v.ahead = time.Time{}
	if from, _, ok := v.rhythm.next(); ok && startsAhead && v.live == 0 {
		if start := from.Add(-2 * v.cost); start.After(now) {
			v.ahead = start
		}
	}
}
