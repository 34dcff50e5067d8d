package invoker

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/dayfly-run/dayfly/invoker/pool"
	"github.com/dayfly-run/dayfly/wire"
)

// metrics are what a node counts.
type metrics struct {
	invocations *prometheus.CounterVec
	starts      *prometheus.HistogramVec
	runs        prometheus.Histogram
	stems       *prometheus.GaugeVec
	claims      *prometheus.CounterVec
	instances   *prometheus.GaugeVec
	gone        *prometheus.CounterVec
	ahead       *prometheus.CounterVec
	givenUp     prometheus.Counter
	ran         tallies
}

func newMetrics(r prometheus.Registerer) *metrics {
	m := &metrics{
		invocations: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "dayfly_invoker_invocations_total",
			Help: "Invocations that ended on this node, by code (ok or an error code).",
		}, []string{"code"}),
		starts: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name:    "dayfly_invoker_instance_start_seconds",
			Help:    "Time to start an instance until it asked for its first event, by runtime.",
			Buckets: prometheus.ExponentialBuckets(0.001, 2, 14),
		}, []string{"runtime"}),
		runs: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name:    "dayfly_invoker_run_seconds",
			Help:    "Time that functions ran.",
			Buckets: prometheus.ExponentialBuckets(0.0001, 4, 12),
		}),
		stems: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "dayfly_invoker_stems",
			Help: "Containers that are ready and wait for a function, by root file system and network.",
		}, []string{"root", "network"}),
		claims: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "dayfly_invoker_stem_claims_total",
			Help: "Starts of instances, by whether a stem was ready (hit) or had to be started (miss).",
		}, []string{"root", "network", "result"}),
		instances: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "dayfly_invoker_instances",
			Help: "Instances of functions, by state (binding, warm, busy, draining).",
		}, []string{"state"}),
		gone: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "dayfly_invoker_instances_gone_total",
			Help: "Instances that were taken out of use, by reason (memory, idle, spent, timeout, ended, stopped, drained).",
		}, []string{"reason"}),
		ahead: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "dayfly_invoker_ahead_starts_total",
			Help: "Instances that were started before a call, by reason (kept, rhythm) and result (ok, no_room, failed).",
		}, []string{"reason", "result"}),
	}
	m.givenUp = prometheus.NewCounter(prometheus.CounterOpts{
		Name: "dayfly_invoker_runs_given_up_total",
		Help: "Runs of this node that ended because the cluster gave it up, or could not hear it.",
	})
	r.MustRegister(m.invocations, m.starts, m.runs, m.stems, m.claims, m.instances, m.gone, m.ahead, m.givenUp)
	return m
}

// showInstances shows how many instances there are in each state.
func (m *metrics) showInstances(count [pool.Gone]int) {
	for state, n := range count {
		m.instances.WithLabelValues(pool.State(state).String()).Set(float64(n))
	}
}

// observe counts one answer. An empty runtime says that nothing ran.
func (m *metrics) observe(reply wire.InvokeReply, runtime string) {
	code := "ok"
	if reply.Error != nil {
		code = string(reply.Error.Code)
	}
	m.invocations.WithLabelValues(code).Inc()
	if runtime == "" {
		return
	}
	m.runs.Observe((time.Duration(reply.RunMicros) * time.Microsecond).Seconds())
}

// started counts an instance that has started, for a call or before one.
func (m *metrics) started(runtime string, took time.Duration) {
	m.starts.WithLabelValues(runtime).Observe(took.Seconds())
}
