package pool

import (
	"cmp"
	"context"
	"math"
	"time"

	"github.com/sluicehq/sluice/tasks"
	"github.com/sluicehq/sluice/worker/limit"
	"github.com/sluicehq/sluice/worker/pause"
)

// view is one pool at one moment.
type view struct {
	at     time.Time
	load   tasks.Load
	gate   limit.State
	pause  pause.State
	past   tasks.Past
	pastAt time.Time // when past was read
}

// pastFresh is how old a view's past may be: what was noted of the seconds since is known
// of the pool itself.
const pastFresh = 3 * time.Second

// look returns a pool as it was at most fresh ago.
func (s *Set) look(ctx context.Context, pool string, fresh time.Duration) (view, error) {
	s.mu.Lock()
	v, ok := s.views[pool]
	if age := time.Since(v.at); ok && age < fresh || ok && age < 4*fresh && s.looking[pool] {
		s.mu.Unlock()
		return v, nil // while one looks, the others take what there is
	}
	s.looking[pool] = true
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		delete(s.looking, pool)
		s.mu.Unlock()
	}()
	m, err := s.named(pool)
	if err != nil {
		return v, err
	}
	v = view{at: time.Now(), past: v.past, pastAt: v.pastAt}
	if v.load, err = s.record.Load(ctx, pool); err != nil {
		return v, err
	}
	if v.gate, err = m.Gate.State(ctx); err != nil {
		return v, tasks.NotNow(err)
	}
	if v.pause, err = m.Breaker.State(ctx); err != nil {
		return v, tasks.NotNow(err)
	}
	if v.at.Sub(v.pastAt) > pastFresh {
		pasts, err := s.record.Past(ctx, pool)
		if err != nil {
			return v, err
		}
		v.past, v.pastAt = pasts[pool], v.at
	}
	s.mu.Lock()
	s.views[pool] = v
	s.mu.Unlock()
	return v, nil
}

// until is how long a pool lets nothing through, as far as anybody knows.
func (v view) until(now time.Time) time.Duration {
	d := v.gate.HeldFor
	if v.pause.Paused {
		if r := v.pause.ExpectedResumeAt.Sub(now); !v.pause.ExpectedResumeAt.IsZero() && r > d {
			d = r
		}
		d = max(d, 5*time.Second)
	}
	return d
}

// ahead is how long the job at this place of its tenant's own waits, where so many
// tenants take turns. A turn costs 1/weight: for each of its own, every other
// tenant has as many as its weight is greater.
func (v view) ahead(now time.Time, tenant string, place, tenants int64) time.Duration {
	weight := cmp.Or(v.load.Weights[tenant], 1)
	shares := v.load.Shares + float64(tenants-v.load.Tenants) // who came since is taken to weigh 1
	n := min(float64(place)*max(1, shares/weight), float64(v.load.Queued))
	return v.until(now) + max(0, v.gate.Wait(int(math.Ceil(n)))-v.gate.HeldFor)
}

// Waiting says what a job waits for; nothing once it runs or has ended.
func (s *Set) Waiting(ctx context.Context, j tasks.Job) (tasks.Waiting, error) {
	if j.Status.Final() || j.Status == tasks.StatusRunning {
		return tasks.Waiting{}, nil
	}
	place, tenants, err := s.record.Position(ctx, j)
	if err != nil {
		return tasks.Waiting{}, err
	}
	return s.WaitingAt(ctx, j, place, tenants)
}

// WaitingAt is [Set.Waiting] for somebody who knows the job's place already.
func (s *Set) WaitingAt(ctx context.Context, j tasks.Job, place, tenants int64) (tasks.Waiting, error) {
	v, err := s.look(ctx, j.Pool, viewFresh)
	if err != nil {
		return tasks.Waiting{}, err
	}
	now := s.now().UTC()
	if j.DueAt.After(now) {
		w := tasks.Waiting{For: tasks.WaitNotBefore, EstimatedStart: j.DueAt}
		if j.Status == tasks.StatusRetrying || !j.NotBefore.After(now) {
			w.For = tasks.WaitRetry
		}
		return w, nil
	}
	w := tasks.Waiting{Position: max(1, place), EstimatedStart: now.Add(v.ahead(now, j.Tenant, max(1, place), tenants)).Truncate(time.Millisecond)}
	w.For = v.waitsFor(j, place, tenants, now)
	if w.For == tasks.WaitPaused && v.pause.ExpectedResumeAt.IsZero() || w.For == tasks.WaitNoWorker {
		w.EstimatedStart = time.Time{} // nobody knows
	}
	return w, nil
}

// workerGone is how long a pool's workers may say nothing until there are none.
const workerGone = 5 * time.Second

// binds is what the pool's jobs wait for now; "" for nothing. It is the one place that
// says so, for a job, a timeline and the pool's past alike.
func (v view) binds(now time.Time) tasks.WaitReason {
	switch {
	case v.pause.Paused:
		return tasks.WaitPaused
	case now.Sub(v.load.WorkedAt) > workerGone && !v.gate.Served && v.load.Running == 0: // a release before this one says it at the gate alone
		return tasks.WaitNoWorker
	case v.gate.Binds != "":
		return tasks.WaitReason(v.gate.Binds)
	case v.gate.HeldFor > 0:
		return tasks.WaitRequests
	}
	return ""
}

// waitsFor is why a job that could run does not, from its pool and from the order.
func (v view) waitsFor(j tasks.Job, place, tenants int64, now time.Time) tasks.WaitReason {
	switch why := v.binds(now); {
	case why == tasks.WaitPaused:
		return why
	case j.Followed != "" && place == 0:
		return tasks.WaitConcurrency // a call that is under way already
	case why == tasks.WaitNoWorker:
		return why
	case tenants > 1 && place > 0 && v.othersHave(j, place, now):
		return tasks.WaitTenantShare
	case why == "":
		return tasks.WaitRequests // it is free to go, and goes
	default:
		return why
	}
}

// othersHave reports whether a job of the backlog would have started by now, had the
// pool been its tenant's alone: as its timeline has it.
func (v view) othersHave(j tasks.Job, place int64, now time.Time) bool {
	c := course{end: now.Truncate(time.Millisecond), weight: cmp.Or(v.load.Weights[j.Tenant], 1), rest: v.rest(place)}
	c.Job = tasks.Job{CreatedAt: readySince(j), Pool: j.Pool}
	c.Pools = map[string]tasks.Past{j.Pool: v.known(v.past, c.end)}
	spans := c.spans()
	return len(spans) > 0 && spans[len(spans)-1].For == tasks.WaitTenantShare
}

// readySince is since when a job that waits could run.
func readySince(j tasks.Job) time.Time {
	since := maxTime(maxTime(j.CreatedAt, j.NotBefore), j.Since)
	if n := len(j.Log); n > 0 {
		last := j.Log[n-1]
		since = maxTime(since, maxTime(last.EndedAt, last.LostAt).Add(last.Delay))
	}
	return since
}

// rest is the time in which the job at this place of its tenant's own would start, if the
// pool were its tenant's alone. Where that is not known, or the job has been handed out,
// it is long.
func (v view) rest(place int64) time.Duration {
	if place <= 0 || v.gate.CallsPerSecond <= 0 {
		return 365 * 24 * time.Hour
	}
	return time.Duration(min(float64(place)/v.gate.CallsPerSecond, 365*24*3600) * float64(time.Second))
}

// Estimate is the time until a job submitted now can be expected to end.
func (s *Set) Estimate(ctx context.Context, pool, tenant string) (time.Duration, error) {
	v, err := s.look(ctx, pool, viewFresh)
	if err != nil {
		return 0, err
	}
	key := pool + " " + tenant
	s.mu.Lock()
	b, ok := s.backlog[key]
	s.mu.Unlock()
	if !ok || time.Since(b.at) > viewFresh {
		b = backlog{at: time.Now()}
		if b.jobs, b.tenants, err = s.record.Waiting(ctx, pool, tenant); err != nil {
			return 0, err
		}
		s.mu.Lock()
		if len(s.backlog) > 10_000 { // tenants come and go
			clear(s.backlog)
		}
		s.backlog[key] = b
		s.mu.Unlock()
	}
	return v.ahead(s.now(), tenant, b.jobs+1, b.tenants) + time.Second, nil
}
