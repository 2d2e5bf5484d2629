package store_test

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"reflect"
	"sort"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"go.uber.org/goleak"

	"github.com/sluicehq/sluice/tasks"
	"github.com/sluicehq/sluice/tasks/redistest"
	"github.com/sluicehq/sluice/tasks/store"
)

func TestMain(m *testing.M) {
	// Each test takes turns with a Redis of its own, or waits for it: a test more than
	// there are processors keeps them at work. -parallel still has the last word.
	_ = flag.Set("test.parallel", "4")
	goleak.VerifyTestMain(m)
}

const pool = "p"

func open(t *testing.T, depth int) (*store.Store, *redis.Client) {
	t.Helper()
	rdb := redistest.New(t)
	return store.New(store.Config{Redis: rdb, ResultTTL: time.Hour, Depth: map[string]int{pool: depth}}), rdb
}

func job(tenant string) tasks.Job {
	return tasks.Job{
		ID: store.NewID("job"), Tenant: tenant, Pool: pool, Model: "m", Priority: tasks.Normal,
		Request:  tasks.Request{Kind: tasks.Text, Body: []byte(`"hello"`), MaxTokens: 16, InputTokens: 4},
		Metadata: map[string]string{"k": "v"},
	}
}

// create stores one job and returns it with the tickets that came of it.
func create(t *testing.T, s *store.Store, j tasks.Job) (tasks.Job, []tasks.Ticket) {
	t.Helper()
	made, tickets, err := s.Create(t.Context(), tasks.Submission{Job: j})
	if err != nil || made[0].Err != nil {
		t.Fatalf("create: %v, %v", err, made)
	}
	return made[0].Job, tickets
}

// claimed stores one job with room for it and returns its ticket.
func claimed(t *testing.T, s *store.Store) tasks.Ticket {
	t.Helper()
	j, tickets := create(t, s, job("acme"))
	if len(tickets) != 1 || tickets[0].ID != j.ID {
		t.Fatalf("tickets of a submit to an idle pool: %v, want one of %s", tickets, j.ID)
	}
	return tickets[0]
}

func read(t *testing.T, s *store.Store, id string) tasks.Job {
	t.Helper()
	j, err := s.Job(t.Context(), "acme", id)
	if err != nil {
		t.Fatalf("read %s: %v", id, err)
	}
	return j
}

func take(t *testing.T, s *store.Store, k tasks.Ticket) {
	t.Helper()
	if _, err := s.Take(t.Context(), k); err != nil {
		t.Fatalf("take: %v", err)
	}
}

func start(t *testing.T, s *store.Store, k tasks.Ticket) tasks.Started {
	t.Helper()
	started, _, err := s.Start(t.Context(), k)
	if err != nil {
		t.Fatalf("start: %v", err)
	}
	return started
}

var won = tasks.Ending{
	Status: tasks.StatusSucceeded, Result: []byte(`{"content":[]}`), Finish: tasks.FinishLength, Usage: &tasks.Usage{InputTokens: 3, OutputTokens: 5},
	Provider: "fake", Attempt: tasks.Attempt{Outcome: tasks.Succeeded, Status: 200, RequestID: "req_1"},
}

func TestAJobsWholeLife(t *testing.T) {
	t.Parallel()
	s, rdb := open(t, 4)
	k := claimed(t, s)
	held, err := s.Take(t.Context(), k)
	if err != nil || string(held.Request.Body) != `"hello"` || held.Metadata["k"] != "v" || held.Status != tasks.StatusQueued {
		t.Fatalf("taken job: %+v, %v", held, err)
	}
	if got := start(t, s, k); got.Call != 1 || got.Attempts != 1 {
		t.Errorf("started: %+v, want call 1, attempt 1", got)
	}
	if j := read(t, s, k.ID); j.Status != tasks.StatusRunning || len(j.Log) != 1 || j.Log[0].Outcome != tasks.Running {
		t.Errorf("running job: %+v", j)
	}
	if _, err := s.End(t.Context(), k, won); err != nil {
		t.Fatal(err)
	}
	j := read(t, s, k.ID)
	if j.Status != tasks.StatusSucceeded || string(j.Result) != string(won.Result) || j.Finish != tasks.FinishLength || j.Usage.OutputTokens != 5 || j.Attempts != 1 ||
		len(j.Log) != 1 || j.Log[0].RequestID != "req_1" || j.FinishedAt.IsZero() || !j.ExpiresAt.Equal(j.FinishedAt.Add(time.Hour)) {
		t.Errorf("finished job: %+v", j)
	}
	if rdb.HExists(t.Context(), "sluice:{s}:j:"+k.ID, "b").Val() {
		t.Error("the prompt of a succeeded job is still stored")
	}
	if load, err := s.Load(t.Context(), pool); err != nil || load.Queued != 0 || load.Running != 0 || load.Handed != 0 {
		t.Errorf("load when all is done: %+v, %v", load, err)
	}
	if ttl := rdb.PTTL(t.Context(), "sluice:{s}:j:"+k.ID).Val(); ttl <= 0 || ttl > time.Hour+time.Minute {
		t.Errorf("the record's time to live is %v, want up to 1h and the minute of a late sweep", ttl)
	}
}

// The last attempt's error is told while a job waits for the next, whatever
// becomes of it meanwhile; not while a call is under way, and not once it has won.
func TestTheLastAttemptsErrorStandsWhileAJobWaits(t *testing.T) {
	t.Parallel()
	s, _ := open(t, 4)
	ctx := t.Context()
	k := claimed(t, s)
	failed := tasks.Ending{
		Status: tasks.StatusRetrying, Counted: true, Provider: "fake", Usage: &tasks.Usage{InputTokens: 9},
		Error:   &tasks.JobError{Code: tasks.UpstreamUnavailable, Message: "busy", UpstreamStatus: 529},
		Attempt: tasks.Attempt{Outcome: tasks.Overloaded, Status: 529},
	}
	lap := func(e tasks.Ending) {
		t.Helper()
		take(t, s, k)
		start(t, s, k)
		if j := read(t, s, k.ID); j.Error != nil {
			t.Errorf("a running job has the error %+v", j.Error)
		}
		next, err := s.End(ctx, k, e)
		if err != nil {
			t.Fatal(err)
		}
		if len(next) > 0 {
			k = next[0]
		}
	}
	lap(failed)
	if j := read(t, s, k.ID); j.Error == nil || *j.Error != *failed.Error || j.Usage != nil {
		t.Errorf("retrying: error %+v, usage %+v; want the last attempt's error and no usage", j.Error, j.Usage)
	}
	lap(tasks.Ending{Status: tasks.StatusRetrying, Attempt: tasks.Attempt{Outcome: tasks.HandedBack}}) // a shutdown
	if j := read(t, s, k.ID); j.Error == nil || j.Error.Message != "busy" {
		t.Errorf("handed back: error %+v, want the last one", j.Error)
	}
	lap(won)
	if j := read(t, s, k.ID); j.Error != nil || j.Usage == nil || j.Finish != won.Finish {
		t.Errorf("succeeded: %+v", j)
	}
}

// A record made before release 0.1.0 does not say how its answer ended.
func TestAnOldRecordHasNoFinish(t *testing.T) {
	t.Parallel()
	s, rdb := open(t, 4)
	k := claimed(t, s)
	take(t, s, k)
	start(t, s, k)
	if _, err := s.End(t.Context(), k, won); err != nil {
		t.Fatal(err)
	}
	rdb.HSet(t.Context(), "sluice:{s}:j:"+k.ID, "o", `{"usage":{"input_tokens":3,"output_tokens":5},"provider":"fake"}`)
	if j := read(t, s, k.ID); j.Finish != "" || j.Usage.OutputTokens != 5 || j.Provider != "fake" {
		t.Errorf("got %+v", j)
	}
}

// Every move on every status either follows the table or is refused and changes nothing.
func TestMovesFollowTheTable(t *testing.T) {
	t.Parallel()
	s, rdb := open(t, 100)
	ctx := t.Context()
	made := map[tasks.Status]func(t *testing.T) tasks.Ticket{
		tasks.StatusScheduled: func(t *testing.T) tasks.Ticket {
			j := job("acme")
			j.NotBefore = time.Now().Add(time.Hour)
			j, _ = create(t, s, j)
			return tasks.Ticket{ID: j.ID, Pool: pool}
		},
		tasks.StatusQueued: func(t *testing.T) tasks.Ticket { k := claimed(t, s); take(t, s, k); return k },
		tasks.StatusRunning: func(t *testing.T) tasks.Ticket {
			k := claimed(t, s)
			take(t, s, k)
			start(t, s, k)
			return k
		},
		tasks.StatusRetrying: func(t *testing.T) tasks.Ticket {
			k := claimed(t, s)
			take(t, s, k)
			start(t, s, k)
			next, err := s.End(ctx, k, tasks.Ending{Status: tasks.StatusRetrying, Counted: true, Attempt: tasks.Attempt{Outcome: tasks.ServerError}})
			if err != nil || len(next) != 1 {
				t.Fatalf("retry: %v, %v", next, err)
			}
			take(t, s, next[0])
			return next[0]
		},
	}
	for status, how := range map[tasks.Status]tasks.Ending{
		tasks.StatusSucceeded: won,
		tasks.StatusFailed:    {Status: tasks.StatusFailed, Error: &tasks.JobError{Code: tasks.UpstreamRejected}},
	} {
		made[status] = func(t *testing.T) tasks.Ticket {
			k := claimed(t, s)
			take(t, s, k)
			start(t, s, k)
			if _, err := s.End(ctx, k, how); err != nil {
				t.Fatal(err)
			}
			return k
		}
	}
	made[tasks.StatusCanceled] = func(t *testing.T) tasks.Ticket {
		k := claimed(t, s)
		if _, err := s.Cancel(ctx, "acme", k.ID); err != nil {
			t.Fatal(err)
		}
		return k
	}
	made[tasks.StatusExpired] = func(t *testing.T) tasks.Ticket {
		j := job("acme")
		j.Deadline = time.Now().Add(-time.Second)
		j, tickets := create(t, s, j)
		if len(tickets) != 0 {
			t.Fatalf("a job past its deadline was handed out: %v", tickets)
		}
		return tasks.Ticket{ID: j.ID, Pool: pool}
	}
	moves := map[tasks.Move]func(tasks.Ticket) error{
		tasks.MoveStart:   func(k tasks.Ticket) error { _, _, err := s.Start(ctx, k); return err },
		tasks.MoveSucceed: func(k tasks.Ticket) error { _, err := s.End(ctx, k, won); return err },
		tasks.MoveFail: func(k tasks.Ticket) error {
			_, err := s.End(ctx, k, tasks.Ending{Status: tasks.StatusFailed})
			return err
		},
		tasks.MoveHandBack: func(k tasks.Ticket) error {
			_, err := s.End(ctx, k, tasks.Ending{Status: tasks.StatusRetrying, Delay: time.Hour})
			return err
		},
		tasks.MoveRetry: func(k tasks.Ticket) error {
			_, err := s.End(ctx, k, tasks.Ending{Status: tasks.StatusRetrying, Counted: true, Delay: time.Hour})
			return err
		},
		tasks.MoveDue: func(k tasks.Ticket) error {
			if rdb.ZAddArgs(ctx, "sluice:{s}:due", redis.ZAddArgs{XX: true, Ch: true, Members: []redis.Z{{Score: 1, Member: k.ID}}}).Val() == 0 {
				return tasks.ErrConflict // nothing waits for its time
			}
			_, err := s.Sweep(ctx)
			return err
		},
		tasks.MoveExpire: func(k tasks.Ticket) error {
			before := read(t, s, k.ID)
			rdb.HSet(ctx, "sluice:{s}:j:"+k.ID, "dl", 1)
			rdb.ZAdd(ctx, "sluice:{s}:dl", redis.Z{Score: 1, Member: k.ID})
			if before.Status == tasks.StatusRunning { // its worker cuts it off
				_, err := s.End(ctx, k, tasks.Ending{Status: tasks.StatusRetrying, Counted: true})
				return err
			}
			if _, err := s.Sweep(ctx); err != nil || read(t, s, k.ID).Version != before.Version {
				return err
			}
			return tasks.ErrConflict
		},
		tasks.MoveCancel:  func(k tasks.Ticket) error { _, err := s.Cancel(ctx, "acme", k.ID); return err },
		tasks.MoveRequeue: func(k tasks.Ticket) error { _, _, err := s.Requeue(ctx, "acme", k.ID, tasks.Limits{}); return err },
	}
	for _, row := range tasks.Transitions {
		if moves[row.Move] == nil {
			t.Errorf("no script is held to the move %s", row.Move)
		}
	}
	for _, from := range tasks.Statuses {
		for move, do := range moves {
			if from == tasks.StatusScheduled && (move == tasks.MoveFail || move == tasks.MoveHandBack || move == tasks.MoveStart || move == tasks.MoveRetry) {
				continue // nobody has a ticket for a scheduled job
			}
			if move == tasks.MoveRetry && (from == tasks.StatusQueued || from == tasks.StatusRetrying) {
				continue // no call was made: it is handed back
			}
			t.Run(fmt.Sprintf("%s/%s", from, move), func(t *testing.T) {
				k := made[from](t)
				before := read(t, s, k.ID)
				if before.Status != from {
					t.Fatalf("made a %s job, want %s", before.Status, from)
				}
				want, legal := next(from, move)
				err := do(k)
				after := read(t, s, k.ID)
				if (err == nil) != legal || after.Status != want {
					t.Errorf("%s a %s job: %v, now %s; the table says %s, %v", move, from, err, after.Status, want, legal)
				}
				if err != nil && after.Version != before.Version {
					t.Errorf("a refused %s changed the record", move)
				}
			})
		}
	}
}

// next is where a move leads by the table; false: it is not listed.
func next(from tasks.Status, move tasks.Move) (tasks.Status, bool) {
	for _, row := range tasks.Transitions {
		if row.From == from && row.Move == move {
			return row.To, true
		}
	}
	return from, false
}

func TestAStaleTicketMovesNothing(t *testing.T) {
	t.Parallel()
	s, _ := open(t, 4)
	ctx := t.Context()
	old := claimed(t, s)
	take(t, s, old)
	next, err := s.End(ctx, old, tasks.Ending{Status: tasks.StatusRetrying})
	if err != nil || len(next) != 1 || next[0].Fence <= old.Fence {
		t.Fatalf("handed back: %v, %v", next, err)
	}
	take(t, s, next[0])
	start(t, s, next[0])
	if _, err := s.End(ctx, old, won); !errors.Is(err, tasks.ErrLost) {
		t.Errorf("an answer under an old fence: %v, want ErrLost", err)
	}
	if _, err := s.Take(ctx, old); !errors.Is(err, tasks.ErrLost) {
		t.Errorf("take under an old fence: %v, want ErrLost", err)
	}
	if lost, err := s.Renew(ctx, []tasks.Ticket{old, next[0]}); err != nil || len(lost) != 1 || lost[0] != old.ID {
		t.Errorf("renew: lost %v, %v; want the old fence alone", lost, err)
	}
}

func TestTenantsTakeTurns(t *testing.T) {
	t.Parallel()
	s, _ := open(t, 6)
	// acme fills the room and has a long backlog before anybody else comes.
	for range 20 {
		create(t, s, job("acme"))
	}
	for range 3 {
		create(t, s, job("zoe"))
		create(t, s, job("bob"))
	}
	got := map[string]int{}
	// Free the room nine times; the nine that follow are three of each.
	page, err := s.Jobs(t.Context(), tasks.Filter{Tenant: "acme", Limit: 100})
	if err != nil {
		t.Fatal(err)
	}
	var handed []tasks.Ticket
	for _, j := range page.Jobs {
		if j.Fence == 1 {
			handed = append(handed, tasks.Ticket{ID: j.ID, Fence: 1, Pool: pool})
		}
	}
	if len(handed) != 6 {
		t.Fatalf("%d jobs were handed out into room for 6", len(handed))
	}
	for len(handed) > 0 && got["acme"]+got["zoe"]+got["bob"] < 9 {
		k := handed[0]
		handed = handed[1:]
		take(t, s, k)
		_, next, err := s.Start(t.Context(), k)
		if err != nil {
			t.Fatal(err)
		}
		for _, n := range next {
			for _, tenant := range []string{"acme", "zoe", "bob"} {
				if _, err := s.Job(t.Context(), tenant, n.ID); err == nil {
					got[tenant]++
				}
			}
			handed = append(handed, n)
		}
	}
	if got["acme"] != 3 || got["zoe"] != 3 || got["bob"] != 3 {
		t.Errorf("nine turns among three tenants: %v, want three each", got)
	}
}

func TestPriorityOrdersATenantsOwnJobs(t *testing.T) {
	t.Parallel()
	s, _ := open(t, 1)
	first := claimed(t, s) // takes the room
	var want []string
	for _, p := range []tasks.Priority{tasks.Low, tasks.Normal, tasks.High} {
		j := job("acme")
		j.Priority = p
		made, _ := create(t, s, j)
		want = append([]string{made.ID}, want...)
	}
	var got []string
	for k := first; len(got) < 3; {
		take(t, s, k)
		_, next, err := s.Start(t.Context(), k)
		if err != nil || len(next) != 1 {
			t.Fatalf("start: %v, %v", next, err)
		}
		k = next[0]
		got = append(got, k.ID)
	}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("order %v, want high, normal, low: %v", got, want)
	}
}

func TestAKeySubmitsOnce(t *testing.T) {
	t.Parallel()
	s, _ := open(t, 4)
	ctx := t.Context()
	submit := func(tenant, key, fp string) (store.Created, error) {
		made, _, err := s.Create(ctx, tasks.Submission{Job: job(tenant), Key: key, Fingerprint: fp})
		if err != nil {
			t.Fatal(err)
		}
		return made[0], made[0].Err
	}
	first, _ := submit("acme", "k1", "a")
	if err := s.SaveAnswer(ctx, "acme", "k1", first.Job.ID, []byte("answer")); err != nil {
		t.Fatal(err)
	}
	if again, err := submit("acme", "k1", "a"); err != nil || !again.Replayed || again.Job.ID != first.Job.ID || string(again.Answer) != "answer" {
		t.Errorf("same key, same body: %+v, %v", again, err)
	}
	_, err := submit("acme", "k1", "b")
	if reused, ok := errors.AsType[*tasks.ReusedError](err); !ok || !errors.Is(err, tasks.ErrKeyReused) || reused.ID != first.Job.ID {
		t.Errorf("same key, other body: %v, want ErrKeyReused of job %s", err, first.Job.ID)
	}
	if other, err := submit("zoe", "k1", "b"); err != nil || other.Replayed {
		t.Errorf("another tenant's same key: %+v, %v", other, err)
	}
	if page, _ := s.Jobs(ctx, tasks.Filter{Tenant: "acme", Limit: 10}); len(page.Jobs) != 1 {
		t.Errorf("%d jobs stored, want 1", len(page.Jobs))
	}
}

func TestAFullBacklogRefuses(t *testing.T) {
	t.Parallel()
	s, _ := open(t, 4)
	for i := range 3 {
		made, _, err := s.Create(t.Context(), tasks.Submission{Job: job("acme"), Limits: tasks.Limits{QueuedJobs: 2}})
		if err != nil {
			t.Fatal(err)
		}
		var quota *tasks.QuotaError
		if got := errors.As(made[0].Err, &quota); got != (i == 2) {
			t.Errorf("submit %d of at most 2: %v", i+1, made[0].Err)
		}
	}
}

func TestOtherTenantsSeeNothing(t *testing.T) {
	t.Parallel()
	s, _ := open(t, 4)
	ctx := t.Context()
	k := claimed(t, s)
	_, errJob := s.Job(ctx, "zoe", k.ID)
	_, errCancel := s.Cancel(ctx, "zoe", k.ID)
	_, _, errRequeue := s.Requeue(ctx, "zoe", k.ID, tasks.Limits{})
	for what, err := range map[string]error{"read": errJob, "cancel": errCancel, "requeue": errRequeue, "delete": s.Delete(ctx, "zoe", k.ID)} {
		if !errors.Is(err, tasks.ErrNotFound) {
			t.Errorf("%s by another tenant: %v, want ErrNotFound", what, err)
		}
	}
}

func TestListFiltersAndPages(t *testing.T) {
	t.Parallel()
	s, _ := open(t, 2)
	ctx := t.Context()
	var ids []string
	for i := range 250 {
		j := job("acme")
		if i%50 == 0 {
			j.Model = "rare"
		}
		made, _ := create(t, s, j)
		ids = append(ids, made.ID)
	}
	sort.Sort(sort.Reverse(sort.StringSlice(ids)))
	var got []string
	for after := ""; ; {
		page, err := s.Jobs(ctx, tasks.Filter{Tenant: "acme", Limit: 60, After: after})
		if err != nil {
			t.Fatal(err)
		}
		for _, j := range page.Jobs {
			got = append(got, j.ID)
		}
		if !page.HasMore {
			break
		}
		after = page.Next
	}
	if fmt.Sprint(got) != fmt.Sprint(ids) {
		t.Errorf("paging gave %d ids, want %d, newest first", len(got), len(ids))
	}
	page, err := s.Jobs(ctx, tasks.Filter{Tenant: "acme", Limit: 3, Model: "rare"})
	if err != nil || len(page.Jobs) != 3 || !page.HasMore {
		t.Errorf("3 of 5 rare ones: %d, more %v, %v", len(page.Jobs), page.HasMore, err)
	}
}

func TestRetryDelaysAndDueJobs(t *testing.T) {
	t.Parallel()
	s, rdb := open(t, 4)
	ctx := t.Context()
	k := claimed(t, s)
	take(t, s, k)
	start(t, s, k)
	if _, err := s.End(ctx, k, tasks.Ending{Status: tasks.StatusRetrying, Counted: true, Delay: time.Hour, Attempt: tasks.Attempt{Outcome: tasks.Overloaded, Status: 529}}); err != nil {
		t.Fatal(err)
	}
	j := read(t, s, k.ID)
	if j.Status != tasks.StatusRetrying || j.Attempts != 1 || j.DueAt.IsZero() || len(j.Log) != 1 || j.Log[0].Status != 529 {
		t.Errorf("retrying job: %+v", j)
	}
	if swept, err := s.Sweep(ctx); err != nil || len(swept.Hand) != 0 || swept.NextDue <= 0 {
		t.Errorf("swept before it is due: %+v, %v", swept, err)
	}
	rdb.ZAdd(ctx, "sluice:{s}:due", redis.Z{Score: 1, Member: k.ID})
	swept, err := s.Sweep(ctx)
	if err != nil || len(swept.Hand) != 1 || swept.Hand[0].ID != k.ID {
		t.Fatalf("swept when due: %+v, %v", swept, err)
	}
	take(t, s, swept.Hand[0])
	if got := start(t, s, swept.Hand[0]); got.Call != 2 || got.Attempts != 2 {
		t.Errorf("second attempt: %+v", got)
	}
}

// age makes a pool's leases end now.
func age(ctx context.Context, rdb *redis.Client, where, id string) {
	rdb.ZAddXX(ctx, "sluice:{s}:"+where+":"+pool, redis.Z{Score: 1, Member: id})
}

func TestADeadWorkersJobsComeBackUncounted(t *testing.T) {
	t.Parallel()
	s, rdb := open(t, 4)
	ctx := t.Context()
	if _, err := s.Sweep(ctx); err != nil {
		t.Fatal(err)
	}
	running, held := claimed(t, s), claimed(t, s)
	take(t, s, running)
	start(t, s, running)
	take(t, s, held)
	if lost, err := s.Renew(ctx, []tasks.Ticket{held}); err != nil || len(lost) != 0 {
		t.Fatalf("renew: lost %v, %v", lost, err)
	}
	age(ctx, rdb, "run", running.ID)
	age(ctx, rdb, "hold", held.ID)
	swept, err := s.Sweep(ctx)
	if err != nil || swept.Lost != 2 || len(swept.Hand) != 2 {
		t.Fatalf("swept: %+v, %v", swept, err)
	}
	j := read(t, s, running.ID)
	if j.Status != tasks.StatusRetrying || j.Attempts != 0 || len(j.Log) != 1 || j.Log[0].Outcome != tasks.WorkerLost || !j.Log[0].MaybeBilled {
		t.Errorf("the running one: %+v", j)
	}
	if j := read(t, s, held.ID); j.Status != tasks.StatusQueued || len(j.Log) != 0 {
		t.Errorf("the held one: %+v", j)
	}
	if _, err := s.End(ctx, running, won); !errors.Is(err, tasks.ErrLost) {
		t.Errorf("the dead worker's late answer: %v, want ErrLost", err)
	}
}

// After an outage of Redis no worker has been able to renew: its leases mean nothing yet.
func TestLeasesSurviveAnOutageOfRedis(t *testing.T) {
	t.Parallel()
	s, rdb := open(t, 4)
	ctx := t.Context()
	k := claimed(t, s)
	take(t, s, k)
	start(t, s, k)
	age(ctx, rdb, "run", k.ID)
	rdb.Set(ctx, "sluice:{s}:swept", time.Now().Add(-30*time.Second).UnixMilli(), 0)
	if swept, err := s.Sweep(ctx); err != nil || swept.Lost != 0 {
		t.Errorf("the first sweep after an outage gave %d jobs back, %v", swept.Lost, err)
	}
	if _, err := s.End(ctx, k, won); err != nil {
		t.Errorf("the worker that lived through it: %v", err)
	}
}

func TestALostTaskIsLookedForAndReissued(t *testing.T) {
	t.Parallel()
	s, rdb := open(t, 4)
	ctx := t.Context()
	k := claimed(t, s)
	age(ctx, rdb, "out", k.ID)
	swept, err := s.Sweep(ctx)
	if err != nil || len(swept.Look) != 1 || swept.Look[0] != k {
		t.Fatalf("swept: %+v, %v; want a look at %v", swept, err, k)
	}
	again, ok, err := s.Reissue(ctx, k)
	if err != nil || !ok || again.Fence != k.Fence+1 {
		t.Fatalf("reissue: %v, %v, %v", again, ok, err)
	}
	if _, err := s.Take(ctx, k); !errors.Is(err, tasks.ErrLost) {
		t.Errorf("the old ticket: %v, want ErrLost", err)
	}
	take(t, s, again)
	if lost, err := s.Renew(ctx, []tasks.Ticket{again}); err != nil || len(lost) != 0 {
		t.Fatalf("renew: lost %v, %v", lost, err)
	}
	if _, ok, _ := s.Reissue(ctx, again); ok {
		t.Error("a job that a worker holds was reissued")
	}
}

// Whatever script finds a deadline passed, the next sweep tells of the job, once.
func TestASweepTellsWhichJobsExpired(t *testing.T) {
	t.Parallel()
	s, rdb := open(t, 4)
	ctx := t.Context()
	past := job("acme")
	past.Deadline = time.Now().Add(-time.Second)
	byClaim, _ := create(t, s, past)
	soon := job("acme")
	soon.Deadline = time.Now().Add(time.Hour)
	byHandBack, tickets := create(t, s, soon)
	soon.ID = store.NewID("job")
	bySweep, _ := create(t, s, soon)
	take(t, s, tickets[0])
	start(t, s, tickets[0])
	if _, err := s.End(ctx, tickets[0], tasks.Ending{Status: tasks.StatusRetrying, Counted: true, Delay: 2 * time.Hour}); err != nil {
		t.Fatal(err)
	}
	if err := rdb.ZAdd(ctx, "sluice:{s}:dl", redis.Z{Score: 1, Member: bySweep.ID}).Err(); err != nil {
		t.Fatal(err)
	}
	swept, err := s.Sweep(ctx)
	if err != nil {
		t.Fatal(err)
	}
	want := []tasks.Job{
		{ID: byClaim.ID, Tenant: "acme", Pool: pool}, {ID: byHandBack.ID, Tenant: "acme", Pool: pool, Attempts: 1},
		{ID: bySweep.ID, Tenant: "acme", Pool: pool},
	}
	if !reflect.DeepEqual(swept.Expired, want) {
		t.Errorf("expired: %+v\nwant %+v", swept.Expired, want)
	}
	if swept, err := s.Sweep(ctx); err != nil || len(swept.Expired) != 0 {
		t.Errorf("told again: %+v, %v", swept.Expired, err)
	}
}

func TestNothingOutlivesAFinishedJob(t *testing.T) {
	t.Parallel()
	s, rdb := open(t, 4)
	ctx := t.Context()
	k := claimed(t, s)
	take(t, s, k)
	start(t, s, k)
	if _, err := s.End(ctx, k, won); err != nil {
		t.Fatal(err)
	}
	rdb.ZAdd(ctx, "sluice:{s}:gone", redis.Z{Score: 1, Member: "acme|" + k.ID})
	if _, err := s.Sweep(ctx); err != nil {
		t.Fatal(err)
	}
	for _, key := range rdb.Keys(ctx, "*").Val() {
		if dump := rdb.Dump(ctx, key).Val(); contains(dump, k.ID) || contains(key, k.ID) {
			t.Errorf("%s still knows the job", key)
		}
	}
}

func contains(s, part string) bool {
	for i := 0; i+len(part) <= len(s); i++ {
		if s[i:i+len(part)] == part {
			return true
		}
	}
	return false
}

func TestRequeueRunsAFailedJobAgain(t *testing.T) {
	t.Parallel()
	s, _ := open(t, 4)
	ctx := t.Context()
	k := claimed(t, s)
	take(t, s, k)
	start(t, s, k)
	if _, err := s.End(ctx, k, tasks.Ending{Status: tasks.StatusFailed, Error: &tasks.JobError{Code: tasks.UpstreamRejected, UpstreamStatus: 400}}); err != nil {
		t.Fatal(err)
	}
	j, tickets, err := s.Requeue(ctx, "acme", k.ID, tasks.Limits{})
	if err != nil || len(tickets) != 1 || j.Status != tasks.StatusQueued || j.Error != nil || j.Attempts != 0 || !j.ExpiresAt.IsZero() {
		t.Fatalf("requeued: %+v, %v, %v", j, tickets, err)
	}
	take(t, s, tickets[0])
	start(t, s, tickets[0])
	if _, err := s.End(ctx, tickets[0], won); err != nil {
		t.Fatal(err)
	}
	if j := read(t, s, k.ID); j.Status != tasks.StatusSucceeded || len(j.Log) != 2 {
		t.Errorf("after the second run: %+v", j)
	}
}

// The deadline served the first time: a worker would cut every call off by it.
func TestRequeueLiftsTheDeadline(t *testing.T) {
	t.Parallel()
	s, _ := open(t, 4)
	ctx := t.Context()
	first := job("acme")
	first.Deadline = time.Now().Add(time.Hour).UTC().Truncate(time.Millisecond)
	create(t, s, first)
	if j := read(t, s, first.ID); !j.Deadline.Equal(first.Deadline) {
		t.Fatalf("deadline %v; want %v", j.Deadline, first.Deadline)
	}
	if _, err := s.Cancel(ctx, "acme", first.ID); err != nil {
		t.Fatal(err)
	}
	j, tickets, err := s.Requeue(ctx, "acme", first.ID, tasks.Limits{})
	if err != nil || len(tickets) != 1 || !j.Deadline.IsZero() {
		t.Fatalf("requeued: %+v, %v, %v", j, tickets, err)
	}
	if j, err := s.Take(ctx, tickets[0]); err != nil || !j.Deadline.IsZero() {
		t.Errorf("the worker reads the deadline %v, %v", j.Deadline, err)
	}
}

// listening returns an ear that listens until the test ends.
func listening(t *testing.T, rdb *redis.Client, control func(store.Control)) *store.Notices {
	t.Helper()
	n := store.NewNotices(rdb, "", store.New(store.Config{Redis: rdb}), control)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- n.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return n
}

// watching watches an object, as soon as the ear listens.
func watching[T any](t *testing.T, watch func(context.Context, string) (<-chan T, func(), error), id string) (<-chan T, func()) {
	t.Helper()
	var signal <-chan T
	var stop func()
	redistest.Until(t, "the ear listens", func() (ok bool) {
		var err error
		signal, stop, err = watch(t.Context(), id)
		return err == nil
	})
	return signal, stop
}

func TestNoticesWakeAWatcher(t *testing.T) {
	t.Parallel()
	s, rdb := open(t, 4)
	controls := make(chan store.Control, 8)
	n := listening(t, rdb, func(c store.Control) { controls <- c })
	ctx := t.Context()
	k := claimed(t, s)
	changed, stop := watching(t, n.Watch, k.ID)
	defer stop()
	select {
	case <-changed:
		t.Error("a signal before any change")
	default:
	}
	take(t, s, k)
	start(t, s, k)
	if _, err := s.Cancel(ctx, "acme", k.ID); err != nil {
		t.Fatal(err)
	}
	select {
	case <-changed:
	case <-time.After(time.Minute):
		t.Error("no signal after a change")
	}
	select {
	case c := <-controls:
		if c != (store.Control{Verb: "cancel", What: k.ID}) {
			t.Errorf("control %v", c)
		}
	case <-time.After(time.Minute):
		t.Error("no word of the cancellation")
	}
}

// Where channels are not permitted, nobody waits for a subscription that will not
// stand; an operator is told, and it ends by itself when they are.
func TestNoticesThatAreNotPermittedAreNotWaitedFor(t *testing.T) {
	t.Parallel()
	_, admin := open(t, 4)
	grant := func(rules ...any) {
		t.Helper()
		if err := admin.Do(t.Context(), append([]any{"ACL", "SETUSER", "app"}, rules...)...).Err(); err != nil {
			t.Fatal(err)
		}
	}
	grant("on", ">pw", "~*", "+@all")
	o := *admin.Options()
	o.Username, o.Password = "app", "pw"
	rdb := redis.NewClient(&o)
	t.Cleanup(func() { _ = rdb.Close() })
	n := listening(t, rdb, nil)
	refused := func(want bool) {
		t.Helper()
		redistest.Until(t, fmt.Sprintf("notices are refused: %v", want), func() bool { return (len(n.Refused()) > 0) == want })
	}
	for range 2 {
		refused(true)
		// A subscription that may still come is waited for, and its absence is told otherwise.
		if _, _, err := n.WatchEnd(t.Context(), "job_1"); !errors.Is(err, tasks.ErrUnavailable) || !strings.Contains(err.Error(), "NOPERM") {
			t.Errorf("watch: %v", err)
		}
		grant("&sluice:*")
		refused(false)
		if _, stop, err := n.WatchEnd(t.Context(), "job_1"); err != nil {
			t.Errorf("watch: %v", err)
		} else {
			stop()
		}
		grant("resetchannels")
	}
	grant("&sluice:*", "-publish")
	refused(true) // nobody could tell
}

func TestANoticeOfTheEndCarriesTheJob(t *testing.T) {
	t.Parallel()
	s, rdb := open(t, 4)
	n := listening(t, rdb, nil)
	ctx := t.Context()
	for _, c := range []struct {
		name    string
		result  string
		carried bool
	}{
		{"small", `{"text":"7:ü ended \n"}`, true},
		{"large", `"` + strings.Repeat("x", 100_000) + `"`, false},
	} {
		k := claimed(t, s)
		ended, stop := watching(t, n.WatchEnd, k.ID)
		take(t, s, k)
		start(t, s, k)
		if _, err := s.End(ctx, k, tasks.Ending{Status: tasks.StatusSucceeded, Result: []byte(c.result), Attempt: tasks.Attempt{Outcome: tasks.Succeeded}}); err != nil {
			t.Fatal(err)
		}
		want, err := s.Job(ctx, "acme", k.ID)
		if err != nil {
			t.Fatal(err)
		}
		select {
		case got := <-ended:
			switch {
			case (got != nil) != c.carried:
				t.Errorf("%s: carried %v, want %v", c.name, got != nil, c.carried)
			case got != nil && !reflect.DeepEqual(*got, want):
				t.Errorf("%s: carried\n%+v\nwant\n%+v", c.name, *got, want)
			}
		case <-time.After(time.Minute):
			t.Errorf("%s: no signal at the end", c.name)
		}
		stop()
	}
}

func TestAFullRedisAcceptsNothingByHalvesAndLetsJobsEnd(t *testing.T) {
	t.Parallel()
	srv := redistest.Start(t, redistest.Options{Args: []string{"--maxmemory", "3mb", "--maxmemory-policy", "noeviction"}})
	s := store.New(store.Config{Redis: srv.Client(), Depth: map[string]int{pool: 2}})
	ctx := t.Context()
	var stored int
	var held []tasks.Ticket
	for {
		j := job("acme")
		j.Request.Body = make([]byte, 64<<10)
		_, tickets, err := s.Create(ctx, tasks.Submission{Job: j})
		if err == nil {
			stored++
			held = append(held, tickets...)
			continue
		}
		if !errors.Is(err, tasks.ErrFull) {
			t.Fatalf("after %d jobs: %v, want ErrFull", stored, err)
		}
		break
	}
	load, err := s.Load(ctx, pool)
	if err != nil || load.Queued != int64(stored) {
		t.Errorf("%d jobs accepted, %d counted, %v", stored, load.Queued, err)
	}
	take(t, s, held[0])
	start(t, s, held[0])
	if _, err := s.End(ctx, held[0], won); err != nil {
		t.Errorf("a running job could not end in a full Redis: %v", err)
	}
	if _, err := s.Cancel(ctx, "acme", held[1].ID); err != nil {
		t.Errorf("cancel in a full Redis: %v", err)
	}
}

func TestAnAbsentRedisIsUnavailable(t *testing.T) {
	t.Parallel()
	srv := redistest.Start(t, redistest.Options{})
	s := store.New(store.Config{Redis: srv.Client()})
	srv.Kill()
	if _, _, err := s.Create(t.Context(), tasks.Submission{Job: job("acme")}); !errors.Is(err, tasks.ErrUnavailable) {
		t.Errorf("create: %v, want ErrUnavailable", err)
	}
	if _, err := s.Job(t.Context(), "acme", "job_x"); !errors.Is(err, tasks.ErrUnavailable) {
		t.Errorf("read: %v, want ErrUnavailable", err)
	}
}
