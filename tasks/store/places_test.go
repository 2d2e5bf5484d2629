package store_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/sluicehq/sluice/tasks"
	"github.com/sluicehq/sluice/tasks/redistest"
	"github.com/sluicehq/sluice/tasks/store"
)

// placing is a store in virtual time of whose tenants some may have few jobs out at once.
type placing struct {
	*testing.T
	*store.Store
	rdb   *redis.Client
	now   time.Time
	most  map[string]int64 // by tenant, and of each user by tenant and a slash
	depth map[string]int
	line  []tasks.Ticket
	runs  []tasks.Ticket
}

func newPlacing(t *testing.T, most map[string]int64) *placing {
	l := &placing{T: t, rdb: redistest.New(t), now: time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC), most: most, depth: map[string]int{pool: 8, "q": 8}}
	l.open()
	return l
}

// open is what a process does that starts.
func (l *placing) open() {
	l.Store = store.New(store.Config{
		Redis: l.rdb, Now: func() time.Time { return l.now }, ResultTTL: time.Hour, Depth: l.depth,
		Places: func(tenant string) tasks.Places {
			return tasks.Places{Tenant: l.most[tenant], User: l.most[tenant+"/"]}
		},
	})
}

func (l *placing) submit(tenant, pool string, n int) (ids []string) {
	l.Helper()
	for range n {
		j := job(tasks.TenantOf(tenant))
		_, j.User = tasks.SplitOwner(tenant)
		j.Pool, j.Fallback = pool, []string{"m2"}
		_, next, err := l.Create(l.Context(), tasks.Submission{Job: j})
		must(l.T, err)
		l.line, ids = append(l.line, next...), append(ids, j.ID)
	}
	return ids
}

// take and start are a worker that has room for all that is handed out.
func (l *placing) take() {
	l.Helper()
	for len(l.line) > 0 {
		k := l.line[0]
		l.line = l.line[1:]
		if _, err := l.Take(l.Context(), k); tasks.Void(err) {
			continue
		} else if err != nil {
			l.Fatal(err)
		}
		_, next, err := l.Start(l.Context(), k)
		if tasks.Void(err) { // a pause has taken its place
			continue
		}
		must(l.T, err)
		l.line, l.runs = append(l.line, next...), append(l.runs, k)
	}
}

// second lets a second pass, at whose end a sweep comes.
func (l *placing) second() {
	l.Helper()
	l.now = l.now.Add(time.Second)
	swept, err := l.Sweep(l.Context())
	must(l.T, err)
	l.line = append(l.line, swept.Hand...)
	for _, k := range swept.Look { // of a worker that is gone
		k, ok, err := l.Reissue(l.Context(), k)
		must(l.T, err)
		if ok {
			l.line = append(l.line, k)
		}
	}
}

// out are the jobs of a tenant, or of a user as tenant/user, that are with workers, by the lines of the pools.
func (l *placing) out(tenant string) (ids []string) {
	l.Helper()
	for _, p := range []string{pool, "q"} {
		for _, line := range []string{"out:", "hold:", "run:"} {
			for _, id := range l.rdb.ZRange(l.Context(), "sluice:{s}:"+line+p, 0, -1).Val() {
				of := l.rdb.HMGet(l.Context(), "sluice:{s}:j:"+id, "t", "us").Val()
				if user, _ := of[1].(string); of[0] == tenant || of[0].(string)+"/"+user == tenant {
					ids = append(ids, id)
				}
			}
		}
	}
	slices.Sort(ids)
	return ids
}

// running is how many of a tenant's calls are under way.
func (l *placing) running(tenant string) (n int64) {
	l.Helper()
	for _, id := range l.out(tenant) {
		if l.rdb.HGet(l.Context(), "sluice:{s}:j:"+id, "s").Val() == "running" {
			n++
		}
	}
	return n
}

func (l *placing) placed(tenant string) []string {
	ids := l.rdb.ZRange(l.Context(), "sluice:{s}:outs:"+tenant, 0, -1).Val()
	slices.Sort(ids)
	return ids
}

func (l *placing) end(k tasks.Ticket, e tasks.Ending) {
	l.Helper()
	l.runs = slices.DeleteFunc(l.runs, func(other tasks.Ticket) bool { return other == k })
	next, err := l.End(l.Context(), k, e)
	must(l.T, err)
	l.line = append(l.line, next...)
}

// A tenant has no more jobs with workers than it may, and is passed over while the others go on;
// whatever ends a job lets the next one go in the same move.
func TestATenantAtItsLimitIsPassedOver(t *testing.T) {
	t.Parallel()
	l := newPlacing(t, map[string]int64{"acme": 2})
	acme := l.submit("acme", pool, 6)
	zoe := l.submit("zoe", pool, 4)
	l.take()
	if got := l.out("acme"); len(got) != 2 {
		t.Fatalf("%d jobs of a tenant that may have 2 are out", len(got))
	}
	if got := l.out("zoe"); len(got) != len(zoe) {
		t.Errorf("%d jobs of the other tenant are out, want %d", len(got), len(zoe))
	}
	load, err := l.Load(t.Context(), pool)
	must(t, err)
	if !load.AtLimit["acme"] || load.AtLimit["zoe"] || load.Weights["\tacme"] != 0 {
		t.Errorf("at their limit: %v, weights %v", load.AtLimit, load.Weights)
	}
	for i, e := range []tasks.Ending{
		won, {Status: tasks.StatusFailed, Error: &tasks.JobError{Code: "x"}},
		{Status: tasks.StatusRetrying, Counted: true, Delay: time.Hour}, {Status: tasks.StatusRetrying, Counted: true, Detour: &tasks.Detour{Pool: "q", Passed: 1}},
	} {
		k := l.runs[slices.IndexFunc(l.runs, func(k tasks.Ticket) bool { return slices.Contains(acme, k.ID) })]
		l.end(k, e)
		if len(l.line) != 1 {
			t.Fatalf("ending %d (%s) hands out %d jobs", i, e.Status, len(l.line))
		}
		l.take()
		if got := l.out("acme"); len(got) != 2 {
			t.Errorf("after it %d are out", len(got))
		}
	}
}

// A user has no more jobs with workers than each of its tenant's may: its others stand aside, and the
// tenant's other users pass them in the order of their own; whatever ends a job lets the user's next go in the same move.
func TestAUserAtItsLimitIsPassedOver(t *testing.T) {
	t.Parallel()
	l := newPlacing(t, map[string]int64{"acme/": 2, "acme": 5})
	l.depth[pool] = 3
	l.open()
	ada := l.submit("acme/ada", pool, 60)
	bob := l.submit("acme/bob", pool, 3)
	l.take()
	for range 3 {
		l.second()
		l.take()
	}
	if got := l.out("acme/ada"); !slices.Equal(got, slices.Sorted(slices.Values(ada[:2]))) {
		t.Fatalf("out of a user that may have 2 are %v, want its first two", got)
	}
	if got := l.out("acme/bob"); !slices.Equal(got, slices.Sorted(slices.Values(bob[:2]))) {
		t.Fatalf("out of the user behind it are %v, want its first two", got)
	}
	load, err := l.Load(t.Context(), pool)
	must(t, err)
	if !load.AtLimit["acme/ada"] || load.AtLimit["acme"] {
		t.Errorf("at their limit: %v", load.AtLimit)
	}
	if now, err := l.Standing(t.Context(), "acme/ada"); err != nil || now.UserRunningJobs != 2 || now.RunningJobs != 4 {
		t.Errorf("%d run of the user and %d of its tenant, %v", now.UserRunningJobs, now.RunningJobs, err)
	}
	// One that is canceled while it stands aside leaves, one that is edited stands where it stood.
	_, err = l.Cancel(t.Context(), "acme/ada", ada[2])
	must(t, err)
	for i, want := range ada[3:20] {
		k := l.runs[slices.IndexFunc(l.runs, func(k tasks.Ticket) bool { return slices.Contains(ada, k.ID) })]
		l.end(k, won)
		if len(l.line) != 1 || l.line[0].ID != want {
			t.Fatalf("ending %d hands out %v, want %s", i, l.line, want)
		}
		l.take()
	}
	// Where nothing limits it any more, it goes on.
	delete(l.most, "acme/")
	delete(l.most, "acme")
	l.depth[pool] = 300
	l.open()
	l.submit("acme/bob", pool, 1)
	l.second()
	l.second()
	l.take()
	if got := l.out("acme/ada"); len(got) != 60-18 {
		t.Errorf("%d are out without a limit, want %d", len(got), 60-18)
	}
	if left := l.rdb.Keys(t.Context(), "sluice:{s}:aside:*").Val(); len(left) > 0 {
		t.Errorf("still aside: %v", left)
	}
}

// Whatever happens, in whatever order: no tenant is beyond its limit, those that have a place
// are those that are out, and everything that was accepted ends. Where pools are paused (odd
// seeds), what was handed out there has no place, but no more of a tenant's run than may.
func TestPlacesAreThoseOfTheJobsThatAreOut(t *testing.T) {
	t.Parallel()
	for seed := range uint64(4) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
			dice := rand.New(rand.NewPCG(seed, 17))
			l := newPlacing(t, map[string]int64{"a": 1, "b": 3, "c/": 1, "d/": 1, "d": 2})
			all := map[string]string{}
			tenants, pools := []string{"a", "b", "free", "c/u", "c/v", "d/u", "d/v", "d/w"}, []string{pool, "q"}
			most := map[string]int64{"a": 1, "b": 3, "c/u": 1, "c/v": 1, "d/u": 1, "d/v": 1, "d/w": 1, "d": 2}
			check := func(act string) {
				t.Helper()
				for tenant, most := range most {
					if out, has := l.out(tenant), l.placed(tenant); seed%2 == 0 && (int64(len(out)) > most || !slices.Equal(out, has)) {
						t.Fatalf("seed %d, %s: of %s, which may have %d, %v are out and %v have a place", seed, act, tenant, most, out, has)
					}
					if n := l.running(tenant); n > most {
						t.Fatalf("seed %d, %s: of %s, which may have %d, %d run", seed, act, tenant, most, n)
					}
				}
			}
			acts := map[string]func(){
				"submit": func() {
					tenant := tenants[dice.IntN(len(tenants))]
					for _, id := range l.submit(tenant, pools[dice.IntN(2)], 1+dice.IntN(4)) {
						all[id] = tenant
					}
				},
				"take": l.take,
				"end": func() {
					if len(l.runs) > 0 {
						l.end(l.runs[dice.IntN(len(l.runs))], []tasks.Ending{
							won, {Status: tasks.StatusFailed, Error: &tasks.JobError{Code: "x"}},
							{Status: tasks.StatusRetrying, Counted: true, Delay: time.Second}, {Status: tasks.StatusRetrying},
						}[dice.IntN(4)])
					}
				},
				"cancel": func() {
					for id, tenant := range all {
						if _, err := l.Cancel(t.Context(), tenant, id); err == nil {
							l.runs = slices.DeleteFunc(l.runs, func(k tasks.Ticket) bool { return k.ID == id })
						}
						return
					}
				},
				"worker dies": func() {
					l.line, l.runs = nil, nil
					for range 14 {
						l.second()
					}
				},
				"second": l.second,
				"pause":  func() { must(t, l.SetPaused(t.Context(), pool, seed%2 == 1 && dice.IntN(2) == 0)) },
			}
			names := []string{"submit", "submit", "take", "take", "take", "end", "end", "end", "cancel", "worker dies", "second", "pause"}
			for range 90 {
				act := names[dice.IntN(len(names))]
				acts[act]()
				check(act)
			}
			must(t, l.SetPaused(t.Context(), pool, false))
			acts["worker dies"]() // what was handed to one that is gone
			for len(l.line) > 0 || l.rdb.HGet(t.Context(), "sluice:{s}:n:"+pool, "queued").Val()+l.rdb.HGet(t.Context(), "sluice:{s}:n:q", "queued").Val() != "00" {
				l.second()
				l.take()
				for len(l.runs) > 0 {
					l.end(l.runs[0], won)
				}
				check("draining")
			}
			for id, tenant := range all {
				if j, err := l.Job(t.Context(), tenant, id); err != nil || !j.Status.Final() {
					t.Errorf("seed %d: job %s of %s is %s, %v", seed, id, tenant, j.Status, err)
				}
			}
			for _, of := range []string{"outs", "aside"} {
				if left := l.rdb.Keys(t.Context(), "sluice:{s}:"+of+":*").Val(); len(left) > 0 {
					t.Errorf("left: %v", left)
				}
			}
		})
	}
}

// Of two pools in which a tenant waits, the one goes on that has waited longer: none starves.
func TestATenantsPoolsTakeTurnsAtItsLimit(t *testing.T) {
	t.Parallel()
	l := newPlacing(t, map[string]int64{"acme": 1})
	l.submit("acme", pool, 4)
	l.submit("acme", "q", 4)
	var order []string
	for len(order) < 6 {
		l.take()
		if len(l.runs) != 1 {
			t.Fatalf("after %v %d run", order, len(l.runs))
		}
		order = append(order, l.runs[0].Pool)
		l.now = l.now.Add(time.Millisecond)
		l.end(l.runs[0], won)
	}
	if got := strings.Join(order[2:], " "); got != "q p q p" {
		t.Errorf("the order is %s", got)
	}
}

// A limit that comes later counts what is out already, once its workers have renewed it; one
// that is raised, or gone, lets the tenant go on within two sweeps.
func TestALimitThatChangesHoldsAtOnce(t *testing.T) {
	t.Parallel()
	l := newPlacing(t, map[string]int64{})
	l.submit("acme", pool, 3)
	l.take()
	l.most["acme"] = 4
	l.submit("acme", pool, 1)
	l.take()
	if _, err := l.Renew(t.Context(), l.runs); err != nil {
		t.Fatal(err)
	}
	l.submit("acme", pool, 4)
	l.take()
	if got := l.placed("acme"); len(got) != 4 {
		t.Fatalf("%d have a place of 4", len(got))
	}
	l.most["acme"] = 6
	l.submit("acme", pool, 1)
	l.take()
	if got := l.out("acme"); len(got) != 6 {
		t.Errorf("with a limit of 6, %d are out", len(got))
	}
	delete(l.most, "acme")
	l.submit("acme", pool, 1)
	l.take()
	if got := l.out("acme"); len(got) != 10 {
		t.Errorf("without a limit, %d are out of 10", len(got))
	}
}

// What a release before this one does not know of it may lose: neither is a place held for ever
// whose job ended without a word, nor a backlog forgotten that has no turn.
func TestAReleaseThatKnowsNoPlacesStrandsNothing(t *testing.T) {
	t.Parallel()
	l := newPlacing(t, map[string]int64{"acme": 1})
	l.submit("acme", pool, 3)
	l.take()
	// It ends a job, and its place stays.
	must(t, l.rdb.HDel(t.Context(), "sluice:{s}:j:"+l.runs[0].ID, "pl").Err())
	l.end(l.runs[0], won)
	l.second()
	l.second()
	l.take()
	if got := l.out("acme"); len(got) != 1 {
		t.Fatalf("%d are out, of a tenant whose place is held by a job that has ended", len(got))
	}
	// It sweeps alone from now on.
	for _, key := range l.rdb.Keys(t.Context(), "sluice:{s}:*").Val() {
		if name := strings.TrimPrefix(key, "sluice:{s}:"); strings.HasPrefix(name, "outs:") || strings.HasPrefix(name, "full") || name == "weight" {
			must(t, l.rdb.Del(t.Context(), key).Err())
		}
	}
	if n := l.rdb.ZCard(t.Context(), "sluice:{s}:ring:"+pool).Val(); n != 0 {
		t.Fatalf("%d tenants have a turn", n)
	}
	delete(l.most, "acme")
	for range 31 {
		l.second()
		_, err := l.Renew(t.Context(), l.runs)
		must(t, err)
	}
	if l.take(); len(l.out("acme")) != 2 {
		t.Errorf("%d are out, of a tenant that was passed over", len(l.out("acme")))
	}
}

// A pool that is paused holds none of its tenants' places: their jobs in other pools go on.
func TestAPausedPoolHoldsNoPlaces(t *testing.T) {
	t.Parallel()
	l := newPlacing(t, map[string]int64{"acme": 2})
	l.submit("acme", "q", 2)
	held := l.line
	must(t, l.SetPaused(t.Context(), "q", true))
	l.line = nil // a paused queue gives nobody anything
	open := l.submit("acme", pool, 3)
	for range 5 {
		l.now = l.now.Add(time.Second)
		swept, err := l.Sweep(t.Context())
		must(t, err)
		l.line = append(l.line, swept.Hand...)
	}
	if len(l.line) != 2 || l.line[0].ID != open[0] {
		t.Fatalf("handed out beside the pause: %v, want two of %v", l.line, open)
	}
	l.take()
	must(t, l.SetPaused(t.Context(), "q", false))
	for _, k := range held { // their places are others', and they go back into line
		_, err := l.Take(t.Context(), k)
		must(t, err)
		_, err = l.Renew(t.Context(), []tasks.Ticket{k})
		must(t, err)
		if _, _, err := l.Start(t.Context(), k); !errors.Is(err, tasks.ErrLost) {
			t.Errorf("a third job starts of two: %v", err)
		}
	}
	if n := l.running("acme"); n != 2 || l.rdb.ZCard(t.Context(), "sluice:{s}:q:q:acme").Val() != 2 {
		t.Errorf("%d run, want 2, and two in line", n)
	}
	for range 5 { // each ends, one at a time
		for len(l.runs) > 0 {
			l.end(l.runs[0], won)
			l.take()
			if n := l.running("acme"); n > 2 {
				t.Fatalf("%d run of two", n)
			}
		}
		l.second()
		l.take()
	}
	for _, k := range held {
		if j, err := l.Job(t.Context(), "acme", k.ID); err != nil || j.Status != tasks.StatusSucceeded || j.Attempts != 1 {
			t.Errorf("a job whose place was taken is %s after %d attempts, %v", j.Status, j.Attempts, err)
		}
	}
}

// Users at their limit, however many of their jobs are first in line, hold up their own tenant alone: the next
// tenants go in the same sweep, and where the tenants of such users are many, within the four after it.
func TestAUserAtItsLimitHoldsUpNoOtherTenant(t *testing.T) {
	t.Parallel()
	for sweeps, c := range map[int]struct{ tenants, each int }{1: {1, 200}, 5: {14, 96}} {
		most := map[string]int64{}
		for n := range c.tenants {
			most[fmt.Sprintf("a%02d/", n)] = 1
		}
		l := newPlacing(t, most)
		l.depth[pool] = 30
		l.open()
		must(t, l.SetPaused(t.Context(), pool, true))
		for n := range c.tenants {
			l.submit(fmt.Sprintf("a%02d/ada", n), pool, c.each)
		}
		l.submit("zoe", pool, 3)
		must(t, l.rdb.HSet(t.Context(), "sluice:{s}:n:"+pool, "cost", 1000, "guess", 1000).Err()) // µs: so many may be handed out at once
		must(t, l.SetPaused(t.Context(), pool, false))
		for range sweeps {
			l.second()
		}
		if got := l.out("zoe"); len(got) != 3 {
			t.Errorf("behind %d tenants %d of 3 are out after %d sweeps", c.tenants, len(got), sweeps)
		}
		for range 5 {
			l.second()
		}
		if l.take(); len(l.runs) != c.tenants+3 {
			t.Errorf("%d are out, want %d", len(l.runs), c.tenants+3)
		}
	}
}

// asides is how many jobs stand aside.
func (l *placing) asides() (n int) {
	l.Helper()
	for _, key := range l.rdb.Keys(l.Context(), "sluice:{s}:aside:*").Val() {
		n += int(l.rdb.ZCard(l.Context(), key).Val())
	}
	return n
}

// standAside has so many users stand aside with so many jobs each, of a tenant whose users may have one at a time.
func standAside(t *testing.T, users, each int) *placing {
	l := newPlacing(t, map[string]int64{"acme/": 1})
	must(t, l.SetPaused(t.Context(), pool, true))
	for n := range users {
		l.submit(fmt.Sprintf("acme/u%d", n), pool, each)
	}
	must(t, l.SetPaused(t.Context(), pool, false))
	for range 20 {
		l.second()
	}
	if l.take(); l.asides() != users*(each-1) {
		t.Fatalf("%d stand aside of %d users with %d each", l.asides(), users, each)
	}
	return l
}

// Where the limit goes of users of whom very many jobs stand aside, no sweep is long: each brings some
// back, and the next comes at once.
func TestVeryManyThatStandAsideComeBackInParts(t *testing.T) {
	t.Parallel()
	const users, each = 3, 140
	l := standAside(t, users, each)
	must(t, l.rdb.HDel(t.Context(), "sluice:{s}:weight", "\tacme").Err())
	l.now = l.now.Add(2 * time.Second)
	for before := l.asides(); before > 0; {
		swept, err := l.Sweep(t.Context())
		must(t, err)
		left := l.asides()
		if moved := before - left; moved > 200 || moved <= 0 || left > 0 && swept.NextDue != 0 {
			t.Fatalf("a sweep brings back %d of %d, and the next comes in %v", moved, before, swept.NextDue)
		}
		before = left
	}
}

// A limit that an operator sets is a user's at once, also where so many are at their limit that each is
// looked at seldom.
func TestUsersGoOnOnceTheirLimitIsRaised(t *testing.T) {
	t.Parallel()
	l := standAside(t, 3, 3)
	ctx := t.Context()
	for n := range 3 {
		must(t, l.rdb.ZAdd(ctx, "sluice:{s}:fulls", redis.Z{Score: float64(l.now.Add(80 * time.Second).UnixMilli()), Member: fmt.Sprintf("acme/u%d", n)}).Err())
	}
	must(t, l.SetTenant(ctx, "acme", tasks.TenantSettings{RunningJobs: new(int64)}, 1, tasks.Places{User: 2}, tasks.Act{At: l.now, By: "ada", Action: "set_tenant", Target: "acme"}))
	l.second()
	if l.take(); len(l.runs) != 6 {
		t.Errorf("a second after the limit was raised from 1 to 2 of each of 3 users, %d are out", len(l.runs))
	}
}

// A job that leaves those aside by another door, as by an edit, costs its user no turn.
func TestAnEditedJobStandsAsideNoMore(t *testing.T) {
	t.Parallel()
	l := newPlacing(t, map[string]int64{"acme/": 1})
	ada := l.submit("acme/ada", pool, 4)
	l.take()
	_, err := l.Edit(t.Context(), "acme/ada", ada[2], func(j *tasks.Job) error { j.Priority = tasks.High; return nil })
	must(t, err)
	for _, want := range []string{ada[2], ada[1], ada[3]} {
		l.end(l.runs[0], won)
		if len(l.line) != 1 || l.line[0].ID != want {
			t.Fatalf("an end hands out %v, want %s of %v", l.line, want, ada)
		}
		l.take()
	}
}

// A tenant's free place goes to a pool where one of its jobs is in line, not to one where all stand aside.
func TestAPlaceGoesWhereAJobIsInLine(t *testing.T) {
	t.Parallel()
	l := newPlacing(t, map[string]int64{"acme": 2, "acme/": 1})
	l.submit("acme/ada", pool, 2)
	bob := l.submit("acme/bob", pool, 1)
	cyd := l.submit("acme/cyd", pool, 1)
	l.now = l.now.Add(time.Millisecond)
	dan := l.submit("acme/dan", "q", 1)
	l.take()
	_, err := l.Cancel(t.Context(), "acme/cyd", cyd[0])
	must(t, err)
	l.end(l.runs[slices.IndexFunc(l.runs, func(k tasks.Ticket) bool { return k.ID == bob[0] })], won)
	if len(l.line) != 1 || l.line[0].ID != dan[0] {
		t.Errorf("an end hands out %v, want %v", l.line, dan)
	}
}

// What says who stands aside may be lost: an audit brings them back.
func TestAnAuditBringsBackWhatStandsAside(t *testing.T) {
	t.Parallel()
	for _, lost := range []string{"aside:p:acme/ada", "full:acme/ada", "fulls"} {
		l := newPlacing(t, map[string]int64{"acme/": 1})
		ada := l.submit("acme/ada", pool, 2)
		l.take()
		must(t, l.rdb.Del(t.Context(), "sluice:{s}:"+lost).Err())
		if lost == "fulls" { // nor does its end tell, as of a release that knows no places
			must(t, l.rdb.HDel(t.Context(), "sluice:{s}:j:"+l.runs[0].ID, "pl").Err())
		}
		_, err := l.Audit(t.Context())
		must(t, err)
		l.end(l.runs[0], won)
		for range 2 {
			l.second()
		}
		if l.take(); len(l.out("acme/ada")) != 1 {
			t.Errorf("without %s, the job behind %s waits for ever", lost, ada[0])
		}
	}
}

// What is noted of a tenant's users at their limit goes with it.
func TestUsersAtTheirLimitGoWithTheirTenant(t *testing.T) {
	t.Parallel()
	l := standAside(t, 1, 3)
	ctx := t.Context()
	for _, key := range []string{"outs:acme/gone", "full:acme/gone", "aside:p:acme/gone"} { // as if a job had ended without a word
		must(t, l.rdb.ZAdd(ctx, "sluice:{s}:"+key, redis.Z{Score: 1, Member: "job_gone"}).Err())
	}
	must(t, l.rdb.ZAdd(ctx, "sluice:{s}:fulls", redis.Z{Score: 9e12, Member: "acme/gone"}, redis.Z{Score: 9e12, Member: "acmes/ada"}).Err())
	_, err := l.DeleteTenant(ctx, "acme", tasks.Act{At: l.now, By: "ada"})
	must(t, err)
	left := l.rdb.Keys(ctx, "sluice:{s}:*acme/*").Val()
	if fulls := l.rdb.ZRange(ctx, "sluice:{s}:fulls", 0, -1).Val(); len(left) > 0 || !slices.Equal(fulls, []string{"acmes/ada"}) {
		t.Errorf("left of a tenant that was deleted: %v, and at their limit %v", left, fulls)
	}
}
