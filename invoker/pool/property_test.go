package pool_test

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/dayfly-run/dayfly/invoker/keepalive"
	"github.com/dayfly-run/dayfly/invoker/pool"
	"github.com/dayfly-run/dayfly/wire"
)

// known is what the model remembers of an instance.
type known struct {
	id      wire.InstanceID
	version wire.VersionID
	state   pool.State
	events  int
	ahead   bool
	used    time.Time
}

// model does what the pool does, in the plainest way: one list, searched each time.
// It tells a policy of its own.
type model struct {
	pool     *pool.Pool
	policy   *keepalive.Policy
	capacity wire.Resources
	shapes   map[wire.VersionID]pool.Shape
	kept     map[wire.VersionID]int
	all      []*known // gone ones too
	now      time.Time
}

func (m *model) sum(of ...pool.State) (r wire.Resources) {
	for _, k := range m.all {
		if slices.Contains(of, k.state) {
			r = r.Plus(m.shapes[k.version].Needs)
		}
	}
	return r
}

func (m *model) reserved() wire.Resources {
	return m.sum(pool.Binding, pool.Warm, pool.Busy, pool.Draining)
}

func (m *model) count(v wire.VersionID, of ...pool.State) (n int) {
	for _, k := range m.all {
		if k.version == v && slices.Contains(of, k.state) {
			n++
		}
	}
	return n
}

func (m *model) find(id wire.InstanceID) *known {
	i := slices.IndexFunc(m.all, func(k *known) bool { return k.id == id })
	return m.all[i]
}

// mayGo are those of the given instances that leave enough of their versions.
func (m *model) mayGo(ids []wire.InstanceID) (may []wire.InstanceID) {
	left := map[wire.VersionID]int{}
	for v := range m.shapes {
		left[v] = m.count(v, pool.Warm, pool.Busy)
	}
	for _, id := range ids {
		if v := m.find(id).version; left[v] > m.kept[v] {
			left[v]--
			may = append(may, id)
		}
	}
	return may
}

func (m *model) tick() time.Time {
	m.now = m.now.Add(time.Second)
	return m.now
}

// versions are four.
func versions() []wire.VersionID {
	return []wire.VersionID{version("f", 1), version("f", 2), version("g", 1), version("g", 2)}
}

var (
	someVersion = rapid.SampledFrom(versions())
	someNeeds   = rapid.Custom(func(t *rapid.T) wire.Resources {
		return wire.Resources{
			MemoryBytes: rapid.Int64Range(0, 60).Draw(t, "memory"),
			CPUMillis:   rapid.Int64Range(0, 60).Draw(t, "cpu"),
			Instances:   1,
		}
	})
	someShape = rapid.Custom(func(t *rapid.T) pool.Shape {
		s := pool.Shape{Needs: someNeeds.Draw(t, "needs"), Slots: rapid.IntRange(1, 3).Draw(t, "slots")}
		s.Once = s.Slots == 1 && rapid.Bool().Draw(t, "once")
		return s
	})
)

func (m *model) add(t *rapid.T) {
	k := &known{
		id:      wire.InstanceID(fmt.Sprint("i", len(m.all))),
		version: someVersion.Draw(t, "version"), ahead: rapid.Bool().Draw(t, "ahead"), used: m.tick(),
	}
	shape := m.shapes[k.version]
	fits := m.capacity.Minus(m.reserved()).Fits(shape.Needs)
	add, start := m.pool.Add, m.policy.Start
	if k.ahead {
		add, start = m.pool.AddAhead, m.policy.StartAhead
	}
	err := add(k.id, k.version, shape, k.used)
	if fits != (err == nil) || (err != nil && !errors.Is(err, pool.ErrNoRoom)) {
		t.Fatalf("add %+v: %v, but fits is %t", shape, err, fits)
	}
	if err != nil {
		return
	}
	m.all = append(m.all, k)
	if !shape.Once {
		start(k.id, k.version, shape.Needs.MemoryBytes, k.used)
	}
}

// to puts an instance into another state and tells the policy.
func (m *model) to(k *known, state pool.State) {
	switch state {
	case pool.Warm:
		m.policy.Idle(k.id, m.now)
	case pool.Busy:
		if k.state == pool.Binding && k.ahead {
			m.policy.Idle(k.id, m.now)
		}
		m.policy.Busy(k.id, m.now)
	case pool.Draining:
		m.policy.Remove(k.id, m.now)
	}
	k.state, k.events, k.used = state, 0, m.now
	if state == pool.Busy {
		k.events = 1
	}
}

func (m *model) move(t *rapid.T) {
	if len(m.all) == 0 {
		return
	}
	k := rapid.SampledFrom(m.all).Draw(t, "instance")
	to := rapid.SampledFrom(states).Draw(t, "state")
	may := moves[[2]pool.State{k.state, to}] && (to != pool.Warm || k.events <= 1 && !m.shapes[k.version].Once)
	if err := m.pool.Move(k.id, to, m.tick()); may != (err == nil) {
		t.Fatalf("move %s with %d events from %s to %s: %v", k.id, k.events, k.state, to, err)
	}
	if may {
		m.to(k, to)
	}
}

func (m *model) take(t *rapid.T) {
	v := someVersion.Draw(t, "version")
	var want *known
	for _, k := range m.all {
		open := k.version == v && (k.state == pool.Warm || k.state == pool.Busy && k.events < m.shapes[v].Slots)
		if open && (want == nil || k.events > want.events || k.events == want.events && k.used.After(want.used)) {
			want = k
		}
	}
	id, ok := m.pool.Take(v, m.tick())
	switch {
	case ok != (want != nil):
		t.Fatalf("take %s: %q, %t; want %+v", v, id, ok, want)
	case ok && id != want.id:
		t.Fatalf("took %s, but %s has %d events", id, want.id, want.events)
	case ok && want.state == pool.Warm:
		m.to(want, pool.Busy)
	case ok:
		want.events++
		want.used = m.now
	}
}

func (m *model) giveBack(t *rapid.T) {
	if len(m.all) == 0 {
		return
	}
	k := rapid.SampledFrom(m.all).Draw(t, "instance")
	may := k.state == pool.Busy && !m.shapes[k.version].Once
	if err := m.pool.Return(k.id, m.tick()); may != (err == nil) || err != nil && !errors.Is(err, pool.ErrDenied) {
		t.Fatalf("return %s, which is %s: %v", k.id, k.state, err)
	}
	switch {
	case !may:
	case k.events == 1:
		m.to(k, pool.Warm)
	default:
		k.events--
		k.used = m.now
	}
}

func (m *model) keep(t *rapid.T) {
	v, count := someVersion.Draw(t, "version"), rapid.IntRange(0, 2).Draw(t, "count")
	m.pool.Keep(v, count)
	m.kept[v] = count
}

func (m *model) measure(t *rapid.T) {
	if len(m.all) == 0 {
		return
	}
	id := rapid.SampledFrom(m.all).Draw(t, "instance").id
	cost := time.Duration(rapid.IntRange(1, 1000).Draw(t, "ms")) * time.Millisecond
	m.pool.Measured(id, cost)
	m.policy.Measured(id, cost)
}

func (m *model) evict(t *rapid.T) {
	needs := someNeeds.Draw(t, "needs")
	now := m.tick()
	order := m.mayGo(slices.Collect(m.policy.Victims(now)))
	ids, ok := m.pool.Evictable(needs, now)
	free := m.capacity.Minus(m.reserved()).Plus(m.sum(pool.Draining))
	most := free
	for _, id := range order {
		most = most.Plus(m.shapes[m.find(id).version].Needs)
	}
	if ok != most.Fits(needs) {
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
		if order[i] != id {
			t.Fatalf("would evict %v; the policy says %v", ids, order)
		}
		free = free.Plus(m.shapes[k.version].Needs)
	}
	if !free.Fits(needs) {
		t.Fatalf("evicting %v frees %+v, not %+v", ids, free, needs)
	}
	m.carryOut(t, ids)
}

// carryOut removes what was named; no version falls below what is kept of it.
func (m *model) carryOut(t *rapid.T, ids []wire.InstanceID) {
	for _, id := range ids {
		if err := m.pool.Move(id, pool.Draining, m.tick()); err != nil {
			t.Fatal(err)
		}
		k := m.find(id)
		m.to(k, pool.Draining)
		if left := m.count(k.version, pool.Warm, pool.Busy); left < m.kept[k.version] {
			t.Fatalf("%d of %s are left, but %d are kept", left, k.version, m.kept[k.version])
		}
	}
}

func (m *model) expire(t *rapid.T) {
	m.now = m.now.Add(time.Duration(rapid.IntRange(0, 60).Draw(t, "seconds")) * time.Second)
	want := m.mayGo(m.policy.Expired(m.now))
	got := m.pool.Expired(m.now)
	if !slices.Equal(got, want) {
		t.Fatalf("expired %v, want %v", got, want)
	}
	m.carryOut(t, got)
}

// due: what the policy expects is told.
func (m *model) due(t *rapid.T) {
	now := m.tick()
	wantAt, want := m.policy.NextDue(now)
	if at, ok := m.pool.NextDue(now); ok != want || !at.Equal(wantAt) {
		t.Fatalf("next due at %s, %t; want %s, %t", at, ok, wantAt, want)
	}
	if got, want := m.pool.Due(now), m.policy.Due(now); !slices.Equal(got, want) {
		t.Fatalf("due are %v, want %v", got, want)
	}
}

// check holds after every step.
func (m *model) check(t *rapid.T) {
	reserved, idle := m.pool.Usage()
	if reserved != m.reserved() {
		t.Fatalf("reserved %+v, the living hold %+v", reserved, m.reserved())
	}
	var spare wire.Resources
	for _, id := range m.mayGo(slices.Collect(m.policy.Victims(m.now))) {
		spare = spare.Plus(m.shapes[m.find(id).version].Needs)
	}
	if idle != spare {
		t.Fatalf("idle %+v, those that may go hold %+v", idle, spare)
	}
	for _, r := range []wire.Resources{idle, reserved.Minus(idle), m.capacity.Minus(reserved)} {
		if r.MemoryBytes < 0 || r.CPUMillis < 0 || r.Instances < 0 {
			t.Fatalf("a sum is negative: reserved %+v, idle %+v of %+v", reserved, idle, m.capacity)
		}
	}
	m.checkCounts(t)
}

func (m *model) checkCounts(t *rapid.T) {
	counts := map[wire.VersionID]wire.VersionOnNode{}
	for v, shape := range m.shapes {
		n := wire.VersionOnNode{
			Version: v, Starting: m.count(v, pool.Binding), Idle: m.count(v, pool.Warm), Busy: m.count(v, pool.Busy), Kept: m.kept[v],
		}
		if !shape.Once {
			n.Slots = (n.Idle + n.Busy) * shape.Slots
		}
		if n != (wire.VersionOnNode{Version: v}) {
			counts[v] = n
		}
		if got, want := m.pool.Missing(v), max(n.Kept-n.Starting-n.Idle-n.Busy, 0); got != want {
			t.Fatalf("%d of %s are missing, want %d", got, v, want)
		}
	}
	list := map[wire.VersionID]wire.VersionOnNode{}
	for _, n := range m.pool.Versions() {
		list[n.Version] = n
	}
	if !maps.Equal(list, counts) {
		t.Fatalf("counts %+v, want %+v", list, counts)
	}
	var states [pool.Gone]int
	for _, k := range m.all {
		if got := m.pool.State(k.id); got != k.state {
			t.Fatalf("%s is %s, want %s", k.id, got, k.state)
		}
		if k.state != pool.Gone {
			states[k.state]++
		}
	}
	if got := m.pool.Count(); got != states {
		t.Fatalf("counts %v, want %v", got, states)
	}
}

func TestPoolAgainstModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		capacity := wire.Resources{MemoryBytes: 150, CPUMillis: 150, Instances: rapid.IntRange(1, 8).Draw(t, "instances")}
		limits := keepalive.Limits{IdleLimit: time.Minute, StartsAhead: true}
		m := &model{
			pool: pool.New(capacity, limits), policy: keepalive.New(limits), capacity: capacity, now: epoch,
			shapes: map[wire.VersionID]pool.Shape{}, kept: map[wire.VersionID]int{},
		}
		for _, v := range versions() {
			m.shapes[v] = someShape.Draw(t, "shape")
		}
		t.Repeat(map[string]func(*rapid.T){
			"add": m.add, "move": m.move, "take": m.take, "return": m.giveBack, "keep": m.keep, "measure": m.measure,
			"evict": m.evict, "expire": m.expire, "due": m.due, "": m.check,
		})
	})
}
