package main

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"runtime"
	"slices"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"github.com/dayfly-run/dayfly/bench/internal/sample"
	"github.com/dayfly-run/dayfly/bench/internal/table"
	"github.com/dayfly-run/dayfly/scheduler/placement"
	"github.com/dayfly-run/dayfly/wire"
)

const (
	// decisions is how many are timed in a round, one by one; scans how many of the
	// baseline, which is slower.
	decisions = 5000
	scans     = 200
	gib       = int64(1) << 30
	mib       = int64(1) << 20
)

// question is a kind of request, and what of the cluster it is about.
type question struct {
	name     string
	selector map[string]string
	// running says that the version has instances in two of three zones.
	running bool
	// needs is in MiB.
	needs int64
}

func questions() []question {
	return []question{
		{name: "any node", needs: 128},
		{name: "any node, version runs in 2 of 3 zones", needs: 128, running: true},
		{name: "nodeSelector that half of the nodes match", selector: map[string]string{"disk": "ssd"}, needs: 128},
		{name: "nodeSelector that 1 % match", selector: map[string]string{"gpu": "yes"}, needs: 128},
		{name: "two labels, of zone and disk, version runs", selector: map[string]string{"disk": "ssd", wire.LabelZone: "z2"}, needs: 128, running: true},
		{name: "one node by its own label", selector: map[string]string{"serial": "77"}, needs: 128},
		{name: "refused: no node has room", needs: 64 * 1024},
		{name: "refused: no node with the label has room", selector: map[string]string{"gpu": "yes"}, needs: 64 * 1024},
	}
}

// busyNodes makes nodes at work: loads differ, a fortieth drains, a tenth has the code, all
// have stems, three zones, and a label that is each one's own.
func busyNodes(size int, now time.Time) []placement.Node {
	rnd := rand.New(rand.NewPCG(1, 1)) //nolint:gosec // a benchmark must be repeatable
	nodes := make([]placement.Node, size)
	for i := range nodes {
		n := placement.Node{
			ID:       wire.NodeID(fmt.Sprintf("node-%05d", i)),
			Capacity: wire.Resources{MemoryBytes: 64 * gib, CPUMillis: 32_000, Instances: 1000},
			Reserved: wire.Resources{MemoryBytes: rnd.Int64N(60 * gib), CPUMillis: rnd.Int64N(30_000), Instances: rnd.IntN(900)},
			LastSeen: now, Load: rnd.Float64(), Draining: i%40 == 0,
			Runtimes: []string{"go", "image", "node", "provided", "python"},
			Stems:    map[string]int{"python": 2, "node": 1, "base": 1},
			Labels: map[string]string{
				wire.LabelNode: fmt.Sprintf("node-%05d", i), wire.LabelArch: "amd64", wire.LabelSandbox: "oci",
				wire.LabelZone: fmt.Sprintf("z%d", i%3), "serial": strconv.Itoa(i), "disk": []string{"hdd", "ssd"}[i/3%2],
			},
		}
		n.Idle.MemoryBytes = rnd.Int64N(n.Reserved.MemoryBytes/2 + 1)
		if i%100 == 7 {
			n.Labels["gpu"] = "yes"
		}
		for c := range 50 {
			n.Codes = append(n.Codes, wire.Digest(fmt.Sprintf("%064x", c*1000+i%1000)))
		}
		if i%10 == 5 {
			n.Codes = append(n.Codes, "code")
		}
		nodes[i] = n
	}
	return nodes
}

func (q question) request() wire.PlaceRequest {
	return wire.PlaceRequest{
		Version: wire.VersionID{FunctionID: wire.FunctionID{Namespace: "bench", Name: "f"}, Number: 1},
		Runtime: "python", Stem: "python", Code: "code", Selector: q.selector, Arch: "amd64",
		Needs: wire.Resources{MemoryBytes: q.needs * mib, CPUMillis: 100, Instances: 1},
	}
}

// figures are those of one question and size, a value for each round.
type figures struct {
	p50, p99, wall, scan, both []time.Duration
	ratio                      []float64
}

// inMemory prints how long decisions take without anything around them.
func inMemory(ctx context.Context, o options, out io.Writer) error {
	for _, size := range o.sizes {
		nodes := busyNodes(size, time.Unix(0, 0))
		t := table.Table{Title: fmt.Sprintf("Decisions in memory, %d nodes", size), Columns: []string{
			"", "p50", "p99", "p99 by the clock", "decisions/s", "… with reserving and releasing", "looking at every node, p50", "ratio of p50",
		}}
		all := questions()
		results := make([]figures, len(all))
		snapshots := make([]*placement.Snapshot, len(all))
		for i, q := range all {
			snapshots[i] = placement.NewSnapshot(running(nodes, q)...)
		}
		for round := range o.rounds {
			for k := range all {
				if ctx.Err() != nil {
					return context.Cause(ctx)
				}
				i := (k + round) % len(all)
				results[i].measure(snapshots[i], running(nodes, all[i]), all[i].request(), uint64(round))
			}
		}
		for i, q := range all {
			f := results[i]
			both := "" // a refusal reserves nothing
			if len(f.both) > 0 {
				both = table.Rate(float64(time.Second) / float64(sample.Median(f.both)))
			}
			t.Row(q.name, micros(sample.Median(f.p50)), micros(sample.Median(f.p99)), micros(sample.Median(f.wall)), table.Rate(float64(time.Second)/float64(sample.Median(f.p50))), both,
				micros(sample.Median(f.scan)), fmt.Sprintf("%.4f", sample.Median(f.ratio)))
		}
		if err := t.Print(out); err != nil {
			return err
		}
	}
	return nil
}

func micros(d time.Duration) string { return fmt.Sprintf("%.1f µs", float64(d.Nanoseconds())/1000) }

// running gives some nodes instances of the version, if the question wants it.
func running(nodes []placement.Node, q question) []placement.Node {
	if !q.running {
		return nodes
	}
	changed := slices.Clone(nodes)
	for i := range changed {
		if i%3 < 2 && i < 30 {
			changed[i].Versions = map[wire.VersionID]int{q.request().Version: 1}
		}
	}
	return changed
}

// measure adds a round: our decisions, then those of the scan, one by one.
func (f *figures) measure(s *placement.Snapshot, nodes []placement.Node, r wire.PlaceRequest, seed uint64) {
	now := time.Unix(0, 0)
	rnd := rand.New(rand.NewPCG(seed, 2)) //nolint:gosec // as above
	runtime.LockOSThread()                // whose processor time is taken
	defer runtime.UnlockOSThread()
	took, wall := make([]time.Duration, decisions), make([]time.Duration, decisions)
	for i := range took {
		begun, beganAt := processorTime(), time.Now()
		_, _ = placement.Place(s, r, now, rnd)
		took[i], wall[i] = processorTime()-begun, time.Since(beganAt)
	}
	plain := make([]time.Duration, scans)
	for i := range plain {
		begun := processorTime()
		scan(nodes, r, now)
		plain[i] = processorTime() - begun
	}
	p50, baseline := sample.Median(took), sample.Median(plain)
	f.p50, f.p99, f.scan = append(f.p50, p50), append(f.p99, sample.Quantile(took, 0.99)), append(f.scan, baseline)
	f.wall = append(f.wall, sample.Quantile(wall, 0.99))
	f.ratio = append(f.ratio, float64(p50)/float64(baseline))
	claim := placement.Claim{Version: r.Version, Needs: r.Needs, Stem: r.Stem}
	begun := processorTime()
	for range decisions {
		d, err := placement.Place(s, r, now, rnd)
		if err != nil {
			return
		}
		s.Reserve(d.Node, claim)
		s.Release(d.Node, claim)
	}
	f.both = append(f.both, (processorTime()-begun)/decisions)
}

// processorTime is what the calling thread used of a processor. It leaves out what others
// do on the machine, which time by the clock does not.
func processorTime() time.Duration {
	var t unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_THREAD_CPUTIME_ID, &t); err != nil {
		return 0 // every kernel has this clock
	}
	return time.Duration(t.Nano())
}

// selects reports whether labels has all that a selector asks for.
func selects(selector, labels map[string]string) bool {
	for key, value := range selector {
		if has, ok := labels[key]; !ok || has != value {
			return false
		}
	}
	return true
}

// scan is the baseline: it looks at every node for the least-loaded one that will do, and
// knows neither stems, code nor zones.
func scan(nodes []placement.Node, r wire.PlaceRequest, now time.Time) int {
	best, least := -1, 0.0
	for i := range nodes {
		n := &nodes[i]
		if n.Draining || now.Sub(n.LastSeen) > wire.NodeLostAfter || !selects(r.Selector, n.Labels) || n.Labels[wire.LabelArch] != r.Arch ||
			!slices.Contains(n.Runtimes, r.Runtime) || !n.Capacity.Fits(n.Reserved.Minus(n.Idle).Plus(r.Needs)) {
			continue
		}
		busy := n.Reserved.Minus(n.Idle)
		used := max(float64(busy.MemoryBytes)/float64(n.Capacity.MemoryBytes), float64(busy.CPUMillis)/float64(n.Capacity.CPUMillis),
			float64(busy.Instances)/float64(n.Capacity.Instances)) + n.Load/8
		if best < 0 || cmp.Less(used, least) {
			best, least = i, used
		}
	}
	return best
}
