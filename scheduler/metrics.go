package scheduler

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/dayfly-run/dayfly/wire"
)

// Results of a placement beside wire's codes.
const (
	resultOK = "ok"
	// resultLapsed: not answered, because the lease might have ended.
	resultLapsed = "lapsed"
)

// metrics are what a scheduler counts.
type metrics struct {
	leading    prometheus.Gauge
	placements *prometheus.CounterVec
	decisions  prometheus.Histogram
}

// newMetrics registers the metrics; census counts nodes and leases when asked.
func newMetrics(r prometheus.Registerer, census func() (nodes, leases int)) *metrics {
	m := &metrics{
		leading: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "dayfly_scheduler_leading",
			Help: "1 while this scheduler leads, else 0.",
		}),
		placements: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "dayfly_scheduler_placements_total",
			Help: "Requests for a node, by result (ok, lapsed or an error code).",
		}, []string{"result"}),
		decisions: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name:    "dayfly_scheduler_decision_seconds",
			Help:    "Time from a request's arrival to its decision.",
			Buckets: prometheus.ExponentialBuckets(1e-6, 2, 18),
		}),
	}
	r.MustRegister(m.leading, m.placements, m.decisions,
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "dayfly_scheduler_nodes",
			Help: "Nodes that were heard of lately.",
		}, func() float64 { nodes, _ := census(); return float64(nodes) }),
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "dayfly_scheduler_leases",
			Help: "Leases that no node has settled yet.",
		}, func() float64 { _, leases := census(); return float64(leases) }),
	)
	return m
}

func (m *metrics) count(reply wire.PlaceReply) {
	result := resultOK
	if reply.Error != nil {
		result = string(reply.Error.Code)
	}
	m.placements.WithLabelValues(result).Inc()
}
