package coldstarts

import (
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/dayfly-run/dayfly/bench/internal/sample"
	"github.com/dayfly-run/dayfly/bench/internal/table"
)

// fewest is how many values a 99th percentile needs.
const fewest = 100

// target is what a figure must reach, and what would be better still.
type target struct {
	must, stretch float64
	atLeast       bool
	unit          string
}

func (t *target) reached(figure, limit float64) bool {
	if t.atLeast {
		return figure >= limit
	}
	return figure <= limit
}

// verdict is what a figure reaches: 0 nothing, 1 must, 2 stretch.
func (t *target) verdict(figure float64) int {
	switch {
	case t.reached(figure, t.stretch):
		return 2
	case t.reached(figure, t.must):
		return 1
	}
	return 0
}

func (t *target) show(limit float64) string {
	sign := "≤"
	if t.atLeast {
		sign = "≥"
	}
	return fmt.Sprintf("%s %.4g%s", sign, limit, t.unit)
}

// check is a figure and its target.
type check struct {
	name   string // p50, p99; empty for the only one
	figure float64
	target target
}

// rows gathers the table.
type rows struct {
	table table.Table
}

// row is one line of the table.
type row struct {
	sandbox, what string
	n             int
	p50, p99      string
	// against is the baseline, measured in turn with it.
	against string
	checks  []check
}

func (r *rows) add(w row) {
	var must, stretch []string
	least := 2
	for _, c := range w.checks {
		name := strings.TrimPrefix(c.name+" ", " ")
		must = append(must, name+c.target.show(c.target.must))
		stretch = append(stretch, name+c.target.show(c.target.stretch))
		least = min(least, c.target.verdict(c.figure))
	}
	met := ""
	if len(w.checks) > 0 {
		met = [...]string{"no", "must", "stretch"}[least]
	}
	r.table.Row(w.sandbox, w.what, fmt.Sprint(w.n), w.p50, w.p99, w.against, strings.Join(must, ", "), strings.Join(stretch, ", "), met)
}

// absent says why a sandbox has no figures.
func (r *rows) absent(kind string, why error) {
	reason, _, _ := strings.Cut(why.Error(), "\n")
	r.table.Row(kind, "not measured: "+reason, "0", "", "", "", "", "", "")
}

func (r *rows) print(w io.Writer) error {
	r.table.Title = "Cold calls, gateway to first byte, and idle instances"
	r.table.Columns = []string{"sandbox", "what", "n", "p50", "p99", "baseline, p50", "must", "stretch", "met"}
	return r.table.Print(w)
}

// times adds a line of durations. Without enough values there is no 99th percentile,
// and its check is left out.
func (r *rows) times(w row, took []time.Duration, p50, p99 *target) {
	w.n = len(took)
	middle := sample.Median(took)
	w.p50 = table.Millis(middle)
	if p50 != nil {
		w.checks = append(w.checks, check{"p50", millis(middle), *p50})
	}
	last := sample.Quantile(took, 0.99)
	w.p99 = table.Millis(last)
	if len(took) < fewest {
		w.p99 = "max " + table.Millis(sample.Quantile(took, 1))
	} else if p99 != nil {
		w.checks = append(w.checks, check{"p99", millis(last), *p99})
	}
	r.add(w)
}

func millis(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

// inMillis is a target for a duration.
func inMillis(must, stretch float64) *target {
	return &target{must: must, stretch: stretch, unit: " ms"}
}
