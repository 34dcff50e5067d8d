package scheduler

import (
	"fmt"
	"maps"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/dayfly-run/dayfly/functions"
	"github.com/dayfly-run/dayfly/wire"
)

func TestKeptInstancesSpread(t *testing.T) {
	s := newKeeping(t, 3)
	s.versions = []functions.Version{standingVersion(resizeNumber(1), 7, 10)}
	s.settle(3)
	if got := s.counts(resizeNumber(1)); !slices.Equal(got, []int{2, 2, 3}) {
		t.Errorf("7 instances on three nodes are spread as %v", got)
	}
	if n := s.settle(20); n != 0 || s.table.leases() != 0 {
		t.Errorf("%d commands and %d leases when all is done", n, s.table.leases())
	}
}

func TestANewLeaderGoesOnFromTheNodesWords(t *testing.T) {
	s := newKeeping(t, 3)
	s.versions = []functions.Version{standingVersion(resizeNumber(1), 2, 2)}
	s.settle(3)
	s.succeed()
	if n := s.settle(20); n != 0 {
		t.Errorf("a new leader sent %d commands though all is kept", n)
	}
	s.machine("n0").restart()
	s.machine("n1").restart()
	s.machine("n2").restart()
	s.succeed()
	s.settle(3)
	if got := sum(s.counts(resizeNumber(1))); got != 2 {
		t.Errorf("after all nodes restarted %d are kept, want 2", got)
	}
}

func TestTheOldVersionMakesRoom(t *testing.T) {
	s := newKeeping(t, 2)
	s.memory = gib * 3 / 4
	large := func(number int) functions.Version {
		v := standingVersion(resizeNumber(number), 2, 5)
		v.Spec.MemoryBytes = s.memory
		return v
	}
	s.versions = []functions.Version{large(1)}
	s.settle(3)
	if got := s.counts(resizeNumber(1)); !slices.Equal(got, []int{1, 1}) {
		t.Fatalf("the first version is kept as %v", got)
	}
	s.versions = []functions.Version{large(2)}
	s.settle(30)
	if v1, v2 := sum(s.counts(resizeNumber(1))), sum(s.counts(resizeNumber(2))); v1 != 0 || v2 != 2 {
		t.Errorf("%d of the old version and %d of the new one are kept, want 0 and 2", v1, v2)
	}
}

func TestWhoRefusesIsAvoided(t *testing.T) {
	s := newKeeping(t, 2)
	s.versions = []functions.Version{standingVersion(resizeNumber(1), 1, 1)}
	s.pass()
	refuser := s.flight[0].node
	s.answer(0, false, wire.Errorf(wire.CodeInternal, "disk full"))
	if s.table.leases() != 0 {
		t.Errorf("%d leases after a refusal", s.table.leases())
	}
	if s.pass(); len(s.flight) != 0 {
		t.Fatalf("asked again at once: %+v", s.flight)
	}
	s.now = s.now.Add(keepPause)
	if s.pass(); len(s.flight) != 1 || s.flight[0].node == refuser {
		t.Fatalf("after a pause: %+v, refused by %s", s.flight, refuser)
	}
	s.answer(0, false, wire.Errorf(wire.CodeInternal, "disk full"))
	s.now = s.now.Add(2 * keepPause)
	for _, m := range s.machines {
		s.report(m)
	}
	if failed := s.pass(); len(failed) != 1 {
		t.Fatalf("after both refused: %v and %+v", failed, s.flight)
	}
	s.settle(5)
	if got := sum(s.counts(resizeNumber(1))); got != 1 {
		t.Errorf("%d are kept, want 1", got)
	}
}

// TestWhoDoesNotStartIsAvoided: a node that takes the command and never has the
// instance loses it to another one.
func TestWhoDoesNotStartIsAvoided(t *testing.T) {
	s := newKeeping(t, 2)
	v := resizeNumber(1)
	s.versions = []functions.Version{standingVersion(v, 1, 1)}
	s.pass()
	first := s.machine(s.flight[0].node)
	first.idle = true
	s.answer(0, true, nil)
	s.settle(int(keepStartWait.Seconds()))
	if first.kept[v] != 1 {
		t.Fatalf("given up within %s", keepStartWait)
	}
	s.settle(5)
	if got := s.counts(v); first.kept[v] != 0 || sum(got) != 1 {
		t.Errorf("kept as %v, %d where it does not start", got, first.kept[v])
	}
	// Where there is no other, it is tried again.
	for _, m := range s.machines {
		m.idle, m.instances = true, map[wire.VersionID]int{}
	}
	s.settle(90)
	for _, m := range s.machines {
		m.idle = false
		m.work(s.needs())
	}
	s.settle(60)
	ready := 0
	for _, m := range s.machines {
		ready += min(m.instances[v], m.kept[v])
	}
	if ready != 1 {
		t.Errorf("%d instances run, want 1", ready)
	}
}

func TestFailuresBackOff(t *testing.T) {
	s := newKeeping(t, 0)
	s.versions = []functions.Version{standingVersion(resizeNumber(1), 1, 1)}
	tries := 0
	for range 600 { // a minute
		s.now = s.now.Add(100 * time.Millisecond)
		tries += len(s.pass())
	}
	if tries < 6 || tries > 12 {
		t.Errorf("%d tries in a minute without nodes", tries)
	}
	// A node that comes ends the wait.
	m := &keepingMachine{id: "new"}
	m.restart()
	s.machines = append(s.machines, m)
	s.report(m)
	if s.pass(); len(s.flight) != 1 {
		t.Errorf("%d commands once there is a node", len(s.flight))
	}
}

// TestAtMostAsManyIsKept: where as many run as may, one of these is kept instead of
// another.
func TestAtMostAsManyIsKept(t *testing.T) {
	s := newKeeping(t, 2)
	v := resizeNumber(1)
	s.machines[1].instances[v] = 1
	s.report(s.machines[1])
	s.versions = []functions.Version{standingVersion(v, 1, 1)}
	s.pass()
	if len(s.flight) != 1 || s.flight[0].node != "n1" || s.flight[0].count != 1 || s.flight[0].lease != "" {
		t.Fatalf("commands %+v", s.flight)
	}
	// An instance that is kept counts while it is not there.
	s.settle(1)
	s.machines[1].instances[v] = 0
	s.report(s.machines[1])
	r := oneInstance()
	r.Version, r.MaxInstances = v, 1
	if node, err := s.table.place(r, "l", false, s.now); err == nil || err.Code != wire.CodeThrottled {
		t.Errorf("placed on %q (%v) while the only instance is being started again", node, err)
	}
}

func TestPassesAreBounded(t *testing.T) {
	s := newKeeping(t, 50)
	for i := range 200 {
		v := standingVersion(wire.VersionID{FunctionID: wire.FunctionID{Namespace: "default", Name: fmt.Sprint("f", i)}, Number: 1}, 3, 5)
		s.versions = append(s.versions, v)
	}
	if s.pass(); len(s.flight) != maxKeeping {
		t.Errorf("%d commands at once, want %d", len(s.flight), maxKeeping)
	}
	if s.pass(); len(s.flight) != maxKeeping {
		t.Errorf("%d commands after a second pass, want %d", len(s.flight), maxKeeping)
	}
	none := newKeeping(t, 0)
	none.versions = s.versions
	total := 0
	for again := true; again; {
		var failed map[wire.VersionID]*wire.Error
		_, failed, again = none.k.pass(none.versions, none.now)
		if total += len(failed); len(failed) > maxKeepTries {
			t.Fatalf("%d tries in one pass", len(failed))
		}
	}
	if total != len(s.versions) {
		t.Errorf("%d of %d versions were tried", total, len(s.versions))
	}
}

// TestKeepsWhateverHappens lets nodes take, refuse and lose commands, restart and
// drain, aliases move and leaders change, and looks at what is left once all is calm.
func TestKeepsWhateverHappens(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := newKeeping(t, rapid.IntRange(1, 4).Draw(t, "machines"))
		// Without these, the limits hold at every moment.
		rough := rapid.Bool().Draw(t, "machines fail")
		limits := map[wire.VersionID]int{}
		live := map[string]functions.Version{}
		names := []string{"a", "b", "c"}
		list := func() {
			s.versions = slices.SortedFunc(maps.Values(live), func(a, b functions.Version) int { return a.Compare(b.VersionID) })
		}
		pick := func(t *rapid.T) *keepingMachine { return rapid.SampledFrom(s.machines).Draw(t, "machine") }
		actions := map[string]func(*rapid.T){
			"deploy": func(t *rapid.T) {
				name := rapid.SampledFrom(names).Draw(t, "function")
				id := wire.VersionID{FunctionID: wire.FunctionID{Namespace: "default", Name: name}, Number: len(limits) + 1}
				most := rapid.IntRange(1, 6).Draw(t, "most")
				limits[id] = most
				live[name] = standingVersion(id, rapid.IntRange(1, most).Draw(t, "least"), most)
				list()
			},
			"remove": func(t *rapid.T) {
				delete(live, rapid.SampledFrom(names).Draw(t, "function"))
				list()
			},
			"pass": func(*rapid.T) { s.pass() },
			"answer": func(t *rapid.T) {
				if len(s.flight) == 0 {
					return
				}
				i := rapid.IntRange(0, len(s.flight)-1).Draw(t, "command")
				switch rapid.IntRange(0, 5).Draw(t, "outcome") {
				case 0:
					s.answer(i, false, wire.Errorf(wire.CodeInternal, "no"))
				case 1:
					s.answer(i, false, wire.Errorf(wire.CodeUnavailable, "lost on the way"))
				case 2:
					s.answer(i, true, wire.Errorf(wire.CodeUnavailable, "lost on the way back"))
				default:
					s.answer(i, true, nil)
				}
			},
			"call": func(t *rapid.T) {
				v, ok := live[rapid.SampledFrom(names).Draw(t, "function")]
				if !ok {
					return
				}
				s.leases++
				lease := wire.LeaseID(fmt.Sprint("lease", s.leases))
				r := wire.PlaceRequest{Version: v.VersionID, Runtime: "python", Needs: v.Spec.Needs(), MaxInstances: v.Spec.MaxInstances}
				node, err := s.table.place(r, lease, false, s.now)
				if err != nil {
					return
				}
				m := s.machine(node)
				m.instances[v.VersionID]++
				m.settled = append(m.settled, lease)
			},
			"report": func(t *rapid.T) { s.report(pick(t)) },
			"wait": func(t *rapid.T) {
				for range rapid.IntRange(1, 12).Draw(t, "heartbeats") {
					s.now = s.now.Add(wire.HeartbeatEvery)
					// No command waits for its answer for longer than this.
					for i := len(s.flight) - 1; i >= 0; i-- {
						if s.now.Sub(s.flight[i].at) >= keepTimeout {
							s.answer(i, rapid.Bool().Draw(t, "taken"), wire.Errorf(wire.CodeUnavailable, "no answer"))
						}
					}
					for _, m := range s.machines {
						s.report(m)
					}
					s.table.sweep(s.now.Add(-wire.NodeLostAfter), s.now)
				}
			},
			"": func(t *rapid.T) {
				keys := map[keepKey]bool{}
				for _, c := range s.flight {
					keys[c.keepKey] = true
				}
				if len(s.flight) > maxKeeping || len(keys) != len(s.flight) || s.k.underWay != len(s.flight) {
					t.Fatalf("%d commands to %d, %d counted", len(s.flight), len(keys), s.k.underWay)
				}
				for v, most := range limits {
					total := 0
					for _, m := range s.machines {
						total += max(m.instances[v], m.kept[v])
					}
					if !rough && total > most {
						t.Fatalf("%d instances of %s, at most %d may be", total, v, most)
					}
				}
			},
		}
		if rough {
			actions["restart"] = func(t *rapid.T) { pick(t).restart() }
			actions["drain"] = func(t *rapid.T) {
				m := pick(t)
				m.draining = !m.draining
				if rapid.Bool().Draw(t, "at its end") { // it stops
					clear(m.kept)
				}
				m.work(s.needs())
			}
			actions["another leader"] = func(*rapid.T) { s.succeed() }
		}
		t.Repeat(actions)

		for len(s.flight) > 0 {
			s.answer(0, true, nil)
		}
		for _, m := range s.machines {
			m.draining = false
		}
		s.settle(60)
		for v := range limits {
			wanted := 0
			if now := live[v.Name]; now.VersionID == v {
				wanted = now.Spec.MinInstances
			}
			if got := sum(s.counts(v)); got != wanted {
				t.Fatalf("%d of %s are kept, want %d", got, v, wanted)
			}
		}
		if n := s.settle(30); n != 0 || s.k.missing != 0 || len(s.k.sent)+len(s.k.troubles) != 0 {
			t.Fatalf("when all is done: %d commands, %d missing, %d noted", n, s.k.missing, len(s.k.sent)+len(s.k.troubles))
		}
	})
}

// TestDrainingNodesAreReplacedFirst: while nodes drain and are taken back, at no moment
// fewer instances run than are wanted; one fewer where there may not be one more. In the
// end nothing is kept where it drains.
func TestDrainingNodesAreReplacedFirst(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := newKeeping(t, rapid.IntRange(2, 4).Draw(t, "machines"))
		for i := range rapid.IntRange(1, 3).Draw(t, "functions") {
			id := wire.VersionID{FunctionID: wire.FunctionID{Namespace: "default", Name: fmt.Sprint("f", i)}, Number: 1}
			least := rapid.IntRange(1, 4).Draw(t, "least")
			s.versions = append(s.versions, standingVersion(id, least, least+rapid.IntRange(0, 2).Draw(t, "more")))
		}
		s.settle(10)
		for _, m := range s.machines {
			m.idle = true // it starts what it was told to when its turn comes
		}
		work := func(m *keepingMachine) {
			m.idle = false
			m.work(s.needs())
			m.idle = true
		}
		beat := func() {
			s.now = s.now.Add(wire.HeartbeatEvery)
			for _, m := range s.machines {
				s.report(m)
			}
			s.table.sweep(s.now.Add(-wire.NodeLostAfter), s.now)
		}
		pick := func(t *rapid.T) *keepingMachine { return rapid.SampledFrom(s.machines).Draw(t, "machine") }
		t.Repeat(map[string]func(*rapid.T){
			"drain": func(t *rapid.T) {
				m := pick(t)
				if m.draining = !m.draining; m.draining {
					m.work(s.needs())
				}
			},
			"pass":   func(*rapid.T) { s.pass() },
			"start":  func(t *rapid.T) { work(pick(t)) },
			"report": func(t *rapid.T) { s.report(pick(t)) },
			"beat":   func(*rapid.T) { beat() },
			"answer": func(t *rapid.T) {
				if len(s.flight) > 0 {
					s.answer(rapid.IntRange(0, len(s.flight)-1).Draw(t, "command"), true, nil)
				}
			},
			"": func(t *rapid.T) {
				for _, v := range s.versions {
					run := 0
					for _, m := range s.machines {
						run += m.instances[v.VersionID]
					}
					least := v.Spec.MinInstances
					if v.Spec.MaxInstances == least {
						least--
					}
					if run < least || run > v.Spec.MaxInstances {
						t.Fatalf("%d instances of %s run, at least %d and at most %d may", run, v, v.Spec.MinInstances, v.Spec.MaxInstances)
					}
				}
			},
		})
		last := s.machines[0]
		last.draining = false
		for range 60 {
			beat()
			s.pass()
			for len(s.flight) > 0 {
				s.answer(0, true, nil)
			}
			for _, m := range s.machines {
				work(m)
			}
		}
		for _, m := range s.machines {
			if m.draining && (sum(slices.Collect(maps.Values(m.kept))) > 0 || sum(slices.Collect(maps.Values(m.instances))) > 0) {
				t.Fatalf("%s drains and keeps %v, with instances %v", m.id, m.kept, m.instances)
			}
		}
		for _, v := range s.versions {
			if got := sum(s.counts(v.VersionID)); got != v.Spec.MinInstances {
				t.Fatalf("%d of %s are kept, want %d", got, v, v.Spec.MinInstances)
			}
		}
	})
}

// TestNoRoomElsewhere: what a draining node keeps stays there as long as nobody else has
// room for it.
func TestNoRoomElsewhere(t *testing.T) {
	s := newKeeping(t, 1)
	v := resizeNumber(1)
	s.versions = []functions.Version{standingVersion(v, 1, 5)}
	s.settle(2)
	s.machines[0].draining = true
	s.settle(60)
	if got := s.machines[0].kept[v]; got != 1 || s.machines[0].instances[v] != 1 {
		t.Fatalf("the only node drains and keeps %d", got)
	}
	m := &keepingMachine{id: "new"}
	m.restart()
	s.machines = append(s.machines, m)
	s.settle(2)
	if m.kept[v] != 1 || s.machines[0].kept[v] != 0 {
		t.Errorf("%d on the new node, %d on the one that drains", m.kept[v], s.machines[0].kept[v])
	}
}
