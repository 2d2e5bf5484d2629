package simulate

import (
	"context"
	"fmt"
	"math"
	"time"

	"github.com/sluicehq/sluice/api/caps"
	"github.com/sluicehq/sluice/api/desk"
	"github.com/sluicehq/sluice/api/fault"
	"github.com/sluicehq/sluice/api/quota"
	"github.com/sluicehq/sluice/tasks"
	"github.com/sluicehq/sluice/tasks/store"
)

// comer is somebody who asks for a call, again where it was refused.
type comer struct {
	Arrival
	n     int // of the trace
	tries int // that were refused
}

// mostTries is how often somebody comes who is refused.
const mostTries = 10

// front is the door through which calls come: the desk as it is, and what it has refused.
type front struct {
	desk    *desk.Desk
	ids     int
	next    []tasks.Ticket // that the last submit has handed out
	made    store.Created  // by the last submit
	tried   int            // who was refused the first time
	back    int            // how often somebody came again
	had     int            // of these, was taken in
	gaveUp  int
	expired int
	told    []float64   // s that somebody was told to stay away
	seconds map[int]int // by second: how many were told to come then
}

// opens makes the desk.
func (w *world) opens(clock func() time.Time) error {
	w.seconds = map[int]int{}
	q, err := quota.New(quota.Config{Redis: w.Redis, Now: clock, Limits: func(string) quota.Limits { return quota.Limits{QueuedJobs: w.Queued} }})
	if err != nil {
		return err
	}
	room, err := caps.New(caps.Config{})
	if err != nil {
		return err
	}
	w.desk, err = desk.New(desk.Config{
		Jobs: &clerk{w: w}, Pools: w.pools, Quota: q, Returns: q.Returns(), Caps: room, Now: clock,
		// An id of the seed's: two of one millisecond are in order.
		NewID: func(prefix string) string {
			w.ids++
			return fmt.Sprintf("%s%016d", store.NewIDAt(prefix, w.now)[:len(prefix)+11], w.ids)
		},
	})
	return err
}

// clerk is what the desk asks of the record.
type clerk struct {
	desk.Jobs
	w *world
}

// Submit is part of [desk.Submitter].
func (c *clerk) Submit(ctx context.Context, s tasks.Submission) (tasks.Accepted, error) {
	made, next, err := c.w.store.Create(ctx, s)
	if err != nil {
		return tasks.Accepted{}, err
	}
	c.w.made, c.w.next = made[0], next
	return tasks.Accepted{Job: made[0].Job}, made[0].Err
}

// arrive submits a call, and tells its caller when it starts, or has it come again.
func (w *world) arrive(ctx context.Context, c *comer) error {
	if c.tries > 0 {
		w.back++
	}
	j := &job{Arrival: c.Arrival, came: w.now, at: len(w.waits)}
	j.guess = int64(max(1, float64(c.Input)*max(0.3, 1+0.1*w.random.NormFloat64())))
	if most := w.Limits.InputTokensPerMinute; most > 0 {
		j.guess = min(j.guess, most)
	}
	if w.Deadline > 0 {
		j.until = w.now.Add(w.Deadline)
	}
	_, err := w.desk.Submit(ctx, desk.Caller{Tenant: c.Tenant}, tasks.Submission{Job: tasks.Job{
		Model: "m", Priority: tasks.Normal, Deadline: j.until,
		Request: tasks.Request{Kind: tasks.Text, Body: fmt.Appendf(nil, `"%d"`, c.n), MaxTokens: int(max(1, c.Output)), InputTokens: int(j.guess)},
	}})
	if err != nil {
		return w.refuses(c, err)
	}
	if c.tries > 0 {
		w.had++
	}
	j.id = w.made.Job.ID
	w.jobs[j.id] = j
	w.waits = append(w.waits, j)
	next := w.next
	waiting, err := w.pools.WaitingAt(ctx, w.made.Job, w.made.Place, w.made.Tenants)
	if err != nil {
		return err
	}
	w.tell(j, waiting)
	return w.hand(ctx, next)
}

// refuses has somebody come again when it was told to.
func (w *world) refuses(c *comer, err error) error {
	_, f := fault.Classify(err)
	if f.RetryAfter <= 0 || f.Code != fault.DeadlineUnreachable && f.Code != fault.QuotaExceeded {
		return err
	}
	after := time.Duration(math.Ceil(f.RetryAfter.Seconds())) * time.Second
	w.told = append(w.told, after.Seconds())
	w.seconds[int(w.now.Add(f.RetryAfter).Unix())]++
	if c.tries++; c.tries == 1 {
		w.tried++
	}
	if c.tries == mostTries {
		w.gaveUp++
		w.open--
		return nil
	}
	w.at(w.now.Add(after+time.Duration(w.random.Float64()*float64(200*time.Millisecond))), func(ctx context.Context) error { return w.arrive(ctx, c) })
	return nil
}

// expires has a job end that has not started by its deadline.
func (w *world) expires(id string) {
	if j := w.jobs[id]; j != nil && j.started.IsZero() {
		w.expired++
		w.open--
		w.leaves(j)
	}
}

// leaves takes a job from among those that wait.
func (w *world) leaves(j *job) {
	last := w.waits[len(w.waits)-1]
	w.waits[j.at], last.at = last, j.at
	w.waits = w.waits[:len(w.waits)-1]
}
