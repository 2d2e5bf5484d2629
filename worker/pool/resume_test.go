package pool

import (
	"context"
	"testing"
	"time"

	"github.com/sluicehq/sluice/tasks/redistest"
	"github.com/sluicehq/sluice/worker/pause"
)

// accounted is a pool of two accounts, and their breakers.
func accounted(t *testing.T) (all *Accounts, hold *pause.Breaker, own []*pause.Breaker) {
	t.Helper()
	rdb := redistest.New(t)
	hold, err := pause.New(pause.Config{Redis: rdb, Pool: "p", Queue: queue{rdb}})
	if err != nil {
		t.Fatal(err)
	}
	var list []Account
	for _, name := range []string{"a", "b"} {
		h, err := NewHealth(HealthConfig{Breaker: pause.Config{Redis: rdb, Pool: "p." + name, Rules: pause.Rules{MinCalls: 1, ProbeInterval: time.Hour}}})
		if err != nil {
			t.Fatal(err)
		}
		list, own = append(list, Account{Name: name, Provider: name, Health: h}), append(own, h.Breaker())
	}
	return NewAccounts("claude", hold, list, nil), hold, own
}

// opens are the verdicts that open a breaker, one for each cause but a misfit.
var opens = map[pause.Cause]pause.Verdict{
	pause.Overload:     {Kind: pause.Bad, Reason: "overloaded"},
	pause.SpendCap:     {Kind: pause.Spend, Reason: "spend_limited", ResumeAt: time.Now().Add(time.Hour)},
	pause.BadAuthority: {Kind: pause.Unauthorized, Reason: "unauthorized"},
}

func opened(t *testing.T, b *pause.Breaker, cause pause.Cause) {
	t.Helper()
	if err := b.Record(t.Context(), opens[cause]); err != nil {
		t.Fatal(err)
	}
	if s, err := b.State(t.Context()); err != nil || !s.Paused || s.Cause != cause {
		t.Fatalf("the breaker is %+v, %v; want it open for %s", s, err, cause)
	}
}

// As that of a pool that is one account does.
func TestAnOperatorsResumeIsForEachAccount(t *testing.T) {
	t.Parallel()
	for cause := range opens {
		t.Run(string(cause), func(t *testing.T) {
			t.Parallel()
			all, _, own := accounted(t)
			for _, b := range own {
				opened(t, b, cause)
			}
			if err := all.Resume(t.Context(), "ann"); err != nil {
				t.Fatal(err)
			}
			for i, b := range own {
				s, err := b.State(t.Context())
				if err != nil || s.Paused && (cause != pause.Overload || s.NextProbeAt.After(s.AsOf.Add(time.Second))) {
					t.Errorf("account %d is %+v, %v; want it open, or probed at once", i, s, err)
				}
			}
		})
	}
}

// What it held then is each account's own now, and none of them may be concerned.
func TestAPoolThatWasOneAccountIsNotPausedForIt(t *testing.T) {
	t.Parallel()
	for _, cause := range []pause.Cause{pause.SpendCap, pause.BadAuthority} {
		t.Run(string(cause), func(t *testing.T) {
			t.Parallel()
			all, hold, _ := accounted(t)
			opened(t, hold, cause)
			ctx, cancel := context.WithCancel(t.Context())
			done := make(chan error, 1)
			go func() { done <- all.Run(ctx, true) }()
			eventually(t, "the pool takes calls", func() bool {
				s, err := all.State(t.Context())
				return err == nil && !s.Paused
			})
			cancel()
			if err := <-done; err != nil {
				t.Error(err)
			}

			all, hold, _ = accounted(t)
			opened(t, hold, cause)
			if err := hold.Pause(t.Context(), "ann", "a test"); err != nil {
				t.Fatal(err)
			}
			all.clear(t.Context())
			if s, err := all.State(t.Context()); err != nil || s.PausedBy != pause.ByOperator {
				t.Errorf("an operator's pause is cleared: %+v, %v", s, err)
			}
		})
	}
}
