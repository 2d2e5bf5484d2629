package dispatch

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/sluicehq/sluice/tasks"
	"github.com/sluicehq/sluice/tasks/gather"
	"github.com/sluicehq/sluice/tasks/queue"
	"github.com/sluicehq/sluice/tasks/store"
)

// Jobs is the record of jobs. A move of one makes room for others, which are
// handed to Asynq within the call. A job that could not be handed over is accepted all the
// same; a sweep finds it. Its methods may be called by many goroutines.
type Jobs struct {
	*store.Store
	feeder *queue.Feeder
	placer Placer
	log    *slog.Logger
	shut   func() error // why nothing is taken in now
	group  *gather.Group[tasks.Submission, store.Created]
	large  *lane
	moved  *prometheus.CounterVec

	// idle are the pools whose last job was handed out by its own submit; nil where
	// records and tasks may lie on different servers.
	idle *sync.Map
}

// At most 64 submits that come at once, with 1 MiB of bodies, are stored by one script,
// and at most two such scripts are under way. Larger bodies than largeBody have a lane
// of their own.
const (
	submitsTogether = 64
	bytesTogether   = 1 << 20
	submitFlights   = 2
	submitTimeout   = 10 * time.Second
)

// NewJobs returns Jobs.
func NewJobs(c Config) *Jobs {
	j := &Jobs{Store: c.Store, feeder: c.Feeder, placer: c.Placer, shut: c.Shut, log: c.Log, moved: newMoved(c.Metrics, c.Placer.Names())}
	if j.log == nil {
		j.log = slog.New(slog.DiscardHandler)
	}
	if j.shut == nil {
		j.shut = func() error { return nil }
	}
	if c.OneServer {
		j.idle = new(sync.Map)
	}
	j.large = newLane(largeRate)
	size := func(s tasks.Submission) int { return len(s.Job.Request.Body) }
	j.group = gather.NewSized(submitsTogether, submitFlights, bytesTogether, size, func(ctx context.Context, subs []tasks.Submission) ([]store.Created, error) {
		return j.create(ctx, subs)
	})
	return j
}

// store stores a submission, beside others unless its body is large.
func (j *Jobs) store(ctx context.Context, s tasks.Submission) (made store.Created, err error) {
	if len(s.Job.Request.Body) <= largeBody {
		return j.group.Do(ctx, s)
	}
	err = j.large.Do(ctx, s.Job.Tenant, len(s.Job.Request.Body), func() error {
		list, err := j.create(context.WithoutCancel(ctx), []tasks.Submission{s})
		if err == nil {
			made = list[0]
		}
		return err
	})
	return made, err
}

// callsEvery is the pause between looks for callers that do not come back.
const callsEvery = 5 * time.Second

// Run moves jobs of paused pools to their fallbacks, and ends jobs that wait for callers
// who do not come back, until ctx ends. Any number of processes may.
func (j *Jobs) Run(ctx context.Context) error {
	divert := time.NewTicker(divertEvery)
	defer divert.Stop()
	calls := time.NewTicker(callsEvery)
	defer calls.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-divert.C:
			j.divert(ctx)
		case <-calls.C:
			j.endCalls(ctx)
		}
	}
}

// endCalls ends the jobs that wait though nobody waits for them any more.
func (j *Jobs) endCalls(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, callsEvery)
	defer cancel()
	ended, err := j.SweepCalls(ctx)
	if err != nil {
		if ctx.Err() == nil {
			j.log.Warn("calls whose callers have gone were not looked for", "error", err)
		}
		return
	}
	for i := range ended {
		j.log.Info("job ended", append(tasks.EndedAttrs(&ended[i], tasks.StatusCanceled, tasks.CanceledByCaller), "why", "its caller went away")...)
	}
}

// create stores jobs and hands over what there is room for. A job that comes
// alone to an idle pool is enqueued in the round trip that stores it, with the
// fence that it then gets. Where that guess is wrong, the task is void: whoever
// takes it asks the record first.
func (j *Jobs) create(ctx context.Context, subs []tasks.Submission) ([]store.Created, error) {
	ctx, cancel := context.WithTimeout(ctx, submitTimeout)
	defer cancel()
	var made []store.Created
	var next []tasks.Ticket
	var err error
	var guess []tasks.Ticket
	job := &subs[0].Job
	if len(subs) == 1 && job.NotBefore.IsZero() && j.idle != nil {
		if idle, _ := j.idle.Load(job.Pool); idle == true {
			guess = []tasks.Ticket{{ID: job.ID, Fence: 1, Pool: job.Pool}}
		}
	}
	missed := j.feeder.HandBehind(ctx, func(ctx context.Context) { made, next, err = j.Create(ctx, subs...) }, guess)
	if err != nil {
		return nil, err
	}
	if j.idle != nil {
		j.idle.Store(job.Pool, slices.Contains(next, tasks.Ticket{ID: job.ID, Fence: 1, Pool: job.Pool}))
	}
	if missed == nil && len(guess) > 0 {
		next = slices.DeleteFunc(next, func(t tasks.Ticket) bool { return t == guess[0] })
	}
	j.hand(ctx, next)
	return made, nil
}

// StageBatch writes lines of a batch.
func (j *Jobs) StageBatch(ctx context.Context, id string, lines []tasks.Job, l tasks.Limits) error {
	if err := j.shut(); err != nil {
		j.Drop(lines)
		return err
	}
	for i := range lines {
		j.placer.Adopt(&lines[i])
	}
	return j.Store.StageBatch(ctx, id, lines, l)
}

func (j *Jobs) hand(ctx context.Context, list []tasks.Ticket) {
	if len(list) == 0 {
		return
	}
	// The record is durable: the caller's going away must not stop the rest.
	if err := j.feeder.Hand(context.WithoutCancel(ctx), list); err != nil {
		j.log.Warn("jobs were not handed to the queue yet", "error", err)
	}
}

// Submit stores a job and hands it over.
func (j *Jobs) Submit(ctx context.Context, s tasks.Submission) (tasks.Accepted, error) {
	if err := j.shut(); err != nil {
		return tasks.Accepted{}, err
	}
	j.placer.Adopt(&s.Job)
	// What is large and can lie outside of Redis is put there first: it holds up nobody else's submit.
	if err := j.Unload(ctx, &s.Job); err != nil {
		return tasks.Accepted{}, err
	}
	made, err := j.store(ctx, s)
	if err != nil {
		return tasks.Accepted{}, err
	}
	if made.Err != nil {
		return tasks.Accepted{}, made.Err
	}
	a := made.Accepted
	if !a.Replayed && j.divertOne(context.WithoutCancel(ctx), a.Job) {
		// The job is stored. If it cannot be read again, the answer is a little older.
		if moved, err := j.Job(ctx, s.Job.Tenant, a.Job.ID); err == nil {
			a.Job = moved
		}
	} else if !a.Replayed {
		if w, err := j.placer.WaitingAt(ctx, a.Job, made.Place, made.Tenants); err == nil {
			a.Waiting = &w
		}
	}
	if a.Replayed {
		// The answer is the job as it stands now, unless the first answer was kept;
		// no job at all when it was deleted since.
		a.Job, err = j.Job(ctx, s.Job.Tenant, a.Job.ID)
		if errors.Is(err, tasks.ErrNotFound) {
			a.Job, err = tasks.Job{}, nil
		}
	}
	return a, err
}

// Retry queues a finished job again, where a new one would be taken in.
func (j *Jobs) Retry(ctx context.Context, tenant, id string, l tasks.Limits) (tasks.Job, error) {
	if err := j.shut(); err != nil {
		return tasks.Job{}, err
	}
	job, tickets, err := j.Requeue(ctx, tenant, id, l)
	if err == nil {
		j.hand(ctx, tickets)
	}
	return job, err
}

// Cancel ends a job, and logs it as a worker logs the end of one that it ran.
func (j *Jobs) Cancel(ctx context.Context, tenant, id string) (tasks.Job, error) {
	job, err := j.Store.Cancel(ctx, tenant, id)
	if err == nil {
		j.log.Info("job ended", tasks.EndedAttrs(&job, tasks.StatusCanceled, tasks.CanceledByCaller)...)
	}
	return job, err
}

// CancelBatch ends a batch's jobs, with one line for all that are canceled now.
func (j *Jobs) CancelBatch(ctx context.Context, tenant, id string) (tasks.Batch, error) {
	b, err := j.Store.CancelBatch(ctx, tenant, id)
	if err == nil {
		j.log.Info("batch canceled", "batch", id, "tenant", b.Tenant, "canceled", b.Counts.Canceled)
	}
	return b, err
}

// RetryAll queues again what of a selection ended without a result, where new jobs would
// be taken in. See [store.Store.RequeueAll].
func (j *Jobs) RetryAll(ctx context.Context, sel tasks.Selection, l tasks.Limits) (tasks.Moved, error) {
	if err := j.shut(); err != nil {
		return tasks.Moved{}, err
	}
	return j.RequeueAll(ctx, sel, l, func(next []tasks.Ticket) { j.hand(ctx, next) })
}

// CancelAll ends what of a selection has not ended, with one line in the log for all.
func (j *Jobs) CancelAll(ctx context.Context, sel tasks.Selection) (tasks.Moved, error) {
	m, err := j.Store.CancelAll(ctx, sel)
	if m.Jobs > 0 {
		j.log.Info("jobs canceled", "tenant", tasks.TenantOf(sel.Tenant), "canceled", m.Jobs)
	}
	return m, err
}

// CommitBatch accepts a batch. Its lines go into the backlogs after the answer.
func (j *Jobs) CommitBatch(ctx context.Context, id string, c tasks.BatchCommit) (tasks.Batch, error) {
	b, err := j.Store.CommitBatch(ctx, id, c)
	if err == nil {
		j.feeder.Begin(id)
	}
	return b, err
}
