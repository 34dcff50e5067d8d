package invoker

import (
	"testing"
	"time"

	"pgregory.net/rapid"
)

func TestContact(t *testing.T) {
	const limit = 2 * time.Second
	begin := time.Now()
	for name, looks := range map[string][]struct {
		now   time.Duration
		heard time.Duration // 0 for none
		want  turn
		holds bool // afterwards
	}{
		"never heard":       {{now: limit - 1, holds: true}, {now: limit, want: leave}, {now: 2 * limit}},
		"heard in time":     {{now: 1, heard: 1, holds: true}, {now: limit, heard: limit - 1, holds: true}, {now: limit + 1, holds: true}},
		"heard too late":    {{now: limit, heard: limit - 1, want: leave, holds: true}, {now: limit + 1, want: back, holds: true}},
		"an old word":       {{now: limit, want: leave}, {now: 3 * limit, heard: 1}, {now: 3*limit + 1}},
		"back":              {{now: limit, want: leave}, {now: limit + 2, heard: limit + 1, want: back, holds: true}},
		"lost once more":    {{now: limit, want: leave}, {now: limit + 2, heard: limit + 1, want: back, holds: true}, {now: 2*limit + 1, want: leave}},
		"confirmed in vain": {{now: 1, heard: 1, holds: true}, {now: 2 * limit, heard: 1, want: leave}},
	} {
		c := newContact(limit, begin.Add(-time.Hour))
		c.begin(begin)
		for i, l := range looks {
			var heard time.Time
			if l.heard > 0 {
				heard = begin.Add(l.heard)
			}
			if got := c.look(begin.Add(l.now), heard); got != l.want || c.holds(begin.Add(l.now)) != l.holds {
				t.Errorf("%s, look %d: %d, holds %t", name, i, got, c.holds(begin.Add(l.now)))
			}
		}
	}
}

func TestContactWithoutALimit(t *testing.T) {
	c := newContact(0, time.Now())
	if !c.holds(time.Now().Add(time.Hour)) {
		t.Error("a node that is never out of touch is")
	}
}

// Whenever a run ends, so long did nothing arrive; and whatever is accepted, arrived in time.
func TestContactProperty(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		const limit = 100 * time.Millisecond
		begin := time.Now()
		now, newest := begin, begin
		c := newContact(limit, begin)
		c.begin(begin)
		gone := false
		for range rapid.IntRange(1, 50).Draw(t, "looks") {
			now = now.Add(time.Duration(rapid.IntRange(0, 150).Draw(t, "later")) * time.Millisecond)
			silent := now.Sub(newest) >= limit
			if c.holds(now) == silent {
				t.Fatalf("after %s of silence it holds: %t", now.Sub(newest), c.holds(now))
			}
			var heard time.Time
			if rapid.Bool().Draw(t, "a word") {
				heard = now.Add(-time.Duration(rapid.IntRange(0, 150).Draw(t, "ago")) * time.Millisecond)
				if heard.Before(begin) {
					heard = begin
				}
				if heard.After(newest) {
					newest = heard
				}
			}
			got := c.look(now, heard)
			switch {
			case silent && !gone:
				if got != leave {
					t.Fatalf("silent for %s: %d", now.Sub(newest), got)
				}
				gone = true
			case gone && now.Sub(newest) < limit:
				if got != back {
					t.Fatalf("heard %s ago: %d", now.Sub(newest), got)
				}
				gone = false
			case got != stay:
				t.Fatalf("nothing happened: %d", got)
			}
		}
	})
}
