package pool

import (
	"cmp"
	"math"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/sluicehq/sluice/tasks"
	"github.com/sluicehq/sluice/worker/limit"
	"github.com/sluicehq/sluice/worker/pause"
)

// At one start a second, a job's wait is the number of starts before it, with its own.
func TestAForecastCountsWhatGoesBefore(t *testing.T) {
	t.Parallel()
	const many = 1_000_000 // more than the turns come to
	second := limit.State{Pace: 1, CallsPerSecond: 1, Concurrency: 1, InFlight: 1}
	other := func(at, weight, jobs float64) tasks.Turn { return tasks.Turn{At: at, Weight: weight, Backlog: jobs} }
	for _, c := range []struct {
		name string
		f    facts
		want time.Duration
	}{
		{"alone", facts{own: 6}, 7 * time.Second},
		{"alone with a weight", facts{own: 6, weight: 9}, 7 * time.Second},
		{"behind what is handed out", facts{own: 6, stage: 30}, 37 * time.Second},
		{"handed out itself", facts{own: -1, stage: 30, handed: true, others: []tasks.Turn{other(0, 1, many)}}, 31 * time.Second},
		{"two equal, either goes first", facts{own: 6, others: []tasks.Turn{other(0, 1, many)}}, 13500 * time.Millisecond},
		{"the other goes first", facts{own: 6, others: []tasks.Turn{other(-0.5, 1, many)}}, 14 * time.Second},
		{"the other's turn is later", facts{others: []tasks.Turn{other(0.5, 1, many)}}, time.Second},
		{"the lighter of two", facts{own: 6, others: []tasks.Turn{other(-0.01, 9, many)}}, 62 * time.Second},
		{"the heavier of two", facts{own: 8, weight: 9, others: []tasks.Turn{other(-0.01, 1, many)}}, 10 * time.Second},
		{"others are soon empty", facts{own: 6, others: []tasks.Turn{other(0, 1, 2), other(0, 1, 3)}}, 12 * time.Second},
		{"a hundred that nobody looked at", facts{own: 6, others: []tasks.Turn{other(0, 1, 2), other(1, 1, 4)}, unseen: 100}, (7 + 2 + 4 + 300) * time.Second},
		{"cost in place of jobs", facts{own: 3, mean: 0.5, others: []tasks.Turn{other(-0.01, 1, many)}}, (1 + 6 + 7) * time.Second},
	} {
		c.f.gate, c.f.weight = second, cmp.Or(c.f.weight, 1)
		if got := c.f.wait(); got != c.want {
			t.Errorf("%s waits %v, want %v", c.name, got, c.want)
		}
	}
}

// Against a fair queue that is played to its end: whatever the turns, weights and backlogs,
// what the formula says goes before a job did.
func TestAForecastIsTheOrderOfWork(t *testing.T) {
	t.Parallel()
	for seed := range uint64(300) {
		r := rand.New(rand.NewPCG(seed, 3))
		n := 1 + r.IntN(8)
		turns, left := make([]tasks.Turn, n), make([]float64, n)
		for i := range turns {
			turns[i] = tasks.Turn{
				At: 3 * r.Float64(), Weight: float64(1 + r.IntN(9)), Backlog: float64(1 + r.IntN(40)),
			}
			left[i] = turns[i].Backlog
		}
		own := r.IntN(int(left[0]))
		f := facts{own: float64(own), weight: turns[0].Weight, turn: turns[0].At, others: turns[1:]}
		at, before := make([]float64, n), 0.0
		for i := range at {
			at[i] = turns[i].At
		}
		for served := 0; ; before++ {
			next := -1
			for i := range at {
				if left[i] > 0 && (next < 0 || at[i] < at[next]) {
					next = i
				}
			}
			if next == 0 {
				if served == own {
					break
				}
				served++
			}
			at[next] += 1 / turns[next].Weight
			left[next]--
		}
		if got := f.ahead(); math.Abs(got-before) > float64(n)/2 {
			t.Errorf("seed %d: %v go before, the formula says %v", seed, before, got)
		}
	}
}

// What is told: at first the prediction, then as those before it came out. Nine of ten is
// never before the start that is expected.
func TestWhatIsToldIsCorrected(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name       string
		late       time.Duration
		degraded   bool
		learned    tasks.Correction
		told, upTo time.Duration
	}{
		{"nothing is known", 0, false, tasks.Correction{}, 10 * time.Second, 14 * time.Second},
		{"of a pool that is shut", 0, true, tasks.Correction{}, 10 * time.Second, 30 * time.Second},
		{"its reopening may be late", time.Minute, true, tasks.Correction{}, 10 * time.Second, time.Minute},
		{"too little is known", 0, false, tasks.Correction{Samples: 19, Median: 1, Late: 2}, 10 * time.Second, 14 * time.Second},
		{"twice as long", 0, false, tasks.Correction{Samples: 20, Median: math.Log(2), Late: math.Log(3)}, 20 * time.Second, 30 * time.Second},
		{"late before the middle", 0, false, tasks.Correction{Samples: 20, Median: math.Log(2), Late: 0}, 20 * time.Second, 20 * time.Second},
	} {
		told, by := corrected(10*time.Second, c.late, c.degraded, c.learned)
		if told.Round(time.Millisecond) != c.told || by.Round(time.Millisecond) != c.upTo {
			t.Errorf("%s: told %v and %v, want %v and %v", c.name, told, by, c.told, c.upTo)
		}
	}
}

// Of a pool that nobody works for, or that an operator stopped, nobody knows when a job
// starts; of an outage it is told, and that it is no ordinary forecast.
func TestAForecastOfAPoolThatIsShut(t *testing.T) {
	t.Parallel()
	now := time.UnixMilli(1_800_000_000_000)
	gate := limit.State{Pace: 1, CallsPerSecond: 1, Concurrency: 1, InFlight: 1}
	worked := tasks.Load{WorkedAt: now.Add(-time.Second)}
	for _, c := range []struct {
		name            string
		v               view
		known, degraded bool
		from, to        time.Duration
	}{
		{"open", view{load: worked}, true, false, time.Second, time.Second},
		{"an operator's pause", view{load: worked, pause: pause.State{Name: pause.Closed, Paused: true}}, false, true, 0, time.Hour},
		{"an outage", view{load: worked, pause: pause.State{Name: pause.Open, Paused: true, ExpectedResumeAt: now.Add(time.Minute)}}, true, true, 61 * time.Second, 62 * time.Second},
		{"no worker", view{}, false, true, 0, time.Hour},
		{"its worker said nothing for long", view{load: tasks.Load{WorkedAt: now.Add(-6 * time.Second)}}, false, true, 0, time.Hour},
		{"a worker of the release before this, in a call", view{load: tasks.Load{Running: 1}}, true, false, time.Second, 2 * time.Second},
	} {
		c.v.gate = gate
		c.v.pause.Name = cmp.Or(c.v.pause.Name, pause.Closed)
		c.v.alone = c.v.unattended(now)
		f := c.v.forecast(now, "acme", tasks.Place{Own: 1, Ahead: -1})
		if f.known != c.known || f.degraded != c.degraded || f.predicted < c.from || f.predicted > c.to {
			t.Errorf("%s: %+v; want known %t, degraded %t, in %v to %v", c.name, f, c.known, c.degraded, c.from, c.to)
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
