package store_test

import (
	"context"
	"net"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/sluicehq/sluice/tasks"
	"github.com/sluicehq/sluice/tasks/redistest"
	"github.com/sluicehq/sluice/tasks/store"
)

// twice sends every script twice and takes the second answer, as the client
// library does when the connection ends between a command and its reply.
type twice struct{}

func (twice) DialHook(next redis.DialHook) redis.DialHook {
	return func(ctx context.Context, network, addr string) (net.Conn, error) { return next(ctx, network, addr) }
}

func (twice) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		if name := cmd.Name(); name == "evalsha" || name == "eval" {
			if err := next(ctx, redis.NewCmd(ctx, cmd.Args()...)); err != nil {
				return next(ctx, cmd)
			}
		}
		return next(ctx, cmd)
	}
}

func (twice) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return func(ctx context.Context, cmds []redis.Cmder) error { return next(ctx, cmds) }
}

func openTwice(t *testing.T) (*store.Store, *redis.Client) {
	t.Helper()
	srv := redistest.Start(t, redistest.Options{})
	plain, rdb := srv.Client(), srv.Client()
	rdb.AddHook(twice{})
	return store.New(store.Config{Redis: rdb, ResultTTL: time.Hour, Depth: map[string]int{pool: 4}}), plain
}

func load(t *testing.T, s *store.Store) tasks.Load {
	t.Helper()
	l, err := s.Load(t.Context(), pool)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func TestASubmitThatRedisGotTwiceIsOneJob(t *testing.T) {
	t.Parallel()
	for _, key := range []string{"", "k"} {
		s, rdb := openTwice(t)
		made, _, err := s.Create(t.Context(), tasks.Submission{Job: job("acme"), Key: key, Fingerprint: "f"})
		if err != nil || made[0].Err != nil || made[0].Replayed {
			t.Fatalf("create with key %q: %v, %+v; want a new job", key, err, made)
		}
		if l := load(t, s); l.Queued != 1 {
			t.Errorf("key %q: %d jobs are counted as queued, want 1", key, l.Queued)
		}
		if n := rdb.HGet(t.Context(), "sluice:{s}:tq", "acme").Val(); n != "1" {
			t.Errorf("key %q: the tenant has %s waiting jobs, want 1", key, n)
		}
		j := read(t, s, made[0].Job.ID)
		if j.Status != tasks.StatusQueued || j.Fence != 1 {
			t.Errorf("key %q: status %s, fence %d; want queued at fence 1", key, j.Status, j.Fence)
		}
	}
}

func TestABatchThatRedisGotTwiceIsOneBatch(t *testing.T) {
	t.Parallel()
	for _, key := range []string{"", "k"} {
		s, _ := openTwice(t)
		b, prior, err := s.OpenBatch(t.Context(), store.NewID("batch"), "acme", key)
		if err != nil || prior != nil {
			t.Fatalf("open with key %q: %v, prior %v", key, err, prior)
		}
		lines := make([]tasks.Job, 3)
		for i := range lines {
			lines[i] = job("acme")
			lines[i].Batch, lines[i].Line = b.ID, i+1
		}
		if err := s.StageBatch(t.Context(), b.ID, lines, tasks.Limits{}); err != nil {
			t.Fatalf("key %q: %v", key, err)
		}
		accepted, err := s.CommitBatch(t.Context(), b.ID, tasks.BatchCommit{Fingerprint: "f"})
		if err != nil || accepted.Tenant != "acme" || accepted.Counts.Total != 3 {
			t.Fatalf("commit with key %q: %+v, %v", key, accepted, err)
		}
		for left := int64(1); left > 0; {
			if left, _, err = s.Unfold(t.Context(), b.ID); err != nil {
				t.Fatal(err)
			}
		}
		got, err := s.Batch(t.Context(), "acme", b.ID)
		if err != nil || got.Counts.Total != 3 || got.Counts.Queued != 3 {
			t.Errorf("key %q: batch %+v, %v; want 3 lines, all queued", key, got, err)
		}
		if l := load(t, s); l.Queued != 3 {
			t.Errorf("key %q: the pool has %d queued jobs, want 3", key, l.Queued)
		}
	}
}

func TestAStartThatRedisGotTwiceIsOneCall(t *testing.T) {
	t.Parallel()
	s, _ := openTwice(t)
	k := claimed(t, s)
	take(t, s, k)
	started := start(t, s, k)
	if started.Call != 1 || started.Attempts != 1 {
		t.Errorf("started: %+v, want call 1 of attempt 1", started)
	}
	// Another worker that holds the same ticket has still lost it.
	if _, _, err := s.Start(t.Context(), k); err == nil {
		t.Error("a second worker started the same ticket")
	}
	if j := read(t, s, k.ID); j.Attempts != 1 {
		t.Errorf("%d attempts, want 1", j.Attempts)
	}
}

// Its writer is dead or silent: the caller's next try must not have to wait
// until the abandoned batch is swept away.
func TestAKeyOfASilentBatchCanBeUsedAgain(t *testing.T) {
	t.Parallel()
	s, rdb := open(t, 4)
	ctx := t.Context()
	first, _, err := s.OpenBatch(ctx, store.NewID("batch"), "acme", "k")
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := s.OpenBatch(ctx, store.NewID("batch"), "acme", "k"); err != tasks.ErrKeyBusy {
		t.Fatalf("open while the first is written: %v, want ErrKeyBusy", err)
	}
	line := job("acme")
	line.Batch, line.Line = first.ID, 1
	if err := s.StageBatch(ctx, first.ID, []tasks.Job{line}, tasks.Limits{}); err != nil {
		t.Fatal(err)
	}
	rdb.ZIncrBy(ctx, "sluice:{s}:staging", -float64((20 * time.Second).Milliseconds()), first.ID) // 20 s pass
	second, prior, err := s.OpenBatch(ctx, store.NewID("batch"), "acme", "k")
	if err != nil || prior != nil || second.ID == first.ID {
		t.Fatalf("open 20 s later: %v, %v, %v; want a new batch", second.ID, prior, err)
	}
	if _, err := s.CommitBatch(ctx, first.ID, tasks.BatchCommit{Fingerprint: "f"}); err == nil {
		t.Error("the first writer came back and had its batch accepted beside the second")
	}
	line = job("acme")
	line.Batch, line.Line = second.ID, 1
	if err := s.StageBatch(ctx, second.ID, []tasks.Job{line}, tasks.Limits{}); err != nil {
		t.Fatal(err)
	}
	if _, err := s.CommitBatch(ctx, second.ID, tasks.BatchCommit{Fingerprint: "f"}); err != nil {
		t.Errorf("commit the second: %v", err)
	}
	if err := s.AbortBatch(ctx, first.ID); err != nil {
		t.Error(err)
	}
	if _, prior, err := s.OpenBatch(ctx, store.NewID("batch"), "acme", "k"); err != nil || prior == nil || prior.ID != second.ID {
		t.Errorf("the key is now of %+v, %v; want the second batch", prior, err)
	}
}
