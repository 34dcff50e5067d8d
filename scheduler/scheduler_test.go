package scheduler_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/dayfly-run/dayfly/internal/bus"
	"github.com/dayfly-run/dayfly/internal/embed/embedtest"
	"github.com/dayfly-run/dayfly/internal/embed/natsserver"
	"github.com/dayfly-run/dayfly/scheduler"
	"github.com/dayfly-run/dayfly/wire"
)

func TestPlaces(t *testing.T) {
	server := startNATS(t)
	conn := connect(t, server)
	a := startNode(t, conn, "a")
	s := startScheduler(t, server)
	embedtest.Eventually(t, "ready", ready(s))

	reply := mustAsk(t, conn, usual())
	if reply.Error != nil || reply.Node != "a" || reply.Lease == "" || reply.Epoch == 0 {
		t.Fatalf("reply %+v", reply)
	}
	bucket := leaseBucket(t, conn, lasting)
	embedtest.Eventually(t, "the lease names the epoch of the answers", func() bool {
		entry := leaseEntry(t, bucket)
		return epochOf(entry) == reply.Epoch && entry.Revision > reply.Epoch
	})
	again := mustAsk(t, conn, usual())
	if again.Epoch != reply.Epoch || again.Lease == reply.Lease {
		t.Errorf("after a renewal %+v, before %+v", again, reply)
	}

	if got := s.metric(t, "dayfly_scheduler_leases"); got != 2 {
		t.Errorf("%v leases, want 2", got)
	}
	a.report(t, func(st *wire.NodeState) { st.Settled = []wire.LeaseID{reply.Lease, again.Lease} })
	embedtest.Eventually(t, "leases settled", func() bool { return s.metric(t, "dayfly_scheduler_leases") == 0 })
	for name, want := range map[string]float64{
		"dayfly_scheduler_leading": 1, "dayfly_scheduler_nodes": 1,
		"dayfly_scheduler_placements_total": 2, "dayfly_scheduler_decision_seconds": 2,
	} {
		if got := s.metric(t, name); got != want {
			t.Errorf("%s is %v, want %v", name, got, want)
		}
	}
}

// epochOf reads a lease; 0 for one that has no epoch.
// TestPlacesAgain: who will not use a place says so with the next question, and it does not
// count against maxInstances any more.
func TestPlacesAgain(t *testing.T) {
	server := startNATS(t)
	conn := connect(t, server)
	startNode(t, conn, "a")
	s := startScheduler(t, server)
	embedtest.Eventually(t, "ready", ready(s))
	r := usual()
	r.MaxInstances = 1
	for _, c := range []struct {
		call  wire.InvocationID
		again bool
		fits  bool
	}{
		{"one", true, true}, // the question itself was lost
		{"one", false, false},
		{"two", false, false},
		{"two", true, false}, // its own only
		{"", true, false},
		{"one", true, true},
	} {
		r.Invocation, r.Again = c.call, c.again
		if reply := mustAsk(t, conn, r); (reply.Error == nil) != c.fits {
			t.Errorf("call %q, again %t: %+v", c.call, c.again, reply)
		}
	}
	if got := s.metric(t, "dayfly_scheduler_leases"); got != 1 {
		t.Errorf("%v leases, want 1", got)
	}
}

func epochOf(e bus.Entry) uint64 {
	var value struct {
		Epoch uint64 `json:"epoch"`
	}
	if json.Unmarshal(e.Value, &value) != nil {
		return 0
	}
	return value.Epoch
}

func TestRefuses(t *testing.T) {
	server := startNATS(t)
	conn := connect(t, server)
	s := startScheduler(t, server)
	embedtest.Eventually(t, "serving", func() bool { _, err := ask(t.Context(), conn, usual(), impatient); return err == nil })

	if err := s.Ready(t.Context()); err == nil {
		t.Error("ready without a node")
	}
	wantCode(t, mustAsk(t, conn, usual()), wire.CodeNoCapacity)

	a := startNode(t, conn, "a")
	embedtest.Eventually(t, "ready", ready(s))
	for name, request := range map[string]any{
		"no request":    []int{1},
		"empty":         wire.PlaceRequest{},
		"only protocol": wire.PlaceRequest{Protocol: wire.Protocol},
		"no runtime":    wire.PlaceRequest{Protocol: wire.Protocol, Version: usual().Version},
		"bad name":      wire.PlaceRequest{Protocol: wire.Protocol, Version: wire.VersionID{FunctionID: wire.FunctionID{Namespace: "default", Name: "A b"}, Number: 1}, Runtime: "python"},
		"negative need": wire.PlaceRequest{Protocol: wire.Protocol, Version: usual().Version, Runtime: "python", Needs: wire.Resources{MemoryBytes: -1}},
		"many excluded": wire.PlaceRequest{Protocol: wire.Protocol, Version: usual().Version, Runtime: "python", Exclude: make([]wire.NodeID, 1001)},
	} {
		t.Run(name, func(t *testing.T) { wantCode(t, mustAsk(t, conn, request), wire.CodeInvalid) })
	}

	t.Run("too many instances", func(t *testing.T) {
		r := usual()
		r.MaxInstances = 2
		for range 2 {
			if reply := mustAsk(t, conn, r); reply.Error != nil {
				t.Fatal(reply.Error)
			}
		}
		wantCode(t, mustAsk(t, conn, r), wire.CodeThrottled)
	})
	t.Run("excluded", func(t *testing.T) {
		r := usual()
		r.Exclude = []wire.NodeID{"a"}
		wantCode(t, mustAsk(t, conn, r), wire.CodeNoCapacity)
	})
	t.Run("full", func(t *testing.T) {
		for range 2 { // two leases are there, and four fit
			if reply := mustAsk(t, conn, usual()); reply.Error != nil {
				t.Fatal(reply.Error)
			}
		}
		wantCode(t, mustAsk(t, conn, usual()), wire.CodeNoCapacity)
	})
	t.Run("stopped", func(t *testing.T) {
		a.silence()
		a.report(t, func(st *wire.NodeState) { st.Stopping = true })
		embedtest.Eventually(t, "node gone", func() bool { return s.metric(t, "dayfly_scheduler_nodes") == 0 })
		wantCode(t, mustAsk(t, conn, usual()), wire.CodeNoCapacity)
	})
}

func TestIgnoresStatesOfOthers(t *testing.T) {
	server := startNATS(t)
	conn := connect(t, server)
	s := startScheduler(t, server)
	for _, data := range []string{`?`, `{"node":"b","run":"r","seq":1}`, `{"node":"a","run":"r","reserved":{"memoryBytes":-1}}`} {
		if err := conn.Publish(wire.NodeStateSubject("a"), []byte(data)); err != nil {
			t.Fatal(err)
		}
	}
	startNode(t, conn, "z")
	embedtest.Eventually(t, "ready", ready(s))
	if got := s.metric(t, "dayfly_scheduler_nodes"); got != 1 {
		t.Errorf("%v nodes, want 1", got)
	}
}

func TestLostNodeIsNotChosen(t *testing.T) {
	server := startNATS(t)
	conn := connect(t, server)
	a := startNode(t, conn, "a")
	b := startNode(t, conn, "b")
	s := startScheduler(t, server)
	embedtest.Eventually(t, "two nodes", func() bool { return s.metric(t, "dayfly_scheduler_nodes") == 2 })
	embedtest.Eventually(t, "ready", ready(s))
	b.report(t, func(st *wire.NodeState) { st.Load = 3 })
	a.silence()
	silent := time.Now()
	a.report(t, nil)
	embedtest.Eventually(t, "one node", func() bool { return s.metric(t, "dayfly_scheduler_nodes") == 1 })
	if took := time.Since(silent); took < wire.NodeLostAfter {
		t.Errorf("given up after %s already", took)
	}
	if reply := mustAsk(t, conn, usual()); reply.Node != "b" {
		t.Errorf("reply %+v, want node b", reply)
	}
}

func TestStandbyTakesOver(t *testing.T) {
	server := startNATS(t)
	conn := connect(t, server)
	startNode(t, conn, "a")
	first, second := startScheduler(t, server), startScheduler(t, server)
	embedtest.Eventually(t, "both ready", func() bool { return ready(first)() && ready(second)() })
	leader, standby := first, second
	if second.leads(t) {
		leader, standby = second, first
	}
	if !leader.leads(t) || standby.leads(t) {
		t.Fatalf("leaders: %t and %t", leader.leads(t), standby.leads(t))
	}
	before := mustAsk(t, conn, usual())

	if err := leader.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	bucket := leaseBucket(t, conn, lasting)
	if entry, err := bucket.Get(t.Context(), wire.SchedulerLeaseKey); err == nil && epochOf(entry) == before.Epoch {
		t.Errorf("the lease is not given back: %s", entry.Value)
	}
	var after wire.PlaceReply
	embedtest.Eventually(t, "the other answers", func() bool {
		var err error
		after, err = ask(t.Context(), conn, usual(), impatient)
		return err == nil
	})
	if after.Error != nil || after.Node != "a" || after.Epoch <= before.Epoch {
		t.Errorf("reply %+v after epoch %d", after, before.Epoch)
	}
	if !standby.leads(t) || leader.leads(t) {
		t.Errorf("leaders: old %t, new %t", leader.leads(t), standby.leads(t))
	}
	if err := leader.Stop(t.Context()); err != nil {
		t.Errorf("second stop: %v", err)
	}
}

func TestStolenLease(t *testing.T) {
	server := startNATS(t)
	conn := connect(t, server)
	bucket := leaseBucket(t, conn, lasting)
	startNode(t, conn, "a")
	small := usual() // so that no answer is that the node is full
	small.Needs = wire.Resources{MemoryBytes: 1, CPUMillis: 1, Instances: 1}
	s := startScheduler(t, server)
	embedtest.Eventually(t, "ready", ready(s))
	epoch := mustAsk(t, conn, small).Epoch

	var stolen uint64
	embedtest.Eventually(t, "stolen between two renewals", func() bool {
		var err error
		stolen, err = bucket.Update(t.Context(), wire.SchedulerLeaseKey, []byte(`{"holder":"thief"}`), leaseEntry(t, bucket).Revision)
		return err == nil
	})
	embedtest.Eventually(t, "nobody answers", func() bool {
		_, err := ask(t.Context(), conn, small, impatient)
		return errors.Is(err, bus.ErrNoResponders)
	})
	if s.leads(t) {
		t.Error("leads without the lease")
	}
	if err := bucket.Delete(t.Context(), wire.SchedulerLeaseKey, stolen); err != nil {
		t.Fatal(err)
	}
	embedtest.Eventually(t, "ready again", func() bool { return ready(s)() && s.leads(t) })
	next := mustAsk(t, conn, small).Epoch
	if next <= epoch {
		t.Errorf("epoch %d after %d", next, epoch)
	}

	embedtest.Eventually(t, "deleted between two renewals", func() bool {
		return bucket.Delete(t.Context(), wire.SchedulerLeaseKey, leaseEntry(t, bucket).Revision) == nil
	})
	embedtest.Eventually(t, "a new reign after the lease was deleted", func() bool {
		reply, err := ask(t.Context(), conn, small, impatient)
		return err == nil && reply.Epoch > next
	})
}

// TestLeaseExpires leaves the key as a scheduler that was killed does.
func TestLeaseExpires(t *testing.T) {
	server := startNATS(t)
	conn := connect(t, server)
	startNode(t, conn, "a")
	const ttl = 3 * time.Second
	killed := time.Now()
	if _, err := leaseBucket(t, conn, ttl).Create(t.Context(), wire.SchedulerLeaseKey, []byte(`{"holder":"dead"}`)); err != nil {
		t.Fatal(err)
	}
	s := start(t, server, scheduler.Config{LeaderTTL: ttl}, nothingKept{})
	embedtest.Eventually(t, "leads", func() bool { return s.leads(t) && ready(s)() })
	took := time.Since(killed)
	t.Logf("leads %s after the other's last word", took)
	if took < ttl {
		t.Errorf("took over after %s, while the lease was another's", took)
	}
}

// TestLeaderAsksNodes has nodes that say nothing until they are asked.
func TestLeaderAsksNodes(t *testing.T) {
	const size = 20
	server := startNATS(t)
	conn := connect(t, server)
	var all []*node
	for i := range size {
		n := startNode(t, conn, wire.NodeID(fmt.Sprintf("n%02d", i)))
		n.silence()
		all = append(all, n)
	}
	asked, over := make(chan struct{}), make(chan struct{})
	ask := sync.OnceFunc(func() { close(asked) })
	probe, err := conn.Subscribe(wire.NodeProbeSubject, "", func(bus.Msg) { ask() })
	if err != nil {
		t.Fatal(err)
	}
	var reporting sync.WaitGroup
	reporting.Go(func() {
		select {
		case <-asked:
		case <-over:
			return
		}
		beat := time.NewTicker(wire.HeartbeatEvery)
		defer beat.Stop()
		for {
			for _, n := range all {
				n.report(t, nil)
			}
			select {
			case <-beat.C:
			case <-over:
				return
			}
		}
	})
	t.Cleanup(func() {
		close(over)
		reporting.Wait()
		probe.Stop(conn)
	})

	s := startScheduler(t, server)
	embedtest.Eventually(t, "ready", func() bool { return ready(s)() && s.metric(t, "dayfly_scheduler_nodes") == size })
	var chosen []wire.NodeID
	for range size {
		chosen = append(chosen, mustAsk(t, conn, usual()).Node)
	}
	slices.Sort(chosen)
	if different := len(slices.Compact(chosen)); different != size {
		t.Errorf("%d instances on %d of as many empty nodes", size, different)
	}
}

func TestConfigIsChecked(t *testing.T) {
	conn := connect(t, startNATS(t))
	for name, cfg := range map[string]scheduler.Config{
		"negative":     {SweepEvery: -1},
		"TTL too low":  {LeaderTTL: time.Millisecond},
		"renewed late": {LeaderTTL: time.Second},
		"long name":    {Name: string(make([]byte, 300))},
	} {
		t.Run(name, func(t *testing.T) {
			s := newScheduler(conn, cfg, nothingKept{})
			if err := s.Start(t.Context()); err == nil {
				t.Error("started")
				_ = s.Stop(t.Context())
			}
		})
	}
}

func TestNATSRestarts(t *testing.T) {
	cfg := natsserver.Config{Dir: t.TempDir(), Listen: "127.0.0.1:0"}
	server, err := natsserver.Start(cfg, quiet())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { server.Stop() }()
	cfg.Listen = strings.TrimPrefix(server.URL(), "nats://")
	conn, err := bus.Connect(bus.Config{URL: server.URL()}, quiet())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	defer startNode(t, conn, "a").silence()
	s := newScheduler(conn, scheduler.Config{}, nothingKept{})
	if err := s.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := s.Stop(context.Background()); err != nil {
			t.Error(err)
		}
	}()
	embedtest.Eventually(t, "ready", ready(s))
	before := mustAsk(t, conn, usual())

	server.Stop()
	embedtest.Eventually(t, "not ready", func() bool { return !ready(s)() })
	embedtest.Eventually(t, "stepped down", func() bool { return !s.leads(t) })
	if server, err = natsserver.Start(cfg, quiet()); err != nil {
		t.Fatal(err)
	}
	back := time.Now()
	embedtest.Eventually(t, "ready again", func() bool { return s.leads(t) && ready(s)() })
	t.Logf("leads %s after NATS is back", time.Since(back))
	if after := mustAsk(t, conn, usual()); after.Error != nil || after.Epoch <= before.Epoch {
		t.Errorf("reply %+v after epoch %d", after, before.Epoch)
	}
}

func TestStopWithoutNATS(t *testing.T) {
	server := startNATS(t)
	conn := connect(t, server)
	s := newScheduler(conn, scheduler.Config{}, nothingKept{})
	if err := s.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	embedtest.Eventually(t, "leads", func() bool { return s.leads(t) })
	conn.Close()
	if s.Ready(t.Context()) == nil {
		t.Error("ready without NATS")
	}
	if err := s.Stop(t.Context()); err != nil {
		t.Error(err)
	}
	if err := newScheduler(conn, scheduler.Config{}, nothingKept{}).Start(t.Context()); err == nil {
		t.Error("started without NATS")
	}
}
