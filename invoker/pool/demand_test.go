package pool_test

import (
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/dayfly-run/dayfly/invoker/pool"
)

func TestDemandFollowsBursts(t *testing.T) {
	t.Parallel()
	start := time.Unix(1_000_000, 0)
	var d pool.Demand
	if got := d.Target(start, 1, 8); got != 1 {
		t.Errorf("without a claim: %d, want the floor", got)
	}
	for range 5 {
		d.Note(start)
	}
	if got := d.Target(start, 1, 8); got != 5 {
		t.Errorf("right after a burst of 5: %d", got)
	}
	if got := d.Target(start.Add(10*time.Second), 1, 8); got != 5 {
		t.Errorf("ten seconds after a burst of 5: %d", got)
	}
	if got := d.Target(start.Add(time.Hour), 1, 8); got != 1 {
		t.Errorf("an hour after: %d, want the floor", got)
	}
	for range 20 {
		d.Note(start.Add(time.Minute))
	}
	if got := d.Target(start.Add(time.Minute), 1, 8); got != 8 {
		t.Errorf("after a burst of 20: %d, want the ceiling", got)
	}
}

// A smaller burst after a larger one does not hide it.
func TestDemandKeepsThePeak(t *testing.T) {
	t.Parallel()
	now := time.Unix(1_000_000, 0)
	var d pool.Demand
	for range 6 {
		d.Note(now)
	}
	now = now.Add(5 * time.Second)
	d.Note(now)
	if got := d.Target(now, 0, 100); got != 6 {
		t.Errorf("got %d, want the earlier peak of 6", got)
	}
}

func TestDemandIsBounded(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		var d pool.Demand
		now := time.Unix(1_000_000, 0)
		claims := 0
		for range rapid.IntRange(0, 60).Draw(t, "steps") {
			now = now.Add(time.Duration(rapid.Int64Range(0, int64(3*time.Minute)).Draw(t, "pause")))
			d.Note(now)
			claims++
		}
		floor := rapid.IntRange(0, 5).Draw(t, "floor")
		ceiling := floor + rapid.IntRange(0, 20).Draw(t, "room")
		got := d.Target(now, floor, ceiling)
		if got < floor || got > ceiling {
			t.Fatalf("%d is not within %d and %d", got, floor, ceiling)
		}
		if got > max(claims, floor) {
			t.Fatalf("%d for %d claims", got, claims)
		}
		later := d.Target(now.Add(time.Minute), floor, ceiling)
		if later > got {
			t.Fatalf("grew from %d to %d without a claim", got, later)
		}
	})
}
