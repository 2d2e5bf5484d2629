package pool

import (
	"context"
	"math"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/sluicehq/sluice/tasks"
)

// Metrics returns the gauges of what waits and runs, and of how right forecasts were, read at each scrape. Every
// process reports the same, since it is Redis's; take the maximum, not the sum.
func (s *Set) Metrics() prometheus.Collector { return backlogMetrics{s} }

type backlogMetrics struct{ set *Set }

var (
	backlogDesc = prometheus.NewDesc("sluice_backlog_jobs", "Jobs that wait, of all tenants, those for later too.", []string{"pool"}, nil)
	lanesDesc   = prometheus.NewDesc("sluice_backlog_tenants", "Tenants with jobs that wait and may run now, by lane: high, normal or low.", []string{"pool", "lane"}, nil)
	runningDesc = prometheus.NewDesc("sluice_running_jobs", "Jobs whose call is under way, in all processes; without those in batches of the provider.", []string{"pool"}, nil)
	samplesDesc = prometheus.NewDesc("sluice_forecast_samples", "Forecasts of a start, told in the last hour for 1 s ahead or more, whose job has started.", []string{"pool"}, nil)
	censorDesc  = prometheus.NewDesc("sluice_forecast_censored", "Forecasts of the last hour whose job was canceled, expired or deleted before it started.", []string{"pool"}, nil)
	ratioDesc   = prometheus.NewDesc("sluice_forecast_ratio", "Actual wait over the forecast of it, of the last hour: quantiles 0.1, 0.5 and 0.9.", []string{"pool", "quantile"}, nil)
	coverDesc   = prometheus.NewDesc("sluice_forecast_coverage", "Share of the jobs that started by when nine of ten were told to; of the last hour.", []string{"pool"}, nil)
	allowedDesc = prometheus.NewDesc("sluice_allowance_used_ratio", "Share of the pool's allowance used of late, 0 to 1, by dimension: requests, input_tokens, output_tokens or concurrency.", []string{"pool", "dimension"}, nil)
	attendDesc  = prometheus.NewDesc("sluice_pool_attended", "1 while a worker takes the pool's jobs, 0 when none has said so for 5 s.", []string{"pool"}, nil)
	bundledDesc = prometheus.NewDesc("sluice_bundled_jobs", "Jobs that are in batches of the provider or are gathered for one, about, in all processes.", []string{"pool"}, nil)
	wantedDesc  = prometheus.NewDesc("sluice_workers_wanted", "Worker processes that the pool's pace now needs, each taken to hold 256 calls; at least 1.", []string{"pool"}, nil)
	oldestDesc  = prometheus.NewDesc("sluice_backlog_oldest_seconds", "Age of the oldest job that waits and may run now; 0 when there is none.", []string{"pool"}, nil)
)

// Describe lists the metrics.
func (backlogMetrics) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{backlogDesc, lanesDesc, runningDesc, oldestDesc, allowedDesc, attendDesc, wantedDesc, bundledDesc, samplesDesc, censorDesc, ratioDesc, coverDesc, tenantSecondsDesc, tenantLagDesc, jainDesc} {
		ch <- d
	}
}

// Collect reads them; a Redis that is away leaves them out.
func (m backlogMetrics) Collect(ch chan<- prometheus.Metric) {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	list, err := m.set.Status(ctx)
	if err != nil {
		return
	}
	for _, p := range list {
		gauge := func(d *prometheus.Desc, v float64) {
			ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, p.Name)
		}
		gauge(backlogDesc, float64(p.Queued))
		gauge(runningDesc, float64(max(0, p.Running-p.Bundled)))
		gauge(bundledDesc, float64(p.Bundled))
		oldest := 0.0
		if !p.OldestQueuedAt.IsZero() && p.Queued > 0 {
			oldest = m.set.now().Sub(p.OldestQueuedAt).Seconds()
		}
		gauge(oldestDesc, oldest)
		for _, a := range p.Allowance {
			ch <- prometheus.MustNewConstMetric(allowedDesc, prometheus.GaugeValue, a.Used, p.Name, string(a.Dimension))
		}
		if v, err := m.set.look(ctx, p.Name, viewFresh); err == nil { // what Status has just read
			attended := 1.0
			if v.alone {
				attended = 0
			}
			gauge(attendDesc, attended)
			gauge(wantedDesc, float64(v.workersWanted()))
			for lane, of := range v.load.Lanes {
				ch <- prometheus.MustNewConstMetric(lanesDesc, prometheus.GaugeValue, float64(of.Tenants), p.Name, string(lane))
			}
		}
		m.collectShares(ctx, p.Name, ch)
		e := p.Estimates
		gauge(samplesDesc, float64(e.Samples))
		gauge(censorDesc, float64(e.Censored))
		if e.Samples == 0 {
			continue
		}
		gauge(coverDesc, e.Coverage)
		for quantile, v := range map[string]float64{"0.1": e.P10, "0.5": e.P50, "0.9": e.P90} {
			ch <- prometheus.MustNewConstMetric(ratioDesc, prometheus.GaugeValue, v, p.Name, quantile)
		}
	}
}

// workerCalls is how many calls at once a worker process is taken to hold.
const workerCalls = 256

// workersWanted is how many processes hold the calls that the pace now has under way: while
// jobs wait, as many as start while one lasts, and never fewer than run already. One is there
// for webhooks and probes, whatever waits.
func (v view) workersWanted() int {
	calls := float64(v.load.Calls())
	if v.load.Queued > 0 && !v.load.OldestQueuedAt.IsZero() && !v.pause.Paused {
		calls = max(calls, min(v.gate.CallsPerSecond*v.gate.Latency.Seconds(), calls+float64(v.load.Queued)))
	}
	return max(1, int(math.Ceil(calls/workerCalls)))
}

// Standings returns the metrics of the accounts of pools that have several. All but the calls are Redis's.
func (s *Set) Standings() prometheus.Collector { return accountMetrics{s} }

type accountMetrics struct{ set *Set }

var (
	accountPausedDesc = prometheus.NewDesc("sluice_account_paused", "1 while an account of a pool that has several takes no calls, 0 otherwise.", []string{"pool", "account"}, nil)
	accountMergedDesc = prometheus.NewDesc("sluice_account_merged", "1 while an account has the allowance of another of its organisation, found out by their answers, 0 otherwise.", []string{"pool", "account"}, nil)
	accountUsedDesc   = prometheus.NewDesc("sluice_account_allowance_used_ratio", "Share of the account's allowance used of late, by all who share it, 0 to 1, by dimension.", []string{"pool", "account", "dimension"}, nil)
	accountCallsDesc  = prometheus.NewDesc("sluice_account_calls_total", "Calls of jobs that this process has made of an account of a pool that has several.", []string{"pool", "account"}, nil)
)

// Describe lists the metrics.
func (accountMetrics) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{accountPausedDesc, accountMergedDesc, accountUsedDesc, accountCallsDesc} {
		ch <- d
	}
}

// Collect reads them; a Redis that is away leaves them out.
func (m accountMetrics) Collect(ch chan<- prometheus.Metric) {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	for _, p := range m.set.members {
		for _, a := range p.Accounts {
			if a.all == nil {
				continue // the pool's own metrics are its account's
			}
			one, err := a.stands(ctx, m.set.now())
			if err != nil {
				continue
			}
			gauge := func(d *prometheus.Desc, on bool) {
				v := 0.0
				if on {
					v = 1
				}
				ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, p.Name, a.Name)
			}
			gauge(accountPausedDesc, one.State == tasks.PoolPaused)
			gauge(accountMergedDesc, one.SharedWith != "")
			for _, u := range one.Allowance {
				ch <- prometheus.MustNewConstMetric(accountUsedDesc, prometheus.GaugeValue, u.Used, p.Name, a.Name, string(u.Dimension))
			}
			calls, _, _ := a.Health.Used()
			ch <- prometheus.MustNewConstMetric(accountCallsDesc, prometheus.CounterValue, float64(calls), p.Name, a.Name)
		}
	}
}

// Cut returns a gauge for each pool of whether this process is cut off from its
// provider. Take the sum over the processes.
func Cut(healths map[string]*Health) prometheus.Collector { return cutMetric(healths) }

type cutMetric map[string]*Health

var cutDesc = prometheus.NewDesc("sluice_provider_unreachable", "1 while this process cannot reach the pool's provider and others can: it takes none of its jobs.", []string{"pool"}, nil)

// Describe names the metric.
func (cutMetric) Describe(ch chan<- *prometheus.Desc) { ch <- cutDesc }

// Collect reads it.
func (m cutMetric) Collect(ch chan<- prometheus.Metric) {
	for name, h := range m {
		cut := 0.0
		if h.Away() != "" {
			cut = 1
		}
		ch <- prometheus.MustNewConstMetric(cutDesc, prometheus.GaugeValue, cut, name)
	}
}
