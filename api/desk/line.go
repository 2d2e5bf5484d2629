package desk

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"io"
	"log/slog"
	"math"
	"math/rand/v2"
	"strings"
	"time"

	"github.com/sluicehq/sluice/api/fault"
	"github.com/sluicehq/sluice/api/quota"
	"github.com/sluicehq/sluice/tasks"
)

// comer is how a submission stands among those of its tenant and pool that were refused and told
// when to come again. They go before it, unless it is one of them and comes in time.
type comer struct {
	quota.Turn
	tenant, pool string
	of           *tasks.Submission
	outlooks     map[string]*tasks.Outlook // by pool, of its lane: one submission is judged by one look
}

// outlook is how the tenant's next jobs in the submission's lane of a pool would fare.
func (d *Desk) outlook(ctx context.Context, t *comer, pool string) (*tasks.Outlook, error) {
	if o := t.outlooks[pool]; o != nil {
		return o, nil
	}
	o, err := d.c.Pools.Outlook(ctx, pool, t.tenant, t.of.Job.Priority)
	if err != nil {
		return nil, err
	}
	if t.outlooks == nil {
		t.outlooks = map[string]*tasks.Outlook{}
	}
	t.outlooks[pool] = &o
	return &o, nil
}

// comer asks how a submission stands. It makes no call while this process has refused nobody of its
// tenant and pool. That it cannot be told is no reason to refuse.
func (d *Desk) comer(ctx context.Context, s *tasks.Submission) *comer {
	t := &comer{tenant: s.Job.Tenant, pool: s.Job.Pool, of: s}
	if d.c.Returns == nil || !d.c.Returns.Formed(t.tenant, t.pool) {
		return t
	}
	got, err := d.c.Returns.Turn(ctx, t.tenant, t.pool, t.who())
	if err != nil {
		d.c.Log.LogAttrs(ctx, slog.LevelWarn, "ask who was refused before", slog.Any("error", err))
		return t
	}
	t.Turn = got
	return t
}

// who stands for a submission when it comes again: its key, the id that its caller gave it, or what
// it asks for. A deadline may be another then.
func (t *comer) who() string {
	h, j := sha256.New(), &t.of.Job
	add := func(text string) {
		_, _ = io.WriteString(h, text)
		_, _ = h.Write([]byte{0})
	}
	if j.User != "" {
		add("user")
		add(j.User)
	}
	switch {
	case t.of.Key != "":
		add("key")
		add(t.of.Key)
	case t.of.Named:
		add("id")
		add(j.ID)
	default:
		add(string(j.Request.Kind))
		add(j.Model)
		add(j.CustomID)
		_, _ = h.Write(j.Request.Body)
	}
	return base64.RawStdEncoding.EncodeToString(h.Sum(nil)[:9])
}

// before is how many of so many places are kept for others. Half of them are for whoever comes:
// some do not come again.
func (t *comer) before(places int64) int64 {
	if t.Mine {
		return 0
	}
	return min(t.Ahead, places/2)
}

// leaves is what a tenant's limits leave to a submission.
func (t *comer) leaves(l tasks.Limits) tasks.Limits {
	if l.QueuedJobs > 0 {
		l.QueuedJobs -= t.before(l.QueuedJobs)
	}
	return l
}

// restored is a refusal by what leaves has left, with the limit as it is.
func (t *comer) restored(l tasks.Limits, err error) error {
	var used *tasks.QuotaError
	if errors.As(err, &used) && used.Quota == quota.QueuedJobs {
		used.Remaining = max(0, used.Remaining) // of what is left to who comes now
		used.Limit = l.QueuedJobs
	}
	return err
}

// yields refuses a submission that would take of the submits a minute what others are told to come for.
func (t *comer) yields(g *quota.Grant) error {
	for _, w := range g.Windows {
		if w.Name == quota.SubmitsPerMinute && w.Remaining < t.before(w.Limit) {
			return &tasks.QuotaError{Quota: w.Name, Limit: w.Limit, Window: w.Span, RetryAfter: w.Span / time.Duration(w.Limit)}
		}
	}
	return nil
}

// reachable refuses a job that would have to wait past its deadline, in its own
// pool and in those of its fallbacks: told now, its caller can do something
// else. A job of high priority passes: the line is of all lanes. So does one whose
// pool opens nobody knows when. Those end expired, without a call.
func (d *Desk) reachable(ctx context.Context, t *comer, job *tasks.Job) error {
	if job.Deadline.IsZero() || job.Priority == tasks.High {
		return nil
	}
	left := job.Deadline.Sub(d.c.Now())
	soonest := time.Duration(math.MaxInt64)
	for _, model := range append([]string{job.Model}, job.Fallback...) {
		pool, ok := d.c.Pools.Match(model)
		if !ok {
			continue
		}
		o, err := d.outlook(ctx, t, pool)
		if err != nil {
			return nil
		}
		place := o.Waiting + 1 + t.before(math.MaxInt64)
		start := o.Start(place)
		if !start.Known || near(o, start, left) || inTime(o, place, left) || inTime(o, o.Waiting+1, left/2) || t.Mine && start.Late+o.Takes <= left {
			return nil
		}
		soonest = min(soonest, shorter(o, place, left))
	}
	if soonest == math.MaxInt64 {
		return nil
	}
	f := fault.Fail(fault.DeadlineUnreachable, `The queue is longer than the time to "deadline".`)
	f.RetryAfter = soonest
	return f
}

// nearDeadline is how near a deadline is too near for a forecast to be as fine.
const nearDeadline = 5 * time.Second

// nearSpare is how late an answer has to be expected to be for that to be told then.
const nearSpare = 30 * time.Second

// near reports whether a deadline is so near that a job is let try.
func near(o *tasks.Outlook, start tasks.Start, left time.Duration) bool {
	return left <= nearDeadline && start.Told+o.Takes-left <= nearSpare
}

// inTime reports whether a job of a place surely has its answer within so long.
func inTime(o *tasks.Outlook, place int64, within time.Duration) bool {
	return surely(o.Start(place))+o.Takes <= within
}

// shorter is by when nine of ten times so many jobs before a place have started that the next there
// has its answer in time.
func shorter(o *tasks.Outlook, place int64, within time.Duration) time.Duration {
	if !inTime(o, 1, within) { // when the pool goes on is what has to come nearer
		return surely(o.Start(1)) + o.Takes - within + o.Start(place).Late - o.Start(1).Late
	}
	first, last := int64(1), place // in time, and not
	for last-first > 1 {
		if middle := (first + last) / 2; inTime(o, middle, within) {
			first = middle
		} else {
			last = middle
		}
	}
	return o.Start(max(1, place-first)).Late
}

// surely is by when all but one of a hundred such jobs start: as far beyond nine of ten as the
// quantiles of a normal distribution lie apart.
func surely(s tasks.Start) time.Duration {
	return s.Told + time.Duration(max(0, 1.8*float64(s.Late-s.Told)))
}

// later is a refusal with when its caller is to come again, at the end of the line of those who were
// refused before.
func (d *Desk) later(ctx context.Context, t *comer, err error) error {
	var (
		used *tasks.QuotaError
		f    *fault.Fault
	)
	switch {
	case errors.As(err, &used) && used.Window > time.Minute: // it begins anew at once for all
		used.RetryAfter += rand.N(min(max(used.RetryAfter/20, time.Second), time.Minute))
	case errors.As(err, &used) && strings.HasPrefix(used.Quota, tasks.OfUsers): // it stands in no line: nobody else keeps it waiting
		if used.Window > 0 {
			break
		}
		if o, unread := d.outlook(ctx, t, t.pool); unread == nil {
			used.RetryAfter, _ = freed(o, behind(o, used, 1))
		}
	case errors.As(err, &used):
		again := quota.Again{After: used.RetryAfter, Mine: t.Mine}
		if used.Window > 0 {
			again.Each = used.Window / time.Duration(max(1, used.Limit))
		} else if o, unread := d.outlook(ctx, t, t.pool); unread == nil {
			before := t.Ahead
			if t.Mine {
				before++ // so many as were expected to be free were not
			}
			again.After, again.Each = freed(o, before)
		}
		used.RetryAfter = d.lined(ctx, t, again)
	case errors.As(err, &f) && f.Code == fault.DeadlineUnreachable:
		again := quota.Again{After: f.RetryAfter, Mine: t.Mine}
		if o, unread := d.outlook(ctx, t, t.pool); unread == nil {
			_, again.Each = freed(o, t.before(math.MaxInt64))
		}
		f.RetryAfter = d.lined(ctx, t, again)
	}
	return err
}

// freed is by when nine of ten times one more of a tenant's waiting jobs has started than go before,
// and how long it then is until the next has.
func freed(o *tasks.Outlook, before int64) (after, each time.Duration) {
	start := o.Start(before + 1)
	if each = max(0, o.Start(before+2).Told-start.Told); !start.Known {
		return tasks.UnknownWait + time.Duration(before)*each, each
	}
	return start.Late, each
}

// behind is behind how many of a tenant's waiting jobs, at most, so many of one user's have started: the others'
// may all come first. Where all of its own wait elsewhere that is not known, and it is behind all but one.
func behind(o *tasks.Outlook, used *tasks.QuotaError, many int64) int64 {
	last := max(0, o.Waiting-1)
	return min(last, used.Others+many-1)
}

// laterOf is later for so many jobs at once, which have no place in a line: where there is none for
// them all, they come again when as many have been freed of the lane.
func (d *Desk) laterOf(ctx context.Context, tenant string, lane tasks.Priority, pools map[string]int, err error) error {
	tenant = tasks.TenantOf(tenant)
	var used *tasks.QuotaError
	if !errors.As(err, &used) || used.Window > 0 {
		return err
	}
	soonest := time.Duration(0)
	for pool, n := range pools {
		o, unread := d.c.Pools.Outlook(ctx, pool, tenant, lane)
		if unread != nil {
			continue
		}
		missing := int64(n)
		if used.Quota != quota.QueuedBytes {
			missing = max(1, missing-used.Remaining)
		}
		before := min(missing, max(1, o.Waiting)) - 1
		if strings.HasPrefix(used.Quota, tasks.OfUsers) {
			before = behind(&o, used, missing)
		}
		if after, _ := freed(&o, before); soonest == 0 || after < soonest {
			soonest = after
		}
	}
	if soonest > 0 {
		used.RetryAfter = soonest
	}
	return err
}

func (d *Desk) lined(ctx context.Context, t *comer, again quota.Again) time.Duration {
	if d.c.Returns == nil {
		return again.After
	}
	after, err := d.c.Returns.Join(ctx, t.tenant, t.pool, t.who(), again)
	if err != nil {
		d.c.Log.LogAttrs(ctx, slog.LevelWarn, "note who is to come again", slog.Any("error", err))
		return again.After
	}
	return after
}
