package trace

import (
	"math"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// What comes is in order of time, then of adding, and nothing comes early, twice or never.
func TestAgenda(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		type coming struct {
			at   time.Duration
			what int
		}
		var agenda Agenda[int]
		var held []coming
		now := time.Duration(0)
		check := func(until time.Duration) {
			slices.SortStableFunc(held, func(a, b coming) int { return int(a.at - b.at) })
			for len(held) > 0 && held[0].at <= until {
				at, what, ok := agenda.Next(until)
				if got := (coming{at, what}); !ok || got != held[0] {
					t.Fatalf("%+v, %v; want %+v", got, ok, held[0])
				}
				held = held[1:]
			}
			if at, what, ok := agenda.Next(until); ok {
				t.Fatalf("%d at %s, which is not to come until %s", what, at, until)
			}
		}
		for i := range rapid.IntRange(0, 100).Draw(t, "steps") {
			if rapid.Bool().Draw(t, "add") {
				at := now + time.Duration(rapid.IntRange(0, 5).Draw(t, "in"))
				agenda.Add(at, i)
				held = append(held, coming{at, i})
				continue
			}
			now += time.Duration(rapid.IntRange(0, 5).Draw(t, "pause"))
			check(now)
		}
		check(math.MaxInt64)
	})
}
