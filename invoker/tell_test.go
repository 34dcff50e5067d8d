package invoker

import (
	"sync"
	"testing"
	"time"

	"github.com/dayfly-run/dayfly/internal/bus"
	"github.com/dayfly-run/dayfly/internal/embed/embedtest"
	"github.com/dayfly-run/dayfly/internal/roster"
	"github.com/dayfly-run/dayfly/wire"
)

// TestNodesTellWhatChanged: the first and the last word of a run are whole, and those
// that somebody asked for; between them come changes only. That they follow on each other
// every test of this package sees.
func TestNodesTellWhatChanged(t *testing.T) {
	var mu sync.Mutex
	var wholes, deltas int
	var last wire.NodeWord
	n := startNode(t, each(nil), func(c *Config, _ *Deps) {
		sub, err := shared.conn.Subscribe(wire.NodeStateSubject(c.Node), "", func(m bus.Msg) {
			_, w, err := roster.Word(m.Subject, m.Data)
			if err != nil {
				t.Error(err)
				return
			}
			mu.Lock()
			defer mu.Unlock()
			if last = w; w.Whole != nil {
				wholes++
			} else {
				deltas++
			}
			if wholes == 0 {
				t.Error("the first word is not whole")
			}
		})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { sub.Stop(shared.conn) })
	})
	counts := func() (int, int) {
		mu.Lock()
		defer mu.Unlock()
		return wholes, deltas
	}
	embedtest.Eventually(t, "words that say what changed", func() bool { _, d := counts(); return d > 2 })
	for _, subject := range []string{wire.NodeProbeSubject, wire.NodeAskSubject(n.id)} {
		before, _ := counts()
		if err := shared.conn.Publish(subject, nil); err != nil {
			t.Fatal(err)
		}
		embedtest.Eventually(t, "a whole word after "+subject, func() bool { w, _ := counts(); return w > before })
	}
	n.stop(patience)
	embedtest.Eventually(t, "the last word is whole", func() bool {
		mu.Lock()
		defer mu.Unlock()
		return last.Whole != nil && last.Whole.Stopping
	})
}

// TestWholeWordsAreSpread: nodes that begin together are soon apart, each as often as
// told.
func TestWholeWordsAreSpread(t *testing.T) {
	var buckets [10]int
	var sum time.Duration
	const draws = 10_000
	for range draws {
		pause := wholePause()
		at := pause - wire.WholeEvery*3/4
		if at < 0 || at >= wire.WholeEvery/2 {
			t.Fatalf("a whole word after %s", pause)
		}
		buckets[10*at/(wire.WholeEvery/2)]++
		sum += pause
	}
	for i, n := range buckets {
		if n < draws/20 {
			t.Errorf("%d of %d pauses are in part %d", n, draws, i)
		}
	}
	if mean := sum / draws; mean < wire.WholeEvery*95/100 || mean > wire.WholeEvery*105/100 {
		t.Errorf("the mean pause is %s", mean)
	}
}
