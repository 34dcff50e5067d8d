package coldstarts

import (
	"strings"
	"testing"
	"time"
)

func TestVerdict(t *testing.T) {
	t.Parallel()
	most, least := target{must: 5, stretch: 3}, target{must: 30, stretch: 60, atLeast: true}
	for _, test := range []struct {
		target target
		figure float64
		want   int
	}{{most, 5.01, 0}, {most, 5, 1}, {most, 3.01, 1}, {most, 3, 2}, {least, 29.9, 0}, {least, 30, 1}, {least, 60, 2}} {
		if got := test.target.verdict(test.figure); got != test.want {
			t.Errorf("%v of %+v: %d, want %d", test.figure, test.target, got, test.want)
		}
	}
}

// TestTimes checks that the worse of two figures decides, and that few values have no
// 99th percentile.
func TestTimes(t *testing.T) {
	t.Parallel()
	took := make([]time.Duration, fewest)
	for i := range took {
		took[i] = 2 * time.Millisecond
	}
	took[98], took[99] = 15*time.Millisecond, 40*time.Millisecond
	var out strings.Builder
	var r rows
	r.times(row{what: "many"}, took, inMillis(5, 3), inMillis(20, 10))
	r.times(row{what: "few"}, took[:50], inMillis(5, 3), inMillis(20, 10))
	r.times(row{what: "slow"}, took[98:], inMillis(5, 3), nil)
	if err := r.print(&out); err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSpace(out.String()), "\n")
	for i, want := range [][]string{
		{"many", "2.0 ms", "15 ms", "p50 ≤ 5 ms, p99 ≤ 20 ms", "p50 ≤ 3 ms, p99 ≤ 10 ms", "must"},
		{"few", "max 2.0 ms", "p50 ≤ 5 ms ", "stretch"},
		{"slow", "max 40 ms", "no"},
	} {
		line := lines[len(lines)-3+i]
		for _, part := range want {
			if !strings.Contains(line, part) {
				t.Errorf("%q lacks %q", line, part)
			}
		}
	}
}
