package simulate

import (
	"context"
	"maps"
	"slices"
	"time"

	"github.com/sluicehq/sluice/tasks"
	"github.com/sluicehq/sluice/worker/limit"
	"github.com/sluicehq/sluice/worker/pause"
)

const (
	failsIn    = 200 * time.Millisecond // a call that the provider fails
	sweepEvery = time.Second
	renewEvery = 3 // sweeps
	holdLook   = 250 * time.Millisecond
)

// outages are when the provider fails, and what the replay needs to go through that: a breaker,
// its probes, sweeps that wake what is tried again, and leases that are renewed.
type outages struct {
	all     []span
	breaker *pause.Breaker
	paused  bool // nothing is handed out
	shut    bool // the gate lets nothing through
	runs    map[string]tasks.Ticket
	sweeps  int
}

// span is from and until when.
type span struct{ from, until time.Time }

// breaks sets up the breaker, and the outages that it is there for.
func (w *world) breaks(begun time.Time, clock func() time.Time) (err error) {
	w.runs = map[string]tasks.Ticket{}
	for _, o := range w.Outages {
		w.all = append(w.all, span{begun.Add(o.At), begun.Add(o.At + o.For)})
	}
	if n := len(w.Trace); n > 0 {
		for i := range w.Spread.N {
			from := begun.Add(w.Trace[n-1].At * time.Duration(2*i+1) / time.Duration(2*w.Spread.N))
			w.all = append(w.all, span{from, from.Add(w.Spread.For)})
		}
	}
	slices.SortFunc(w.all, func(a, b span) int { return a.from.Compare(b.from) })
	w.breaker, err = pause.New(pause.Config{
		Redis: w.Redis, Pool: poolName, Queue: (*line)(w), Gate: (*door)(w), Now: clock, Random: w.random.Float64,
		Probe: func(context.Context) (pause.Verdict, error) {
			if w.failing() {
				return pause.Verdict{Kind: pause.Bad, Reason: "overloaded"}, nil
			}
			return pause.Verdict{Kind: pause.Good}, nil
		},
	})
	if err == nil && len(w.all) > 0 {
		w.at(begun, w.step)
	}
	if len(w.all) > 0 || w.Deadline > 0 {
		w.at(begun, w.sweep)
	}
	return err
}

// failing reports whether the provider fails now.
func (w *world) failing() bool {
	return slices.ContainsFunc(w.all, func(o span) bool { return !w.now.Before(o.from) && w.now.Before(o.until) })
}

// seen is how many outages had ended when the pool is paused for another, else -1.
func (w *world) seen() (n int) {
	if !w.paused {
		return -1
	}
	for _, o := range w.all {
		if !w.now.Before(o.until) {
			n++
		}
	}
	if !w.failing() && n > 0 {
		n-- // of this one the provider is back, and the pool does not know yet
	}
	return n
}

// fail is a call in an outage: the job waits for another try, and the breaker hears of it.
func (w *world) fail(t tasks.Ticket, g limit.Grant) error {
	w.at(w.now.Add(failsIn), func(ctx context.Context) error {
		if err := w.gate.Settle(ctx, g, limit.Actual{Refused: true}); err != nil {
			return err
		}
		delay := time.Duration(w.random.Float64() * float64(time.Second))
		if j := w.jobs[t.ID]; j != nil {
			j.handed = time.Time{}
		}
		next, err := w.store.End(ctx, t, tasks.Ending{
			Status: tasks.StatusRetrying, Delay: delay, Draw: tasks.NoDraw,
			Attempt: tasks.Attempt{Outcome: tasks.ConnectError},
		})
		if err != nil {
			return err
		}
		if err := w.breaker.Record(ctx, pause.Verdict{Kind: pause.Bad, Reason: "overloaded", Took: failsIn}); err != nil {
			return err
		}
		return w.hand(ctx, next)
	})
	return nil
}

// step is a round of the breaker.
func (w *world) step(ctx context.Context) error {
	again, err := w.breaker.Step(ctx)
	if err == nil && !w.over() {
		w.at(w.now.Add(again), w.step)
	}
	return err
}

func (w *world) over() bool { return w.open == 0 }

// sweep wakes what is to be tried again, and renews what is in hand.
func (w *world) sweep(ctx context.Context) error {
	if w.sweeps++; w.sweeps%renewEvery == 0 {
		held := slices.Clone(w.taken)
		for _, id := range slices.Sorted(maps.Keys(w.runs)) {
			held = append(held, w.runs[id])
		}
		if _, err := w.store.Renew(ctx, held); err != nil {
			return err
		}
	}
	swept, err := w.store.Sweep(ctx)
	if err != nil {
		return err
	}
	for _, e := range swept.Expired {
		w.expires(e.ID)
	}
	if !w.over() {
		w.at(w.now.Add(sweepEvery), w.sweep)
	}
	return w.hand(ctx, swept.Hand)
}

// door is the gate of the pool.
type door world

// Hold is part of [pause.Gate].
func (d *door) Hold(ctx context.Context, lasts time.Duration, reason string) error {
	d.shut = true
	return d.gate.Hold(ctx, lasts, reason)
}

// Resume is part of [pause.Gate].
func (d *door) Resume(ctx context.Context, pace float64) error {
	d.shut = false
	return d.gate.Resume(ctx, pace)
}

// line is the queue of the pool, which is no other than the backlog before it.
type line world

// Pause is part of [pause.Queue].
func (l *line) Pause(ctx context.Context, pool string) error {
	l.paused = true
	l.pauses = append(l.pauses, stretch{l.now, l.now.Add(time.Hour), tasks.WaitPaused})
	return l.store.SetPaused(ctx, pool, true)
}

// Resume is part of [pause.Queue].
func (l *line) Resume(ctx context.Context, pool string) error {
	l.paused = false
	if n := len(l.pauses); n > 0 {
		l.pauses[n-1].until = l.now
	}
	return l.store.SetPaused(ctx, pool, false)
}

// Paused is part of [pause.Queue].
func (l *line) Paused(context.Context, string) (bool, error) { return l.paused, nil }
