package scheduler

import (
	"fmt"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/dayfly-run/dayfly/wire"
)

func resizeNumber(n int) wire.VersionID {
	v := resizeVersion()
	v.Number = n
	return v
}

func TestKeepSteps(t *testing.T) {
	v1, v2 := resizeNumber(1), resizeNumber(2)
	on := func(node wire.NodeID, told, ready int) holding {
		return holding{node: node, standing: standing{told: told, ready: ready}}
	}
	asked := func(h holding) holding { h.asked = true; return h }
	stuck := func(h holding) holding { h.stuck = true; return h }
	leaving := func(h holding) holding { h.leaving = true; return h }
	for name, test := range map[string]struct {
		wants []want
		held  map[wire.VersionID][]holding
		waits []wire.VersionID
		short int // of v2
		want  []step
	}{
		"nothing": {},
		"as many at once as allowed": {
			wants: []want{{v2, 10}}, held: map[wire.VersionID][]holding{v2: {on("a", 4, 4)}},
			want: []step{{version: v2}, {version: v2}, {version: v2}},
		},
		"only those that are missing": {
			wants: []want{{v2, 5}}, held: map[wire.VersionID][]holding{v2: {on("a", 2, 0), asked(on("b", 2, 0))}},
			want: []step{{version: v2}},
		},
		"enough": {wants: []want{{v2, 2}}, held: map[wire.VersionID][]holding{v2: {on("a", 1, 0), on("b", 1, 1)}}},
		"too many: where most are": {
			wants: []want{{v2, 3}}, held: map[wire.VersionID][]holding{v2: {on("a", 1, 1), on("b", 3, 3), on("c", 1, 1)}},
			want: []step{{version: v2, node: "b", count: 1}},
		},
		"too many: what does not run": {
			wants: []want{{v2, 3}}, held: map[wire.VersionID][]holding{v2: {on("a", 1, 0), on("b", 3, 3)}},
			want: []step{{version: v2, node: "a"}},
		},
		"too many, but asked": {wants: []want{{v2, 1}}, held: map[wire.VersionID][]holding{v2: {asked(on("a", 3, 3))}}},
		"waiting":             {wants: []want{{v2, 1}}, waits: []wire.VersionID{v2}},
		"what does not start goes elsewhere": {
			wants: []want{{v2, 4}}, held: map[wire.VersionID][]holding{v2: {on("a", 1, 1), stuck(on("b", 3, 1)), asked(stuck(on("c", 1, 0)))}},
			want: []step{{version: v2, node: "b", count: 1, stuck: true}},
		},
		"nobody wants it": {held: map[wire.VersionID][]holding{v1: {on("a", 2, 2), on("b", 1, 1)}}, want: []step{{version: v1, node: "a"}, {version: v1, node: "b"}}},
		"a new version comes first": {
			wants: []want{{v2, 2}}, held: map[wire.VersionID][]holding{v1: {on("a", 2, 2)}},
			want: []step{{version: v2}, {version: v2}},
		},
		"a draining node keeps what it has until others are told": {
			wants: []want{{v2, 2}}, held: map[wire.VersionID][]holding{v2: {leaving(on("a", 2, 2))}},
			want: []step{{version: v2}, {version: v2}},
		},
		"and until they run it": {
			wants: []want{{v2, 2}}, held: map[wire.VersionID][]holding{v2: {leaving(on("a", 2, 2)), on("b", 2, 1)}},
			want: []step{{version: v2, node: "a", count: 1}},
		},
		"and gives it up": {
			wants: []want{{v2, 2}}, held: map[wire.VersionID][]holding{v2: {leaving(on("a", 1, 1)), on("b", 2, 2)}},
			want: []step{{version: v2, node: "a"}},
		},
		"no room elsewhere: it stays": {
			wants: []want{{v2, 1}}, held: map[wire.VersionID][]holding{v2: {leaving(on("a", 1, 1))}}, short: 7,
			want: []step{{version: v2}},
		},
		"draining nodes give up old versions first": {
			wants: []want{{v2, 2}}, held: map[wire.VersionID][]holding{v1: {on("a", 1, 0), leaving(on("b", 1, 1))}, v2: {on("c", 2, 1)}},
			want: []step{{version: v1, node: "b"}},
		},
		"what a draining node runs stands in too": {
			wants: []want{{v2, 1}}, held: map[wire.VersionID][]holding{v1: {on("a", 1, 1)}, v2: {leaving(on("b", 1, 1))}},
			want: []step{{version: v2}, {version: v1, node: "a"}},
		},
		"not before it runs": {
			wants: []want{{v2, 2}}, held: map[wire.VersionID][]holding{v1: {on("a", 2, 2)}, v2: {on("b", 2, 0)}},
		},
		"one for one": {
			wants: []want{{v2, 2}}, held: map[wire.VersionID][]holding{v1: {on("a", 2, 2)}, v2: {on("b", 2, 1)}},
			want: []step{{version: v1, node: "a", count: 1}},
		},
		"the new one wants fewer": {
			wants: []want{{v2, 1}}, held: map[wire.VersionID][]holding{v1: {on("a", 3, 3)}, v2: {on("b", 1, 0)}},
			want: []step{{version: v1, node: "a", count: 1}},
		},
		"the old one makes room": {
			wants: []want{{v2, 2}}, held: map[wire.VersionID][]holding{v1: {on("a", 2, 2)}}, waits: []wire.VersionID{v2}, short: 1,
			want: []step{{version: v1, node: "a", count: 1}},
		},
		"and more, as long as it does not help": {
			wants: []want{{v2, 2}}, held: map[wire.VersionID][]holding{v1: {on("a", 1, 1)}}, waits: []wire.VersionID{v2}, short: 7,
			want: []step{{version: v1, node: "a"}},
		},
	} {
		t.Run(name, func(t *testing.T) {
			p := keepPlan{wants: test.wants, held: test.held}
			p.waits = func(v wire.VersionID) bool { return slices.Contains(test.waits, v) }
			p.short = func(v wire.VersionID) int {
				if v == v2 {
					return test.short
				}
				return 0
			}
			if diff := cmp.Diff(test.want, p.steps(3), cmp.AllowUnexported(step{})); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

func drawPlan(t *rapid.T) keepPlan {
	p := keepPlan{held: map[wire.VersionID][]holding{}}
	waits, short := map[wire.VersionID]bool{}, map[wire.VersionID]int{}
	for _, name := range []string{"a", "b", "c"} {
		version := func(number int) wire.VersionID {
			return wire.VersionID{FunctionID: wire.FunctionID{Namespace: "default", Name: name}, Number: number}
		}
		if n := rapid.IntRange(0, 5).Draw(t, "wanted of "+name); n > 0 {
			p.wants = append(p.wants, want{version(rapid.IntRange(1, 3).Draw(t, "live of "+name)), n})
		}
		for number := 1; number <= 3; number++ {
			v := version(number)
			for i := range rapid.IntRange(0, 3).Draw(t, fmt.Sprint("nodes of ", v)) {
				h := holding{node: wire.NodeID(fmt.Sprint("n", i)), asked: rapid.IntRange(0, 4).Draw(t, "asked") == 0}
				h.told = rapid.IntRange(0, 4).Draw(t, "told")
				h.ready = rapid.IntRange(0, h.told).Draw(t, "ready")
				h.leaving = rapid.IntRange(0, 3).Draw(t, "leaving") == 0
				h.stuck = !h.leaving && h.ready < h.told && rapid.IntRange(0, 4).Draw(t, "stuck") == 0
				p.held[v] = append(p.held[v], h)
			}
			waits[v] = rapid.IntRange(0, 5).Draw(t, "waits") == 0
			short[v] = max(rapid.IntRange(-3, 2).Draw(t, "short"), 0)
		}
	}
	p.waits = func(v wire.VersionID) bool { return waits[v] }
	p.short = func(v wire.VersionID) int { return short[v] }
	return p
}

func TestMakeWay(t *testing.T) {
	v := resizeNumber(1)
	on := func(node wire.NodeID, told, ready int, leaving bool) holding {
		return holding{node: node, standing: standing{told: told, ready: ready}, leaving: leaving}
	}
	asked := on("b", 1, 1, true)
	asked.asked = true
	for name, test := range map[string]struct {
		held []holding
		want []step
	}{
		"nothing leaves":        {held: []holding{on("a", 2, 2, false)}},
		"one goes":              {held: []holding{on("b", 2, 2, true)}, want: []step{{version: v, node: "b", count: 1}}},
		"and the next":          {held: []holding{on("a", 1, 1, false), on("b", 1, 1, true)}, want: []step{{version: v, node: "b"}}},
		"not while one lacks":   {held: []holding{on("b", 1, 1, true)}},
		"not while one starts":  {held: []holding{on("a", 1, 0, false), on("b", 2, 2, true)}},
		"not while another one": {held: []holding{on("a", 2, 2, true), asked}},
	} {
		p := keepPlan{held: map[wire.VersionID][]holding{v: test.held}}
		if diff := cmp.Diff(test.want, p.makeWay(want{v, 2}), cmp.AllowUnexported(step{})); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
}

// TestKeepStepsAreSound: whatever is held, a step never asks where there is no
// answer yet, adds no more than is missing, and takes no more than is too many or
// than has been replaced.
func TestKeepStepsAreSound(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p := drawPlan(t)
		atOnce := rapid.IntRange(1, 4).Draw(t, "at once")
		added, taken, left := map[wire.VersionID]int{}, map[wire.VersionID]int{}, map[wire.VersionID]int{}
		seen := map[step]bool{}
		for _, s := range p.steps(atOnce) {
			if p.waits(s.version) {
				t.Fatalf("%+v while it waits", s)
			}
			if s.node == "" {
				added[s.version]++
				continue
			}
			key := step{version: s.version, node: s.node}
			if seen[key] {
				t.Fatalf("%s is asked twice about %s", s.node, s.version)
			}
			seen[key] = true
			found := false
			for _, h := range p.held[s.version] {
				if h.node == s.node {
					found = !h.asked && s.count >= 0 && s.count < h.told
					if taken[s.version] += h.told - s.count; h.leaving {
						left[s.version] += h.told - s.count
					}
				}
			}
			if !found {
				t.Fatalf("%+v of %+v", s, p.held[s.version])
			}
		}
		stuck := map[wire.VersionID]int{}
		for v, held := range p.held {
			for _, h := range held {
				if h.stuck && !h.asked {
					stuck[v] += h.told - h.ready
				}
			}
		}
		oldTold, oldTaken, standIns := map[wire.FunctionID]int{}, map[wire.FunctionID]int{}, map[wire.FunctionID]int{}
		live := map[wire.VersionID]bool{}
		for _, w := range p.wants {
			live[w.version] = true
			stay, leave := partHoldings(p.held[w.version])
			told, ready := sumOf(stay)
			if wantAdded := min(max(w.count-told, 0), atOnce); !p.waits(w.version) && stuck[w.version] == 0 && added[w.version] != wantAdded {
				t.Fatalf("%d added of %s, which has %d and wants %d", added[w.version], w.version, told, w.count)
			}
			if n := taken[w.version] - left[w.version]; n > max(told-w.count, stuck[w.version]) {
				t.Fatalf("%d taken of %s, which has %d and wants %d", n, w.version, told, w.count)
			}
			kept, _ := sumOf(leave)
			if n := left[w.version]; n > 0 && kept-n+ready < w.count {
				t.Fatalf("%d of %d that leave are taken of %s, of which %d run elsewhere and %d are wanted", n, kept, w.version, ready, w.count)
			}
			standIns[w.version.FunctionID] = p.standIns(w)
		}
		for v := range p.held {
			if live[v] {
				continue
			}
			told, _ := sumOf(p.held[v])
			oldTold[v.FunctionID] += told
			oldTaken[v.FunctionID] += taken[v]
			if added[v] > 0 {
				t.Fatalf("%d added of %s, which nobody wants", added[v], v)
			}
		}
		for f, n := range oldTaken {
			if n > max(oldTold[f]-standIns[f], 0) {
				t.Fatalf("%d of %d old instances of %s taken, %d must stand in", n, oldTold[f], f, standIns[f])
			}
		}
	})
}

// TestKeepStepsEnd: nodes that do what they are told get nothing more to do.
func TestKeepStepsEnd(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p := drawPlan(t)
		p.waits = func(wire.VersionID) bool { return false }
		for v := range p.held {
			for i := range p.held[v] {
				p.held[v][i].asked, p.held[v][i].stuck, p.held[v][i].ready = false, false, p.held[v][i].told
				p.held[v][i].leaving = p.held[v][i].node == "n0"
			}
		}
		for round := 0; ; round++ {
			steps := p.steps(2)
			if len(steps) == 0 {
				break
			}
			if round > 100 {
				t.Fatalf("still %+v", steps)
			}
			for _, s := range steps {
				p.obey(s, wire.NodeID(fmt.Sprint("n", 1+round%3)))
			}
		}
		for v, held := range p.held {
			wanted := 0
			for _, w := range p.wants {
				if w.version == v {
					wanted = w.count
				}
			}
			stay, leave := partHoldings(held)
			told, _ := sumOf(stay)
			if left, _ := sumOf(leave); told != wanted || left != 0 {
				t.Fatalf("%d of %s are kept and %d on nodes that drain, %d wanted", told, v, left, wanted)
			}
		}
	})
}

// obey does what a step asks for; everything runs at once.
func (p keepPlan) obey(s step, where wire.NodeID) {
	held := p.held[s.version]
	if s.node == "" {
		held = append(held, holding{node: where, standing: standing{told: 1, ready: 1}})
	}
	for i := range held {
		if held[i].node == s.node && s.node != "" {
			held[i].told = s.count
		}
		held[i].ready = held[i].told
	}
	// Several entries of one node become one, as a node has one word.
	sums := map[wire.NodeID]standing{}
	for _, h := range held {
		sums[h.node] = standing{told: sums[h.node].told + h.told, ready: sums[h.node].ready + h.ready}
	}
	p.held[s.version] = nil
	for node, sum := range sums {
		p.held[s.version] = append(p.held[s.version], holding{node: node, standing: sum, leaving: node == "n0"})
	}
}
