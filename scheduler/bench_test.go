package scheduler_test

import (
	"encoding/json"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/dayfly-run/dayfly/internal/bus"
	"github.com/dayfly-run/dayfly/internal/embed/embedtest"
	"github.com/dayfly-run/dayfly/wire"
)

// fleet is many nodes that beat as invokers do and settle the leases they got
// with the next beat.
type fleet struct {
	mu      sync.Mutex
	settled map[wire.NodeID][]wire.LeaseID
}

func (f *fleet) settle(node wire.NodeID, lease wire.LeaseID) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.settled[node] = append(f.settled[node], lease)
}

func (f *fleet) take(node wire.NodeID) []wire.LeaseID {
	f.mu.Lock()
	defer f.mu.Unlock()
	leases := f.settled[node]
	delete(f.settled, node)
	return leases
}

func startFleet(b *testing.B, conn *bus.Conn, size int) *fleet {
	b.Helper()
	f := &fleet{settled: map[wire.NodeID][]wire.LeaseID{}}
	stop, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		// The beats of the nodes are spread over time, as they are in reality.
		next := time.NewTicker(wire.HeartbeatEvery / 10)
		defer next.Stop()
		for turn := 0; ; turn++ {
			for i := turn % 10; i < size; i += 10 {
				id := wire.NodeID(fmt.Sprintf("node-%04d", i))
				st := wire.NodeState{
					Node: id, Run: "run", Seq: uint64(turn + 1), Protocol: wire.Protocol, Runtimes: []string{"go", "node", "provided", "python"},
					Capacity: wire.Resources{MemoryBytes: 1 << 50, CPUMillis: 1 << 40, Instances: 1 << 30},
					Settled:  f.take(id),
				}
				data, err := json.Marshal(wire.NodeWord{Whole: &st})
				if err == nil {
					err = conn.Publish(wire.NodeStateSubject(id), data)
				}
				if err != nil {
					b.Error(err)
				}
			}
			select {
			case <-stop:
				return
			case <-next.C:
			}
		}
	}()
	b.Cleanup(func() { close(stop); <-done })
	return f
}

// BenchmarkPlaceOverNATS asks a leader with 1,000 beating nodes through an
// embedded NATS server, in process: with one caller for the latency, with many
// for requests per second.
func BenchmarkPlaceOverNATS(b *testing.B) {
	server := startNATS(b)
	conn := connect(b, server)
	f := startFleet(b, connect(b, server), 1000)
	s := startScheduler(b, server)
	embedtest.Eventually(b, "1,000 nodes", func() bool { return s.metric(b, "dayfly_scheduler_nodes") == 1000 })
	embedtest.Eventually(b, "ready", ready(s))
	one := func() error {
		reply, err := ask(b.Context(), conn, usual(), 10*time.Second)
		if err != nil {
			return err
		}
		if reply.Error != nil {
			return reply.Error
		}
		f.settle(reply.Node, reply.Lease)
		return nil
	}
	b.Run("callers=1", func(b *testing.B) {
		for b.Loop() {
			if err := one(); err != nil {
				b.Fatal(err)
			}
		}
		b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "requests/s")
	})
	b.Run("callers=64", func(b *testing.B) {
		b.SetParallelism(32) // times two cores
		b.RunParallel(func(pb *testing.PB) {
			for pb.Next() {
				if err := one(); err != nil {
					b.Error(err)
					return
				}
			}
		})
		b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "requests/s")
	})
}
