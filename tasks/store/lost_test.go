package store_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/sluicehq/sluice/tasks"
	"github.com/sluicehq/sluice/tasks/redistest"
	"github.com/sluicehq/sluice/tasks/store"
)

// lossy is a store whose way to Redis loses answers of scripts, beside one that
// looks at what is true.
type lossy struct {
	*testing.T
	s, sure *store.Store
	rdb     *redis.Client // of the sure one
	proxy   *redistest.Proxy
	server  *redistest.Server
}

func newLossy(t *testing.T) *lossy {
	server := redistest.Start(t, redistest.Options{})
	l := &lossy{T: t, server: server, rdb: server.Client(), proxy: redistest.Before(t, server)}
	c := store.Config{ResultTTL: time.Hour, Depth: map[string]int{pool: 4}, NewSecret: func() string { return "whsec_first" }}
	c.Redis = l.proxy.Client(t)
	l.s = store.New(c)
	c.Redis = l.rdb
	l.sure = store.New(c)
	return l
}

// lose loses the answers of the next n scripts, -1 being all, and does something
// before the first loss, while the caller waits.
func (l *lossy) lose(n int, meanwhile func()) {
	var mu sync.Mutex
	l.proxy.Lose(func(command, reply string) bool {
		mu.Lock()
		defer mu.Unlock()
		if !strings.Contains(command, "\r\neval") || strings.HasPrefix(reply, "-") || n == 0 {
			return false
		}
		if n--; meanwhile != nil {
			meanwhile()
			meanwhile = nil
		}
		return true
	})
}

// failed is a job that has failed once.
func (l *lossy) failed() string {
	l.Helper()
	made, next, err := l.sure.Create(l.Context(), tasks.Submission{Job: job("acme")})
	if err != nil || len(next) != 1 {
		l.Fatal(made, next, err)
	}
	l.fails(next[0])
	return made[0].Job.ID
}

func (l *lossy) fails(k tasks.Ticket) {
	l.Helper()
	take(l.T, l.sure, k)
	start(l.T, l.sure, k)
	how := tasks.Ending{Status: tasks.StatusFailed, Error: &tasks.JobError{Code: tasks.UpstreamRejected}, Attempt: tasks.Attempt{Outcome: tasks.Rejected}}
	if _, err := l.sure.End(l.Context(), k, how); err != nil {
		l.Fatal(err)
	}
}

// next is the one job that is handed out: its ticket was in an answer that was lost.
func (l *lossy) next(id string) tasks.Ticket {
	l.Helper()
	return tasks.Ticket{ID: id, Fence: read(l.T, l.sure, id).Fence, Pool: pool}
}

func (l *lossy) endpoint() tasks.Endpoint {
	l.Helper()
	e, err := l.sure.CreateEndpoint(l.Context(), tasks.Endpoint{
		ID: store.NewID("whe"), Tenant: "acme", URL: "https://a.example/", Events: []string{"job.failed"}, Signature: "v1",
		Keys: tasks.SigningKeys{Secret: "whsec_0"},
	})
	if err != nil {
		l.Fatal(err)
	}
	return e
}

// delivered is a delivery that has arrived.
func (l *lossy) delivered() string {
	l.Helper()
	l.endpoint()
	l.failed()
	return l.arrives()
}

func (l *lossy) arrives() string {
	l.Helper()
	swept, err := l.sure.SweepDeliveries(l.Context())
	if err != nil || len(swept.Hand) != 1 {
		l.Fatal(swept, err)
	}
	k := swept.Hand[0]
	_, err = l.sure.SettleDeliveries(l.Context(), []tasks.Settled{{Ticket: k, Status: tasks.DeliveryDelivered, Counted: true}})
	if err != nil {
		l.Fatal(err)
	}
	return k.ID
}

// operation is what a caller may ask of the store. Made ready, it gives what is
// asked, the id of what it is about, what others do meanwhile that a second time of
// it would undo, and whether it was done, and once.
type operation struct {
	name  string
	ready func(l *lossy) (ask func(ctx context.Context) error, id string, meanwhile func(), done func() bool)
}

func operations() []operation {
	status := func(l *lossy, id string) tasks.Status { return read(l.T, l.sure, id).Status }
	return []operation{
		{"submit", func(l *lossy) (func(context.Context) error, string, func(), func() bool) {
			j := job("acme")
			ask := func(ctx context.Context) error {
				_, _, err := l.s.Create(ctx, tasks.Submission{Job: j})
				return err
			}
			return ask, "", func() { l.fails(l.next(j.ID)) }, func() bool {
				return status(l, j.ID) == tasks.StatusFailed && load(l.T, l.sure).Queued == 0
			}
		}},
		{"batch", func(l *lossy) (func(context.Context) error, string, func(), func() bool) {
			b, _, err := l.sure.OpenBatch(l.Context(), store.NewID("batch"), "acme", "")
			if err != nil {
				l.Fatal(err)
			}
			j := job("acme")
			j.Batch, j.Line = b.ID, 1
			if err := l.sure.StageBatch(l.Context(), b.ID, []tasks.Job{j}, tasks.Limits{}); err != nil {
				l.Fatal(err)
			}
			ask := func(ctx context.Context) error {
				_, err := l.s.CommitBatch(ctx, b.ID, tasks.BatchCommit{})
				return err
			}
			return ask, b.ID, nil, func() bool {
				got, err := l.sure.Batch(l.Context(), "acme", b.ID)
				return err == nil && got.Counts.Total == 1
			}
		}},
		{"cancel", func(l *lossy) (func(context.Context) error, string, func(), func() bool) {
			made, _, err := l.sure.Create(l.Context(), tasks.Submission{Job: job("acme")})
			if err != nil {
				l.Fatal(err)
			}
			id := made[0].Job.ID
			again := func() {
				if _, _, err := l.sure.Requeue(l.Context(), "acme", id, tasks.Limits{}); err != nil {
					l.Error(err)
				}
			}
			ask := func(ctx context.Context) error { _, err := l.s.Cancel(ctx, "acme", id); return err }
			return ask, id, again, func() bool { return status(l, id) == tasks.StatusQueued }
		}},
		{"cancel a batch", func(l *lossy) (func(context.Context) error, string, func(), func() bool) {
			b := stage(l.T, l.sure, 3)
			if _, err := l.sure.CommitBatch(l.Context(), b.ID, tasks.BatchCommit{}); err != nil {
				l.Fatal(err)
			}
			ask := func(ctx context.Context) error { _, err := l.s.CancelBatch(ctx, "acme", b.ID); return err }
			return ask, b.ID, nil, func() bool {
				got, err := l.sure.Batch(l.Context(), "acme", b.ID)
				return err == nil && got.Status == tasks.BatchEnded && got.Counts.Canceled == 3
			}
		}},
		{"retry", func(l *lossy) (func(context.Context) error, string, func(), func() bool) {
			id := l.failed()
			ask := func(ctx context.Context) error {
				_, next, err := l.s.Requeue(ctx, "acme", id, tasks.Limits{})
				if err == nil && len(next) != 1 {
					l.Errorf("the tickets are %v, want that of the job", next)
				}
				return err
			}
			return ask, id, func() { l.fails(l.next(id)) }, func() bool { return status(l, id) == tasks.StatusFailed && read(l.T, l.sure, id).Version > 4 }
		}},
		{"retry many", func(l *lossy) (func(context.Context) error, string, func(), func() bool) {
			id := l.failed()
			ask := func(ctx context.Context) error {
				var next []tasks.Ticket
				m, err := l.s.RequeueAll(ctx, tasks.Selection{Tenant: "acme", IDs: []string{id}}, tasks.Limits{}, func(k []tasks.Ticket) { next = append(next, k...) })
				if err == nil && (m.Jobs != 1 || len(next) != 1) {
					l.Errorf("%+v with the tickets %v, want one job and its ticket", m, next)
				}
				return err
			}
			return ask, "", func() { l.fails(l.next(id)) }, func() bool { return status(l, id) == tasks.StatusFailed && read(l.T, l.sure, id).Version > 4 }
		}},
		{"cancel many", func(l *lossy) (func(context.Context) error, string, func(), func() bool) {
			made, _, err := l.sure.Create(l.Context(), tasks.Submission{Job: job("acme")})
			if err != nil {
				l.Fatal(err)
			}
			id := made[0].Job.ID
			again := func() {
				if _, _, err := l.sure.Requeue(l.Context(), "acme", id, tasks.Limits{}); err != nil {
					l.Error(err)
				}
			}
			ask := func(ctx context.Context) error {
				m, err := l.s.CancelAll(ctx, tasks.Selection{Tenant: "acme", IDs: []string{id}})
				if err == nil && m.Jobs != 1 {
					l.Errorf("%+v, want one job", m)
				}
				return err
			}
			return ask, "", again, func() bool { return status(l, id) == tasks.StatusQueued }
		}},
		{"delete", func(l *lossy) (func(context.Context) error, string, func(), func() bool) {
			id := l.failed()
			return func(ctx context.Context) error { return l.s.Delete(ctx, "acme", id) }, id, nil, func() bool {
				_, err := l.sure.Job(l.Context(), "acme", id)
				return errors.Is(err, tasks.ErrNotFound)
			}
		}},
		{"create an endpoint", func(l *lossy) (func(context.Context) error, string, func(), func() bool) {
			e := tasks.Endpoint{ID: store.NewID("whe"), Tenant: "acme", URL: "https://a.example/", Events: []string{"job.failed"}, Keys: tasks.SigningKeys{Secret: "whsec_1"}}
			ask := func(ctx context.Context) error { _, err := l.s.CreateEndpoint(ctx, e); return err }
			return ask, e.ID, nil, func() bool {
				list, err := l.sure.Endpoints(l.Context(), "acme")
				return err == nil && len(list) == 1 && list[0].Keys.Secret == "whsec_1"
			}
		}},
		{"change an endpoint", func(l *lossy) (func(context.Context) error, string, func(), func() bool) {
			e := l.endpoint()
			other, own := "https://other.example/", "https://own.example/"
			change := func(ctx context.Context, s *store.Store, url string) error {
				_, err := s.ChangeEndpoint(ctx, "acme", e.ID, tasks.EndpointChange{URL: &url})
				return err
			}
			return func(ctx context.Context) error { return change(ctx, l.s, own) }, e.ID, func() { must(l.T, change(l.Context(), l.sure, other)) }, func() bool {
				got, err := l.sure.Endpoint(l.Context(), "acme", e.ID)
				return err == nil && got.URL == other
			}
		}},
		{"delete an endpoint", func(l *lossy) (func(context.Context) error, string, func(), func() bool) {
			e := l.endpoint()
			return func(ctx context.Context) error { return l.s.DeleteEndpoint(ctx, "acme", e.ID) }, e.ID, nil, func() bool {
				_, err := l.sure.Endpoint(l.Context(), "acme", e.ID)
				return errors.Is(err, tasks.ErrNotFound)
			}
		}},
		{"rotate keys", func(l *lossy) (func(context.Context) error, string, func(), func() bool) {
			e := l.endpoint()
			rotate := func(ctx context.Context, s *store.Store, secret string) error {
				_, err := s.RotateKeys(ctx, "acme", e.ID, tasks.SigningKeys{Secret: secret})
				return err
			}
			return func(ctx context.Context) error { return rotate(ctx, l.s, "whsec_1") }, e.ID, func() { must(l.T, rotate(l.Context(), l.sure, "whsec_2")) }, func() bool {
				got, err := l.sure.Endpoint(l.Context(), "acme", e.ID)
				return err == nil && got.Keys.Secret == "whsec_2" && got.Keys.OldSecret == "whsec_1"
			}
		}},
		{"send again", func(l *lossy) (func(context.Context) error, string, func(), func() bool) {
			id := l.delivered()
			ask := func(ctx context.Context) error { _, err := l.s.Redeliver(ctx, "acme", id); return err }
			return ask, id, func() { l.arrives() }, func() bool {
				d, err := l.sure.Delivery(l.Context(), "acme", id)
				return err == nil && d.Status == tasks.DeliveryDelivered
			}
		}},
		{"test an endpoint", func(l *lossy) (func(context.Context) error, string, func(), func() bool) {
			e := l.endpoint()
			ask := func(ctx context.Context) error { _, err := l.s.TestEndpoint(ctx, "acme", e.ID); return err }
			return ask, e.ID, nil, func() bool {
				page, err := l.sure.Deliveries(l.Context(), tasks.DeliveryFilter{Tenant: "acme", Limit: 10})
				return err == nil && len(page.Deliveries) == 1
			}
		}},
	}
}

// One answer that is lost changes nothing for anybody: the operation is done once,
// and is told as done, whatever becomes of its object meanwhile.
func TestAnOperationWhoseAnswerIsLostIsDoneOnce(t *testing.T) {
	t.Parallel()
	for _, o := range operations() {
		t.Run(o.name, func(t *testing.T) {
			t.Parallel()
			l := newLossy(t)
			ask, _, meanwhile, done := o.ready(l)
			l.lose(2, meanwhile)
			if err := ask(t.Context()); err != nil {
				t.Errorf("told: %v; want that it was done", err)
			}
			if !done() {
				t.Error("it was not done, or done twice")
			}
		})
	}
}

// Where the answer is lost until the caller's patience ends, the caller is told
// that nobody knows, and not that nothing was done.
func TestAnOperationWhoseAnswerNeverComesIsUnknown(t *testing.T) {
	t.Parallel()
	for _, o := range operations() {
		t.Run(o.name, func(t *testing.T) {
			t.Parallel()
			l := newLossy(t)
			ask, id, meanwhile, done := o.ready(l)
			ctx, pass := redistest.Expiring(t.Context())
			defer pass()
			l.lose(-1, func() {
				if meanwhile != nil {
					meanwhile()
				}
				pass()
			})
			err := ask(ctx)
			var unknown *tasks.UnknownError
			if !errors.Is(err, tasks.ErrUnknown) || errors.Is(err, tasks.ErrUnavailable) || !errors.As(err, &unknown) || unknown.ID != id {
				t.Errorf("told: %v; want that it is not known, of %q", err, id)
			}
			l.proxy.Lose(nil)
			if !done() {
				t.Error("it was not done, or done twice")
			}
		})
	}
}

// Where no script was sent, or Redis refuses them all, nothing was done, and that is told.
func TestAnOperationThatNeverReachedRedisIsNotUnknown(t *testing.T) {
	t.Parallel()
	for name, break_ := range map[string]func(l *lossy){
		"gone":    func(l *lossy) { l.proxy.Reset(true) },
		"loading": func(l *lossy) { l.proxy.Answer("-LOADING Redis is loading the dataset in memory") },
		"full":    func(l *lossy) { l.proxy.Answer("-OOM command not allowed when used memory > 'maxmemory'.") },
	} {
		for _, o := range operations() {
			if name == "gone" && slices.Contains([]string{"cancel a batch"}, o.name) {
				continue
			}
			t.Run(name+"/"+o.name, func(t *testing.T) {
				t.Parallel()
				l := newLossy(t)
				ask, _, _, _ := o.ready(l)
				break_(l)
				if err := ask(t.Context()); !errors.Is(err, tasks.ErrUnavailable) && !errors.Is(err, tasks.ErrFull) {
					t.Errorf("told: %v; want that nothing was done", err)
				}
			})
		}
	}
}

// A submit or batch that is sent again with the id that its caller was told is the
// first one, if that was taken in, and else one under that id; never a second one.
func TestASubmitWithAnIDIsOneSubmit(t *testing.T) {
	t.Parallel()
	s, _ := open(t, 4)
	ctx := t.Context()
	j := job("acme")
	for i := range 3 {
		made, _, err := s.Create(ctx, tasks.Submission{Job: j, Named: true, Limits: tasks.Limits{QueuedJobs: 1}})
		if err != nil || made[0].Err != nil || made[0].Replayed != (i > 0) || made[0].Job.ID != j.ID {
			t.Fatalf("submit %d: %v, %+v", i+1, err, made)
		}
	}
	if l := load(t, s); l.Queued != 1 {
		t.Errorf("%d jobs of one id", l.Queued)
	}
	for name, change := range map[string]func(*tasks.Job){
		"another tenant": func(j *tasks.Job) { j.Tenant = "other" },
		"another model":  func(j *tasks.Job) { j.Model = "other" },
		"another length": func(j *tasks.Job) { j.Request.InputTokens++ },
	} {
		other := j
		change(&other)
		made, _, err := s.Create(ctx, tasks.Submission{Job: other, Named: true})
		if err != nil || !errors.Is(made[0].Err, tasks.ErrIDTaken) {
			t.Errorf("%s: %v, %+v; want that the id is taken", name, err, made)
		}
	}
}

func TestABatchWithAnIDIsOneBatch(t *testing.T) {
	t.Parallel()
	s, rdb := open(t, 4)
	ctx := t.Context()
	id := store.NewID("batch")
	lines := func(n int) []tasks.Job {
		list := make([]tasks.Job, n)
		for i := range list {
			list[i] = job("acme")
			list[i].Batch, list[i].Line = id, i+1
		}
		return list
	}
	first, prior, err := s.OpenBatch(ctx, id, "acme", "")
	if err != nil || prior != nil || first.ID != id {
		t.Fatalf("open: %+v, %+v, %v", first, prior, err)
	}
	must(t, s.StageBatch(ctx, id, lines(2), tasks.Limits{}))
	if _, _, err := s.OpenBatch(ctx, id, "acme", ""); !errors.Is(err, tasks.ErrKeyBusy) {
		t.Errorf("while it is written: %v, want ErrKeyBusy", err)
	}
	// Its writer is silent for longer than a live one may be.
	rdb.ZIncrBy(ctx, "sluice:{s}:staging", -time.Minute.Seconds()*1000, id)
	if _, prior, err := s.OpenBatch(ctx, id, "acme", ""); err != nil || prior != nil {
		t.Fatalf("after its writer: %+v, %v; want it anew", prior, err)
	}
	must(t, s.StageBatch(ctx, id, lines(1), tasks.Limits{}))
	// The first one's commit comes late.
	if _, err := s.CommitBatch(ctx, id, tasks.BatchCommit{Lines: 2}); !errors.Is(err, tasks.ErrNotFound) {
		t.Errorf("a commit of other lines: %v", err)
	}
	must(t, s.StageBatch(ctx, id, lines(2), tasks.Limits{}))
	b, err := s.CommitBatch(ctx, id, tasks.BatchCommit{Lines: 3})
	if err != nil || b.Counts.Total != 3 {
		t.Fatalf("commit: %+v, %v", b, err)
	}
	if _, prior, err := s.OpenBatch(ctx, id, "acme", ""); err != nil || prior == nil || prior.ID != id || prior.Lines != 3 {
		t.Errorf("once it is accepted: %+v, %v; want the first", prior, err)
	}
	if _, _, err := s.OpenBatch(ctx, id, "other", ""); !errors.Is(err, tasks.ErrIDTaken) {
		t.Errorf("for another tenant: %v, want ErrIDTaken", err)
	}
}
