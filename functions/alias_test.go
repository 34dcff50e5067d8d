package functions

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/dayfly-run/dayfly/wire"
)

var aliasTime = time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC)

func TestPick(t *testing.T) {
	split := Alias{Version: 7, Weights: map[int]int{8: 10}}
	counts := map[int]int{}
	for draw := range 100 {
		counts[split.Pick(draw)]++
		if got := (Alias{Version: 7}).Pick(draw); got != 7 {
			t.Errorf("draw %d: %d", draw, got)
		}
	}
	if counts[7] != 90 || counts[8] != 10 || split.Pick(MainDraw) != 7 || split.Percent(7) != 90 || split.Percent(8) != 10 || split.Percent(9) != 0 {
		t.Errorf("%v", counts)
	}
	if got := split.String(); got != "7 with 10% to 8" || !slices.Equal(split.Versions(), []int{7, 8}) {
		t.Errorf("%s, %v", got, split.Versions())
	}
}

func TestValidAlias(t *testing.T) {
	for name, want := range map[string]bool{"prod": true, "v7": true, "7": false, "007": false, "0": false, "Prod": false, "": false, "a_b": false, "7-8": true} {
		if got := ValidAlias(name); got != want {
			t.Errorf("%q: %t", name, got)
		}
	}
}

// deployed is a function after so many deploys.
func deployed(n int) Function {
	f := Function{FunctionID: wire.FunctionID{Namespace: "default", Name: "a"}}
	for number := 1; number <= n; number++ {
		f.Add(number, aliasTime)
		f.Promote(number, aliasTime)
	}
	return f
}

// TestDeploysAndHands tells who has the last word about live.
func TestDeploysAndHands(t *testing.T) {
	f := deployed(2)
	f.Add(3, aliasTime) // a slow deploy begins
	f.Add(4, aliasTime)
	if !f.Promote(4, aliasTime) || f.Promote(3, aliasTime) || f.Aliases["live"].Version != 4 || f.Previous != 2 {
		t.Errorf("a deploy that began earlier took live: %+v", f)
	}
	f.Add(5, aliasTime) // another one begins
	if from, to, err := f.Rollback(0, aliasTime); err != nil || from != 4 || to != 2 {
		t.Errorf("rollback from %d to %d, %v", from, to, err)
	}
	if f.Promote(5, aliasTime) || f.Aliases["live"].Version != 2 {
		t.Errorf("a deploy undid the rollback that came after its begin: %+v", f)
	}
	f.Add(6, aliasTime)
	if !f.Promote(6, aliasTime) || f.Aliases["live"].Version != 6 || f.Previous != 2 {
		t.Errorf("a deploy after the rollback stays out: %+v", f)
	}
	if f.Promote(7, aliasTime) {
		t.Error("a version that is not there went live")
	}
}

func TestRollback(t *testing.T) {
	trial := deployed(7)
	if err := trial.SetAlias("live", Alias{Version: 7, Weights: map[int]int{5: 10}}, aliasTime); err != nil {
		t.Fatal(err)
	}
	shifted := deployed(7)
	if err := shifted.SetAlias("live", Alias{Version: 5, Weights: map[int]int{7: 10}}, aliasTime); err != nil {
		t.Fatal(err)
	}
	none := Function{FunctionID: trial.FunctionID}
	none.Add(1, aliasTime)
	for name, test := range map[string]struct {
		f            Function
		to           int
		from, went   int
		code         wire.Code
		wantPrevious int
	}{
		"to the one before":               {f: deployed(7), from: 7, went: 6, wantPrevious: 7},
		"to a number":                     {f: deployed(7), to: 3, from: 7, went: 3, wantPrevious: 7},
		"a trial ends":                    {f: trial, from: 5, went: 7, wantPrevious: 6},
		"a shift is undone":               {f: shifted, from: 5, went: 7, wantPrevious: 5},
		"there is none before":            {f: deployed(1), code: wire.CodeConflict},
		"there is no such version":        {f: deployed(1), to: 9, code: wire.CodeNotFound},
		"nothing is live":                 {f: none, code: wire.CodeNotFound},
		"to what is live changes nothing": {f: deployed(7), to: 7, from: 7, went: 7, wantPrevious: 6},
	} {
		from, went, err := test.f.Rollback(test.to, aliasTime)
		if test.code != "" {
			if !wire.HasCode(err, test.code) {
				t.Errorf("%s: %v", name, err)
			}
			continue
		}
		want := Alias{Version: test.went}
		if err != nil || from != test.from || went != test.went || cmp.Diff(want, test.f.Aliases["live"]) != "" || test.f.Previous != test.wantPrevious {
			t.Errorf("%s: from %d to %d, %v: %+v", name, from, went, err, test.f)
		}
	}
}

// TestOldVersionsGo: the oldest that nothing names are dropped, and what is named stays
// however old it is.
func TestOldVersionsGo(t *testing.T) {
	f := deployed(2)
	if err := f.SetAlias("first", Alias{Version: 1}, aliasTime); err != nil {
		t.Fatal(err)
	}
	var dropped []int
	for number := 3; number <= wire.MaxVersions+5; number++ {
		dropped = append(dropped, f.Add(number, aliasTime)...)
	}
	// 2 is live.
	if diff := cmp.Diff([]int{3, 4, 5, 6, 7}, dropped); diff != "" || !f.Has(1) || !f.Has(2) || f.Has(3) || len(f.Versions) != wire.MaxVersions {
		t.Errorf("(-want +got):\n%s%v", diff, f.Versions)
	}
	if _, err := f.Resolve("3", MainDraw); err == nil || !strings.Contains(err.Error(), fmt.Sprintf("its versions are 1 to 2, 8 to %d", wire.MaxVersions+5)) {
		t.Errorf("%v", err)
	}
}

// TestAliasesNameWhatIsThere: whatever happens to a function, its aliases name versions
// that it has, live is never lost, and a copy from before is not changed.
func TestAliasesNameWhatIsThere(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		f, next := Function{FunctionID: wire.FunctionID{Namespace: "default", Name: "a"}}, 0
		number := func(label string) int { return rapid.IntRange(1, max(next, 1)).Draw(t, label) }
		for range rapid.IntRange(1, 150).Draw(t, "steps") {
			before, copied := f, fmt.Sprintf("%+v", f)
			_, wasLive := f.Aliases[wire.LiveAlias]
			switch rapid.IntRange(0, 5).Draw(t, "what") {
			case 0, 1:
				next++
				f.Add(next, aliasTime)
			case 2:
				f.Promote(number("promoted"), aliasTime)
			case 3:
				a := Alias{Version: number("main")}
				if rapid.Bool().Draw(t, "split") {
					a.Weights = map[int]int{number("other"): rapid.IntRange(0, 100).Draw(t, "percent")}
				}
				_ = f.SetAlias(rapid.SampledFrom([]string{"live", "prod", "beta"}).Draw(t, "alias"), a, aliasTime) // it may say no
			case 4:
				_ = f.RemoveAlias(rapid.SampledFrom([]string{"live", "prod", "beta"}).Draw(t, "removed"), aliasTime)
			case 5:
				_, _, _ = f.Rollback(rapid.SampledFrom([]int{0, number("to")}).Draw(t, "rollback"), aliasTime)
			}
			if now := fmt.Sprintf("%+v", before); now != copied {
				t.Fatalf("a copy was changed from %s to %s", copied, now)
			}
			_, isLive := f.Aliases[wire.LiveAlias]
			if wasLive && !isLive || f.Decided > f.Latest || f.Latest != next || !slices.IsSorted(f.Versions) {
				t.Fatalf("%+v", f)
			}
			for name, a := range f.Aliases {
				share := 0
				for _, n := range a.Versions() {
					share += a.Percent(n)
					if !f.Has(n) {
						t.Fatalf("%s names version %d, which is not there: %+v", name, n, f)
					}
				}
				if share != 100 {
					t.Fatalf("%s gives out %d%%", name, share)
				}
			}
		}
	})
}
