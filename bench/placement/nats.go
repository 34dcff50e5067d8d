package main

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strconv"
	"sync"
	"time"

	"github.com/dayfly-run/dayfly/bench/internal/fleet"
	"github.com/dayfly-run/dayfly/bench/internal/sample"
	"github.com/dayfly-run/dayfly/bench/internal/table"
	"github.com/dayfly-run/dayfly/internal/bus"
	"github.com/dayfly-run/dayfly/internal/embed/natsserver"
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
		"nodes", "placements/s", "p50", "p99", "refused", "echo/s (the same, but a bare answer)", "ratio", "nodes known at the end", "given up",
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
	s, err := fleet.StartScheduler(ctx, conns[0], log)
	if err != nil {
		return err
	}
	defer func() { _ = s.Stop(context.WithoutCancel(ctx)) }()
	nodes, err := fleet.Start(ctx, conns[1], freeNodes(size))
	if err != nil {
		return err
	}
	defer nodes.Stop()
	placeOne := func(ctx context.Context, conn *bus.Conn) (bool, error) { return place(ctx, conn, nodes) }
	switch known, err := awaitKnown(ctx, s, size, func() (bool, error) { return placeOne(ctx, conns[3]) }); {
	case err != nil:
		return err
	case known < size: // the machine is too slow, or too busy
		t.Row(strconv.Itoa(size), "", "", "", "", "", "", fmt.Sprintf("%d after %s", known, readyWithin), "")
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
		placed := load(ctx, o.span, conns[3:], placeOne)
		if err := cmp.Or(bare.err, placed.err, ctx.Err()); err != nil {
			return err
		}
		rates, echoes = append(rates, placed.rate), append(echoes, bare.rate)
		ratios = append(ratios, placed.rate/bare.rate)
		took = append(took, placed.took...)
		refused += placed.refused
	}
	known, err := s.Known()
	if err != nil {
		return err
	}
	said, err := nodes.Totals()
	if err != nil {
		return err
	}
	t.Row(strconv.Itoa(size), table.Rate(sample.Median(rates)), table.Micros(sample.Quantile(took, 0.5)), table.Micros(sample.Quantile(took, 0.99)),
		strconv.Itoa(refused), table.Rate(sample.Median(echoes)), fmt.Sprintf("%.2f", sample.Median(ratios)), strconv.Itoa(known), strconv.FormatInt(said.GivenUp, 10))
	return nil
}

// freeNodes are nodes on which nothing runs.
func freeNodes(size int) []wire.NodeState {
	states := make([]wire.NodeState, size)
	for i := range states {
		id := wire.NodeID(fmt.Sprintf("node-%05d", i))
		states[i] = wire.NodeState{
			Node: id, Protocol: wire.Protocol, Load: 0.5, Sandbox: "fake",
			Capacity: wire.Resources{MemoryBytes: 64 * gib, CPUMillis: 32_000, Instances: 1000},
			Runtimes: []string{"go", "image", "node", "provided", "python"},
			Stems:    map[string]int{"python": 2, "node": 1},
			Labels: map[string]string{
				wire.LabelNode: string(id), wire.LabelArch: "amd64", wire.LabelSandbox: "fake", wire.LabelZone: fmt.Sprintf("z%d", i%3),
			},
		}
	}
	return states
}

// awaitKnown returns when a scheduler knows all nodes and places, or, with how many it
// knows, when it has had its time.
func awaitKnown(ctx context.Context, s *fleet.Scheduler, size int, place func() (bool, error)) (known int, err error) {
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
		if known, err = s.Known(); err != nil {
			return known, err
		}
		if known < size {
			continue
		}
		if placed, err := place(); err == nil && placed {
			return known, nil
		}
	}
}

// place asks for one instance and has its lease settled.
func place(ctx context.Context, conn *bus.Conn, nodes *fleet.Nodes) (placed bool, err error) {
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
	nodes.Settle(reply.Node, reply.Lease)
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
		all.err = cmp.Or(all.err, r.err)
	}
	all.rate = float64(len(all.took)-all.refused) / time.Since(begun).Seconds()
	return all
}
