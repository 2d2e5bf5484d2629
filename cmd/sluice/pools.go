package main

import (
	"context"
	"fmt"

	"github.com/sluicehq/sluice/cmd/sluice/config"
	"github.com/sluicehq/sluice/tasks"
	"github.com/sluicehq/sluice/tasks/queue"
	"github.com/sluicehq/sluice/tasks/store"
	"github.com/sluicehq/sluice/worker"
	"github.com/sluicehq/sluice/worker/limit"
	"github.com/sluicehq/sluice/worker/native"
	"github.com/sluicehq/sluice/worker/pause"
	"github.com/sluicehq/sluice/worker/pool"
	"github.com/sluicehq/sluice/worker/upstream"
)

// pool makes the gates and breakers of a pool's accounts and, for a worker, the ways upstream.
func (s *service) pool(p config.Pool, depth int, works bool) (out worker.Pool, member pool.Member, err error) {
	out = worker.Pool{Name: p.Name, Timeout: p.Timeout, MaxAttempts: p.MaxAttempts, CacheFor: p.Cache.TTL, Share: p.ShareInFlight}
	b := p.Batches
	out.Native = &native.Rules{
		Closed: !p.NativeBatch, MinRoom: b.MinRoom, MaxJobs: b.MaxJobs, MaxBytes: b.MaxBytes, MaxAge: b.MaxAge, Poll: b.PollInterval, SpillBefore: b.SpillBefore,
	}
	if works {
		out.Dialect = upstream.Dialect(s.provider(p).Dialect)
		if out.Concurrency = depth + s.cfg.Allowed(p).Concurrency; out.Concurrency == depth {
			out.Concurrency += 256
		}
	}
	if p.Several() {
		member, err = s.several(p, &out, works)
		return out, member, err
	}
	made, err := s.account(p, s.cfg.AccountsOf(p)[0], works)
	if err != nil {
		return out, member, err
	}
	s.breakers[p.Name] = made.Health.Breaker()
	one := made.worker()
	out.Provider, out.Account, out.Caller, out.Gate, out.Health = one.Provider, one.Name, one.Caller, one.Gate, one.Health
	return out, pool.Member{Gate: made.Gate, Breaker: s.breakers[p.Name], Accounts: []pool.Account{made.Account}}, nil
}

// several makes the accounts of a pool that has more than one.
func (s *service) several(p config.Pool, out *worker.Pool, works bool) (member pool.Member, err error) {
	var list []pool.Account
	for _, a := range p.Accounts {
		made, err := s.account(p, a, works)
		if err != nil {
			return member, fmt.Errorf("accounts: %s: %w", a.ID, err)
		}
		list = append(list, made.Account)
		out.Accounts = append(out.Accounts, made.worker())
	}
	hold := s.breaker(p, p.Name)
	if works {
		hold.Gate = pool.Unheld{}
		// An earlier release, or a pool that was one account, may have opened it: now each account has
		// its own. What is left of an outage ends by its next probe, and the rest is cleared by Run.
		hold.Probe = func(context.Context) (pause.Verdict, error) { return pause.Verdict{Kind: pause.Good}, nil }
	}
	if s.breakers[p.Name], err = pause.New(hold); err != nil {
		return member, err
	}
	all := pool.NewAccounts(p.Name, s.breakers[p.Name], list, s.log)
	s.accounts[p.Name] = all
	return pool.Member{Gate: all.Gate(), Breaker: all, Accounts: list}, nil
}

// account is an account, and the way to its provider.
type account struct {
	pool.Account
	gate   worker.Gate
	caller *upstream.Caller // nil in a process that makes no calls
}

// worker is the account as a worker takes it.
func (a account) worker() worker.Account {
	out := worker.Account{Name: a.Name, Provider: a.Provider, Gate: a.gate, Health: a.Health, Weight: a.Weight}
	if a.caller != nil {
		out.Caller = a.caller
	}
	return out
}

// account makes the gate and the breaker of an account and, for a worker, the way to its provider.
// That of a pool that is one account has gate and breaker by the pool's name, as earlier releases
// have it.
func (s *service) account(p config.Pool, a config.Account, works bool) (made account, err error) {
	gate, err := s.gate(p, a)
	if err != nil {
		return made, err
	}
	made.Account = pool.Account{Name: a.ID, Provider: a.Provider, Weight: a.Weight, Allowance: a.Allowance, Gate: gate, Way: func() string { return s.way(a.Provider) }}
	made.gate = gate
	hc := pool.HealthConfig{Models: p.Models, Log: s.log, Breaker: s.breaker(p, p.Name)}
	var hand *pool.Hand
	if p.Several() {
		hc.Breaker = s.breaker(p, p.Name+"."+a.ID)
		hc.Breaker.Queue = nil // the pool goes on without this account
		made.Pace = s.allowance(gate)
		made.Gate, made.gate, hand = made.Pace, made.Pace, s.hands.On(made.Pace)
	}
	if len(p.Accounts) > 1 {
		// One that is refused or spent is probed as often as one that is down. A probe that is refused
		// costs nothing, and nobody is told that its key works again or its cap was raised.
		hc.Breaker.Rules.Recheck = p.Breaker.ProbeInterval
	}
	if works {
		provider := s.reached(a.Provider)
		if made.caller, err = s.caller(provider, a.Models); err != nil {
			return made, err
		}
		hc.Asker, hc.Breaker.Fingerprint, hc.Breaker.Gate = made.caller, provider.BaseURL+" "+provider.APIKey, gate
		if hand != nil {
			hc.Breaker.Gate = hand
		}
	}
	if made.Health, err = pool.NewHealth(hc); err != nil {
		return made, err
	}
	if hand != nil {
		hand.Health = made.Health
	}
	s.healths[hc.Breaker.Pool] = made.Health
	return made, nil
}

// allowance is a gate as the accounts have it that it may be shared by.
func (s *service) allowance(gate *limit.Gate) *pool.Allowance {
	if s.shared[gate] == nil {
		s.shared[gate] = pool.NewAllowance(gate)
	}
	return s.shared[gate]
}

// gate makes the gate of an account's allowance, or returns that of those who share it.
func (s *service) gate(p config.Pool, a config.Account) (*limit.Gate, error) {
	name := p.GateOf(a)
	if made := s.gates[name]; made != nil {
		return made, nil
	}
	timeout := p.Timeout
	for _, other := range s.cfg.Pools {
		for _, b := range s.cfg.AccountsOf(other) {
			if other.GateOf(b) == name {
				timeout = max(timeout, other.Timeout)
			}
		}
	}
	gate, err := limit.New(limit.Config{
		Redis: s.joined, Prefix: s.cfg.Redis.Prefix, Pool: name, Timeout: timeout, FollowProvider: a.FollowProvider, Log: s.log, Metrics: s.registry,
		Limits: limit.Limits{
			RequestsPerMinute: a.Limits.RequestsPerMinute, InputTokensPerMinute: a.Limits.InputTokensPerMinute,
			OutputTokensPerMinute: a.Limits.OutputTokensPerMinute, RequestBurst: int(a.Limits.RequestBurst), Concurrency: a.Limits.Concurrency,
		},
	})
	if err == nil {
		s.gates[name] = gate
	}
	return gate, err
}

// breaker describes the breaker of a pool, or of one of its accounts, by its name.
func (s *service) breaker(p config.Pool, name string) pause.Config {
	return pause.Config{
		Sure: func(ctx context.Context, do func(context.Context) error) error {
			return store.Sure(ctx, p.Name, func(ctx context.Context) error { return tasks.NotNow(do(ctx)) })
		},
		Redis: s.joined, Prefix: s.cfg.Redis.Prefix + ":pause:", Pool: name, Queue: pausing{queue.NewPauser(s.rdb, s.cfg.Redis.Prefix), s.store}, Log: s.log, Metrics: s.registry,
		Rules: pause.Rules{
			Window: p.Breaker.Window, MinCalls: p.Breaker.MinCalls, FailureRatio: p.Breaker.FailureRatio, ProbeInterval: p.Breaker.ProbeInterval,
		},
	}
}

// provider is a pool's provider as this process reaches it; of several accounts the first one's.
func (s *service) provider(p config.Pool) config.Provider {
	return s.reached(s.cfg.AccountsOf(p)[0].Provider)
}

// reached is a provider as this process reaches it.
func (s *service) reached(name string) config.Provider {
	p, _ := s.cfg.Named(name)
	if p.Fake {
		p.BaseURL, p.APIKey = s.fake.url, fakeKey
	}
	return p
}

// way names the way in use to a provider, without credentials; "": none is listed, or there are
// several and this process, which calls nobody, uses none of them.
func (s *service) way(provider string) string {
	if ways := s.ways[provider]; ways != nil {
		for _, w := range ways.State() {
			if w.Used {
				return w.Name
			}
		}
	}
	listed, err := s.reached(provider).Ways()
	if err != nil || len(listed) != 1 {
		return ""
	}
	return listed[0].Name
}
