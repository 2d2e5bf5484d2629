package limit

import (
	"context"
	"io"
	"log/slog"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"go.uber.org/goleak"

	"github.com/sluicehq/sluice/tasks/redistest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

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
		case <-time.After(5 * time.Second):
			t.Error("Run did not end within 5 s")
		}
	})
}

func take(t testing.TB, g *Gate, n Need) Grant {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	grant, err := g.Take(ctx, n)
	if err != nil {
		t.Fatalf("Take %s: %v", n.ID, err)
	}
	return grant
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
	g := newGate(t, redistest.New(t), Limits{RequestsPerMinute: 600, InputTokensPerMinute: 60_000, OutputTokensPerMinute: 60_000})
	start(t, g)
	n := Need{ID: "a", Class: "c", InputTokens: 10, MaxTokens: 20}
	if first := take(t, g, n); first.Waited > 50*time.Millisecond {
		t.Errorf("first call waited %v, want next to nothing", first.Waited)
	}
	if second := take(t, g, n); second.Waited < 80*time.Millisecond || second.Waited > 300*time.Millisecond {
		t.Errorf("second call waited %v, want about 100 ms", second.Waited)
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
