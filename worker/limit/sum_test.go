package limit

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/sluicehq/sluice/tasks/redistest"
)

func TestWhoHasToWaitIsTold(t *testing.T) {
	t.Parallel()
	f := newFakeClock()
	g := f.gate(t, redistest.New(t), Limits{RequestsPerMinute: 60, RequestBurst: 1})
	start(t, g)
	waits := make(chan string, 10)
	ctx, leave := context.WithCancel(t.Context())
	defer leave()
	ask := func(id string) <-chan error {
		done := make(chan error, 1)
		go func() {
			_, err := g.Take(ctx, Need{ID: id, Waits: func() { waits <- id }})
			done <- err
		}()
		return done
	}
	if err := waitFor(t, ask("first")); err != nil || len(waits) != 0 {
		t.Fatalf("the first call passes, %v, and %d are told to wait", err, len(waits))
	}
	second := ask("second")
	if got := <-waits; got != "second" {
		t.Errorf("%s is told", got)
	}
	third := ask("third")
	if got := <-waits; got != "third" {
		t.Errorf("%s is told", got)
	}
	leave()
	for _, done := range []<-chan error{second, third} {
		if err := waitFor(t, done); !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
	}
	if len(waits) != 0 {
		t.Errorf("%d are told twice", len(waits))
	}
}

func TestAPlaceIsReturned(t *testing.T) {
	t.Parallel()
	g := newGate(t, redistest.New(t), Limits{RequestsPerMinute: 60, RequestBurst: 1, Concurrency: 1})
	start(t, g)
	grant, err := g.Take(t.Context(), Need{ID: "a"})
	if err != nil {
		t.Fatal(err)
	}
	g.Return(grant)
	eventually(t, "nothing is under way", func() bool {
		s, err := g.State(t.Context())
		return err == nil && s.InFlight == 0
	})
}

func TestGatesTogether(t *testing.T) {
	t.Parallel()
	of := func(limit int64, used, level float64) Dimension {
		return Dimension{Limit: limit, Capacity: 10, Level: level, Used: used, guard: 1, need: 1, rate: float64(limit) / 60}
	}
	one := State{Requests: of(60, 0.5, 3), InFlight: 2, Concurrency: 4, Pace: 1, Binds: "requests", CallsPerSecond: 1, soft: 1, Latency: time.Second}
	two := State{Requests: of(180, 0.9, -1), InFlight: 3, Concurrency: 6, Pace: 0.5, Binds: "requests", CallsPerSecond: 3, soft: 1, Latency: 2 * time.Second, Served: true}
	sum := Sum(one, two)
	if r := sum.Requests; r.Limit != 240 || r.Capacity != 20 || r.Level != 2 || r.Used != 0.8 || r.guard != 2 || r.rate != 4 || r.need != 1 {
		t.Errorf("requests %+v", r)
	}
	if sum.InFlight != 5 || sum.Concurrency != 10 || sum.CallsPerSecond != 4 || sum.Binds != "requests" || sum.Pace != 0.625 || !sum.Served || sum.Latency != 1750*time.Millisecond || sum.HeldFor != 0 {
		t.Errorf("sum %+v", sum)
	}
	held := two
	held.HeldFor, held.HoldReason = 9*time.Second, "rate_limited"
	if got := Sum(one, held); got.Requests.Limit != 60 || got.HeldFor != 0 || got.InFlight != 5 {
		t.Errorf("with one held: %+v", got)
	}
	longer := one
	longer.HeldFor = time.Minute
	if got := Sum(longer, held); got.HeldFor != 9*time.Second || got.HoldReason != "rate_limited" || got.Requests.Limit != 240 {
		t.Errorf("with both held: %+v", got)
	}
	free := one
	free.Requests, free.Concurrency, free.Binds = Dimension{}, 0, ""
	if got := Sum(one, free); got.Requests.Limit != 0 || got.Concurrency != 0 || got.Binds != "" {
		t.Errorf("with one that has no limit: %+v", got)
	}
	if got := Sum(one); got != one {
		t.Errorf("one alone: %+v, want %+v", got, one)
	}
}
