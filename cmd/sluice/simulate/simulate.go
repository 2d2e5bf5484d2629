// Package simulate replays a log of arrivals in virtual time: the record's and the gate's own
// scripts on a real Redis, the forecasts that callers would have been told, and one worker that
// hands out, waits for its place and ends as a worker does.
//
// It promises that what it prints comes from the same code as in service, and that the same
// trace, limits and seed give the same; through outages nearly so. It calls no provider: a call
// takes a second and what its output takes at 60 tokens a second, and none fails but in an outage,
// through which one process goes with the breaker's own scripts. What a submit refuses because no
// wait makes it fit is refused here too, and counted.
package simulate

import (
	"container/heap"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/sluicehq/sluice/tasks"
	"github.com/sluicehq/sluice/tasks/store"
	"github.com/sluicehq/sluice/worker/limit"
	"github.com/sluicehq/sluice/worker/pool"
)

// Config says what is replayed, and through what.
type Config struct {
	Redis  redis.UniversalClient // of this simulation alone
	Trace  []Arrival
	Limits limit.Limits
	Depth  int // jobs between the backlog and the provider
	Weight func(tenant string) int64
	Seed   uint64
	// Load scales the times of arrival so that the trace asks for this share of the allowance,
	// by the dimension that binds. 0: the times are as they are.
	Load float64
	// Outages are when the provider fails every call, in the time of the replay, which Load has
	// scaled; or so many of one length, spread over the trace.
	Outages []Outage
	Spread  Spread
	// Queued is how many jobs a tenant may have waiting at most, and Deadline by when after it asks
	// each caller wants its answer; 0: any number, and whenever it comes. Who is refused comes again
	// when it was told to.
	Queued   int64
	Deadline time.Duration
}

// Outage is a time in which the provider fails.
type Outage struct{ At, For time.Duration }

// Spread is a number of outages of one length.
type Spread struct {
	N   int
	For time.Duration
}

const (
	poolName   = "simulated"
	tokensEach = 60 // a second of a call's output
	answerIn   = time.Second
	lookEvery  = time.Second // somebody asks for a job that waits
)

// job is one call under way.
type job struct {
	Arrival
	id      string
	guess   int64 // of its input
	came    time.Time
	started time.Time
	handed  time.Time // for the call that comes next, or is under way
	out     time.Time // handed out for its first call
	until   time.Time // its deadline; zero: none
	told    []forecast
	at      int // its place among those that wait
}

// forecast is one that was told.
type forecast struct {
	at, start, late time.Time
	seen            int // outages that had ended before; -1: it was not told in one
}

// world is a simulation under way.
type world struct {
	Config
	random  *rand.Rand
	now     time.Time
	events  events
	serial  int
	store   *store.Store
	gate    *limit.Gate
	pools   *pool.Set
	jobs    map[string]*job
	waits   []*job // that have not started
	taken   []tasks.Ticket
	pumping bool
	ended   []*job
	busy    map[string]int // by tenant: looks at which it had a backlog
	looks   int
	last    time.Time // of the last arrival
	refused []Refusal
	open    int // calls that may still be made, or are under way
	outages
	front
	causes
	own map[string][]serving // by tenant
}

// Run replays a trace to its end.
func Run(ctx context.Context, c Config) (*Report, error) {
	w := &world{Config: c, random: rand.New(rand.NewPCG(c.Seed, 2)), now: time.UnixMilli(1_800_000_000_000).UTC(), jobs: map[string]*job{}, busy: map[string]int{}, refused: []Refusal{}, own: map[string][]serving{}}
	w.refuse()
	w.scale()
	clock := func() time.Time { return w.now }
	w.store = store.New(store.Config{Redis: c.Redis, ResultTTL: 24 * time.Hour, Depth: map[string]int{poolName: c.Depth}, Rates: map[string]tasks.Rates{poolName: c.rates()}, Weight: c.Weight, Now: clock})
	var err error
	if w.gate, err = limit.New(limit.Config{Redis: c.Redis, Pool: poolName, Limits: c.Limits, Now: clock}); err != nil {
		return nil, err
	}
	begun := w.now
	if err := w.breaks(begun, clock); err != nil {
		return nil, err
	}
	w.pools = pool.NewSet(w.store, clock, pool.Member{Spec: pool.Spec{Name: poolName, Models: []string{"*"}}, Gate: w.gate, Breaker: w.breaker})
	if err := w.opens(clock); err != nil {
		return nil, err
	}
	w.at(begun, w.live)
	for n, a := range w.Trace {
		at := begun.Add(a.At)
		w.at(at, func(ctx context.Context) error { return w.arrive(ctx, &comer{Arrival: a, n: n}) })
		w.last = at
	}
	w.open = len(w.Trace)
	w.at(begun.Add(lookEvery), w.look)
	for len(w.events) > 0 {
		e := heap.Pop(&w.events).(event)
		w.now = e.at
		if err := e.do(ctx); err != nil {
			return nil, fmt.Errorf("at %s: %w", w.now.Sub(begun), err)
		}
		if err := ctx.Err(); err != nil {
			return nil, err
		}
	}
	return w.report(ctx, begun)
}

// rates are the limits as the order of work takes them.
func (c *Config) rates() tasks.Rates {
	return tasks.Rates{Requests: c.Limits.RequestsPerMinute, InputTokens: c.Limits.InputTokensPerMinute, OutputTokens: c.Limits.OutputTokensPerMinute}
}

// demand is how many seconds of the allowance a call takes, by each dimension.
func (c *Config) demand(a Arrival) (of [3]float64) {
	for i, d := range []struct{ need, limit int64 }{
		{1, c.Limits.RequestsPerMinute}, {a.Input, c.Limits.InputTokensPerMinute}, {a.Output, c.Limits.OutputTokensPerMinute},
	} {
		if d.limit > 0 {
			of[i] = 60 * float64(d.need) / float64(d.limit)
		}
	}
	return of
}

// refuse leaves out of the trace what a submit refuses: what no wait makes fit.
func (w *world) refuse() {
	w.Trace = slices.DeleteFunc(slices.Clone(w.Trace), func(a Arrival) bool {
		of := tasks.Request{InputTokens: int(a.Input)}
		why := of.Beyond(w.Limits.InputTokensPerMinute)
		if why != "" {
			w.refused = append(w.refused, Refusal{a.Line, why})
		}
		return why != ""
	})
}

// scale brings the times of the trace to the load that was asked for.
func (w *world) scale() {
	span := 0.0
	if n := len(w.Trace); n > 0 {
		span = w.Trace[n-1].At.Seconds()
	}
	if w.Load <= 0 || span <= 0 {
		return
	}
	var sum [3]float64
	for _, a := range w.Trace {
		for d, s := range w.demand(a) {
			sum[d] += s
		}
	}
	by := max(sum[0], sum[1], sum[2]) / span / w.Load
	if by <= 0 {
		return
	}
	scaled := make([]Arrival, len(w.Trace))
	for i, a := range w.Trace {
		a.At = time.Duration(float64(a.At) * by)
		scaled[i] = a
	}
	w.Trace = scaled
}

func (w *world) tell(j *job, of tasks.Waiting) {
	if !of.EstimatedStart.IsZero() {
		j.told = append(j.told, forecast{w.now, of.EstimatedStart, of.EstimatedStart90, w.seen()})
	}
}

// live says each second that the pool has a worker.
func (w *world) live(ctx context.Context) error {
	if err := w.pools.WatchOnce(ctx, true); err != nil {
		return err
	}
	if !w.over() {
		w.at(w.now.Add(time.Second), w.live)
	}
	return nil
}

// look asks for a job that waits, as its caller would.
func (w *world) look(ctx context.Context) error {
	w.looks++
	seen := map[string]bool{}
	for _, j := range w.waits {
		if !seen[j.Tenant] {
			seen[j.Tenant] = true
			w.busy[j.Tenant]++
		}
	}
	if n := len(w.waits); n > 0 {
		j := w.waits[w.random.IntN(n)]
		record, err := w.store.Job(ctx, j.Tenant, j.id)
		if err != nil {
			return err
		}
		waiting, err := w.pools.Waiting(ctx, record)
		if err != nil {
			return err
		}
		w.tell(j, waiting)
		if waiting.For != "" {
			w.said = append(w.said, saying{j, w.now, waiting.For})
		}
	}
	if len(w.waits) > 0 || w.now.Before(w.last) {
		w.at(w.now.Add(lookEvery), w.look)
	}
	return nil
}

// hand takes what was handed out, a moment later.
func (w *world) hand(ctx context.Context, next []tasks.Ticket) error {
	for _, t := range next {
		if j := w.jobs[t.ID]; j != nil && j.handed.IsZero() {
			j.handed = w.now
			if j.out.IsZero() {
				j.out = w.now
			}
		}
		w.at(w.now.Add(time.Millisecond), func(ctx context.Context) error {
			if _, err := w.store.Take(ctx, t); tasks.Void(err) {
				return nil // it has expired
			} else if err != nil {
				return err
			}
			w.taken = append(w.taken, t)
			return w.pump(ctx)
		})
	}
	return nil
}

// pump asks for the place of the first that was taken.
func (w *world) pump(ctx context.Context) error {
	if w.pumping || len(w.taken) == 0 {
		return nil
	}
	w.pumping = true
	t := w.taken[0]
	j := w.jobs[t.ID]
	b, err := w.gate.Book(ctx, limit.Need{ID: t.ID, Class: "m", InputTokens: j.guess})
	if err != nil {
		return err
	}
	wait := b.Wait
	if !b.Booked && len(w.all) > 0 {
		wait = min(wait, holdLook) // a process is told when a hold ends
	}
	w.gated(wait, b.Booked, b.Grant.Bound)
	t.Waited = tasks.Waited{Handed: w.now.Add(wait).Sub(j.handed), For: tasks.WaitReason(b.Grant.Bound)}
	w.at(w.now.Add(wait), func(ctx context.Context) error {
		w.pumping = false
		if !b.Booked {
			return w.pump(ctx)
		}
		if w.shut { // as Confirm finds it: the place is lost
			if err := w.gate.Settle(ctx, b.Grant, limit.Actual{Refused: true}); err != nil {
				return err
			}
			return w.pump(ctx)
		}
		w.taken = w.taken[1:]
		if err := w.call(ctx, t, j, b.Grant); err != nil {
			return err
		}
		return w.pump(ctx)
	})
	return nil
}

// call makes a call, which ends by itself.
func (w *world) call(ctx context.Context, t tasks.Ticket, j *job, g limit.Grant) error {
	_, next, err := w.store.Start(ctx, t)
	if tasks.Void(err) { // it has expired
		return w.gate.Settle(ctx, g, limit.Actual{Refused: true})
	}
	if err != nil {
		return err
	}
	w.serves(j)
	if j.started.IsZero() {
		j.started = w.now
		w.leaves(j)
	}
	if w.failing() {
		return errors.Join(w.fail(t, g), w.hand(ctx, next))
	}
	w.runs[t.ID] = t
	takes, status, outcome := answerIn+time.Duration(j.Output)*time.Second/tokensEach, tasks.StatusSucceeded, tasks.Succeeded
	if left := j.until.Sub(w.now); !j.until.IsZero() && left < takes {
		takes, status, outcome = left, tasks.StatusExpired, tasks.ConnectError // it is cut off
		w.expired++
	}
	w.at(w.now.Add(takes), func(ctx context.Context) error {
		if err := w.gate.Settle(ctx, g, limit.Actual{InputTokens: j.Input, OutputTokens: j.Output, Known: true}); err != nil {
			return err
		}
		delete(w.runs, t.ID)
		next, err := w.store.End(ctx, t, tasks.Ending{
			Status: status, Result: []byte(`{}`), Usage: &tasks.Usage{InputTokens: j.Input, OutputTokens: j.Output},
			Attempt: tasks.Attempt{Outcome: outcome}, Draw: w.rates().Draw(j.Input, j.Output),
		})
		if err != nil {
			return err
		}
		w.ended = append(w.ended, j)
		w.open--
		return w.hand(ctx, next)
	})
	return w.hand(ctx, next)
}

// event is something that happens at its time.
type event struct {
	at time.Time
	n  int // of those at the same time, the order
	do func(ctx context.Context) error
}

func (w *world) at(t time.Time, do func(ctx context.Context) error) {
	w.serial++
	heap.Push(&w.events, event{t, w.serial, do})
}

// events are a heap, the next first.
type events []event

// Len is part of [heap.Interface].
func (e events) Len() int { return len(e) }

// Less is part of [heap.Interface].
func (e events) Less(i, j int) bool {
	return e[i].at.Before(e[j].at) || e[i].at.Equal(e[j].at) && e[i].n < e[j].n
}

// Swap is part of [heap.Interface].
func (e events) Swap(i, j int) { e[i], e[j] = e[j], e[i] }

// Push is part of [heap.Interface].
func (e *events) Push(x any) { *e = append(*e, x.(event)) }

// Pop is part of [heap.Interface].
func (e *events) Pop() any {
	last := len(*e) - 1
	x := (*e)[last]
	*e = (*e)[:last]
	return x
}
