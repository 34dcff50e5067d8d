package gateway

import (
	"net/http"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/dayfly-run/dayfly/functions"
	"github.com/dayfly-run/dayfly/internal/dispatch"
	"github.com/dayfly-run/dayfly/wire"
)

// metrics are what a gateway counts.
type metrics struct {
	calls   *prometheus.CounterVec
	seconds prometheus.Histogram
	waits   prometheus.Histogram
	refused *prometheus.CounterVec
}

func newMetrics(r prometheus.Registerer) *metrics {
	m := &metrics{
		calls: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "dayfly_gateway_calls_total",
			Help: "Synchronous calls that were answered, by code (ok or an error code).",
		}, []string{"code"}),
		seconds: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name:    "dayfly_gateway_call_seconds",
			Help:    "Time from a call's arrival to its result.",
			Buckets: prometheus.ExponentialBuckets(0.0001, 3, 13),
		}),
		waits: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name:    "dayfly_gateway_wait_seconds",
			Help:    "How long calls waited for an instance, those that were free at once left out.",
			Buckets: prometheus.ExponentialBuckets(0.0001, 4, 13),
		}),
		refused: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "dayfly_gateway_refused_total",
			Help: "Calls that got no instance, by reason (full, deadline, left or stopped).",
		}, []string{"reason"}),
	}
	r.MustRegister(m.calls, m.seconds, m.waits, m.refused)
	return m
}

// registerWaiting shows how many calls wait.
func registerWaiting(r prometheus.Registerer, count func() int) {
	r.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "dayfly_gateway_waiting",
		Help: "Calls that wait for an instance.",
	}, func() float64 { return float64(count()) }))
}

// Waited implements [dispatch.Meter].
func (m *metrics) Waited(took time.Duration, end dispatch.End) {
	if end != dispatch.EndFull { // it did not wait
		m.waits.Observe(took.Seconds())
	}
	if end != dispatch.EndServed {
		m.refused.WithLabelValues(string(end)).Inc()
	}
}

func (m *metrics) observe(err error, took time.Duration) {
	code := "ok"
	if err != nil {
		code = string(wire.AsError(err).Code)
	}
	m.calls.WithLabelValues(code).Inc()
	m.seconds.Observe(took.Seconds())
}

// setCallHeaders says on the answer which invocation it is of, and how it went.
func setCallHeaders(h http.Header, id wire.InvocationID, v functions.Version, reply wire.InvokeReply) {
	h.Set(wire.HeaderInvocation, string(id))
	h.Set(wire.HeaderVersion, strconv.Itoa(v.Number))
	if reply.Node == "" {
		return // nothing ran
	}
	h.Set(wire.HeaderCold, strconv.FormatBool(reply.Cold))
	h.Set(wire.HeaderRunMicros, strconv.FormatInt(reply.RunMicros, 10))
	if reply.Cold {
		h.Set(wire.HeaderInitMicros, strconv.FormatInt(reply.InitMicros, 10))
	}
}
