package pool

import (
	"context"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/sluicehq/sluice/tasks/redistest"
	"github.com/sluicehq/sluice/worker/limit"
	"github.com/sluicehq/sluice/worker/pause"
)

// kinPool is a pool of accounts a, b … with these limits a minute, whose gates run.
func kinPool(t *testing.T, minutes ...int64) *Accounts {
	t.Helper()
	a, _ := kinPoolOn(t, redistest.New(t), minutes...)
	return a
}

// kinPoolOn is kinPool as one more process has it, with its breakers' hands.
func kinPoolOn(t *testing.T, rdb redis.UniversalClient, minutes ...int64) (*Accounts, *Hands) {
	t.Helper()
	hold, err := pause.New(pause.Config{Redis: rdb, Pool: "p"})
	if err != nil {
		t.Fatal(err)
	}
	var list []Account
	var hands Hands
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan error, len(minutes))
	for i, n := range minutes {
		name := string(rune('a' + i))
		gate, err := limit.New(limit.Config{Redis: rdb, Pool: "p." + name, Limits: limit.Limits{RequestsPerMinute: n, RequestBurst: 1}})
		if err != nil {
			t.Fatal(err)
		}
		go func() { ended <- gate.Run(ctx) }()
		a := Account{Name: name, Provider: name, Gate: gate, Pace: NewAllowance(gate)}
		hand := hands.On(a.Pace)
		a.Health, err = NewHealth(HealthConfig{Breaker: pause.Config{Redis: rdb, Pool: "p." + name, Gate: hand, Rules: pause.Rules{ProbeInterval: time.Hour}}})
		if err != nil {
			t.Fatal(err)
		}
		hand.Health = a.Health
		list = append(list, a)
	}
	t.Cleanup(func() {
		stop()
		for range minutes {
			<-ended
		}
	})
	return NewAccounts("p", hold, list, nil), &hands
}

// said has accounts found to be of these organisations.
func (a *Accounts) said(t *testing.T, orgs ...string) {
	t.Helper()
	for i, org := range orgs {
		b := a.list[i].Health.breaker
		if err := b.Record(t.Context(), pause.Verdict{Kind: pause.Bad, Alone: true, Model: "m", Organization: org}); err != nil {
			t.Fatal(err)
		}
		if _, err := b.State(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	a.merge(t.Context())
}

func (a *Accounts) sharing() (list [3]string) {
	for i, one := range a.list {
		list[i] = one.shares()
	}
	return list
}

func TestAccountsOfOneOrganisationHaveOneAllowance(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		minutes []int64
		named   [3]string
		orgs    []string
		want    [3]string // whose allowance each has
	}{
		"nobody says":                  {[]int64{6, 6, 6}, [3]string{}, []string{"", "", ""}, [3]string{}},
		"each its own":                 {[]int64{6, 6, 6}, [3]string{}, []string{"x", "y", "z"}, [3]string{}},
		"two of three":                 {[]int64{6, 6, 6}, [3]string{}, []string{"x", "y", "x"}, [3]string{"", "", "a"}},
		"the lowest limits":            {[]int64{60, 6, 30}, [3]string{}, []string{"x", "x", "x"}, [3]string{"b", "", "b"}},
		"that which is named":          {[]int64{6, 60, 6}, [3]string{"", "org"}, []string{"x", "x", "y"}, [3]string{"b"}},
		"two that are named otherwise": {[]int64{6, 60, 6}, [3]string{"one", "two"}, []string{"x", "x", "x"}, [3]string{"", "", "a"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			a := kinPool(t, c.minutes...)
			for i, name := range c.named {
				a.list[i].Allowance = name
			}
			a.said(t, c.orgs...)
			if got := a.sharing(); got != c.want {
				t.Errorf("share those of %q, want %q", got, c.want)
			}
		})
	}
}

// Who waits at a gate when it is found that another has its allowance goes there; what has a place is settled where that is.
func TestWhoWaitsGoesOverToTheSharedAllowance(t *testing.T) {
	t.Parallel()
	a := kinPool(t, 1, 1)
	one := a.list[1].Pace
	first, err := one.Take(t.Context(), limit.Need{ID: "first"})
	if err != nil || first.Gate() != one.own {
		t.Fatalf("%+v, %v", first, err)
	}
	waits, got := make(chan struct{}), make(chan limit.Grant, 1)
	go func() {
		g, err := one.Take(t.Context(), limit.Need{ID: "second", Waits: func() { close(waits) }})
		if err != nil {
			t.Error(err)
		}
		got <- g
	}()
	<-waits // for a minute, at its own gate
	a.said(t, "x", "x")
	if g := <-got; g.Gate() != a.list[0].Pace.own {
		t.Error("the second call has its place at its own gate")
	}
	if err := one.Settle(t.Context(), first, limit.Actual{Known: true}); err != nil {
		t.Error(err)
	}
	a.said(t, "x", "y")
	if got := a.sharing(); got != [3]string{} {
		t.Errorf("share those of %q after the key is another organisation's", got)
	}
}

// A breaker stops what accounts share only while none of them takes calls, and lets it go slowly then.
func TestASharedAllowanceStopsWithTheLastAccount(t *testing.T) {
	t.Parallel()
	a := kinPool(t, 60, 60)
	a.said(t, "x", "x")
	gate := a.list[0].Pace.own
	held := func() bool {
		t.Helper()
		s, err := gate.State(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return s.HeldFor > 0
	}
	opened(t, a.list[1].Health.breaker, pause.BadAuthority)
	if held() {
		t.Error("one of two is refused, and the other cannot send")
	}
	opened(t, a.list[0].Health.breaker, pause.BadAuthority)
	if !held() {
		t.Error("both are refused, and the gate is open")
	}
	if err := a.list[1].Health.breaker.Resume(t.Context(), "ada"); err != nil {
		t.Fatal(err)
	}
	if s, err := gate.State(t.Context()); err != nil || s.HeldFor > 0 || s.Pace >= 1 {
		t.Errorf("the gate is %+v, %v; want it open at a part of its pace", s, err)
	}
}

// A process that starts has heard nothing yet: it asks before it stops what others go on with, and who shares it.
func TestAProcessThatStartsLeavesASharedAllowanceAlone(t *testing.T) {
	t.Parallel()
	rdb := redistest.New(t)
	a, _ := kinPoolOn(t, rdb, 60, 60)
	a.said(t, "x", "x")
	opened(t, a.list[1].Health.breaker, pause.BadAuthority)

	late, hands := kinPoolOn(t, rdb, 60, 60)
	late.merge(t.Context())
	if got := late.sharing(); got != [3]string{"", "a"} {
		t.Errorf("share those of %q, want the second that of the first", got)
	}
	late, hands = kinPoolOn(t, rdb, 60, 60)
	late.list[1].Pace.move(late.list[0].Pace.own)
	for what, act := range map[string]func() error{
		"held":             func() error { return hands.list[1].Hold(t.Context(), time.Minute, "refused") },
		"let go at a part": func() error { return hands.list[1].Resume(t.Context(), 0.1) },
	} {
		if err := act(); err != nil {
			t.Fatal(err)
		}
		if s, err := a.list[0].Pace.State(t.Context()); err != nil || s.HeldFor > 0 || s.Pace < 1 {
			t.Errorf("what the other account goes on with is %s: %+v, %v", what, s, err)
		}
	}
}

// Who waits while it is found that an account has another's allowance, and again that it has not, has its place all the same.
func TestWhoWaitsHasItsPlaceWhereTheAllowanceComesBack(t *testing.T) {
	t.Parallel()
	a := kinPool(t, 1, 200)
	one := a.list[1].Pace
	if _, err := one.Take(t.Context(), limit.Need{ID: "first"}); err != nil {
		t.Fatal(err)
	}
	waits, ended := make(chan struct{}), make(chan error, 1)
	go func() {
		_, err := one.Take(t.Context(), limit.Need{ID: "second", Waits: func() { close(waits) }})
		ended <- err
	}()
	select {
	case <-waits:
		one.move(a.list[0].Pace.own)
		one.move(one.own)
		if err := <-ended; err != nil {
			t.Errorf("its call ended with %v", err)
		}
	case err := <-ended:
		t.Logf("it did not wait: %v", err)
	}
}
