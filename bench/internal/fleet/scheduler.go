package fleet

import (
	"context"
	"errors"
	"log/slog"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/dayfly-run/dayfly/functions"
	"github.com/dayfly-run/dayfly/internal/bus"
	"github.com/dayfly-run/dayfly/scheduler"
)

// Scheduler is a real one, which keeps nothing running.
type Scheduler struct {
	*scheduler.Scheduler

	metrics *prometheus.Registry
}

// noFunctions is a registry of which nothing is to be kept running.
type noFunctions struct{}

// Kept implements [scheduler.Functions].
func (noFunctions) Kept() ([]functions.Version, <-chan struct{}) { return nil, nil }

// StartScheduler starts a scheduler, which the caller stops.
func StartScheduler(ctx context.Context, conn *bus.Conn, log *slog.Logger) (*Scheduler, error) {
	metrics := prometheus.NewRegistry()
	s := scheduler.New(scheduler.Config{Name: "bench"}, scheduler.Deps{Conn: conn, Functions: noFunctions{}, Metrics: metrics, Log: log})
	if err := s.Start(ctx); err != nil {
		return nil, err
	}
	return &Scheduler{s, metrics}, nil
}

// Known is how many nodes the scheduler says it knows.
func (s *Scheduler) Known() (int, error) {
	families, err := s.metrics.Gather()
	if err != nil {
		return 0, err
	}
	for _, family := range families {
		if family.GetName() == "dayfly_scheduler_nodes" {
			return int(family.GetMetric()[0].GetGauge().GetValue()), nil
		}
	}
	return 0, errors.New("the scheduler does not say how many nodes it knows")
}
