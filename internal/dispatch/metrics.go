package dispatch

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Metrics are what a dispatcher's calls are counted by. It is a [Meter].
type Metrics struct {
	registerer prometheus.Registerer
	waits      prometheus.Histogram
	refused    *prometheus.CounterVec
}

// NewMetrics registers metrics; r takes them once.
func NewMetrics(r prometheus.Registerer) *Metrics {
	m := &Metrics{
		registerer: r,
		waits: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name:    "dayfly_dispatch_wait_seconds",
			Help:    "How long calls waited for an instance, those that were free at once left out.",
			Buckets: prometheus.ExponentialBuckets(0.0001, 4, 13),
		}),
		refused: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "dayfly_dispatch_refused_total",
			Help: "Calls that got no instance, by reason (full, deadline, left or stopped).",
		}, []string{"reason"}),
	}
	r.MustRegister(m.waits, m.refused)
	return m
}

// Of shows how many calls wait in a dispatcher.
func (m *Metrics) Of(d *Dispatcher) {
	m.registerer.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "dayfly_dispatch_waiting",
		Help: "Calls that wait for an instance.",
	}, func() float64 { return float64(d.Waiting()) }))
}

// Waited implements [Meter].
func (m *Metrics) Waited(took time.Duration, end End) {
	if end != EndFull { // it did not wait
		m.waits.Observe(took.Seconds())
	}
	if end != EndServed {
		m.refused.WithLabelValues(string(end)).Inc()
	}
}
