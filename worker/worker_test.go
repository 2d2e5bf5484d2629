package worker_test

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/sluicehq/sluice/tasks"
	"github.com/sluicehq/sluice/tasks/queue"
	"github.com/sluicehq/sluice/tasks/redistest"
	"github.com/sluicehq/sluice/tasks/store"
	"github.com/sluicehq/sluice/worker"
	"github.com/sluicehq/sluice/worker/limit"
	"github.com/sluicehq/sluice/worker/pool"
	"github.com/sluicehq/sluice/worker/spill"
	"github.com/sluicehq/sluice/worker/upstream"
)

func TestMain(m *testing.M) {
	// These tests wait for schedules, each with a Redis of its own, and need
	// little of a processor. -parallel still has the last word.
	_ = flag.Set("test.parallel", "8")
	goleak.VerifyTestMain(m)
}

const claude = "claude"

// say answers as the Messages API streams "hi".
func say(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "text/event-stream")
	w.Header().Set("Request-Id", "req_test")
	for _, e := range []string{
		`{"type":"message_start","message":{"id":"msg_1","type":"message","role":"assistant","model":"m","content":[],"stop_reason":null,"usage":{"input_tokens":7,"output_tokens":1}}}`,
		`{"type":"content_block_start","index":0,"content_block":{"type":"text","text":""}}`,
		`{"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"hi"}}`,
		`{"type":"content_block_stop","index":0}`,
		`{"type":"message_delta","delta":{"stop_reason":"end_turn"},"usage":{"output_tokens":2}}`,
		`{"type":"message_stop"}`,
	} {
		var kind string
		kind, _, _ = strings.Cut(strings.TrimPrefix(e, `{"type":"`), `"`)
		fmt.Fprintf(w, "event: %s\ndata: %s\n\n", kind, e)
	}
}

// refuse answers with a status and Anthropic's error body.
func refuse(status int, kind string, header ...string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		for i := 0; i+1 < len(header); i += 2 {
			w.Header().Set(header[i], header[i+1])
		}
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(status)
		fmt.Fprintf(w, `{"type":"error","error":{"type":%q,"message":"no"}}`, kind)
	}
}

// provider answers its calls with each of its steps in turn, the last for ever.
type provider struct {
	*httptest.Server
	mu    sync.Mutex
	steps []http.HandlerFunc
	calls int
}

func newProvider(t *testing.T, steps ...http.HandlerFunc) *provider {
	p := &provider{steps: steps}
	p.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body) // a server notices that its caller is gone once it has read all
		r.Body = io.NopCloser(bytes.NewReader(body))
		p.mu.Lock()
		step := p.steps[min(p.calls, len(p.steps)-1)]
		p.calls++
		p.mu.Unlock()
		step(w, r)
	}))
	t.Cleanup(p.Close)
	return p
}

func (p *provider) count() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.calls
}

// system is a worker and all that it needs, on a Redis of its own.
type system struct {
	t      *testing.T
	store  *store.Store
	feeder *queue.Feeder
	notes  *store.Notices
	srv    *redistest.Server
	stop   func() // the worker, as a SIGTERM does
}

type options struct {
	max         int
	timeout     time.Duration
	grace       time.Duration
	paused      *atomic.Bool
	aof         string
	startWithin time.Duration
	log         *slog.Logger
	record      func(worker.Record) worker.Record // around the store; nil: the store itself
	leases      func(worker.Leases) worker.Leases // likewise
	spill       func(*system) *spill.Folder       // nil: none
	keepAfter   time.Duration
	large       int
	prices      tasks.Prices
}

type health struct{ paused *atomic.Bool }

func (h health) Report(context.Context, pool.Call, upstream.Answer) pool.Standing {
	if h.paused.Load() {
		return pool.Paused
	}
	return pool.Open
}

func (health) Held(context.Context, string) time.Duration { return 0 }
func (health) Paused(context.Context) bool                { return false }
func (health) Shut() bool                                 { return false }
func (health) Sick(string) bool                           { return false }
func (health) Try(context.Context, string)                {}
func (health) Gone() <-chan struct{}                      { return nil }

func start(t *testing.T, p *provider, o options) *system {
	t.Helper()
	srv := redistest.Start(t, redistest.Options{AOF: o.aof})
	rdb := srv.Client()
	s := &system{t: t, srv: srv}
	s.store = store.New(store.Config{Redis: rdb, Depth: map[string]int{claude: 8}})
	var w *worker.Worker
	s.feeder = queue.NewFeeder(queue.Config{Redis: rdb, Backlog: s.store, Every: 20 * time.Millisecond, Kick: func(_ context.Context, p string, n int) { w.Kick(p, n) }})
	gate, err := limit.New(limit.Config{Redis: rdb, Pool: claude})
	if err != nil {
		t.Fatal(err)
	}
	caller, err := upstream.New(upstream.Config{Provider: upstream.Provider{Name: "anthropic", Dialect: upstream.Anthropic, BaseURL: p.URL, APIKey: "k"}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(caller.Close)
	cfg := worker.Pool{Name: claude, Provider: "anthropic", Dialect: upstream.Anthropic, Caller: caller, Gate: gate, Timeout: cmp.Or(o.timeout, 10*time.Minute), MaxAttempts: cmp.Or(o.max, 5), Concurrency: 8}
	if o.paused != nil {
		cfg.Health = health{o.paused}
	}
	record := worker.Record(s.store)
	if o.record != nil {
		record = o.record(record)
	}
	leases := worker.Leases(s.store)
	if o.leases != nil {
		leases = o.leases(leases)
	}
	if o.grace == 0 {
		o.grace = 10 * time.Second
	}
	var keeps worker.Spill
	if o.spill != nil {
		keeps = o.spill(s)
	}
	w, err = worker.New(worker.Config{
		Spill: keeps, KeepAfter: o.keepAfter, Large: o.large, Prices: o.prices,
		Redis: srv.Client(), Record: record, Leases: leases, Texts: s.store, Feeder: s.feeder, Pools: []worker.Pool{cfg},
		RenewEvery: 50 * time.Millisecond, StartWithin: o.startWithin, Grace: o.grace, Log: o.log,
	})
	if err != nil {
		t.Fatal(err)
	}
	s.notes = store.NewNotices(rdb, "", s.store, func(c store.Control) {
		switch c.Verb {
		case "cancel":
			w.Cancel(c.What)
		case "listen":
			w.Listen(c.What)
		}
	})
	run := func(f func(context.Context) error) (stop func()) {
		ctx, cancel := context.WithCancel(context.Background())
		done := make(chan error, 1)
		go func() { done <- f(ctx) }()
		return sync.OnceFunc(func() {
			cancel()
			if err := <-done; err != nil {
				t.Error(err)
			}
		})
	}
	stops := []func(){run(s.feeder.Run), run(s.notes.Run)}
	s.stop = run(w.Run)
	t.Cleanup(func() {
		s.stop()
		for _, stop := range stops {
			stop()
		}
	})
	return s
}

func (s *system) submit(change ...func(*tasks.Job)) string {
	s.t.Helper()
	j := tasks.Job{
		ID: store.NewID("job"), Tenant: "acme", Pool: claude, Model: "claude-sonnet-4-5",
		Request: tasks.Request{Kind: tasks.Text, Body: []byte(`"hello"`), MaxTokens: 16, InputTokens: 5},
	}
	for _, c := range change {
		c(&j)
	}
	_, tickets, err := s.store.Create(s.t.Context(), tasks.Submission{Job: j})
	if err != nil {
		s.t.Fatal(err)
	}
	if err := s.feeder.Hand(s.t.Context(), tickets); err != nil {
		s.t.Fatal(err)
	}
	return j.ID
}

func (s *system) until(id string, ok func(tasks.Job) bool) tasks.Job {
	s.t.Helper()
	var j tasks.Job
	var err error
	came := false
	defer func() {
		if !came {
			s.t.Logf("job %s: %+v, %v", id, j, err)
		}
	}()
	redistest.Until(s.t, "job "+id+" comes so far", func() bool {
		j, err = s.store.Job(s.t.Context(), "acme", id)
		came = err == nil && ok(j)
		return came
	})
	return j
}

func (s *system) final(id string) tasks.Job {
	s.t.Helper()
	return s.until(id, func(j tasks.Job) bool { return j.Status.Final() })
}

func outcomes(j tasks.Job) (out []tasks.Outcome) {
	for _, a := range j.Log {
		out = append(out, a.Outcome)
	}
	return out
}

func TestAJobIsAnswered(t *testing.T) {
	t.Parallel()
	p := newProvider(t, say)
	s := start(t, p, options{})
	j := s.final(s.submit())
	if j.Status != tasks.StatusSucceeded || tasks.ResultText(j.Result) != "hi" || j.Usage.InputTokens != 7 || j.Usage.OutputTokens != 2 || j.Finish != tasks.FinishComplete ||
		j.Attempts != 1 || j.Provider != "anthropic" || len(j.Log) != 1 || j.Log[0].RequestID != "req_test" {
		t.Errorf("job %+v", j)
	}
}

// A query over the log finds a job's end whoever ended it: worker, caller or sweep.
func TestAnEndedJobsLineBeginsAsEverywhere(t *testing.T) {
	t.Parallel()
	for name, step := range map[string]http.HandlerFunc{"succeeded": say, "failed": refuse(400, "invalid_request_error")} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var said, want bytes.Buffer
			s := start(t, newProvider(t, step), options{log: slog.New(slog.NewTextHandler(&said, nil))})
			j := s.final(s.submit())
			s.stop()
			var code tasks.ErrorCode
			if j.Error != nil {
				code = j.Error.Code
			}
			slog.New(slog.NewTextHandler(&want, nil)).Info("job ended", tasks.EndedAttrs(&j, j.Status, code)...)
			_, line, _ := strings.Cut(strings.TrimSpace(want.String()), "msg=")
			if strings.Count(said.String(), line+" ") != 1 || !strings.Contains(line, "model=claude-sonnet-4-5 status="+name+" attempts=1") {
				t.Errorf("the log says\n%swant once, at the beginning of a line,\n%s", &said, line)
			}
		})
	}
}

func TestWhatBecomesOfEachAnswer(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name     string
		steps    []http.HandlerFunc
		max      int
		status   tasks.Status
		code     tasks.ErrorCode
		attempts int
		outcomes string
	}{
		{"a fault of the provider is tried again", []http.HandlerFunc{refuse(500, "api_error"), say}, 3,
			tasks.StatusSucceeded, "", 2, "[server_error succeeded]"},
		{"an overload is tried again", []http.HandlerFunc{refuse(529, "overloaded_error"), say}, 3,
			tasks.StatusSucceeded, "", 2, "[overloaded succeeded]"},
		{"a 429 is not an attempt", []http.HandlerFunc{refuse(429, "rate_limit_error", "Retry-After", "1"), say}, 1,
			tasks.StatusSucceeded, "", 1, "[rate_limited succeeded]"},
		{"a long 429 holds the pool and is not an attempt", []http.HandlerFunc{refuse(429, "rate_limit_error", "Retry-After", "2"), say}, 1,
			tasks.StatusSucceeded, "", 1, "[rate_limited succeeded]"},
		{"a fault of the request ends the job", []http.HandlerFunc{refuse(400, "invalid_request_error"), say}, 3,
			tasks.StatusFailed, tasks.UpstreamRejected, 1, "[rejected]"},
		{"attempts end", []http.HandlerFunc{refuse(500, "api_error")}, 2,
			tasks.StatusFailed, tasks.AttemptsExhausted, 2, "[server_error server_error]"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			p := newProvider(t, c.steps...)
			s := start(t, p, options{max: c.max})
			j := s.final(s.submit())
			var code tasks.ErrorCode
			if j.Error != nil {
				code = j.Error.Code
			}
			if j.Status != c.status || code != c.code || j.Attempts != c.attempts || fmt.Sprint(outcomes(j)) != c.outcomes {
				t.Errorf("got %s %s after %d attempts, calls %v; want %s %s after %d, calls %s",
					j.Status, code, j.Attempts, outcomes(j), c.status, c.code, c.attempts, c.outcomes)
			}
		})
	}
}

// Whoever looks at a job that waits for another try sees what went wrong last.
func TestAJobThatRetriesHasTheLastAttemptsError(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name string
		step http.HandlerFunc
		want tasks.JobError
	}{
		{"overload", refuse(529, "overloaded_error", "Retry-After", "600"), tasks.JobError{Code: tasks.UpstreamUnavailable, UpstreamStatus: 529}},
		{"fault", refuse(500, "api_error", "Retry-After", "600"), tasks.JobError{Code: tasks.UpstreamUnavailable, UpstreamStatus: 500}},
		{"pace", refuse(429, "rate_limit_error", "Retry-After", "600"), tasks.JobError{Code: tasks.UpstreamUnavailable, UpstreamStatus: 429}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			s := start(t, newProvider(t, c.step), options{max: 3})
			j := s.until(s.submit(), func(j tasks.Job) bool { return j.Status == tasks.StatusRetrying })
			if j.Error == nil || j.Error.Message == "" || j.Error.Code != c.want.Code || j.Error.UpstreamStatus != c.want.UpstreamStatus || j.Usage != nil {
				t.Errorf("while it waits for another try its error is %+v, want %+v", j.Error, c.want)
			}
		})
	}
}

// hang answers nothing until the caller goes away, and tells of both.
func hang(began, gone chan<- struct{}) http.HandlerFunc {
	return func(_ http.ResponseWriter, r *http.Request) {
		began <- struct{}{}
		<-r.Context().Done()
		gone <- struct{}{}
	}
}

func within(t *testing.T, c <-chan struct{}, what string) {
	t.Helper()
	select {
	case <-c:
	case <-time.After(time.Minute):
		t.Fatalf("%s: not within a minute", what)
	}
}

func TestACanceledJobsCallIsCutOff(t *testing.T) {
	t.Parallel()
	began, gone := make(chan struct{}, 1), make(chan struct{}, 1)
	s := start(t, newProvider(t, hang(began, gone)), options{})
	id := s.submit()
	within(t, began, "the call")
	if j, err := s.store.Cancel(t.Context(), "acme", id); err != nil || j.Status != tasks.StatusCanceled {
		t.Fatalf("cancel: %+v, %v", j, err)
	}
	within(t, gone, "the call's end")
	if j := s.final(id); j.Status != tasks.StatusCanceled || j.Error.Code != tasks.CanceledByCaller || !j.Error.MaybeBilled {
		t.Errorf("job %+v", j)
	}
}

func TestADeadlineCutsTheCallOff(t *testing.T) {
	t.Parallel()
	began, gone := make(chan struct{}, 1), make(chan struct{}, 1)
	s := start(t, newProvider(t, hang(began, gone)), options{})
	for in := 300 * time.Millisecond; ; in *= 4 { // on a busy machine the call may come after the deadline
		j := s.final(s.submit(func(j *tasks.Job) { j.Deadline = time.Now().Add(in) }))
		if j.Status == tasks.StatusExpired && len(j.Log) == 0 && in < 10*time.Second {
			continue
		}
		within(t, began, "the call")
		within(t, gone, "the call's end")
		if j.Status != tasks.StatusExpired || j.Error.Code != tasks.DeadlineExceeded || !j.Error.MaybeBilled {
			t.Errorf("job %+v %+v", j, j.Error)
		}
		break
	}
}

func TestShutdownFinishesCallsWithinTheGracePeriod(t *testing.T) {
	t.Parallel()
	began, release := make(chan struct{}, 1), make(chan struct{})
	s := start(t, newProvider(t, func(w http.ResponseWriter, r *http.Request) {
		began <- struct{}{}
		<-release
		say(w, r)
	}), options{})
	id := s.submit()
	within(t, began, "the call")
	stopped := make(chan struct{})
	go func() { s.stop(); close(stopped) }()
	close(release)
	within(t, stopped, "the stop")
	if j := s.final(id); j.Status != tasks.StatusSucceeded {
		t.Errorf("job %+v", j)
	}
}

func TestShutdownHandsBackUncounted(t *testing.T) {
	t.Parallel()
	began, gone := make(chan struct{}, 1), make(chan struct{}, 1)
	s := start(t, newProvider(t, hang(began, gone)), options{grace: 50 * time.Millisecond})
	id := s.submit()
	within(t, began, "the call")
	s.stop()
	j, err := s.store.Job(t.Context(), "acme", id)
	if err != nil || j.Status != tasks.StatusRetrying || j.Attempts != 0 || len(j.Log) != 1 || j.Log[0].Outcome != tasks.HandedBack || !j.Log[0].MaybeBilled {
		t.Errorf("job %+v, %v", j, err)
	}
}

// renewals tells of each renewal of leases, to who listens.
type renewals struct {
	worker.Leases
	told chan struct{}
}

func (r renewals) Renew(ctx context.Context, held []tasks.Ticket) ([]string, error) {
	lost, err := r.Leases.Renew(ctx, held)
	select {
	case r.told <- struct{}{}:
	default:
	}
	return lost, err
}

// patient records an end only when the leases were renewed twice meanwhile.
type patient struct {
	worker.Record
	renewed <-chan struct{}
	err     error
}

func (p *patient) End(ctx context.Context, t tasks.Ticket, e tasks.Ending) ([]tasks.Ticket, error) {
	for range 2 {
		select {
		case <-p.renewed:
		case <-time.After(time.Minute):
			p.err = errors.New("no lease was renewed for a minute")
		}
	}
	return p.Record.End(ctx, t, e)
}

// A slow Redis may take longer than a lease to hand back what the end of the
// grace period cut off: nobody else is given the job before.
func TestAJobIsLeasedUntilItIsHandedBack(t *testing.T) {
	t.Parallel()
	began, gone, renewed := make(chan struct{}, 1), make(chan struct{}, 1), make(chan struct{})
	record := &patient{renewed: renewed}
	s := start(t, newProvider(t, hang(began, gone)), options{
		grace:  50 * time.Millisecond,
		record: func(r worker.Record) worker.Record { record.Record = r; return record },
		leases: func(l worker.Leases) worker.Leases { return renewals{l, renewed} },
	})
	s.submit()
	within(t, began, "the call")
	s.stop()
	if record.err != nil {
		t.Error(record.err)
	}
}

// late answers the first renewal when the next call has begun, and tells when a second
// renewal begins: then the first has had its effect.
type late struct {
	worker.Leases
	renewals             int
	entered, next, after chan struct{}
}

func (l *late) Renew(ctx context.Context, held []tasks.Ticket) ([]string, error) {
	if len(held) > 0 {
		l.renewals++
	}
	switch {
	case len(held) == 0 || l.renewals > 2:
	case l.renewals == 2:
		close(l.after)
	default:
		close(l.entered)
		<-l.next
	}
	return l.Leases.Renew(ctx, held)
}

// A renewal that tells that an attempt was lost cut the call of the next attempt at
// the same job, where that had begun in the same process meanwhile.
func TestALateRenewalCutsOffNoLaterAttempt(t *testing.T) {
	t.Parallel()
	l := &late{entered: make(chan struct{}), next: make(chan struct{}), after: make(chan struct{})}
	var paused atomic.Bool
	paused.Store(true) // so that a failure costs neither time nor an attempt
	p := newProvider(t, func(w http.ResponseWriter, r *http.Request) {
		<-l.entered
		refuse(529, "overloaded_error")(w, r)
	}, func(w http.ResponseWriter, r *http.Request) {
		close(l.next)
		select {
		case <-l.after:
		case <-r.Context().Done():
		}
		say(w, r)
	}, say)
	s := start(t, p, options{paused: &paused, leases: func(of worker.Leases) worker.Leases { l.Leases = of; return l }})
	if j := s.final(s.submit()); j.Status != tasks.StatusSucceeded || len(j.Log) != 2 || p.count() != 2 {
		t.Errorf("%d calls, job %+v", p.count(), j)
	}
}

// Asynq runs a task again when its completion was lost: the record says no.
func TestAFinishedJobsTaskIsAcknowledgedUnrun(t *testing.T) {
	t.Parallel()
	p := newProvider(t, say)
	s := start(t, p, options{})
	id := s.submit()
	s.final(id)
	if err := s.feeder.Hand(t.Context(), []tasks.Ticket{{ID: id, Fence: 1, Pool: claude}}); err != nil {
		t.Fatal(err)
	}
	second := s.submit()
	s.final(second)
	if n := p.count(); n != 2 {
		t.Errorf("%d calls for two jobs", n)
	}
}

// While its pool is paused, a provider's fault uses up nothing.
func TestAPausedPoolsFaultsAreNotCounted(t *testing.T) {
	t.Parallel()
	var paused atomic.Bool
	paused.Store(true)
	p := newProvider(t, refuse(529, "overloaded_error"), refuse(529, "overloaded_error"), refuse(529, "overloaded_error"), say)
	s := start(t, p, options{max: 1, paused: &paused})
	if j := s.final(s.submit()); j.Status != tasks.StatusSucceeded || j.Attempts != 1 || len(j.Log) != 4 {
		t.Errorf("job %+v", j)
	}
}

// Redis is away when the answer comes: the answer is kept until it is back.
func TestAnAnswerOutlivesAnOutageOfRedis(t *testing.T) {
	t.Parallel()
	began, release := make(chan struct{}, 1), make(chan struct{})
	p := newProvider(t, func(w http.ResponseWriter, r *http.Request) {
		began <- struct{}{}
		<-release
		say(w, r)
	})
	s := start(t, p, options{aof: "always"})
	id := s.submit()
	within(t, began, "the call")
	s.srv.Kill()
	close(release)
	<-time.After(300 * time.Millisecond)
	s.srv.Start()
	if j := s.final(id); j.Status != tasks.StatusSucceeded || len(j.Log) != 1 {
		t.Errorf("job %+v", j)
	}
	if n := p.count(); n != 1 {
		t.Errorf("%d calls for one job", n)
	}
}
