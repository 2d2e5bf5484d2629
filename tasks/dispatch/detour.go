package dispatch

import (
	"context"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/sluicehq/sluice/tasks"
)

const (
	divertEvery = time.Second
	divertPage  = 200  // jobs in one move
	divertMost  = 4000 // looked at in a pool each time
)

func newMoved(r prometheus.Registerer, pools []string) *prometheus.CounterVec {
	moved := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "sluice_jobs_diverted_total", Help: "Jobs that this process sent to a fallback model, by the pool that they left.",
	}, []string{"pool"})
	if r != nil {
		r.MustRegister(moved)
	}
	for _, p := range pools {
		moved.WithLabelValues(p)
	}
	return moved
}

// Exhausted is the way of a job whose attempts are used up; false: it has none.
func (j *Jobs) Exhausted(ctx context.Context, job tasks.Job) (tasks.Detour, bool) {
	d, ok := j.placer.Next(ctx, job, true)
	if ok {
		j.moved.WithLabelValues(job.Pool).Inc()
	}
	return d, ok
}

// divertOne sends a job that was just accepted on its way at once when its pool
// is paused, and reports whether it did. What it cannot do, Run does within a second.
func (j *Jobs) divertOne(ctx context.Context, job tasks.Job) bool {
	if len(job.Fallback) == 0 || !j.placer.Paused(ctx, job.Pool) {
		return false
	}
	d, ok := j.placer.Next(ctx, job, false)
	return ok && j.move(ctx, job.Pool, map[string]tasks.Detour{job.ID: d}) == 1
}

// divert moves the waiting jobs of paused pools.
func (j *Jobs) divert(ctx context.Context) {
	for _, pool := range j.placer.Names() {
		if j.placer.Paused(ctx, pool) {
			j.empty(ctx, pool)
		}
	}
}

// empty moves what can be moved out of a pool.
func (j *Jobs) empty(ctx context.Context, pool string) {
	for offset, seen := 0, 0; seen < divertMost; {
		jobs, err := j.Divertible(ctx, pool, offset, divertPage)
		if err != nil {
			if ctx.Err() == nil {
				j.log.Warn("jobs wait for their fallback", "pool", pool, "error", err)
			}
			return
		}
		if len(jobs) == 0 {
			return
		}
		detours := map[string]tasks.Detour{}
		for _, job := range jobs {
			if d, ok := j.placer.Next(ctx, job, false); ok {
				detours[job.ID] = d
			}
		}
		moved := j.move(ctx, pool, detours)
		offset, seen = offset+len(jobs)-moved, seen+len(jobs)
	}
}

func (j *Jobs) move(ctx context.Context, pool string, detours map[string]tasks.Detour) int {
	ids, tickets, err := j.Divert(ctx, pool, detours)
	if err != nil {
		if ctx.Err() == nil {
			j.log.Warn("jobs wait for their fallback", "pool", pool, "error", err)
		}
		return 0
	}
	j.moved.WithLabelValues(pool).Add(float64(len(ids)))
	j.hand(ctx, tickets)
	return len(ids)
}
