package pause

import (
	"errors"
	"fmt"

	"github.com/prometheus/client_golang/prometheus"
)

// counters are shared by all pools of a registry; the pool is a label.
type counters struct {
	paused, state, open    *prometheus.GaugeVec
	until                  *prometheus.GaugeVec
	opened, probes, errors *prometheus.CounterVec
}

func newCounters(reg prometheus.Registerer, pool string) (*counters, error) {
	gauge := func(name, help string, labels ...string) *prometheus.GaugeVec {
		return prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: name, Help: help}, labels)
	}
	counter := func(name, help string, labels ...string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Name: name, Help: help}, labels)
	}
	c := &counters{
		paused: gauge("sluice_pool_paused", "1 while the pool is paused by this side: operator, breaker or memory.", "pool", "by"),
		until:  gauge("sluice_pool_paused_until_seconds", "When the operator's pause of the pool ends by itself, as Unix time; 0: there is none that does.", "pool"),
		state:  gauge("sluice_breaker_state", "1 for the state that the pool's breaker is in: closed, open, half_open or slow_start.", "pool", "state"),
		open:   gauge("sluice_breaker_open", "1 while the pool's breaker is open for this cause: overload, misfit, spend or unauthorized.", "pool", "cause"),
		opened: counter("sluice_breaker_opened_total", "How often this process opened the pool's breaker, by cause.", "pool", "cause"),
		probes: counter("sluice_breaker_probes_total", "Probes that this process made of the pool's provider, by result.", "pool", "result"),
		errors: counter("sluice_breaker_errors_total", "Steps of the breaker that did not succeed, by step: record, enforce, probe or ask.", "pool", "step"),
	}
	if reg != nil {
		if err := errors.Join(
			register(reg, &c.paused), register(reg, &c.until), register(reg, &c.state), register(reg, &c.open),
			register(reg, &c.opened), register(reg, &c.probes), register(reg, &c.errors),
		); err != nil {
			return nil, fmt.Errorf("register metrics: %w", err)
		}
	}
	for _, step := range []string{"record", "enforce", "probe", "ask"} {
		c.errors.WithLabelValues(pool, step)
	}
	for _, cause := range causes {
		c.opened.WithLabelValues(pool, string(cause))
	}
	return c, nil
}

// register registers *c, or replaces it by the one that another pool registered.
func register[C prometheus.Collector](reg prometheus.Registerer, c *C) error {
	err := reg.Register(*c)
	var already prometheus.AlreadyRegisteredError
	if !errors.As(err, &already) {
		return err
	}
	existing, ok := already.ExistingCollector.(C)
	if !ok {
		return err
	}
	*c = existing
	return nil
}

// show sets the gauges of a pool.
func (c *counters) show(pool string, s snapshot) {
	bit := func(on bool) float64 { return float64(flag(on)) }
	c.paused.WithLabelValues(pool, ByOperator).Set(bit(s.operator()))
	c.paused.WithLabelValues(pool, ByBreaker).Set(bit(s.broken()))
	c.paused.WithLabelValues(pool, ByMemory).Set(bit(s.crowded()))
	c.until.WithLabelValues(pool).Set(float64(s.int("op_until")) / 1000)
	for _, n := range []Name{Closed, Open, HalfOpen, SlowStart} {
		c.state.WithLabelValues(pool, string(n)).Set(bit(s.name() == n))
	}
	for _, cause := range causes {
		c.open.WithLabelValues(pool, string(cause)).Set(bit(s.broken() && s.h["cause"] == string(cause)))
	}
}
