package store_test

import (
	"errors"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/sluicehq/sluice/tasks"
	"github.com/sluicehq/sluice/tasks/store"
)

// stage writes n lines of a new batch.
func stage(t *testing.T, s *store.Store, n int) tasks.Batch {
	t.Helper()
	b, prior, err := s.OpenBatch(t.Context(), store.NewID("batch"), "acme", "")
	if err != nil || prior != nil {
		t.Fatalf("open: %v, %v", prior, err)
	}
	var jobs []tasks.Job
	for i := range n {
		j := job("acme")
		j.Batch, j.Line = b.ID, i+1
		jobs = append(jobs, j)
	}
	if err := s.StageBatch(t.Context(), b.ID, jobs, tasks.Limits{}); err != nil {
		t.Fatal(err)
	}
	return b
}

// unfold puts all lines of an accepted batch into the backlogs.
func unfold(t *testing.T, s *store.Store, id string) {
	t.Helper()
	for left := int64(1); left > 0; {
		var err error
		if left, _, err = s.Unfold(t.Context(), id); err != nil {
			t.Fatal(err)
		}
	}
}

func TestABatchIsInvisibleUntilItIsWhole(t *testing.T) {
	t.Parallel()
	s, _ := open(t, 3)
	ctx := t.Context()
	b := stage(t, s, 10)
	if _, err := s.Batch(ctx, "acme", b.ID); !errors.Is(err, tasks.ErrNotFound) {
		t.Errorf("an open batch: %v, want ErrNotFound", err)
	}
	if load, _ := s.Load(ctx, pool); load.Queued != 0 {
		t.Errorf("%d lines of an open batch are queued", load.Queued)
	}
	if _, err := s.CommitBatch(ctx, b.ID, tasks.BatchCommit{}); err != nil {
		t.Fatal(err)
	}
	left, tickets, err := s.Unfold(ctx, b.ID)
	if err != nil || left != 0 || len(tickets) != 3 {
		t.Fatalf("unfold: %d left, %d tickets, %v", left, len(tickets), err)
	}
	for len(tickets) > 0 {
		k := tickets[0]
		take(t, s, k)
		_, next, err := s.Start(ctx, k)
		if err != nil {
			t.Fatal(err)
		}
		more, err := s.End(ctx, k, won)
		if err != nil {
			t.Fatal(err)
		}
		tickets = append(append(tickets[1:], next...), more...)
	}
	got, err := s.Batch(ctx, "acme", b.ID)
	if err != nil || got.Status != tasks.BatchEnded || got.Counts != (tasks.Counts{Total: 10, Succeeded: 10}) {
		t.Errorf("at the end: %+v, %v", got, err)
	}
	jobs, more, err := s.BatchJobs(ctx, "acme", b.ID, 4, 4)
	if err != nil || !more || len(jobs) != 4 || jobs[0].Line != 5 {
		t.Errorf("lines 5 to 8: %d jobs, more %v, %v", len(jobs), more, err)
	}
	if page, err := s.Jobs(ctx, tasks.Filter{Tenant: "acme", Batch: b.ID, Limit: 4}); err != nil || len(page.Jobs) != 4 || page.Jobs[0].Line != 10 {
		t.Errorf("the list of a batch: %+v, %v", page, err)
	}
}

func TestAnAbandonedBatchLeavesNothing(t *testing.T) {
	t.Parallel()
	s, rdb := open(t, 3)
	ctx := t.Context()
	b := stage(t, s, 700)
	rdb.ZAdd(ctx, "sluice:{s}:staging", redis.Z{Score: 1, Member: b.ID})
	swept, err := s.Sweep(ctx)
	if err != nil || len(swept.Stale) != 1 || swept.Stale[0] != b.ID {
		t.Fatalf("swept: %+v, %v", swept, err)
	}
	if err := s.AbortBatch(ctx, b.ID); err != nil {
		t.Fatal(err)
	}
	for _, f := range []string{"b:" + pool, "n:" + pool} {
		if left := rdb.HGet(ctx, "sluice:{s}:room", f).Val(); left != "0" {
			t.Errorf("room is kept for results that nobody waits for: %s is %q", f, left)
		}
	}
	if keys := rdb.Keys(ctx, "*").Val(); len(keys) != 3 { // that, the sweep's own clock, and since when metadata is indexed
		t.Errorf("left behind: %v", keys)
	}
}

func TestAnAcceptedBatchIsUnfoldedByASweep(t *testing.T) {
	t.Parallel()
	s, rdb := open(t, 3)
	ctx := t.Context()
	b := stage(t, s, 5)
	if _, err := s.CommitBatch(ctx, b.ID, tasks.BatchCommit{}); err != nil {
		t.Fatal(err)
	}
	rdb.ZAdd(ctx, "sluice:{s}:unfold", redis.Z{Score: 1, Member: b.ID}) // its API died
	swept, err := s.Sweep(ctx)
	if err != nil || len(swept.Unfold) != 1 {
		t.Fatalf("swept: %+v, %v", swept, err)
	}
}

func TestCancelingABatchCancelsItsJobs(t *testing.T) {
	t.Parallel()
	s, _ := open(t, 2)
	ctx := t.Context()
	b := stage(t, s, 6)
	if _, err := s.CommitBatch(ctx, b.ID, tasks.BatchCommit{}); err != nil {
		t.Fatal(err)
	}
	// Canceled before it is unfolded, the counts still come out.
	got, err := s.CancelBatch(ctx, "acme", b.ID)
	if err != nil || got.Status != tasks.BatchEnded || got.Counts != (tasks.Counts{Total: 6, Canceled: 6}) {
		t.Errorf("canceled: %+v, %v", got, err)
	}
	if _, _, err := s.Unfold(ctx, b.ID); err != nil {
		t.Fatal(err)
	}
	if load, err := s.Load(ctx, pool); err != nil || load.Queued != 0 {
		t.Errorf("load: %+v, %v", load, err)
	}
	if _, err := s.CancelBatch(ctx, "acme", b.ID); !errors.Is(err, tasks.ErrFinal) {
		t.Errorf("canceled again: %v, want ErrFinal", err)
	}
}

func TestABatchesKeySubmitsOnce(t *testing.T) {
	t.Parallel()
	s, _ := open(t, 2)
	ctx := t.Context()
	b, _, err := s.OpenBatch(ctx, store.NewID("batch"), "acme", "k")
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := s.OpenBatch(ctx, store.NewID("batch"), "acme", "k"); !errors.Is(err, tasks.ErrKeyBusy) {
		t.Errorf("while the first is written: %v, want ErrKeyBusy", err)
	}
	j := job("acme")
	j.Batch = b.ID
	if err := s.StageBatch(ctx, b.ID, []tasks.Job{j}, tasks.Limits{}); err != nil {
		t.Fatal(err)
	}
	if _, err := s.CommitBatch(ctx, b.ID, tasks.BatchCommit{Fingerprint: "fp"}); err != nil {
		t.Fatal(err)
	}
	_, prior, err := s.OpenBatch(ctx, store.NewID("batch"), "acme", "k")
	if err != nil || prior == nil || prior.ID != b.ID || prior.Fingerprint != "fp" {
		t.Errorf("after it: %+v, %v", prior, err)
	}
	if c, _, err := s.OpenBatch(ctx, store.NewID("batch"), "acme", "other"); err != nil {
		t.Fatal(err)
	} else if err := s.AbortBatch(ctx, c.ID); err != nil {
		t.Fatal(err)
	}
	if _, prior, err := s.OpenBatch(ctx, store.NewID("batch"), "acme", "other"); err != nil || prior != nil {
		t.Errorf("the key of an aborted batch: %v, %v; want it free", prior, err)
	}
}

func TestABatchLargerThanTheBacklogIsRefused(t *testing.T) {
	t.Parallel()
	s, _ := open(t, 2)
	b := stage(t, s, 5)
	var quota *tasks.QuotaError
	if _, err := s.CommitBatch(t.Context(), b.ID, tasks.BatchCommit{Limits: tasks.Limits{QueuedJobs: 4}}); !errors.As(err, &quota) || quota.RetryAfter < time.Second {
		t.Errorf("commit: %v, want a QuotaError", err)
	}
}
