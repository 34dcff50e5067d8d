package wire_test

import (
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/dayfly-run/dayfly/wire"
)

func TestSubjectsAndFilters(t *testing.T) {
	for s, want := range map[string]struct{ filter, subject bool }{
		"orders":                 {true, true},
		"orders.created":         {true, true},
		"a-b_c.$x":               {true, true},
		"orders.*":               {true, false},
		"*.orders":               {true, false},
		"orders.>":               {true, false},
		">":                      {true, false},
		"*":                      {true, false},
		"":                       {},
		".":                      {},
		"a.":                     {},
		".a":                     {},
		"a..b":                   {},
		"a b":                    {},
		"a\tb":                   {},
		"a\x00b":                 {},
		"a*":                     {},
		"a.b>":                   {},
		"a.>.b":                  {},
		strings.Repeat("a", 256): {},
	} {
		if got := wire.ValidFilter(s); got != want.filter {
			t.Errorf("filter %q: %t", s, got)
		}
		if got := wire.ValidSubject(s); got != want.subject {
			t.Errorf("subject %q: %t", s, got)
		}
	}
}

// tokens is a small alphabet, so that filters meet.
func filters() *rapid.Generator[string] {
	return rapid.Custom(func(t *rapid.T) string {
		tokens := rapid.SliceOfN(rapid.SampledFrom([]string{"a", "b", "*"}), 1, 4).Draw(t, "tokens")
		if rapid.Bool().Draw(t, "rest") {
			tokens[len(tokens)-1] = ">"
		}
		return strings.Join(tokens, ".")
	})
}

// everySubject lists all subjects of up to five tokens; no filter above tells longer
// ones apart.
func everySubject() []string {
	all, last := []string{}, []string{""}
	for range 5 {
		var next []string
		for _, head := range last {
			for _, token := range []string{"a", "b", "c"} {
				next = append(next, strings.TrimPrefix(head+"."+token, "."))
			}
		}
		all, last = append(all, next...), next
	}
	return all
}

func TestCoversAndOverlap(t *testing.T) {
	subjects := everySubject()
	rapid.Check(t, func(t *rapid.T) {
		a, b := filters().Draw(t, "a"), filters().Draw(t, "b")
		covers, overlap := true, false
		for _, s := range subjects {
			inA, inB := captures(a, s), captures(b, s)
			covers = covers && (inA || !inB)
			overlap = overlap || inA && inB
		}
		if got := wire.Covers(a, b); got != covers {
			t.Errorf("%s covers %s: %t", a, b, got)
		}
		if got := wire.Overlap(a, b); got != overlap {
			t.Errorf("%s overlaps %s: %t", a, b, got)
		}
	})
}

// TestUnion: all that was matched still is, and no two of the union meet.
func TestUnion(t *testing.T) {
	subjects := everySubject()
	rapid.Check(t, func(t *rapid.T) {
		all := rapid.SliceOfN(filters(), 0, 6).Draw(t, "filters")
		union := wire.Union(all)
		for _, s := range subjects {
			match := func(filter string) bool { return captures(filter, s) }
			if slices.ContainsFunc(all, match) && !slices.ContainsFunc(union, match) {
				t.Fatalf("%s: %q became %q", s, all, union)
			}
		}
		for i, a := range union {
			for _, b := range union[i+1:] {
				if wire.Overlap(a, b) {
					t.Fatalf("%q has %s beside %s", union, a, b)
				}
			}
		}
	})
}

func TestUnionStaysNarrow(t *testing.T) {
	for _, test := range []struct{ filters, want []string }{
		{[]string{"orders.created", "orders.*", "users.>"}, []string{"orders.*", "users.>"}},
		{[]string{"a.b", "a.c", "a.b"}, []string{"a.c", "a.b"}},
		{[]string{"a.*.c", "a.b.*"}, []string{"a.*.*"}},
		{[]string{"a.b.c", "a.>"}, []string{"a.>"}},
		{[]string{"a", "a.>"}, []string{"a", "a.>"}},
		// The third one joins two that did not meet before.
		{[]string{"a.*.x", "a.y.z", "a.y.*"}, []string{"a.*.*"}},
	} {
		if got := wire.Union(test.filters); !slices.Equal(got, test.want) {
			t.Errorf("%q became %q, want %q", test.filters, got, test.want)
		}
	}
}
