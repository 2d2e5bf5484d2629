package worker

import (
	"slices"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/sluicehq/sluice/tasks"
)

// metrics are the worker's own; the gate counts its calls itself.
type metrics struct {
	attempts, refused, tokens, results, failures, answers, stale, unknown, ofTenant, bundles *prometheus.CounterVec
	wait, run                                                                                *prometheus.HistogramVec
	inflight                                                                                 *prometheus.GaugeVec
	roster                                                                                   *tasks.Roster
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
		failures: counter("sluice_jobs_failed_total", "Jobs that a worker ended as failed, by the code of their error.", "pool", "code"),
		answers:  counter("sluice_answers_total", "Answers of jobs that succeeded, by how they ended; a provider's own word counts as other.", "pool", "finish"),
		stale:    counter("sluice_tasks_stale_total", "Tasks acknowledged unrun: their job was final or handed to somebody else.", "pool"),
		unknown:  counter("sluice_ends_unknown_total", "Ends of attempts whose job Redis does not know: it has lost data, or the job was canceled and deleted.", "pool"),
		ofTenant: counter("sluice_tenant_tokens_total", "Tokens as the provider counted them, by tenant (the first 100 of a process, the rest as (others)).", "tenant", "kind"),
		bundles:  counter("sluice_bundles_total", "Bundles for batches of the provider that this process was done with, by outcome: read, late, refused, unknown or empty.", "pool", "outcome"),
		roster:   new(tasks.Roster),
		wait:     histogram("sluice_job_wait_seconds", "From acceptance, or not_before, to the start of an attempt."),
		run:      histogram("sluice_attempt_seconds", "From the start of an attempt to its end."),
		inflight: prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "sluice_calls_in_flight", Help: "Upstream calls under way in this process."}, []string{"pool"}),
	}
	if r != nil {
		r.MustRegister(m.attempts, m.refused, m.tokens, m.results, m.failures, m.ofTenant, m.answers, m.stale, m.unknown, m.bundles, m.wait, m.run, m.inflight)
	}
	return m
}

// otherFinish stands for all words of providers: a label has few values.
const otherFinish tasks.Finish = "other"

// answered counts an answer by how it ended.
func (m metrics) answered(pool string, f tasks.Finish) {
	if !slices.Contains(tasks.Finishes, f) {
		f = otherFinish
	}
	m.answers.WithLabelValues(pool, string(f)).Inc()
}

// Ended counts an end of a job that was recorded late, from a disk; its call was
// counted when it ended.
func (w *Worker) Ended(t tasks.Ticket, e tasks.Ending) { w.m.ended(t.Pool, e) }

// ended counts the end of a job.
func (m metrics) ended(pool string, e tasks.Ending) {
	if !e.Status.Final() {
		return
	}
	m.results.WithLabelValues(pool, string(e.Status)).Inc()
	if e.Status == tasks.StatusFailed && e.Error != nil {
		m.failures.WithLabelValues(pool, string(e.Error.Code)).Inc()
	}
	if e.Status == tasks.StatusSucceeded {
		m.answered(pool, e.Finish)
	}
}

// used counts the tokens of a call, of its pool and of its tenant.
func (m metrics) used(pool, tenant string, u tasks.Usage) {
	tenant = m.roster.Label(tenant)
	for kind, n := range map[string]int64{"input": u.InputTokens + u.CacheCreationInputTokens, "output": u.OutputTokens, "cache_read": u.CacheReadInputTokens} {
		m.tokens.WithLabelValues(pool, kind).Add(float64(n))
		m.ofTenant.WithLabelValues(tenant, kind).Add(float64(n))
	}
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
	for _, code := range []tasks.ErrorCode{tasks.UpstreamRejected, tasks.AttemptsExhausted, tasks.StreamBroken, tasks.ResultTooLarge} {
		m.failures.WithLabelValues(pool, string(code))
	}
	for _, finish := range append(slices.Clone(tasks.Finishes), otherFinish) {
		m.answers.WithLabelValues(pool, string(finish))
	}
	m.stale.WithLabelValues(pool)
	m.unknown.WithLabelValues(pool)
	m.inflight.WithLabelValues(pool).Set(0)
}
