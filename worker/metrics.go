package worker

import "github.com/prometheus/client_golang/prometheus"

// metrics are the worker's own; the gate counts its calls itself.
type metrics struct {
	attempts, refused, tokens, results, stale *prometheus.CounterVec
	wait, run                                 *prometheus.HistogramVec
	inflight                                  *prometheus.GaugeVec
}

func newMetrics(r prometheus.Registerer) metrics {
	counter := func(name, help string, labels ...string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Name: name, Help: help}, labels)
	}
	histogram := func(name, help string) *prometheus.HistogramVec {
		return prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: name, Help: help, Buckets: prometheus.ExponentialBuckets(0.005, 2.5, 14),
		}, []string{"pool"})
	}
	m := metrics{
		attempts: counter("sluice_attempts_total", "Upstream calls that ended, by outcome.", "pool", "outcome"),
		refused:  counter("sluice_upstream_429_total", "Calls that the provider refused for pace.", "pool"),
		tokens:   counter("sluice_tokens_total", "Tokens as the provider counted them.", "pool", "kind"),
		results:  counter("sluice_jobs_ended_total", "Jobs that a worker ended, by status.", "pool", "status"),
		stale:    counter("sluice_tasks_stale_total", "Tasks acknowledged unrun: their job was final or handed to somebody else.", "pool"),
		wait:     histogram("sluice_job_wait_seconds", "From acceptance, or not_before, to the start of an attempt."),
		run:      histogram("sluice_attempt_seconds", "From the start of an attempt to its end."),
		inflight: prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "sluice_calls_in_flight", Help: "Upstream calls under way in this process."}, []string{"pool"}),
	}
	if r != nil {
		r.MustRegister(m.attempts, m.refused, m.tokens, m.results, m.stale, m.wait, m.run, m.inflight)
	}
	return m
}

// touch makes a pool's series begin at zero.
func (m metrics) touch(pool string) {
	m.attempts.WithLabelValues(pool, "succeeded")
	m.refused.WithLabelValues(pool)
	for _, kind := range []string{"input", "output", "cache_read"} {
		m.tokens.WithLabelValues(pool, kind)
	}
	for _, status := range []string{"succeeded", "failed"} {
		m.results.WithLabelValues(pool, status)
	}
	m.stale.WithLabelValues(pool)
	m.inflight.WithLabelValues(pool).Set(0)
}
