package worker

import (
	"context"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sluicehq/sluice/tasks"
	"github.com/sluicehq/sluice/worker/limit"
	"github.com/sluicehq/sluice/worker/pool"
	"github.com/sluicehq/sluice/worker/upstream"
)

// freeGate lets each call go at once, and tells of it.
type freeGate struct {
	Gate
	asked chan string // the calls
}

func newFreeGate() *freeGate { return &freeGate{asked: make(chan string, 100)} }

func (g *freeGate) Take(_ context.Context, n limit.Need) (limit.Grant, error) {
	g.asked <- n.ID
	return limit.Grant{ID: n.ID}, nil
}

func (*freeGate) Return(limit.Grant) {}

// state is an account's health, as the test has it.
type state struct {
	paused atomic.Bool
}

func (*state) Report(context.Context, pool.Call, upstream.Answer) pool.Standing { return pool.Open }
func (*state) Held(context.Context, string) time.Duration                       { return 0 }
func (s *state) Paused(context.Context) bool                                    { return s.paused.Load() }
func (*state) Gone() <-chan struct{}                                            { return nil }

// listed is a pool of these accounts, whose gates are free.
func listed(health ...*state) (p *servedPool, gates []*freeGate) {
	cfg := Pool{Name: "p"}
	for i, h := range health {
		gates = append(gates, newFreeGate())
		name := string(rune('a' + i))
		cfg.Accounts = append(cfg.Accounts, Account{Name: name, Provider: name, Gate: gates[i], Health: h, Weight: 1})
	}
	p = &servedPool{Pool: cfg, accounts: members(cfg)}
	p.turns = turns(cfg, p.accounts)
	return p, gates
}

// choosing starts to choose an account for a job of a model, and returns where it says how that ended.
func (p *servedPool) choosing(ctx context.Context, model string) (a *attempt, done <-chan error) {
	a = &attempt{w: &Worker{}, p: p, job: tasks.Job{ID: "job", Model: model}}
	ended := make(chan error, 1)
	go func() { ended <- a.choose(ctx, limit.Need{ID: model}) }()
	return a, ended
}

func soon[T any](t *testing.T, what string, c <-chan T) (v T) {
	t.Helper()
	select {
	case v = <-c:
	case <-time.After(time.Minute):
		t.Fatal("a minute went by without: " + what)
	}
	return v
}

// However many a pool lists: one alone is an account that shares its allowance with other pools.
func TestListedAccountsMakeNoCallsWhileTheirBreakersAreOpen(t *testing.T) {
	t.Parallel()
	for n := 1; n <= 3; n++ {
		health := make([]*state, n)
		for i := range health {
			health[i] = new(state)
			health[i].paused.Store(true)
		}
		p, gates := listed(health...)
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
		_, done := p.choosing(ctx, "m")
		if err := soon(t, "it gives up", done); err == nil {
			t.Errorf("one of %d accounts, all paused, sends the call", n)
		}
		cancel()
		for i, g := range gates {
			if len(g.asked) > 0 {
				t.Errorf("the gate of account %d of %d is asked, and its breaker is open", i, n)
			}
		}
		health[n-1].paused.Store(false)
		a, done := p.choosing(t.Context(), "m")
		if err := soon(t, "the one that came back sends it", done); err != nil || a.by != p.accounts[n-1] {
			t.Errorf("of %d accounts, %v, %v", n, a.by, err)
		}
	}
}
