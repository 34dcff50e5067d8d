package scheduler

import (
	"cmp"
	"maps"
	"slices"

	"github.com/dayfly-run/dayfly/wire"
)

// want is how many instances of a version are to be kept.
type want struct {
	version wire.VersionID
	count   int
}

// holding is what one node keeps of a version, by its own word and by the commands
// that its word does not show yet.
type holding struct {
	node wire.NodeID
	standing
	// asked says that the node's word does not show the last command about the version
	// yet, so that nobody knows what to ask for next;
	// stuck that what does not run there will hardly do so.
	asked, stuck bool
	// leaving says that the node drains: what it keeps counts until others stand in.
	leaving bool
}

// step is one command that is due. Without a node it is for one instance more,
// wherever there is room; with one, the node is to keep count instead of more.
type step struct {
	version wire.VersionID
	node    wire.NodeID
	count   int
	// stuck says that the node could not start more.
	stuck bool
}

// keepPlan compares what is wanted with what the nodes keep. It is pure.
type keepPlan struct {
	// wants has at most one version of a function, none for those that want none.
	wants []want
	held  map[wire.VersionID][]holding
	// waits says that the version's last command failed and it is too early for
	// another.
	waits func(wire.VersionID) bool
	// short counts how often in succession there was no room for one more.
	short func(wire.VersionID) int
}

// steps returns what is due, at most atOnce additions for a version, in an order that
// depends on nothing but the plan. Of what a function no longer wants, the oldest version goes first, and no
// faster than instances of the new one stand in for it, unless they lack the room
// that the old ones take. What draining nodes keep goes as fast as it is replaced; see
// [keepPlan.makeWay].
func (p keepPlan) steps(atOnce int) []step {
	var steps []step
	wanted := make(map[wire.FunctionID]want, len(p.wants))
	wants := slices.SortedFunc(slices.Values(p.wants), func(a, b want) int { return a.version.Compare(b.version) })
	for _, w := range wants {
		wanted[w.version.FunctionID] = w
		if p.waits(w.version) {
			continue
		}
		if stuck := p.stuck(w.version); stuck != nil {
			steps = append(steps, stuck...) // what comes in its place is due when it is gone
			continue
		}
		stay, leave := partHoldings(p.held[w.version])
		told, ready := sumOf(stay)
		kept, _ := sumOf(leave)
		// Who was asked may not have started what others run already.
		if !slices.ContainsFunc(leave, func(h holding) bool { return h.asked }) {
			steps = append(steps, giveUp(w.version, leave, kept-max(w.count-ready, 0))...)
		}
		for range min(w.count-told, atOnce) {
			steps = append(steps, step{version: w.version})
		}
		if !slices.ContainsFunc(stay, func(h holding) bool { return h.asked }) {
			steps = append(steps, giveUp(w.version, stay, told-w.count)...)
		}
	}
	spare := map[wire.FunctionID]int{} // of all old versions together
	old := slices.SortedFunc(maps.Keys(p.held), wire.VersionID.Compare)
	old = slices.DeleteFunc(old, func(v wire.VersionID) bool { return wanted[v.FunctionID].version == v })
	for _, v := range old {
		if _, known := spare[v.FunctionID]; !known {
			spare[v.FunctionID] = -p.standIns(wanted[v.FunctionID])
		}
		told, _ := sumOf(p.held[v])
		spare[v.FunctionID] += told
	}
	for _, v := range old {
		told, _ := sumOf(p.held[v])
		goes := min(told, spare[v.FunctionID])
		if goes <= 0 {
			continue
		}
		spare[v.FunctionID] -= goes
		if !p.waits(v) {
			steps = append(steps, giveUp(v, p.held[v], goes)...)
		}
	}
	return steps
}

// makeWay takes one instance from a draining node before it is replaced, as there may
// not be one more. Nothing goes while one is missing, or starts, that will stand in.
func (p keepPlan) makeWay(w want) []step {
	stay, leave := partHoldings(p.held[w.version])
	told, ready := sumOf(stay)
	kept, _ := sumOf(leave)
	if told > ready || kept+ready < w.count || slices.ContainsFunc(leave, func(h holding) bool { return h.asked }) {
		return nil
	}
	return giveUp(w.version, leave, 1)
}

// standIns is how many instances of old versions must stay because the wanted
// ones are not there yet.
func (p keepPlan) standIns(w want) int {
	_, ready := sumOf(p.held[w.version])
	return max(w.count-ready-p.short(w.version), 0)
}

// stuck takes back what the nodes of a version cannot start.
func (p keepPlan) stuck(v wire.VersionID) (steps []step) {
	for _, h := range p.held[v] {
		if h.stuck && !h.asked {
			steps = append(steps, step{version: v, node: h.node, count: h.ready, stuck: true})
		}
	}
	slices.SortFunc(steps, func(a, b step) int { return cmp.Compare(a.node, b.node) })
	return steps
}

// giveUp spreads over the nodes that n instances of a version are too many: those of
// draining nodes go first, then those that do not run, then those of the nodes with most.
func giveUp(v wire.VersionID, held []holding, n int) []step {
	var steps []step
	if n <= 0 {
		return nil
	}
	left := slices.DeleteFunc(slices.Clone(held), func(h holding) bool { return h.asked || h.told == 0 })
	before := map[wire.NodeID]int{}
	for _, h := range left {
		before[h.node] = h.told
	}
	for ; n > 0 && len(left) > 0; n-- {
		i := 0
		for k := range left {
			if worseHolding(left[k], left[i]) {
				i = k
			}
		}
		left[i].told--
		left[i].ready = min(left[i].ready, left[i].told)
		if left[i].told == 0 {
			steps = append(steps, step{version: v, node: left[i].node})
			left = slices.Delete(left, i, i+1)
		}
	}
	for _, h := range left {
		if h.told < before[h.node] {
			steps = append(steps, step{version: v, node: h.node, count: h.told})
		}
	}
	slices.SortFunc(steps, func(a, b step) int { return cmp.Compare(a.node, b.node) })
	return steps
}

// worseHolding reports whether a should give up an instance rather than b.
func worseHolding(a, b holding) bool {
	if a.leaving != b.leaving {
		return a.leaving
	}
	if c := cmp.Compare(a.told-a.ready, b.told-b.ready); c != 0 {
		return c > 0
	}
	if c := cmp.Compare(a.told, b.told); c != 0 {
		return c > 0
	}
	return a.node > b.node
}

// partHoldings tells what stays from what draining nodes keep.
func partHoldings(held []holding) (stay, leave []holding) {
	for _, h := range held {
		if h.leaving {
			leave = append(leave, h)
		} else {
			stay = append(stay, h)
		}
	}
	return stay, leave
}

func sumOf(held []holding) (told, ready int) {
	for _, h := range held {
		told += h.told
		ready += h.ready
	}
	return told, ready
}
