package fair

import (
	"cmp"
	"context"
	"math"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/sluicehq/sluice/tasks"
	"github.com/sluicehq/sluice/tasks/store"
)

const pool = "fair"

// arena is a pool in virtual time: the real scripts on a real Redis, and a provider that
// gives one call after the other what it draws on the allowance.
type arena struct {
	store *store.Store
	rates tasks.Rates
	now   time.Time
	line  []tasks.Ticket // handed out, the first goes first
	jobs  map[string]work
	// served is what each tenant's calls have drawn, in seconds; largest is the largest of one.
	served, largest map[string]float64
}

// work is a job as its provider will find it.
type work struct {
	tenant        string
	lane          tasks.Priority // "" is normal
	input, output int64
	came          time.Time
}

func newArena(rdb *redis.Client, rates tasks.Rates, weights map[string]int64) *arena {
	a := &arena{rates: rates, now: time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC), jobs: map[string]work{}, served: map[string]float64{}, largest: map[string]float64{}}
	a.store = store.New(store.Config{
		Redis: rdb, Prefix: store.NewID("fair"), Now: func() time.Time { return a.now }, ResultTTL: time.Minute,
		Depth: map[string]int{pool: 32}, Rates: map[string]tasks.Rates{pool: rates},
		Weight: func(tenant string) int64 { return cmp.Or(weights[tenant], 1) },
	})
	return a
}

// most is how many output tokens each job may have, as its caller says.
const most = 1024

// submit hands jobs in.
func (a *arena) submit(ctx context.Context, list ...work) error {
	for some := range slices.Chunk(list, 64) {
		subs := make([]tasks.Submission, len(some))
		for i, w := range some {
			w.came = a.now
			j := tasks.Job{
				ID: store.NewID("job"), Tenant: w.tenant, Pool: pool, Model: "m", Priority: cmp.Or(w.lane, tasks.Normal),
				Request: tasks.Request{Kind: tasks.Text, Body: []byte(`""`), InputTokens: int(w.input), MaxTokens: int(max(most, w.output))},
			}
			a.jobs[j.ID], subs[i].Job = w, j
		}
		_, next, err := a.store.Create(ctx, subs...)
		if err != nil {
			return err
		}
		a.line = append(a.line, next...)
	}
	return nil
}

// call makes the next call, and returns whose it was and how long it had waited. No tenant:
// nobody waits.
func (a *arena) call(ctx context.Context) (tenant string, waited time.Duration, err error) {
	w, waited, err := a.one(ctx)
	return w.tenant, waited, err
}

// one is call of which all is told.
func (a *arena) one(ctx context.Context) (w work, waited time.Duration, err error) {
	if len(a.line) == 0 {
		return w, 0, nil
	}
	k := a.line[0]
	a.line = a.line[1:]
	w = a.jobs[k.ID]
	delete(a.jobs, k.ID)
	if _, err := a.store.Take(ctx, k); err != nil {
		return w, 0, err
	}
	_, next, err := a.store.Start(ctx, k)
	if err != nil {
		return w, 0, err
	}
	a.line = append(a.line, next...)
	waited = a.now.Sub(w.came)
	draw := a.rates.Draw(w.input, w.output)
	a.now = a.now.Add(draw)
	a.served[w.tenant] += draw.Seconds()
	a.largest[w.tenant] = max(a.largest[w.tenant], draw.Seconds())
	next, err = a.store.End(ctx, k, tasks.Ending{Status: tasks.StatusSucceeded, Result: []byte(`{}`), Draw: draw, Attempt: tasks.Attempt{Outcome: tasks.Succeeded}})
	a.line = append(a.line, next...)
	return w, waited, err
}

// jain is Jain's index of what tenants were served by weight: 1 when all have the same.
func jain(values []float64) float64 {
	sum, squares := 0.0, 0.0
	for _, v := range values {
		sum, squares = sum+v, squares+v*v
	}
	return sum * sum / (float64(len(values)) * squares)
}

// spread is a distribution by its median and its 99th percentile.
type spread struct{ median, high float64 }

// draw is one of it: lognormal, at least 1.
func (s spread) draw(dice *rand.Rand) int64 {
	sigma := math.Log(max(1, s.high/s.median)) / 2.326
	return max(1, int64(s.median*math.Exp(sigma*dice.NormFloat64())))
}
