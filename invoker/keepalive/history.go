package keepalive

import (
	"math/bits"
	"time"
)

// An idle time falls into one of bins classes: two to each doubling, from unit on.
const (
	unitBits = 26 // 67 ms
	unit     = time.Duration(1) << unitBits
	bins     = 50 // the last begins at 19 days
	lastBin  = bins - 1

	// memory is how many idle times a history holds before it halves them, so that
	// a habit that was given up is soon outweighed.
	memory = 128
	// doubt is the weight of "it is never needed again" beside the known idle times.
	doubt = 0.5
	// unknownWait is what is expected of an idle instance that outlasted all that is
	// known of its version: as long again as it waited already, and this.
	unknownWait = 10 * time.Minute
)

// bin returns the class of an idle time.
func bin(d time.Duration) int {
	n := max(d, 0) >> unitBits
	if n < 2 {
		return int(n)
	}
	octave := bits.Len64(uint64(n)) - 1
	return min(2*octave+int(n>>(octave-1))&1, lastBin)
}

// low returns where a class begins.
func low(b int) time.Duration {
	if b < 2 {
		return unit * time.Duration(b)
	}
	n := unit << (b / 2)
	return n + n/2*time.Duration(b%2)
}

// middle returns what an idle time of the class is taken for.
func middle(b int) time.Duration {
	if b == lastBin {
		return low(b)
	}
	return (low(b) + low(b+1)) / 2
}

// history counts how long an instance was idle each time until it was needed again.
type history struct {
	count [bins]uint8 // never over memory
	total int
}

func (h *history) add(idle time.Duration) {
	h.count[bin(idle)]++
	h.total++
	if h.total < memory {
		return
	}
	h.total = 0
	for i := range h.count {
		h.count[i] /= 2
		h.total += int(h.count[i])
	}
}

// rate returns how many calls a second of keeping an instance saves, given that it
// has been idle for a time of class b: over the best time to keep it from here on,
// the chance of a call divided by how long the instance is kept on average.
//
// Of a version with one rhythm this is the frequency of its calls; of one that is
// called in groups it is high after a call and falls when the group must be over;
// of a timer it rises up to its next call; and it falls without end when an
// instance is idle for longer than ever before, which is the ageing.
func (h *history) rate(b int) float64 {
	age := low(b)
	var known float64
	for i := b; i < bins; i++ {
		known += float64(h.count[i])
	}
	all := known + doubt
	best := doubt / all / (age + unknownWait).Seconds()
	var calls, kept float64
	for i := b; i < bins; i++ {
		if h.count[i] == 0 {
			continue
		}
		wait := max(middle(i)-age, unit/2).Seconds()
		calls += float64(h.count[i])
		kept += float64(h.count[i]) * wait
		best = max(best, calls/(kept+(all-calls)*wait))
	}
	return best
}
