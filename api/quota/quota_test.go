package quota_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
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

// clock is a clock that a test sets.
type clock struct{ ms atomic.Int64 }

func newClock() *clock {
	c := new(clock)
	c.ms.Store(1_764_000_000_000)
	return c
}

func (c *clock) now() time.Time { return time.UnixMilli(c.ms.Load()) }

func at(t *testing.T, rdb redis.UniversalClient, c *clock, perMinute int64) *quota.Quota {
	t.Helper()
	q, err := quota.New(quota.Config{Redis: rdb, Now: c.now, Limits: func(string) quota.Limits { return quota.Limits{SubmitsPerMinute: perMinute} }})
	if err != nil {
		t.Fatal(err)
	}
	return q
}

func TestAMinuteHoldsItsAllowanceOnce(t *testing.T) {
	t.Parallel()
	q := open(t, redistest.New(t), quota.Limits{SubmitsPerMinute: 5, QueuedJobs: 7, TokensPerDay: 900})
	var last quota.Grant
	for i := range 5 {
		g, err := q.Admit(t.Context(), "acme", 1)
		if err != nil {
			t.Fatalf("submit %d of 5: %v", i+1, err)
		}
		if g.Limits.QueuedJobs != 7 || g.Limits.TokensPerDay != 900 || len(g.Windows) != 1 {
			t.Fatalf("submit %d: got grant %+v, want 7 queued jobs, 900 tokens and one window", i+1, g)
		}
		w := g.Windows[0]
		if w.Name != quota.SubmitsPerMinute || w.Limit != 5 || w.Remaining != int64(4-i) || w.Span != time.Minute || w.Reset > 60010*time.Millisecond || w.Reset < 30*time.Second {
			t.Errorf("submit %d: got window %+v, want %d of 5 left in a minute", i+1, w, 4-i)
		}
		last = g
	}
	_, err := q.Admit(t.Context(), "acme", 1)
	var refused *tasks.QuotaError
	if !errors.As(err, &refused) {
		t.Fatalf("submit 6 of 5: got %v, want a QuotaError", err)
	}
	if refused.Quota != quota.SubmitsPerMinute || refused.Limit != 5 || refused.Remaining != 0 || refused.RetryAfter <= 20*time.Second || refused.RetryAfter > 60010*time.Millisecond {
		t.Errorf("got %+v, want submits_per_minute of 5, again in about a minute", refused)
	}
	if _, err := q.Admit(t.Context(), "other", 1); err != nil {
		t.Errorf("another tenant: %v", err)
	}
	if err := q.Refund(t.Context(), "acme", last); err != nil {
		t.Fatal(err)
	}
	if _, err := q.Admit(t.Context(), "acme", 1); err != nil {
		t.Errorf("after a refund: %v", err)
	}
}

// taken is a submit of the model: when, and how many.
type taken struct {
	at, n int64
	grant quota.Grant
}

// In any 60 s at most the allowance is admitted, and whoever comes again when told to
// is: random submits and refunds of three processes against a model that has them all.
func TestNo60SecondsHoldMoreThanTheAllowance(t *testing.T) {
	t.Parallel()
	rdb := redistest.New(t)
	for seed := range uint64(6) {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			random := rand.New(rand.NewPCG(seed, 1))
			most := []int64{1, 3, 10, 40, 200, 7}[seed]
			tenant := fmt.Sprint("t", seed)
			c := newClock()
			processes := []*quota.Quota{at(t, rdb, c, most), at(t, rdb, c, most), at(t, rdb, c, most)}
			var log []taken
			within := func(from, to int64) (n int64) { // those of from < time <= to
				for _, a := range log {
					if a.at > from && a.at <= to {
						n += a.n
					}
				}
				return n
			}
			for step := range 500 {
				c.ms.Add([]int64{0, 0, 1, 7, random.Int64N(600), random.Int64N(120_000 / most)}[random.IntN(6)])
				now, by := c.ms.Load(), random.IntN(len(processes))
				if len(log) > 0 && random.IntN(4) == 0 {
					i := len(log) - 1 - random.IntN(min(len(log), 12))
					if err := processes[by].Refund(t.Context(), tenant, log[i].grant); err != nil {
						t.Fatal(err)
					}
					log = slices.Delete(log, i, i+1)
					continue
				}
				want := 1 + random.Int64N(min(most, 3))
				g, err := processes[by].Admit(t.Context(), tenant, want)
				var refused *tasks.QuotaError
				switch {
				case err == nil:
					log = append(log, taken{at: now, n: want, grant: g})
					if n := within(now-60_000, now); n > most || g.Windows[0].Remaining > most-n {
						t.Fatalf("step %d: %d of %d in 60 s, %d told to remain", step, n, most, g.Windows[0].Remaining)
					}
				case !errors.As(err, &refused):
					t.Fatal(err)
				default:
					if n := within(now-60_010, now); n+want <= most {
						t.Fatalf("step %d: %d of %d were taken, and %d refused", step, n, most, want)
					}
					// Whoever comes just before is refused, whoever comes then is not.
					c.ms.Add(refused.RetryAfter.Milliseconds() - 1)
					if _, err := processes[by].Admit(t.Context(), tenant, want); !errors.As(err, &refused) || refused.RetryAfter != time.Millisecond {
						t.Fatalf("step %d: a millisecond before it would pass: %v", step, err)
					}
					c.ms.Add(1)
					if g, err = processes[by].Admit(t.Context(), tenant, want); err != nil {
						t.Fatalf("step %d: when it would pass: %v", step, err)
					}
					log = append(log, taken{at: c.ms.Load(), n: want, grant: g})
					if n := within(c.ms.Load()-60_000, c.ms.Load()); n > most {
						t.Fatalf("step %d: %d of %d in 60 s after a wait", step, n, most)
					}
				}
			}
		})
	}
}

// A clock that is set back neither shuts a tenant out nor gives it more.
func TestAClockThatIsSetBackStopsNobody(t *testing.T) {
	t.Parallel()
	c := newClock()
	q := at(t, redistest.New(t), c, 2)
	admitted := func() int {
		n := 0
		for range 3 {
			if _, err := q.Admit(t.Context(), "acme", 1); err == nil {
				n++
			}
		}
		return n
	}
	for i, row := range []struct {
		step time.Duration
		want int
	}{{0, 2}, {-time.Hour, 0}, {59 * time.Second, 0}, {1010 * time.Millisecond, 2}, {-time.Second, 0}, {60 * time.Second, 0}, {10 * time.Millisecond, 2}} {
		c.ms.Add(row.step.Milliseconds())
		if n := admitted(); n != row.want {
			t.Errorf("step %d, the clock goes %v: %d admitted, want %d", i, row.step, n, row.want)
		}
	}
}

// A tenant of a large allowance costs no more than a small one, in memory and time.
func TestALargeAllowanceIsKeptSmall(t *testing.T) {
	t.Parallel()
	rdb := redistest.New(t)
	c := newClock()
	q := at(t, rdb, c, 10_000_000)
	for range 1000 {
		c.ms.Add(1)
		if _, err := q.Admit(t.Context(), "acme", 1); err != nil {
			t.Fatal(err)
		}
	}
	if n := rdb.LLen(t.Context(), "sluice:quota:{acme}:log").Val(); n < 100 || n > 101 {
		t.Errorf("a second of submits has %d entries, want one each 10 ms", n)
	}
	c.ms.Add(60_010)
	if g, err := q.Admit(t.Context(), "acme", 1); err != nil || g.Windows[0].Remaining != 10_000_000-1 {
		t.Errorf("a minute later: %+v, %v", g, err)
	}
	if n := rdb.LLen(t.Context(), "sluice:quota:{acme}:log").Val(); n != 1 {
		t.Errorf("a minute later the log has %d entries, want 1", n)
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
	if taken != 20 {
		t.Errorf("100 submits at once: %d admitted, want 20", taken)
	}
}

// Whoever asks for how many at once, no more go in a minute than are allowed, and
// submits have an account of their own.
func TestResendsNeverPassTheirLimit(t *testing.T) {
	t.Parallel()
	rdb := redistest.New(t)
	limits := quota.Limits{SubmitsPerMinute: 5, ResendsPerMinute: 20}
	doors := []*quota.Quota{open(t, rdb, limits), open(t, rdb, limits)} // two processes
	var (
		wg    sync.WaitGroup
		taken atomic.Int64
	)
	for i := range 60 {
		wg.Go(func() {
			g, err := doors[i%2].Resend(t.Context(), "acme", int64(1+i%3))
			n := g.Taken
			var refused *tasks.QuotaError
			if err != nil && !(errors.As(err, &refused) && refused.Quota == quota.ResendsPerMinute && refused.Limit == 20 && refused.RetryAfter > 0 && refused.RetryAfter <= time.Minute+10*time.Millisecond) {
				t.Errorf("%v, want a refusal by resends_per_minute of 20 for at most a minute", err)
			}
			if n < 0 || n > int64(1+i%3) || (err == nil) != (n > 0) {
				t.Errorf("%d of %d, %v", n, 1+i%3, err)
			}
			taken.Add(n)
		})
	}
	wg.Wait()
	if n := taken.Load(); n != 20 {
		t.Errorf("120 resends asked for: %d went, want 20", n)
	}
	if g, err := doors[0].Admit(t.Context(), "acme", 5); err != nil || g.Windows[0].Remaining != 0 {
		t.Errorf("submits beside resends: %+v, %v", g, err)
	}
	all, err := doors[1].Resend(t.Context(), "other", 50)
	if all.Taken != 20 || err != nil {
		t.Errorf("another tenant's 50: %+v, %v; want the 20 that it has", all, err)
	}
	if err := doors[0].Refund(t.Context(), "other", all); err != nil {
		t.Fatal(err)
	}
	if g, err := doors[1].Resend(t.Context(), "other", 7); g.Taken != 7 || err != nil {
		t.Errorf("of 7, after 20 came back: %+v, %v", g, err)
	}
	if g, err := open(t, rdb, quota.Limits{}).Resend(t.Context(), "acme", 50); g.Taken != 50 || err != nil {
		t.Errorf("without a limit: %+v, %v", g, err)
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
	q := open(t, rdb, quota.Limits{SubmitsPerMinute: 10, ResendsPerMinute: 10})
	for _, tenant := range []string{"a", "a}{b", "A", "a b", "resend:a"} {
		if _, err := q.Admit(t.Context(), tenant, 1); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := q.Resend(t.Context(), "a", 1); err != nil {
		t.Fatal(err)
	}
	keys, err := rdb.Keys(context.Background(), "*").Result()
	if err != nil {
		t.Fatal(err)
	}
	if len(keys) != 12 {
		t.Errorf("six accounts have %d keys, want one and a log each: %q", len(keys), keys)
	}
	for _, key := range keys {
		if ttl := rdb.PTTL(t.Context(), key).Val(); ttl <= 0 || ttl > 2*time.Minute {
			t.Errorf("%q lives %v, want at most two minutes", key, ttl)
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
	const limit = 60_000
	q := open(t, proxy.Client(t), quota.Limits{SubmitsPerMinute: limit})
	direct := open(t, server.Client(), quota.Limits{SubmitsPerMinute: limit})
	left := func() int64 {
		t.Helper()
		g, err := direct.Admit(t.Context(), "acme", 1)
		if err != nil {
			t.Fatal(err)
		}
		if err := direct.Refund(t.Context(), "acme", g); err != nil {
			t.Fatal(err)
		}
		return g.Windows[0].Remaining + 1
	}
	lost := 0
	proxy.Lose(func(command, reply string) bool {
		if !strings.Contains(command, "\r\neval") || strings.HasPrefix(reply, "-") {
			return false
		}
		lost++
		return lost%2 == 1
	})
	g, err := q.Admit(t.Context(), "acme", 40_000)
	if err != nil {
		t.Fatal(err)
	}
	if n := left(); n != 20_000 {
		t.Errorf("%d are left after 40,000 of %d were taken once", n, limit)
	}
	if _, err := q.Admit(t.Context(), "acme", 20_000); err != nil {
		t.Fatal(err)
	}
	if err := q.Refund(t.Context(), "acme", g); err != nil {
		t.Fatal(err)
	}
	if n := left(); n != 40_000 {
		t.Errorf("%d are left after 40,000 of 60,000 were given back once", n)
	}
	if lost < 6 {
		t.Errorf("%d questions, want each of three sent twice", lost)
	}
}

func TestALookTakesNothing(t *testing.T) {
	t.Parallel()
	q := open(t, redistest.New(t), quota.Limits{SubmitsPerMinute: 5, QueuedJobs: 7})
	for i := range 3 {
		l, w, err := q.Standing(t.Context(), "acme")
		if err != nil || l.QueuedJobs != 7 || len(w) != 1 || w[0].Limit != 5 || w[0].Remaining != int64(5-i) || (w[0].Reset > 0) != (i > 0) {
			t.Errorf("after %d submits: %+v, %+v, %v", i, l, w, err)
		}
		if _, err := q.Admit(t.Context(), "acme", 1); err != nil {
			t.Fatal(err)
		}
	}
	none := open(t, redistest.New(t), quota.Limits{})
	if _, w, err := none.Standing(t.Context(), "acme"); err != nil || len(w) != 0 {
		t.Errorf("without a limit: %+v, %v", w, err)
	}
}

const (
	ada = "acme/ada"
	bob = "acme/bob:log" // whose name is the end of another's key
)

// opensUsers is a quota of a tenant, and of each of its users.
func opensUsers(t *testing.T, rdb redis.UniversalClient, c *clock, tenant, user int64) *quota.Quota {
	t.Helper()
	q, err := quota.New(quota.Config{Redis: rdb, Now: c.now, Limits: func(string) quota.Limits {
		return quota.Limits{SubmitsPerMinute: tenant, Users: tasks.UserLimits{SubmitsPerMinute: user}}
	}})
	if err != nil {
		t.Fatal(err)
	}
	return q
}

// A user's submits count to it and to its tenant; what is refused by one of both takes of none, what is given back is back in both.
func TestAUserHasSubmitsOfItsOwn(t *testing.T) {
	t.Parallel()
	c := newClock()
	rdb := redistest.New(t)
	q := opensUsers(t, rdb, c, 5, 2)
	grants := map[string]quota.Grant{}
	for i, row := range []struct {
		do, owner, refused string
		tenant, user       int64 // left; -1: the answer does not say
		again              time.Duration
	}{
		{"admit", ada, "", 4, 1, 0},
		{"later", "", "", 0, 0, 1000 * time.Millisecond},
		{"admit", ada, "", 3, 0, 0},
		{"admit", ada, "users.submits_per_minute", 3, 0, 59010 * time.Millisecond},
		{"admit", bob, "", 2, 1, 0},
		{"admit", "acme", "", 1, -1, 0},
		{"admit", bob, "", 0, 0, 0},
		{"admit", bob, "users.submits_per_minute", 0, 0, 60010 * time.Millisecond}, // the tenant's comes first
		{"admit", "acme", "submits_per_minute", 0, -1, 59010 * time.Millisecond},
		{"refund", bob, "", 0, 0, 0},
		{"look", bob, "", 1, 1, 0},
		{"admit", ada, "users.submits_per_minute", 1, 0, 59010 * time.Millisecond},
		{"later", "", "", 0, 0, 59010 * time.Millisecond},
		{"admit", ada, "", 1, 0, 0}, // when it was told to come
	} {
		var windows []quota.Window
		switch row.do {
		case "later":
			c.ms.Add(row.again.Milliseconds())
			continue
		case "refund":
			if err := q.Refund(t.Context(), row.owner, grants[row.owner]); err != nil {
				t.Fatal(err)
			}
			continue
		case "look":
			_, w, err := q.Standing(t.Context(), row.owner)
			if err != nil {
				t.Fatal(err)
			}
			windows = w
		case "admit":
			g, err := q.Admit(t.Context(), row.owner, 1)
			var refused *tasks.QuotaError
			got, again := "", time.Duration(0)
			if errors.As(err, &refused) {
				got, again = refused.Quota, refused.RetryAfter
			} else if err != nil {
				t.Fatal(err)
			} else {
				grants[row.owner] = g
			}
			if got != row.refused || again != row.again {
				t.Errorf("row %d: refused by %q for %v, want %q for %v", i, got, again, row.refused, row.again)
			}
			windows = g.Windows
		}
		left := map[string]int64{"users.submits_per_minute": -1}
		for _, w := range windows {
			left[w.Name] = w.Remaining
		}
		if left["submits_per_minute"] != row.tenant || left["users.submits_per_minute"] != row.user {
			t.Errorf("row %d: %+v, want %d left of the tenant's and %d of the user's", i, left, row.tenant, row.user)
		}
	}
	for _, key := range rdb.Keys(t.Context(), "*").Val() {
		if ttl := rdb.PTTL(t.Context(), key).Val(); ttl <= 0 || ttl > 2*time.Minute {
			t.Errorf("%s lives %v", key, ttl)
		}
	}
}

// Where only users have a limit, their tenant has none.
func TestUsersAloneMayHaveALimit(t *testing.T) {
	t.Parallel()
	q := opensUsers(t, redistest.New(t), newClock(), 0, 1)
	if g, err := q.Admit(t.Context(), ada, 1); err != nil || len(g.Windows) != 1 || g.Windows[0].Name != "users.submits_per_minute" {
		t.Errorf("ada: %+v, %v", g, err)
	}
	var refused *tasks.QuotaError
	if _, err := q.Admit(t.Context(), ada, 1); !errors.As(err, &refused) || refused.Quota != "users.submits_per_minute" || refused.Limit != 1 {
		t.Errorf("ada once more: %v", err)
	}
	for _, owner := range []string{bob, "acme"} {
		if _, err := q.Admit(t.Context(), owner, 1); err != nil {
			t.Errorf("%s: %v", owner, err)
		}
	}
}

// Whoever asks at once, together or apart, each user and the tenant have what they may, to the submit.
func TestUsersAtOnceNeverPassTheirLimits(t *testing.T) {
	t.Parallel()
	rdb, c := redistest.New(t), newClock()
	doors := []*quota.Quota{opensUsers(t, rdb, c, 50, 20), opensUsers(t, rdb, c, 50, 20)}
	var wg sync.WaitGroup
	taken := map[string]*atomic.Int64{ada: {}, bob: {}, "acme/eve": {}}
	for i := range 120 {
		for owner, n := range taken {
			wg.Go(func() {
				g, err := doors[i%2].Admit(t.Context(), owner, 1)
				var refused *tasks.QuotaError
				switch {
				case err != nil && !errors.As(err, &refused):
					t.Error(err)
				case err == nil && i%7 == 0: // and some are given back meanwhile
					if err := doors[(i+1)%2].Refund(t.Context(), owner, g); err != nil {
						t.Error(err)
					}
				case err == nil:
					n.Add(1)
				}
			})
		}
	}
	wg.Wait()
	sum := int64(0)
	for owner, n := range taken {
		for { // what was given back late is there for the next
			if _, err := doors[0].Admit(t.Context(), owner, 1); err != nil {
				break
			}
			n.Add(1)
		}
		if sum += n.Load(); n.Load() > 20 {
			t.Errorf("%s has %d of 20", owner, n.Load())
		}
	}
	if sum != 50 {
		t.Errorf("%d of 50 were taken", sum)
	}
}
