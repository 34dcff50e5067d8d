package pool_test

import (
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/dayfly-run/dayfly/invoker/pool"
	"github.com/dayfly-run/dayfly/wire"
)

// known is what the model remembers of an instance.
type known struct {
	id      wire.InstanceID
	version wire.VersionID
	needs   wire.Resources
	state   pool.State
	used    time.Time
}

// model does what the pool does, in the plainest way: one list, searched each time.
type model struct {
	pool     *pool.Pool
	capacity wire.Resources
	all      []*known // gone ones too
	now      time.Time
}

func (m *model) sum(of ...pool.State) (r wire.Resources) {
	for _, k := range m.all {
		if slices.Contains(of, k.state) {
			r = r.Plus(k.needs)
		}
	}
	return r
}

func (m *model) reserved() wire.Resources {
	return m.sum(pool.Binding, pool.Warm, pool.Busy, pool.Draining)
}

// warm returns the warm instances, least recently used first.
func (m *model) warm() []*known {
	var list []*known
	for _, k := range m.all {
		if k.state == pool.Warm {
			list = append(list, k)
		}
	}
	slices.SortFunc(list, func(a, b *known) int { return a.used.Compare(b.used) })
	return list
}

func (m *model) find(id wire.InstanceID) *known {
	i := slices.IndexFunc(m.all, func(k *known) bool { return k.id == id })
	return m.all[i]
}

func (m *model) tick() time.Time {
	m.now = m.now.Add(time.Second)
	return m.now
}

var (
	someVersion = rapid.Custom(func(t *rapid.T) wire.VersionID {
		return version(rapid.SampledFrom([]string{"f", "g"}).Draw(t, "name"), rapid.IntRange(1, 2).Draw(t, "number"))
	})
	someNeeds = rapid.Custom(func(t *rapid.T) wire.Resources {
		return wire.Resources{
			MemoryBytes: rapid.Int64Range(0, 60).Draw(t, "memory"),
			CPUMillis:   rapid.Int64Range(0, 60).Draw(t, "cpu"),
			Instances:   1,
		}
	})
)

func (m *model) add(t *rapid.T) {
	k := &known{
		id:      wire.InstanceID(fmt.Sprint("i", len(m.all))),
		version: someVersion.Draw(t, "version"), needs: someNeeds.Draw(t, "needs"), used: m.tick(),
	}
	fits := m.capacity.Minus(m.reserved()).Fits(k.needs)
	err := m.pool.Add(k.id, k.version, k.needs, k.used)
	if fits != (err == nil) || (err != nil && !errors.Is(err, pool.ErrNoRoom)) {
		t.Fatalf("add %+v: %v, but fits is %t", k.needs, err, fits)
	}
	if err == nil {
		m.all = append(m.all, k)
	}
}

func (m *model) move(t *rapid.T) {
	if len(m.all) == 0 {
		return
	}
	k := rapid.SampledFrom(m.all).Draw(t, "instance")
	to := rapid.SampledFrom(states).Draw(t, "state")
	now := m.tick()
	err := m.pool.Move(k.id, to, now)
	if moves[[2]pool.State{k.state, to}] != (err == nil) {
		t.Fatalf("move %s from %s to %s: %v", k.id, k.state, to, err)
	}
	if err == nil {
		k.state, k.used = to, now
	}
}

func (m *model) take(t *rapid.T) {
	v := someVersion.Draw(t, "version")
	var want *known
	for _, k := range m.warm() {
		if k.version == v {
			want = k // the last is the most recently used
		}
	}
	now := m.tick()
	id, ok := m.pool.Take(v, now)
	switch {
	case ok != (want != nil):
		t.Fatalf("take %s: %q, %t; want %+v", v, id, ok, want)
	case ok && id != want.id:
		t.Fatalf("took %s, but %s was used more recently", id, want.id)
	case ok:
		want.state, want.used = pool.Busy, now
	}
}

func (m *model) evict(t *rapid.T) {
	needs := someNeeds.Draw(t, "needs")
	ids, ok := m.pool.Evictable(needs)
	free := m.capacity.Minus(m.reserved()).Plus(m.sum(pool.Draining))
	if most := free.Plus(m.sum(pool.Warm)); ok != most.Fits(needs) {
		t.Fatalf("evictable says %t for %+v; at most %+v can be free", ok, needs, most)
	}
	if !ok {
		if len(ids) > 0 {
			t.Fatalf("refused, and yet named %v", ids)
		}
		return
	}
	for i, id := range ids {
		if free.Fits(needs) {
			t.Fatalf("%v are more than it takes", ids)
		}
		k := m.find(id)
		if k.state != pool.Warm {
			t.Fatalf("would evict %s, which is %s", id, k.state)
		}
		if oldest := m.warm()[i]; oldest.id != id {
			t.Fatalf("would evict %s before %s, which is older", id, oldest.id)
		}
		free = free.Plus(k.needs)
	}
	if !free.Fits(needs) {
		t.Fatalf("evicting %v frees %+v, not %+v", ids, free, needs)
	}
	if rapid.Bool().Draw(t, "carry out") {
		for _, id := range ids {
			if err := m.pool.Move(id, pool.Draining, m.tick()); err != nil {
				t.Fatal(err)
			}
			m.find(id).state = pool.Draining
		}
	}
}

func (m *model) expire(t *rapid.T) {
	before := epoch.Add(time.Duration(rapid.IntRange(0, 60).Draw(t, "before")) * time.Second)
	var want []wire.InstanceID
	for _, k := range m.warm() {
		if k.used.Before(before) {
			want = append(want, k.id)
		}
	}
	if got := m.pool.Expired(before); !slices.Equal(got, want) {
		t.Fatalf("expired %v, want %v", got, want)
	}
}

// check holds after every step.
func (m *model) check(t *rapid.T) {
	reserved, idle := m.pool.Usage()
	if reserved != m.reserved() {
		t.Fatalf("reserved %+v, the living hold %+v", reserved, m.reserved())
	}
	if warm := m.sum(pool.Warm); idle != warm {
		t.Fatalf("idle %+v, the warm hold %+v", idle, warm)
	}
	for _, r := range []wire.Resources{idle, reserved.Minus(idle), m.capacity.Minus(reserved)} {
		if r.MemoryBytes < 0 || r.CPUMillis < 0 || r.Instances < 0 {
			t.Fatalf("a sum is negative: reserved %+v, idle %+v of %+v", reserved, idle, m.capacity)
		}
	}
	counts := map[wire.VersionID]wire.VersionOnNode{}
	for _, k := range m.all {
		if got := m.pool.State(k.id); got != k.state {
			t.Fatalf("%s is %s, want %s", k.id, got, k.state)
		}
		n := counts[k.version]
		n.Version = k.version
		switch k.state {
		case pool.Binding:
			n.Starting++
		case pool.Warm:
			n.Idle++
		case pool.Busy:
			n.Busy++
		default:
			continue
		}
		counts[k.version] = n
	}
	list := m.pool.Versions()
	for _, n := range list {
		if counts[n.Version] != n {
			t.Fatalf("counts %+v, want %+v", n, counts[n.Version])
		}
	}
	if len(list) != len(counts) {
		t.Fatalf("lists %d versions, want %d", len(list), len(counts))
	}
}

func TestPoolAgainstModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		capacity := wire.Resources{MemoryBytes: 150, CPUMillis: 150, Instances: rapid.IntRange(1, 8).Draw(t, "instances")}
		m := &model{pool: pool.New(capacity), capacity: capacity, now: epoch}
		t.Repeat(map[string]func(*rapid.T){
			"add": m.add, "move": m.move, "take": m.take, "evict": m.evict, "expire": m.expire, "": m.check,
		})
	})
}
