package store_test

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/oklog/ulid/v2"
	"github.com/redis/go-redis/v9"

	"github.com/sluicehq/sluice/tasks"
	"github.com/sluicehq/sluice/tasks/redistest"
	"github.com/sluicehq/sluice/tasks/store"
)

// idAt is an id as a process makes it at a time.
func idAt(t time.Time) string {
	var u ulid.ULID
	_ = u.SetTime(uint64(t.UnixMilli()))
	u[15] = 1
	return "job_" + u.String()
}

// A few jobs among very many are found by their metadata without a look at the others.
func TestMetadataIsFoundWithoutALookAtAllJobs(t *testing.T) {
	t.Parallel()
	rdb := redistest.Start(t, redistest.Options{}).Client() // which counts nobody else's
	now := time.Now().Truncate(time.Second)
	s := store.New(store.Config{Redis: rdb, Depth: map[string]int{pool: 1}, Now: func() time.Time { return now }})
	_, err := s.Sweep(t.Context())
	must(t, err)
	now = now.Add(time.Hour)
	const n = 100_000
	members := make([]redis.Z, 0, n)
	for i := range n {
		members = append(members, redis.Z{Member: store.NewIDAt("job", now.Add(time.Duration(i)*time.Second))})
	}
	for some := range slices.Chunk(members, 5000) {
		must(t, rdb.ZAdd(t.Context(), "sluice:{s}:tn:acme", some...).Err())
	}
	var want []string
	for i := range 10 {
		now = now.Add(n / 10 * time.Second)
		j := job("acme")
		j.ID, j.Metadata = idAt(now), map[string]string{"run": "rare", "kind": "common"}
		if i%2 == 0 {
			j.Model = "other"
		}
		_, _, err := s.Create(t.Context(), tasks.Submission{Job: j})
		must(t, err)
		want = slices.Insert(want, 0, j.ID)
	}
	for name, c := range map[string]struct {
		f    tasks.Filter
		want []string
	}{
		"all":            {tasks.Filter{Limit: 20}, want},
		"a page":         {tasks.Filter{Limit: 3, After: want[3]}, want[4:7]},
		"with a model":   {tasks.Filter{Limit: 20, Model: "other"}, []string{want[1], want[3], want[5], want[7], want[9]}},
		"with a status":  {tasks.Filter{Limit: 20, Status: tasks.StatusFailed}, nil},
		"since the last": {tasks.Filter{Limit: 20, Since: now}, want[:1]},
	} {
		c.f.Tenant, c.f.Metadata = "acme", map[string]string{"run": "rare", "kind": "common"}
		if c.f.Since.IsZero() {
			c.f.Since = now.Add(-n * time.Second)
		}
		_, before := spent(t, rdb)
		page, err := s.Jobs(t.Context(), c.f)
		_, after := spent(t, rdb)
		if ids := idsOf(page.Jobs); err != nil || !slices.Equal(ids, c.want) || after-before > 100 {
			t.Errorf("%s: %v with %d commands, %v; want %v with at most 100", name, ids, after-before, err, c.want)
		}
	}
}

// What a search by metadata finds is what a look at all jobs finds, whatever happens to
// them, whichever release does it, and whether it is sealed, or some of it.
func TestTheIndexOfMetadataFindsWhatALookAtAllFinds(t *testing.T) {
	t.Parallel()
	for seed := range uint64(6) {
		w := newMarked(t, seed)
		for range 60 {
			w.move()
		}
		w.compare()
		w.empty()
	}
}

type marked struct {
	*testing.T
	*store.Store
	both         [2]*store.Store // for every second seed one that seals, and one that has its keys and does not
	rdb          *redis.Client
	r            *rand.Rand
	now          time.Time
	ids, batches []string
	n            int
	uses         int
}

func newMarked(t *testing.T, seed uint64) *marked {
	w := &marked{T: t, rdb: redistest.New(t), r: rand.New(rand.NewPCG(seed, 1)), now: time.Now().Truncate(time.Second)}
	c := store.Config{Redis: w.rdb, ResultTTL: 10 * time.Hour, Depth: map[string]int{pool: 100}, Now: func() time.Time { return w.now }}
	if seed%2 == 1 {
		c.Seal = ringOf(t, "a")
	}
	w.both[0] = store.New(c)
	c.Plain = true
	w.both[1] = store.New(c)
	w.Store = w.both[0]
	return w
}

// metadata are some pairs of few.
func (w *marked) metadata() map[string]string {
	md := map[string]string{}
	for _, key := range []string{"a", "b<&>\x00\""} {
		if w.r.IntN(3) > 0 {
			md[key] = []string{"x", "ümlaut \u2028 <&>", ""}[w.r.IntN(3)]
		}
	}
	return md
}

func (w *marked) job() tasks.Job {
	w.n++
	j := job([]string{"acme", "acme", "other"}[w.r.IntN(3)])
	if j.ID, j.Metadata = idAt(w.now), w.metadata(); w.r.IntN(10) == 0 {
		j.ID = fmt.Sprintf("job_named_%d", w.n%3) // its caller gave it, perhaps for another before
	}
	w.ids = append(w.ids, j.ID)
	return j
}

func (w *marked) move() {
	w.Helper()
	w.now = w.now.Add(time.Duration(1+w.r.IntN(20*60)) * time.Second)
	w.Store = w.both[w.r.IntN(2)]
	ctx, id := w.Context(), "job_none"
	if len(w.ids) > 0 {
		id = w.ids[w.r.IntN(len(w.ids))]
	}
	tenant, _ := w.Holder(ctx, id)
	record, list := "sluice:{s}:j:"+id, "sluice:{s}:tn:"+tenant
	switch w.r.IntN(9) {
	case 0, 1, 2:
		_, _, err := w.Create(ctx, tasks.Submission{Job: w.job(), Named: true})
		must(w.T, err)
	case 3:
		w.batch()
	case 4:
		_, _ = w.Edit(ctx, tenant, id, func(j *tasks.Job) error { j.Metadata = w.metadata(); return nil })
	case 5:
		_, _ = w.Cancel(ctx, tenant, id)
	case 6:
		if w.r.IntN(2) == 0 {
			_, _, _ = w.Requeue(ctx, tenant, id, tasks.Limits{})
		} else {
			_ = w.Delete(ctx, tenant, id)
		}
	case 7:
		_, err := w.Sweep(ctx)
		must(w.T, err)
	case 8: // release 0.1.0 is there
		must(w.T, w.rdb.Set(ctx, "sluice:{s}:swept", w.now.UnixMilli(), 0).Err())
		if tenant != "" && w.r.IntN(2) == 0 { // it deletes one
			_, _ = w.Cancel(ctx, tenant, id)
			must(w.T, w.rdb.Del(ctx, record).Err())
			must(w.T, w.rdb.ZRem(ctx, list, id).Err())
		} else { // it makes one, which it puts into no index
			j := w.job()
			if strings.HasPrefix(j.ID, "job_named") { // it takes no names from callers
				j.ID = idAt(w.now)
				w.ids[len(w.ids)-1] = j.ID
			}
			_, _, err := w.Create(ctx, tasks.Submission{Job: j})
			must(w.T, err)
			for _, m := range w.rdb.ZRange(ctx, "sluice:{s}:md:"+j.Tenant, 0, -1).Val() {
				if strings.HasSuffix(m, j.ID) {
					must(w.T, w.rdb.ZRem(ctx, "sluice:{s}:md:"+j.Tenant, m).Err())
				}
			}
		}
		_, err := w.Sweep(ctx)
		must(w.T, err)
	}
	if w.r.IntN(4) == 0 {
		w.compare()
	}
}

// batch is one of some lines, which have come to the backlog or not yet.
func (w *marked) batch() {
	w.Helper()
	ctx := w.Context()
	b, _, err := w.OpenBatch(ctx, fmt.Sprintf("batch_%d", w.n), "acme", "")
	must(w.T, err)
	var jobs []tasks.Job
	for i := range 1 + w.r.IntN(5) {
		j := w.job()
		j.ID, j.Tenant, j.Batch, j.Line = idAt(w.now)+fmt.Sprint(i), "acme", b.ID, i+1
		w.ids[len(w.ids)-1] = j.ID
		jobs = append(jobs, j)
	}
	must(w.T, w.StageBatch(ctx, b.ID, jobs, tasks.Limits{}))
	_, err = w.CommitBatch(ctx, b.ID, tasks.BatchCommit{})
	must(w.T, err)
	w.batches = append(w.batches, b.ID)
	if w.r.IntN(3) > 0 {
		_, _, err = w.Unfold(ctx, b.ID)
		must(w.T, err)
	}
}

// compare asks each question with the index and without.
func (w *marked) compare() {
	w.Helper()
	ctx := w.Context()
	for range 6 {
		f := tasks.Filter{Tenant: "acme", Limit: 1 + w.r.IntN(4), Metadata: w.metadata()}
		if len(f.Metadata) == 0 {
			continue
		}
		switch w.r.IntN(5) {
		case 3:
			if len(w.batches) > 0 {
				f.Batch = w.batches[w.r.IntN(len(w.batches))]
			}
		case 0:
			f.Status = tasks.StatusCanceled
		case 1:
			f.Since = w.now.Add(-time.Duration(w.r.IntN(10)) * time.Hour)
		case 2:
			f.Until = w.now.Add(-time.Duration(w.r.IntN(10)) * time.Hour)
		}
		got := w.all(f)
		since := w.rdb.Get(ctx, "sluice:{s}:mdsince").Val()
		must(w.T, w.rdb.Del(ctx, "sluice:{s}:mdsince").Err())
		want := w.all(f)
		if since != "" {
			must(w.T, w.rdb.Set(ctx, "sluice:{s}:mdsince", since, 0).Err())
			w.uses++
		}
		if !slices.Equal(got, want) {
			w.Errorf("%+v finds %v, a look at all %v; the index has all since %s, now %d", f, got, want, since, w.now.UnixMilli())
		}
	}
}

// all is each page of a filter.
func (w *marked) all(f tasks.Filter) (ids []string) {
	w.Helper()
	for {
		page, err := w.Jobs(w.Context(), f)
		must(w.T, err)
		ids = append(ids, idsOf(page.Jobs)...)
		if !page.HasMore {
			return ids
		}
		if len(page.Jobs) == 0 {
			w.Errorf("%+v: an empty page, and more behind it", f)
			return ids
		}
		f.After = page.Next
	}
}

// empty has all jobs end and expire: nothing is left of the index but what another
// release has deleted, and nothing of that once it was asked for.
func (w *marked) empty() {
	w.Helper()
	ctx := w.Context()
	for _, id := range w.ids {
		tenant, _ := w.Holder(ctx, id)
		_, _ = w.Cancel(ctx, tenant, id)
		_ = w.Delete(ctx, tenant, id)
	}
	for _, b := range w.batches {
		_, _, err := w.Unfold(ctx, b)
		must(w.T, err)
		_ = w.DeleteBatch(ctx, "acme", b)
	}
	for _, tenant := range []string{"acme", "other"} {
		for _, key := range []string{"a", "b<&>\x00\""} {
			for _, value := range []string{"x", "ümlaut \u2028 <&>", ""} {
				must(w.T, w.rdb.Set(ctx, "sluice:{s}:mdsince", 1, 0).Err())
				page, err := w.Jobs(ctx, tasks.Filter{Tenant: tenant, Limit: 100, Metadata: map[string]string{key: value}})
				if err != nil || len(page.Jobs) > 0 {
					w.Errorf("at last there is %v, %v", idsOf(page.Jobs), err)
				}
			}
		}
		if left := w.rdb.ZRange(ctx, "sluice:{s}:md:"+tenant, 0, -1).Val(); len(left) > 0 {
			w.Errorf("the index of %s still has %v", tenant, left)
		}
	}
	if w.uses == 0 {
		w.Error("the index was never used")
	}
}
