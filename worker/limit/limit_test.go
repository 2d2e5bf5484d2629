package limit

import (
	"context"
	"flag"
	"io"
	"log/slog"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"go.uber.org/goleak"

	"github.com/sluicehq/sluice/tasks"
	"github.com/sluicehq/sluice/tasks/redistest"
)

func TestMain(m *testing.M) {
	// Each test takes turns with a Redis of its own, or waits for it: a test more than
	// there are processors keeps them at work. -parallel still has the last word.
	_ = flag.Set("test.parallel", "4")
	goleak.VerifyTestMain(m)
}

// newGate returns a gate on rdb, quiet, with what change sets.
func newGate(t testing.TB, rdb redis.UniversalClient, l Limits, change ...func(*Config)) *Gate {
	t.Helper()
	cfg := Config{Redis: rdb, Pool: "p", Limits: l, Log: slog.New(slog.NewTextHandler(io.Discard, nil))}
	for _, c := range change {
		c(&cfg)
	}
	g, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return g
}

// start runs the gate until the test ends.
func start(t testing.TB, g *Gate) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- g.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		select {
		case err := <-done:
			if err != nil {
				t.Errorf("Run: %v", err)
			}
		case <-time.After(time.Minute):
			t.Error("Run did not end within a minute")
		}
	})
}

func take(t testing.TB, g *Gate, n Need) Grant {
	t.Helper()
	grant, _ := timedTake(t, g, n)
	return grant
}

// timedTake is take, and how long it waited.
func timedTake(t testing.TB, g *Gate, n Need) (Grant, time.Duration) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	began := g.clock.now()
	grant, err := g.Take(ctx, n)
	if err != nil {
		t.Fatalf("Take %s: %v", n.ID, err)
	}
	return grant, g.clock.now().Sub(began)
}

// observe hands in headers of a reservation that nobody knows: they alone count.
func observe(t testing.TB, g *Gate, seen Observed) {
	t.Helper()
	if err := g.Settle(t.Context(), Grant{key: "unknown"}, Actual{Observed: &seen}); err != nil {
		t.Fatal(err)
	}
}

// waitingProcesses counts those in line for a concurrency slot.
func waitingProcesses(t testing.TB, g *Gate) int64 {
	t.Helper()
	n, err := g.rdb.ZCard(t.Context(), "sluice:limit:{p}:waiting").Result()
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func state(t testing.TB, g *Gate) State {
	t.Helper()
	s, err := g.State(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestFirstCallPassesAtOnceAndTheNextAtThePace(t *testing.T) {
	t.Parallel()
	f := newFakeClock()
	g := f.gate(t, redistest.New(t), Limits{RequestsPerMinute: 600, InputTokensPerMinute: 60_000, OutputTokensPerMinute: 60_000})
	start(t, g)
	n := Need{ID: "a", Class: "c", InputTokens: 10, MaxTokens: 20}
	if _, waited := timedTake(t, g, n); waited != 0 {
		t.Errorf("first call waited %v", waited)
	}
	second := taking(t.Context(), g, n)
	f.pass(t, 100*time.Millisecond)
	if err := waitFor(t, second); err != nil {
		t.Errorf("second call: %v", err)
	}
	if s := state(t, g); s.InFlight != 2 || s.Binds != "requests" {
		t.Errorf("got %d in flight, bound by %q; want 2, requests", s.InFlight, s.Binds)
	}
}

func TestNoLimits(t *testing.T) {
	t.Parallel()
	g := newGate(t, redistest.New(t), Limits{})
	start(t, g)
	for range 20 {
		grant := take(t, g, Need{ID: "a", Class: "c", InputTokens: 10, MaxTokens: 20})
		if err := g.Settle(t.Context(), grant, Actual{InputTokens: 3, OutputTokens: 4, Known: true}); err != nil {
			t.Fatal(err)
		}
	}
	if s := state(t, g); s.InFlight != 0 || s.CallsPerSecond != 0 || s.Wait(1000) != 0 {
		t.Errorf("got %+v, want nothing in flight and no wait", s)
	}
}

// What a gate says that binds, and what its metrics name, are reasons to wait as callers
// are told them.
func TestDimensionsAreReasonsToWait(t *testing.T) {
	t.Parallel()
	want := []tasks.WaitReason{tasks.WaitRequests, tasks.WaitInputTokens, tasks.WaitOutputTokens, tasks.WaitConcurrency}
	for i, name := range append(dimensions[:], concurrency) {
		if want[i] != tasks.WaitReason(name) {
			t.Errorf("dimension %d is %s, want %s", i, name, want[i])
		}
	}
}
