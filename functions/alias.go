package functions

import (
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/dayfly-run/dayfly/wire"
)

// Alias is a name that points to a version, or splits its calls between two.
type Alias struct {
	// Version is the main one: what triggers and minInstances go by.
	Version int `json:"version"`
	// Weights give a share of the calls, in percent from 1 to 99, to other versions; at
	// most one.
	Weights map[int]int `json:"weights,omitempty"`
}

// MainDraw is a draw that always means an alias's main version.
const MainDraw = 99

// Pick returns the version of a call, by a draw from 0 to 99.
func (a Alias) Pick(draw int) int {
	for other, percent := range a.Weights {
		if draw < percent {
			return other
		}
	}
	return a.Version
}

// Percent returns a version's share of the calls, from 0 to 100.
func (a Alias) Percent(number int) int {
	if number != a.Version {
		return a.Weights[number]
	}
	share := 100
	for _, percent := range a.Weights {
		share -= percent
	}
	return share
}

// Versions returns the versions that calls may go to, the main one first.
func (a Alias) Versions() []int {
	return append([]int{a.Version}, slices.Sorted(maps.Keys(a.Weights))...)
}

// String writes the alias for people: 7, or 7 with 10% to 8.
func (a Alias) String() string {
	text := strconv.Itoa(a.Version)
	for other, percent := range a.Weights {
		text += " with " + strconv.Itoa(percent) + "% to " + strconv.Itoa(other)
	}
	return text
}

// ValidAlias reports whether s may name an alias: a name, and no number.
func ValidAlias(s string) bool {
	return wire.ValidName(s) && strings.Trim(s, "0123456789") != ""
}

// check refuses an alias that cannot be.
func (f *Function) check(a Alias) error {
	if len(a.Weights) > 1 {
		return wire.Errorf(wire.CodeInvalid, "an alias splits its calls between two versions at most; name one weight")
	}
	for _, number := range a.Versions() {
		if !f.Has(number) {
			return f.noVersion(number)
		}
	}
	for other, percent := range a.Weights {
		switch {
		case percent < 1 || percent > 99:
			return wire.Errorf(wire.CodeInvalid, "weight %d=%d: use a percentage from 1 to 99", other, percent)
		case other == a.Version:
			return wire.Errorf(wire.CodeInvalid, "weight %d=%d: version %d is the main one; give the weight of another", other, percent, other)
		}
	}
	return nil
}

// GiveUp sees to it that no deploy lists a version of this number or a lower one any more,
// and says whether that is new. Of a function that is not there it leaves what a deleted
// one does.
func (f *Function) GiveUp(number int) bool {
	if number <= f.GivenUp {
		return false
	}
	f.GivenUp, f.Latest = number, max(f.Latest, number)
	f.Deleted = f.Deleted || f.CreatedAt.IsZero()
	return true
}

// Add lists a new version. It returns those that are dropped for it: the oldest beyond
// [wire.MaxVersions] that nothing names.
func (f *Function) Add(number int, now time.Time) (dropped []int) {
	if f.CreatedAt.IsZero() || f.Deleted {
		*f = Function{FunctionID: f.FunctionID, Latest: f.Latest, Decided: f.Decided, GivenUp: f.GivenUp, CreatedAt: now}
	}
	if f.Aliases == nil {
		f.Aliases = map[string]Alias{}
	}
	f.Latest, f.UpdatedAt = max(f.Latest, number), now
	named := map[int]bool{number: true, f.Previous: true}
	for _, a := range f.Aliases {
		for _, n := range a.Versions() {
			named[n] = true
		}
	}
	f.Versions = slices.Clone(f.Versions) // others may read it
	if at, found := slices.BinarySearch(f.Versions, number); !found {
		f.Versions = slices.Insert(f.Versions, at, number)
	}
	surplus := len(f.Versions) - wire.MaxVersions
	f.Versions = slices.DeleteFunc(f.Versions, func(n int) bool {
		drop := surplus > 0 && !named[n]
		if drop {
			surplus--
			dropped = append(dropped, n)
		}
		return drop
	})
	return dropped
}

// Promote makes a version live at the end of its deploy, and reports whether it did.
// It does not when a deploy that began later was quicker, or when somebody moved live
// since the deploy began.
func (f *Function) Promote(number int, now time.Time) bool {
	if number <= f.Decided || !f.Has(number) {
		return false
	}
	f.Decided = number
	f.point(wire.LiveAlias, Alias{Version: number}, now)
	return true
}

// SetAlias points an alias, which need not be there, somewhere else. Its errors are
// [*wire.Error] with code invalid or not_found.
func (f *Function) SetAlias(name string, a Alias, now time.Time) error {
	if !ValidAlias(name) {
		return wire.Errorf(wire.CodeInvalid,
			"%q cannot name an alias: use lower-case letters, digits and inner hyphens, at most 63, and not only digits", name)
	}
	if err := f.check(a); err != nil {
		return err
	}
	if name == wire.LiveAlias {
		f.Decided = f.Latest // deploys under way were not meant by who said this
	}
	f.point(name, a, now)
	return nil
}

// RemoveAlias removes an alias other than live.
func (f *Function) RemoveAlias(name string, now time.Time) error {
	if name == wire.LiveAlias {
		return wire.Errorf(wire.CodeInvalid, "the alias live cannot be removed: it is what %s means; point it elsewhere, or delete the function", f.FunctionID)
	}
	if _, found := f.Aliases[name]; !found {
		return f.noAlias(name)
	}
	f.Aliases = maps.Clone(f.Aliases)
	delete(f.Aliases, name)
	f.UpdatedAt = now
	return nil
}

// Rollback points live, all of it, to a version: to the one that was live before when
// it is 0. Where live is split, that is its other part, so that a trial ends.
func (f *Function) Rollback(to int, now time.Time) (from, went int, err error) {
	live, found := f.Aliases[wire.LiveAlias]
	if !found {
		return 0, 0, f.noAlias(wire.LiveAlias)
	}
	from = live.Version
	switch {
	case to != 0:
	case len(live.Weights) > 0 && !slices.Contains(live.Versions(), f.Previous):
		// Its main version never stopped being live: the other one was on trial.
		to, from = live.Version, live.Versions()[1]
	case f.Previous == 0:
		return 0, 0, wire.Errorf(wire.CodeConflict,
			"nothing of function %s was live before version %d; name a version to go to, of these: %s", f.FunctionID, from, f.offersVersions())
	default:
		to = f.Previous
	}
	if err := f.SetAlias(wire.LiveAlias, Alias{Version: to}, now); err != nil {
		return 0, 0, err
	}
	return from, to, nil
}

// point sets an alias and remembers what was live.
func (f *Function) point(name string, a Alias, now time.Time) {
	before := f.Aliases[name]
	f.Aliases = maps.Clone(f.Aliases) // others may read it
	if f.Aliases == nil {
		f.Aliases = map[string]Alias{}
	}
	f.Aliases[name], f.UpdatedAt = a, now
	if name == wire.LiveAlias && before.Version != a.Version {
		f.Previous = before.Version
	}
}
