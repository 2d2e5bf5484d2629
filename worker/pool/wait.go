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
	at    time.Time
	load  tasks.Load
	gate  limit.State
	pause pause.State
}

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
	v = view{at: time.Now()}
	if v.load, err = s.record.Load(ctx, pool); err != nil {
		return v, err
	}
	if v.gate, err = m.Gate.State(ctx); err != nil {
		return v, tasks.NotNow(err)
	}
	if v.pause, err = m.Breaker.State(ctx); err != nil {
		return v, tasks.NotNow(err)
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
	switch {
	case v.pause.Paused:
		w.For = tasks.WaitPaused
		if v.pause.ExpectedResumeAt.IsZero() {
			w.EstimatedStart = time.Time{} // nobody knows
		}
	case j.Followed != "" && place == 0:
		w.For = tasks.WaitConcurrency // a call that is under way already
	case tenants > 1 && place > 0:
		w.For = tasks.WaitTenantShare
	case v.gate.Binds != "":
		w.For = tasks.WaitReason(v.gate.Binds)
	default:
		w.For = tasks.WaitRequests
	}
	return w, nil
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
