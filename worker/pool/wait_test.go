package pool

import (
	"testing"
	"time"

	"github.com/sluicehq/sluice/tasks"
	"github.com/sluicehq/sluice/worker/limit"
	"github.com/sluicehq/sluice/worker/pause"
)

// At one start a second, a job's wait is the number of starts before it.
func TestAForecastCountsTurnsByWeight(t *testing.T) {
	const many = 1_000_000 // more than the turns come to
	two := tasks.Load{Queued: many, Tenants: 2, Shares: 10, Weights: map[string]float64{"heavy": 9}}
	for _, c := range []struct {
		name           string
		load           tasks.Load
		tenant         string
		place, tenants int64
		want           time.Duration
	}{
		{"alone", tasks.Load{Queued: many, Tenants: 1, Shares: 1}, "light", 7, 1, 7 * time.Second},
		{"alone with a weight", tasks.Load{Queued: many, Tenants: 1, Shares: 9, Weights: two.Weights}, "heavy", 7, 1, 7 * time.Second},
		{"two equal", tasks.Load{Queued: many, Tenants: 2, Shares: 2}, "light", 7, 2, 14 * time.Second},
		{"the lighter of two", two, "light", 7, 2, 70 * time.Second},
		{"the heavier of two", two, "heavy", 9, 2, 10 * time.Second},
		{"a third came since", two, "light", 1, 3, 11 * time.Second},
		{"the tenant itself came since", tasks.Load{Queued: many}, "light", 3, 0, 3 * time.Second},
		{"not more than there are", tasks.Load{Queued: 12, Tenants: 2, Shares: 10, Weights: two.Weights}, "light", 7, 2, 12 * time.Second},
	} {
		v := view{load: c.load, gate: limit.State{Pace: 1, CallsPerSecond: 1, Concurrency: 1, InFlight: 1}}
		if got := v.ahead(time.Now(), c.tenant, c.place, c.tenants); got != c.want {
			t.Errorf("%s: place %d of %s among %d waits %v, want %v", c.name, c.place, c.tenant, c.tenants, got, c.want)
		}
	}
}

// What a pause that is over has left at the gate is gone within a second: the pool is
// open, as whoever resumed it is told. A provider's hold makes it degraded.
func TestAResumedPoolIsOpenThoughTheGateIsNotYetLetGo(t *testing.T) {
	t.Parallel()
	held := limit.State{HeldFor: 5 * time.Second, HoldReason: "why"}
	for _, c := range []struct {
		pause pause.State
		state tasks.PoolState
		why   string
	}{
		{pause.State{Name: pause.Closed, Held: true}, tasks.PoolOpen, ""},
		{pause.State{Name: pause.Closed}, tasks.PoolDegraded, "why"},
		{pause.State{Name: pause.Closed, Paused: true, Reason: "lunch"}, tasks.PoolPaused, "lunch"},
	} {
		got := view{pause: c.pause, gate: held}.status("claude")
		if got.State != c.state || got.Reason != c.why || got.ExpectedResumeAt.IsZero() == (c.state == tasks.PoolDegraded) {
			t.Errorf("%+v: %s, %q, until %v; want %s, %q", c.pause, got.State, got.Reason, got.ExpectedResumeAt, c.state, c.why)
		}
	}
}
