package events

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/dayfly-run/dayfly/events/outcome"
	"github.com/dayfly-run/dayfly/wire"
)

// metrics are what a worker counts.
type metrics struct {
	attempts *prometheus.CounterVec
	ends     *prometheus.CounterVec
	seconds  prometheus.Histogram
}

func newMetrics(r prometheus.Registerer) *metrics {
	m := &metrics{
		attempts: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "dayfly_events_attempts_total",
			Help: "Attempts at accepted events, by how they ended (succeeded, failed, lost, refused, hopeless or cancelled).",
		}, []string{"end"}),
		ends: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "dayfly_events_ended_total",
			Help: "Accepted events that are over, by state (succeeded, failed, dead or cancelled).",
		}, []string{"state"}),
		seconds: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "dayfly_events_seconds", Help: "How long after it was accepted an event was over.",
			Buckets: prometheus.ExponentialBuckets(0.005, 4, 12),
		}),
	}
	r.MustRegister(m.attempts, m.ends, m.seconds)
	return m
}

func (m *metrics) attempt(c outcome.Class) { m.attempts.WithLabelValues(string(c)).Inc() }

func (m *metrics) done(r wire.Record) {
	m.ends.WithLabelValues(string(r.State)).Inc()
	m.seconds.Observe(r.EndedAt.Sub(r.AcceptedAt).Seconds())
}
