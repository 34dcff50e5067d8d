package chaos

import (
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/dayfly-run/dayfly/test/cluster"
)

const (
	// shortSeeds run in any case; DAYFLY_CHAOS_SEEDS asks for more, and DAYFLY_CHAOS_SEED
	// for one alone. DAYFLY_CHAOS_LENGTH is for how long faults begin in each.
	shortSeeds  = 10
	shortLength = 4 * time.Second
	// idle is so short that instances start all the time.
	idle = 2 * time.Second
	// shownLines of each process are shown when a seed fails.
	shownLines = 40
)

// seeds says which seeds to run, and for how long.
func seeds(t *testing.T) (list []uint64, length time.Duration) {
	t.Helper()
	number := func(name string, fallback uint64) uint64 {
		text := os.Getenv(name)
		if text == "" {
			return fallback
		}
		n, err := strconv.ParseUint(text, 10, 64)
		if err != nil {
			t.Fatalf("%s=%s: %v", name, text, err)
		}
		return n
	}
	length = shortLength
	if text := os.Getenv("DAYFLY_CHAOS_LENGTH"); text != "" {
		var err error
		if length, err = time.ParseDuration(text); err != nil {
			t.Fatalf("DAYFLY_CHAOS_LENGTH=%s: %v", text, err)
		}
	}
	if os.Getenv("DAYFLY_CHAOS_SEED") != "" {
		return []uint64{number("DAYFLY_CHAOS_SEED", 0)}, length
	}
	for seed := range number("DAYFLY_CHAOS_SEEDS", shortSeeds) {
		list = append(list, seed+1)
	}
	return list, length
}

// TestChaos plays one seed after the other with one cluster, which has to be well between
// two of them.
func TestChaos(t *testing.T) {
	list, length := seeds(t)
	programs, err := cluster.Build(t.Context(), t.TempDir(), os.Getenv("DAYFLY_CHAOS_BINARY"))
	if err != nil {
		t.Fatal(err)
	}
	c, err := cluster.Start(t.Context(), cluster.Config{Programs: programs, Idle: idle})
	if c != nil {
		t.Cleanup(func() {
			if err := c.Close(); err != nil {
				t.Error(err)
			}
		})
	}
	if err == nil {
		err = deploy(t.Context(), c)
	}
	if err != nil {
		if c != nil {
			show(t, c, time.Time{})
		}
		t.Fatal(err)
	}
	for _, seed := range list {
		if !t.Run(fmt.Sprintf("seed %d", seed), func(t *testing.T) { play(t, c, seed, length) }) {
			t.Logf("again: DAYFLY_CHAOS_SEED=%d go test -run Chaos ./test/chaos", seed)
		}
	}
}

// members are what the schedule may hit.
func members(c *cluster.Cluster) (all []member) {
	for _, p := range c.Processes() {
		all = append(all, member{name: p.Name, role: p.Role, disk: p.HasDisk()})
	}
	return all
}

// play plays one seed.
func play(t *testing.T, c *cluster.Cluster, seed uint64, length time.Duration) {
	t.Helper()
	begun := time.Now()
	r := newRun(t, c, schedule(seed, members(c), length))
	for _, f := range r.faults {
		t.Log(f)
	}
	p := startPulse()
	defer p.stop()
	w := startWatch(c, p)
	l := startLoad(t.Context(), c, fmt.Sprintf("s%d-%d", seed, begun.UnixMilli()), seed)
	last := r.play(t.Context())
	well, before, err := r.heal(t.Context())
	took, slack := well.Sub(last), p.slack(last, well)
	if err != nil {
		t.Errorf("not well %s after the last fault: %v", took.Round(time.Millisecond), err)
	} else if took > r.mayHealWithin()+slack {
		t.Errorf("well only %s after the last fault, with %s to spare; wrong until then: %v", took.Round(time.Millisecond), slack, before)
	}
	pause(t.Context(), calm)
	l.stop()
	calls, events := l.results()
	wrong := wrongCalls(calls, r.silent(), p.slack)
	wrong = append(wrong, unwell(calls, well, p.slack)...)
	wrong = append(wrong, r.awaitEvents(t.Context(), events)...)
	overruns, seen, err := w.stop()
	if err != nil {
		t.Error(err)
	}
	for _, o := range overruns {
		wrong = append(wrong, fmt.Sprintf("ran for too long, with %s to spare, at %s: %s", o.slack, o.at.Format(clockFormat), o))
	}
	placed := decisions(c.Schedulers, begun)
	wrong = append(wrong, rivals(placed, p.slack)...)
	wrong = append(wrong, missing(calls, events, len(placed), seen)...)
	wrong = append(wrong, r.deaths()...)
	for _, text := range wrong {
		t.Error(text)
	}
	summary(t, calls, events, placed, seen, took)
	if before != nil {
		t.Logf("wrong until then: %v", before)
	}
	if t.Failed() {
		show(t, c, begun)
	}
}

func summary(t *testing.T, calls []call, events []event, placed []decision, instances int, took time.Duration) {
	t.Helper()
	answers, accepted, epochs := map[int]int{}, 0, map[uint64]bool{}
	for _, c := range calls {
		answers[c.status]++
	}
	for _, e := range events {
		if e.accepted != "" {
			accepted++
		}
	}
	for _, d := range placed {
		epochs[d.epoch] = true
	}
	t.Logf("%d calls, answers by status %v; %d of %d events accepted; %d placements under %d leaders; %d processes ran; well after %s",
		len(calls), answers, accepted, len(events), len(placed), len(epochs), instances, took.Round(time.Millisecond))
}

// show prints the ends of the logs.
func show(t *testing.T, c *cluster.Cluster, since time.Time) {
	t.Helper()
	var b strings.Builder
	for _, p := range c.Processes() {
		lines := slices.DeleteFunc(p.Log.Since(since), func(l cluster.Line) bool { return l.Fields()["msg"] == "placed" })
		fmt.Fprintf(&b, "--- %s, %d lines\n", p.Name, len(lines))
		for _, l := range lines[max(0, len(lines)-shownLines):] {
			fmt.Fprintf(&b, "%s %s\n", l.At.Format(clockFormat), l.Text)
		}
	}
	t.Log(b.String())
}
