package quota_test

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"go.uber.org/goleak"

	"github.com/sluicehq/sluice/api/quota"
	"github.com/sluicehq/sluice/tasks"
	"github.com/sluicehq/sluice/tasks/redistest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func open(t *testing.T, rdb redis.UniversalClient, l quota.Limits) *quota.Quota {
	t.Helper()
	q, err := quota.New(quota.Config{Redis: rdb, Limits: func(string) quota.Limits { return l }})
	if err != nil {
		t.Fatal(err)
	}
	return q
}

func TestABucketHoldsAMinutesWorthAndFillsSteadily(t *testing.T) {
	q := open(t, redistest.New(t), quota.Limits{SubmitsPerMinute: 5, QueuedJobs: 7, TokensPerDay: 900})
	for i := range 5 {
		g, err := q.Admit(t.Context(), "acme", 1)
		if err != nil {
			t.Fatalf("submit %d of 5: %v", i+1, err)
		}
		if g.Limits.QueuedJobs != 7 || g.Limits.TokensPerDay != 900 || len(g.Windows) != 1 {
			t.Fatalf("submit %d: got grant %+v, want 7 queued jobs, 900 tokens and one window", i+1, g)
		}
		w := g.Windows[0]
		if w.Name != quota.SubmitsPerMinute || w.Limit != 5 || w.Remaining != int64(4-i) || w.Span != time.Minute {
			t.Errorf("submit %d: got window %+v, want %d of 5 left in a minute", i+1, w, 4-i)
		}
	}
	_, err := q.Admit(t.Context(), "acme", 1)
	var refused *tasks.QuotaError
	if !errors.As(err, &refused) {
		t.Fatalf("submit 6 of 5: got %v, want a QuotaError", err)
	}
	// Five a minute is one each 12 s.
	if refused.Quota != quota.SubmitsPerMinute || refused.Limit != 5 || refused.RetryAfter <= 10*time.Second || refused.RetryAfter > 12*time.Second {
		t.Errorf("got %+v, want submits_per_minute of 5, again in about 12 s", refused)
	}
	if _, err := q.Admit(t.Context(), "other", 1); err != nil {
		t.Errorf("another tenant: %v", err)
	}
	if err := q.Refund(t.Context(), "acme", 1); err != nil {
		t.Fatal(err)
	}
	if _, err := q.Admit(t.Context(), "acme", 1); err != nil {
		t.Errorf("after a refund: %v", err)
	}
}

func TestTheBucketRefills(t *testing.T) {
	q := open(t, redistest.New(t), quota.Limits{SubmitsPerMinute: 60_000}) // one a millisecond
	if _, err := q.Admit(t.Context(), "acme", 60_000); err != nil {
		t.Fatal(err)
	}
	deadline := time.Now().Add(5 * time.Second)
	for {
		_, err := q.Admit(t.Context(), "acme", 3)
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("three submits at one a millisecond were still refused after 5 s: %v", err)
		}
	}
}

func TestConcurrentSubmitsNeverPassTheLimit(t *testing.T) {
	q := open(t, redistest.New(t), quota.Limits{SubmitsPerMinute: 20})
	var (
		wg    sync.WaitGroup
		mu    sync.Mutex
		taken int
	)
	for range 100 {
		wg.Go(func() {
			_, err := q.Admit(t.Context(), "acme", 1)
			var refused *tasks.QuotaError
			if err != nil && !errors.As(err, &refused) {
				t.Error(err)
			}
			if err == nil {
				mu.Lock()
				taken++
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	// One more falls due each 3 s, should the machine be that slow.
	if taken < 20 || taken > 22 {
		t.Errorf("100 submits at once: %d admitted, want 20", taken)
	}
}

func TestNoLimitAsksNobody(t *testing.T) {
	// Nothing listens there: an unlimited tenant must not depend on it.
	rdb := redis.NewClient(&redis.Options{Network: "unix", Addr: t.TempDir() + "/none", MaxRetries: -1})
	t.Cleanup(func() { _ = rdb.Close() })
	if _, err := open(t, rdb, quota.Limits{}).Admit(t.Context(), "acme", 1); err != nil {
		t.Errorf("no limits: %v", err)
	}
	_, err := open(t, rdb, quota.Limits{SubmitsPerMinute: 1}).Admit(t.Context(), "acme", 1)
	if !errors.Is(err, tasks.ErrUnavailable) {
		t.Errorf("Redis gone: got %v, want ErrUnavailable", err)
	}
}

func TestAccountsExpireAndDoNotMeet(t *testing.T) {
	rdb := redistest.New(t)
	q := open(t, rdb, quota.Limits{SubmitsPerMinute: 10})
	for _, tenant := range []string{"a", "a}{b", "A", "a b"} {
		if _, err := q.Admit(t.Context(), tenant, 1); err != nil {
			t.Fatal(err)
		}
	}
	keys, err := rdb.Keys(context.Background(), "*").Result()
	if err != nil {
		t.Fatal(err)
	}
	if len(keys) != 4 {
		t.Errorf("four tenants have %d accounts: %q", len(keys), keys)
	}
	for _, key := range keys {
		if ttl := rdb.PTTL(t.Context(), key).Val(); ttl <= 0 || ttl > 25*time.Hour {
			t.Errorf("account %q lives %v, want at most a day", key, ttl)
		}
	}
}

func TestNewNamesWhatIsMissing(t *testing.T) {
	if _, err := quota.New(quota.Config{}); err == nil {
		t.Error("New accepted a Config without Redis")
	}
}

// The client library sends a question again when its answer was lost. What it took,
// or gave back, the first time, it does not take again.
func TestASubmitIsTakenOnceHoweverOftenItIsAskedFor(t *testing.T) {
	server := redistest.Start(t, redistest.Options{})
	proxy := redistest.Before(t, server)
	const limit = 60_000 // so large that what the bucket gains meanwhile is seen apart
	q := open(t, proxy.Client(t), quota.Limits{SubmitsPerMinute: limit})
	left := func() int64 {
		t.Helper()
		g, err := open(t, server.Client(), quota.Limits{SubmitsPerMinute: limit}).Admit(t.Context(), "acme", 1)
		if err != nil {
			t.Fatal(err)
		}
		return g.Windows[0].Remaining
	}
	lost := 0
	proxy.Lose(func(command, reply string) bool {
		if !strings.Contains(command, "\r\neval") || strings.HasPrefix(reply, "-") {
			return false
		}
		lost++
		return lost%2 == 1
	})
	if _, err := q.Admit(t.Context(), "acme", 40_000); err != nil {
		t.Fatal(err)
	}
	if n := left(); n < 15_000 || n > limit-30_000 {
		t.Errorf("%d are left after 40,000 of %d were taken once", n, limit)
	}
	if err := q.Refund(t.Context(), "acme", 20_000); err != nil {
		t.Fatal(err)
	}
	if n := left(); n < 35_000 || n > limit-10_000 {
		t.Errorf("%d are left after 20,000 of 40,000 were given back once", n)
	}
	if lost < 4 {
		t.Errorf("%d questions, want each of two sent twice", lost)
	}
}
