package store_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/sluicehq/sluice/tasks"
	"github.com/sluicehq/sluice/tasks/redistest"
	"github.com/sluicehq/sluice/tasks/store"
)

func two(t *testing.T) (*store.Store, *redis.Client) {
	t.Helper()
	rdb := redistest.New(t)
	return store.New(store.Config{Redis: rdb, ResultTTL: time.Hour, Depth: map[string]int{pool: 1, "q": 1}}), rdb
}

func withFallbacks(models ...string) tasks.Job {
	j := job("acme")
	j.Fallback = models
	return j
}

func loads(t *testing.T, s *store.Store) string {
	t.Helper()
	var out []int64
	for _, p := range []string{pool, "q"} {
		l, err := s.Load(t.Context(), p)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, l.Queued, l.Running)
	}
	return fmt.Sprint(out)
}

// Wherever a waiting job is (backlog, handed out, in a worker's hands), it goes
// to the other pool whole, and whoever had it has lost it.
func TestDivertMovesWaitingJobs(t *testing.T) {
	t.Parallel()
	s, _ := two(t)
	first, tickets := create(t, s, withFallbacks("m2", "m3")) // handed out
	if len(tickets) != 1 {
		t.Fatalf("tickets %v", tickets)
	}
	take(t, s, tickets[0])                         // in a worker's hands
	second, _ := create(t, s, withFallbacks("m2")) // in the backlog
	third, _ := create(t, s, job("acme"))          // without a fallback
	if got := loads(t, s); got != "[3 0 0 0]" {
		t.Fatalf("loads %s", got)
	}
	jobs, err := s.Divertible(t.Context(), pool, 0, 10)
	if err != nil || len(jobs) != 2 || jobs[0].ID != first.ID || jobs[1].ID != second.ID || jobs[0].Fallback[0] != "m2" {
		t.Fatalf("divertible %+v, %v", jobs, err)
	}
	moved, next, err := s.Divert(t.Context(), pool, map[string]tasks.Detour{
		first.ID: {Pool: "q", Passed: 1, Left: 1}, second.ID: {Pool: "q", Passed: 1}, third.ID: {Pool: "q", Passed: 1},
	})
	if err != nil || len(moved) != 2 || len(next) != 1 || next[0].ID != first.ID || next[0].Pool != "q" {
		t.Fatalf("moved %v, tickets %v, %v", moved, next, err)
	}
	if got := loads(t, s); got != "[1 0 2 0]" {
		t.Errorf("loads %s", got)
	}
	if _, _, err := s.Start(t.Context(), tickets[0]); err == nil {
		t.Error("who held the job started it after it had moved")
	}
	if again, _, err := s.Divert(t.Context(), pool, map[string]tasks.Detour{first.ID: {Pool: "q", Passed: 1, Left: 1}}); err != nil || len(again) != 0 {
		t.Errorf("moved again: %v, %v", again, err)
	}
	j := read(t, s, first.ID)
	if j.Pool != "q" || j.Asks() != "m2" || j.Model != "m" || j.Attempts != 0 || j.Status != tasks.StatusQueued {
		t.Errorf("job %+v", j)
	}
	if left, err := s.Divertible(t.Context(), "q", 0, 10); err != nil || len(left) != 1 || left[0].ID != first.ID {
		t.Errorf("with a model left: %+v, %v", left, err)
	}
	take(t, s, next[0])
	start(t, s, next[0])
	if left, err := s.Divertible(t.Context(), "q", 0, 10); err != nil || len(left) != 0 {
		t.Errorf("a running job is divertible: %+v, %v", left, err)
	}
	if _, err := s.End(t.Context(), next[0], won); err != nil {
		t.Fatal(err)
	}
	if got := loads(t, s); got != "[1 0 1 0]" {
		t.Errorf("loads %s", got)
	}
}

// A job whose attempts are used up goes on with its fallback; the caller's
// retry of it begins again with its own model.
func TestAnExhaustedJobGoesToItsFallback(t *testing.T) {
	t.Parallel()
	s, rdb := two(t)
	_, tickets := create(t, s, withFallbacks("m2"))
	k := tickets[0]
	take(t, s, k)
	start(t, s, k)
	next, err := s.End(t.Context(), k, tasks.Ending{
		Status: tasks.StatusRetrying, Counted: true, Detour: &tasks.Detour{Pool: "q", Passed: 1}, Attempt: tasks.Attempt{Outcome: tasks.ServerError},
	})
	if err != nil || len(next) != 1 || next[0].Pool != "q" {
		t.Fatalf("tickets %v, %v", next, err)
	}
	j := read(t, s, k.ID)
	if j.Pool != "q" || j.Asks() != "m2" || j.Attempts != 1 || j.Spent != 1 || j.Status != tasks.StatusRetrying {
		t.Errorf("job %+v", j)
	}
	if got := loads(t, s); got != "[0 0 1 0]" {
		t.Errorf("loads %s", got)
	}
	take(t, s, next[0])
	start(t, s, next[0])
	failed := tasks.Ending{Status: tasks.StatusFailed, Error: &tasks.JobError{Code: tasks.AttemptsExhausted}, Attempt: tasks.Attempt{Outcome: tasks.ServerError, Model: "m2"}}
	if _, err := s.End(t.Context(), next[0], failed); err != nil {
		t.Fatal(err)
	}
	if j := read(t, s, k.ID); j.Attempts != 2 || len(j.Log) != 2 || j.Log[1].Model != "m2" {
		t.Errorf("job %+v", j)
	}
	if j, _, err = s.Requeue(t.Context(), "acme", k.ID, tasks.Limits{}); err != nil || j.Pool != pool || j.Asks() != "m" || j.Spent != 0 {
		t.Errorf("requeued %+v, %v", j, err)
	}
	if left, err := s.Divertible(t.Context(), pool, 0, 10); err != nil || len(left) != 1 {
		t.Errorf("divertible again: %+v, %v", left, err)
	}
	if _, err := s.Cancel(t.Context(), "acme", k.ID); err != nil {
		t.Fatal(err)
	}
	if n, err := rdb.Exists(t.Context(), "sluice:{s}:fall:"+pool, "sluice:{s}:fall:q").Result(); err != nil || n != 0 {
		t.Errorf("%d indexes of fallbacks are left, %v", n, err)
	}
}
