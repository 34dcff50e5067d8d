package pool

import (
	"math"
	"time"
)

const (
	// demandWindow is about how long it takes to make new stems: claims within one
	// window must be met by what is ready.
	demandWindow = 2 * time.Second
	// demandHalfLife is how fast a burst is forgotten.
	demandHalfLife = 2 * time.Minute
)

// Demand says how many stems of one kind to hold ready: as many as were claimed
// at once lately. The zero value has seen no claim. It is pure, like [Pool].
type Demand struct {
	windowStart time.Time
	claims      float64 // in the window
	peak        float64 // of the windows before, as of peakAt
	peakAt      time.Time
}

// Note counts a claim.
func (d *Demand) Note(now time.Time) {
	if now.Sub(d.windowStart) >= demandWindow {
		d.close(now)
		d.windowStart, d.claims = now, 0
	}
	d.claims++
}

// Target returns how many to hold: the decaying peak of claims in a window, and at
// least floor, at most ceiling.
func (d *Demand) Target(now time.Time, floor, ceiling int) int {
	want := math.Max(d.claims*decay(now.Sub(d.windowStart)), d.peak*decay(now.Sub(d.peakAt)))
	return min(max(int(math.Ceil(want-0.5)), floor), ceiling)
}

// close folds the window that ended into the peak.
func (d *Demand) close(now time.Time) {
	faded := d.peak * decay(now.Sub(d.peakAt))
	ended := d.claims * decay(now.Sub(d.windowStart))
	d.peak, d.peakAt = math.Max(faded, ended), now
}

func decay(age time.Duration) float64 {
	return math.Exp2(-age.Seconds() / demandHalfLife.Seconds())
}
