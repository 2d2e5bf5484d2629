package store_test

import (
	"context"
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/sluicehq/sluice/tasks"
	"github.com/sluicehq/sluice/tasks/redistest"
	"github.com/sluicehq/sluice/tasks/store"
)

// many is a store with jobs of every kind that a bulk move may meet.
type many struct {
	*testing.T
	s     *store.Store
	ids   []string // of acme, the oldest first: 40 that were canceled, each fifth of another model
	wait  []string // of acme, that wait or run
	won   string   // of acme, and has succeeded
	other string   // of zoe, and was canceled
	batch string   // of acme, with three lines that were canceled
}

func newMany(t *testing.T) *many {
	s, _ := open(t, 4)
	m := &many{T: t, s: s}
	submit := func(tenant, model string, tokens int) string {
		j := job(tenant)
		j.Model, j.Request.InputTokens, j.Bytes = model, tokens, 7
		made, next, err := s.Create(t.Context(), tasks.Submission{Job: j})
		must(t, err)
		must(t, made[0].Err)
		for _, k := range next {
			if k.ID == j.ID && m.won == "" {
				take(t, s, k)
				start(t, s, k)
				_, err := s.End(t.Context(), k, won)
				must(t, err)
				m.won = j.ID
			}
		}
		return j.ID
	}
	submit("acme", "m", 1)
	for i := range 40 {
		model := "m"
		if i%5 == 0 {
			model = "rare"
		}
		m.ids = append(m.ids, submit("acme", model, 1))
	}
	m.other = submit("zoe", "m", 1)
	for _, tenant := range []string{"acme", "zoe"} {
		_, err := s.CancelAll(t.Context(), tasks.Selection{Tenant: tenant})
		must(t, err)
	}
	b := stage(t, s, 3)
	_, err := s.CommitBatch(t.Context(), b.ID, tasks.BatchCommit{})
	must(t, err)
	_, _, err = s.Unfold(t.Context(), b.ID)
	must(t, err)
	_, err = s.CancelBatch(t.Context(), "acme", b.ID)
	must(t, err)
	m.batch = b.ID
	for range 5 {
		m.wait = append(m.wait, submit("acme", "m", 1))
	}
	return m
}

func (m *many) statuses(ids []string) map[tasks.Status]int {
	m.Helper()
	got := map[tasks.Status]int{}
	for _, id := range ids {
		tenant := "acme"
		if id == m.other {
			tenant = "zoe"
		}
		j, err := m.s.Job(m.Context(), tenant, id)
		must(m.T, err)
		got[j.Status]++
	}
	return got
}

var ended = []tasks.Status{tasks.StatusFailed, tasks.StatusCanceled, tasks.StatusExpired}

// A bulk retry queues again what it is for, each job once, and nothing else.
func TestABulkRetryQueuesWhatItIsFor(t *testing.T) {
	t.Parallel()
	m := newMany(t)
	born := tasks.Born(m.ids[20])
	some := append(slices.Clone(m.ids[3:6]), m.ids[3], m.won, m.wait[0], m.other, "job_nosuch")
	for _, row := range []struct {
		name string
		sel  tasks.Selection
		l    tasks.Limits
		want tasks.Moved
		err  string // the quota that refuses
	}{
		{"another's", tasks.Selection{Tenant: "nobody", IDs: some}, tasks.Limits{}, tasks.Moved{}, ""},
		{"no such status", tasks.Selection{Tenant: "acme", Statuses: ended[:1]}, tasks.Limits{}, tasks.Moved{}, ""},
		{"before all", tasks.Selection{Tenant: "acme", Statuses: ended, Until: born.Add(-time.Hour)}, tasks.Limits{}, tasks.Moved{}, ""},
		{"ids, some of them nobody's", tasks.Selection{Tenant: "acme", IDs: some}, tasks.Limits{}, tasks.Moved{Jobs: 3}, ""},
		{"a batch", tasks.Selection{Tenant: "acme", Statuses: ended, Batch: m.batch}, tasks.Limits{}, tasks.Moved{Jobs: 3}, ""},
		{"what the token is for", tasks.Selection{Tenant: "acme", Statuses: ended, May: func(j *tasks.Job) bool { return j.Model == "rare" }}, tasks.Limits{}, tasks.Moved{Jobs: 7}, ""},
		{"full at once", tasks.Selection{Tenant: "acme", Statuses: ended}, tasks.Limits{QueuedJobs: 1}, tasks.Moved{More: true}, "queued_jobs"},
		{"full on the way", tasks.Selection{Tenant: "acme", Statuses: ended}, tasks.Limits{QueuedJobs: 20}, tasks.Moved{Jobs: 2, More: true}, "queued_jobs"},
		{"tokens of the day", tasks.Selection{Tenant: "acme", Statuses: ended}, tasks.Limits{TokensPerDay: 100}, tasks.Moved{Jobs: 5, More: true}, "tokens_per_day"},
		{"bytes", tasks.Selection{Tenant: "acme", Statuses: ended}, tasks.Limits{QueuedBytes: 15}, tasks.Moved{Jobs: 2, More: true}, "queued_bytes"},
		{"larger than any quota", tasks.Selection{Tenant: "acme", Statuses: ended}, tasks.Limits{QueuedBytes: 3}, tasks.Moved{TooLarge: 21}, ""},
		{"more than a call moves", tasks.Selection{Tenant: "acme", Statuses: ended, Most: 5}, tasks.Limits{}, tasks.Moved{Jobs: 5, More: true}, ""},
		{"the rest, and no more", tasks.Selection{Tenant: "acme", Statuses: ended, Most: 16}, tasks.Limits{}, tasks.Moved{Jobs: 16}, ""},
		{"nothing is left", tasks.Selection{Tenant: "acme", Statuses: ended}, tasks.Limits{}, tasks.Moved{}, ""},
	} {
		before, _, err := m.s.Waiting(t.Context(), pool, "acme", tasks.Normal)
		must(t, err)
		handed := 0
		got, err := m.s.RequeueAll(t.Context(), row.sel, row.l, func(next []tasks.Ticket) { handed += len(next) })
		var quota *tasks.QuotaError
		if errors.As(err, &quota); row.err == "" && err != nil || row.err != "" && (quota == nil || quota.Quota != row.err) {
			t.Errorf("%s: %v, want the refusal %q", row.name, err, row.err)
		}
		after, _, err := m.s.Waiting(t.Context(), pool, "acme", tasks.Normal)
		must(t, err)
		if moved := int(after-before) + handed; got != row.want || moved != got.Jobs {
			t.Errorf("%s: told %+v and %d came to wait, want %+v", row.name, got, moved, row.want)
		}
	}
	if got := m.statuses([]string{m.other}); got[tasks.StatusCanceled] != 1 {
		t.Errorf("another tenant's job: %v", got)
	}
	if b, err := m.s.Batch(t.Context(), "acme", m.batch); err != nil || b.Status != tasks.BatchInProgress || b.Counts.Queued != 3 {
		t.Errorf("the batch: %+v, %v", b, err)
	}
}

// A bulk cancellation ends what waits and what runs, and nothing else.
func TestABulkCancellationEndsWhatItIsFor(t *testing.T) {
	t.Parallel()
	m := newMany(t)
	_, err := m.s.RequeueAll(t.Context(), tasks.Selection{Tenant: "acme", Statuses: ended}, tasks.Limits{}, func([]tasks.Ticket) {})
	must(t, err)
	mine := []tasks.Status{tasks.StatusQueued, tasks.StatusScheduled, tasks.StatusRetrying, tasks.StatusRunning}
	for _, row := range []struct {
		name string
		sel  tasks.Selection
		want tasks.Moved
	}{
		{"another's", tasks.Selection{Tenant: "zoe", IDs: m.ids}, tasks.Moved{}},
		{"none that runs", tasks.Selection{Tenant: "acme", Statuses: mine[3:]}, tasks.Moved{}},
		{"ids", tasks.Selection{Tenant: "acme", IDs: append(m.ids[:2:2], m.ids[0], m.won, m.other)}, tasks.Moved{Jobs: 2}},
		{"a batch", tasks.Selection{Tenant: "acme", Statuses: mine, Batch: m.batch}, tasks.Moved{Jobs: 3}},
		{"a model in another pool", tasks.Selection{Tenant: "acme", Statuses: mine, Model: "rare", Pool: "none"}, tasks.Moved{}},
		{"no such metadata", tasks.Selection{Tenant: "acme", Statuses: mine, Metadata: map[string]string{"a": "none"}}, tasks.Moved{}},
		{"a model in its pool", tasks.Selection{Tenant: "acme", Statuses: mine, Model: "rare", Pool: pool}, tasks.Moved{Jobs: 7}},
		{"more than a call moves", tasks.Selection{Tenant: "acme", Statuses: mine, Most: 33}, tasks.Moved{Jobs: 33, More: true}},
		{"the rest", tasks.Selection{Tenant: "acme", Statuses: mine}, tasks.Moved{Jobs: 3}},
		{"nothing is left", tasks.Selection{Tenant: "acme", Statuses: mine}, tasks.Moved{}},
	} {
		if n, err := m.s.Count(t.Context(), row.sel); row.sel.IDs == nil && (err != nil || n != row.want) {
			t.Errorf("%s: counted %+v, %v, want %+v", row.name, n, err, row.want)
		}
		got, err := m.s.CancelAll(t.Context(), row.sel)
		if err != nil || got != row.want {
			t.Errorf("%s: told %+v, %v, want %+v", row.name, got, err, row.want)
		}
	}
	if got := m.statuses(append(m.ids, m.wait...)); got[tasks.StatusCanceled] != 45 {
		t.Errorf("they are %v", got)
	}
	if l := load(t, m.s); l.Queued != 0 || l.Running != 0 {
		t.Errorf("the pool's load is %+v", l)
	}
	if _, err := m.s.CancelAll(t.Context(), tasks.Selection{Tenant: "acme", Batch: "batch_nosuch"}); !errors.Is(err, tasks.ErrNotFound) {
		t.Errorf("no such batch: %v", err)
	}
}

// A caller that goes away ends a bulk move between two jobs.
func TestABulkMoveEndsWithItsCaller(t *testing.T) {
	t.Parallel()
	m := newMany(t)
	ctx, cancel := context.WithCancel(t.Context())
	got, err := m.s.RequeueAll(ctx, tasks.Selection{Tenant: "acme", Statuses: ended}, tasks.Limits{}, func([]tasks.Ticket) { cancel() })
	if !errors.Is(err, context.Canceled) || !got.More || got.Jobs == 0 {
		t.Errorf("told %+v, %v", got, err)
	}
	if n := m.statuses(m.ids)[tasks.StatusQueued]; n > got.Jobs || got.Jobs == len(m.ids) {
		t.Errorf("%d jobs wait, told %d", n, got.Jobs)
	}
}

// A key of a call that makes nothing is one call's until it is answered, given up, or dead.
func TestAKeyOfACallThatMakesNothing(t *testing.T) {
	t.Parallel()
	now := time.Now()
	s := store.New(store.Config{Redis: redistest.New(t), Now: func() time.Time { return now }})
	reserve := func(what, fingerprint, id, answer string, want error) {
		t.Helper()
		got, err := s.ReserveKey(t.Context(), "acme", "k", fingerprint, id)
		if !errors.Is(err, want) || string(got) != answer {
			t.Errorf("%s: %q, %v; want %q, %v", what, got, err, answer, want)
		}
	}
	reserve("the first", "f", "bulk_1", "", nil)
	reserve("the first, sent again", "f", "bulk_1", "", nil)
	reserve("a repeat meanwhile", "f", "bulk_2", "", tasks.ErrKeyBusy)
	reserve("another call", "g", "bulk_2", "", tasks.ErrKeyReused)
	_, err := s.ReserveKey(t.Context(), "acme", "k", "g", "bulk_2")
	if reused, ok := errors.AsType[*tasks.ReusedError](err); !ok || reused.ID != "bulk_1" {
		t.Errorf("another call is told %v of whose key it is; want bulk_1", err)
	}
	must(t, s.FreeKey(t.Context(), "acme", "k", "bulk_2"))
	reserve("a repeat, when another gave up", "f", "bulk_2", "", tasks.ErrKeyBusy)
	must(t, s.FreeKey(t.Context(), "acme", "k", "bulk_1"))
	reserve("another call, when it gave up", "g", "bulk_3", "", nil)
	now = now.Add(2 * time.Minute)
	reserve("a repeat, when the first has died", "g", "bulk_4", "", nil)
	must(t, s.SaveAnswer(t.Context(), "acme", "k", "bulk_3", []byte("late")))
	must(t, s.SaveAnswer(t.Context(), "acme", "k", "bulk_4", []byte("answer")))
	must(t, s.FreeKey(t.Context(), "acme", "k", "bulk_4"))
	reserve("a repeat of what was answered", "g", "bulk_5", "answer", nil)
	if _, prior, err := s.OpenBatch(t.Context(), store.NewID("batch"), "acme", "k"); err != nil || prior == nil || prior.Fingerprint != "g" {
		t.Errorf("a batch with that key: %+v, %v", prior, err)
	}
}

// Each lane of a tenant's backlog is counted by itself, none being normal.
func TestABacklogIsCountedByLane(t *testing.T) {
	t.Parallel()
	w := newTold(t)
	create(t, w.Store, job("acme")) // is handed out
	many := map[tasks.Priority]int64{tasks.High: 1, tasks.Normal: 2, tasks.Low: 3}
	for lane, n := range many {
		for range n {
			j := job("acme")
			j.Priority = lane
			create(t, w.Store, j)
		}
	}
	many[""] = many[tasks.Normal]
	for lane, want := range many {
		if got, tenants, err := w.Waiting(t.Context(), pool, "acme", lane); err != nil || got != want || tenants != 1 {
			t.Errorf("lane %q: %d jobs of %d tenants, %v; want %d of 1", lane, got, tenants, err, want)
		}
	}
}
