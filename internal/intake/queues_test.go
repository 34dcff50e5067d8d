package intake

import (
	"strconv"
	"testing"
	"time"

	"github.com/dayfly-run/dayfly/wire"
)

func queueNumber(i int) wire.EventQueue {
	return wire.EventQueue{FunctionID: wire.FunctionID{Namespace: "n", Name: "f" + strconv.Itoa(i)}}
}

// TestHintsAreFew: not one for each of many events, and none is left out that comes long
// enough after another.
func TestHintsAreFew(t *testing.T) {
	var qs queues
	q, now := queueNumber(1), time.Now()
	if !qs.hint(q, now) || !qs.hint(q, now) { // it is not known
		t.Error("no hint at a queue that was forgotten")
	}
	qs.opened(q, now)
	given := 0
	var last time.Time
	for at := now; at.Before(now.Add(10 * time.Second)); at = at.Add(10 * time.Millisecond) {
		if qs.hint(q, at) {
			given++
			last = at
		}
		if at.Sub(last) >= HintEvery {
			t.Fatalf("an event has its last hint %s before it", at.Sub(last))
		}
	}
	if given != 10 {
		t.Errorf("%d hints in ten seconds", given)
	}
	if !qs.fresh(q, now.Add(consumerFresh-1)) || qs.fresh(q, now.Add(consumerFresh)) || qs.fresh(queueNumber(2), now) {
		t.Error("what is fresh is not, or what is not is")
	}
}

// TestIdleQueuesAreForgotten: what is remembered depends on the queues that have events now,
// not on those that ever had.
func TestIdleQueuesAreForgotten(t *testing.T) {
	var qs queues
	now := time.Now()
	for i := range 50_000 { // 100 a second
		now = now.Add(10 * time.Millisecond)
		qs.opened(queueNumber(i), now)
		qs.hint(queueNumber(i), now)
		if most := 2*int(consumerFresh/(10*time.Millisecond)) + 1; len(qs.recent) > most {
			t.Fatalf("after %d queues %d are remembered, want at most %d", i, len(qs.recent), most)
		}
		if !qs.fresh(queueNumber(i), now) {
			t.Fatal("one with events is forgotten")
		}
	}
}
