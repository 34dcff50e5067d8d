package chaos

import (
	"reflect"
	"testing"
	"time"

	"github.com/dayfly-run/dayfly/test/cluster"
)

// cast is the members of a cluster, as the tests of the schedule need them.
func cast() []member {
	var all []member
	for role, names := range map[string][]string{
		natsRole: {"n1", "n2", "n3"}, "s3": {"s3"}, "gateway": {"g1", "g2"}, "scheduler": {"sc1", "sc2"}, "events": {"e1", "e2"}, "invoker": {"i1", "i2", "i3"},
	} {
		for _, name := range names {
			all = append(all, member{name: name, role: role, disk: role == natsRole || role == "s3" || role == "invoker"})
		}
	}
	return all
}

// TestSchedule: a seed has one schedule, which keeps the rules, and seeds together have
// everything.
func TestSchedule(t *testing.T) {
	members := cast()
	roles := map[string]string{}
	for _, m := range members {
		roles[m.name] = m.role
	}
	seen, ways, shifted := map[string]int{}, map[string]int{}, map[time.Duration]int{}
	for seed := range uint64(2000) {
		faults := schedule(seed, members, 8*time.Second)
		if again := schedule(seed, members, 8*time.Second); !reflect.DeepEqual(faults, again) {
			t.Fatalf("seed %d has two schedules:\n%v\n%v", seed, faults, again)
		}
		if len(faults) < 2 {
			t.Errorf("seed %d has %d faults", seed, len(faults))
		}
		for i, f := range faults {
			seen[roles[f.target]+" "+string(f.kind)]++
			shifted[f.shift]++
			if f.kind == cuts {
				ways[roles[f.target]+" "+f.way.String()]++
			}
			if f.lasts <= 0 || f.at >= 8*time.Second {
				t.Errorf("seed %d: %s", seed, f)
			}
			beside := 0
			for _, g := range faults[:i] {
				if f.at < g.ends() {
					beside++
				}
				if f.target == g.target && f.at < g.ends() || roles[f.target] == natsRole && roles[g.target] == natsRole && f.target != g.target && f.at < g.ends() {
					t.Errorf("seed %d: %s beside %s", seed, f, g)
				}
			}
			if beside > 1 {
				t.Errorf("seed %d: %s is the third at once", seed, f)
			}
		}
	}
	for _, m := range members {
		every := []kind{kills, pauses, cuts, slows}
		if cluster.ClocksJump {
			every = append(every, shifts)
		}
		for _, k := range every {
			if seen[m.role+" "+string(k)] == 0 {
				t.Errorf("no seed has %s of %s", k, m.role)
			}
		}
		for _, way := range []cluster.Way{cluster.Both, cluster.In, cluster.Out} {
			if ways[m.role+" "+way.String()] == 0 {
				t.Errorf("no seed cuts off %s, %s", m.role, way)
			}
		}
		if m.disk && seen[m.role+" "+string(fills)] == 0 {
			t.Errorf("no seed has %s of %s", fills, m.role)
		}
	}
	for _, by := range jumps {
		if cluster.ClocksJump && shifted[by] == 0 {
			t.Errorf("no seed has a clock that is off by %s", by)
		}
	}
}
