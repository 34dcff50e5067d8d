package placement_test

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/dayfly-run/dayfly/scheduler/placement"
	"github.com/dayfly-run/dayfly/wire"
	"pgregory.net/rapid"
)

const (
	mib = int64(1) << 20
	gib = int64(1) << 30
)

var now = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

func seeded(seed uint64) *rand.Rand { return rand.New(rand.NewPCG(seed, 1)) }

func version(number int) wire.VersionID {
	return wire.VersionID{FunctionID: wire.FunctionID{Namespace: wire.DefaultNamespace, Name: "resize"}, Number: number}
}

func resources(memory, cpuMillis int64, instances int) wire.Resources {
	return wire.Resources{MemoryBytes: memory, CPUMillis: cpuMillis, Instances: instances}
}

// emptyNode has 1 GiB, 4 cores, room for 100 instances, and the python runtime.
func emptyNode(id wire.NodeID) placement.Node {
	return placement.Node{ID: id, Capacity: resources(gib, 4000, 100), LastSeen: now, Runtimes: []string{"python"}}
}

// usual asks for 128 MiB, half a core and one instance of a python function.
func usual() wire.PlaceRequest {
	return wire.PlaceRequest{
		Version: version(3), Runtime: "python", Code: "c0", Stem: "s0",
		Needs: resources(128*mib, 500, 1), MaxInstances: 50,
	}
}

func with(n placement.Node, changes ...func(*placement.Node)) placement.Node {
	for _, change := range changes {
		change(&n)
	}
	return n
}

func reserved(r wire.Resources) func(*placement.Node) {
	return func(n *placement.Node) { n.Reserved = r }
}
func idle(r wire.Resources) func(*placement.Node) {
	return func(n *placement.Node) { n.Idle = r }
}
func draining(n *placement.Node) { n.Draining = true }
func seen(ago time.Duration) func(*placement.Node) {
	return func(n *placement.Node) { n.LastSeen = now.Add(-ago) }
}
func runtimes(names ...string) func(*placement.Node) {
	return func(n *placement.Node) { n.Runtimes = names }
}
func codes(digests ...wire.Digest) func(*placement.Node) {
	return func(n *placement.Node) { n.Codes = digests }
}
func stems(kind string, n int) func(*placement.Node) {
	return func(node *placement.Node) { node.Stems = map[string]int{kind: n} }
}
func load(l float64) func(*placement.Node) {
	return func(n *placement.Node) { n.Load = l }
}
func incompatible(n *placement.Node) { n.Incompatible = true }
func labelled(pairs ...string) func(*placement.Node) {
	return func(n *placement.Node) {
		labels := map[string]string{}
		maps.Copy(labels, n.Labels)
		for i := 0; i < len(pairs); i += 2 {
			labels[pairs[i]] = pairs[i+1]
		}
		n.Labels = labels
	}
}
func runs(v wire.VersionID, n int) func(*placement.Node) {
	return func(node *placement.Node) { node.Versions = map[wire.VersionID]int{v: n} }
}

// claim is what a placement of r takes.
func claim(r wire.PlaceRequest) placement.Claim {
	return placement.Claim{Version: r.Version, Needs: r.Needs, Stem: r.Stem}
}

// The rest is the package's rules once more, as plainly as can be, over a plain
// slice: what Place must agree with.

func busy(n placement.Node) wire.Resources {
	b := n.Reserved.Minus(n.Idle)
	return resources(max(b.MemoryBytes, 0), max(b.CPUMillis, 0), max(b.Instances, 0))
}

func qualifies(n placement.Node, r wire.PlaceRequest) bool {
	return now.Sub(n.LastSeen) <= wire.NodeLostAfter && !n.Draining && !n.Incompatible && chosen(n, r) &&
		!slices.Contains(r.Exclude, n.ID) && slices.Contains(n.Runtimes, r.Runtime) &&
		n.Capacity.Fits(busy(n).Plus(r.Needs))
}

// chosen reports whether the node has the labels that are asked for.
func chosen(n placement.Node, r wire.PlaceRequest) bool {
	for key, value := range r.Selector {
		has, ok := n.Labels[key]
		if key == wire.LabelNode {
			has, ok = string(n.ID), true
		}
		if !ok || has != value {
			return false
		}
	}
	return r.Arch == "" || n.Labels[wire.LabelArch] == r.Arch
}

func zoneOf(n placement.Node) string { return n.Labels[wire.LabelZone] }

// inZones counts the instances of a version by zone.
func inZones(nodes []placement.Node, v wire.VersionID) map[string]int {
	counts := map[string]int{}
	for _, n := range nodes {
		counts[zoneOf(n)] += n.Versions[v]
	}
	return counts
}

func mostUsed(used, capacity wire.Resources) float64 {
	share := func(u, c int64) float64 {
		if u <= 0 {
			return 0
		}
		if c <= 0 {
			return 1e6
		}
		return min(float64(u)/float64(c)*1000, 1e6)
	}
	return max(share(used.MemoryBytes, capacity.MemoryBytes), share(used.CPUMillis, capacity.CPUMillis),
		share(int64(used.Instances), int64(capacity.Instances)))
}

// standing is a node's score and, for ties, how much of it is held.
func standing(n placement.Node) [2]int {
	score := mostUsed(busy(n), n.Capacity) + placement.LoadWeight*min(max(n.Load, 0), placement.MaxLoad)
	return [2]int{int(min(score, 1e6)), int(mostUsed(n.Reserved, n.Capacity))}
}

func bestOf(nodes []placement.Node) (ids []wire.NodeID, score int) {
	var best [2]int
	for _, n := range nodes {
		at := standing(n)
		switch c := slices.Compare(at[:], best[:]); {
		case ids == nil || c < 0:
			ids, best = []wire.NodeID{n.ID}, at
		case c == 0:
			ids = append(ids, n.ID)
		}
	}
	return ids, best[0]
}

// worth says how much of what an instance needs is on the node.
func worth(n placement.Node, r wire.PlaceRequest) int {
	w := 0
	if slices.Contains(n.Codes, r.Code) {
		w++
	}
	if r.Stem != "" && n.Stems[r.Stem] > 0 {
		w += 2
	}
	return w
}

// within returns the nodes that qualify with a score within the slack.
func within(nodes []placement.Node, r wire.PlaceRequest, slack int) (fit []placement.Node) {
	all := slices.DeleteFunc(slices.Clone(nodes), func(n placement.Node) bool { return !qualifies(n, r) })
	_, least := bestOf(all)
	return slices.DeleteFunc(all, func(n placement.Node) bool { return standing(n)[0] > least+slack })
}

// reference returns the nodes that Place may choose and what they are worth.
func reference(nodes []placement.Node, r wire.PlaceRequest) (ids []wire.NodeID, most int) {
	fit := within(nodes, r, placement.LocalSlack)
	if len(fit) == 0 {
		return nil, 0
	}
	counts, fewest, most := inZones(nodes, r.Version), 1<<30, 0
	for _, n := range fit {
		fewest = min(fewest, counts[zoneOf(n)])
	}
	fit = slices.DeleteFunc(fit, func(n placement.Node) bool { return counts[zoneOf(n)] > fewest })
	for _, n := range fit {
		most = max(most, worth(n, r))
	}
	ids, _ = bestOf(slices.DeleteFunc(fit, func(n placement.Node) bool { return worth(n, r) < most }))
	return ids, most
}

// Generators draw from few, coarse values, so that ties and edges are common.

func drawResources(t *rapid.T, most int64, label string) wire.Resources {
	of := func(what string) int64 { return rapid.Int64Range(0, most).Draw(t, label+" "+what) }
	return resources(of("memory")*64*mib, of("CPU")*250, int(of("instances")))
}

func drawNode(t *rapid.T, id wire.NodeID) placement.Node {
	label := string(id)
	n := placement.Node{
		ID:       id,
		Capacity: drawResources(t, 16, label+" capacity"),
		Reserved: drawResources(t, 12, label+" reserved"),
		Idle:     drawResources(t, 6, label+" idle"),
		LastSeen: now.Add(-rapid.SampledFrom([]time.Duration{
			0, 0, 0, time.Second, wire.NodeLostAfter, wire.NodeLostAfter + 1, time.Minute, -time.Second,
		}).Draw(t, label+" silent for")),
		Draining: rapid.IntRange(0, 5).Draw(t, label+" draining") == 5,
		Load:     rapid.SampledFrom([]float64{0, 0, 0, 0.25, 1, 3, 100}).Draw(t, label+" load"),
		Versions: map[wire.VersionID]int{},
	}
	n.Incompatible = rapid.IntRange(0, 9).Draw(t, label+" incompatible") == 9
	for _, choice := range [][]string{
		{wire.LabelZone, "", "a", "b", "c"}, {"disk", "", "ssd", "hdd"}, {wire.LabelArch, "amd64", "amd64", "amd64", "arm64"},
	} {
		if value := rapid.SampledFrom(choice[1:]).Draw(t, label+" "+choice[0]); value != "" {
			n = with(n, labelled(choice[0], value))
		}
	}
	for _, runtime := range []string{"go", "node", "python"} {
		if rapid.IntRange(0, 3).Draw(t, label+" "+runtime) > 0 {
			n.Runtimes = append(n.Runtimes, runtime)
		}
	}
	for _, code := range []wire.Digest{"c0", "c1"} {
		if rapid.Bool().Draw(t, label+" "+string(code)) {
			n.Codes = append(n.Codes, code)
		}
	}
	for _, kind := range []string{"s0", "s1"} {
		if count := rapid.IntRange(-1, 2).Draw(t, label+" "+kind); count != 0 {
			if n.Stems == nil {
				n.Stems = map[string]int{}
			}
			n.Stems[kind] = count
		}
	}
	if count := rapid.IntRange(0, 2).Draw(t, label+" instances"); count > 0 {
		n.Versions[version(3)] = count
	}
	return n
}

func drawNodes(t *rapid.T, least int) []placement.Node {
	nodes := make([]placement.Node, rapid.IntRange(least, 10).Draw(t, "nodes"))
	for i := range nodes {
		nodes[i] = drawNode(t, wire.NodeID(fmt.Sprintf("node-%d", i)))
	}
	return nodes
}

func drawRequest(t *rapid.T) wire.PlaceRequest {
	r := wire.PlaceRequest{
		Version: version(3),
		Runtime: rapid.SampledFrom([]string{"python", "node"}).Draw(t, "runtime"),
		Code:    rapid.SampledFrom([]wire.Digest{"c0", "c1", "c2", ""}).Draw(t, "code"),
		Stem:    rapid.SampledFrom([]string{"s0", "s1", "s2", ""}).Draw(t, "stem"),
		Needs:   drawResources(t, 4, "needs"),
	}
	r.Selector = rapid.SampledFrom([]map[string]string{
		nil, nil, nil, {}, {"disk": "ssd"}, {"disk": "hdd", "zone": "a"}, {"node": "node-1"}, {"node": "node-2", "disk": "ssd"}, {"disk": "nvme"}, {"gpu": "yes"},
	}).Draw(t, "selector")
	r.Arch = rapid.SampledFrom([]string{"", "", "", "amd64", "arm64"}).Draw(t, "arch")
	for _, i := range rapid.SliceOfN(rapid.IntRange(0, 12), 0, 3).Draw(t, "exclude") {
		r.Exclude = append(r.Exclude, wire.NodeID(fmt.Sprintf("node-%d", i)))
	}
	return r
}

func drawSeed(t *rapid.T) uint64 { return rapid.Uint64().Draw(t, "seed") }

func place(nodes []placement.Node, r wire.PlaceRequest, seed uint64) (placement.Decision, *wire.Error) {
	return placement.Place(placement.NewSnapshot(nodes...), r, now, seeded(seed))
}

func mustPlace(tb testing.TB, s *placement.Snapshot, r wire.PlaceRequest, rnd *rand.Rand) placement.Decision {
	tb.Helper()
	d, err := placement.Place(s, r, now, rnd)
	if err != nil {
		tb.Fatalf("Place: %v", err)
	}
	return d
}
