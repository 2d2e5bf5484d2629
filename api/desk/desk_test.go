package desk_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/sluicehq/sluice/api/caps"
	"github.com/sluicehq/sluice/api/desk"
	"github.com/sluicehq/sluice/api/fault"
	"github.com/sluicehq/sluice/api/quota"
	"github.com/sluicehq/sluice/tasks"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// store fails as it is told to: a real one does not on demand.
type store struct {
	fails  error // of taking in
	replay bool  // every key was used before
	status tasks.Status
	taken  int // jobs
}

func (s *store) Submit(_ context.Context, sub tasks.Submission) (tasks.Accepted, error) {
	if s.fails != nil {
		return tasks.Accepted{}, s.fails
	}
	if s.replay {
		return tasks.Accepted{Job: tasks.Job{ID: "job_first", Status: s.status}, Replayed: true}, nil
	}
	s.taken++
	return tasks.Accepted{Job: sub.Job}, nil
}

func (s *store) SaveAnswer(context.Context, string, string, string, []byte) error { return nil }

func (s *store) Tokens(context.Context, string) (tasks.DayTokens, error) {
	return tasks.DayTokens{}, nil
}

func (s *store) Job(context.Context, string, string) (tasks.Job, error) {
	return tasks.Job{}, tasks.ErrNotFound
}

func (s *store) Retry(context.Context, string, string, tasks.Limits) (tasks.Job, error) {
	s.taken++
	return tasks.Job{}, s.fails
}

func (s *store) RetryAll(context.Context, tasks.Selection, tasks.Limits) (tasks.Moved, error) {
	return tasks.Moved{Jobs: s.taken, More: s.fails != nil}, s.fails
}

func (s *store) CancelAll(ctx context.Context, sel tasks.Selection) (tasks.Moved, error) {
	return s.RetryAll(ctx, sel, tasks.Limits{})
}

func (s *store) ReserveKey(context.Context, string, string, string, string) ([]byte, error) {
	return nil, nil
}

func (s *store) FreeKey(context.Context, string, string, string) error { return nil }

func (s *store) OpenBatch(context.Context, string, string, string) (tasks.Batch, *tasks.PriorBatch, error) {
	if s.replay {
		return tasks.Batch{}, &tasks.PriorBatch{ID: "batch_first", Fingerprint: "same"}, nil
	}
	return tasks.Batch{ID: "batch_new"}, nil, nil
}

func (s *store) AbortBatch(context.Context, string) error { return nil }

func (*store) Unload(context.Context, ...*tasks.Job) error { return nil }

func (*store) Drop([]tasks.Job) {}

func (s *store) StageBatch(context.Context, string, []tasks.Job, tasks.Limits) error { return nil }

func (s *store) CommitBatch(context.Context, string, tasks.BatchCommit) (tasks.Batch, error) {
	if s.fails == nil {
		s.taken++
	}
	return tasks.Batch{}, s.fails
}

func (s *store) Batch(context.Context, string, string) (tasks.Batch, error) {
	if s.status == "" {
		return tasks.Batch{}, tasks.ErrNotFound
	}
	return tasks.Batch{}, nil
}

type silent struct{}

func (silent) Watch(context.Context, string) (<-chan struct{}, func(), error) {
	return nil, nil, tasks.ErrUnavailable
}

func (silent) WatchEnd(context.Context, string) (<-chan *tasks.Job, func(), error) {
	return nil, nil, tasks.ErrUnavailable
}

type pools struct{}

func (pools) Adopt(*tasks.Job)                         {}
func (pools) InputLimit(context.Context, string) int64 { return 0 }

func (pools) Served() []string { return []string{"m"} }

func (pools) Match(model string) (string, bool) { return "pool", model == "m" }

func (pools) MatchIn(_, model string) (string, bool) { return "pool", model == "m" }

func (pools) PoolsIn(string) []string { return []string{"pool"} }

func (pools) Barred(context.Context, string) tasks.Outcome { return "" }

func (pools) Waiting(context.Context, tasks.Job) (tasks.Waiting, error) { return tasks.Waiting{}, nil }

func (pools) Estimate(_ context.Context, _, _ string, lane tasks.Priority) (time.Duration, error) {
	return map[tasks.Priority]time.Duration{tasks.High: time.Minute, tasks.Normal: time.Hour, tasks.Low: 2 * time.Hour}[lane], nil
}

func (pools) Outlook(context.Context, string, string, tasks.Priority) (tasks.Outlook, error) {
	return tasks.Outlook{Start: func(place int64) tasks.Start {
		after := time.Hour + time.Duration(place-1)*time.Second
		return tasks.Start{Told: after, Late: after, Known: true}
	}}, nil
}

// purse is what a tenant has paid.
type purse int

func (p *purse) Admit(context.Context, string, int64) (quota.Grant, error) {
	*p++
	return quota.Grant{}, nil
}

func (p *purse) Refund(context.Context, string, quota.Grant) error {
	*p--
	return nil
}

// A job by itself and a batch of that job are taken in, refused and paid for alike.
func TestAJobAndABatchOfItAreTreatedAlike(t *testing.T) {
	down := fmt.Errorf("submit: %w", tasks.ErrUnavailable)
	lost := fmt.Errorf("submit: %w", &tasks.UnknownError{Err: down})
	for name, c := range map[string]struct {
		store store
		job   tasks.Job
		key   string
		want  string // the code of the fault, or the sentinel's
		paid  purse
	}{
		"taken":               {job: tasks.Job{Model: "m"}, paid: 1},
		"taken, with a key":   {job: tasks.Job{Model: "m"}, key: "k", paid: 1},
		"no pool":             {job: tasks.Job{Model: "x"}, want: fault.ModelNotFound},
		"no pool to fall to":  {job: tasks.Job{Model: "m", Fallback: []string{"x"}}, want: fault.ModelNotFound},
		"webhook by http":     {job: tasks.Job{Model: "m", WebhookURL: "http://a.example/"}, want: fault.WebhookURLRefused},
		"full":                {job: tasks.Job{Model: "m"}, store: store{fails: tasks.ErrFull}, want: "store_full"},
		"repeat":              {job: tasks.Job{Model: "m"}, key: "k", store: store{replay: true, status: tasks.StatusQueued}},
		"repeat of what went": {job: tasks.Job{Model: "m"}, key: "k", store: store{replay: true}, want: fault.NotFound},
		"silent":              {job: tasks.Job{Model: "m"}, store: store{fails: down}, want: fault.Unavailable},
		"nobody knows":        {job: tasks.Job{Model: "m"}, store: store{fails: lost}, want: fault.OutcomeUnknown, paid: 1},
	} {
		for _, form := range []string{"job", "batch"} {
			t.Run(name+"/"+form, func(t *testing.T) {
				st, paid := c.store, purse(0)
				d, err := desk.New(desk.Config{
					Caps: room(t, caps.Config{}),
					Jobs: &st, Batches: &st, Notices: silent{}, Pools: pools{}, Quota: &paid,
					NewID: func(prefix string) string { return prefix + "_new" },
				})
				if err != nil {
					t.Fatal(err)
				}
				replayed := false
				if form == "job" {
					var h desk.Handed
					h, err = d.Submit(t.Context(), desk.Caller{Tenant: "acme"}, tasks.Submission{Job: c.job, Key: c.key, Fingerprint: "same"})
					replayed = h.Replayed
				} else {
					var h desk.HandedBatch
					h, err = d.SubmitBatch(t.Context(), desk.Caller{Tenant: "acme"}, desk.Incoming{
						Key: c.key, Fingerprint: func() string { return "same" },
						Read: func(take func(int, tasks.Job, int) error) error { return take(1, c.job, 1) },
					})
					replayed = h.Replayed
				}
				code, id := "", ""
				if err != nil {
					k, f := fault.Classify(err)
					code, id = k.Code, f.ID
				}
				if (id == form+"_new") != (c.want == fault.OutcomeUnknown) {
					t.Errorf("%v names the id %q", err, id)
				}
				if code != c.want || paid != c.paid || replayed != c.store.replay || (st.taken == 1) != (c.want == "" && !c.store.replay) {
					t.Errorf("%q (%v), paid %d, replayed %v, taken %d; want %q, paid %d, replayed %v", code, err, paid, replayed, st.taken, c.want, c.paid, c.store.replay)
				}
			})
		}
	}
}

func TestAJobThatWouldWaitPastItsDeadlineIsRefusedWithWhenToComeAgain(t *testing.T) {
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	var st store
	d, err := desk.New(desk.Config{
		Caps: room(t, caps.Config{}),
		Jobs: &st, Batches: &st, Notices: silent{}, Pools: pools{}, NewID: func(string) string { return "job_new" },
		Now: func() time.Time { return now },
	})
	if err != nil {
		t.Fatal(err)
	}
	job := tasks.Job{Model: "m", Deadline: now.Add(20 * time.Minute)}
	_, err = d.Submit(t.Context(), desk.Caller{Tenant: "acme"}, tasks.Submission{Job: job})
	var f *fault.Fault
	if !errors.As(err, &f) || f.Code != fault.DeadlineUnreachable || f.RetryAfter != 40*time.Minute || st.taken != 0 {
		t.Errorf("%v, taken %d; want it refused, to come again in 40m", err, st.taken)
	}
	job.Priority = tasks.High
	if _, err := d.Submit(t.Context(), desk.Caller{Tenant: "acme"}, tasks.Submission{Job: job}); err != nil {
		t.Errorf("of high priority: %v", err)
	}
	for lane, want := range map[tasks.Priority]time.Duration{tasks.High: time.Minute, tasks.Normal: time.Hour, tasks.Low: 2 * time.Hour} {
		if got := d.Expected(t.Context(), &tasks.Job{Pool: "pool", Priority: lane}); got != want {
			t.Errorf("a job of the lane %s is expected in %v, want %v", lane, got, want)
		}
	}
}

func room(t *testing.T, c caps.Config) *caps.Room {
	t.Helper()
	r, err := caps.New(c)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestADeskThatDrainsHoldsNobody(t *testing.T) {
	st := store{status: tasks.StatusQueued}
	d, err := desk.New(desk.Config{Jobs: &st, Batches: &st, Notices: silent{}, Pools: pools{}, NewID: func(string) string { return "" }, Caps: room(t, caps.Config{TenantStreams: 1})})
	if err != nil {
		t.Fatal(err)
	}
	release, err := d.Hold("acme")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := d.Hold("acme"); err == nil {
		t.Error("a tenant held more than it may")
	}
	if _, err := d.AwaitBatch(t.Context(), "acme", "batch_1", time.Hour); err != nil {
		t.Errorf("a poll of who holds too much: %v", err)
	}
	release()
	d.Drain()
	if _, err := d.AwaitBatch(t.Context(), "acme", "batch_1", time.Hour); err != nil {
		t.Errorf("a poll while draining: %v", err)
	}
}

// watched is a store whose writing of batches is seen.
type watched struct {
	store
	begun chan struct{}
	may   chan struct{}
}

func (s *watched) StageBatch(context.Context, string, []tasks.Job, tasks.Limits) error {
	s.begun <- struct{}{}
	<-s.may
	return nil
}

func (s *watched) CommitBatch(context.Context, string, tasks.BatchCommit) (tasks.Batch, error) {
	return tasks.Batch{}, nil
}

func TestOfATenantsBatchesOneIsWrittenAtATime(t *testing.T) {
	t.Parallel()
	st := watched{begun: make(chan struct{}, 3), may: make(chan struct{})}
	d, err := desk.New(desk.Config{
		Caps: room(t, caps.Config{}), Jobs: &st, Batches: &st, Notices: silent{}, Pools: pools{},
		NewID: func(prefix string) string { return prefix + "_new" },
	})
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 3)
	for _, tenant := range []string{"acme", "acme", "other"} {
		go func() {
			_, err := d.SubmitBatch(t.Context(), desk.Caller{Tenant: tenant}, desk.Incoming{
				Read: func(take func(int, tasks.Job, int) error) error { return take(1, tasks.Job{Model: "m"}, 1) },
			})
			ended <- err
		}()
	}
	<-st.begun
	<-st.begun
	select {
	case <-st.begun:
		t.Error("two of one tenant are written at once")
	default:
	}
	close(st.may)
	for range 3 {
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}
}

// A bulk move that did not come to its end says what it did. Only one that did nothing
// costs no submit.
func TestABulkMoveSaysWhatItDid(t *testing.T) {
	t.Parallel()
	full := &tasks.QuotaError{Quota: "queued_jobs", Limit: 7}
	for _, row := range []struct {
		err  error
		done int
		says string
		paid int
	}{
		{nil, 3, "", 1},
		{nil, 0, "", 0},
		{full, 3, "", 1},
		{full, 0, "queued_jobs", 0},
		{tasks.ErrUnavailable, 3, "3 jobs were queued again before this; send it again for the rest", 1},
		{tasks.ErrUnavailable, 0, "cannot be reached", 0},
		{&tasks.UnknownError{Err: tasks.ErrUnavailable}, 3, "3 jobs were queued again, and some more may have been", 1},
		{&tasks.UnknownError{Err: tasks.ErrUnavailable}, 0, "0 jobs were queued again, and some more may have been", 1},
	} {
		st, paid := store{fails: row.err, taken: row.done}, purse(0)
		d, err := desk.New(desk.Config{Jobs: &st, Batches: &st, Notices: silent{}, Pools: pools{}, Quota: &paid, NewID: func(string) string { return "" }, Caps: room(t, caps.Config{})})
		if err != nil {
			t.Fatal(err)
		}
		got, err := d.RetryAll(t.Context(), desk.Caller{Tenant: "acme"}, tasks.Selection{})
		says := ""
		if err != nil {
			_, f := fault.Classify(err)
			says = f.Detail
		}
		if got.Jobs != row.done || (says == "") != (row.says == "") || !strings.Contains(says, row.says) || (got.Stopped != nil) != (row.err == full && row.done > 0) || int(paid) != row.paid {
			t.Errorf("%v after %d jobs: %+v, %q, %d submits paid", row.err, row.done, got, says, paid)
		}
	}
}

// steps is a store that takes down what is done with the chunks of a batch, by their first line.
type steps struct {
	store
	refuses error // what becomes of the first chunk

	mu    sync.Mutex
	done  []string
	ahead chan struct{} // closed when the second chunk is unloaded
}

func (s *steps) did(what string, line int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.done = append(s.done, fmt.Sprint(what, line))
}

func (s *steps) Unload(_ context.Context, jobs ...*tasks.Job) error {
	line := jobs[0].Line
	if s.did("unload", line); line == 2 {
		close(s.ahead)
	}
	for _, j := range jobs {
		j.Request.Lies = fmt.Sprint("there", line)
	}
	return nil
}

func (s *steps) Drop(jobs []tasks.Job) { s.did("drop", jobs[0].Line) }

func (s *steps) StageBatch(ctx context.Context, _ string, jobs []tasks.Job, _ tasks.Limits) error {
	s.did("write", jobs[0].Line)
	if jobs[0].Request.Lies == "" {
		return errors.New("it was not unloaded")
	}
	if jobs[0].Line > 1 {
		return nil
	}
	select {
	case <-s.ahead:
		return s.refuses
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (s *steps) CommitBatch(context.Context, string, tasks.BatchCommit) (tasks.Batch, error) {
	s.did("commit", 0)
	return tasks.Batch{}, nil
}

// What is large of a chunk is put while the chunk before is written. Chunks are written in
// order, and what was put of those behind one that is refused goes.
func TestAChunkIsUnloadedWhileTheOneBeforeIsWritten(t *testing.T) {
	t.Parallel()
	for _, refuses := range []error{nil, tasks.ErrFull} {
		st := steps{refuses: refuses, ahead: make(chan struct{})}
		d, err := desk.New(desk.Config{
			Caps: room(t, caps.Config{}), Jobs: &st, Batches: &st, Notices: silent{}, Pools: pools{},
			NewID: func(prefix string) string { return prefix + "_new" },
		})
		if err != nil {
			t.Fatal(err)
		}
		told, lines := 0, 0
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		_, err = d.SubmitBatch(ctx, desk.Caller{Tenant: "acme"}, desk.Incoming{
			Staged: func(bytes int) { told += bytes },
			Read: func(take func(int, tasks.Job, int) error) error {
				for lines = 1; lines <= 5; lines++ { // a chunk each
					if err := take(lines, tasks.Job{Model: "m"}, 1<<20); err != nil {
						return err
					}
				}
				return nil
			},
		})
		if !errors.Is(err, refuses) {
			t.Fatalf("refused by %v: %v", refuses, err)
		}
		at := func(step string) int { return slices.Index(st.done, step) }
		if refuses == nil {
			for line := 1; line <= 5; line++ {
				unload, write := at(fmt.Sprint("unload", line)), at(fmt.Sprint("write", line))
				if unload < 0 || write < unload || line > 1 && write < at(fmt.Sprint("write", line-1)) || line > 2 && unload < at(fmt.Sprint("write", line-2)) {
					t.Errorf("line %d: %q", line, st.done)
				}
			}
			if told != 5<<20 || st.done[len(st.done)-1] != "commit0" {
				t.Errorf("%d bytes; %q", told, st.done)
			}
			continue
		}
		for _, step := range st.done {
			line := int(step[len(step)-1] - '0')
			if strings.HasPrefix(step, "unload") && line > 1 && at(fmt.Sprint("drop", line)) < 0 || strings.HasPrefix(step, "write") && line > 1 || strings.HasPrefix(step, "commit") {
				t.Errorf("after the first was refused: %q", st.done)
			}
		}
	}
}

// crowded are pools in which ten jobs of the tenant wait, and that count who asks.
type crowded struct {
	pools
	asked *int
}

func (c crowded) Outlook(ctx context.Context, pool, tenant string, lane tasks.Priority) (tasks.Outlook, error) {
	o, err := c.pools.Outlook(ctx, pool, tenant, lane)
	o.Waiting = 10
	*c.asked++
	return o, err
}

// A user that has used up a quota of its own comes again when one of its own jobs has started, however many
// others of its tenant may have before it, and stands in nobody's line.
func TestAUserComesAgainWhenItsOwnIsFree(t *testing.T) {
	t.Parallel()
	for name, row := range map[string]struct {
		used  tasks.QuotaError
		after time.Duration
	}{
		"jobs that wait":        {tasks.QuotaError{Quota: "users.queued_jobs", Limit: 3, Others: 7, RetryAfter: 10 * time.Second}, time.Hour + 7*time.Second}, // behind seven of others
		"all are its own":       {tasks.QuotaError{Quota: "users.queued_jobs", Limit: 10, RetryAfter: 10 * time.Second}, time.Hour},
		"most are elsewhere":    {tasks.QuotaError{Quota: "users.queued_jobs", Limit: 30, Others: 9, RetryAfter: 10 * time.Second}, time.Hour + 9*time.Second}, // here may be one, the last
		"others' are elsewhere": {tasks.QuotaError{Quota: "users.queued_jobs", Limit: 3, Others: 500, RetryAfter: 10 * time.Second}, time.Hour + 9*time.Second},
		"submits":               {tasks.QuotaError{Quota: "users.submits_per_minute", Limit: 3, Window: time.Minute, RetryAfter: 1234 * time.Millisecond}, 1234 * time.Millisecond},
		"the tenant's":          {tasks.QuotaError{Quota: "queued_jobs", Limit: 10, RetryAfter: 10 * time.Second}, time.Hour},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			st, paid, asked := store{fails: &row.used}, purse(0), 0
			d, err := desk.New(desk.Config{Jobs: &st, Batches: &st, Notices: silent{}, Pools: crowded{asked: &asked}, Quota: &paid, NewID: func(string) string { return "job_1" }, Caps: room(t, caps.Config{})})
			if err != nil {
				t.Fatal(err)
			}
			_, err = d.Submit(t.Context(), desk.Caller{Tenant: "acme/ada"}, tasks.Submission{Job: tasks.Job{Model: "m"}})
			var used *tasks.QuotaError
			if !errors.As(err, &used) || used.RetryAfter != row.after {
				t.Errorf("%v: %+v, want again after %v", err, used, row.after)
			}
			if paid != 0 {
				t.Errorf("%d submits are paid for what was refused", paid)
			}
			if row.used.Window > 0 && asked != 0 {
				t.Errorf("the pool was asked %d times for what its backlog does not change", asked)
			}
		})
	}
}

// payers are those of whom submits were taken.
type payers struct {
	purse
	who []string
}

func (p *payers) Admit(ctx context.Context, owner string, n int64) (quota.Grant, error) {
	p.who = append(p.who, owner)
	return p.purse.Admit(ctx, owner, n)
}

// Each door asks for the user, whose own allowance counts too, and not for its tenant alone.
func TestEachDoorTakesOfTheUsersAllowance(t *testing.T) {
	t.Parallel()
	st, paid := store{status: tasks.StatusQueued}, payers{}
	d, err := desk.New(desk.Config{Jobs: &st, Batches: &st, Notices: silent{}, Pools: pools{}, Quota: &paid, NewID: func(string) string { return "job_1" }, Caps: room(t, caps.Config{})})
	if err != nil {
		t.Fatal(err)
	}
	c := desk.Caller{Tenant: "acme/ada"}
	for name, ask := range map[string]func() error{
		"submit": func() error {
			_, err := d.Submit(t.Context(), c, tasks.Submission{Job: tasks.Job{Model: "m"}})
			return err
		},
		"batch": func() error {
			_, err := d.SubmitBatch(t.Context(), c, desk.Incoming{Read: func(take func(int, tasks.Job, int) error) error { return take(1, tasks.Job{Model: "m"}, 1) }})
			return err
		},
		"retry":  func() error { _, _, err := d.Retry(t.Context(), c, "job_1"); return err },
		"bulk":   func() error { _, err := d.RetryAll(t.Context(), c, tasks.Selection{}); return err },
		"upload": func() error { _, err := d.Limits(t.Context(), c.Tenant); return err },
	} {
		paid.who = nil
		if err := ask(); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if !slices.Equal(paid.who, []string{"acme/ada"}) {
			t.Errorf("%s: taken of %q", name, paid.who)
		}
	}
}
