package api

import (
	"fmt"
	"net/http"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/sluicehq/sluice/api/fault"
	"github.com/sluicehq/sluice/tasks"
)

// metrics counts requests. All labels are bounded: routes are
// patterns, methods and codes come from lists, tenants from a roster.
type metrics struct {
	requests *prometheus.CounterVec
	duration *prometheus.HistogramVec
	refused  *prometheus.CounterVec
	submits  *prometheus.CounterVec
	roster   *tasks.Roster
}

func newMetrics(r prometheus.Registerer) (*metrics, error) {
	m := &metrics{
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "sluice_http_requests_total", Help: "Requests answered, by route pattern, method and status code.",
		}, []string{"route", "method", "code"}),
		duration: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "sluice_http_request_duration_seconds", Help: "Time to answer a request, long polls and event streams included.",
			Buckets: []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 10, 30, 60},
		}, []string{"route", "method"}),
		refused: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "sluice_jobs_rejected_total", Help: "Submits, batches and calls in a provider's form refused, by problem code.",
		}, []string{"code"}),
		submits: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "sluice_tenant_submits_total",
			Help: "Submits, batches and calls in a provider's form, by tenant (the first 100 of a process, the rest as (others)) and problem code; accepted where there is none.",
		}, []string{"tenant", "code"}),
		roster: new(tasks.Roster),
	}
	for _, k := range fault.Kinds() {
		if k.Status == http.StatusTooManyRequests || k.Status == http.StatusServiceUnavailable {
			m.refused.WithLabelValues(k.Code) // an alert sees the first one, too
		}
	}
	if r == nil {
		return m, nil
	}
	for _, c := range []prometheus.Collector{m.requests, m.duration, m.refused, m.submits} {
		if err := r.Register(c); err != nil {
			return nil, fmt.Errorf("register the API's metrics: %w", err)
		}
	}
	return m, nil
}

func (m *metrics) answered(route, verb string, status int, took time.Duration) {
	verb = method(verb)
	m.requests.WithLabelValues(route, verb, strconv.Itoa(status)).Inc()
	m.duration.WithLabelValues(route, verb).Observe(took.Seconds())
}

// submitRoutes are the routes whose POST makes jobs.
var submitRoutes = map[string]bool{
	"/v1/jobs": true, "/v1/batches": true,
	"/anthropic/v1/messages": true, "/anthropic/v1/messages/batches": true,
	"/openai/v1/chat/completions": true, "/openai/v1/responses": true, "/openai/v1/embeddings": true, "/openai/v1/batches": true,
}

// submitted counts a request that was to make jobs; code is "" where it was taken in. One
// without a valid token is nobody's.
func (m *metrics) submitted(tenant, code string) {
	if code != "" {
		m.refused.WithLabelValues(code).Inc()
	}
	if tenant == "" {
		return
	}
	if code == "" {
		code = "accepted"
	}
	m.submits.WithLabelValues(m.roster.Label(tenant), code).Inc()
}

// method returns a known method as it is; a caller may send any other word.
func method(verb string) string {
	switch verb {
	case http.MethodGet, http.MethodHead, http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete, http.MethodOptions:
		return verb
	}
	return "other"
}
