package store_test

import (
	"flag"
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"pgregory.net/rapid"

	"github.com/sluicehq/sluice/tasks"
	"github.com/sluicehq/sluice/tasks/redistest"
	"github.com/sluicehq/sluice/tasks/store"
)

// world is a pool with some tenants, in virtual time, beside what start-time fair
// queueing promises of it.
type world struct {
	*rapid.T
	*store.Store
	rdb    *redis.Client
	prefix string
	now    time.Time
	weight map[string]int64
	jobs   map[string]*bounded
	queued map[string][]string // ids in the backlog, by tenant
	line   []tasks.Ticket      // handed out
	runs   []tasks.Ticket

	served, most, doubt map[string]float64  // s of the allowance by weight: handed out, of one job at most, and the largest error in hand
	pairs               map[[2]string]*span // of tenants that have had a backlog throughout
}

// bounded is a job whose call costs size, for which its tenant was charged so much, both in
// seconds of the allowance.
type bounded struct {
	tenant  string
	size    float64
	charged float64
}

// span is how far a pair of tenants were apart at least and at most.
type span struct{ least, most float64 }

const second = 1000 // output tokens, see oneRate

func newWorld(t *rapid.T, rdb *redis.Client) *world {
	w := &world{
		T: t, rdb: rdb, prefix: store.NewID("w"), now: time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC), weight: map[string]int64{}, jobs: map[string]*bounded{}, queued: map[string][]string{},
		served: map[string]float64{}, most: map[string]float64{}, doubt: map[string]float64{}, pairs: map[[2]string]*span{},
	}
	for i := range rapid.IntRange(2, 5).Draw(t, "tenants") {
		w.weight[fmt.Sprint("t", i)] = rapid.Int64Range(1, 4).Draw(t, "weight")
	}
	w.Store = store.New(store.Config{
		Redis: rdb, Prefix: w.prefix, Now: func() time.Time { return w.now }, ResultTTL: time.Hour, Rates: oneRate,
		Depth:  map[string]int{pool: rapid.IntRange(1, 5).Draw(t, "depth")},
		Weight: func(tenant string) int64 { return w.weight[tenant] },
	})
	return w
}

func (w *world) must(err error) {
	w.Helper()
	if err != nil {
		w.Fatal(err)
	}
}

// take notes what was handed out.
func (w *world) take(tickets []tasks.Ticket) {
	for _, k := range tickets {
		j := w.jobs[k.ID]
		w.queued[j.tenant] = slices.DeleteFunc(w.queued[j.tenant], func(id string) bool { return id == k.ID })
		_, charged, _ := strings.Cut(w.rdb.HGet(w.Context(), w.prefix+":{s}:j:"+k.ID, "cs").Val(), " ")
		_, _ = fmt.Sscan(charged, &j.charged)
		j.charged /= 1e6
		w.line = append(w.line, k)
		w.most[j.tenant] = max(w.most[j.tenant], j.size, j.charged)
		w.served[j.tenant] += j.size / float64(w.weight[j.tenant])
		w.check()
	}
}

// check holds the bound for every pair that has had a backlog since its span began.
func (w *world) check() {
	w.Helper()
	inHand := map[string]float64{}
	for _, k := range append(slices.Clone(w.line), w.runs...) {
		if j := w.jobs[k.ID]; j.charged > 0 {
			inHand[j.tenant] += math.Abs(j.charged - j.size)
		}
	}
	for t, e := range inHand {
		w.doubt[t] = max(w.doubt[t], e)
	}
	for i, wi := range w.weight {
		for j, wj := range w.weight {
			if i >= j {
				continue
			}
			pair := [2]string{i, j}
			if len(w.queued[i]) == 0 || len(w.queued[j]) == 0 {
				delete(w.pairs, pair)
				continue
			}
			gap := w.served[i] - w.served[j]
			s := w.pairs[pair]
			if s == nil {
				s = &span{gap, gap}
				w.pairs[pair] = s
			}
			s.least, s.most = min(s.least, gap), max(s.most, gap)
			bound := (w.most[i]+2*w.doubt[i])/float64(wi) + (w.most[j]+2*w.doubt[j])/float64(wj)
			if s.most-s.least > bound+1e-3 {
				w.Fatalf("while both had a backlog, %s (weight %d) and %s (weight %d) came %.3f s apart; the bound is %.3f", i, wi, j, wj, s.most-s.least, bound)
			}
		}
	}
}

func (w *world) tenant() string {
	return fmt.Sprint("t", rapid.IntRange(0, len(w.weight)-1).Draw(w.T, "tenant"))
}

func (w *world) submit(*rapid.T) {
	tenant := w.tenant()
	subs := make([]tasks.Submission, rapid.IntRange(1, 12).Draw(w.T, "jobs"))
	size := rapid.IntRange(1, 16).Draw(w.T, "size")
	over := rapid.SampledFrom([]int{1, 1, 1, 3}).Draw(w.T, "over")
	for i := range subs {
		j := job(tenant)
		j.Request.MaxTokens = size * over * second / 8
		w.jobs[j.ID] = &bounded{tenant: tenant, size: float64(size) / 8}
		w.queued[tenant] = append(w.queued[tenant], j.ID)
		subs[i].Job = j
	}
	w.most[tenant] = max(w.most[tenant], float64(size)/8) // also while none of them was picked
	_, tickets, err := w.Create(w.Context(), subs...)
	w.must(err)
	w.take(tickets)
}

func (w *world) start(t *rapid.T) {
	if len(w.line) == 0 {
		t.Skip()
	}
	k := w.line[0]
	w.line = w.line[1:]
	if _, err := w.Take(w.Context(), k); tasks.Void(err) {
		return
	}
	w.runs = append(w.runs, k)
	_, next, err := w.Start(w.Context(), k)
	w.must(err)
	w.take(next)
}

func (w *world) end(t *rapid.T) {
	if len(w.runs) == 0 {
		t.Skip()
	}
	k := w.runs[0]
	w.runs = w.runs[1:]
	e, j := won, w.jobs[k.ID]
	e.Draw = time.Duration(j.size * float64(time.Second))
	w.now = w.now.Add(e.Draw)
	if rapid.IntRange(0, 5).Draw(w.T, "again") == 0 {
		e = tasks.Ending{Status: tasks.StatusRetrying, Counted: true, Draw: e.Draw, Attempt: tasks.Attempt{Outcome: tasks.ServerError}}
		w.queued[j.tenant] = append(w.queued[j.tenant], k.ID)
	}
	next, err := w.End(w.Context(), k, e)
	w.must(err)
	w.take(next)
}

// calls makes some calls one after the other.
func (w *world) calls(t *rapid.T) {
	for range rapid.IntRange(1, 6).Draw(w.T, "calls") {
		if len(w.line) > 0 {
			w.start(t)
		}
		if len(w.runs) > 0 {
			w.end(t)
		}
	}
}

// cancel takes a job out of the backlog.
func (w *world) cancel(t *rapid.T) {
	tenant := w.tenant()
	if len(w.queued[tenant]) == 0 {
		t.Skip()
	}
	id := rapid.SampledFrom(w.queued[tenant]).Draw(w.T, "job")
	w.queued[tenant] = slices.DeleteFunc(w.queued[tenant], func(other string) bool { return other == id })
	_, err := w.Cancel(w.Context(), tenant, id)
	w.must(err)
	w.check()
}

// Whatever comes in whatever order: of two tenants that have had a backlog throughout, each
// was served by its weight but for a job of each, and what was not known of those in
// hand (Goyal, Vin and Cheng 1996, theorem 1).
func TestNoTwoTenantsComeFurtherApartThanAJobOfEach(t *testing.T) {
	rdb := redistest.New(t)
	for name, few := range map[string]string{"rapid.checks": "6", "rapid.steps": "60"} {
		if f := flag.Lookup(name); f.Value.String() == f.DefValue { // -rapid.checks for more
			must(t, f.Value.Set(few))
		}
	}
	rapid.Check(t, func(t *rapid.T) {
		w := newWorld(t, rdb)
		t.Repeat(map[string]func(*rapid.T){"submit": w.submit, "start": w.start, "end": w.end, "cancel": w.cancel, "calls": w.calls})
	})
}
