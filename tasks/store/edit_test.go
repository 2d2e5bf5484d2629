package store_test

import (
	"errors"
	"fmt"
	"maps"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/sluicehq/sluice/tasks"
	"github.com/sluicehq/sluice/tasks/redistest"
	"github.com/sluicehq/sluice/tasks/store"
)

func priority(p tasks.Priority) func(*tasks.Job) error {
	return func(j *tasks.Job) error { j.Priority = p; return nil }
}

// A job that waits moves in its tenant's order with its priority, by its age, and expires
// by its new deadline.
func TestAJobThatWaitsIsChanged(t *testing.T) {
	t.Parallel()
	rdb := redistest.New(t)
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	s := store.New(store.Config{Redis: rdb, Now: func() time.Time { return now }, Depth: map[string]int{pool: 1}, ResultTTL: time.Hour})
	ctx := t.Context()
	var ids []string
	for i := range 5 {
		j := job("acme")
		j.ID, j.Metadata = fmt.Sprintf("job_%d", i), map[string]string{"n": fmt.Sprint(i)}
		now = now.Add(time.Second)
		_, next, err := s.Create(ctx, tasks.Submission{Job: j})
		must(t, err)
		for _, k := range next {
			ids = append(ids, k.ID)
		}
	}
	if fmt.Sprint(ids) != "[job_0]" {
		t.Fatalf("handed out: %v", ids)
	}
	change := func(id string, edit func(*tasks.Job) error) tasks.Job {
		t.Helper()
		was, err := s.Job(ctx, "acme", id)
		must(t, err)
		j, err := s.Edit(ctx, "acme", id, edit)
		must(t, err)
		if j.Version <= was.Version {
			t.Errorf("%s: version %d after %d", id, j.Version, was.Version)
		}
		return j
	}
	change("job_3", priority(tasks.High))
	change("job_1", priority(tasks.Low))
	change("job_4", priority(tasks.High))
	change("job_4", priority(tasks.Normal)) // and back
	if j := change("job_2", func(j *tasks.Job) error {
		j.Metadata, j.Deadline = maps.Clone(j.Metadata), now.Add(time.Minute)
		j.Metadata["more"] = "<ü>"
		return nil
	}); j.Metadata["n"] != "2" || j.Metadata["more"] != "<ü>" || !j.Deadline.Equal(now.Add(time.Minute)) || j.Model != job("acme").Model {
		t.Errorf("changed: %+v", j)
	}
	if order := rdb.ZRange(ctx, "sluice:{s}:q:p:acme", 0, -1).Val(); strings.Join(order, " ") != "job_3 job_2 job_4 job_1" {
		t.Errorf("the order is %v", order)
	}
	change("job_4", func(j *tasks.Job) error { j.Deadline = now.Add(time.Minute); return nil })
	change("job_4", func(j *tasks.Job) error { j.Deadline, j.Metadata = time.Time{}, nil; return nil })
	now = now.Add(2 * time.Minute)
	swept, err := s.Sweep(ctx)
	must(t, err)
	if len(swept.Expired) != 1 || swept.Expired[0].ID != "job_2" {
		t.Errorf("expired: %+v", swept.Expired)
	}
}

// What cannot be changed is told as that, and stays.
func TestOnlyAJobThatWaitsIsChanged(t *testing.T) {
	t.Parallel()
	s, _ := open(t, 2)
	ctx := t.Context()
	made, next, err := s.Create(ctx, tasks.Submission{Job: job("acme")})
	must(t, err)
	id := made[0].Job.ID
	refused := errors.New("not so")
	for _, row := range []struct {
		tenant, id string
		edit       func(*tasks.Job) error
		want       error
	}{
		{"other", id, priority(tasks.Low), tasks.ErrNotFound},
		{"acme", "job_none", priority(tasks.Low), tasks.ErrNotFound},
		{"acme", id, func(*tasks.Job) error { return refused }, refused},
	} {
		if _, err := s.Edit(ctx, row.tenant, row.id, row.edit); !errors.Is(err, row.want) {
			t.Errorf("%s's %s: %v, want %v", row.tenant, row.id, err, row.want)
		}
	}
	_, err = s.Take(ctx, next[0])
	must(t, err)
	_, _, err = s.Start(ctx, next[0])
	must(t, err)
	if _, err := s.Edit(ctx, "acme", id, priority(tasks.Low)); !errors.Is(err, tasks.ErrConflict) {
		t.Errorf("while it runs: %v", err)
	}
	_, err = s.Cancel(ctx, "acme", id)
	must(t, err)
	if _, err := s.Edit(ctx, "acme", id, priority(tasks.Low)); !errors.Is(err, tasks.ErrConflict) {
		t.Errorf("when it has ended: %v", err)
	}
	if j, err := s.Job(ctx, "acme", id); err != nil || j.Priority != tasks.Normal {
		t.Errorf("%+v, %v", j, err)
	}
}

// Of changes that come at once none undoes another.
func TestChangesAtOnceAreAllKept(t *testing.T) {
	t.Parallel()
	s, rdb := open(t, 1)
	ctx := t.Context()
	made, _, err := s.Create(ctx, tasks.Submission{Job: job("acme")})
	must(t, err)
	id := made[0].Job.ID
	// A newer release has put something in.
	e := rdb.HGet(ctx, "sluice:{s}:j:"+id, "e").Val()
	must(t, rdb.HSet(ctx, "sluice:{s}:j:"+id, "e", strings.Replace(e, "{", `{"new":[1,{}],`, 1)).Err())
	var all sync.WaitGroup
	for i := range 5 {
		all.Go(func() {
			if _, err := s.Edit(ctx, "acme", id, func(j *tasks.Job) error {
				more := map[string]string{fmt.Sprint(i): "x"}
				maps.Copy(more, j.Metadata)
				j.Metadata = more
				return nil
			}); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	if j, err := s.Job(ctx, "acme", id); err != nil || len(j.Metadata) != 6 {
		t.Errorf("%v, %v", j.Metadata, err)
	}
	if e := rdb.HGet(ctx, "sluice:{s}:j:"+id, "e").Val(); !strings.Contains(e, `"new":[1,{}]`) {
		t.Errorf("the envelope is %s", e)
	}
}

// A line of a batch that is not among the waiting jobs yet has its order when it comes
// there, also when its deadline was changed before.
func TestALineIsEditedBeforeItIsUnfolded(t *testing.T) {
	t.Parallel()
	rdb := redistest.New(t)
	s := store.New(store.Config{Redis: rdb, ResultTTL: time.Hour, Depth: map[string]int{pool: 8}})
	ctx, id, lines := t.Context(), store.NewID("batch"), []tasks.Job{job("acme"), job("acme")}
	for i := range lines {
		lines[i].Batch = id
	}
	_, _, err := s.OpenBatch(ctx, id, "acme", "")
	must(t, err)
	must(t, s.StageBatch(ctx, id, lines, tasks.Limits{}))
	_, err = s.CommitBatch(ctx, id, tasks.BatchCommit{Lines: 2})
	must(t, err)
	_, err = s.Edit(ctx, "acme", lines[0].ID, func(j *tasks.Job) error { j.Deadline = time.Now().Add(30 * time.Minute); return nil })
	must(t, err)
	_, _, err = s.Unfold(ctx, id)
	must(t, err)
	first, second := orderOf(t, rdb, lines[0].ID), orderOf(t, rdb, lines[1].ID)
	if first >= second || second-first > 2*3600*1000 {
		t.Errorf("its order is %.0f, and that of the next line %.0f: want it before that by its deadline", first, second)
	}
}

// A job of release 0.1.0, which moved a low one by a day, changes into the lane that it is told.
func TestAJobOfTheReleaseBeforeIsEdited(t *testing.T) {
	t.Parallel()
	for _, day := range []float64{-86400000, 86400000} {
		rdb := redistest.New(t)
		s := store.New(store.Config{Redis: rdb, ResultTTL: time.Hour, Depth: map[string]int{pool: 8}})
		j := job("acme")
		j.Priority = tasks.Low
		submits(t, s, j)
		must(t, rdb.HSet(t.Context(), "sluice:{s}:j:"+j.ID, "k", float64(time.Now().UnixMilli())+day).Err())
		_, err := s.Edit(t.Context(), "acme", j.ID, priority(tasks.Normal))
		must(t, err)
		if k := orderOf(t, rdb, j.ID); k < 0 || k > 4398046511104 {
			t.Errorf("%.0f is in another lane than normal", k)
		}
	}
}

func orderOf(t *testing.T, rdb *redis.Client, id string) float64 {
	t.Helper()
	k, err := rdb.HGet(t.Context(), "sluice:{s}:j:"+id, "k").Float64()
	must(t, err)
	return k
}
