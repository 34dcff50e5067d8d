package table

import (
	"strings"
	"testing"
	"time"
)

func TestPrintIsMarkdown(t *testing.T) {
	t.Parallel()
	var out strings.Builder
	tbl := Table{Title: "Times", Columns: []string{"what", "took"}}
	tbl.Row("one", Micros(1234567*time.Nanosecond))
	tbl.Row("a longer one", Millis(1234567*time.Nanosecond))
	if err := tbl.Print(&out); err != nil {
		t.Fatal(err)
	}
	const want = `
Times

| what         | took    |
| ---          | ---     |
| one          | 1234 µs |
| a longer one | 1.2 ms  |
`
	if out.String() != want {
		t.Errorf("got:\n%s", out.String())
	}
}

func TestBound(t *testing.T) {
	t.Parallel()
	most, least := &Bound{Limit: 1.8, Unit: " × B1"}, &Bound{Limit: 0.3, AtLeast: true}
	for _, test := range []struct {
		bound      *Bound
		figure     float64
		must, kept string
	}{
		{nil, 5, "", ""}, {most, 1.8, "≤ 1.8 × B1", "yes"}, {most, 1.81, "≤ 1.8 × B1", "no"},
		{least, 0.3, "≥ 0.3", "yes"}, {least, 0.29, "≥ 0.3", "no"},
	} {
		if must, kept := test.bound.Show(test.figure); must != test.must || kept != test.kept {
			t.Errorf("%v of %+v: %q %q", test.figure, test.bound, must, kept)
		}
	}
}
