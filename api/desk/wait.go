package desk

import (
	"context"
	"log/slog"
	"time"

	"github.com/sluicehq/sluice/tasks"
)

// Hold counts a request that is held open, until release is called. A tenant
// that holds too many already is refused, and may come back in a moment.
func (d *Desk) Hold(tenant string) (release func(), err error) {
	leave, err := d.c.Caps.Stream(tenant)
	if err != nil {
		return nil, err
	}
	d.held.Inc()
	return func() {
		d.held.Dec()
		leave()
	}, nil
}

// untold is how soon a subscription has to stand, and how often an object is
// looked at of which nobody tells.
const untold = time.Second

// Watch signals changes of a job until stop is called, as far as there are
// notices: it has to be looked at every reread besides.
func (d *Desk) Watch(ctx context.Context, id string) (changed <-chan struct{}, stop func(), reread time.Duration) {
	return subscribe(ctx, d.c, id, untold, d.c.Notices.Watch)
}

// subscribe is a subscription that stands within a time, or none: without notices,
// as when Redis does not permit channels, waiting goes on by looking.
func subscribe[T any](ctx context.Context, c Config, id string, within time.Duration, watch func(context.Context, string) (<-chan T, func(), error)) (told <-chan T, stop func(), reread time.Duration) {
	ctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	told, stop, err := watch(ctx, id)
	if err != nil {
		return nil, func() {}, min(c.RereadEvery, untold)
	}
	return told, stop, c.RereadEvery
}

// Await calls look until it reports done, its error is not nil, or wait has
// passed: at once, when the object may have ended, and every RereadEvery, should
// a notice have been lost, or each second where there are none. Where the notice
// brings the job as it ended, and job is not nil, it is laid down there and there
// is no further look. It ends early, without error, when the desk drains and when
// the tenant holds too many requests already: a poll then answers with what it has.
func (d *Desk) Await(ctx context.Context, tenant, id string, wait time.Duration, job *tasks.Job, look func() (done bool, err error)) error {
	// What is already over needs no subscription.
	done, err := look()
	if done || err != nil || wait <= 0 {
		return err
	}
	release, err := d.Hold(tenant)
	if err != nil {
		return nil
	}
	defer release()

	end := time.NewTimer(wait)
	defer end.Stop()
	ended, stop, every := subscribe(ctx, d.c, id, min(wait, untold), d.c.Notices.WatchEnd)
	defer stop()
	reread := time.NewTicker(every)
	defer reread.Stop()
	for {
		// Again before waiting: it may have changed before the subscription stood.
		if done, err := look(); done || err != nil {
			return err
		}
		select {
		case last := <-ended:
			if lay(job, last, tenant) {
				return nil
			}
		case <-reread.C:
		case <-end.C:
			_, err := look()
			return err
		case <-d.draining:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// lay lays down the job that the notice of its end brought, if it brought one.
func lay(job, last *tasks.Job, tenant string) bool {
	if job == nil || last == nil || last.Tenant != tenant {
		return false
	}
	*job = *last
	return true
}

// Result waits for the result of a job that was handed in, for as long as wait,
// and finds out what the job waits for if it is not there then. The job is safe
// by now: it fails only with the error of ctx.
func (d *Desk) Result(ctx context.Context, c Caller, h *Handed, wait time.Duration) error {
	if wait > 0 {
		if err := d.awaitResult(ctx, h, wait); err != nil {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			d.c.Log.LogAttrs(ctx, slog.LevelWarn, "wait for a result", slog.String("request_id", c.Request), slog.Any("error", err))
		}
	}
	if wait > 0 || h.Waiting == nil {
		h.Waiting = d.Waiting(ctx, &h.Job)
	}
	return nil
}

// awaitResult waits until the job is final. It gives up at once when the job's
// pool is paused, because then it will not be soon.
func (d *Desk) awaitResult(ctx context.Context, h *Handed, wait time.Duration) error {
	job, told, first := &h.Job, h.Waiting, true
	return d.Await(ctx, job.Tenant, job.ID, wait, job, func() (bool, error) {
		if !first {
			latest, err := d.c.Jobs.Job(ctx, job.Tenant, job.ID)
			if err != nil {
				return false, err
			}
			*job, told = latest, nil
		}
		first = false
		if job.Status.Final() {
			return true, nil
		}
		if job.Status == tasks.StatusRunning {
			return false, nil
		}
		if told != nil {
			return told.For == tasks.WaitPaused, nil
		}
		w, err := d.c.Pools.Waiting(ctx, *job)
		return err == nil && w.For == tasks.WaitPaused, nil
	})
}

// Waiting says what a job waits for; nil for nothing, or when it cannot be told.
func (d *Desk) Waiting(ctx context.Context, job *tasks.Job) *tasks.Waiting {
	if job.Status.Final() || job.Status == tasks.StatusRunning {
		return nil
	}
	w, err := d.c.Pools.Waiting(ctx, *job)
	if err != nil {
		return nil
	}
	return &w
}

// Expected is the time until the result of a job is expected; 0 when it cannot be told.
func (d *Desk) Expected(ctx context.Context, job *tasks.Job) time.Duration {
	estimate, err := d.c.Pools.Estimate(ctx, job.Pool, job.Tenant)
	if err != nil {
		return 0
	}
	if !job.NotBefore.IsZero() {
		estimate = max(estimate, job.NotBefore.Sub(d.c.Now()))
	}
	return estimate
}

// Soonest is the time until the quickest of the pools is expected to give the
// tenant a result; 0 when it cannot be told.
func (d *Desk) Soonest(ctx context.Context, tenant string, pools map[string]int) time.Duration {
	quickest := time.Duration(-1)
	for pool := range pools {
		if estimate, err := d.c.Pools.Estimate(ctx, pool, tenant); err == nil && (quickest < 0 || estimate < quickest) {
			quickest = estimate
		}
	}
	return max(quickest, 0)
}
