package gateway

import (
	"net/http"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/dayfly-run/dayfly/functions"
	"github.com/dayfly-run/dayfly/wire"
)

// metrics are what a gateway counts.
type metrics struct {
	calls    *prometheus.CounterVec
	seconds  prometheus.Histogram
	accepted prometheus.Counter
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
	}
	m.accepted = prometheus.NewCounter(prometheus.CounterOpts{
		Name: "dayfly_gateway_accepted_total",
		Help: "Events that were accepted over HTTP to run later.",
	})
	r.MustRegister(m.calls, m.seconds, m.accepted)
	return m
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
