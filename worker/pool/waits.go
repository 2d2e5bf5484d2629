package pool

import (
	"context"
	"time"

	"github.com/sluicehq/sluice/tasks"
)

// laterFresh is how old the count of jobs for later may be: it is read of the jobs themselves.
const laterFresh = 10 * time.Second

// unknownDrain is how long a drain may be forecast to take at most; beyond, nobody knows.
const unknownDrain = 90 * 24 * time.Hour

// laters is how many jobs are for later, by pool, and when that was read.
type laters struct {
	at    time.Time
	pools map[string]tasks.Later
}

// waits says of a pool which of its jobs are for later, what the others wait for, and until when.
func (s *Set) waits(ctx context.Context, p *tasks.PoolStatus, v view) {
	if p.Queued == 0 {
		return
	}
	l := s.laterOf(ctx, p.Name, v.at)
	p.Scheduled, p.NextScheduledAt = min(l.Jobs, p.Queued), l.First
	ready := p.Queued - p.Scheduled
	if ready == 0 {
		return
	}
	p.WaitsFor = v.stands(v.at)
	if took, known := v.drains(ready, v.at); known && foreseen(p.WaitsFor) {
		p.DrainedAt = v.at.Add(took).UTC().Truncate(time.Second)
	}
}

// laterOf is how many of a pool's jobs are for later. Nothing depends on it: where the record
// cannot tell, it is what it was.
func (s *Set) laterOf(ctx context.Context, pool string, now time.Time) tasks.Later {
	s.mu.Lock()
	l := s.later
	s.mu.Unlock()
	if age := now.Sub(l.at); l.pools == nil || age < 0 || age >= laterFresh {
		if got, err := s.record.Later(ctx); err == nil {
			l = laters{now, got}
			s.mu.Lock()
			s.later = l
			s.mu.Unlock()
		}
	}
	return l.pools[pool]
}

// stands is what the next job of the pool waits for, as [view.waitsFor] has it of a job that
// neither its tenant's limit nor another tenant's turn holds back.
func (v view) stands(now time.Time) tasks.WaitReason {
	if why := v.binds(now); why != "" {
		return why
	}
	why := tasks.WaitRequests
	for owner := range v.load.AtLimit {
		tenant, _ := tasks.SplitOwner(owner)
		if why = tasks.WaitReview; !v.load.Reviewed[tenant] {
			why = tasks.WaitRunningJobs
			break
		}
	}
	for _, t := range v.load.Turns {
		switch {
		case !v.load.AtLimit[t.Tenant] && !v.load.Reviewed[t.Tenant]:
			return tasks.WaitRequests
		case why == tasks.WaitRequests:
			why = tasks.WaitReview
		}
	}
	if v.load.Handed > 0 {
		return tasks.WaitRequests
	}
	return why
}

// drains is how long it takes until the last of so many jobs has started; false: nobody can tell.
func (v view) drains(jobs int64, now time.Time) (took time.Duration, known bool) {
	n := float64(jobs) - max(0, float64(int64(v.gate.InFlight)-v.load.Calls())) // these have their place at the gate
	switch {
	case v.alone, v.pause.Paused && v.pause.ExpectedResumeAt.IsZero():
		return 0, false
	case v.pause.Paused:
		took = v.gate.WaitAfter(max(v.pause.ExpectedResumeAt.Sub(now), time.Second), n, resumePace)
	default:
		took = v.gate.Wait(n)
	}
	degraded := v.degraded()
	took, _ = corrected(took, took, degraded, v.learned[tasks.ClassOf(took, degraded)])
	return took, took < unknownDrain
}

// Past is what a pool's jobs have waited for. An unknown pool is tasks.ErrNotFound.
func (s *Set) Past(ctx context.Context, pool string) (tasks.Past, error) {
	if _, err := s.named(pool); err != nil {
		return tasks.Past{}, err
	}
	pasts, err := s.record.Past(ctx, pool)
	return pasts[pool], err
}
