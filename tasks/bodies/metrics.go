package bodies

import (
	"errors"
	"io/fs"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

type metrics struct {
	calls         *prometheus.CounterVec
	bytes         *prometheus.CounterVec
	took          *prometheus.HistogramVec
	orphans, left prometheus.Counter
	up            prometheus.Gauge
}

func newMetrics(r prometheus.Registerer) *metrics {
	m := &metrics{
		calls: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "sluice_bodies_operations_total", Help: "Operations on the store of bodies (put, open, delete), by outcome: done, missing (no such body) or failed.",
		}, []string{"operation", "outcome"}),
		bytes: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "sluice_bodies_bytes_total", Help: "Bytes of bodies that were put, and of those that were opened and read to their end.",
		}, []string{"operation"}),
		took: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "sluice_bodies_operation_seconds", Help: "How long operations on the store of bodies took.", Buckets: []float64{.001, .005, .025, .1, .5, 2, 10},
		}, []string{"operation"}),
		orphans: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "sluice_bodies_orphans_total", Help: "Bodies that no record referred to and that this process removed after a day.",
		}),
		left: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "sluice_bodies_left_total", Help: "Bodies that were to be removed and were not; a sweep removes them after a day.",
		}),
		up: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "sluice_bodies_up", Help: "1 when a small object was put into the store of bodies, read and removed at the last trial.",
		}),
	}
	for _, operation := range []string{"put", "open", "delete"} {
		m.took.WithLabelValues(operation)
		for _, outcome := range []string{"done", "missing", "failed"} {
			m.calls.WithLabelValues(operation, outcome)
		}
	}
	if r != nil {
		r.MustRegister(m.calls, m.bytes, m.took, m.orphans, m.left, m.up)
	}
	return m
}

// watch counts an operation on n bodies; size is that of what it puts.
func (m *metrics) watch(operation string, n int, size int64, do func() error) error {
	begun := time.Now()
	err := do()
	took, all := time.Since(begun).Seconds(), m.took.WithLabelValues(operation)
	for range n {
		all.Observe(took)
	}
	outcome := "done"
	switch {
	case err == nil:
		m.bytes.WithLabelValues(operation).Add(float64(size))
	case errors.Is(err, fs.ErrNotExist):
		outcome = "missing"
	default:
		outcome = "failed"
	}
	m.calls.WithLabelValues(operation, outcome).Add(float64(n))
	return err
}
