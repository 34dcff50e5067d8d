package scheduler

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"time"

	"github.com/dayfly-run/dayfly/functions"
	"github.com/dayfly-run/dayfly/wire"
)

// standingVersion asks for least instances of most.
func standingVersion(id wire.VersionID, least, most int) functions.Version {
	return functions.Version{VersionID: id, Spec: functions.Spec{
		Runtime: "python", Network: "egress", MemoryBytes: mib, CPUMillis: 10, MinInstances: least, MaxInstances: most,
	}}
}

// keeping is a table, a keeper, and machines that do what they are told.
type keeping struct {
	t        interface{ Fatal(args ...any) }
	table    *nodeTable
	k        *keeper
	now      time.Time
	leases   int
	memory   int64 // of an instance; 0 for little
	versions []functions.Version
	machines []*keepingMachine
	flight   []keepCommand
}

// keepingMachine is a node as it really is.
type keepingMachine struct {
	id        wire.NodeID
	run, seq  int
	draining  bool
	idle      bool // starts nothing
	kept      map[wire.VersionID]int
	instances map[wire.VersionID]int
	settled   []wire.LeaseID
}

func newKeeping(t interface{ Fatal(args ...any) }, machines int) *keeping {
	s := &keeping{t: t, table: newTestTable(), now: epochStart}
	s.succeed()
	for i := range machines {
		m := &keepingMachine{id: wire.NodeID(fmt.Sprint("n", i))}
		m.restart()
		s.machines = append(s.machines, m)
		s.report(m)
	}
	return s
}

// succeed puts a new leader in the place of the old one; commands of the old one
// are over.
func (s *keeping) succeed() {
	s.k = newKeeper(s.table, func() (wire.LeaseID, *wire.Error) {
		s.leases++
		return wire.LeaseID(fmt.Sprint("lease", s.leases)), nil
	})
	s.flight = nil
}

func (m *keepingMachine) restart() {
	m.run, m.seq, m.settled = m.run+1, 0, nil
	m.kept, m.instances = map[wire.VersionID]int{}, map[wire.VersionID]int{}
}

// work starts what is missing, in the place of what need not be kept.
func (m *keepingMachine) work(needs wire.Resources) {
	used := func() (memory int64) {
		for _, n := range m.instances {
			memory += int64(n) * needs.MemoryBytes
		}
		return memory
	}
	for v, n := range m.kept {
		if !m.idle && !m.draining {
			m.instances[v] = max(m.instances[v], n)
		}
	}
	for v, n := range m.instances {
		for ; n > m.kept[v] && (used() > gib || m.draining); n-- {
			m.instances[v]--
		}
	}
}

// needs is what an instance takes; all functions are alike.
func (s *keeping) needs() wire.Resources {
	return wire.Resources{MemoryBytes: max(s.memory, mib), CPUMillis: 10, Instances: 1}
}

func (s *keeping) report(m *keepingMachine) {
	m.seq++
	st := wire.NodeState{
		Node: m.id, Run: strconv.Itoa(m.run), Seq: uint64(m.seq), Protocol: wire.Protocol, Runtimes: []string{"python"}, Draining: m.draining,
		Capacity: wire.Resources{MemoryBytes: gib, CPUMillis: 100_000, Instances: 100},
		Settled:  slices.Clone(m.settled),
	}
	known := maps.Clone(m.instances)
	for v := range m.kept {
		known[v] += 0
	}
	for v, n := range known {
		st.Versions = append(st.Versions, wire.VersionOnNode{Version: v, Idle: n, Kept: m.kept[v]})
		for i := range n {
			st.Reserved = st.Reserved.Plus(s.needs())
			if i >= m.kept[v] {
				st.Idle = st.Idle.Plus(s.needs())
			}
		}
	}
	if _, err := s.table.report(st, s.now); err != nil {
		s.t.Fatal(err)
	}
}

func (s *keeping) machine(id wire.NodeID) *keepingMachine {
	return s.machines[slices.IndexFunc(s.machines, func(m *keepingMachine) bool { return m.id == id })]
}

func (s *keeping) pass() (failed map[wire.VersionID]*wire.Error) {
	due, failed, _ := s.k.pass(s.versions, s.now)
	s.flight = append(s.flight, due...)
	return failed
}

// take makes a machine do what a command says. One that drains takes nothing more.
func (s *keeping) take(c keepCommand) *wire.Error {
	m := s.machine(c.node)
	if m.draining && c.count > m.kept[c.version] {
		return wire.Errorf(wire.CodeNoCapacity, "it drains")
	}
	if m.kept[c.version] = c.count; c.count == 0 {
		delete(m.kept, c.version)
	}
	if c.lease != "" {
		m.settled = append(m.settled, c.lease)
	}
	m.work(s.needs())
	return nil
}

// answer ends the i-th command under way.
func (s *keeping) answer(i int, took bool, err *wire.Error) {
	c := s.flight[i]
	s.flight = slices.Delete(s.flight, i, i+1)
	if took {
		if no := s.take(c); no != nil && err == nil {
			took, err = false, no
		}
	}
	refused := err != nil && err.Code != wire.CodeUnavailable
	s.k.done(c, err, refused && !took, s.now)
}

// settle lets everything that is due happen, without failures, for some seconds.
func (s *keeping) settle(seconds int) (commands int) {
	for range 4 * seconds {
		s.now = s.now.Add(250 * time.Millisecond)
		for _, m := range s.machines {
			s.report(m)
		}
		s.table.sweep(s.now.Add(-wire.NodeLostAfter), s.now)
		s.pass()
		commands += len(s.flight)
		for len(s.flight) > 0 {
			s.answer(0, true, nil)
		}
	}
	return commands
}

// counts is how many instances of a version each machine keeps.
func (s *keeping) counts(v wire.VersionID) (counts []int) {
	for _, m := range s.machines {
		counts = append(counts, m.kept[v])
	}
	slices.Sort(counts)
	return counts
}

func sum(counts []int) (n int) {
	for _, c := range counts {
		n += c
	}
	return n
}
