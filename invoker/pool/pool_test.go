package pool_test

import (
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

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
			p := pool.New(one)
			must(t, p.Add("i", version("f", 1), one, epoch))
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
	p := pool.New(one)
	if got := p.State("x"); got != pool.Gone {
		t.Errorf("state %s", got)
	}
	if err := p.Move("x", pool.Warm, epoch); !errors.Is(err, pool.ErrDenied) {
		t.Errorf("move: %v", err)
	}
}

func TestAddTwice(t *testing.T) {
	p := pool.New(times(one, 5))
	must(t, p.Add("i", version("f", 1), one, epoch))
	if err := p.Add("i", version("f", 1), one, epoch); !errors.Is(err, pool.ErrDenied) {
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
		if err := pool.New(one).Add("i", version("f", 1), needs, epoch); !errors.Is(err, pool.ErrNoRoom) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestTakePrefersTheMostRecentlyUsed(t *testing.T) {
	p := pool.New(times(one, 10))
	for i, id := range []wire.InstanceID{"a", "b", "c"} {
		must(t, p.Add(id, version("f", 1), one, at(i)))
	}
	for i, id := range []wire.InstanceID{"b", "c", "a"} {
		must(t, p.Move(id, pool.Warm, at(10+i)))
	}
	must(t, p.Add("other", version("f", 2), one, at(20)))
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

func TestExpired(t *testing.T) {
	p := pool.New(times(one, 10))
	for i, id := range []wire.InstanceID{"a", "b", "c", "busy"} {
		must(t, p.Add(id, version("f", 1), one, at(0)))
		must(t, p.Move(id, pool.Warm, at(i)))
	}
	must(t, p.Move("busy", pool.Busy, at(0)))
	if got := p.Expired(at(2)); !slices.Equal(got, []wire.InstanceID{"a", "b"}) {
		t.Errorf("expired before 2: %v; used exactly then is not before", got)
	}
}

func TestEvictableTakesTheOldestFirst(t *testing.T) {
	p := pool.New(times(one, 4))
	for i, id := range []wire.InstanceID{"new", "old", "middle", "busy"} {
		must(t, p.Add(id, version("f", i+1), one, at(0)))
	}
	must(t, p.Move("old", pool.Warm, at(1)))
	must(t, p.Move("middle", pool.Warm, at(2)))
	must(t, p.Move("new", pool.Warm, at(3)))
	must(t, p.Move("busy", pool.Busy, at(0)))
	if ids, ok := p.Evictable(times(one, 2)); !ok || !slices.Equal(ids, []wire.InstanceID{"old", "middle"}) {
		t.Errorf("evictable: %v, %t", ids, ok)
	}
	if ids, ok := p.Evictable(times(one, 4)); ok || ids != nil {
		t.Errorf("evictable with one busy: %v, %t", ids, ok)
	}
}

// Two calls that need room at once must not evict for the same room twice, nor be
// refused while room is on its way.
func TestEvictableCountsWhatIsLeaving(t *testing.T) {
	p := pool.New(times(one, 2))
	must(t, p.Add("big", version("f", 1), times(one, 2), at(0)))
	must(t, p.Move("big", pool.Warm, at(0)))
	must(t, p.Move("big", pool.Draining, at(1)))
	if ids, ok := p.Evictable(one); !ok || len(ids) != 0 {
		t.Errorf("evictable while room is on its way: %v, %t", ids, ok)
	}
	if err := p.Add("next", version("g", 1), one, at(1)); !errors.Is(err, pool.ErrNoRoom) {
		t.Errorf("add before the room is there: %v", err)
	}
	must(t, p.Move("big", pool.Gone, at(2)))
	must(t, p.Add("next", version("g", 1), one, at(2)))
	if ids, ok := p.Evictable(times(one, 2)); ok {
		t.Errorf("what is gone still counts as leaving: %v", ids)
	}
}

func TestVersionsAreInOrder(t *testing.T) {
	p := pool.New(times(one, 10))
	for i, v := range []wire.VersionID{
		version("b", 2), version("a", 10), version("a", 9),
		{FunctionID: wire.FunctionID{Namespace: "a", Name: "z"}, Number: 1},
	} {
		must(t, p.Add(wire.InstanceID(rune('a'+i)), v, one, epoch))
	}
	must(t, p.Move("a", pool.Draining, epoch)) // takes no calls: not listed
	must(t, p.Move("b", pool.Warm, epoch))
	want := []wire.VersionOnNode{
		{Version: wire.VersionID{FunctionID: wire.FunctionID{Namespace: "a", Name: "z"}, Number: 1}, Starting: 1},
		{Version: version("a", 9), Starting: 1},
		{Version: version("a", 10), Idle: 1},
	}
	if diff := cmp.Diff(want, p.Versions()); diff != "" {
		t.Error(diff)
	}
}
