package scheduler

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/dayfly-run/dayfly/functions"
	"github.com/dayfly-run/dayfly/internal/bus"
)

// ChildEnv makes the test program a scheduler: it holds the URL of NATS.
const ChildEnv = "DAYFLY_TEST_SCHEDULER"

// runChild runs a scheduler with everything by default until its input ends, if this
// process was started for that, and reports whether it did.
func runChild() bool {
	url := os.Getenv(ChildEnv)
	if url == "" {
		return false
	}
	log := slog.New(slog.DiscardHandler)
	conn, err := bus.Connect(bus.Config{URL: url, Name: "scheduler"}, log)
	if err == nil {
		s := New(Config{}, Deps{Conn: conn, Functions: keepsNothing{}, Metrics: prometheus.NewRegistry(), Log: log})
		if err = s.Start(context.Background()); err == nil {
			_, _ = io.Copy(io.Discard, os.Stdin) // it ends with the test
			err = s.Stop(context.Background())
		}
		conn.Close()
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
	}
	return true
}

// keepsNothing is a registry without functions.
type keepsNothing struct{}

func (keepsNothing) Kept() ([]functions.Version, <-chan struct{}) { return nil, nil }
