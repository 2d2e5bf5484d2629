package main

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/sluicehq/sluice/cmd/sluice/config"
	"github.com/sluicehq/sluice/tasks"
	"github.com/sluicehq/sluice/tasks/queue"
	"github.com/sluicehq/sluice/tasks/store"
	"github.com/sluicehq/sluice/worker/limit"
	"github.com/sluicehq/sluice/worker/pause"
)

// viewFresh is how old what is known of a pool may be when it is asked for on
// the way of a submit.
const viewFresh = 500 * time.Millisecond

// pools is what the API and the console are told about pools, and the
// operator's hand on them.
type pools struct {
	cfg      *config.Config
	store    *store.Store
	gates    map[string]*limit.Gate
	breakers map[string]*pause.Breaker

	mu      sync.Mutex
	views   map[string]view    // by pool
	looking map[string]bool    // by pool: somebody reads it anew
	backlog map[string]waiting // by pool and tenant
}

// view is one pool at one moment.
type view struct {
	at    time.Time
	load  store.Load
	gate  limit.State
	pause pause.State
}

type waiting struct {
	at            time.Time
	jobs, tenants int64
}

func newPools(cfg *config.Config, s *store.Store, gates map[string]*limit.Gate, breakers map[string]*pause.Breaker) *pools {
	return &pools{cfg: cfg, store: s, gates: gates, breakers: breakers, views: map[string]view{}, looking: map[string]bool{}, backlog: map[string]waiting{}}
}

// Match returns the first pool that serves a model.
func (p *pools) Match(model string) (string, bool) { return p.cfg.Pool(model) }

// Provider returns the name of a pool's provider.
func (p *pools) Provider(pool string) string {
	provider, _ := p.cfg.ProviderOf(pool)
	return provider.Name
}

// look returns a pool as it was at most fresh ago.
func (p *pools) look(ctx context.Context, pool string, fresh time.Duration) (view, error) {
	p.mu.Lock()
	v, ok := p.views[pool]
	if age := time.Since(v.at); ok && age < fresh || ok && age < 4*fresh && p.looking[pool] {
		p.mu.Unlock()
		return v, nil // while one looks, the others take what there is
	}
	p.looking[pool] = true
	p.mu.Unlock()
	defer func() {
		p.mu.Lock()
		delete(p.looking, pool)
		p.mu.Unlock()
	}()
	gate, breaker := p.gates[pool], p.breakers[pool]
	if gate == nil || breaker == nil {
		return v, fmt.Errorf("pool %s: %w", pool, tasks.ErrNotFound)
	}
	var err error
	v = view{at: time.Now()}
	if v.load, err = p.store.Load(ctx, pool); err != nil {
		return v, err
	}
	if v.gate, err = gate.State(ctx); err != nil {
		return v, tasks.NotNow(err)
	}
	if v.pause, err = breaker.State(ctx); err != nil {
		return v, tasks.NotNow(err)
	}
	p.mu.Lock()
	p.views[pool] = v
	p.mu.Unlock()
	return v, nil
}

// Status reports every pool, in the order of the configuration.
func (p *pools) Status(ctx context.Context) ([]tasks.PoolStatus, error) {
	out := make([]tasks.PoolStatus, 0, len(p.cfg.Pools))
	for _, c := range p.cfg.Pools {
		v, err := p.look(ctx, c.Name, 0)
		if err != nil {
			return nil, err
		}
		out = append(out, v.status(c.Name))
	}
	return out, nil
}

func (v view) status(name string) tasks.PoolStatus {
	s := tasks.PoolStatus{
		Name: name, State: tasks.PoolOpen, Since: v.pause.Since, Reason: v.pause.Reason, PausedBy: v.pause.PausedBy,
		ExpectedResumeAt: v.pause.ExpectedResumeAt, Queued: v.load.Queued, Running: v.load.Running, OldestQueuedAt: v.load.OldestQueuedAt,
	}
	switch {
	case v.pause.Paused:
		s.State = tasks.PoolPaused
	case v.gate.HeldFor > 0:
		s.State, s.Reason = tasks.PoolDegraded, v.gate.HoldReason
		s.ExpectedResumeAt = v.at.Add(v.gate.HeldFor).UTC()
	case v.pause.Name != pause.Closed || (v.gate.Pace > 0 && v.gate.Pace < 0.9):
		s.State = tasks.PoolDegraded
		if s.Reason == "" {
			s.Reason = fmt.Sprintf("at %.0f %% of its pace", 100*v.gate.Pace)
		}
	default:
		s.Reason = ""
	}
	for _, d := range []struct {
		name tasks.WaitReason
		dim  limit.Dimension
	}{
		{tasks.WaitRequests, v.gate.Requests}, {tasks.WaitInputTokens, v.gate.InputTokens}, {tasks.WaitOutputTokens, v.gate.OutputTokens},
	} {
		if d.dim.Limit > 0 {
			s.Allowance = append(s.Allowance, tasks.Allowance{Dimension: d.name, Limit: d.dim.Limit, Used: min(1, max(0, d.dim.Used))})
		}
	}
	if v.gate.Concurrency > 0 {
		s.Allowance = append(s.Allowance, tasks.Allowance{
			Dimension: tasks.WaitConcurrency, Limit: int64(v.gate.Concurrency), Used: min(1, float64(v.gate.InFlight)/float64(v.gate.Concurrency)),
		})
	}
	return s
}

// until is how long a pool lets nothing through, as far as anybody knows.
func (v view) until() time.Duration {
	d := v.gate.HeldFor
	if v.pause.Paused {
		if r := time.Until(v.pause.ExpectedResumeAt); !v.pause.ExpectedResumeAt.IsZero() && r > d {
			d = r
		}
		d = max(d, 5*time.Second)
	}
	return d
}

// ahead is how long a job with so many of its tenant's before it waits: those,
// and as many of each other tenant's as turns give them, at the pool's pace.
func (v view) ahead(own, tenants int64) time.Duration {
	n := min(own*max(1, tenants), v.load.Queued)
	return v.until() + max(0, v.gate.Wait(int(n))-v.gate.HeldFor)
}

// Waiting says what a job waits for; nothing once it runs or has ended.
func (p *pools) Waiting(ctx context.Context, j tasks.Job) (tasks.Waiting, error) {
	if j.Status.Final() || j.Status == tasks.StatusRunning {
		return tasks.Waiting{}, nil
	}
	place, tenants, err := p.store.Position(ctx, j)
	if err != nil {
		return tasks.Waiting{}, err
	}
	return p.waiting(ctx, j, place, tenants)
}

// waiting is Waiting for somebody who knows the job's place already.
func (p *pools) waiting(ctx context.Context, j tasks.Job, place, tenants int64) (tasks.Waiting, error) {
	v, err := p.look(ctx, j.Pool, viewFresh)
	if err != nil {
		return tasks.Waiting{}, err
	}
	now := time.Now().UTC()
	if j.DueAt.After(now) {
		w := tasks.Waiting{For: tasks.WaitNotBefore, EstimatedStart: j.DueAt}
		if j.Status == tasks.StatusRetrying {
			w.For = tasks.WaitRetry
		}
		return w, nil
	}
	w := tasks.Waiting{Position: max(1, place), EstimatedStart: now.Add(v.ahead(max(1, place), tenants)).Truncate(time.Millisecond)}
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
func (p *pools) Estimate(ctx context.Context, pool, tenant string) (time.Duration, error) {
	v, err := p.look(ctx, pool, viewFresh)
	if err != nil {
		return 0, err
	}
	key := pool + " " + tenant
	p.mu.Lock()
	b, ok := p.backlog[key]
	p.mu.Unlock()
	if !ok || time.Since(b.at) > viewFresh {
		b = waiting{at: time.Now()}
		if b.jobs, b.tenants, err = p.store.Waiting(ctx, pool, tenant); err != nil {
			return 0, err
		}
		p.mu.Lock()
		if len(p.backlog) > 10_000 { // tenants come and go
			clear(p.backlog)
		}
		p.backlog[key] = b
		p.mu.Unlock()
	}
	return v.ahead(b.jobs+1, b.tenants) + time.Second, nil
}

// Pause stops a pool until an operator resumes it.
func (p *pools) Pause(ctx context.Context, pool, reason, by string) error {
	b := p.breakers[pool]
	if b == nil {
		return fmt.Errorf("pool %s: %w", pool, tasks.ErrNotFound)
	}
	return p.changed(pool, b.Pause(ctx, by, reason))
}

// Resume takes an operator's pause away, and lets a pool that was paused for a
// refused key or a spend cap try again.
func (p *pools) Resume(ctx context.Context, pool, by string) error {
	b := p.breakers[pool]
	if b == nil {
		return fmt.Errorf("pool %s: %w", pool, tasks.ErrNotFound)
	}
	return p.changed(pool, b.Resume(ctx, by))
}

// Audit returns the last n things that operators did to a pool, newest first.
func (p *pools) Audit(ctx context.Context, pool string, n int) ([]tasks.PoolAct, error) {
	b := p.breakers[pool]
	if b == nil {
		return nil, fmt.Errorf("pool %s: %w", pool, tasks.ErrNotFound)
	}
	entries, err := b.Audit(ctx, n)
	if err != nil {
		return nil, tasks.NotNow(err)
	}
	acts := make([]tasks.PoolAct, len(entries))
	for i, e := range entries {
		acts[i] = tasks.PoolAct{At: e.At, Action: e.Action, By: e.By, Reason: e.Reason}
	}
	return acts, nil
}

func (p *pools) changed(pool string, err error) error {
	p.mu.Lock()
	delete(p.views, pool)
	p.mu.Unlock()
	return tasks.NotNow(err)
}

// pausing stops Asynq's queue and the backlog before it together.
type pausing struct {
	*queue.Pauser
	store *store.Store
}

func (p pausing) Pause(ctx context.Context, pool string) error {
	if err := p.store.SetPaused(ctx, pool, true); err != nil {
		return err
	}
	return p.Pauser.Pause(ctx, pool)
}

func (p pausing) Resume(ctx context.Context, pool string) error {
	if err := p.Pauser.Resume(ctx, pool); err != nil {
		return err
	}
	return p.store.SetPaused(ctx, pool, false)
}
