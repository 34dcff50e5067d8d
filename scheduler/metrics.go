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
	keeps      *prometheus.CounterVec
}

// census is what a scheduler counts when it is asked.
type census struct {
	nodes, leases int
	// wanted counts the instances that the leader is to keep, missing those of
	// them that no node was told to; nothing on a standby.
	wanted, missing int
	// over counts the runs that are remembered as given up.
	over int
}

// newMetrics registers the metrics; take counts when asked.
func newMetrics(r prometheus.Registerer, take func() census) *metrics {
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
		keeps: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "dayfly_scheduler_keeps_total",
			Help: "Commands to nodes about instances to keep, by result (ok or an error code).",
		}, []string{"result"}),
	}
	r.MustRegister(m.leading, m.placements, m.decisions, m.keeps)
	for _, g := range []struct {
		name, help string
		of         func(census) int
	}{
		{"dayfly_scheduler_nodes", "Nodes that were heard of lately.", func(c census) int { return c.nodes }},
		{"dayfly_scheduler_leases", "Leases that no node has settled yet.", func(c census) int { return c.leases }},
		{"dayfly_scheduler_given_up", "Runs of nodes that this scheduler takes for over, in the last minutes.", func(c census) int { return c.over }},
		{"dayfly_scheduler_keep_wanted", "Instances that minInstances asks for, while this scheduler leads.", func(c census) int { return c.wanted }},
		{"dayfly_scheduler_keep_missing", "Those of them that no node was told to keep.", func(c census) int { return c.missing }},
	} {
		r.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: g.name, Help: g.help},
			func() float64 { return float64(g.of(take())) }))
	}
	return m
}

func (m *metrics) count(reply wire.PlaceReply) {
	result := resultOK
	if reply.Error != nil {
		result = string(reply.Error.Code)
	}
	m.placements.WithLabelValues(result).Inc()
}
