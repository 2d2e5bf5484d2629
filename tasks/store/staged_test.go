package store_test

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/sluicehq/sluice/tasks"
	"github.com/sluicehq/sluice/tasks/redistest"
	"github.com/sluicehq/sluice/tasks/store"
)

// Batches that were begun and never ended held memory for as long as a byte came now
// and then, as many as somebody liked, and counted for nobody.
func TestABatchOnItsWayHasAnAgeAndATenantSomeOfThem(t *testing.T) {
	t.Parallel()
	now := time.Now()
	rdb := redistest.New(t)
	s := store.New(store.Config{Redis: rdb, Now: func() time.Time { return now }})
	ctx := t.Context()
	begin := func(tenant string) (string, error) {
		b, _, err := s.OpenBatch(ctx, store.NewID("batch"), tenant, "")
		return b.ID, err
	}
	limits := tasks.Limits{QueuedBytes: 1000}
	bytes := func() int64 {
		n, _ := rdb.HGet(ctx, "sluice:{s}:tb", "acme").Int64()
		return n
	}
	slow, err := begin("acme")
	if err != nil {
		t.Fatal(err)
	}
	sent := 0
	for {
		j := job("acme")
		j.Batch, j.Bytes = slow, 10
		if err = s.StageBatch(ctx, slow, []tasks.Job{j}, limits); err != nil {
			break
		}
		sent++
		now = now.Add(5 * time.Minute)
	}
	if !errors.Is(err, tasks.ErrNotFound) || sent != 13 || bytes() != 130 {
		t.Fatalf("a batch took %d lines, one each 5 minutes, %d bytes, and then %v; want 13 in 65 minutes", sent, bytes(), err)
	}
	swept, err := s.Sweep(ctx)
	if err != nil || fmt.Sprint(swept.Stale) != fmt.Sprint([]string{slow}) {
		t.Fatalf("abandoned: %v, %v", swept.Stale, err)
	}
	if err := s.AbortBatch(ctx, slow); err != nil || bytes() != 0 {
		t.Fatalf("%d bytes are counted after the end, %v", bytes(), err)
	}

	var open []string
	for range 64 {
		id, err := begin("acme")
		if err != nil {
			t.Fatalf("batch %d: %v", len(open), err)
		}
		open = append(open, id)
	}
	var many *tasks.QuotaError
	if _, err := begin("acme"); !errors.As(err, &many) || many.Quota != "open_batches" || many.Limit != 64 || many.RetryAfter < time.Second {
		t.Errorf("the 65th: %v", err)
	}
	if _, err := begin("zoe"); err != nil {
		t.Errorf("another tenant's first: %v", err)
	}
	// The end of one, in whatever way, makes room for another.
	line := job("acme")
	line.Batch = open[0]
	if err := errors.Join(s.StageBatch(ctx, open[0], []tasks.Job{line}, limits), s.AbortBatch(ctx, open[1])); err != nil {
		t.Fatal(err)
	}
	if _, err := s.CommitBatch(ctx, open[0], tasks.BatchCommit{}); err != nil {
		t.Fatal(err)
	}
	if err := rdb.ZRem(ctx, "sluice:{s}:staging", open[2]).Err(); err != nil { // by a release that counts none
		t.Fatal(err)
	}
	for range 3 {
		if _, err := begin("acme"); err != nil {
			t.Errorf("after three have ended: %v", err)
		}
	}
	if _, err := begin("acme"); !errors.As(err, &many) {
		t.Errorf("the 65th again: %v", err)
	}
}

// Lines of one tenant do not get into a batch of another, which is not there for it.
func TestABatchTakesNoOthersLines(t *testing.T) {
	t.Parallel()
	s := store.New(store.Config{Redis: redistest.New(t)})
	b, _, err := s.OpenBatch(t.Context(), store.NewID("batch"), "acme", "")
	must(t, err)
	j := job("zoe")
	j.Batch = b.ID
	if err := s.StageBatch(t.Context(), b.ID, []tasks.Job{j}, tasks.Limits{}); !errors.Is(err, tasks.ErrNotFound) {
		t.Errorf("another tenant's line: %v", err)
	}
}
