package pool

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/sluicehq/sluice/tasks"
	"github.com/sluicehq/sluice/worker/limit"
	"github.com/sluicehq/sluice/worker/pause"
	"github.com/sluicehq/sluice/worker/upstream"
)

// viewFresh is how old what is known of a pool may be when it is asked for on
// the way of a submit.
const viewFresh = 500 * time.Millisecond

// Spec is what a pool is for.
type Spec struct {
	Name     string
	Provider string           // its name, as jobs' records have it
	Dialect  upstream.Dialect // of the provider
	Models   []string         // globs; the first pool that matches serves a job
	Fallback []string         // models that serve the pool's jobs that name none themselves
	// GuessedInput is the limit of input tokens a minute while that is a guess, which
	// the provider's headers correct; 0: it is none.
	GuessedInput int64
}

// Gate is a pool's allowance, as it stands.
type Gate interface {
	State(ctx context.Context) (limit.State, error)
}

// Breaker is a pool's breaker, as it stands, and the operator's hand on it; a [pause.Breaker] is
// one, and [Accounts].
type Breaker interface {
	State(ctx context.Context) (pause.State, error)
	PauseUntil(ctx context.Context, by, reason string, until time.Time) error
	Resume(ctx context.Context, by string) error
	Audit(ctx context.Context, n int) ([]pause.Entry, error)
}

// Member is one pool of a Set.
type Member struct {
	Spec
	Gate    Gate
	Breaker Breaker
	// Accounts are the pool's, one at least; none: [Set.Accounts] has none.
	Accounts []Account
	Lister   Lister // of the provider; nil: it cannot be asked here

	listed *listed
}

// Record tells how much of the pools' work waits.
type Record interface {
	Load(ctx context.Context, pool string) (tasks.Load, error)
	// Position is where a waiting job stands.
	Position(ctx context.Context, j tasks.Job) (tasks.Place, error)
	// Waiting is how many jobs a tenant has in a lane of a pool's backlog, and how many tenants share its turns.
	Waiting(ctx context.Context, pool, tenant string, lane tasks.Priority) (jobs, tenants int64, err error)
	// Past is what the jobs of pools have waited for, and History what is known of the time
	// of a tenant's job.
	Past(ctx context.Context, pools ...string) (map[string]tasks.Past, error)
	History(ctx context.Context, tenant, id string) (tasks.History, error)
	// Watch says that this process looks after pools, and returns those that it is to look
	// at now. Bound notes what the jobs of one of them wait for.
	Watch(ctx context.Context, works bool, pools ...string) ([]tasks.WatchTurn, error)
	Bound(ctx context.Context, t tasks.WatchTurn, b tasks.Bind) error
	// Foretold takes in forecasts that were told, and returns how far those before them were off
	// and how many wait yet for their job to start.
	Foretold(ctx context.Context, pool string, told []tasks.Forecast) (learned [tasks.Classes]tasks.Correction, awaited int64, err error)
	// Score is how right the forecasts were that were told in the last hour.
	Score(ctx context.Context, pool string, now time.Time) (tasks.Score, error)
	// Later is how many jobs are for later, by pool.
	Later(ctx context.Context) (map[string]tasks.Later, error)
	// Mishaps is what went wrong in pools in the hour before now.
	Mishaps(ctx context.Context, now time.Time, pools ...string) (map[string]tasks.Mishaps, error)
	// Shares is how tenants share a pool's allowance.
	Shares(ctx context.Context, pool string, now time.Time) (tasks.Shares, error)
}

// Set is all pools together: which serves a model, how each stands, what a job
// waits for and until when, and the operator's hand on them. Its methods may be
// called by many goroutines.
type Set struct {
	record  Record
	members []Member // in the order of the configuration
	now     func() time.Time

	mu      sync.Mutex
	views   map[string]view     // by pool
	looking map[string]bool     // by pool: somebody reads it anew
	backlog map[string]backlog  // by pool, lane and tenant
	scoring map[string]*scoring // by pool
	scores  map[string]scored   // by pool
	shares  map[string]shared   // by pool
	later   laters
	random  *rand.Rand // draws samples
}

// backlog is a tenant's part of a lane of a pool's backlog at one moment.
type backlog struct {
	at            time.Time
	jobs, tenants int64
}

// NewSet returns the pools as a Set. It makes no call. now is the clock that the times
// of the record, the gates and the breakers are of: Redis's, as the process knows it.
func NewSet(r Record, now func() time.Time, members ...Member) *Set {
	for i := range members {
		members[i].listed = &listed{}
	}
	return &Set{record: r, now: now, members: members, views: map[string]view{}, looking: map[string]bool{}, backlog: map[string]backlog{}, scoring: map[string]*scoring{}, scores: map[string]scored{}, shares: map[string]shared{}, random: rand.New(rand.NewPCG(1, 2))}
}

// Names returns the pools' names, in the order of the configuration.
func (s *Set) Names() []string {
	names := make([]string, len(s.members))
	for i, m := range s.members {
		names[i] = m.Name
	}
	return names
}

func (s *Set) member(pool string) (Member, bool) {
	for _, m := range s.members {
		if m.Name == pool {
			return m, true
		}
	}
	return Member{}, false
}

// named is member, or tasks.ErrNotFound.
func (s *Set) named(pool string) (Member, error) {
	m, ok := s.member(pool)
	if !ok {
		return m, fmt.Errorf("pool %s: %w", pool, tasks.ErrNotFound)
	}
	return m, nil
}

// Match returns the first pool that serves a model.
func (s *Set) Match(model string) (pool string, ok bool) {
	for _, m := range s.members {
		if Serves(m.Models, model) {
			return m.Name, true
		}
	}
	return "", false
}

// MatchIn returns the first pool that serves a model in a dialect. The glob * leaves those
// alone there that a pool of another dialect names.
func (s *Set) MatchIn(dialect, model string) (pool string, ok bool) {
	named := func(m Member) bool {
		return slices.ContainsFunc(m.Models, func(glob string) bool { return glob != "*" && Serves([]string{glob}, model) })
	}
	for _, m := range s.members {
		if string(m.Dialect) != dialect || !Serves(m.Models, model) {
			continue
		}
		if named(m) || !slices.ContainsFunc(s.members, func(o Member) bool { return o.Dialect != m.Dialect && named(o) }) {
			return m.Name, true
		}
	}
	return "", false
}

// PoolsIn lists the pools of a dialect, in the order of the configuration.
func (s *Set) PoolsIn(dialect string) []string {
	var names []string
	for _, m := range s.members {
		if string(m.Dialect) == dialect {
			names = append(names, m.Name)
		}
	}
	return names
}

// InputLimit is how many input tokens a minute a pool takes; 0: any, or nobody
// knows, because nobody said and no answer of the provider has.
func (s *Set) InputLimit(ctx context.Context, pool string) int64 {
	m, _ := s.member(pool)
	v, err := s.look(ctx, pool, viewFresh)
	if err != nil || v.gate.InputTokens.Limit == m.GuessedInput {
		return 0
	}
	return v.gate.InputTokens.Limit
}

// Served lists the globs of all pools, each once, in the order of the configuration.
func (s *Set) Served() (globs []string) {
	for _, m := range s.members {
		for _, g := range m.Models {
			if !slices.Contains(globs, g) {
				globs = append(globs, g)
			}
		}
	}
	return globs
}

// Serves reports whether one of these globs names a model; see [tasks.MatchModel].
func Serves(globs []string, model string) bool { return tasks.MatchModel(globs, model) }

// Provider returns the name of a pool's provider.
func (s *Set) Provider(pool string) string {
	m, _ := s.member(pool)
	return m.Provider
}

// Status reports every pool, in the order of the configuration.
func (s *Set) Status(ctx context.Context) ([]tasks.PoolStatus, error) {
	out := make([]tasks.PoolStatus, 0, len(s.members))
	mishaps, err := s.record.Mishaps(ctx, s.now(), s.Names()...)
	if err != nil {
		return nil, err
	}
	for _, m := range s.members {
		v, err := s.look(ctx, m.Name, 0)
		if err != nil {
			return nil, err
		}
		p := v.status(m.Name)
		p.Estimates = s.score(ctx, m.Name, v.at)
		p.Mishaps = mishaps[m.Name]
		s.waits(ctx, &p, v)
		out = append(out, p)
	}
	return out, nil
}

// scoreFresh is how old a score may be: it is read of thousands of forecasts.
const scoreFresh = 10 * time.Second

// score is how right a pool's forecasts were of late. Nothing depends on it: where the
// record cannot tell, it is what it was.
func (s *Set) score(ctx context.Context, pool string, now time.Time) tasks.Score {
	s.mu.Lock()
	k, ok := s.scores[pool]
	s.mu.Unlock()
	if age := now.Sub(k.at); ok && age >= 0 && age < scoreFresh {
		return k.score
	}
	if got, err := s.record.Score(ctx, pool, now); err == nil {
		k = scored{now, got}
		s.mu.Lock()
		s.scores[pool] = k
		s.mu.Unlock()
	}
	return k.score
}

// scored is a score and when it was read.
type scored struct {
	at    time.Time
	score tasks.Score
}

// Barred is why a pool is paused where only its provider's account or an operator can
// change that: tasks.SpendLimited or tasks.Unauthorized; "" where it is not, or that
// cannot be told.
func (s *Set) Barred(ctx context.Context, pool string) tasks.Outcome {
	v, err := s.look(ctx, pool, time.Second)
	if err != nil || !v.pause.Paused {
		return ""
	}
	switch o := tasks.Outcome(v.pause.Reason); o {
	case tasks.SpendLimited, tasks.Unauthorized:
		return o
	}
	return ""
}

func (v view) status(name string) tasks.PoolStatus {
	s := tasks.PoolStatus{
		Name: name, State: tasks.PoolOpen, Since: v.pause.Since, Reason: v.pause.Reason, Detail: v.pause.Detail, PausedBy: v.pause.PausedBy,
		ExpectedResumeAt: v.pause.ExpectedResumeAt, NextProbeAt: v.pause.NextProbeAt, Queued: v.load.Queued, Running: v.load.Running, Bundled: v.load.Bundled, OldestQueuedAt: v.load.OldestQueuedAt,
	}
	switch {
	case v.pause.Paused:
		s.State = tasks.PoolPaused
	case v.gate.HeldFor > 0 && !v.pause.Held:
		s.State, s.Reason = tasks.PoolDegraded, v.gate.HoldReason
		s.ExpectedResumeAt = v.at.Add(v.gate.HeldFor).UTC()
	case v.pause.Name != pause.Closed || (v.gate.Pace > 0 && v.gate.Pace < 0.9):
		s.State = tasks.PoolDegraded
		if s.Reason == "" {
			s.Reason = fmt.Sprintf("at %.0f %% of its pace", 100*v.gate.Pace)
		}
	case len(v.pause.Models) > 0:
		s.State, s.Reason = tasks.PoolDegraded, fmt.Sprintf("%d of its models do not answer; their jobs wait", len(v.pause.Models))
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

// Pause stops a pool until an operator resumes it, or until a time, which is zero for never.
func (s *Set) Pause(ctx context.Context, pool, reason, by string, until time.Time) error {
	m, err := s.named(pool)
	if err != nil {
		return err
	}
	return s.changed(pool, m.Breaker.PauseUntil(ctx, by, reason, until))
}

// Resume takes an operator's pause away, and lets a pool that was paused for a
// refused key or a spend cap try again.
func (s *Set) Resume(ctx context.Context, pool, by string) error {
	m, err := s.named(pool)
	if err != nil {
		return err
	}
	return s.changed(pool, m.Breaker.Resume(ctx, by))
}

// Audit returns the last n things that operators did to a pool, newest first.
func (s *Set) Audit(ctx context.Context, pool string, n int) ([]tasks.PoolAct, error) {
	m, err := s.named(pool)
	if err != nil {
		return nil, err
	}
	entries, err := m.Breaker.Audit(ctx, n)
	if err != nil {
		return nil, tasks.NotNow(err)
	}
	acts := make([]tasks.PoolAct, len(entries))
	for i, e := range entries {
		acts[i] = tasks.PoolAct{At: e.At, Action: e.Action, By: e.By, Reason: e.Reason, Until: e.Until}
	}
	return acts, nil
}

func (s *Set) changed(pool string, err error) error {
	s.mu.Lock()
	delete(s.views, pool)
	s.mu.Unlock()
	return tasks.NotNow(err)
}
