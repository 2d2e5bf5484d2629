package main

import (
	"context"
	"log/slog"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/sluicehq/sluice/cmd/sluice/config"
	"github.com/sluicehq/sluice/tasks"
	"github.com/sluicehq/sluice/tasks/queue"
	"github.com/sluicehq/sluice/tasks/store"
)

// fallback sends jobs to the other models that they name when their own pool
// is paused. Whoever answers works by the gate and breaker of its own pool, and
// the job says which model it was. A job goes forward in its list only.
type fallback struct {
	cfg    *config.Config
	store  *store.Store
	feeder *queue.Feeder
	pools  *pools
	log    *slog.Logger
	moved  *prometheus.CounterVec
}

const (
	divertEvery = time.Second
	divertPage  = 200  // jobs in one move
	divertMost  = 4000 // looked at in a pool each time
)

func newFallback(cfg *config.Config, s *store.Store, f *queue.Feeder, p *pools, log *slog.Logger, reg prometheus.Registerer) *fallback {
	fb := &fallback{cfg: cfg, store: s, feeder: f, pools: p, log: log, moved: prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "sluice_jobs_diverted_total", Help: "Jobs that this process sent to a fallback model, by the pool that they left.",
	}, []string{"pool"})}
	reg.MustRegister(fb.moved)
	for _, p := range cfg.Pools {
		fb.moved.WithLabelValues(p.Name)
	}
	return fb
}

// Exhausted is the way of a job whose attempts are used up.
func (f *fallback) Exhausted(ctx context.Context, j tasks.Job) (tasks.Detour, bool) {
	d, ok := f.next(ctx, j, true)
	if ok {
		f.moved.WithLabelValues(j.Pool).Inc()
	}
	return d, ok
}

// next finds the next model of a job's list whose pool takes calls. The
// provider's own body can only be sent to a provider of the same dialect.
func (f *fallback) next(ctx context.Context, j tasks.Job, samePool bool) (tasks.Detour, bool) {
	for i := j.Passed; i < len(j.Fallback); i++ {
		pool, ok := f.cfg.Pool(j.Fallback[i])
		if !ok || pool == j.Pool && !samePool {
			continue
		}
		if j.Request.Kind == tasks.Raw {
			from, _ := f.cfg.ProviderOf(j.Pool)
			to, _ := f.cfg.ProviderOf(pool)
			if from.Dialect != to.Dialect {
				continue
			}
		}
		if state, err := f.pools.breakers[pool].State(ctx); err != nil || state.Paused {
			continue
		}
		return tasks.Detour{Pool: pool, Passed: i + 1, Left: len(j.Fallback) - i - 1}, true
	}
	return tasks.Detour{}, false
}

// paused reports whether a pool is paused, as far as is known.
func (f *fallback) paused(ctx context.Context, pool string) bool {
	b := f.pools.breakers[pool]
	if b == nil {
		return false
	}
	state, err := b.State(ctx)
	return err == nil && state.Paused
}

// one sends a job that was just accepted on its way at once when its pool is
// paused. What it cannot do, Run does within a second.
func (f *fallback) one(ctx context.Context, j tasks.Job) (moved bool) {
	if len(j.Fallback) == 0 || !f.paused(ctx, j.Pool) {
		return false
	}
	d, ok := f.next(ctx, j, false)
	if !ok {
		return false
	}
	return f.move(ctx, j.Pool, map[string]tasks.Detour{j.ID: d}) == 1
}

// Run moves the waiting jobs of paused pools until ctx ends. Any process may do
// so, several at once.
func (f *fallback) Run(ctx context.Context) error {
	tick := time.NewTicker(divertEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		for _, p := range f.cfg.Pools {
			if f.paused(ctx, p.Name) {
				f.empty(ctx, p.Name)
			}
		}
	}
}

// empty moves what can be moved out of a pool.
func (f *fallback) empty(ctx context.Context, pool string) {
	for offset, seen := 0, 0; seen < divertMost; {
		jobs, err := f.store.Divertible(ctx, pool, offset, divertPage)
		if err != nil {
			if ctx.Err() == nil {
				f.log.Warn("jobs wait for their fallback", "pool", pool, "error", err)
			}
			return
		}
		if len(jobs) == 0 {
			return
		}
		detours := map[string]tasks.Detour{}
		for _, j := range jobs {
			if d, ok := f.next(ctx, j, false); ok {
				detours[j.ID] = d
			}
		}
		moved := f.move(ctx, pool, detours)
		offset, seen = offset+len(jobs)-moved, seen+len(jobs)
	}
}

func (f *fallback) move(ctx context.Context, pool string, detours map[string]tasks.Detour) int {
	ids, tickets, err := f.store.Divert(ctx, pool, detours)
	if err != nil {
		if ctx.Err() == nil {
			f.log.Warn("jobs wait for their fallback", "pool", pool, "error", err)
		}
		return 0
	}
	f.moved.WithLabelValues(pool).Add(float64(len(ids)))
	if len(tickets) > 0 {
		if err := f.feeder.Hand(context.WithoutCancel(ctx), tickets); err != nil {
			f.log.Warn("jobs were not handed to the queue yet", "error", err)
		}
	}
	return len(ids)
}

// adopt gives a job the list of its pool when it has none of its own. A caller
// who wants no other model sends an empty one.
func (f *fallback) adopt(j *tasks.Job) {
	if j.Fallback != nil {
		return
	}
	for _, p := range f.cfg.Pools {
		if p.Name == j.Pool {
			for _, model := range p.FallbackModels {
				if model != j.Model {
					j.Fallback = append(j.Fallback, model)
				}
			}
		}
	}
}
