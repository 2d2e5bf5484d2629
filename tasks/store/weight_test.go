package store_test

import (
	"maps"
	"slices"
	"testing"
	"time"

	"github.com/sluicehq/sluice/tasks"
	"github.com/sluicehq/sluice/tasks/redistest"
	"github.com/sluicehq/sluice/tasks/store"
)

// Of two tenants with a backlog, each has turns by its weight, however its jobs
// were submitted.
func TestAWeightOf9Has9TurnsForEachOfAWeightOf1(t *testing.T) {
	t.Parallel()
	weights := map[string]int64{"zoe": 9}
	s := store.New(store.Config{Redis: redistest.New(t), ResultTTL: time.Hour, Depth: map[string]int{pool: 50}, Weight: func(tenant string) int64 { return max(1, weights[tenant]) }})
	submit := func(t *testing.T, tenant string, n int) {
		t.Helper()
		for range n {
			create(t, s, job(tenant))
		}
	}
	batch := func(t *testing.T, tenant string, n int) {
		t.Helper()
		b, _, err := s.OpenBatch(t.Context(), store.NewID("batch"), tenant, "")
		if err != nil {
			t.Fatal(err)
		}
		lines := make([]tasks.Job, n)
		for i := range lines {
			lines[i] = job(tenant)
			lines[i].Batch, lines[i].Line = b.ID, i+1
		}
		if err := s.StageBatch(t.Context(), b.ID, lines, tasks.Limits{}); err != nil {
			t.Fatal(err)
		}
		if _, err := s.CommitBatch(t.Context(), b.ID, tasks.BatchCommit{}); err != nil {
			t.Fatal(err)
		}
		unfold(t, s, b.ID)
	}
	retry := func(t *testing.T, tenant string, n int) {
		t.Helper()
		for range n {
			j, _ := create(t, s, job(tenant))
			if _, err := s.Cancel(t.Context(), tenant, j.ID); err != nil {
				t.Fatal(err)
			}
			if _, _, err := s.Requeue(t.Context(), tenant, j.ID, tasks.Limits{}); err != nil {
				t.Fatal(err)
			}
		}
	}
	for _, c := range []struct {
		name         string
		zoe          int64 // her weight from now on
		submit       func(t *testing.T, tenant string, n int)
		wantA, wantZ int
	}{
		{"jobs", 9, submit, 5, 45},
		{"lines of a batch", 9, batch, 5, 45},
		{"jobs submitted again", 9, retry, 5, 45},
		{"a weight that was changed", 4, submit, 10, 40},
		{"and for a batch", 1, batch, 25, 25},
	} {
		t.Run(c.name, func(t *testing.T) {
			for _, tenant := range []string{"acme", "zoe"} {
				forgetBacklog(t, s, tenant)
			}
			weights["zoe"] = c.zoe
			if err := s.SetPaused(t.Context(), pool, true); err != nil {
				t.Fatal(err)
			}
			c.submit(t, "acme", 60)
			c.submit(t, "zoe", 60)
			if err := s.SetPaused(t.Context(), pool, false); err != nil {
				t.Fatal(err)
			}
			swept, err := s.Sweep(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			got := map[string]int{}
			for _, k := range swept.Hand {
				j, err := s.Take(t.Context(), k)
				if err != nil {
					t.Fatal(err)
				}
				got[j.Tenant]++
			}
			if want := map[string]int{"acme": c.wantA, "zoe": c.wantZ}; !maps.Equal(got, want) {
				t.Errorf("the first 50 starts of two backlogs, weights 1 and %d: %v, want %v", c.zoe, got, want)
			}
		})
	}
}

// forgetBacklog cancels whatever a tenant has that waits.
func forgetBacklog(t *testing.T, s *store.Store, tenant string) {
	t.Helper()
	page, err := s.Jobs(t.Context(), tasks.Filter{Tenant: tenant, Status: tasks.StatusQueued, Limit: 1000})
	if err != nil {
		t.Fatal(err)
	}
	for _, j := range page.Jobs {
		if _, err := s.Cancel(t.Context(), tenant, j.ID); err != nil {
			t.Fatal(err)
		}
	}
}

// A forecast needs to know what a turn of the pool costs: the weights of those
// who have a backlog there, and of nobody else.
func TestAPoolsLoadHasTheTurnsAndWeightsOfItsBacklogs(t *testing.T) {
	t.Parallel()
	weights := map[string]int64{"zoe": 9, "elsewhere": 5}
	s := store.New(store.Config{
		Redis: redistest.New(t), ResultTTL: time.Hour, Depth: map[string]int{pool: 1, "other": 1},
		Weight: func(tenant string) int64 { return max(1, weights[tenant]) },
	})
	want := func(turns ...tasks.Turn) {
		t.Helper()
		l, err := s.Load(t.Context(), pool)
		if err != nil || l.Tenants != int64(len(turns)) || !slices.Equal(l.Turns, turns) {
			t.Errorf("%d tenants, %+v, %v; want %+v", l.Tenants, l.Turns, err, turns)
		}
	}
	want()
	if err := s.SetPaused(t.Context(), pool, true); err != nil {
		t.Fatal(err)
	}
	create(t, s, job("acme"))
	acme, zoe := tasks.Turn{Tenant: "acme", Lane: tasks.Normal, Weight: 1, Mean: 1, Backlog: 1}, tasks.Turn{Tenant: "zoe", Lane: tasks.Normal, Weight: 9, Mean: 1, Backlog: 2}
	want(acme)
	create(t, s, job("zoe"))
	create(t, s, job("zoe"))
	want(acme, zoe)
	away := job("elsewhere")
	away.Pool = "other"
	create(t, s, away)
	want(acme, zoe)
	if l, err := s.Load(t.Context(), pool); err != nil || l.Weights["zoe"] != 9 || l.Weights["acme"] != 0 {
		t.Errorf("weights %v, %v; want 9 of zoe, and none noted of acme", l.Weights, err)
	}
}
