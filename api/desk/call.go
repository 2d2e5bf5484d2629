package desk

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"time"

	"github.com/sluicehq/sluice/api/fault"
	"github.com/sluicehq/sluice/tasks"
)

// Calls is what the desk asks of the store about callers who wait on their own
// connection.
type Calls interface {
	// OpenCall notes a caller who repeats itself before its job is submitted, and says which
	// job it waits for. Others are noted in the move that makes their job.
	OpenCall(ctx context.Context, c tasks.Call) (tasks.Joined, error)
	// HoldCall notes what became of a caller.
	HoldCall(ctx context.Context, c tasks.Call, became tasks.CallerState) error
	// Cancel ends a job at once; tasks.ErrFinal when it has ended already.
	Cancel(ctx context.Context, tenant, id string) (tasks.Job, error)
	// Events returns the events of a job's last call that has brought any, from a byte
	// offset on; tasks.ErrNotFound when there is no such job.
	Events(ctx context.Context, id string, offset int) (tasks.Events, error)
}

// Asked is a request in a provider's own form, whose caller waits for the answer.
type Asked struct {
	Dialect string    // "anthropic" or "openai": only pools of it answer
	Job     tasks.Job // as its form has decoded it
	// Key is the Idempotency-Key, and Fingerprint a digest of what it stands for.
	Key, Fingerprint string
	// Digest is the same for requests that ask the same; "": none is taken for the
	// repeat of another that has no key.
	Digest   string
	Repeat   bool          // the caller says that it sent the request before
	Patience time.Duration // for how long it waits for the answer
	// Taken is told once the request's body is of no more use; nil: nobody wants to know.
	Taken func()
}

// Answered is a call whose job has ended.
type Answered struct {
	Job tasks.Job

	desk *Desk
	call tasks.Call
	sent tasks.CallerState // what becomes of the caller once it has the answer

	revoked <-chan struct{} // as in Caller
}

// Call hands a job in and waits for its end, or waits for that of the call that this
// one repeats: there is one job for both. Unlike a submit's, the job ends when its
// caller goes away, does not come back in time and it still waits.
//
// It fails with a *fault.Fault of the kind StillWaiting when the caller's patience ends
// before the job, and of SpendLimited or KeyRefused when the job's pool is paused for
// what no wait cures: that job will not run. The caller is to be told by [Answered.Sent]
// whether the answer has left.
func (d *Desk) Call(ctx context.Context, c Caller, q Asked) (*Answered, error) {
	a, err := d.call(ctx, c, q)
	if err != nil {
		return nil, err
	}
	if err := d.waitCall(ctx, a, q.Patience); err != nil {
		return nil, err
	}
	return a, nil
}

// call makes or finds the job of a call.
func (d *Desk) call(ctx context.Context, c Caller, q Asked) (*Answered, error) {
	if q.Taken != nil {
		defer q.Taken()
	}
	if err := c.may(&q.Job); err != nil {
		return nil, err
	}
	if err := d.placeIn(q.Dialect, &q.Job); err != nil {
		return nil, err
	}
	if err := d.within(&c, d.in(q.Dialect), &q.Job); err != nil {
		return nil, err
	}
	a, again, err := d.openCall(ctx, c, q)
	if err != nil {
		return nil, err
	}
	if again {
		// The job of the call before was canceled: this one is another.
		q.Repeat = false
		if a, _, err = d.openCall(ctx, c, q); err != nil {
			return nil, err
		}
	}
	a.revoked = c.Revoked
	return a, nil
}

// Begin hands a job in for which its caller does not wait, or finds that of the call
// that this one repeats.
func (d *Desk) Begin(ctx context.Context, c Caller, q Asked) (tasks.Job, error) {
	a, err := d.call(ctx, c, q)
	if err != nil {
		return tasks.Job{}, err
	}
	a.became(ctx, tasks.CallerServed)
	return a.Job, nil
}

// in finds the pool that serves a model in a dialect.
func (d *Desk) in(dialect string) func(model string) (pool string, ok bool) {
	return func(model string) (string, bool) { return d.c.Pools.MatchIn(dialect, model) }
}

// placeIn finds the job's pool among those of one dialect. A model that another one
// serves is told where.
func (d *Desk) placeIn(dialect string, job *tasks.Job) error {
	err := place(d.in(dialect), d.c.Pools.Served, job)
	if err == nil {
		return nil
	}
	for other, base := range map[string]string{"anthropic": "/anthropic", "openai": "/openai/v1"} {
		if _, ok := d.c.Pools.MatchIn(other, job.Model); ok && other != dialect {
			return fault.Fail(fault.ModelNotFound, "The model is served in another provider's form: use its SDK with the base URL of this server that ends in %s.", base)
		}
	}
	return err
}

// openCall finds or makes the job of a call. again says that it has found one that
// was canceled, which answers nobody.
func (d *Desk) openCall(ctx context.Context, c Caller, q Asked) (a *Answered, again bool, err error) {
	a = &Answered{desk: d, sent: tasks.CallerServed, call: tasks.Call{Tenant: c.Tenant, ID: d.c.NewID("job"), Digest: q.Digest, Repeat: q.Repeat}}
	if q.Key != "" {
		a.call.Digest = "" // the key tells repeats
	}
	made := tasks.Submission{Named: true, Key: q.Key, Fingerprint: q.Fingerprint, Caller: &a.call}
	switch {
	case a.call.Digest != "" && q.Repeat:
		made.Caller = nil // is noted here
		joined, again, err := d.join(ctx, c, a)
		if joined || again || err != nil {
			return a, again, err
		}
		// Its submit was never made, or it was deleted: this one is made under its id.
	default:
		if err := d.InTime(q.Job.Deadline, q.Key, q.Repeat); err != nil {
			return nil, false, err
		}
	}
	made.Job, made.Job.ID = q.Job, a.call.ID
	made.Job.Priority = cmp.Or(q.Job.Priority, d.highest(c.Tenant))
	h, err := d.submit(ctx, c, made)
	if err != nil {
		if made.Caller == nil && !errors.Is(err, tasks.ErrUnknown) {
			a.became(ctx, tasks.CallerRefused)
		}
		return nil, false, err
	}
	a.Job, a.call.ID = h.Job, h.Job.ID
	a.Job.Request.Body = nil
	if h.Replayed {
		a.became(ctx, tasks.CallerWaits) // for the first one's job
		err = d.found(ctx, c, a)
	}
	return a, false, err
}

// join has a repeat have the job of the call before it: joined says that there is one,
// again that it was canceled, and that this one is to have another.
func (d *Desk) join(ctx context.Context, c Caller, a *Answered) (joined, again bool, err error) {
	prior, err := d.c.Calls.OpenCall(ctx, a.call)
	if err != nil {
		return false, false, err
	}
	if a.call.ID = prior.ID; prior.Again {
		a.sent = tasks.CallerDone
	}
	if !prior.Prior {
		return false, false, nil
	}
	a.Job, err = d.c.Jobs.Job(ctx, c.Tenant, prior.ID)
	switch {
	case err == nil && a.Job.Status == tasks.StatusCanceled:
		a.became(ctx, tasks.CallerDone)
		return false, true, nil
	case err == nil:
		return true, false, d.found(ctx, c, a)
	case errors.Is(err, tasks.ErrNotFound):
		return false, false, nil
	}
	return false, false, err
}

// InTime refuses a deadline that has passed, as the sluice-deadline header has it; the
// zero time is none. What is repeated, as its key or its caller says, may have been in time.
func (d *Desk) InTime(deadline time.Time, key string, repeat bool) error {
	if key != "" || repeat || deadline.IsZero() || deadline.After(d.c.Now()) {
		return nil
	}
	return fault.Fail(fault.ImpossibleTime, "The time in the sluice-deadline header is in the past.")
}

// found counts a call that repeats another, whose job it has. One whose answer broke off
// before its caller's eyes is tried again: this is who wants it.
func (d *Desk) found(ctx context.Context, c Caller, a *Answered) error {
	d.joined.Inc()
	if e := a.Job.Error; a.Job.Status == tasks.StatusFailed && e != nil && e.Code == tasks.StreamBroken {
		job, _, err := d.Retry(ctx, c, a.Job.ID)
		if errors.Is(err, tasks.ErrConflict) { // another repeat was before this one
			job, err = d.c.Jobs.Job(ctx, c.Tenant, a.Job.ID)
		}
		if err != nil {
			return err
		}
		a.Job = job
	}
	if a.Job.Status.Final() {
		d.kept.Inc()
	}
	return nil
}

// became notes what became of the caller, also of one who has gone. A failure costs no
// more than that: who does not say that it waits counts as gone.
func (a *Answered) became(ctx context.Context, state tasks.CallerState) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Second)
	defer cancel()
	if err := a.desk.c.Calls.HoldCall(ctx, a.call, state); err != nil {
		a.desk.c.Log.LogAttrs(ctx, slog.LevelWarn, "note what became of a caller", slog.String("job", a.call.ID), slog.Any("error", err))
	}
}

// Sent notes whether the answer has left for the caller. One that has not is given to
// whoever repeats the call.
func (a *Answered) Sent(ctx context.Context, left bool) {
	if left {
		a.became(ctx, a.sent)
		return
	}
	a.desk.abandoned.Inc()
	a.became(ctx, tasks.CallerLeft)
}

// waitCall waits until the job of a call has ended.
func (d *Desk) waitCall(ctx context.Context, a *Answered, patience time.Duration) error {
	begun := time.Now()
	stop := a.renew(ctx)
	job, barred, err := d.awaitCall(ctx, a, patience)
	stop()
	if job.ID != "" {
		a.Job = job
	}
	switch {
	case err != nil:
		a.Sent(ctx, false)
		return err
	case a.Job.Status.Final():
		return nil
	case barred != "":
		return d.endCall(ctx, a, barred)
	}
	a.became(ctx, tasks.CallerLeft)
	select {
	case <-d.draining:
	default:
		if time.Since(begun) < patience {
			f := fault.Fail(fault.TooManyStreams, "The tenant has too many requests that wait already: send the same request again in a moment; its job is kept.")
			f.RetryAfter = time.Second
			return a.of(f)
		}
	}
	return a.of(fault.Fail(fault.StillWaiting, "The answer is not there yet. Send the same request again: it waits for the same job."))
}

// of says in the header of a fault's answer which job the call has.
func (a *Answered) of(f *fault.Fault) error {
	f.Header = map[string][]string{"Sluice-Job-Id": {a.Job.ID}}
	return f
}

// awaitCall is AwaitJob that also ends when no wait can help.
func (d *Desk) awaitCall(ctx context.Context, a *Answered, patience time.Duration) (job tasks.Job, barred tasks.Outcome, err error) {
	job, err = await(ctx, d, awaited[tasks.Job]{
		tenant: a.call.Tenant, id: a.call.ID, wait: patience, known: &a.Job, revoked: a.revoked,
		read: func(ctx context.Context) (tasks.Job, error) { return d.c.Jobs.Job(ctx, a.call.Tenant, a.call.ID) },
		over: func(j *tasks.Job) bool {
			barred = ""
			if !j.Status.Final() && j.Status != tasks.StatusRunning {
				barred = d.c.Pools.Barred(ctx, j.Pool)
			}
			return j.Status.Final() || barred != ""
		},
		told: ownJob(a.call.Tenant),
	})
	return job, barred, err
}

// endCall ends a call whose pool is paused for what no wait cures. Its job will not
// run: nobody would take its answer.
func (d *Desk) endCall(ctx context.Context, a *Answered, barred tasks.Outcome) error {
	job, err := d.c.Calls.Cancel(ctx, a.call.Tenant, a.call.ID)
	if errors.Is(err, tasks.ErrFinal) { // it was just answered
		a.Job, err = d.c.Jobs.Job(ctx, a.call.Tenant, a.call.ID)
		return err
	}
	if err != nil {
		return err
	}
	a.Job = job
	a.became(ctx, tasks.CallerRefused)
	if barred == tasks.SpendLimited {
		return a.of(fault.Fail(fault.SpendLimited, "The provider's spending limit is reached: its account has to be given more, or the operator of this server to resume the pool, before calls pass again."))
	}
	return a.of(fault.Fail(fault.KeyRefused, "The provider refuses the key that this server has for it: its operator has to replace that. The token of this request is not at fault."))
}

// callRenewed is how often it is said that a caller still waits.
const callRenewed = tasks.CallerLease / 3

// renew says again and again that the caller waits, until stop is called.
func (a *Answered) renew(ctx context.Context) (stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		tick := time.NewTicker(callRenewed)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
				a.became(ctx, tasks.CallerWaits)
			}
		}
	}()
	return func() { cancel(); <-done }
}
