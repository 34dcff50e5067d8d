package asyncevents

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"time"

	"github.com/dayfly-run/dayfly/bench/internal/load"
	"github.com/dayfly-run/dayfly/internal/bus"
)

// Where the baseline's messages go, and how large they are: about as an event here.
const (
	plainStream   = "bench_plain"
	plainSubject  = "bench.plain"
	plainBytes    = 512
	plainMaxBytes = 1 << 30
)

// publisher stores messages one by one, each with a write to disk of its own, as a
// program does that uses JetStream directly.
type publisher struct{ conn *bus.Conn }

func openPublisher(ctx context.Context, url string) (publisher, error) {
	conn, err := bus.Connect(bus.Config{URL: url, Name: "bench"}, slog.New(slog.DiscardHandler))
	if err != nil {
		return publisher{}, err
	}
	err = conn.EnsureStream(ctx, bus.StreamConfig{Name: plainStream, Subjects: []string{plainSubject}, MaxBytes: plainMaxBytes})
	if err != nil {
		conn.Close()
		return publisher{}, err
	}
	return publisher{conn}, nil
}

// closed keeps n clients busy for a while.
func (p publisher) closed(ctx context.Context, n int, length time.Duration) (load.Result, error) {
	message := bus.Message{Subject: plainSubject, Data: []byte(strings.Repeat("x", plainBytes))}
	var (
		mu     sync.Mutex
		result load.Result
		errs   []error
		group  sync.WaitGroup
	)
	begun := time.Now()
	for range n {
		group.Go(func() {
			var taken []time.Duration
			var err error
			for err == nil && time.Since(begun) < length {
				from := time.Now()
				if _, err = p.conn.Store(ctx, message); err == nil {
					taken = append(taken, time.Since(from))
				}
			}
			mu.Lock()
			defer mu.Unlock()
			result.Latencies, errs = append(result.Latencies, taken...), append(errs, err)
		})
	}
	group.Wait()
	result.Elapsed = time.Since(begun)
	if err := errors.Join(errs...); err != nil {
		return result, fmt.Errorf("publish: %w", err)
	}
	return result, nil
}
