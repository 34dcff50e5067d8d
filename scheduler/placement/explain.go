package placement

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/dayfly-run/dayfly/wire"
)

// hopelessPause is when to retry what only a larger node can take.
const hopelessPause = 30 * time.Second

// reason is why a node cannot take an instance. A node counts for the first
// that holds.
type reason int

const (
	lost reason = iota
	draining
	incompatible
	excluded
	lacksRuntime
	lacksLabels
	lacksMemory
	lacksCPU
	lacksInstances
	reasons
)

// maxExplained bounds the nodes that an explanation goes through: a burst for which
// there is no room asks often.
const maxExplained = 128

// refusals sums up why no node qualified.
type refusals struct {
	counts [reasons]int
	// free is the most of each resource that one of the nodes lacking it has
	// free, largest the most that one live node whose labels will do has in all.
	free, largest wire.Resources
	// looked counts the nodes that were gone through; alive says that one lives whose
	// labels will do.
	looked int
	alive  bool
}

// explain says why nothing qualifies.
func (q *query) explain(version wire.VersionID) *wire.Error {
	if q.s.Len() == 0 {
		return wire.Errorf(wire.CodeNoCapacity, "no node can take %s: no invoker is connected; start one with `dayfly invoker`", version)
	}
	if err := q.explainLabels(version); err != nil {
		return err
	}
	f := q.refusals()
	if f.alive && !q.s.sizes.any(q.needs, q.lives) {
		err := wire.Errorf(wire.CodeNoCapacity, "no connected node is large enough for %s: %s; lower what it asks for or add a larger node",
			version, q.tooLarge(f.largest))
		err.RetryAfterMillis = hopelessPause.Milliseconds()
		return err
	}
	nodes := plural(q.s.Len(), "node")
	if f.looked < q.s.Len() {
		nodes += fmt.Sprintf(", of %d of them", f.looked)
	}
	return wire.Errorf(wire.CodeNoCapacity, "no node can take %s now: %s: %s; try again later or add a node", version, nodes, q.list(f))
}

// refusals goes through the nodes, or evenly through some of them when there are
// many.
func (q *query) refusals() (f refusals) {
	step := (len(q.s.entries) + maxExplained - 1) / maxExplained
	for slot := 0; slot < len(q.s.entries); slot += step {
		if q.s.entries[slot].used {
			f.looked++
			q.refuse(&f, int32(slot))
		}
	}
	if f.looked < q.s.Len() && !q.selective() {
		f.largest = q.s.sizes.top()
	}
	return f
}

// refuse adds the node in slot to f.
func (q *query) refuse(f *refusals, slot int32) {
	e := &q.s.entries[slot]
	if q.lives(slot) {
		f.alive = true
		f.largest = larger(f.largest, e.node.Capacity)
	}
	why := q.reason(slot)
	f.counts[why]++
	switch why {
	case lacksMemory:
		f.free.MemoryBytes = max(f.free.MemoryBytes, e.free.MemoryBytes)
	case lacksCPU:
		f.free.CPUMillis = max(f.free.CPUMillis, e.free.CPUMillis)
	case lacksInstances:
		f.free.Instances = max(f.free.Instances, e.free.Instances)
	}
}

// lives reports whether the slot's node lives and has labels that will do.
func (q *query) lives(slot int32) bool { return q.alive(&q.s.entries[slot].node) && q.fits(slot) }

func (q *query) reason(slot int32) reason {
	e := &q.s.entries[slot]
	switch {
	case !q.alive(&e.node):
		return lost
	case e.node.Draining:
		return draining
	case e.node.Incompatible:
		return incompatible
	case slices.Contains(q.excluded, slot):
		return excluded
	case !slices.Contains(e.node.Runtimes, q.runtime):
		return lacksRuntime
	case !q.fits(slot):
		return lacksLabels
	case e.free.MemoryBytes < q.needs.MemoryBytes:
		return lacksMemory
	case e.free.CPUMillis < q.needs.CPUMillis:
		return lacksCPU
	}
	return lacksInstances
}

// list names each reason with its count, most frequent first.
func (q *query) list(f refusals) string {
	var order []reason
	for why, n := range f.counts {
		if n > 0 {
			order = append(order, reason(why))
		}
	}
	slices.SortStableFunc(order, func(a, b reason) int { return f.counts[b] - f.counts[a] })
	parts := make([]string, len(order))
	for i, why := range order {
		parts[i] = q.describe(why, f.counts[why], f.free)
	}
	return strings.Join(parts, ", ")
}

func (q *query) describe(why reason, n int, free wire.Resources) string {
	verb := "lack"
	if n == 1 {
		verb = "lacks"
	}
	switch why {
	case lost:
		return fmt.Sprintf("%d silent for more than %s", n, wire.NodeLostAfter)
	case draining:
		return fmt.Sprintf("%d draining", n)
	case incompatible:
		return fmt.Sprintf("%d of an incompatible release", n)
	case excluded:
		return fmt.Sprintf("%d just refused it", n)
	case lacksRuntime:
		// Quoted apart, or every query would be kept on the heap for fmt's sake.
		return fmt.Sprintf("%d %s the runtime %s", n, verb, strconv.Quote(q.runtime))
	case lacksLabels:
		return fmt.Sprintf("%d %s the labels %s", n, verb, q.asked())
	case lacksMemory:
		return fmt.Sprintf("%d %s memory (largest free %s, needed %s)", n, verb,
			formatBytes(free.MemoryBytes, down), formatBytes(q.needs.MemoryBytes, up))
	case lacksCPU:
		return fmt.Sprintf("%d %s CPU (largest free %s, needed %s)", n, verb,
			formatCores(free.CPUMillis), formatCores(q.needs.CPUMillis))
	}
	return fmt.Sprintf("%d %s room for instances (largest free %d, needed %d)", n, verb, free.Instances, q.needs.Instances)
}

// tooLarge says in which dimensions the needs exceed every node.
func (q *query) tooLarge(largest wire.Resources) string {
	var parts []string
	if q.needs.MemoryBytes > largest.MemoryBytes {
		parts = append(parts, fmt.Sprintf("it needs %s of memory and the largest node has %s",
			formatBytes(q.needs.MemoryBytes, up), formatBytes(largest.MemoryBytes, down)))
	}
	if q.needs.CPUMillis > largest.CPUMillis {
		parts = append(parts, fmt.Sprintf("it needs %s of CPU and the largest node has %s",
			formatCores(q.needs.CPUMillis), formatCores(largest.CPUMillis)))
	}
	if q.needs.Instances > largest.Instances {
		parts = append(parts, fmt.Sprintf("it needs room for %s and the largest node has room for %d",
			plural(q.needs.Instances, "instance"), largest.Instances))
	}
	if parts == nil {
		parts = append(parts, fmt.Sprintf("no single node has %s of memory, %s of CPU and room for %s",
			formatBytes(q.needs.MemoryBytes, up), formatCores(q.needs.CPUMillis), plural(q.needs.Instances, "instance")))
	}
	return strings.Join(parts, ", ")
}

// What is free is rounded down and what is needed up, so that a message never
// shows the same figure for both.
const (
	down = false
	up   = true
)

// formatBytes writes n in the largest unit that fits, with at most one decimal.
func formatBytes(n int64, roundUp bool) string {
	unit, name := int64(1), "bytes"
	for _, next := range []string{"KiB", "MiB", "GiB", "TiB"} {
		if n < unit<<10 {
			break
		}
		unit, name = unit<<10, next
	}
	rest := n % unit * 10
	if roundUp {
		rest += unit - 1
	}
	return formatDecimal(n/unit*10+rest/unit, 10) + " " + name
}

func formatCores(millis int64) string {
	if millis == 1000 {
		return "1 core"
	}
	return formatDecimal(millis, 1000) + " cores"
}

// formatDecimal writes n/scale without trailing zeros.
func formatDecimal(n, scale int64) string {
	return strconv.FormatFloat(float64(n)/float64(scale), 'f', -1, 64)
}

func plural(n int, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return strconv.Itoa(n) + " " + noun + "s"
}
