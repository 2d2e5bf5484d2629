package store_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/sluicehq/sluice/tasks"
	"github.com/sluicehq/sluice/tasks/redistest"
	"github.com/sluicehq/sluice/tasks/store"
)

const asked = "the digest of a request"

// join takes a ticket's job and joins it to those that ask the same.
func join(t *testing.T, s *store.Store, k tasks.Ticket) (leads bool, next []tasks.Ticket) {
	t.Helper()
	take(t, s, k)
	leads, next, err := s.Join(t.Context(), k, asked)
	if err != nil {
		t.Fatalf("join: %v", err)
	}
	return leads, next
}

// crowd stores n jobs that ask the same, of which the first leads.
func crowd(t *testing.T, s *store.Store, n int, change func(i int, j *tasks.Job)) []tasks.Ticket {
	t.Helper()
	var out []tasks.Ticket
	for i := range n {
		j := job("acme")
		if change != nil {
			change(i, &j)
		}
		_, tickets := create(t, s, j)
		if len(tickets) != 1 {
			t.Fatalf("tickets %v", tickets)
		}
		leads, next := join(t, s, tickets[0])
		if leads != (i == 0) || len(next) != 0 {
			t.Fatalf("job %d: leads %t, tickets %v", i, leads, next)
		}
		out = append(out, tickets[0])
	}
	return out
}

func pair(t *testing.T) (*store.Store, *redis.Client) {
	t.Helper()
	rdb := redistest.New(t)
	return store.New(store.Config{Redis: rdb, ResultTTL: time.Hour, Depth: map[string]int{pool: 2, "q": 2}}), rdb
}

func TestFollowersGetTheLeadersAnswer(t *testing.T) {
	t.Parallel()
	const many = 100 // more than one script lets go on
	s, rdb := open(t, 2)
	ctx := t.Context()
	crew := crowd(t, s, many, nil)
	if load, err := s.Load(ctx, pool); err != nil || load.Queued != many || load.Handed != 1 {
		t.Errorf("load %+v, %v; want all waiting, the leader in hand", load, err)
	}
	if _, _, err := s.Start(ctx, crew[1]); !errors.Is(err, tasks.ErrLost) {
		t.Errorf("a follower's old ticket starts it: %v", err)
	}
	start(t, s, crew[0])
	if j := read(t, s, crew[1].ID); j.Status != tasks.StatusQueued || j.Attempts != 0 || len(j.Log) != 0 || j.Followed != asked {
		t.Errorf("a follower: %+v", j)
	}
	next, err := s.End(ctx, crew[0], won)
	if err != nil || len(next) != 2 || next[0].ID != crew[1].ID || next[1].ID != crew[2].ID {
		t.Fatalf("after the leader's end: %v, %v; want the first two followers", next, err)
	}
	// Each is told by its own ticket that the answer is there, and ends with it.
	for ended := 1; len(next) > 0; ended++ {
		k := next[0]
		next = next[1:]
		held, err := s.Take(ctx, k)
		if err != nil || held.Followed != asked || k.ID != crew[ended].ID {
			t.Fatalf("follower %d: %+v, %v", ended, held, err)
		}
		if answer, err := s.Answer(ctx, "acme", asked); err != nil || string(answer) != string(won.Result) {
			t.Fatalf("the answer for follower %d: %q, %v", ended, answer, err)
		}
		_, more, err := s.Start(ctx, k)
		if err != nil {
			t.Fatal(err)
		}
		next = append(next, more...)
		e := won
		e.Usage, e.Attempt = nil, tasks.Attempt{Outcome: tasks.Shared}
		if more, err = s.End(ctx, k, e); err != nil {
			t.Fatal(err)
		}
		next = append(next, more...)
	}
	for _, k := range crew {
		if j := read(t, s, k.ID); j.Status != tasks.StatusSucceeded {
			t.Errorf("job %+v", j)
		}
	}
	if left := sharing(t, rdb); len(left) != 0 {
		t.Errorf("left over: %v", left)
	}
	if err := s.Delete(ctx, "acme", crew[0].ID); err != nil {
		t.Fatal(err)
	}
	if answer, err := s.Answer(ctx, "acme", asked); err != nil || answer != nil {
		t.Errorf("after the leader's deletion: %q, %v", answer, err)
	}
}

// sharing lists the keys of leads and followers.
func sharing(t *testing.T, rdb *redis.Client) []string {
	t.Helper()
	var out []string
	for _, what := range []string{"lead", "fol"} {
		keys, err := rdb.Keys(t.Context(), "sluice:{s}:"+what+":*").Result()
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, keys...)
	}
	return out
}

// However a leader ends without an answer, the next asks, and the rest follow it.
func TestTheNextLeadsWhenALeaderHasNoAnswer(t *testing.T) {
	t.Parallel()
	for name, end := range map[string]func(t *testing.T, s *store.Store, k tasks.Ticket){
		"it fails": func(t *testing.T, s *store.Store, k tasks.Ticket) {
			start(t, s, k)
			e := tasks.Ending{Status: tasks.StatusFailed, Error: &tasks.JobError{Code: tasks.UpstreamRejected}, Attempt: tasks.Attempt{Outcome: tasks.Rejected}}
			if _, err := s.End(t.Context(), k, e); err != nil {
				t.Fatal(err)
			}
		},
		"it is canceled while it waits for pace": func(t *testing.T, s *store.Store, k tasks.Ticket) {
			if _, err := s.Cancel(t.Context(), "acme", k.ID); err != nil {
				t.Fatal(err)
			}
		},
		"it is canceled while it runs": func(t *testing.T, s *store.Store, k tasks.Ticket) {
			start(t, s, k)
			if _, err := s.Cancel(t.Context(), "acme", k.ID); err != nil {
				t.Fatal(err)
			}
		},
		"it goes to a fallback": func(t *testing.T, s *store.Store, k tasks.Ticket) {
			if moved, _, err := s.Divert(t.Context(), pool, map[string]tasks.Detour{k.ID: {Pool: "q", Passed: 1}}); err != nil || len(moved) != 1 {
				t.Fatal(moved, err)
			}
		},
		"its attempts end and it goes to a fallback": func(t *testing.T, s *store.Store, k tasks.Ticket) {
			start(t, s, k)
			e := tasks.Ending{Status: tasks.StatusRetrying, Counted: true, Detour: &tasks.Detour{Pool: "q", Passed: 1}, Attempt: tasks.Attempt{Outcome: tasks.ServerError}}
			if _, err := s.End(t.Context(), k, e); err != nil {
				t.Fatal(err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			s, _ := pair(t)
			crew := crowd(t, s, 3, func(i int, j *tasks.Job) {
				if i == 0 {
					j.Fallback = []string{"m2"}
				}
			})
			end(t, s, crew[0])
			swept, err := s.Sweep(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			var k tasks.Ticket
			for _, h := range append(swept.Hand, waiting(t, s)...) {
				if h.Pool == pool {
					k = h
				}
			}
			if k.ID != crew[1].ID {
				t.Fatalf("handed out %v; want the next, %s", k, crew[1].ID)
			}
			if leads, _ := join(t, s, k); !leads {
				t.Error("the next does not lead")
			}
			if j := read(t, s, crew[1].ID); j.Followed != "" || j.Attempts != 0 {
				t.Errorf("the next: %+v", j)
			}
			start(t, s, k)
			next, err := s.End(t.Context(), k, won)
			if err != nil || len(next) != 1 || next[0].ID != crew[2].ID {
				t.Errorf("after its end: %v, %v; want the last", next, err)
			}
		})
	}
}

// waiting returns the tickets that stand handed out, as a sweep would look for them.
func waiting(t *testing.T, s *store.Store) []tasks.Ticket {
	t.Helper()
	page, err := s.Jobs(t.Context(), tasks.Filter{Tenant: "acme", Limit: 100})
	if err != nil {
		t.Fatal(err)
	}
	var out []tasks.Ticket
	for _, j := range page.Jobs {
		if j.Status == tasks.StatusQueued && j.Fence > 1 && j.Followed == asked {
			out = append(out, tasks.Ticket{ID: j.ID, Fence: j.Fence, Pool: j.Pool})
		}
	}
	return out
}

// A leader that is tried again, or whose worker dies, leads on; nobody else asks.
func TestALeaderLeadsOnWhileItIsTriedAgain(t *testing.T) {
	t.Parallel()
	s, rdb := open(t, 2)
	ctx := t.Context()
	crew := crowd(t, s, 2, nil)
	start(t, s, crew[0])
	next, err := s.End(ctx, crew[0], tasks.Ending{Status: tasks.StatusRetrying, Counted: true, Attempt: tasks.Attempt{Outcome: tasks.ServerError}})
	if err != nil || len(next) != 1 || next[0].ID != crew[0].ID {
		t.Fatalf("after a failed attempt: %v, %v; want the leader again", next, err)
	}
	if leads, _ := join(t, s, next[0]); !leads {
		t.Error("it does not lead")
	}
	start(t, s, next[0])
	if err := rdb.ZAdd(ctx, "sluice:{s}:run:"+pool, redis.Z{Score: 1, Member: crew[0].ID}).Err(); err != nil { // its worker is silent
		t.Fatal(err)
	}
	swept, err := s.Sweep(ctx)
	if err != nil || swept.Lost != 1 || len(swept.Hand) != 1 || swept.Hand[0].ID != crew[0].ID {
		t.Fatalf("swept %+v, %v", swept, err)
	}
	if leads, _ := join(t, s, swept.Hand[0]); !leads {
		t.Error("it does not lead")
	}
	start(t, s, swept.Hand[0])
	if next, err = s.End(ctx, swept.Hand[0], won); err != nil || len(next) != 1 || next[0].ID != crew[1].ID {
		t.Errorf("after its end: %v, %v; want the follower", next, err)
	}
}

// A follower is canceled, expires and is diverted as any waiting job, and its
// place counts for the one that asks.
func TestAFollowerKeepsItsOwnWill(t *testing.T) {
	t.Parallel()
	s, rdb := pair(t)
	ctx := t.Context()
	crew := crowd(t, s, 5, func(i int, j *tasks.Job) {
		switch i {
		case 2:
			j.Deadline = time.Now().Add(time.Hour)
		case 3:
			j.Fallback = []string{"m2"}
		case 4:
			j.Priority = tasks.High
		}
	})
	if _, err := s.Cancel(ctx, "acme", crew[1].ID); err != nil {
		t.Error(err)
	}
	if err := rdb.ZAdd(ctx, "sluice:{s}:dl", redis.Z{Score: 1, Member: crew[2].ID}).Err(); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Sweep(ctx); err != nil {
		t.Fatal(err)
	}
	if jobs, err := s.Divertible(ctx, pool, 0, 10); err != nil || len(jobs) != 1 || jobs[0].ID != crew[3].ID {
		t.Errorf("divertible %+v, %v", jobs, err)
	}
	if moved, _, err := s.Divert(ctx, pool, map[string]tasks.Detour{crew[3].ID: {Pool: "q", Passed: 1}}); err != nil || len(moved) != 1 {
		t.Errorf("moved %v, %v", moved, err)
	}
	for i, want := range map[int]tasks.Status{1: tasks.StatusCanceled, 2: tasks.StatusExpired, 3: tasks.StatusQueued} {
		if j := read(t, s, crew[i].ID); j.Status != want || i == 3 && (j.Pool != "q" || j.Followed != "") {
			t.Errorf("follower %d: %+v; want it %s", i, j, want)
		}
	}
	if left, err := rdb.ZRange(ctx, "sluice:{s}:fol:"+pool+":"+asked, 0, -1).Result(); err != nil || len(left) != 1 || left[0] != crew[4].ID {
		t.Errorf("followers %v, %v; want the last", left, err)
	}
	lead, err := rdb.HGet(ctx, "sluice:{s}:j:"+crew[0].ID, "k").Int64()
	last, err2 := rdb.HGet(ctx, "sluice:{s}:j:"+crew[4].ID, "k").Int64()
	if err != nil || err2 != nil || lead != last {
		t.Errorf("the leader's place is %d, %v; its most urgent follower's %d, %v", lead, err, last, err2)
	}
}

// Whatever happens in whatever order, nobody is left behind: each follower has
// a leader that has not ended, and in the end all jobs are final.
func TestNoOrderOfEventsLeavesAFollowerBehind(t *testing.T) {
	t.Parallel()
	for seed := range uint64(6) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
			rdb := redistest.New(t)
			s := store.New(store.Config{Redis: rdb, ResultTTL: time.Hour, Depth: map[string]int{pool: 3, "q": 3}})
			ctx, dice := t.Context(), rand.New(rand.NewPCG(seed, 7))
			var ids []string
			open, running := map[string]tasks.Ticket{}, map[string]tasks.Ticket{}
			keep := func(list []tasks.Ticket) {
				for _, k := range list {
					open[k.ID] = k
				}
			}
			void := func(err error) bool {
				return errors.Is(err, tasks.ErrLost) || errors.Is(err, tasks.ErrFinal) || errors.Is(err, tasks.ErrNotFound)
			}
			one := func(m map[string]tasks.Ticket) (tasks.Ticket, bool) {
				for _, id := range ids { // a map's own order is not the seed's
					if k, ok := m[id]; ok && dice.IntN(2) == 0 {
						return k, true
					}
				}
				return tasks.Ticket{}, false
			}
			step := func(event int) {
				switch event {
				case 0, 1:
					j := job("acme")
					j.Fallback = [][]string{nil, {"m2"}}[dice.IntN(2)]
					j.Priority = []tasks.Priority{tasks.High, tasks.Normal, tasks.Low}[dice.IntN(3)]
					_, tickets := create(t, s, j)
					ids = append(ids, j.ID)
					keep(tickets)
				case 2, 3, 4: // a worker
					k, ok := one(open)
					if !ok {
						return
					}
					delete(open, k.ID)
					held, err := s.Take(ctx, k)
					if void(err) {
						return
					} else if err != nil {
						t.Fatal(err)
					}
					if answer, err := s.Answer(ctx, "acme", asked+k.Pool); err != nil || held.Followed != asked+k.Pool || answer == nil {
						leads, next, err := s.Join(ctx, k, asked+k.Pool)
						if err != nil {
							t.Fatal(err)
						}
						keep(next)
						if !leads {
							return
						}
					}
					if dice.IntN(4) == 0 { // it dies waiting for pace
						must(t, rdb.ZRem(ctx, "sluice:{s}:out:"+k.Pool, k.ID).Err())
						must(t, rdb.ZAdd(ctx, "sluice:{s}:hold:"+k.Pool, redis.Z{Score: 1, Member: k.ID}).Err())
						return
					}
					_, next, err := s.Start(ctx, k)
					if err != nil {
						t.Fatal(err)
					}
					keep(next)
					running[k.ID] = k
				case 5, 6, 7: // a call ends
					k, ok := one(running)
					if !ok {
						return
					}
					delete(running, k.ID)
					e := []tasks.Ending{
						won, {Status: tasks.StatusFailed, Error: &tasks.JobError{Code: tasks.UpstreamRejected}},
						{Status: tasks.StatusRetrying, Counted: true}, {Status: tasks.StatusRetrying, Delay: time.Millisecond},
					}[dice.IntN(4)]
					next, err := s.End(ctx, k, e)
					if err != nil && !void(err) {
						t.Fatal(err)
					}
					keep(next)
				case 8: // its worker dies
					if k, ok := one(running); ok {
						delete(running, k.ID)
						must(t, rdb.ZAddXX(ctx, "sluice:{s}:run:"+k.Pool, redis.Z{Score: 1, Member: k.ID}).Err())
					}
				case 9:
					if len(ids) > 0 {
						if _, err := s.Cancel(ctx, "acme", ids[dice.IntN(len(ids))]); err != nil && !void(err) {
							t.Fatal(err)
						}
					}
				case 10:
					jobs, err := s.Divertible(ctx, pool, 0, 3)
					must(t, err)
					ways := map[string]tasks.Detour{}
					for _, j := range jobs {
						ways[j.ID] = tasks.Detour{Pool: "q", Passed: 1}
					}
					_, next, err := s.Divert(ctx, pool, ways)
					must(t, err)
					keep(next)
				default:
					swept, err := s.Sweep(ctx)
					must(t, err)
					keep(swept.Hand)
				}
				for _, p := range []string{pool, "q"} {
					n, err := rdb.ZCard(ctx, "sluice:{s}:fol:"+p+":"+asked+p).Result()
					must(t, err)
					if n == 0 {
						continue
					}
					lead, err := rdb.Get(ctx, "sluice:{s}:lead:"+p+":"+asked+p).Result()
					if err != nil {
						t.Fatalf("after event %d %d follow nobody in %s", event, n, p)
					}
					if j := read(t, s, lead); j.Status.Final() || j.Pool != p {
						t.Fatalf("after event %d %d in %s follow %+v", event, n, p, j)
					}
				}
			}
			for range 150 {
				step(dice.IntN(13))
			}
			for range 100 {
				if ended, err := s.Ended(ctx, ids); err != nil || len(ended) == len(ids) {
					must(t, err)
					break
				}
				for range 10 {
					step([]int{2, 3, 5, 11}[dice.IntN(4)])
				}
			}
			for _, id := range ids {
				if j := read(t, s, id); !j.Status.Final() {
					t.Errorf("never ended: %+v", j)
				}
			}
			if left := sharing(t, rdb); len(left) != 0 {
				t.Errorf("left over: %s", strings.Join(left, " "))
			}
		})
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
