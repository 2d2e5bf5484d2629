package egress

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// State is how a way does.
type State struct {
	Name    string           // as in Way
	Used    bool             // it is the one in use
	Left    bool             // it fails, and is tried sparsely
	Success float64          // the share of its last calls that went well, 0 to 1; 1 where none was made
	Latency time.Duration    // until a connection by it stands; 0: not known
	Calls   map[string]int64 // since the process began, by result: answered, failed (no status came), broken (off, after its status)
}

// State returns how each way does, in the order in which they are listed.
func (w *Ways) State() []State {
	w.mu.Lock()
	defer w.mu.Unlock()
	out := make([]State, len(w.list))
	for i, k := range w.list {
		out[i] = State{Name: k.Name, Used: k == w.used, Left: k.left, Success: 1, Latency: k.latency, Calls: map[string]int64{}}
		for r := range results {
			out[i].Calls[r.String()] = k.calls[r]
		}
		if n := k.good + k.bad; n > 0 {
			out[i].Success = k.good / n
		}
	}
	return out
}

// Changes returns how often another way came into use.
func (w *Ways) Changes() int64 {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.changes
}

// Metrics returns the metrics of the ways of this process, by provider.
func Metrics(by map[string]*Ways) prometheus.Collector { return metrics(by) }

type metrics map[string]*Ways

var (
	callsDesc   = prometheus.NewDesc("sluice_egress_calls_total", "Calls by a way to a provider, by result: answered (with any status), failed (without one), broken (off after it, counted as answered too).", []string{"provider", "way", "result"}, nil)
	usedDesc    = prometheus.NewDesc("sluice_egress_used", "1 for the way to a provider that this process uses.", []string{"provider", "way"}, nil)
	openDesc    = prometheus.NewDesc("sluice_egress_open", "0 for a way to a provider that fails and is only tried, else 1.", []string{"provider", "way"}, nil)
	successDesc = prometheus.NewDesc("sluice_egress_success_ratio", "Share of a way's last twenty calls or so that were answered.", []string{"provider", "way"}, nil)
	latencyDesc = prometheus.NewDesc("sluice_egress_connect_seconds", "Time until a connection by a way stands, smoothed; absent until one has.", []string{"provider", "way"}, nil)
	changesDesc = prometheus.NewDesc("sluice_egress_changes_total", "How often another way to a provider came into use; at most once a minute.", []string{"provider"}, nil)
)

// Describe lists the metrics.
func (metrics) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{callsDesc, usedDesc, openDesc, successDesc, latencyDesc, changesDesc} {
		ch <- d
	}
}

// Collect reads them.
func (m metrics) Collect(ch chan<- prometheus.Metric) {
	truth := map[bool]float64{true: 1}
	for provider, ways := range m {
		ch <- prometheus.MustNewConstMetric(changesDesc, prometheus.CounterValue, float64(ways.Changes()), provider)
		for _, s := range ways.State() {
			gauge := func(d *prometheus.Desc, v float64) {
				ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, provider, s.Name)
			}
			gauge(usedDesc, truth[s.Used])
			gauge(openDesc, truth[!s.Left])
			gauge(successDesc, s.Success)
			if s.Latency > 0 {
				gauge(latencyDesc, s.Latency.Seconds())
			}
			for result, n := range s.Calls {
				ch <- prometheus.MustNewConstMetric(callsDesc, prometheus.CounterValue, float64(n), provider, s.Name, result)
			}
		}
	}
}
