package store_test

import (
	"fmt"
	"math"
	"slices"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/sluicehq/sluice/tasks"
	"github.com/sluicehq/sluice/tasks/redistest"
	"github.com/sluicehq/sluice/tasks/store"
)

// oneRate is an allowance in which output binds: a token a millisecond.
var oneRate = map[string]tasks.Rates{
	pool: {Requests: 60_000, InputTokens: 600_000, OutputTokens: 60_000},
	"q":  {Requests: 60_000, OutputTokens: 120_000},
}

// server is a pool of which one call after the other takes what it costs of the allowance, in
// virtual time: what is handed out first goes first.
type server struct {
	*testing.T
	*store.Store
	rdb     *redis.Client
	now     time.Time
	size    map[string]int64 // output tokens that a job's call has; others have all that they may
	line    []tasks.Ticket
	served  map[string]float64 // seconds of the allowance, by tenant
	lanes   map[tasks.Priority]float64
	largest map[string]float64 // of one job
}

func newServer(t *testing.T, depth int, weights map[string]int64) *server {
	s := &server{T: t, rdb: redistest.New(t), now: time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC), size: map[string]int64{}, served: map[string]float64{}, largest: map[string]float64{}, lanes: map[tasks.Priority]float64{}}
	s.Store = store.New(store.Config{
		Redis: s.rdb, Now: func() time.Time { return s.now }, ResultTTL: time.Hour, Depth: map[string]int{pool: depth}, Rates: oneRate,
		Weight: func(tenant string) int64 { return max(1, weights[tenant]) },
	})
	return s
}

// submit hands in jobs of a tenant that may have most output tokens, and have size.
func (s *server) submit(tenant string, n int, most, size int64) (ids []string) {
	s.Helper()
	return s.submitTo(tasks.Normal, tenant, n, most, size)
}

func (s *server) submitTo(lane tasks.Priority, tenant string, n int, most, size int64) (ids []string) {
	s.Helper()
	subs := make([]tasks.Submission, n)
	for i := range subs {
		j := job(tenant)
		j.Request.MaxTokens, j.Priority = int(most), lane
		s.size[j.ID], ids = size, append(ids, j.ID)
		subs[i].Job = j
	}
	_, tickets, err := s.Create(s.Context(), subs...)
	if err != nil {
		s.Fatal(err)
	}
	s.line = append(s.line, tickets...)
	return ids
}

// one makes the call of the next job, which ends so; false: none waits.
func (s *server) one(end tasks.Ending) bool {
	s.Helper()
	if len(s.line) == 0 {
		return false
	}
	k := s.line[0]
	s.line = s.line[1:]
	j, err := s.Take(s.Context(), k)
	if err != nil {
		return true // it was canceled
	}
	_, next, err := s.Start(s.Context(), k)
	if err != nil {
		s.Fatal(err)
	}
	s.line = append(s.line, next...)
	cost := oneRate[pool].Draw(0, s.size[k.ID])
	s.now = s.now.Add(cost)
	s.served[j.Tenant] += cost.Seconds()
	s.lanes[j.Priority] += cost.Seconds()
	s.largest[j.Tenant] = max(s.largest[j.Tenant], cost.Seconds())
	end.Draw = cost
	if next, err = s.End(s.Context(), k, end); err != nil {
		s.Fatal(err)
	}
	s.line = append(s.line, next...)
	return true
}

// Tenants with a backlog are served seconds of the allowance by their weights, whatever
// their jobs' sizes are, and whatever their callers said that these may be at most.
func TestTenantsAreServedSecondsOfTheAllowance(t *testing.T) {
	t.Parallel()
	type tenant struct{ weight, most, size int64 }
	for name, c := range map[string]struct {
		tenants []tenant
		calls   int
		within  float64 // of the mean share
		end     tasks.Ending
	}{
		"jobs of 1 to 16 times the size": {[]tenant{{1, 100, 100}, {1, 200, 200}, {1, 400, 400}, {1, 1600, 1600}}, 160, 0.15, won},
		"by weight":                      {[]tenant{{3, 100, 100}, {1, 100, 100}}, 160, 0.04, won},
		"what they may have is no guide": {[]tenant{{1, 4000, 100}, {1, 100, 100}, {1, 20000, 400}}, 250, 0.35, won},
		"every call of a retry costs": {[]tenant{{1, 100, 100}, {1, 800, 800}}, 120, 0.15,
			tasks.Ending{Status: tasks.StatusRetrying, Counted: true, Attempt: tasks.Attempt{Outcome: tasks.ServerError}}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			weights := map[string]int64{}
			for i, c := range c.tenants {
				weights[fmt.Sprint("t", i)] = c.weight
			}
			s := newServer(t, 4, weights)
			for i, u := range c.tenants {
				s.submit(fmt.Sprint("t", i), c.calls, u.most, u.size)
			}
			for range c.calls {
				s.one(c.end)
			}
			sum, shares := 0.0, int64(0)
			for i, u := range c.tenants {
				sum, shares = sum+s.served[fmt.Sprint("t", i)], shares+u.weight
			}
			for i, u := range c.tenants {
				got, want := s.served[fmt.Sprint("t", i)], sum*float64(u.weight)/float64(shares)
				if math.Abs(got-want) > c.within*want {
					t.Errorf("tenant %d of weight %d, jobs of %d tokens: %.2f of %.2f s, want %.2f", i, u.weight, u.size, got, sum, want)
				}
			}
		})
	}
}

// While all lanes have work, each has its share of the allowance, whatever the sizes of its
// jobs are and however many tenants wait in it; what an idle one leaves the others have.
func TestLanesAreServedByTheirShares(t *testing.T) {
	t.Parallel()
	high, normal, low := flow{tasks.High, "acme"}, flow{tasks.Normal, "acme"}, flow{tasks.Low, "zoe"}
	for name, c := range map[string]struct {
		shares store.Shares // zero: the usual ones
		sizes  map[flow]int64
		want   map[tasks.Priority]float64
	}{
		"all three":             {store.Shares{}, map[flow]int64{high: 100, normal: 100, low: 100}, map[tasks.Priority]float64{tasks.High: 0.7, tasks.Normal: 0.25, tasks.Low: 0.05}},
		"by cost":               {store.Shares{}, map[flow]int64{high: 50, normal: 150, low: 50}, map[tasks.Priority]float64{tasks.High: 0.7, tasks.Normal: 0.25, tasks.Low: 0.05}},
		"one is idle":           {store.Shares{}, map[flow]int64{normal: 100, low: 100}, map[tasks.Priority]float64{tasks.Normal: 25. / 30, tasks.Low: 5. / 30}},
		"one alone":             {store.Shares{}, map[flow]int64{low: 100}, map[tasks.Priority]float64{tasks.Low: 1}},
		"shares as they are":    {store.Shares{High: 1, Normal: 1, Low: 2}, map[flow]int64{high: 100, normal: 100, low: 100}, map[tasks.Priority]float64{tasks.High: 0.25, tasks.Normal: 0.25, tasks.Low: 0.5}},
		"many tenants are none": {store.Shares{}, map[flow]int64{high: 100, {tasks.Low, "a"}: 100, {tasks.Low, "b"}: 100, {tasks.Low, "c"}: 100}, map[tasks.Priority]float64{tasks.High: 70. / 75, tasks.Low: 5. / 75}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newServer(t, 4, nil)
			if c.shares != (store.Shares{}) {
				s.Store = store.New(store.Config{
					Redis: s.rdb, Now: func() time.Time { return s.now }, ResultTTL: time.Hour, Depth: map[string]int{pool: 4}, Rates: oneRate,
					Lanes: map[string]store.Shares{pool: c.shares},
				})
				_, err := s.Sweep(t.Context())
				must(t, err)
			}
			for f, size := range c.sizes {
				s.submitTo(f.lane, f.tenant, 150, size, size)
			}
			for range 150 {
				s.one(won)
			}
			sum := 0.0
			for _, lane := range s.lanes {
				sum += lane
			}
			for lane, want := range c.want {
				if got := s.lanes[lane] / sum; math.Abs(got-want) > 0.05 {
					t.Errorf("%s had %.3f of what was served, want %.3f", lane, got, want)
				}
			}
		})
	}
}

// Of one tenant's jobs the nearer deadline goes first, but one that has waited for an hour before all.
func TestTheNearerDeadlineGoesFirst(t *testing.T) {
	t.Parallel()
	s := newServer(t, 1, nil)
	must(t, s.SetPaused(t.Context(), pool, true))
	names := map[string]string{}
	add := func(name string, change func(*tasks.Job)) string {
		j := job("acme")
		change(&j)
		create(t, s.Store, j)
		names[j.ID] = name
		return j.ID
	}
	by := func(d time.Duration) func(*tasks.Job) {
		return func(j *tasks.Job) { j.Deadline = s.now.Add(d) }
	}
	add("an hour old", func(*tasks.Job) {})
	s.now = s.now.Add(61 * time.Minute)
	add("of before", func(*tasks.Job) {})
	s.now = s.now.Add(time.Minute)
	add("in 40 minutes", by(40*time.Minute))
	add("in 20 minutes", by(20*time.Minute))
	add("low, in 5 minutes", func(j *tasks.Job) { j.Priority, j.Deadline = tasks.Low, s.now.Add(5*time.Minute) })
	later := add("changed to 10 minutes", by(30*time.Hour))
	add("in a day", by(24*time.Hour))
	_, err := s.Edit(t.Context(), "acme", later, func(j *tasks.Job) error { j.Deadline = s.now.Add(10 * time.Minute); return nil })
	must(t, err)
	var got []string
	for _, id := range s.rdb.ZRange(t.Context(), "sluice:{s}:q:"+pool+":acme", 0, -1).Val() {
		got = append(got, names[id])
	}
	want := []string{"an hour old", "changed to 10 minutes", "in 20 minutes", "in 40 minutes", "of before", "in a day", "low, in 5 minutes"}
	if !slices.Equal(got, want) {
		t.Errorf("the order is %q, want %q", got, want)
	}
}

// What release 0.1.0 puts into the backlog, which knows tenants alone, is found within a sweep.
func TestWorkOfTheReleaseBeforeIsFound(t *testing.T) {
	t.Parallel()
	s := newServer(t, 4, nil)
	must(t, s.SetPaused(t.Context(), pool, true))
	ids := s.submit("acme", 2, 100, 100)
	s.submitTo(tasks.High, "zoe", 2, 100, 100)
	for _, lane := range []string{"high", "normal"} { // which that release does not write
		must(t, s.rdb.Del(t.Context(), "sluice:{s}:turns:"+lane+":"+pool).Err())
	}
	must(t, s.SetPaused(t.Context(), pool, false))
	swept, err := s.Sweep(t.Context())
	must(t, err)
	got := map[string]bool{}
	for _, k := range swept.Hand {
		got[k.ID] = true
	}
	if len(got) != 4 || !got[ids[0]] || !got[ids[1]] {
		t.Errorf("handed out %v, want all four, and of acme %v", got, ids)
	}
}

// What a release that does not count has left in the sum of the stage is gone when it would
// hold jobs up.
func TestTheStageIsSummedUpAnew(t *testing.T) {
	t.Parallel()
	s := newServer(t, 8, nil)
	s.submit("acme", 40, 100, 100)
	must(t, s.rdb.HSet(t.Context(), "sluice:{s}:n:"+pool, "stage", "90000000").Err())
	for len(s.line) > 2 {
		s.one(won)
	}
	swept, err := s.Sweep(t.Context())
	must(t, err)
	s.line = append(s.line, swept.Hand...)
	if len(s.line) < 7 {
		t.Errorf("%d jobs are handed out where 8 may be", len(s.line))
	}
}

// Between the backlog and the provider are two seconds of the allowance, or two jobs:
// whoever came first has no more of a head start.
func TestTheStageIsTwoSecondsOfTheAllowance(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		most, size int64 // output tokens
		first, on  int   // handed out before a call has ended, and after many
	}{{100, 100, 20, 20}, {1000, 100, 2, 20}, {100, 10, 20, 64}, {8000, 8000, 2, 2}} {
		t.Run(fmt.Sprint(c.most, " ", c.size), func(t *testing.T) {
			t.Parallel()
			s := newServer(t, 64, nil)
			s.submit("acme", 1, c.most, c.size)
			s.submit("acme", 199, c.most, c.size)
			if len(s.line) != c.first {
				t.Errorf("%d jobs are handed out, want %d", len(s.line), c.first)
			}
			for range 50 {
				s.one(won)
			}
			// Of the mean the estimate before the first call is forgotten slowly.
			if n := len(s.line); n < c.on*3/4 || n > c.on*5/4 {
				t.Errorf("after many calls %d jobs are handed out, want about %d", n, c.on)
			}
		})
	}
}

// A large job behind small ones fills the stage as it costs, and not as a job on average: what
// comes behind it waits for its turn until it has gone.
func TestALargeJobFillsTheStage(t *testing.T) {
	t.Parallel()
	s := newServer(t, 64, nil)
	s.submit("acme", 1, 100, 100)
	var subs []tasks.Submission
	for i := range 60 {
		j := job("acme")
		j.Request.MaxTokens = 100
		if i == 11 {
			j.Request.MaxTokens = 30_000
		}
		s.size[j.ID] = int64(j.Request.MaxTokens)
		subs = append(subs, tasks.Submission{Job: j})
	}
	_, tickets, err := s.Create(t.Context(), subs...)
	must(t, err)
	s.line = append(s.line, tickets...)
	for n := 13; n > 1; n-- { // twelve small ones and the large one
		if len(s.line) != n {
			t.Fatalf("%d jobs are handed out, want %d: the last is the large one", len(s.line), n)
		}
		s.one(won)
	}
	for range 2 {
		s.one(won)
	}
	if n := len(s.line); n < 4 {
		t.Errorf("once the large one has gone %d jobs are handed out", n)
	}
}

// However a job leaves the stage, what it was expected to cost leaves with it.
func TestTheStageIsWhatIsInIt(t *testing.T) {
	t.Parallel()
	for name, leave := range map[string]func(s *server, k tasks.Ticket) error{
		"started":  func(s *server, k tasks.Ticket) error { _, _, err := s.Start(s.Context(), k); return err },
		"canceled": func(s *server, k tasks.Ticket) error { _, err := s.Cancel(s.Context(), "acme", k.ID); return err },
		"handed back": func(s *server, k tasks.Ticket) error {
			_, err := s.End(s.Context(), k, tasks.Ending{Status: tasks.StatusRetrying, Delay: time.Hour})
			return err
		},
		"failed": func(s *server, k tasks.Ticket) error {
			_, err := s.End(s.Context(), k, tasks.Ending{Status: tasks.StatusFailed})
			return err
		},
		"diverted": func(s *server, k tasks.Ticket) error {
			_, _, err := s.Divert(s.Context(), pool, map[string]tasks.Detour{k.ID: {Pool: "q", Passed: 1}})
			return err
		},
		"following": func(s *server, k tasks.Ticket) error {
			_, _, err := s.Join(s.Context(), k, "digest")
			return err
		},
		"its worker lost": func(s *server, k tasks.Ticket) error {
			if _, err := s.Renew(s.Context(), []tasks.Ticket{k}); err != nil {
				return err
			}
			for range 40 {
				s.now = s.now.Add(time.Second)
				if _, err := s.Sweep(s.Context()); err != nil {
					return err
				}
			}
			return nil
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newServer(t, 3, nil)
			for _, most := range []int{500, 250, 125} { // the first at once, the others by their turn
				j := job("acme")
				j.Request.MaxTokens, j.Fallback = most, []string{"m2"}
				_, tickets, err := s.Create(t.Context(), tasks.Submission{Job: j})
				must(t, err)
				s.line = append(s.line, tickets...)
			}
			stage := func() float64 {
				l, err := s.Load(t.Context(), pool)
				must(t, err)
				return l.Stage
			}
			if got := stage(); len(s.line) != 3 || math.Abs(got-0.875) > 1e-4 {
				t.Fatalf("%d are handed out, %v s, want 3, 0.875 s", len(s.line), got)
			}
			for _, k := range s.line {
				_, err := s.Take(t.Context(), k)
				must(t, err)
			}
			must(t, s.SetPaused(t.Context(), pool, true))
			want := 0.875
			for _, k := range s.line[:2] {
				must(t, leave(s, k))
			}
			if name == "following" { // the first leads
				want -= 0.25
			} else {
				want = 0.125
			}
			if got := stage(); math.Abs(got-want) > 1e-4 {
				t.Errorf("the stage has %v s, want %v", got, want)
			}
		})
	}
}

// What a tenant was charged for a call that is never made, it has back.
func TestWhatWasNotSentIsNotCharged(t *testing.T) {
	t.Parallel()
	for name, undo := range map[string]func(s *server, k tasks.Ticket) error{
		"canceled": func(s *server, k tasks.Ticket) error { _, err := s.Cancel(s.Context(), "acme", k.ID); return err },
		"handed back": func(s *server, k tasks.Ticket) error {
			_, err := s.End(s.Context(), k, tasks.Ending{Status: tasks.StatusRetrying, Delay: time.Hour})
			return err
		},
		"refused": func(s *server, k tasks.Ticket) error {
			if _, _, err := s.Start(s.Context(), k); err != nil {
				return err
			}
			_, err := s.End(s.Context(), k, tasks.Ending{Status: tasks.StatusRetrying, Delay: time.Hour, Draw: tasks.NoDraw})
			return err
		},
		"diverted": func(s *server, k tasks.Ticket) error {
			_, _, err := s.Divert(s.Context(), pool, map[string]tasks.Detour{k.ID: {Pool: "q", Passed: 1}})
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newServer(t, 4, nil)
			must(t, s.SetPaused(t.Context(), pool, true))
			for range 3 {
				j := job("acme")
				j.Request.MaxTokens, j.Fallback = 5000, []string{"m2"}
				create(t, s.Store, j)
				create(t, s.Store, job("zoe"))
			}
			turn := func() float64 { return s.turns("acme") }
			was := turn()
			must(t, s.SetPaused(t.Context(), pool, false))
			swept, err := s.Sweep(t.Context())
			must(t, err)
			if len(swept.Hand) != 2 || math.Abs(turn()-was-5) > 0.001 {
				t.Fatalf("handed out %v, and acme's turn is %v later, want 5", swept.Hand, turn()-was)
			}
			for _, k := range swept.Hand {
				if j, err := s.Take(t.Context(), k); err == nil && j.Tenant == "acme" {
					must(t, s.SetPaused(t.Context(), pool, true))
					must(t, undo(s, k))
				}
			}
			if math.Abs(turn()-was) > 0.001 {
				t.Errorf("acme's turn is %v s later than before, want 0", turn()-was)
			}
		})
	}
}

// turns is a tenant's turn.
func (s *server) turns(tenant string) float64 {
	s.Helper()
	v, err := s.rdb.ZScore(s.Context(), "sluice:{s}:turns:normal:"+pool, tenant).Result()
	must(s.T, err)
	return v
}

// What a tenant owes ends with the time in which the pool could have given others as much,
// also while nobody waits and the present turn stands.
func TestADebtEndsWithItsTime(t *testing.T) {
	t.Parallel()
	rdb := redistest.New(t)
	s := store.New(store.Config{Redis: rdb, ResultTTL: time.Hour, Depth: map[string]int{pool: 1}, Rates: map[string]tasks.Rates{pool: {OutputTokens: 8000}}})
	_, first := create(t, s, job("b"))
	create(t, s, job("b"))
	take(t, s, first[0])
	start(t, s, first[0])
	must(t, s.SetPaused(t.Context(), pool, false))
	owing := rdb.Keys(t.Context(), "*owe:normal:"+pool).Val()
	if len(owing) != 1 {
		t.Fatalf("debts %v", owing)
	}
	if left := rdb.PTTL(t.Context(), owing[0]).Val(); left <= 0 || left > time.Hour {
		t.Errorf("the debt ends in %v", left)
	}
}

// Money that is set aside comes back with the job that it was for, also on a day on which
// nothing was paid.
func TestMoneySetAsideComesBack(t *testing.T) {
	t.Parallel()
	s, _ := open(t, 4)
	for range 3 {
		j := job("acme")
		j.AtMost, j.Reserved = 100, 10
		made, _, err := s.Create(t.Context(), tasks.Submission{Job: j, Limits: tasks.Limits{CostPerDay: 150}})
		if err != nil || made[0].Err != nil {
			t.Fatal(err, made[0].Err)
		}
		_, err = s.Cancel(t.Context(), "acme", j.ID)
		must(t, err)
	}
}
