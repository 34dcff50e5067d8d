package keepalive

import "time"

const (
	// fewestPeriods must have been seen before a rhythm is believed.
	fewestPeriods = 3
	// slowing is the weight of the past in the mean of the periods.
	slowing = 8
	// shortestPeriod is the least for which starting an instance ahead is worth it.
	shortestPeriod = 30 * time.Second
	// widths of deviation, and leeway more, a call may come early or late.
	widths = 4
	leeway = time.Second
)

// rhythm recognises a version that is called in equal distances, as timers do.
type rhythm struct {
	last      time.Time // call
	mean      time.Duration
	deviation time.Duration
	periods   int
}

// call notes a call. A distance far from the mean begins anew: either the rhythm
// changed or there is none.
func (r *rhythm) call(now time.Time) {
	period := now.Sub(r.last)
	first := r.last.IsZero()
	r.last = now
	switch off := (period - r.mean).Abs(); {
	case first:
	case r.periods == 0 || off > r.mean/4:
		r.mean, r.deviation, r.periods = period, 0, 1
	default:
		r.periods = min(r.periods+1, slowing)
		r.mean += (period - r.mean) / time.Duration(r.periods)
		r.deviation += (off - r.deviation) / time.Duration(r.periods)
	}
}

// next returns between which moments the next call is due.
func (r *rhythm) next() (from, until time.Time, ok bool) {
	slack := widths*r.deviation + leeway
	if r.periods < fewestPeriods || r.mean < shortestPeriod || slack > r.mean/8 {
		return time.Time{}, time.Time{}, false
	}
	due := r.last.Add(r.mean)
	return due.Add(-slack), due.Add(slack), true
}
