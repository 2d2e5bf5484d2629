package desk

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"github.com/sluicehq/sluice/api/fault"
	"github.com/sluicehq/sluice/tasks"
)

// Hold counts a request that is held open, until release is called. A tenant
// that holds too many already is refused, and may come back in a moment.
func (d *Desk) Hold(tenant string) (release func(), err error) {
	leave, err := d.c.Caps.Stream(tasks.TenantOf(tenant))
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

// Watch is somebody who follows a job. It is for one goroutine.
type Watch struct {
	// Changed signals changes, as far as there are notices; nil: there are none.
	Changed <-chan struct{}
	// Reread is how often the job has to be looked at besides.
	Reread time.Duration

	desk       *Desk
	tenant, id string
	object     *looked
	stop       func()
}

// Watch follows a job until Stop is called.
func (d *Desk) Watch(ctx context.Context, tenant, id string) *Watch {
	w := &Watch{desk: d, tenant: tenant, id: id}
	var leave, stop func()
	w.object, leave = d.looks.join(tenant, id)
	w.Changed, stop, w.Reread = subscribe(ctx, d.c, id, untold, d.c.Notices.Watch)
	w.stop = func() { stop(); leave() }
	return w
}

// Job reads the job together with all others who wait for it: as it is now, or as it
// was within the last second.
func (w *Watch) Job(ctx context.Context, now bool) (tasks.Job, error) {
	return see(ctx, &w.desk.looks, w.object, asOf(now), func(ctx context.Context) (tasks.Job, error) {
		return w.desk.c.Jobs.Job(ctx, w.tenant, w.id)
	})
}

// Stop ends following.
func (w *Watch) Stop() { w.stop() }

// asOf is when a reading has to have begun, for who was told of a change or only looks
// in case that was lost.
func asOf(now bool) time.Time {
	if now {
		return time.Now()
	}
	return time.Now().Add(-untold)
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

// AwaitJob returns a job as it is when it has ended or wait has passed. It looks at
// once, when the job may have ended, and every RereadEvery, should a notice have been
// lost, or each second where there are none; all who wait for a job look together.
// It ends early, without error, when the desk drains and when the tenant holds too
// many requests already: a poll then answers with what it has.
func (d *Desk) AwaitJob(ctx context.Context, tenant, id string, wait time.Duration) (tasks.Job, error) {
	a := awaited[tasks.Job]{
		tenant: tenant, id: id, wait: wait,
		read: func(ctx context.Context) (tasks.Job, error) { return d.c.Jobs.Job(ctx, tenant, id) },
		over: func(j *tasks.Job) bool { return j.Status.Final() },
		told: ownJob(tenant),
	}
	return await(ctx, d, a)
}

// AwaitBatch does the same for a batch.
func (d *Desk) AwaitBatch(ctx context.Context, tenant, id string, wait time.Duration) (tasks.Batch, error) {
	return await(ctx, d, awaited[tasks.Batch]{
		tenant: tenant, id: id, wait: wait,
		read: func(ctx context.Context) (tasks.Batch, error) { return d.c.Batches.Batch(ctx, tenant, id) },
		over: func(b *tasks.Batch) bool { return b.Status == tasks.BatchEnded },
		told: func(*tasks.Job) *tasks.Batch { return nil },
	})
}

// awaited is what somebody waits for.
type awaited[T any] struct {
	tenant, id string
	wait       time.Duration
	read       func(context.Context) (T, error)
	over       func(*T) bool            // there is nothing to wait for any more
	told       func(last *tasks.Job) *T // by the notice of the end; nil: it has to be read
	known      *T                       // as it is; nil: it has to be read first
	revoked    <-chan struct{}          // closed when who waits may no longer; nil: never
}

// ownJob takes a job of the tenant's from the notice of its end.
func ownJob(tenant string) func(last *tasks.Job) *tasks.Job {
	return func(last *tasks.Job) *tasks.Job {
		if last == nil || !tasks.Owns(tenant, last.Tenant, last.User) {
			return nil
		}
		job := *last
		return &job
	}
}

// await waits for the end of what a says.
func await[T any](ctx context.Context, d *Desk, a awaited[T]) (got T, err error) {
	object, leave := d.looks.join(a.tenant, a.id)
	defer leave()
	w := &wait[T]{desk: d, a: a, object: object}
	// What is already over needs no subscription.
	if a.known != nil {
		w.got = *a.known
		w.over = a.over(&w.got)
	} else {
		w.look(ctx, asOf(a.wait <= 0)) // who waits looks again, when it is subscribed
	}
	if w.over || w.err != nil || a.wait <= 0 {
		return w.got, w.err
	}
	release, full := d.Hold(a.tenant)
	if full != nil {
		return w.got, nil
	}
	defer release()
	w.run(ctx)
	return w.got, w.err
}

// wait is one who waits for an object, and what it has seen of it.
type wait[T any] struct {
	desk   *Desk
	a      awaited[T]
	object *looked

	got  T
	err  error
	over bool
}

// look looks at the object as it is since then, and reports whether that ends the wait.
func (w *wait[T]) look(ctx context.Context, since time.Time) bool {
	if w.got, w.err = see(ctx, &w.desk.looks, w.object, since, w.a.read); w.err == nil {
		w.over = w.a.over(&w.got)
	}
	return w.over || w.err != nil
}

// run waits until the object's end, or that of the time.
func (w *wait[T]) run(ctx context.Context) {
	end := time.NewTimer(w.a.wait)
	defer end.Stop()
	ended, stop, every := subscribe(ctx, w.desk.c, w.a.id, min(w.a.wait, untold), w.desk.c.Notices.WatchEnd)
	defer stop()
	reread := time.NewTicker(every)
	defer reread.Stop()
	// Again before waiting: it may have changed before the subscription stood.
	var began time.Time // when it began to wait: the look before that is not for its end
	for now := true; !w.look(ctx, asOf(now)); {
		if began.IsZero() {
			began = time.Now()
		}
		select {
		case last := <-ended:
			if t := w.a.told(last); t != nil {
				w.got, w.over = *t, true
				return
			}
			now = true
		case <-reread.C:
			now = false
		case <-end.C:
			// It may have begun meanwhile. Those who end together look together.
			since := asOf(false)
			if since.Before(began) {
				since = began
			}
			w.look(ctx, since)
			return
		case <-w.desk.draining:
			return
		case <-w.a.revoked:
			w.err = ErrRevoked
			return
		case <-ctx.Done():
			w.err = ctx.Err()
			return
		}
	}
}

// ErrRevoked ends the wait of a caller whose token was revoked meanwhile.
var ErrRevoked = fault.Fail(fault.Unauthorized, "The token was revoked while the request waited.")

// Result waits for the result of a job that was handed in, for as long as wait,
// and finds out what the job waits for if it is not there then. The job is safe
// by now: it fails only with the error of ctx, and with ErrRevoked.
func (d *Desk) Result(ctx context.Context, c Caller, h *Handed, wait time.Duration) error {
	if wait > 0 {
		if err := d.awaitResult(ctx, c, h, wait); err != nil {
			if errors.Is(err, ErrRevoked) {
				return err
			}
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

// stands reports whether what a job waits for ends by somebody's word, and so not soon.
func stands(why tasks.WaitReason) bool { return why == tasks.WaitPaused || why == tasks.WaitReview }

// awaitResult waits until the job is final. It gives up at once when the job's
// pool is paused or its tenant under review, because then it will not be soon.
func (d *Desk) awaitResult(ctx context.Context, c Caller, h *Handed, wait time.Duration) error {
	told := h.Waiting
	job, err := await(ctx, d, awaited[tasks.Job]{
		tenant: h.Job.Tenant, id: h.Job.ID, wait: wait, known: &h.Job, revoked: c.Revoked,
		read: func(ctx context.Context) (tasks.Job, error) {
			told = nil
			return d.c.Jobs.Job(ctx, h.Job.Tenant, h.Job.ID)
		},
		over: func(j *tasks.Job) bool {
			switch {
			case j.Status.Final():
				return true
			case j.Status == tasks.StatusRunning:
				return false
			case told != nil:
				return stands(told.For)
			}
			w, err := d.c.Pools.Waiting(ctx, *j)
			return err == nil && stands(w.For)
		},
		told: ownJob(h.Job.Tenant),
	})
	if job.ID != "" {
		h.Job = job
	}
	return err
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
	estimate, err := d.c.Pools.Estimate(ctx, job.Pool, job.Tenant, job.Priority)
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
		if estimate, err := d.c.Pools.Estimate(ctx, pool, tenant, tasks.Normal); err == nil && (quickest < 0 || estimate < quickest) {
			quickest = estimate
		}
	}
	return max(quickest, 0)
}
