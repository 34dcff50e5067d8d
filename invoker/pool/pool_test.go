package pool_test

import (
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/dayfly-run/dayfly/invoker/keepalive"
	"github.com/dayfly-run/dayfly/invoker/pool"
	"github.com/dayfly-run/dayfly/wire"
)

var (
	epoch = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	one   = wire.Resources{MemoryBytes: 100, CPUMillis: 10, Instances: 1}
)

func version(name string, number int) wire.VersionID {
	return wire.VersionID{FunctionID: wire.FunctionID{Namespace: "default", Name: name}, Number: number}
}

func at(seconds int) time.Time { return epoch.Add(time.Duration(seconds) * time.Second) }

func times(r wire.Resources, n int64) wire.Resources {
	return wire.Resources{MemoryBytes: n * r.MemoryBytes, CPUMillis: n * r.CPUMillis, Instances: int(n) * r.Instances}
}

// open makes a pool.
func open(capacity wire.Resources) *pool.Pool {
	return pool.New(capacity, keepalive.Limits{IdleLimit: time.Minute, StartsAhead: true})
}

// needing is the shape of an instance that runs one event at a time.
func needing(needs wire.Resources) pool.Shape { return pool.Shape{Needs: needs, Slots: 1} }

func must(tb testing.TB, err error) {
	tb.Helper()
	if err != nil {
		tb.Fatal(err)
	}
}

// states are all states and one that is none.
var states = []pool.State{pool.Binding, pool.Warm, pool.Busy, pool.Draining, pool.Gone, pool.Gone + 1}

// moves is the whole table, written down a second time on purpose.
var moves = map[[2]pool.State]bool{
	{pool.Binding, pool.Warm}:     true,
	{pool.Binding, pool.Busy}:     true,
	{pool.Binding, pool.Draining}: true,
	{pool.Warm, pool.Busy}:        true,
	{pool.Warm, pool.Draining}:    true,
	{pool.Busy, pool.Warm}:        true,
	{pool.Busy, pool.Draining}:    true,
	{pool.Draining, pool.Gone}:    true,
}

// ways says how an instance gets into a state.
var ways = map[pool.State][]pool.State{
	pool.Binding:  nil,
	pool.Warm:     {pool.Warm},
	pool.Busy:     {pool.Busy},
	pool.Draining: {pool.Draining},
	pool.Gone:     {pool.Draining, pool.Gone},
}

func TestEveryPairOfStates(t *testing.T) {
	for _, from := range states {
		for _, to := range states {
			want := moves[[2]pool.State{from, to}]
			if got := pool.CanMove(from, to); got != want {
				t.Errorf("CanMove(%s, %s) = %t, want %t", from, to, got, want)
			}
			way, reachable := ways[from]
			if !reachable {
				continue
			}
			p := open(one)
			must(t, p.Add("i", version("f", 1), needing(one), epoch))
			for _, step := range way {
				must(t, p.Move("i", step, epoch))
			}
			before := p.Versions()
			err := p.Move("i", to, at(1))
			if want != (err == nil) || (err != nil && !errors.Is(err, pool.ErrDenied)) {
				t.Errorf("Move from %s to %s: %v, want allowed %t", from, to, err, want)
			}
			if err != nil {
				if got := p.State("i"); got != from {
					t.Errorf("a denied move from %s to %s left it %s", from, to, got)
				}
				if diff := cmp.Diff(before, p.Versions()); diff != "" {
					t.Errorf("a denied move from %s to %s changed the counts:\n%s", from, to, diff)
				}
			}
		}
	}
}

func TestStateNames(t *testing.T) {
	want := []string{"binding", "warm", "busy", "draining", "gone", "state(5)"}
	for i, s := range states {
		if s.String() != want[i] {
			t.Errorf("state %d is called %q, want %q", i, s, want[i])
		}
	}
}

func TestUnknownInstanceIsGone(t *testing.T) {
	p := open(one)
	if got := p.State("x"); got != pool.Gone {
		t.Errorf("state %s", got)
	}
	if err := p.Move("x", pool.Warm, epoch); !errors.Is(err, pool.ErrDenied) {
		t.Errorf("move: %v", err)
	}
}

func TestAddTwice(t *testing.T) {
	p := open(times(one, 5))
	must(t, p.Add("i", version("f", 1), needing(one), epoch))
	if err := p.Add("i", version("f", 1), needing(one), epoch); !errors.Is(err, pool.ErrDenied) {
		t.Fatalf("second add: %v", err)
	}
	if reserved, _ := p.Usage(); reserved != one {
		t.Errorf("reserved %+v", reserved)
	}
}

func TestAddRefusesInEachDimension(t *testing.T) {
	for name, needs := range map[string]wire.Resources{
		"memory":    {MemoryBytes: 101},
		"cpu":       {CPUMillis: 11},
		"instances": {Instances: 2},
	} {
		if err := open(one).Add("i", version("f", 1), needing(needs), epoch); !errors.Is(err, pool.ErrNoRoom) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestTakePrefersTheMostRecentlyUsed(t *testing.T) {
	p := open(times(one, 10))
	for i, id := range []wire.InstanceID{"a", "b", "c"} {
		must(t, p.Add(id, version("f", 1), needing(one), at(i)))
	}
	for i, id := range []wire.InstanceID{"b", "c", "a"} {
		must(t, p.Move(id, pool.Warm, at(10+i)))
	}
	must(t, p.Add("other", version("f", 2), needing(one), at(20)))
	must(t, p.Move("other", pool.Warm, at(20)))
	for _, want := range []wire.InstanceID{"a", "c", "b"} {
		if got, ok := p.Take(version("f", 1), at(30)); !ok || got != want {
			t.Fatalf("took %q, %t; want %q", got, ok, want)
		}
	}
	if got, ok := p.Take(version("f", 1), at(30)); ok {
		t.Errorf("took %q, but all are busy", got)
	}
	if got, ok := p.Take(version("g", 1), at(30)); ok {
		t.Errorf("took %q of a version that has none", got)
	}
}

func TestEvictableSparesTheBusyAndTheKept(t *testing.T) {
	p := open(times(one, 4))
	for i, id := range []wire.InstanceID{"a", "b", "kept", "busy"} {
		must(t, p.Add(id, version("f", i+1), needing(one), at(0)))
		must(t, p.Move(id, pool.Warm, at(1+i)))
	}
	p.Keep(version("f", 3), 1)
	must(t, p.Move("busy", pool.Busy, at(9)))
	ids, ok := p.Evictable(times(one, 2), at(10))
	if slices.Sort(ids); !ok || !slices.Equal(ids, []wire.InstanceID{"a", "b"}) {
		t.Errorf("evictable: %v, %t", ids, ok)
	}
	if ids, ok := p.Evictable(times(one, 3), at(10)); ok || ids != nil {
		t.Errorf("evictable with one kept and one busy: %v, %t", ids, ok)
	}
	if ids := p.Expired(at(1000)); slices.Contains(ids, "kept") || slices.Contains(ids, "busy") || len(ids) != 2 {
		t.Errorf("expired: %v", ids)
	}
	p.Keep(version("f", 3), 0)
	if ids, ok := p.Evictable(times(one, 3), at(11)); !ok || len(ids) != 3 {
		t.Errorf("evictable once nothing is kept: %v, %t", ids, ok)
	}
}

func TestTakeFillsTheBusiest(t *testing.T) {
	p := open(times(one, 4))
	shape := pool.Shape{Needs: one, Slots: 3}
	for i, id := range []wire.InstanceID{"a", "b"} {
		must(t, p.Add(id, version("f", 1), shape, at(0)))
		must(t, p.Move(id, pool.Warm, at(1+i)))
	}
	if got := p.Versions(); got[0].Slots != 6 {
		t.Errorf("%d slots, want 6", got[0].Slots)
	}
	for _, want := range []wire.InstanceID{"b", "b", "b", "a"} {
		if got, ok := p.Take(version("f", 1), at(5)); !ok || got != want {
			t.Fatalf("took %q, %t; want %q", got, ok, want)
		}
	}
	must(t, p.Return("b", at(6)))
	if got, ok := p.Take(version("f", 1), at(7)); !ok || got != "b" {
		t.Errorf("took %q, %t; it has two events, a has one", got, ok)
	}
	for range 3 {
		must(t, p.Return("b", at(8)))
	}
	if got := p.State("b"); got != pool.Warm {
		t.Errorf("after its last event it is %s", got)
	}
	if err := p.Return("b", at(9)); !errors.Is(err, pool.ErrDenied) {
		t.Errorf("an event that is none was ended: %v", err)
	}
}

func TestOnceIsNeverWarm(t *testing.T) {
	p := open(times(one, 4))
	must(t, p.Add("a", version("f", 1), pool.Shape{Needs: one, Slots: 1, Once: true}, at(0)))
	if err := p.Move("a", pool.Warm, at(1)); !errors.Is(err, pool.ErrDenied) {
		t.Errorf("it became warm: %v", err)
	}
	must(t, p.Move("a", pool.Busy, at(1)))
	if got := p.Versions(); got[0].Busy != 1 || got[0].Slots != 0 {
		t.Errorf("counts %+v", got)
	}
	if err := p.Return("a", at(2)); !errors.Is(err, pool.ErrDenied) || p.State("a") != pool.Busy {
		t.Errorf("it was given back: %v", err)
	}
	must(t, p.Move("a", pool.Draining, at(2)))
}

func TestInstancesOfAVersionAreAlike(t *testing.T) {
	p := open(times(one, 4))
	must(t, p.Add("a", version("f", 1), needing(one), at(0)))
	if err := p.Add("b", version("f", 1), needing(times(one, 2)), at(0)); !errors.Is(err, pool.ErrDenied) {
		t.Errorf("add: %v", err)
	}
}

// Two calls that need room at once must not evict for the same room twice, nor be
// refused while room is on its way.
func TestEvictableCountsWhatIsLeaving(t *testing.T) {
	p := open(times(one, 2))
	must(t, p.Add("big", version("f", 1), needing(times(one, 2)), at(0)))
	must(t, p.Move("big", pool.Warm, at(0)))
	must(t, p.Move("big", pool.Draining, at(1)))
	if ids, ok := p.Evictable(one, at(2)); !ok || len(ids) != 0 {
		t.Errorf("evictable while room is on its way: %v, %t", ids, ok)
	}
	if err := p.Add("next", version("g", 1), needing(one), at(1)); !errors.Is(err, pool.ErrNoRoom) {
		t.Errorf("add before the room is there: %v", err)
	}
	must(t, p.Move("big", pool.Gone, at(2)))
	must(t, p.Add("next", version("g", 1), needing(one), at(2)))
	if ids, ok := p.Evictable(times(one, 2), at(2)); ok {
		t.Errorf("what is gone still counts as leaving: %v", ids)
	}
}

func TestVersionsAreInOrder(t *testing.T) {
	p := open(times(one, 10))
	for i, v := range []wire.VersionID{
		version("b", 2), version("a", 10), version("a", 9),
		{FunctionID: wire.FunctionID{Namespace: "a", Name: "z"}, Number: 1},
	} {
		must(t, p.Add(wire.InstanceID(rune('a'+i)), v, needing(one), epoch))
	}
	must(t, p.Move("a", pool.Draining, epoch)) // takes no calls: not listed
	must(t, p.Move("b", pool.Warm, epoch))
	want := []wire.VersionOnNode{
		{Version: wire.VersionID{FunctionID: wire.FunctionID{Namespace: "a", Name: "z"}, Number: 1}, Starting: 1},
		{Version: version("a", 9), Starting: 1},
		{Version: version("a", 10), Idle: 1, Slots: 1},
	}
	if diff := cmp.Diff(want, p.Versions()); diff != "" {
		t.Error(diff)
	}
}
