package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/dayfly-run/dayfly/bench/internal/sample"
	"github.com/dayfly-run/dayfly/bench/internal/table"
	"github.com/dayfly-run/dayfly/functions"
	"github.com/dayfly-run/dayfly/internal/bus"
	"github.com/dayfly-run/dayfly/internal/embed/natsserver"
	"github.com/dayfly-run/dayfly/scheduler"
	"github.com/dayfly-run/dayfly/wire"
)

const (
	// callers ask at once, over connections as many as gateways would have.
	callers     = 64
	connections = 2
	echoSubject = "bench.echo"
	readyWithin = time.Minute
)

// overNATS prints how many placements a leader answers, while so many nodes beat. NATS
// server, scheduler, nodes and callers are in this process; they talk over TCP.
func overNATS(ctx context.Context, o options, out io.Writer) error {
	t := table.Table{Title: fmt.Sprintf("Placements over NATS, %d callers", callers), Columns: []string{
		"nodes", "placements/s", "p50", "p99", "refused", "echo/s (the same, but a bare answer)", "ratio",
	}}
	for _, size := range o.sizes {
		if err := placements(ctx, o, size, &t); err != nil {
			return fmt.Errorf("%d nodes: %w", size, err)
		}
	}
	return t.Print(out)
}

func placements(ctx context.Context, o options, size int, t *table.Table) error {
	dir, err := os.MkdirTemp("", "placement-")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(dir) }()
	log := slog.New(slog.DiscardHandler)
	server, err := natsserver.Start(natsserver.Config{Dir: dir, Listen: "127.0.0.1:0"}, log)
	if err != nil {
		return err
	}
	defer server.Stop()
	conns := make([]*bus.Conn, 3+connections) // scheduler, nodes, echo, callers
	for i := range conns {
		if conns[i], err = bus.Connect(bus.Config{URL: server.URL(), Name: "bench"}, log); err != nil {
			return err
		}
		defer conns[i].Close()
	}
	echo, err := conns[2].Subscribe(echoSubject, "", func(m bus.Msg) { _ = m.Respond(m.Data) })
	if err != nil {
		return err
	}
	defer echo.Stop(conns[2])
	metrics := prometheus.NewRegistry()
	s := scheduler.New(scheduler.Config{Name: "bench"}, scheduler.Deps{Conn: conns[0], Functions: noFunctions{}, Metrics: metrics, Log: log})
	if err := s.Start(ctx); err != nil {
		return err
	}
	defer func() { _ = s.Stop(context.WithoutCancel(ctx)) }()
	beats := newBeats(conns[1], size)
	beating, stop := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() { defer close(done); beats.run(beating) }()
	defer func() { stop(); <-done }()
	switch known, err := beats.await(ctx, conns[3], metrics); {
	case err != nil:
		return err
	case known < size: // the machine is too slow, or too busy
		t.Row(strconv.Itoa(size), "", "", "", "", "", fmt.Sprintf("the leader knew %d nodes after %s", known, readyWithin))
		return nil
	}
	var rates, echoes, ratios []float64
	var took []time.Duration
	refused := 0
	for range o.rounds {
		bare := load(ctx, o.span/2, conns[3:], func(ctx context.Context, conn *bus.Conn) (bool, error) {
			_, err := conn.Request(ctx, echoSubject, []byte(`{"invocation":"x"}`))
			return true, err
		})
		placed := load(ctx, o.span, conns[3:], beats.place)
		if err := firstOf(bare.err, placed.err, ctx.Err()); err != nil {
			return err
		}
		rates, echoes = append(rates, placed.rate), append(echoes, bare.rate)
		ratios = append(ratios, placed.rate/bare.rate)
		took = append(took, placed.took...)
		refused += placed.refused
	}
	t.Row(strconv.Itoa(size), table.Rate(sample.Median(rates)), table.Micros(sample.Quantile(took, 0.5)), table.Micros(sample.Quantile(took, 0.99)),
		strconv.Itoa(refused), table.Rate(sample.Median(echoes)), fmt.Sprintf("%.2f", sample.Median(ratios)))
	return nil
}

func firstOf(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

// noFunctions is a registry of which nothing is to be kept running.
type noFunctions struct{}

// Kept implements [scheduler.Functions].
func (noFunctions) Kept() ([]functions.Version, <-chan struct{}) { return nil, nil }

// beats is many nodes that say how they are, as invokers do: every heartbeat what changed,
// and all of it at times. They settle the leases that they were given with the next word.
type beats struct {
	conn *bus.Conn
	ids  []wire.NodeID

	mu      sync.Mutex // guards settled
	settled map[wire.NodeID][]wire.LeaseID
	failed  atomic.Pointer[error]
}

func newBeats(conn *bus.Conn, size int) *beats {
	b := &beats{conn: conn, settled: map[wire.NodeID][]wire.LeaseID{}}
	for i := range size {
		b.ids = append(b.ids, wire.NodeID(fmt.Sprintf("node-%05d", i)))
	}
	return b
}

// parts is over how many moments of a heartbeat the nodes are spread.
const parts = 50

func (b *beats) run(ctx context.Context) {
	tick := time.NewTicker(wire.HeartbeatEvery / parts)
	defer tick.Stop()
	wholeEvery := uint64(wire.WholeEvery / wire.HeartbeatEvery)
	for turn := uint64(0); ; turn++ {
		seq := turn/parts + 1
		for i := int(turn % parts); i < len(b.ids); i += parts {
			if err := b.say(i, seq, seq == 1 || (seq+uint64(i))%wholeEvery == 0); err != nil {
				b.failed.Store(&err)
				return
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

func (b *beats) say(i int, seq uint64, whole bool) error {
	id := b.ids[i]
	b.mu.Lock()
	settled := b.settled[id]
	delete(b.settled, id)
	b.mu.Unlock()
	word := wire.NodeWord{Delta: &wire.NodeDelta{Run: "run", Seq: seq, At: time.Now(), Load: 0.5}}
	if settled != nil {
		word.Delta.Change = &wire.NodeChange{Settled: settled}
	}
	if whole {
		word = wire.NodeWord{Whole: &wire.NodeState{
			Node: id, Run: "run", Seq: seq, Protocol: wire.Protocol, Settled: settled, Load: 0.5, At: time.Now(), Sandbox: "fake",
			Capacity: wire.Resources{MemoryBytes: 64 * gib, CPUMillis: 32_000, Instances: 1000},
			Runtimes: []string{"go", "image", "node", "provided", "python"},
			Stems:    map[string]int{"python": 2, "node": 1},
			Labels: map[string]string{
				wire.LabelNode: string(id), wire.LabelArch: "amd64", wire.LabelSandbox: "fake", wire.LabelZone: fmt.Sprintf("z%d", i%3),
			},
		}}
	}
	data, err := json.Marshal(word)
	if err != nil {
		return err
	}
	return b.conn.Publish(wire.NodeStateSubject(id), data)
}

// await returns when the scheduler knows all nodes and answers, or, with how many it
// knows, when it has had its time.
func (b *beats) await(ctx context.Context, conn *bus.Conn, metrics prometheus.Gatherer) (known int, err error) {
	bound := time.NewTimer(readyWithin)
	defer bound.Stop()
	pause := time.NewTicker(wire.HeartbeatEvery / 5)
	defer pause.Stop()
	for {
		select {
		case <-ctx.Done():
			return known, context.Cause(ctx)
		case <-bound.C:
			return known, nil
		case <-pause.C:
		}
		if known, err = nodesKnown(metrics); err != nil {
			return known, err
		}
		if known < len(b.ids) {
			continue
		}
		if placed, err := b.place(ctx, conn); err == nil && placed {
			return known, nil
		}
	}
}

// nodesKnown is how many nodes the scheduler says it knows.
func nodesKnown(metrics prometheus.Gatherer) (int, error) {
	families, err := metrics.Gather()
	if err != nil {
		return 0, err
	}
	for _, f := range families {
		if f.GetName() == "dayfly_scheduler_nodes" {
			return int(f.GetMetric()[0].GetGauge().GetValue()), nil
		}
	}
	return 0, errors.New("the scheduler does not say how many nodes it knows")
}

// place asks for one instance and has its lease settled.
func (b *beats) place(ctx context.Context, conn *bus.Conn) (placed bool, err error) {
	if failed := b.failed.Load(); failed != nil {
		return false, *failed
	}
	r := question{needs: 128}.request()
	r.Code = wire.Digest("none")
	r.Protocol = wire.Protocol
	data, err := json.Marshal(r)
	if err != nil {
		return false, err
	}
	answer, err := conn.Request(ctx, wire.PlaceSubject, data)
	if err != nil {
		return false, err
	}
	var reply wire.PlaceReply
	if err := json.Unmarshal(answer, &reply); err != nil || reply.Error != nil {
		return false, err
	}
	b.mu.Lock()
	b.settled[reply.Node] = append(b.settled[reply.Node], reply.Lease)
	b.mu.Unlock()
	return true, nil
}

// loaded is what a round of load came to.
type loaded struct {
	rate    float64
	took    []time.Duration
	refused int
	err     error
}

// load calls one, by all callers, one after the other, for a while.
func load(ctx context.Context, span time.Duration, conns []*bus.Conn, one func(context.Context, *bus.Conn) (bool, error)) loaded {
	const patience = 30 * time.Second
	var wg sync.WaitGroup
	results := make([]loaded, callers)
	begun := time.Now()
	for i := range results {
		wg.Go(func() {
			mine := &results[i]
			for time.Since(begun) < span && ctx.Err() == nil {
				asked := time.Now()
				ctx, cancel := context.WithTimeout(ctx, patience)
				ok, err := one(ctx, conns[i%len(conns)])
				cancel()
				if err != nil {
					mine.err = err
					return
				}
				mine.took = append(mine.took, time.Since(asked))
				if !ok {
					mine.refused++
				}
			}
		})
	}
	wg.Wait()
	all := loaded{}
	for _, r := range results {
		all.took = append(all.took, r.took...)
		all.refused += r.refused
		all.err = firstOf(all.err, r.err)
	}
	all.rate = float64(len(all.took)-all.refused) / time.Since(begun).Seconds()
	return all
}
