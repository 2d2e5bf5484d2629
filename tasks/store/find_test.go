package store_test

import (
	"encoding/json"
	"maps"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/oklog/ulid/v2"
	"github.com/redis/go-redis/v9"

	"github.com/sluicehq/sluice/tasks"
	"github.com/sluicehq/sluice/tasks/store"
)

// planted are jobs as records of a real Redis hold them, one a second up to now,
// without the way there: it takes long for very many.
type planted struct {
	ids   []string // oldest first
	at    []time.Time
	model []string
	pool  []string
	meta  []map[string]string
}

func plant(t *testing.T, rdb *redis.Client, n int, batch string) planted {
	t.Helper()
	var p planted
	begun := time.Now().Add(-time.Duration(n) * time.Second).Truncate(time.Second).UTC()
	for i := range n {
		at := begun.Add(time.Duration(i) * time.Second)
		var u ulid.ULID
		if err := u.SetTime(uint64(at.Add(-3 * time.Millisecond).UnixMilli())); err != nil { // made before Redis said the time
			t.Fatal(err)
		}
		u[15], u[14] = byte(i), byte(i>>8)
		model, pool, meta := "m", "p", map[string]string{"run": strconv.Itoa(i % 7), "kind": "common"}
		if i%3989 == 5 {
			model, pool, meta = "rare/m", "rare", map[string]string{"run": "rare", "odd <&>": "ümlaut \"q\""}
		}
		p.ids, p.at = append(p.ids, "job_"+u.String()), append(p.at, at)
		p.model, p.pool, p.meta = append(p.model, model), append(p.pool, pool), append(p.meta, meta)
	}
	for chunk := range slices.Chunk(slices.Collect(func(yield func(int) bool) {
		for i := range n {
			if !yield(i) {
				return
			}
		}
	}), 1000) {
		_, err := rdb.Pipelined(t.Context(), func(pipe redis.Pipeliner) error {
			for _, i := range chunk {
				envelope, err := json.Marshal(map[string]any{"m": p.model[i], "k": "prompt", "x": 16, "md": p.meta[i]})
				if err != nil {
					return err
				}
				pipe.HSet(t.Context(), "sluice:{s}:j:"+p.ids[i], "e", envelope, "t", "acme", "p", p.pool[i], "s", "queued", "ct", p.at[i].UnixMilli(), "b", `"hello"`, "v", 1)
				if batch == "" {
					pipe.ZAdd(t.Context(), "sluice:{s}:tn:acme", redis.Z{Member: p.ids[i]})
				} else {
					pipe.RPush(t.Context(), "sluice:{s}:gl:"+batch, p.ids[i])
				}
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	if batch != "" {
		rdb.HSet(t.Context(), "sluice:{s}:g:"+batch, "t", "acme", "whole", 1, "ct", 1, "total", n)
	}
	return p
}

// want are the jobs that a filter lets through, newest first.
func (p *planted) want(f tasks.Filter) (ids []string) {
	for i, id := range slices.Backward(p.ids) {
		has := true
		for k, v := range f.Metadata {
			has = has && p.meta[i][k] == v
		}
		if has && (f.Model == "" || f.Model == p.model[i]) && (f.Pool == "" || f.Pool == p.pool[i]) && (f.Status == "" || f.Status == tasks.StatusQueued) &&
			(f.Since.IsZero() || !p.at[i].Before(f.Since)) && (f.Until.IsZero() || p.at[i].Before(f.Until)) {
			ids = append(ids, id)
		}
	}
	return ids
}

// filters are one of each kind, alone and together, rare and common.
func (p *planted) filters() map[string]tasks.Filter {
	n := len(p.at)
	early, late := p.at[n/10], p.at[n-n/10]
	return map[string]tasks.Filter{
		"rare model":            {Model: "rare/m"},
		"rare pool":             {Pool: "rare"},
		"rare metadata":         {Metadata: map[string]string{"run": "rare"}},
		"two pairs":             {Metadata: map[string]string{"run": "rare", "odd <&>": "ümlaut \"q\""}},
		"a pair that is not":    {Metadata: map[string]string{"run": "rare", "kind": "common"}},
		"a key that is not":     {Metadata: map[string]string{"nosuch": "x"}},
		"no such status":        {Status: tasks.StatusFailed},
		"a second":              {Since: early, Until: early.Add(time.Second)},
		"nothing of a second":   {Since: early.Add(time.Millisecond), Until: early.Add(time.Second)},
		"since long ago":        {Since: time.Unix(-5, 0), Pool: "rare"},
		"until the ends":        {Until: time.Date(9999, 1, 1, 0, 0, 0, 0, time.UTC), Pool: "rare"},
		"until before all":      {Until: time.Unix(-5, 0)},
		"since the future":      {Since: late.Add(1000 * time.Hour)},
		"rare, early":           {Until: early, Model: "rare/m"},
		"rare, late":            {Since: late, Model: "rare/m"},
		"all there is together": {Since: early, Until: late, Model: "rare/m", Pool: "rare", Status: tasks.StatusQueued, Metadata: map[string]string{"run": "rare"}},
	}
}

// A rare filter over many jobs is answered with what it finds: Redis sends no job
// that is not on the page, and not even the ids of all.
func TestARareFilterSendsNoMoreThanItsPage(t *testing.T) {
	t.Parallel()
	const n, most = 20_000, 64 << 10
	s, rdb := open(t, 1)
	p := plant(t, rdb, n, "")
	for name, f := range p.filters() {
		f.Tenant, f.Limit = "acme", 5
		var page tasks.Page
		var err error
		begun := time.Now()
		got := sent(t, rdb, func() { page, err = s.Jobs(t.Context(), f) })
		want := p.want(f)
		more := len(want) > f.Limit
		if more {
			want = want[:f.Limit]
		}
		if ids := idsOf(page.Jobs); err != nil || !slices.Equal(ids, want) || page.HasMore != more {
			t.Errorf("%s: got %v, more %t, %v; want %v, more %t", name, ids, page.HasMore, err, want, more)
		}
		if got > most {
			t.Errorf("%s: Redis sends %d bytes for %d of %d jobs in %v, want at most %d", name, got, len(page.Jobs), n, time.Since(begun), most)
		}
	}
}

func idsOf(jobs []tasks.Job) (ids []string) {
	for _, j := range jobs {
		ids = append(ids, j.ID)
	}
	return ids
}

// Pages of any size hold each job of a filter once, of all jobs and of a batch.
func TestPagesOfAFilterHoldEachJobOnce(t *testing.T) {
	t.Parallel()
	const n = 1500 // more than a search looks at before its pieces are of scanMost rows
	s, rdb := open(t, 1)
	for _, batch := range []string{"", store.NewID("batch")} {
		p := plant(t, rdb, n, batch)
		filters := p.filters()
		maps.Copy(filters, map[string]tasks.Filter{
			"all":          {},
			"a seventh":    {Metadata: map[string]string{"run": "3"}},
			"a third":      {Since: p.at[n/3], Until: p.at[2*n/3]},
			"common":       {Pool: "p", Model: "m", Status: tasks.StatusQueued},
			"all but some": {Until: p.at[n-1], Metadata: map[string]string{"kind": "common"}},
		})
		for name, f := range filters {
			for _, limit := range []int{1, 29, 100} {
				want := p.want(f)
				if limit == 1 {
					want = want[:min(len(want), 20)]
				}
				f.Tenant, f.Batch, f.Limit, f.After = "acme", batch, limit, ""
				var got []string
				for {
					page, err := s.Jobs(t.Context(), f)
					if err != nil || len(page.Jobs) > limit || page.HasMore && len(page.Jobs) == 0 {
						t.Fatalf("%s, limit %d: a page of %d, more %t, %v", name, limit, len(page.Jobs), page.HasMore, err)
					}
					got = append(got, idsOf(page.Jobs)...)
					if !page.HasMore || len(got) >= len(want) && limit == 1 {
						break
					}
					f.After = page.Next
				}
				if !slices.Equal(got, want) {
					t.Errorf("%s of batch %q, limit %d: got %d jobs, want %d\n%v\n%v", name, batch, limit, len(got), len(want), got[:min(3, len(got))], want[:min(3, len(want))])
				}
			}
		}
	}
	if _, err := s.Jobs(t.Context(), tasks.Filter{Tenant: "acme", Batch: store.NewID("batch"), Limit: 1}); err != tasks.ErrNotFound {
		t.Errorf("jobs of no batch: %v", err)
	}
	if page, err := s.Jobs(t.Context(), tasks.Filter{Tenant: "zoe", Limit: 5, Pool: "p"}); err != nil || len(page.Jobs) != 0 {
		t.Errorf("another tenant's: %v, %v", page, err)
	}
}

// commitAt accepts a batch of one line, whose record says that it was begun at that time.
func commitAt(t *testing.T, s *store.Store, rdb *redis.Client, at time.Time) string {
	t.Helper()
	var u ulid.ULID
	if err := u.SetTime(uint64(at.UnixMilli())); err != nil {
		t.Fatal(err)
	}
	b, _, err := s.OpenBatch(t.Context(), "batch_"+u.String(), "acme", "")
	if err != nil {
		t.Fatal(err)
	}
	line := job("acme")
	line.Batch, line.Line = b.ID, 1
	if err := s.StageBatch(t.Context(), b.ID, []tasks.Job{line}, tasks.Limits{}); err != nil {
		t.Fatal(err)
	}
	if _, err := s.CommitBatch(t.Context(), b.ID, tasks.BatchCommit{Lines: 1}); err != nil {
		t.Fatal(err)
	}
	rdb.HSet(t.Context(), "sluice:{s}:g:"+b.ID, "ct", at.UnixMilli())
	return b.ID
}

func TestBatchesAreListedByStatusAndTime(t *testing.T) {
	t.Parallel()
	s, rdb := open(t, 1)
	begun := time.Now().Add(-time.Hour).Truncate(time.Second)
	const n = 60
	var ids []string
	for i := range n {
		ids = append(ids, commitAt(t, s, rdb, begun.Add(time.Duration(i)*time.Minute)))
	}
	unfinished, _, err := s.OpenBatch(t.Context(), store.NewID("batch"), "acme", "")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.CancelBatch(t.Context(), "acme", ids[7]); err != nil {
		t.Fatal(err)
	}
	rdb.HSet(t.Context(), "sluice:{s}:g:"+ids[9], "canceling", 1)
	list := func(f tasks.BatchFilter) (got []string) {
		f.Tenant = "acme"
		for {
			page, err := s.Batches(t.Context(), f)
			if err != nil || len(page.Batches) > f.Limit || page.HasMore && len(page.Batches) == 0 {
				t.Fatalf("%+v: a page of %d, more %t, %v", f, len(page.Batches), page.HasMore, err)
			}
			for _, b := range page.Batches {
				got = append(got, b.ID)
			}
			if !page.HasMore {
				return got
			}
			f.After = page.Next
		}
	}
	backwards := func(ids []string) (out []string) {
		for _, id := range slices.Backward(ids) {
			out = append(out, id)
		}
		return out
	}
	for _, limit := range []int{1, 29, 100} {
		for name, c := range map[string]struct {
			f    tasks.BatchFilter
			want []string
		}{
			"all":       {tasks.BatchFilter{}, backwards(ids)},
			"ended":     {tasks.BatchFilter{Status: tasks.BatchEnded}, ids[7:8]},
			"canceling": {tasks.BatchFilter{Status: tasks.BatchCanceling}, ids[9:10]},
			"a time":    {tasks.BatchFilter{Since: begun.Add(3 * time.Minute), Until: begun.Add(12 * time.Minute)}, backwards(ids[3:12])},
			"none":      {tasks.BatchFilter{Until: begun}, nil},
		} {
			c.f.Limit = limit
			if got := list(c.f); !slices.Equal(got, c.want) {
				t.Errorf("%s, limit %d: got %d batches, want %d", name, limit, len(got), len(c.want))
			}
		}
	}
	if slices.Contains(list(tasks.BatchFilter{Limit: 100}), unfinished.ID) {
		t.Error("a batch is listed that nobody has accepted")
	}
	if page, err := s.Batches(t.Context(), tasks.BatchFilter{Tenant: "zoe", Limit: 5}); err != nil || len(page.Batches) > 0 {
		t.Errorf("another tenant's: %v, %v", page, err)
	}
	// Those whose records have ended their time are not listed, and leave the list.
	for _, id := range ids[:50] {
		rdb.Del(t.Context(), "sluice:{s}:g:"+id)
	}
	if got := list(tasks.BatchFilter{Limit: 7}); !slices.Equal(got, backwards(ids[50:])) {
		t.Errorf("got %d batches where 10 are left", len(got))
	}
	commitAt(t, s, rdb, begun.Add(2*time.Hour))
	if left := rdb.ZCard(t.Context(), "sluice:{s}:gs:acme").Val(); left != n-2+1 {
		t.Errorf("%d in the list, want %d", left, n-1)
	}
}
