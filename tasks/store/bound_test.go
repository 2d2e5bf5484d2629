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
	queued map[flow][]string // ids in the backlog
	line   []tasks.Ticket    // handed out
	runs   []tasks.Ticket

	served, most, doubt map[flow]float64  // s of the allowance: handed out, by weight or share, of one job at most, and the largest error in hand
	pairs               map[[2]flow]*span // of tenants of a lane, or of lanes, that have had a backlog throughout
}

// flow is what has a turn: a tenant in a lane, or a lane as a whole.
type flow struct {
	lane   tasks.Priority
	tenant string
}

// bounded is a job whose call costs size, for which its tenant was charged so much, both in
// seconds of the allowance.
type bounded struct {
	flow
	size    float64
	charged float64
}

// whole is the flow of the job's lane.
func (b *bounded) whole() flow { return flow{lane: b.lane} }

var parts = map[tasks.Priority]float64{tasks.High: 0.7, tasks.Normal: 0.25, tasks.Low: 0.05}

// part is what a flow has of its pool, or of its lane, by which others have theirs.
func (w *world) part(f flow) float64 {
	if f.tenant == "" {
		return parts[f.lane]
	}
	return float64(w.weight[f.tenant])
}

// span is how far a pair of tenants were apart at least and at most.
type span struct{ least, most float64 }

const second = 1000 // output tokens, see oneRate

func newWorld(t *rapid.T, rdb *redis.Client) *world {
	w := &world{
		T: t, rdb: rdb, prefix: store.NewID("w"), now: time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC), weight: map[string]int64{}, jobs: map[string]*bounded{}, queued: map[flow][]string{},
		served: map[flow]float64{}, most: map[flow]float64{}, doubt: map[flow]float64{}, pairs: map[[2]flow]*span{},
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
		w.leave(j, k.ID)
		_, charged, _ := strings.Cut(w.rdb.HGet(w.Context(), w.prefix+":{s}:j:"+k.ID, "cs").Val(), " ")
		_, _ = fmt.Sscan(charged, &j.charged)
		j.charged /= 1e6
		w.line = append(w.line, k)
		for _, f := range []flow{j.flow, j.whole()} {
			w.most[f] = max(w.most[f], j.size, j.charged)
			w.served[f] += j.size / w.part(f)
		}
		w.check()
	}
}

// leave and join note that a job is no longer in the backlog, or is.
func (w *world) leave(j *bounded, id string) {
	for _, f := range []flow{j.flow, j.whole()} {
		w.queued[f] = slices.DeleteFunc(w.queued[f], func(other string) bool { return other == id })
	}
}

func (w *world) join(j *bounded, id string) {
	for _, f := range []flow{j.flow, j.whole()} {
		w.queued[f] = append(w.queued[f], id)
		w.most[f] = max(w.most[f], j.size) // also while it was not picked
	}
}

// check holds the bound for every pair that has had a backlog since its span began.
func (w *world) check() {
	w.Helper()
	inHand := map[flow]float64{}
	for _, k := range append(slices.Clone(w.line), w.runs...) {
		if j := w.jobs[k.ID]; j.charged > 0 {
			inHand[j.flow] += math.Abs(j.charged - j.size)
			inHand[j.whole()] += math.Abs(j.charged - j.size)
		}
	}
	for f, e := range inHand {
		w.doubt[f] = max(w.doubt[f], e)
	}
	for i := range w.served {
		for j := range w.served {
			if (i.tenant == "") != (j.tenant == "") || i.tenant != "" && i.lane != j.lane || i.tenant+string(i.lane) >= j.tenant+string(j.lane) {
				continue
			}
			pair := [2]flow{i, j}
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
			bound := (w.most[i]+2*w.doubt[i])/w.part(i) + (w.most[j]+2*w.doubt[j])/w.part(j)
			if s.most-s.least > bound+1e-3 {
				w.Fatalf("while both had a backlog, %v (part %v) and %v (part %v) came %.3f s apart; the bound is %.3f", i, w.part(i), j, w.part(j), s.most-s.least, bound)
			}
		}
	}
}

// found holds that whatever waits is found by this release, which looks at the turns of
// each lane, and by release 0.1.0, which looks at the ring.
func (w *world) found(*rapid.T) {
	key := w.prefix + ":{s}:"
	for f, ids := range w.queued {
		if f.tenant == "" || len(ids) == 0 {
			continue
		}
		if _, err := w.rdb.ZScore(w.Context(), key+"turns:"+string(f.lane)+":"+pool, f.tenant).Result(); err != nil {
			w.Fatalf("%v has %d jobs waiting and no turn: %v", f, len(ids), err)
		}
		if _, err := w.rdb.ZScore(w.Context(), key+"ring:"+pool, f.tenant).Result(); err != nil {
			w.Fatalf("%v has %d jobs waiting that release 0.1.0 does not find: %v", f, len(ids), err)
		}
		for _, id := range ids {
			if _, err := w.rdb.ZScore(w.Context(), key+"q:"+pool+":"+f.tenant, id).Result(); err != nil {
				w.Fatalf("%s of %v is not in the backlog: %v", id, f, err)
			}
		}
	}
}

func (w *world) tenant() string {
	return fmt.Sprint("t", rapid.IntRange(0, len(w.weight)-1).Draw(w.T, "tenant"))
}

func (w *world) lane() tasks.Priority {
	return rapid.SampledFrom([]tasks.Priority{tasks.High, tasks.Normal, tasks.Low}).Draw(w.T, "lane")
}

func (w *world) submit(*rapid.T) {
	f := flow{w.lane(), w.tenant()}
	subs := make([]tasks.Submission, rapid.IntRange(1, 12).Draw(w.T, "jobs"))
	size := rapid.IntRange(1, 16).Draw(w.T, "size")
	over := rapid.SampledFrom([]int{1, 1, 1, 3}).Draw(w.T, "over")
	for i := range subs {
		j := job(f.tenant)
		j.Request.MaxTokens, j.Priority = size*over*second/8, f.lane
		w.jobs[j.ID] = &bounded{flow: f, size: float64(size) / 8}
		w.join(w.jobs[j.ID], j.ID)
		subs[i].Job = j
	}
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
		w.join(j, k.ID)
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

// one is a job in the backlog; "": none is.
func (w *world) one() string {
	ids := w.queued[flow{w.lane(), w.tenant()}]
	if len(ids) == 0 {
		return ""
	}
	return rapid.SampledFrom(ids).Draw(w.T, "job")
}

// cancel takes a job out of the backlog.
func (w *world) cancel(t *rapid.T) {
	id := w.one()
	if id == "" {
		t.Skip()
	}
	j := w.jobs[id]
	w.leave(j, id)
	_, err := w.Cancel(w.Context(), j.tenant, id)
	w.must(err)
	w.check()
}

// edit moves a job to another lane.
func (w *world) edit(t *rapid.T) {
	id := w.one()
	if id == "" {
		t.Skip()
	}
	j := w.jobs[id]
	w.leave(j, id)
	j.lane = w.lane()
	w.join(j, id)
	_, err := w.Edit(w.Context(), j.tenant, id, priority(j.lane))
	w.must(err)
	w.check()
}

// Whatever comes in whatever order: of two lanes, or two tenants of a lane, that have had a backlog
// throughout, each was served by its share or weight but for a job of each, and what was not known of
// those in hand (Goyal, Vin and Cheng 1996, theorem 1). Nothing that waits is out of sight.
func TestNoTwoTenantsComeFurtherApartThanAJobOfEach(t *testing.T) {
	rdb := redistest.New(t)
	for name, few := range map[string]string{"rapid.checks": "6", "rapid.steps": "60"} {
		if f := flag.Lookup(name); f.Value.String() == f.DefValue { // -rapid.checks for more
			must(t, f.Value.Set(few))
		}
	}
	rapid.Check(t, func(t *rapid.T) {
		w := newWorld(t, rdb)
		t.Repeat(map[string]func(*rapid.T){"submit": w.submit, "start": w.start, "end": w.end, "cancel": w.cancel, "edit": w.edit, "calls": w.calls, "": w.found})
	})
}
