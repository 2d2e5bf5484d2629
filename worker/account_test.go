package worker

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sluicehq/sluice/tasks"
	"github.com/sluicehq/sluice/worker/limit"
	"github.com/sluicehq/sluice/worker/pool"
	"github.com/sluicehq/sluice/worker/upstream"
)

// freeGate lets each call go at once, or none, and tells of it.
type freeGate struct {
	Gate
	full  atomic.Bool
	asked chan string // the calls
}

func newFreeGate() *freeGate { return &freeGate{asked: make(chan string, 100)} }

func (g *freeGate) Take(ctx context.Context, n limit.Need) (limit.Grant, error) {
	g.asked <- n.ID
	if g.full.Load() {
		n.Waits()
		<-ctx.Done()
		return limit.Grant{}, ctx.Err()
	}
	return limit.Grant{ID: n.ID}, nil
}

func (*freeGate) Return(limit.Grant) {}

// state is an account's health, as the test has it.
type state struct {
	paused atomic.Bool
	held   atomic.Int64  // how long the model sick is, in ns
	hangs  chan struct{} // until it is closed Held and Try do; nil: they do not
	tried  chan string   // the models
	gone   chan struct{}
}

const sick = "sick"

func (s *state) hold(d time.Duration) *state { s.held.Store(int64(d)); return s }

func (*state) Report(context.Context, pool.Call, upstream.Answer) pool.Standing { return pool.Open }
func (s *state) Paused(context.Context) bool                                    { return s.paused.Load() }
func (s *state) Shut() bool                                                     { return s.paused.Load() }
func (s *state) Gone() <-chan struct{}                                          { return s.gone }
func (s *state) Sick(model string) bool                                         { return model == sick && s.held.Load() > 0 }

func (s *state) Held(_ context.Context, model string) time.Duration {
	if s.hangs != nil && s.Sick(model) {
		<-s.hangs
	}
	if model != sick {
		return 0
	}
	return time.Duration(s.held.Load())
}

func (s *state) Try(_ context.Context, model string) {
	s.tried <- model
	if s.hangs != nil {
		<-s.hangs
	}
}

// listed is a pool of these accounts, whose gates are free.
func listed(health ...*state) (p *servedPool, gates []*freeGate) {
	cfg := Pool{Name: "p"}
	for i, h := range health {
		gates = append(gates, newFreeGate())
		name := string(rune('a' + i))
		cfg.Accounts = append(cfg.Accounts, Account{Name: name, Provider: name, Gate: gates[i], Health: h, Weight: 1})
	}
	p = &servedPool{Pool: cfg, accounts: members(cfg), looks: make(chan struct{}, 1)}
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

func TestAModelThatHangsAtAnAccountHoldsNobodyUp(t *testing.T) {
	t.Parallel()
	bad := &state{hangs: make(chan struct{}), tried: make(chan string, 100)}
	p, gates := listed(new(state), bad.hold(time.Second))
	ctx, cancel := context.WithCancel(t.Context())
	watched := make(chan error, 1)
	go func() { watched <- p.watch(ctx) }()
	defer func() {
		cancel()
		if err := soon(t, "the watch ends", watched); err != nil {
			t.Error(err)
		}
	}()
	defer close(bad.hangs)
	gates[0].full.Store(true)
	left, leave := context.WithCancel(t.Context())
	_, waits := p.choosing(left, sick) // at the first
	soon(t, "the first account is asked", gates[0].asked)
	if model := soon(t, "the second one tries the model", bad.tried); model != sick {
		t.Errorf("it tries %q", model)
	}
	gates[0].full.Store(false)
	for _, model := range []string{sick, "well"} {
		_, done := p.choosing(t.Context(), model)
		if err := soon(t, "a job of the model "+model+" is sent", done); err != nil {
			t.Error(err)
		}
	}
	if len(bad.tried) > 0 {
		t.Error("a model is tried twice at once")
	}
	leave()
	soon(t, "the job that waits leaves", waits)
}

func TestAModelIsHeldWhereNoAccountThatTakesCallsAnswersIt(t *testing.T) {
	t.Parallel()
	paused, gone := new(state), &state{gone: make(chan struct{})}
	paused.paused.Store(true)
	close(gone.gone)
	held := func(d time.Duration) *state { return new(state).hold(d) }
	for name, c := range map[string]struct {
		list []*state
		want time.Duration
	}{
		"all well":                {[]*state{new(state), new(state)}, 0},
		"one answers it":          {[]*state{held(9), new(state)}, 0},
		"none does":               {[]*state{held(9), held(5)}, 5},
		"one is paused":           {[]*state{paused, held(9)}, 9},
		"one is not reached":      {[]*state{held(9), gone}, 9},
		"the paused one held it":  {[]*state{paused, held(9), new(state)}, 0},
		"all are paused":          {[]*state{paused, paused}, 0},
		"paused, or not reached":  {[]*state{paused, gone}, 0},
		"one alone, that is sick": {[]*state{held(9)}, 9},
	} {
		p, _ := listed(c.list...)
		if got := p.heldFor(t.Context(), sick); got != c.want {
			t.Errorf("%s: held for %d, want %d", name, got, c.want)
		}
		if got := p.heldFor(t.Context(), "well"); got != 0 {
			t.Errorf("%s: another model is held for %d", name, got)
		}
	}
}

// Else the jobs of one model hold all places of a worker until the model is well.
func TestAJobLeavesWhenItsModelIsHeldWhileItWaits(t *testing.T) {
	t.Parallel()
	a, b := new(state), new(state)
	a.tried, b.tried = make(chan string, 100), make(chan string, 100)
	p, gates := listed(a, b)
	for _, g := range gates {
		g.full.Store(true)
	}
	_, done := p.choosing(t.Context(), sick)
	soon(t, "it waits at the first", gates[0].asked)
	soon(t, "it waits at the second", gates[1].asked)
	b.paused.Store(true)
	a.hold(time.Second)
	if err := soon(t, "it leaves", done); !errors.Is(err, errHeld) {
		t.Errorf("it ends with %v", err)
	}
}

// The name of an account is no provider's, also where it is the only one.
func TestAPoolThatIsOneAccountNamesItsProvider(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		pool Pool
		want [2]string // the account, and the provider
	}{
		{Pool{Provider: "a"}, [2]string{"a", "a"}},
		{Pool{Provider: "a", Account: "eu"}, [2]string{"eu", "a"}},
		{Pool{Accounts: []Account{{Name: "eu", Provider: "a"}}}, [2]string{"eu", "a"}},
	} {
		p := &servedPool{Pool: c.pool, accounts: members(c.pool)}
		a := &attempt{p: p}
		if got := [2]string{p.accounts[0].Name, a.provider()}; got != c.want {
			t.Errorf("account and provider %q, want %q", got, c.want)
		}
	}
}
