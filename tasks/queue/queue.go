// Package queue carries claimed jobs through Asynq: it names the queues, turns
// a ticket into a task and back, keeps each pool's shallow queue filled, and
// lets an idle worker wait for work instead of polling for it.
//
// A task holds a job's id and the fence it was handed out at, nothing else. It
// may come twice, late, or after the job is final: whoever takes it asks the
// record first. The package knows nothing of the record; the Backlog interface
// is all it asks of it.
package queue

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"time"

	"github.com/hibiken/asynq"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/redis/go-redis/v9"

	"github.com/sluicehq/sluice/tasks"
	"github.com/sluicehq/sluice/tasks/pipeline"
)

// TypePrompt is the Asynq type of a prompt task.
const TypePrompt = "prompt"

// Asynq's own tries are for infrastructure only, and stand well above what a
// broken Redis can use up; attempts are counted in the job's record. Its
// timeout never fires first: calls are bounded by their pool's own.
const (
	maxRetry    = 20
	taskTimeout = 24 * time.Hour
)

type payload struct {
	ID      string `json:"id"`
	Attempt int64  `json:"attempt"`
}

// Name is the Asynq queue that a pool's tasks go through, or the [Deliveries]: named
// like it, with a prefix other than the default before it.
func Name(prefix, pool string) string {
	if prefix == "" || prefix == tasks.DefaultPrefix {
		return pool
	}
	return prefix + ":" + pool
}

// Own reports whether a queue is named as those of a prefix are; the names of pools hold
// no colon.
func Own(prefix, queue string) bool {
	pool, own := strings.CutPrefix(queue, Name(prefix, ""))
	return own && pool != "" && !strings.Contains(pool, ":")
}

// Task returns the Asynq task of a ticket and the options it is enqueued with.
// Its id is the job's id and the fence, so that enqueueing twice is harmless.
func Task(prefix string, t tasks.Ticket) (*asynq.Task, []asynq.Option) {
	b, err := json.Marshal(payload{ID: t.ID, Attempt: t.Fence})
	if err != nil {
		panic(err) // a string and a number
	}
	return asynq.NewTask(TypePrompt, b), []asynq.Option{
		asynq.Queue(Name(prefix, t.Pool)), asynq.TaskID(taskID(t)), asynq.MaxRetry(maxRetry), asynq.Timeout(taskTimeout),
	}
}

func taskID(t tasks.Ticket) string { return fmt.Sprintf("%s:%d", t.ID, t.Fence) }

// ErrNotOurs is a task that another program put into a queue of ours. It is that
// program's: whoever takes it gives it back as failed.
var ErrNotOurs = errors.New("the task is not Sluice's: another program uses this queue of Asynq; a redis.prefix of its own keeps the two apart")

// Ticket reads the ticket of a task of this id in a pool's queue, or returns
// ErrNotOurs.
func Ticket(pool, id string, task *asynq.Task) (tasks.Ticket, error) {
	var p payload
	if task.Type() != TypePrompt || json.Unmarshal(task.Payload(), &p) != nil {
		return tasks.Ticket{}, ErrNotOurs
	}
	t := tasks.Ticket{ID: p.ID, Fence: p.Attempt, Pool: pool}
	if p.ID == "" || id != taskID(t) {
		return tasks.Ticket{}, ErrNotOurs
	}
	return t, nil
}

// Backlog is what a Feeder asks of the record.
type Backlog interface {
	// Sweep closes gaps and claims what there is room for.
	Sweep(ctx context.Context) (tasks.Swept, error)
	// Reissue hands a job out anew whose task is lost or will not run soon.
	Reissue(ctx context.Context, t tasks.Ticket) (tasks.Ticket, bool, error)
	// Unfold puts the next lines of an accepted batch into the backlogs.
	Unfold(ctx context.Context, batch string) (left int64, hand []tasks.Ticket, err error)
	// AbortBatch forgets a batch that was never accepted.
	AbortBatch(ctx context.Context, batch string) error
	// Audit goes a step on with comparing records and counts, and mends them.
	Audit(ctx context.Context) (tasks.Audited, error)
}

// Config says what a Feeder works with.
type Config struct {
	Redis   redis.UniversalClient
	Backlog Backlog
	// Prefix is that of the queues, see [Name]; "" means [tasks.DefaultPrefix].
	Prefix string
	// Kick is told each queue that has been handed tasks and how many, so that an idle
	// worker wakes; nil: workers find out by themselves within half a second.
	Kick func(ctx context.Context, queue string, n int)
	// Tell does the same for other processes: what it adds travels in the round trip
	// that hands tasks to a pool, right behind them. Nil: nothing is added.
	Tell func(p redis.Pipeliner, pool string, n int)
	// Every is the pause between sweeps; 0 means one second.
	Every   time.Duration
	Log     *slog.Logger          // nil: silent
	Metrics prometheus.Registerer // nil: none
	Pools   []string              // whose counts begin at 0
}

// Feeder hands claimed jobs to Asynq. There is no leader: any number of
// processes may run one.
type Feeder struct {
	c         Config
	client    *asynq.Client
	inspector *asynq.Inspector
	begun     chan string // batches whose lines are to be put into the backlogs
	unfolding sync.Map    // those in begun, or being put there
	stale     chan string // batches that are to be forgotten: their writers have gone
	aborting  sync.Map    // those in stale, or being forgotten
	handed    *prometheus.CounterVec
	mended    *prometheus.CounterVec
	lost      *prometheus.CounterVec
}

// NewFeeder returns a Feeder. Whoever started Redis closes it.
func NewFeeder(c Config) *Feeder {
	if c.Every == 0 {
		c.Every = time.Second
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	f := &Feeder{
		c: c, client: asynq.NewClientFromRedisClient(pipeline.Client(c.Redis)), inspector: asynq.NewInspectorFromRedisClient(c.Redis),
		begun: make(chan string, 64), stale: make(chan string, 64),
		handed: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "sluice_released_total", Help: "Jobs handed from the backlog to Asynq.",
		}, []string{"pool"}),
		mended: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "sluice_sweep_mended_total", Help: "Gaps closed by the sweep, by kind.",
		}, []string{"kind"}),
		lost: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "sluice_jobs_lost_total", Help: "Accepted jobs whose record is gone from Redis, by pool; unknown where nobody knows it.",
		}, []string{"pool"}),
	}
	for _, kind := range []string{"worker_lost", "task_lost", "batch_unfolded", "batch_abandoned", "put_back", "batch_ended", "batch_lost", "counts"} {
		f.mended.WithLabelValues(kind)
	}
	for _, pool := range append([]string{unknownPool}, c.Pools...) {
		f.lost.WithLabelValues(pool) // born at 0, so that an increase sees the first loss
	}
	if c.Metrics != nil {
		c.Metrics.MustRegister(f.handed, f.mended, f.lost)
	}
	return f
}

// Hand enqueues tickets, in one round trip, and wakes a worker for each pool
// among them. A ticket that cannot be enqueued is not lost: a sweep looks at it
// within ten seconds.
func (f *Feeder) Hand(ctx context.Context, list []tasks.Ticket) error {
	return f.HandBehind(ctx, nil, list)
}

// HandBehind is Hand in the round trip of first, if that is not nil: a step that
// runs one script on a pipeline.Client of the same Redis. The tickets are enqueued
// right behind that script, whatever its answer.
func (f *Feeder) HandBehind(ctx context.Context, first func(context.Context), list []tasks.Ticket) error {
	if len(list) == 0 {
		if first != nil {
			first(ctx)
		}
		return nil
	}
	pools := map[string]int{}
	for _, t := range list {
		pools[t.Pool]++
	}
	var tell func(redis.Pipeliner)
	if f.c.Tell != nil {
		tell = func(p redis.Pipeliner) {
			for pool, n := range pools {
				f.c.Tell(p, pool, n)
			}
		}
	}
	errs := make([]error, len(list))
	steps := make([]func(context.Context), 0, 1+len(list))
	if first != nil {
		steps = append(steps, first)
	}
	for i, t := range list {
		steps = append(steps, func(ctx context.Context) {
			if errs[i] = f.enqueue(ctx, t); errs[i] == nil {
				f.handed.WithLabelValues(t.Pool).Inc()
			}
		})
	}
	pipeline.Join(ctx, tell, steps...)
	if f.c.Kick != nil {
		for pool, n := range pools {
			f.c.Kick(ctx, pool, n)
		}
	}
	return errors.Join(errs...)
}

func (f *Feeder) enqueue(ctx context.Context, t tasks.Ticket) error {
	task, opts := Task(f.c.Prefix, t)
	// A conflict means that it is there: the id is ours, and the answer to an
	// enqueue may have been lost.
	if _, err := f.client.EnqueueContext(ctx, task, opts...); err != nil && !errors.Is(err, asynq.ErrTaskIDConflict) {
		return fmt.Errorf("enqueue job %s: %w", t.ID, err)
	}
	return nil
}

// Run sweeps until ctx ends: once a second, and when a job falls due. Beside that
// it puts into the backlogs what Begin names, and compares counts with records.
func (f *Feeder) Run(ctx context.Context) error {
	var beside sync.WaitGroup
	defer beside.Wait()
	beside.Go(func() { f.unfold(ctx) })
	beside.Go(func() { f.abort(ctx) })
	beside.Go(func() { f.audit(ctx) })
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-timer.C:
		}
		pause := f.c.Every
		next, err := f.sweep(ctx)
		switch {
		case ctx.Err() != nil:
			return nil
		case err != nil:
			f.c.Log.Warn("sweep", "error", err)
		case next >= 0 && next < pause:
			pause = max(next, time.Millisecond)
		}
		timer.Reset(pause)
	}
}

func (f *Feeder) sweep(ctx context.Context) (time.Duration, error) {
	swept, err := f.c.Backlog.Sweep(ctx)
	if err != nil {
		return -1, err
	}
	if swept.Lost > 0 {
		f.mended.WithLabelValues("worker_lost").Add(float64(swept.Lost))
		f.c.Log.Warn("a worker was lost; its jobs were given back", "jobs", swept.Lost)
	}
	for i := range swept.Expired {
		j := &swept.Expired[i]
		f.c.Log.Info("job ended", tasks.EndedAttrs(j, tasks.StatusExpired, tasks.DeadlineExceeded)...)
	}
	for i := range swept.LostTooOften {
		f.c.Log.Warn("job ended", tasks.EndedAttrs(&swept.LostTooOften[i], tasks.StatusFailed, tasks.WorkerLostTooOften)...)
	}
	errs := []error{f.Hand(ctx, swept.Hand)}
	for _, t := range swept.Look {
		errs = append(errs, f.look(ctx, t))
	}
	// A large batch is a long way to go, and what is due of all tenants waits for a sweep.
	for _, id := range swept.Unfold {
		if f.begin(id) {
			f.mended.WithLabelValues("batch_unfolded").Inc()
		}
	}
	for _, id := range swept.Stale {
		if _, known := f.aborting.LoadOrStore(id, true); known {
			continue
		}
		select {
		case f.stale <- id:
		default: // the next sweep finds it again
			f.aborting.Delete(id)
		}
	}
	return swept.NextDue, errors.Join(errs...)
}

// Begin has Run put the lines of an accepted batch into the backlogs. What Run
// is too busy for, or does not come to, a sweep does within some seconds.
func (f *Feeder) Begin(batch string) { f.begin(batch) }

// begin reports whether Run comes to it, and was not to before.
func (f *Feeder) begin(batch string) bool {
	if _, known := f.unfolding.LoadOrStore(batch, true); known {
		return false
	}
	select {
	case f.begun <- batch:
		return true
	default:
		f.unfolding.Delete(batch)
		return false
	}
}

// unfold puts the lines of accepted batches into the backlogs, some of each batch in
// turn: a small one does not wait for the end of a large one.
func (f *Feeder) unfold(ctx context.Context) {
	var batches []string // each once, see begin
	for {
		if len(batches) == 0 {
			select {
			case <-ctx.Done():
				return
			case batch := <-f.begun:
				batches = append(batches, batch)
			}
		}
		for range len(f.begun) {
			batches = append(batches, <-f.begun)
		}
		batch := batches[0]
		batches = batches[1:]
		begun := time.Now()
		left, hand, err := f.c.Backlog.Unfold(ctx, batch)
		took := time.Since(begun)
		if err == nil {
			err = f.Hand(ctx, hand)
		}
		switch {
		case ctx.Err() != nil:
			return
		case err != nil:
			f.c.Log.Warn("a batch waits for the sweep to go on", "batch", batch, "error", err)
			f.unfolding.Delete(batch)
		case left > 0:
			batches = append(batches, batch)
		default:
			f.unfolding.Delete(batch)
		}
		if len(batches) > 0 {
			tasks.GiveWay(ctx, took)
		}
	}
}

// abort has batches forgotten whose writers have gone.
func (f *Feeder) abort(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case batch := <-f.stale:
			f.mended.WithLabelValues("batch_abandoned").Inc()
			if err := f.c.Backlog.AbortBatch(ctx, batch); err != nil && ctx.Err() == nil {
				f.c.Log.Warn("an abandoned batch waits to be forgotten", "batch", batch, "error", err)
			}
			f.aborting.Delete(batch)
		}
	}
}

// look makes sure that a ticket handed over long ago still has a task that
// will run. One that waits in Asynq's pending list does. One that is active
// although no worker took its job was dequeued by an answer that got lost;
// Asynq would notice in a minute or two. One that Asynq would retry, or has
// archived, is not coming soon either. Those get a new task under a new fence,
// and the old one is void.
func (f *Feeder) look(ctx context.Context, t tasks.Ticket) error {
	info, err := f.inspector.GetTaskInfo(Name(f.c.Prefix, t.Pool), taskID(t))
	switch {
	case errors.Is(err, asynq.ErrQueueNotFound), errors.Is(err, asynq.ErrTaskNotFound):
		f.mended.WithLabelValues("task_lost").Inc()
		return f.Hand(ctx, []tasks.Ticket{t})
	case err != nil:
		return fmt.Errorf("look for the task of job %s: %w", t.ID, err)
	case info.State == asynq.TaskStatePending:
		return nil
	}
	again, ok, err := f.c.Backlog.Reissue(ctx, t)
	if err != nil || !ok {
		return err
	}
	f.mended.WithLabelValues("task_lost").Inc()
	return f.Hand(ctx, []tasks.Ticket{again})
}
