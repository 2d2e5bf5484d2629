package pool

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"time"

	"github.com/sluicehq/sluice/tasks"
	"github.com/sluicehq/sluice/worker/limit"
	"github.com/sluicehq/sluice/worker/pause"
)

// Account is one of several accounts of a pool: its own credentials, breaker and health, and its
// allowance, which others may share.
type Account struct {
	Name      string
	Provider  string
	Weight    int64
	Allowance string     // shared by all accounts that name it; "": its own
	Gate      Gate       // one and the same of those that share an allowance
	Pace      *Allowance // the same, where it may be found to be another account's too; nil: it may not
	Health    *Health
	Way       func() string // that is in use to its provider, without credentials; nil, or "": nobody here knows, or none is listed

	all *Accounts // of the pool, where it has several
}

// Accounts are several accounts as one pool: what an operator or Redis's memory does concerns all
// of them, what a provider does one. The pool is paused while all are, and its allowance is that of
// those which are not.
type Accounts struct {
	name string         // the pool's
	hold *pause.Breaker // of the pool: it is told of no call
	list []Account
	log  *slog.Logger
}

// NewAccounts returns the accounts of a pool by its name, one at least, whose own breaker is hold. Log nil means none.
func NewAccounts(name string, hold *pause.Breaker, list []Account, log *slog.Logger) *Accounts {
	a := &Accounts{name: name, hold: hold, list: list, log: log}
	for i := range list {
		list[i].Health.within, list[i].all = hold, a
	}
	if log == nil {
		a.log = slog.New(slog.DiscardHandler)
	}
	return a
}

const (
	clearEvery = 10 * time.Second // how often a worker clears what its pool's own breaker holds
	mergeEvery = time.Second      // how often is seen which accounts are of one organisation
)

// Run keeps the pool's own breaker until ctx ends, and has accounts of one organisation share an allowance.
// Where clears is set it also clears what the breaker holds
// against a key, an account or an address: it was found by an earlier release, or while the pool was
// one account, and each account now has a breaker of its own. An operator's pause stays.
func (a *Accounts) Run(ctx context.Context, clears bool) error {
	ended := make(chan error, 1)
	go func() { ended <- a.hold.Run(ctx) }()
	tick := time.NewTicker(mergeEvery)
	defer tick.Stop()
	var cleared time.Time
	for {
		a.merge(ctx)
		if clears && time.Since(cleared) >= clearEvery {
			a.clear(ctx)
			cleared = time.Now()
		}
		select {
		case err := <-ended:
			return err
		case <-tick.C:
		}
	}
}

func (a *Accounts) clear(ctx context.Context) {
	if s, err := a.hold.State(ctx); err == nil && s.PausedBy == pause.ByBreaker {
		_ = a.hold.Try(ctx, "sluice") // or the next time
	}
}

// PauseUntil is [pause.Breaker.PauseUntil] of the pool.
func (a *Accounts) PauseUntil(ctx context.Context, by, reason string, until time.Time) error {
	return a.hold.PauseUntil(ctx, by, reason, until)
}

// Resume is [pause.Breaker.Resume] of the pool and of each account: those that were refused or
// spent try again, and those that are down are probed at once.
func (a *Accounts) Resume(ctx context.Context, by string) error {
	errs := []error{a.hold.Resume(ctx, by)}
	for _, one := range a.list {
		errs = append(errs, one.Health.breaker.Resume(ctx, by))
	}
	return errors.Join(errs...)
}

// Try lets the accounts that were refused or spent try again.
func (a *Accounts) Try(ctx context.Context, by string) error {
	var errs []error
	for _, one := range a.list {
		errs = append(errs, one.Health.breaker.Try(ctx, by))
	}
	return errors.Join(errs...)
}

// Audit is what operators did to the pool.
func (a *Accounts) Audit(ctx context.Context, n int) ([]pause.Entry, error) {
	return a.hold.Audit(ctx, n)
}

// Used is what this process has sent of the allowances; see [Health.Used].
func (a *Accounts) Used() (calls, input, output int64) {
	for _, one := range a.list {
		c, i, o := one.Health.Used()
		calls, input, output = calls+c, input+i, output+o
	}
	return calls, input, output
}

// Refused is how many 429s this process has seen.
func (a *Accounts) Refused() (n int64) {
	for _, one := range a.list {
		n += one.Health.Refused()
	}
	return n
}

// State is the pool's: paused by an operator or for Redis's memory, or while all accounts are.
func (a *Accounts) State(ctx context.Context) (pause.State, error) {
	all, states, err := a.states(ctx)
	if err != nil || all.Paused {
		return all, err
	}
	return together(all, a.list, states), nil
}

// states are the pool's own state, and that of each account.
func (a *Accounts) states(ctx context.Context) (all pause.State, states []pause.State, err error) {
	if all, err = a.hold.State(ctx); err != nil {
		return all, nil, err
	}
	for _, one := range a.list {
		s, err := one.Health.breaker.State(ctx)
		if err != nil {
			return all, nil, err
		}
		states = append(states, s)
	}
	return all, states, nil
}

// together is the state of a pool that nobody holds, by those of its accounts. While all are
// paused it is that of the one that is expected back first, since the last of them was paused.
func together(all pause.State, list []Account, states []pause.State) pause.State {
	var shut []string
	for i, s := range states {
		if s.Paused {
			shut = append(shut, list[i].Name)
		}
	}
	if len(shut) == len(states) {
		return allShut(states)
	}
	out := all
	for i, s := range states {
		if s.Since.After(out.Since) && len(shut) == 0 {
			out.Since = s.Since
		}
		if len(s.Models) > 0 && !s.Paused {
			out.Models = merged(states)
		}
		if s.Paused && (out.Name == pause.Closed || out.Name == "") {
			out.Name, out.Cause, out.Since = pause.SlowStart, s.Cause, s.Since
			out.Reason = fmt.Sprintf("%d of its %d accounts do not take calls: %s", len(shut), len(states), strings.Join(shut, ", "))
			out.Detail = fmt.Sprintf("%s: %s", list[i].Name, cmp.Or(s.Detail, s.Reason))
		} else if s.Name != pause.Closed && out.Name == pause.Closed {
			out.Name = s.Name
		}
	}
	return out
}

// allShut is the state of a pool all of whose accounts are paused.
func allShut(states []pause.State) pause.State {
	first := slices.MinFunc(states, func(a, b pause.State) int { return sooner(a.ExpectedResumeAt, b.ExpectedResumeAt) })
	next := slices.MinFunc(states, func(a, b pause.State) int { return sooner(a.NextProbeAt, b.NextProbeAt) })
	first.NextProbeAt = next.NextProbeAt
	for _, s := range states {
		if s.Since.After(first.Since) {
			first.Since = s.Since
		}
	}
	return first
}

// merged are the models that no open account answers.
func merged(states []pause.State) (models []string) {
	var open []pause.State
	for _, s := range states {
		if !s.Paused {
			open = append(open, s)
		}
	}
	for _, m := range open[0].Models {
		if !slices.ContainsFunc(open, func(s pause.State) bool { return !slices.Contains(s.Models, m) }) {
			models = append(models, m)
		}
	}
	return models
}

// sooner orders times; one that nobody knows is the last.
func sooner(a, b time.Time) int {
	switch {
	case a.IsZero() && b.IsZero():
		return 0
	case a.IsZero():
		return 1
	case b.IsZero():
		return -1
	}
	return a.Compare(b)
}

// Accounts returns how the accounts of a pool stand, in the order of the configuration;
// tasks.ErrNotFound for an unknown pool.
func (s *Set) Accounts(ctx context.Context, pool string) ([]tasks.PoolAccount, error) {
	m, err := s.named(pool)
	if err != nil {
		return nil, err
	}
	out := make([]tasks.PoolAccount, len(m.Accounts))
	for i, a := range m.Accounts {
		if out[i], err = a.stands(ctx, s.now()); err != nil {
			return nil, tasks.NotNow(err)
		}
	}
	return out, nil
}

// stands is how an account stands at a time. Who pauses its pool pauses it.
func (a Account) stands(ctx context.Context, now time.Time) (one tasks.PoolAccount, err error) {
	v := view{at: now}
	if v.pause, err = a.Health.state(ctx); err != nil {
		return one, err
	}
	if v.gate, err = a.Gate.State(ctx); err != nil {
		return one, err
	}
	st := v.status(a.Name)
	one = tasks.PoolAccount{
		Name: a.Name, Provider: a.Provider, State: st.State, Reason: st.Reason, Detail: st.Detail, Since: st.Since, ExpectedResumeAt: st.ExpectedResumeAt,
		Weight: max(1, a.Weight), Shared: a.Allowance, SharedWith: a.shares(), Organization: a.Health.breaker.Organization(ctx), Allowance: st.Allowance, Wait: v.gate.Wait(1),
	}
	switch {
	case v.pause.Paused && v.pause.ExpectedResumeAt.IsZero():
		one.Wait = -1
	case v.pause.Paused:
		one.Wait = max(0, v.pause.ExpectedResumeAt.Sub(now))
	}
	if a.Way != nil {
		one.Egress = a.Way()
	}
	one.Success, one.Calls, err = a.Health.breaker.Success(ctx)
	return one, err
}

// Gate is the allowance of all that are not paused, as [Gate] has it; while all are, that of all.
func (a *Accounts) Gate() Gate { return sumGate{a} }

type sumGate struct{ a *Accounts }

func (g sumGate) State(ctx context.Context) (limit.State, error) {
	_, paused, err := g.a.states(ctx)
	if err != nil {
		return limit.State{}, err
	}
	every := !slices.ContainsFunc(paused, func(s pause.State) bool { return !s.Paused })
	var states []limit.State
	seen := map[Gate]bool{}
	for i, one := range g.a.list {
		at := one.at()
		if paused[i].Paused && !every || seen[at] {
			continue
		}
		seen[at] = true
		s, err := one.Gate.State(ctx)
		if err != nil {
			return limit.State{}, err
		}
		states = append(states, s)
	}
	return limit.Sum(states...), nil
}

// Paused reports whether no calls are to be made, as far as is known: the breaker is open, or the
// pool of which this is an account is paused.
func (h *Health) Paused(ctx context.Context) bool {
	s, _ := h.state(ctx) // the last that is known while Redis is away
	return s.Paused
}

// state is that of the breaker, or of the pool of which this is an account, where that is paused.
func (h *Health) state(ctx context.Context) (pause.State, error) {
	s, err := h.breaker.State(ctx)
	if s.Paused || h.within == nil {
		return s, err
	}
	all, allErr := h.within.State(ctx)
	if all.Paused {
		return all, allErr
	}
	return s, errors.Join(err, allErr)
}

// at is the gate that lets its calls through.
func (a Account) at() Gate {
	if a.Pace != nil {
		return a.Pace.Gate()
	}
	return a.Gate
}

// Unheld is a gate that a breaker does not hold: that of a pool of several accounts, whose jobs
// ask [Health.Paused].
type Unheld struct{}

// Hold does nothing.
func (Unheld) Hold(context.Context, time.Duration, string) error { return nil }

// Resume does nothing.
func (Unheld) Resume(context.Context, float64) error { return nil }
