package pool

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/sluicehq/sluice/tasks"
	"github.com/sluicehq/sluice/tasks/redistest"
	"github.com/sluicehq/sluice/tasks/store"
	"github.com/sluicehq/sluice/worker/limit"
	"github.com/sluicehq/sluice/worker/pause"
)

// walk moves jobs at random on a real record, in time that it moves, and keeps of each
// what its timeline has to say.
type walk struct {
	*testing.T
	*store.Store
	rdb  *redis.Client
	set  *Set
	rand *rand.Rand
	at   time.Time
	jobs []*walked
	in   map[string]tasks.Ticket // handed out, by job
}

// walked is a job, and the time of its attempts.
type walked struct {
	id       string
	created  time.Time
	attempts time.Duration
	running  time.Time // since when; zero: it is not
	ticket   tasks.Ticket
}

func newWalk(t *testing.T, seed uint64) *walk {
	w := &walk{T: t, rdb: redistest.New(t), rand: rand.New(rand.NewPCG(seed, 1)), at: time.UnixMilli(1_800_000_000_000).UTC(), in: map[string]tasks.Ticket{}}
	now := func() time.Time { return w.at }
	w.Store = store.New(store.Config{Redis: w.rdb, ResultTTL: 48 * time.Hour, Depth: map[string]int{"claude": 2, "gpt": 2}, Now: now})
	var members []Member
	for _, name := range []string{"claude", "gpt"} {
		gate, err := limit.New(limit.Config{Redis: w.rdb, Pool: name, Limits: limit.Limits{RequestsPerMinute: 600}, Log: slog.New(slog.DiscardHandler)})
		if err != nil {
			t.Fatal(err)
		}
		b, err := pause.New(pause.Config{Redis: w.rdb, Pool: name, Queue: queue{w.rdb}})
		if err != nil {
			t.Fatal(err)
		}
		members = append(members, Member{Spec: Spec{Name: name, Models: []string{"m*"}}, Gate: gate, Breaker: b})
	}
	w.set = NewSet(w.Store, now, members...)
	return w
}

func (w *walk) ok(err error) {
	w.Helper()
	if err != nil && !tasks.Void(err) && !errors.Is(err, tasks.ErrConflict) && !errors.Is(err, tasks.ErrFinal) {
		w.Fatal(err)
	}
}

func (w *walk) hold(tickets []tasks.Ticket) {
	for _, k := range tickets {
		w.in[k.ID] = k
	}
}

// settle adds what the attempt took that was cut off or ended.
func (w *walk) settle(j *walked) {
	if !j.running.IsZero() {
		j.attempts += w.at.Sub(j.running)
		j.running = time.Time{}
	}
}

func (w *walk) create() {
	j := tasks.Job{
		ID: store.NewID("job"), Tenant: "acme", Pool: "claude", Model: "m", Priority: tasks.Normal, Fallback: []string{"m2", "m3"},
		Request: tasks.Request{Kind: tasks.Text, Body: []byte(`"hello"`), MaxTokens: 16, InputTokens: 4},
	}
	if w.rand.IntN(3) == 0 {
		j.NotBefore = w.at.Add(time.Duration(w.rand.IntN(9000)) * time.Millisecond)
	}
	_, tickets, err := w.Create(w.Context(), tasks.Submission{Job: j})
	w.ok(err)
	w.jobs = append(w.jobs, &walked{id: j.ID, created: w.at})
	w.hold(tickets)
}

// move makes one move with a job, as far as it can be made.
func (w *walk) move(j *walked) {
	ctx := w.Context()
	k, handed := w.in[j.id]
	switch n := w.rand.IntN(12); {
	case n < 3 && handed && j.running.IsZero():
		if got, err := w.Take(ctx, k); err == nil {
			k.Waited = tasks.Waited{Handed: got.Lay, For: []tasks.WaitReason{"", tasks.WaitRequests, tasks.WaitOutputTokens}[w.rand.IntN(3)]}
			k.Waited.Granted = got.Lay / 4
		}
		if _, next, err := w.Start(ctx, k); err == nil {
			j.running, j.ticket = w.at, k
			w.hold(next)
		}
	case n < 6 && !j.running.IsZero():
		e := tasks.Ending{Status: tasks.StatusRetrying, Counted: n == 3, Attempt: tasks.Attempt{Outcome: tasks.Overloaded}}
		switch w.rand.IntN(4) {
		case 0:
			e.Status, e.Error = tasks.StatusFailed, &tasks.JobError{Code: tasks.AttemptsExhausted}
		case 1:
			e.Delay = time.Duration(1+w.rand.IntN(8000)) * time.Millisecond
		case 2:
			e.Detour = &tasks.Detour{Pool: "gpt", Passed: 1, Left: 1}
		}
		next, err := w.End(ctx, j.ticket, e)
		w.ok(err)
		delete(w.in, j.id)
		w.settle(j)
		w.hold(next)
	case n == 6 && handed && j.running.IsZero(): // handed back or put off, without a call
		next, err := w.End(ctx, k, tasks.Ending{Status: tasks.StatusRetrying, Delay: time.Duration(w.rand.IntN(2)*5000) * time.Millisecond})
		w.ok(err)
		delete(w.in, j.id)
		w.hold(next)
	case n == 7:
		_, err := w.Cancel(ctx, "acme", j.id)
		w.ok(err)
		delete(w.in, j.id)
		w.settle(j)
	case n == 8:
		_, next, err := w.Requeue(ctx, "acme", j.id, tasks.Limits{})
		w.ok(err)
		w.hold(next)
	case n == 9:
		pools := []string{"claude", "gpt"}
		from := w.rand.IntN(2)
		_, next, err := w.Divert(ctx, pools[from], map[string]tasks.Detour{j.id: {Pool: pools[1-from], Passed: 1, Left: 1}})
		w.ok(err)
		w.hold(next)
	default:
		swept, err := w.Sweep(ctx)
		w.ok(err)
		w.hold(swept.Hand)
		for _, j := range w.jobs { // a worker that was silent for too long has lost its job
			if now, err := w.Job(ctx, "acme", j.id); err == nil && now.Status != tasks.StatusRunning {
				w.settle(j)
			}
		}
	}
}

// look notes what one of the pools waits for.
func (w *walk) look() {
	turns, err := w.Watch(w.Context(), true, "claude", "gpt")
	w.ok(err)
	whys := []tasks.WaitReason{"", tasks.WaitRequests, tasks.WaitInputTokens, tasks.WaitPaused, tasks.WaitNoWorker, tasks.WaitConcurrency}
	for _, turn := range turns {
		w.ok(w.Bound(w.Context(), turn, tasks.Bind{For: whys[w.rand.IntN(len(whys))], Shares: float64(w.rand.IntN(4))}))
	}
}

// check compares a job's timeline with what has happened to it.
func (w *walk) check(j *walked) {
	w.Helper()
	spans, err := w.set.Timeline(w.Context(), "acme", j.id)
	if err != nil {
		w.Fatal(err)
	}
	job, err := w.Job(w.Context(), "acme", j.id)
	w.ok(err)
	end, attempts := w.at, j.attempts
	if job.Status.Final() {
		end = job.FinishedAt
	}
	if !j.running.IsZero() {
		attempts += w.at.Sub(j.running)
	}
	name := fmt.Sprintf("%s, %s, happened %v", j.id, job.Status, w.rdb.HGet(w.Context(), "sluice:{s}:j:"+j.id, "w").Val())
	if end.Equal(j.created) {
		if len(spans) != 0 {
			w.Errorf("%s: %v before it was there", name, spans)
		}
		return
	}
	adds(w.T, name, spans, j.created, end)
	for _, s := range spans {
		if s.What == tasks.SpanAttempt {
			attempts -= s.To.Sub(s.From)
		}
	}
	if attempts != 0 {
		w.Errorf("%s: the attempts are off by %v: %s", name, attempts, shown(spans))
	}
	if _, err := w.set.Timeline(w.Context(), "other", j.id); !errors.Is(err, tasks.ErrNotFound) {
		w.Errorf("another tenant is told %v", err)
	}
}

// Whatever happens to jobs, in whatever order: their timelines are whole.
func TestATimelineIsWholeWhateverHappens(t *testing.T) {
	t.Parallel()
	for seed := range uint64(3) {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			t.Parallel()
			w := newWalk(t, seed)
			bytes, lives := 0, 0
			for step := range 90 {
				if len(w.jobs) == 0 || len(w.jobs) < 6 && w.rand.IntN(8) == 0 {
					w.create()
				}
				j := w.jobs[w.rand.IntN(len(w.jobs))]
				w.move(j)
				if w.rand.IntN(3) == 0 {
					w.look()
				}
				w.at = w.at.Add(time.Duration(w.rand.IntN(2500)) * time.Millisecond)
				if step%4 == 0 {
					w.check(j)
				}
				if w.Failed() {
					t.Fatalf("step %d", step)
				}
			}
			for _, j := range w.jobs {
				w.check(j)
				h := w.rdb.HMGet(t.Context(), "sluice:{s}:j:"+j.id, "w", "log").Val()
				bytes, lives = bytes+len(fmt.Sprint(h[0])), lives+1
				bytes += 24 * strings.Count(fmt.Sprint(h[1]), `"w":"`)
			}
			if bytes > 200*lives {
				t.Errorf("%d bytes of waits for %d jobs, want 200 for each at most", bytes, lives)
			}
		})
	}
}

// Pool and job, past and present say the same of what is waited for, from the real gate and
// breaker.
func TestWhatIsNotedIsWhatAJobIsTold(t *testing.T) {
	t.Parallel()
	w := newWalk(t, 0)
	w.Store = store.New(store.Config{Redis: w.rdb, Depth: map[string]int{"claude": 1}})
	w.set.record, w.set.now = w.Store, time.Now
	j := tasks.Job{ID: store.NewID("job"), Tenant: "acme", Pool: "claude", Model: "m", Request: tasks.Request{Kind: tasks.Text, Body: []byte(`"hello"`), MaxTokens: 16}}
	_, _, err := w.Create(t.Context(), tasks.Submission{Job: j})
	w.ok(err)
	ask := func(works bool, want tasks.WaitReason) {
		t.Helper()
		for _, pool := range w.set.Names() {
			w.set.changed(pool, nil) // nothing is known from before, and it is this process's turn
			w.ok(w.rdb.HDel(t.Context(), "sluice:{s}:eye:"+pool, "at").Err())
		}
		w.ok(w.set.WatchOnce(t.Context(), works))
		job, err := w.Job(t.Context(), "acme", j.ID)
		w.ok(err)
		told, err := w.set.Waiting(t.Context(), job)
		w.ok(err)
		past, err := w.Past(t.Context(), "claude")
		w.ok(err)
		spans, err := w.set.Timeline(t.Context(), "acme", j.ID)
		w.ok(err)
		if noted := past["claude"].Binds; told.For != want || noted[len(noted)-1].For != want || len(spans) == 0 || spans[len(spans)-1].For != want {
			t.Errorf("told %q, noted %v, timeline %s; want %s", told.For, noted, shown(spans), want)
		}
	}
	ask(false, tasks.WaitNoWorker)
	w.ok(w.set.Pause(t.Context(), "claude", "lunch", "ada", time.Time{}))
	ask(true, tasks.WaitPaused)
	w.ok(w.set.Resume(t.Context(), "claude", "ada"))
	// The worker asks the gate until it has to wait.
	gate := w.set.members[0].Gate.(*limit.Gate)
	run, stop := context.WithCancel(t.Context())
	var pump sync.WaitGroup
	pump.Go(func() { _ = gate.Run(run) })
	defer pump.Wait()
	defer stop()
	for range 20 { // a burst at once, and one that waits
		if _, err := gate.Take(run, limit.Need{ID: "a"}); err != nil {
			t.Fatal(err)
		}
		if s, err := gate.State(t.Context()); err != nil || s.Binds != "" {
			break
		}
	}
	ask(true, tasks.WaitRequests)
}
