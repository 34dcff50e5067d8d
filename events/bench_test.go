package events_test

import (
	"runtime"
	"sync"
	"testing"

	"github.com/dayfly-run/dayfly/functions"
	"github.com/dayfly-run/dayfly/internal/intake"
	"github.com/dayfly-run/dayfly/wire"
)

// BenchmarkEvents is a whole event: accepted on disk, run by a function that does
// nothing, its output in S3, its record on disk, acknowledged.
func BenchmarkEvents(b *testing.B) {
	env := newEnvironment(b)
	env.functions.set("f", func(s *functions.Spec) { s.MaxInstances = 50 })
	env.worker()
	const callers = 64
	work := make(chan struct{})
	var all sync.WaitGroup
	for range callers {
		all.Go(func() {
			for range work {
				if _, err := env.intake.Accept(b.Context(), intake.Request{Event: wire.Event{Ref: "f"}, Payload: []byte("1")}); err != nil {
					b.Error(err)
				}
			}
		})
	}
	b.ResetTimer()
	for range b.N {
		work <- struct{}{}
	}
	close(work)
	all.Wait()
	accepted := b.Elapsed()
	for env.has(wire.StreamEvents, wire.AllEvents) { // each question is a few microseconds of the server's
		runtime.Gosched()
	}
	b.ReportMetric(float64(b.N)/accepted.Seconds(), "accepts/s")
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "events/s")
}
