package native

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/sluicehq/sluice/tasks"
	"github.com/sluicehq/sluice/tasks/redistest"
	"github.com/sluicehq/sluice/tasks/store"
	"github.com/sluicehq/sluice/worker/upstream"
	"github.com/sluicehq/sluice/worker/upstream/fake"
)

const poolName = "p"

var rules = Rules{MinRoom: time.Hour, MaxJobs: 4, MaxBytes: 1 << 20, MaxAge: time.Minute, Poll: time.Minute, SpillBefore: 30 * time.Minute}

// clock is everybody's; it moves when a test moves it.
type clock struct {
	mu  sync.Mutex
	now time.Time
}

func (c *clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

func (c *clock) Sleep(ctx context.Context, d time.Duration) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
	return ctx.Err()
}

// world is a provider, a record, and what came of the jobs.
type world struct {
	testing.TB
	clock   *clock
	s       *store.Store
	fake    *fake.Provider
	api     *upstream.Caller
	d       upstream.Dialect
	url     string // of the provider
	jobs    []string
	prompts map[string][]byte
	spills  []tasks.Ticket // for the ordinary lane
	alone   int            // calls that it made
}

// newWorld keeps its record in a Redis that may have others'.
func newWorld(t testing.TB, rdb *redis.Client, d upstream.Dialect, cfg fake.Config) *world {
	t.Helper()
	w := &world{TB: t, clock: &clock{now: time.Now().Truncate(time.Second)}, d: d, prompts: map[string][]byte{}}
	cfg.Clock = w.clock
	f, err := fake.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(f)
	w.fake, w.url = f, server.URL
	w.api, err = upstream.New(upstream.Config{Provider: upstream.Provider{Name: "one", Dialect: d, BaseURL: server.URL, APIKey: "key"}, Now: w.clock.Now})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { w.api.Close(); f.Close(); server.Close() })
	w.s = store.New(store.Config{Redis: rdb, Prefix: store.NewID("t"), ResultTTL: 72 * time.Hour, Depth: map[string]int{poolName: 64}, Now: w.clock.Now})
	return w
}

// lane is that of a worker that is there for the first time.
func (w *world) lane(records Records, api API) *Lane {
	return New(Config{
		Pool: poolName, Rules: rules, Dialect: w.d, Records: records, Now: w.clock.Now, Log: slog.New(slog.DiscardHandler),
		Prices:   tasks.Prices{{Models: "*", Input: 2 * tasks.Unit, Output: 4 * tasks.Unit}},
		Accounts: []Account{{Name: "one", Provider: "one", API: api, Open: func() bool { return true }}},
		Ended: func(_ context.Context, _ tasks.Ticket, _ tasks.Ending, next []tasks.Ticket) {
			w.spills = append(w.spills, next...)
		},
	})
}

// submit stores jobs with a deadline, and has them join bundles.
func (w *world) submit(l *Lane, n int, room time.Duration, prompt string) {
	w.Helper()
	for range n {
		id := store.NewID("job")
		body := fmt.Sprintf(`"%s %s"`, prompt, id)
		j := tasks.Job{ID: id, Tenant: "acme", Pool: poolName, Model: "m", Deadline: w.clock.Now().Add(room), Request: tasks.Request{Kind: tasks.Text, Body: []byte(body), MaxTokens: 9, InputTokens: 4}}
		made, next, err := w.s.Create(w.Context(), tasks.Submission{Job: j})
		if err != nil || made[0].Err != nil || len(next) != 1 {
			w.Fatal(made, next, err)
		}
		w.jobs, w.prompts[id] = append(w.jobs, id), []byte(prompt+" "+id)
		w.goes(l, next[0])
	}
}

// goes is what a worker does with a ticket: a bundle, or a call.
func (w *world) goes(l *Lane, k tasks.Ticket) {
	w.Helper()
	j, err := w.s.Take(w.Context(), k)
	if tasks.Void(err) {
		return
	}
	if err != nil {
		w.Fatal(err)
	}
	k.Tenant, k.Asks = j.Tenant, tasks.Asked{Account: "one", Model: "m"}
	into, ok := l.Joins(&j)
	if ok {
		into.Bundle = store.NewID("nb")
		k.Into = &into
	}
	if _, _, err = w.s.Start(w.Context(), k); err != nil {
		w.Fatal(err)
	}
	if ok {
		return
	}
	w.alone++
	a := w.api.Do(w.Context(), upstream.Ask{Question: upstream.Read("m", j.Request)})
	if a.Outcome != tasks.Succeeded {
		w.Fatal(a.Message)
	}
	next, err := w.s.End(w.Context(), k, tasks.Ending{Status: tasks.StatusSucceeded, Result: a.Result, Finish: a.Finish, Usage: a.Usage, Provider: "one", Attempt: tasks.Attempt{Outcome: a.Outcome, Status: 200, Account: "one", Usage: a.Usage}})
	if err != nil {
		w.Fatal(err)
	}
	w.spills = append(w.spills, next...)
}

// pass lets time pass, in which a lane works on what is due.
func (w *world) pass(l *Lane, d time.Duration) {
	w.Helper()
	for until := w.clock.Now().Add(d); ; _ = w.clock.Sleep(w.Context(), 30*time.Second) {
		for range 20 { // no bundle is due again at once for ever
			b, _, err := l.Records.ClaimBundle(w.Context(), poolName, l.lease())
			if err != nil || b.ID == "" {
				break
			}
			l.work(w.Context(), &b)
		}
		for len(w.spills) > 0 {
			k := w.spills[0]
			w.spills = w.spills[1:]
			w.goes(l, k)
		}
		if !w.clock.Now().Before(until) {
			return
		}
	}
}

// done checks that all have succeeded, each with its own answer, and that nobody paid twice unlisted. It
// returns how many lines of batches were answers.
func (w *world) done() (batched int) {
	w.Helper()
	paid, prompts := w.fake.Stats(true).Detail, w.prompts
	for _, id := range w.jobs {
		j, err := w.s.Job(w.Context(), "acme", id)
		if err != nil {
			w.Fatal(err)
		}
		if j.Status != tasks.StatusSucceeded || !strings.Contains(string(j.Result), id) {
			w.Errorf("%s is %s with %s %+v; log %+v", id, j.Status, j.Result, j.Error, j.Log)
			continue
		}
		listed := int32(0)
		for _, a := range j.Log {
			if a.Outcome == tasks.Succeeded {
				listed++
			}
			if a.MaybeBilled {
				listed++
			}
			if a.Outcome == tasks.Succeeded && a.Batch != "" {
				batched++
				if want := (2*tasks.Money(a.Usage.InputTokens) + 4*tasks.Money(a.Usage.OutputTokens)) * 1000 / 2; a.Cost == nil || a.Cost.Amount != want || a.Cost.Maybe > 0 != a.MaybeBilled {
					w.Errorf("a line of a batch cost %v, want %v", a.Cost, want)
				}
			}
		}
		sum := sha256.Sum256(prompts[id])
		if got := paid[hex.EncodeToString(sum[:])].Accepted; got > listed {
			w.Errorf("%s was paid for %d times and has %+v", id, got, j.Log)
		}
	}
	return batched
}

func eachDialect(t *testing.T, cfg fake.Config, test func(t *testing.T, w *world)) {
	t.Helper()
	inEachDialect(t, redistest.New(t), cfg, test)
}

func inEachDialect(t *testing.T, rdb *redis.Client, cfg fake.Config, test func(t *testing.T, w *world)) {
	t.Helper()
	for _, d := range []upstream.Dialect{upstream.Anthropic, upstream.OpenAI} {
		t.Run(string(d), func(t *testing.T) { test(t, newWorld(t, rdb, d, cfg)) })
	}
}

func TestJobsWithRoomAreAnsweredInBatches(t *testing.T) {
	t.Parallel()
	eachDialect(t, fake.Config{BatchDelay: 10 * time.Minute, BatchHidden: 90 * time.Second}, func(t *testing.T, w *world) {
		l := w.lane(w.s, w.api)
		w.submit(l, 6, 3*time.Hour, "ask")
		w.submit(l, 2, 30*time.Minute, "ask")
		if w.alone != 2 {
			t.Errorf("%d without room were called for, want 2", w.alone)
		}
		w.pass(l, time.Hour)
		if got := w.done(); got != 6 {
			t.Errorf("%d came in batches, want 6", got)
		}
		if made, files := w.fake.Batches(); made != 2 || files != 0 {
			t.Errorf("%d batches were made, and %d files are left", made, files)
		}
	})
}

// A batch that does not end is ended in time: what it has is kept, and the rest goes to the ordinary lane.
func TestWhatABatchDoesNotBringSpillsBack(t *testing.T) {
	t.Parallel()
	eachDialect(t, fake.Config{BatchDelay: time.Minute, BatchStuck: 1}, func(t *testing.T, w *world) {
		l := w.lane(w.s, w.api)
		w.submit(l, 4, 2*time.Hour, "ask")
		w.submit(l, 4, 90*time.Minute, "[[fault:400:0]] ask") // a line that errs at the batch alone
		w.pass(l, 2*time.Hour-time.Minute)
		if got := w.done(); got != 2 || w.alone != 6 {
			t.Errorf("%d came in batches and %d in the ordinary lane, want 2 and 6", got, w.alone)
		}
		for _, id := range w.jobs {
			j, err := w.s.Job(t.Context(), "acme", id)
			if err != nil || j.Attempts != 1 {
				t.Errorf("%s has used %d attempts, %v", id, j.Attempts, err)
			}
			for _, a := range j.Log {
				if a.MaybeBilled {
					t.Errorf("%s has %+v, and its batch said what became of it", id, a)
				}
			}
		}
	})
}

// Whatever the provider does to a call about a batch, each job ends with its answer, and is
// paid for as often as is listed.
func TestFaultsOfBatchesLoseNothing(t *testing.T) {
	t.Parallel()
	rdb := redistest.New(t)
	for _, fault := range []fake.Fault{
		{Kind: "429", Model: "batches.create", Count: 2}, {Kind: "400", Model: "batches.create"}, {Kind: "401", Model: "batches.create"},
		{Kind: "500", Model: "batches.create", Count: 1}, {Kind: "reset", Model: "batches.create", Count: 1}, {Kind: "500", Model: "batches.list"},
		{Kind: "500", Model: "batches.read", Count: 3}, {Kind: "500", Model: "batches.read"}, {Kind: "500", Model: "batches.file", Count: 2},
		{Kind: "cut", Model: "batches.results", Count: 3}, {Kind: "truncated", Model: "batches.results", Count: 3}, {Kind: "garbage", Model: "batches.results"},
		{Kind: "500", Model: "batches.results"},
	} {
		t.Run(fault.Kind+" "+fault.Model+" "+strconv.Itoa(fault.Count), func(t *testing.T) {
			inEachDialect(t, rdb, fake.Config{BatchDelay: 5 * time.Minute}, func(t *testing.T, w *world) {
				if fault.Model == "batches.list" { // which is asked when an answer was lost
					if err := w.fake.AddFault(fake.Fault{Kind: "reset", Model: "batches.create", Count: 1}); err != nil {
						t.Fatal(err)
					}
				}
				if err := w.fake.AddFault(fault); err != nil {
					t.Fatal(err)
				}
				l := w.lane(w.s, w.api)
				w.submit(l, 4, 2*time.Hour, "ask")
				w.pass(l, 2*time.Hour-time.Minute)
				got := w.done()
				if lasts := fault.Count == 0 && fault.Kind != "garbage"; got != 4 && !lasts {
					t.Errorf("%d came in batches, want all", got)
				}
			})
		})
	}
}

var errDead = errors.New("this worker is dead")

// dying is a worker that dies at its n-th act, before or after it was carried out.
type dying struct {
	Records
	API
	left  int
	after bool
	dead  bool
}

// act carries an act out, unless the worker is dead by then; the answer of the last is lost.
func (d *dying) act(do func() error) error {
	if d.dead {
		return errDead
	}
	d.left--
	d.dead = d.left <= 0
	if d.dead && !d.after {
		return errDead
	}
	err := do()
	if d.dead {
		return errDead
	}
	return err
}

func (d *dying) ClaimBundle(ctx context.Context, pool string, lease time.Duration) (b tasks.Bundle, wait time.Duration, err error) {
	err = d.act(func() (err error) { b, wait, err = d.Records.ClaimBundle(ctx, pool, lease); return err })
	return b, wait, err
}

func (d *dying) SaveBundle(ctx context.Context, b tasks.Bundle, next time.Duration) error {
	return d.act(func() error { return d.Records.SaveBundle(ctx, b, next) })
}

func (d *dying) DropBundle(ctx context.Context, b tasks.Bundle) error {
	return d.act(func() error { return d.Records.DropBundle(ctx, b) })
}

func (d *dying) End(ctx context.Context, t tasks.Ticket, e tasks.Ending) (next []tasks.Ticket, err error) {
	err = d.act(func() (err error) { next, err = d.Records.End(ctx, t, e); return err })
	return next, err
}

func (d *dying) CreateBatch(ctx context.Context, r *tasks.Request, name, file string, lines [][]byte, made func(string) error) (b upstream.Batch, a upstream.Answer) {
	if d.act(func() error { b, a = d.API.CreateBatch(ctx, r, name, file, lines, made); return nil }) != nil {
		return upstream.Batch{}, upstream.Answer{Outcome: tasks.CutOff, MaybeBilled: true}
	}
	return b, a
}

// A worker that dies at any step loses nothing: another goes on, and no batch is made twice.
func TestAWorkerThatDiesAtAnyStepLosesNothing(t *testing.T) {
	t.Parallel()
	eachDialect(t, fake.Config{BatchDelay: 5 * time.Minute}, func(t *testing.T, w *world) {
		for step, lived := 1, false; !lived; step++ {
			for _, after := range []bool{false, true} {
				w.jobs = nil
				w.fake.Reset()
				d := &dying{Records: w.s, API: w.api, left: step, after: after}
				first, second := w.lane(d, d), w.lane(w.s, w.api)
				w.submit(second, 4, 4*time.Hour, "ask")
				for range 12 { // it looks when something is due, and dies
					b, _, err := first.Records.ClaimBundle(t.Context(), poolName, first.lease())
					if err == nil && b.ID != "" {
						first.work(t.Context(), &b)
					}
					if d.dead {
						break
					}
					_ = w.clock.Sleep(t.Context(), 2*time.Minute)
				}
				lived = !d.dead
				w.pass(second, 3*time.Hour)
				if got := w.done(); got != 4 {
					t.Errorf("died at step %d (carried out: %t): %d came in batches, want 4", step, after, got)
				}
				if made, _ := w.fake.Batches(); made != 1 {
					t.Errorf("died at step %d (carried out: %t): %d batches were made", step, after, made)
				}
			}
			if step > 40 {
				t.Fatal("it never lives")
			}
		}
	})
}

// A job that is canceled in a bundle is final at once, and its line serves nobody. A batch of
// which all were canceled is ended.
func TestCanceledJobsLeaveTheirBundle(t *testing.T) {
	t.Parallel()
	eachDialect(t, fake.Config{BatchDelay: 10 * time.Minute}, func(t *testing.T, w *world) {
		l := w.lane(w.s, w.api)
		w.submit(l, 8, 3*time.Hour, "ask")
		cancel := func(ids ...string) {
			t.Helper()
			for _, id := range ids {
				if _, err := w.s.Cancel(t.Context(), "acme", id); err != nil {
					t.Fatal(err)
				}
			}
		}
		cancel(w.jobs[0]) // before its batch is made
		w.pass(l, time.Minute)
		cancel(w.jobs[4:]...) // all of another
		cancel(w.jobs[1])
		canceled := append([]string{w.jobs[0], w.jobs[1]}, w.jobs[4:]...)
		w.jobs = w.jobs[2:4]
		w.pass(l, time.Hour)
		if got := w.done(); got != 2 {
			t.Errorf("%d came in batches, want 2", got)
		}
		for _, id := range canceled {
			if j, err := w.s.Job(t.Context(), "acme", id); err != nil || j.Status != tasks.StatusCanceled || len(j.Result) > 0 {
				t.Errorf("%s is %s with %s, %v", id, j.Status, j.Result, err)
			}
		}
		if s := w.fake.Stats(false); s.Accepted > 3 {
			t.Errorf("%d lines were paid for, want at most 3", s.Accepted)
		}
		if _, files := w.fake.Batches(); files != 0 {
			t.Errorf("%d files with what they asked are left at the provider", files)
		}
	})
}

func TestWhoGoesIntoABundle(t *testing.T) {
	t.Parallel()
	c := &clock{now: time.Now()}
	open := map[string]bool{"one": true, "two": true}
	l := New(Config{Rules: rules, Now: c.Now, Accounts: []Account{{Name: "one", Open: func() bool { return open["one"] }}, {Name: "two", Open: func() bool { return open["two"] }}}})
	base := tasks.Job{Model: "m", Deadline: c.now.Add(2 * time.Hour), Request: tasks.Request{Body: []byte(`"x"`)}}
	for name, tc := range map[string]struct {
		change func(j *tasks.Job)
		want   bool
	}{
		"room":            {func(*tasks.Job) {}, true},
		"just the room":   {func(j *tasks.Job) { j.Deadline = c.now.Add(time.Hour - time.Second) }, true},
		"no room":         {func(j *tasks.Job) { j.Deadline = c.now.Add(58 * time.Minute) }, false},
		"no deadline":     {func(j *tasks.Job) { j.Deadline = time.Time{} }, false},
		"priority batch":  {func(j *tasks.Job) { j.Deadline, j.Request.Patient = time.Time{}, true }, true},
		"batch, no room":  {func(j *tasks.Job) { j.Deadline, j.Request.Patient = c.now.Add(time.Minute), true }, false},
		"a stream":        {func(j *tasks.Job) { j.Request.Stream = true }, false},
		"was in one":      {func(j *tasks.Job) { j.Bundle = "nb_1" }, false},
		"had an attempt":  {func(j *tasks.Job) { j.Attempts = 1 }, false},
		"its worker died": {func(j *tasks.Job) { j.Losses = 1 }, false},
		"too large":       {func(j *tasks.Job) { j.Request.Body = make([]byte, rules.MaxBytes) }, false},
	} {
		j := base
		tc.change(&j)
		if _, ok := l.Joins(&j); ok != tc.want {
			t.Errorf("%s: got %t", name, ok)
		}
	}
	first, _ := l.Joins(&base)
	if until := base.Deadline.Add(-30 * time.Minute); !first.Spill.Equal(until) || first.Account != "one" || c.now.Add(first.Lease).After(base.Deadline) {
		t.Errorf("got %+v", first)
	}
	open["one"] = false
	if second, _ := l.Joins(&base); second.Account != "two" || second.Kind == first.Kind {
		t.Errorf("got %+v after %+v", second, first)
	}
}

// hindered is a worker for whom some acts go wrong in one way.
type hindered struct {
	Records
	API
	unwritten string                                    // the job whose end cannot be recorded
	nameless  bool                                      // the provider keeps no names of batches
	results   func(ctx context.Context) upstream.Answer // in place of the results; nil: they come
	ended     chan error                                // of the contexts in which a batch was forgotten; nil: it is forgotten
}

func (h *hindered) End(ctx context.Context, t tasks.Ticket, e tasks.Ending) ([]tasks.Ticket, error) {
	if t.ID == h.unwritten {
		return nil, &tasks.SealError{Err: errDead}
	}
	return h.Records.End(ctx, t, e)
}

func (h *hindered) RecentBatches(ctx context.Context, since time.Time) ([]upstream.Batch, upstream.Answer) {
	list, a := h.API.RecentBatches(ctx, since)
	for i := range list {
		if h.nameless {
			list[i].Name = ""
		}
	}
	return list, a
}

func (h *hindered) BatchResults(ctx context.Context, b upstream.Batch, e tasks.Path, each func(upstream.LineResult) error) upstream.Answer {
	if h.results != nil {
		return h.results(ctx)
	}
	return h.API.BatchResults(context.WithoutCancel(ctx), b, e, each) // the machine may be slow
}

func (h *hindered) ReadBatch(ctx context.Context, id string) (upstream.Batch, upstream.Answer) {
	return h.API.ReadBatch(context.WithoutCancel(ctx), id)
}

func (h *hindered) ForgetBatch(ctx context.Context, b upstream.Batch) {
	if h.ended == nil {
		h.API.ForgetBatch(ctx, b)
		return
	}
	<-ctx.Done()
	h.ended <- ctx.Err()
}

// What cannot be recorded of one job keeps no other from its answer, and is recorded later, from the same batch.
func TestOneJobThatCannotBeRecordedHoldsUpNoOther(t *testing.T) {
	t.Parallel()
	eachDialect(t, fake.Config{BatchDelay: 5 * time.Minute}, func(t *testing.T, w *world) {
		h := &hindered{Records: w.s, API: w.api}
		l := w.lane(h, h)
		w.submit(l, 4, 4*time.Hour, "ask")
		all := w.jobs
		h.unwritten = all[1]
		w.pass(l, time.Hour)
		w.jobs = append(slices.Clone(all[:1]), all[2:]...)
		if got := w.done(); got != 3 {
			t.Errorf("%d came in batches beside it, want 3", got)
		}
		h.unwritten = ""
		w.jobs = all
		w.pass(l, 10*time.Minute)
		if got := w.done(); got != 4 {
			t.Errorf("%d came in batches in the end, want 4", got)
		}
	})
}

// A batch whose making was not answered may be shown late: it is not made again meanwhile.
func TestABatchThatIsShownLateIsNotMadeAgain(t *testing.T) {
	t.Parallel()
	eachDialect(t, fake.Config{BatchDelay: 5 * time.Minute, BatchHidden: 7 * time.Minute}, func(t *testing.T, w *world) {
		if err := w.fake.AddFault(fake.Fault{Kind: "reset", Model: batchesCreate, Count: 1}); err != nil {
			t.Fatal(err)
		}
		l := w.lane(w.s, w.api)
		w.submit(l, 4, 3*time.Hour, "ask")
		w.pass(l, time.Hour)
		if got := w.done(); got != 4 {
			t.Errorf("%d came in batches, want 4", got)
		}
		if made, _ := w.fake.Batches(); made != 1 {
			t.Errorf("%d batches were made", made)
		}
	})
}

const batchesCreate = "batches.create"

// Where a second batch was made nevertheless, each job says that it was perhaps paid for twice.
func TestTwinsOfABatchAreListed(t *testing.T) {
	t.Parallel()
	w := newWorld(t, redistest.New(t), upstream.OpenAI, fake.Config{BatchDelay: 2 * time.Minute, BatchHidden: 15 * time.Minute})
	if err := w.fake.AddFault(fake.Fault{Kind: "reset", Model: batchesCreate, Count: 2}); err != nil {
		t.Fatal(err)
	}
	l := w.lane(w.s, w.api)
	w.submit(l, 4, 4*time.Hour, "ask")
	w.pass(l, 2*time.Hour)
	if made, _ := w.fake.Batches(); made != 2 {
		t.Fatalf("%d batches were made, and the test is about two", made)
	}
	if got := w.done(); got != 4 {
		t.Errorf("%d came in batches, want 4", got)
	}
}

// A server that keeps no names of batches is told apart by the file that was uploaded.
func TestABatchIsFoundByItsFile(t *testing.T) {
	t.Parallel()
	w := newWorld(t, redistest.New(t), upstream.OpenAI, fake.Config{BatchDelay: 5 * time.Minute})
	if err := w.fake.AddFault(fake.Fault{Kind: "reset", Model: batchesCreate, Count: 1}); err != nil {
		t.Fatal(err)
	}
	h := &hindered{Records: w.s, API: w.api, nameless: true}
	l := w.lane(h, h)
	w.submit(l, 4, 3*time.Hour, "ask")
	w.pass(l, time.Hour)
	if made, _ := w.fake.Batches(); made != 1 || w.done() != 4 {
		t.Errorf("%d batches were made", made)
	}
}

// A provider that falls silent in an answer holds no worker: what it does not say in time is asked again.
func TestASilentProviderHoldsNoWorker(t *testing.T) {
	t.Parallel()
	w := newWorld(t, redistest.New(t), upstream.Anthropic, fake.Config{})
	h := &hindered{Records: w.s, API: w.api, ended: make(chan error, 1), results: func(ctx context.Context) upstream.Answer {
		<-ctx.Done()
		return upstream.Answer{Outcome: tasks.CutOff}
	}}
	slow := w.lane(h, h)
	slow.Rules.SpillBefore = 6 * time.Second // a call may take 0.2 s
	l := w.lane(w.s, w.api)
	w.submit(l, 4, 4*time.Hour, "ask")
	step := func(want tasks.BundleState) tasks.Bundle {
		t.Helper()
		b, _, err := w.s.ClaimBundle(t.Context(), poolName, time.Minute)
		if err != nil || b.State != want {
			t.Fatalf("took up %+v, %v, and want one that is %s", b, err, want)
		}
		return b
	}
	sent := step(tasks.BundleClosed)
	l.work(t.Context(), &sent)
	_ = w.clock.Sleep(t.Context(), time.Minute)
	cut := step(tasks.BundleSent)
	slow.work(t.Context(), &cut)
	h.results = nil
	_ = w.clock.Sleep(t.Context(), time.Minute)
	kept := step(tasks.BundleSent)
	slow.work(t.Context(), &kept)
	if err := <-h.ended; !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("its deletion ended with %v", err)
	}
	if got := w.done(); got != 4 {
		t.Errorf("%d came in batches, want 4", got)
	}
}

// An answer that is larger than a result may be fails its job, as it would in the ordinary lane: it is not asked for again.
func TestAnAnswerThatIsTooLargeIsNotPaidForAgain(t *testing.T) {
	t.Parallel()
	eachDialect(t, fake.Config{BatchDelay: time.Minute}, func(t *testing.T, w *world) {
		small, err := upstream.New(upstream.Config{Provider: upstream.Provider{Name: "one", Dialect: w.d, BaseURL: w.url, APIKey: "key"}, Now: w.clock.Now, MaxResultBytes: 64})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(small.Close)
		l := w.lane(w.s, small)
		w.submit(l, 4, 3*time.Hour, "ask")
		w.pass(l, time.Hour)
		for _, id := range w.jobs {
			j, err := w.s.Job(t.Context(), "acme", id)
			if err != nil || j.Status != tasks.StatusFailed || j.Error.Code != tasks.ResultTooLarge || !j.Log[0].MaybeBilled || j.Log[0].Cost == nil {
				t.Errorf("%s is %s with %+v, log %+v, %v", id, j.Status, j.Error, j.Log, err)
			}
		}
		if w.alone > 0 {
			t.Errorf("%d were called for besides", w.alone)
		}
	})
}

// Where native_batch was switched off, what is under way is brought to its end, and nobody looks for more.
func TestALaneThatIsClosedEndsWhatItHas(t *testing.T) {
	t.Parallel()
	eachDialect(t, fake.Config{BatchDelay: 5 * time.Minute}, func(t *testing.T, w *world) {
		w.submit(w.lane(w.s, w.api), 4, 3*time.Hour, "ask")
		l := w.lane(w.s, w.api)
		l.Rules.Closed = true
		w.submit(l, 1, 3*time.Hour, "ask")
		w.pass(l, time.Hour)
		if got := w.done(); got != 4 || w.alone != 1 {
			t.Errorf("%d came in batches and %d in the ordinary lane, want 4 and 1", got, w.alone)
		}
	})
}

// idleRecords has no bundle.
type idleRecords struct {
	Records
	claims int
}

func (r *idleRecords) ClaimBundle(context.Context, string, time.Duration) (tasks.Bundle, time.Duration, error) {
	r.claims++
	return tasks.Bundle{}, -1, nil
}

func TestAClosedLaneLooksOnce(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		for closed, want := range map[bool]int{true: 1, false: 60} {
			r := &idleRecords{}
			l := New(Config{Pool: poolName, Rules: Rules{Closed: closed}, Records: r, Log: slog.New(slog.DiscardHandler)})
			ctx, stop := context.WithTimeout(t.Context(), time.Minute-time.Millisecond)
			err := l.Run(ctx)
			stop()
			if err != nil || r.claims != want {
				t.Errorf("closed %t: it looked %d times, %v, want %d", closed, r.claims, err, want)
			}
		}
	})
}
