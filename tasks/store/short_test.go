package store_test

import (
	"context"
	"fmt"
	"net"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/sluicehq/sluice/tasks"
	"github.com/sluicehq/sluice/tasks/redistest"
	"github.com/sluicehq/sluice/tasks/store"
)

// steps is a hook that counts what Redis does in each call of a client: the commands
// inside a script too.
type steps struct {
	t    *testing.T
	aide *redis.Client // which counts
	most int           // of any call
	of   string        // the call that most is of
}

func (s *steps) DialHook(next redis.DialHook) redis.DialHook {
	return func(ctx context.Context, network, addr string) (net.Conn, error) { return next(ctx, network, addr) }
}

func (s *steps) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		if err := s.aide.ConfigResetStat(ctx).Err(); err != nil {
			s.t.Error(err)
		}
		done := next(ctx, cmd)
		text, err := s.aide.Info(ctx, "commandstats").Result()
		if err != nil {
			s.t.Error(err)
		}
		n := 0
		for line := range strings.Lines(text) {
			if _, calls, ok := strings.Cut(line, ":calls="); ok {
				calls, _, _ = strings.Cut(calls, ",")
				one, err := strconv.Atoi(calls)
				if err != nil {
					s.t.Error(err)
				}
				n += one
			}
		}
		if n > s.most {
			args := fmt.Sprint(cmd.Args()...)
			s.most, s.of = n, args[max(0, strings.Index(args, "{")):]
			s.of = s.of[:min(200, len(s.of))]
		}
		return done
	}
}

func (s *steps) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return next
}

// While a script runs everybody waits: whatever a tenant asks for, none does more than
// some hundred steps, and the hand-out of many jobs about a thousand.
func TestNoCallHoldsRedisLong(t *testing.T) {
	t.Parallel()
	const lines, most = 600, 1500
	server := redistest.Start(t, redistest.Options{})
	rdb := server.Client()
	now := time.Now()
	s := store.New(store.Config{
		Redis: rdb, ResultTTL: time.Hour, Depth: map[string]int{pool: 500}, NewSecret: func() string { return "whsec_AAAA" },
		Now: func() time.Time { return now },
	})
	ctx := t.Context()
	count := &steps{t: t, aide: server.Client()}
	rdb.AddHook(count)
	check := func(what string) {
		t.Helper()
		if count.most > most {
			t.Errorf("%s: a call made %d steps, want at most %d: %s", what, count.most, most, count.of)
		}
		count.most = 0
	}
	written := func(commit bool) string {
		b, _, err := s.OpenBatch(ctx, store.NewID("batch"), "acme", "")
		if err != nil {
			t.Fatal(err)
		}
		jobs := make([]tasks.Job, lines)
		for i := range jobs {
			jobs[i] = job("acme")
			jobs[i].Batch, jobs[i].Line, jobs[i].WebhookURL, jobs[i].Deadline = b.ID, i+1, fmt.Sprintf("https://host%d.example/hook", i), now.Add(time.Hour)
			jobs[i].Reserved, jobs[i].Fallback = 20, []string{"other"}
		}
		if err := s.StageBatch(ctx, b.ID, jobs, tasks.Limits{}); err != nil {
			t.Fatal(err)
		}
		check("writing a batch")
		if !commit {
			return b.ID
		}
		if _, err := s.CommitBatch(ctx, b.ID, tasks.BatchCommit{Lines: lines}); err != nil {
			t.Fatal(err)
		}
		check("accepting a batch")
		for left := int64(1); left > 0; {
			if left, _, err = s.Unfold(ctx, b.ID); err != nil {
				t.Fatal(err)
			}
		}
		check("unfolding a batch")
		return b.ID
	}
	if err := s.AbortBatch(ctx, written(false)); err != nil {
		t.Fatal(err)
	}
	check("forgetting a batch")
	if _, err := s.CancelBatch(ctx, "acme", written(true)); err != nil {
		t.Fatal(err)
	}
	check("canceling a batch")
	id := written(true)
	told := 0
	now = now.Add(2 * time.Hour)
	for again := true; again; {
		swept, err := s.Sweep(ctx)
		if err != nil {
			t.Fatal(err)
		}
		told += len(swept.Expired)
		again = swept.NextDue == 0
	}
	check("sweeping")
	b, err := s.Batch(ctx, "acme", id)
	if err != nil || b.Counts.Expired != lines || told != lines {
		t.Errorf("%d of %d lines expired in sweeps that came at once, and %d were told of, %v", b.Counts.Expired, lines, told, err)
	}
}
