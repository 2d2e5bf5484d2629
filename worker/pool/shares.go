package pool

import (
	"context"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/sluicehq/sluice/tasks"
)

// sharesFresh is how old what is told of a pool's tenants may be: it is read of all of them.
const sharesFresh = 2 * time.Second

// shared is how tenants share a pool, and when that was read.
type shared struct {
	at     time.Time
	shares tasks.Shares
}

// Shares is how the allowance of a pool is shared among tenants, as it was at most
// two seconds ago. API, console, shell and metrics all tell this. An unknown pool is tasks.ErrNotFound.
func (s *Set) Shares(ctx context.Context, pool string) (tasks.Shares, error) {
	if _, err := s.named(pool); err != nil {
		return tasks.Shares{}, err
	}
	now := s.now()
	s.mu.Lock()
	k, ok := s.shares[pool]
	s.mu.Unlock()
	if age := now.Sub(k.at); ok && age >= 0 && age < sharesFresh {
		return k.shares, nil
	}
	got, err := s.record.Shares(ctx, pool, now)
	if err != nil {
		return got, err
	}
	s.mu.Lock()
	s.shares[pool] = shared{now, got}
	s.mu.Unlock()
	return got, nil
}

// labelsMost is how many tenants of a pool are told by name in metrics: those served most in the
// last hour. The others are one, whose label no tenant can have.
const (
	labelsMost  = 20
	labelOthers = "_others"
)

var (
	tenantSecondsDesc = prometheus.NewDesc("sluice_tenant_allowance_seconds", "Seconds of the pool's allowance that the tenant was served in the last minute, in the dimension that binds: the 20 tenants served most in the last hour, and the others as _others.", []string{"pool", "tenant"}, nil)
	tenantLagDesc     = prometheus.NewDesc("sluice_tenant_lag_seconds", "Seconds of the pool's allowance that the tenant is behind the mean of those with a backlog, by weight; below 0 it is ahead. Of the 20 tenants served most in the last hour.", []string{"pool", "tenant"}, nil)
	jainDesc          = prometheus.NewDesc("sluice_fairness_index", "Jain's index of what the tenants that had a backlog throughout were served by weight, 1 being all the same; window is minute or hour.", []string{"pool", "window"}, nil)
)

// collectShares tells how tenants share a pool.
func (m backlogMetrics) collectShares(ctx context.Context, pool string, ch chan<- prometheus.Metric) {
	s, err := m.set.Shares(ctx, pool)
	if err != nil {
		return
	}
	gauge := func(d *prometheus.Desc, v float64, label string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, pool, label)
	}
	rest, others := s.OthersMinute, s.Others > 0
	for i, t := range s.Tenants {
		if i < labelsMost {
			gauge(tenantSecondsDesc, t.Minute, t.Tenant)
			gauge(tenantLagDesc, t.Lag, t.Tenant)
			continue
		}
		rest, others = rest+t.Minute, true
	}
	if others {
		gauge(tenantSecondsDesc, rest, labelOthers)
	}
	for window, index := range map[string]float64{"minute": s.Minute, "hour": s.Hour} {
		if index > 0 {
			gauge(jainDesc, index, window)
		}
	}
}
