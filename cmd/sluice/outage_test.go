package main

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hibiken/asynq"

	"github.com/sluicehq/sluice/api/auth"
	"github.com/sluicehq/sluice/cmd/sluice/config"
	"github.com/sluicehq/sluice/tasks"
	"github.com/sluicehq/sluice/tasks/redistest"
)

// What a provider does, byte for byte, and what callers see of it: the whole
// program in one process, on a real Redis, over HTTP.

// recorded returns a provider's answer as it was recorded, with old replaced.
func recorded(t *testing.T, name string, replace ...string) []byte {
	t.Helper()
	raw, err := os.ReadFile(filepath.Join("..", "..", "worker", "upstream", "testdata", name+".http"))
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i+1 < len(replace); i += 2 {
		if !bytes.Contains(raw, []byte(replace[i])) {
			t.Fatalf("%s does not hold %q", name, replace[i])
		}
		raw = bytes.ReplaceAll(raw, []byte(replace[i]), []byte(replace[i+1]))
	}
	return raw
}

// wire is a provider that answers recorded bytes.
type wire struct {
	*httptest.Server
	mu     sync.Mutex
	steps  [][]byte    // one a call of a job; the last for ever. nil answers nothing
	probe  []byte      // what a probe gets; nil: as a job's call would
	calls  []time.Time // of jobs
	models []string    // that they named
	probes int
	lists  int           // of models that were asked for
	gather int           // the number of calls that are held until all are there; below 0: until a test says so
	held   chan struct{} // closed when they are
}

func newWire(t *testing.T, steps ...[]byte) *wire {
	w := &wire{steps: steps, held: make(chan struct{})}
	w.Server = httptest.NewServer(w)
	t.Cleanup(w.Close)
	return w
}

func (w *wire) ServeHTTP(rw http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	var asked struct {
		Model     string `json:"model"`
		MaxTokens int    `json:"max_tokens"`
	}
	_ = json.Unmarshal(body, &asked)
	w.mu.Lock()
	answer := w.steps[min(len(w.calls), len(w.steps)-1)]
	wait := w.held
	if r.Method == http.MethodGet {
		w.lists++
		wait = nil
		if !bytes.HasPrefix(answer, []byte("HTTP/1.1 401")) {
			answer = []byte("HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nConnection: close\r\nContent-Length: 11\r\n\r\n{\"data\":[]}")
		}
	} else if asked.MaxTokens == 1 {
		w.probes++
		wait = nil
		if w.probe != nil {
			answer = w.probe
		}
	} else {
		w.calls = append(w.calls, time.Now())
		w.models = append(w.models, asked.Model)
		switch {
		case w.gather == 0:
			wait = nil
		case len(w.calls) == w.gather:
			close(w.held)
		}
	}
	w.mu.Unlock()
	if wait != nil {
		select {
		case <-wait:
		case <-r.Context().Done():
			return
		}
	}
	if answer == nil {
		<-r.Context().Done()
		return
	}
	conn, out, err := http.NewResponseController(rw).Hijack()
	if err != nil {
		return
	}
	defer conn.Close()
	_, _ = out.Write(answer)
	_ = out.Flush()
}

// now makes the provider answer all further calls so.
func (w *wire) now(answer []byte) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.steps, w.probe = [][]byte{answer}, nil
}

// hold makes it keep the calls that come from now on until the release.
func (w *wire) hold() (release func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	held := make(chan struct{})
	w.held = held
	return func() { close(held) }
}

func (w *wire) seen() (calls []time.Time, probes int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return append([]time.Time(nil), w.calls...), w.probes
}

// stage is the program under test.
type stage struct {
	t     *testing.T
	s     *service
	url   string
	token string
	redis *redistest.Server
	said  *heard
}

// heard keeps what the program logs.
type heard struct {
	mu sync.Mutex
	b  bytes.Buffer
}

// Write takes a line.
func (h *heard) Write(p []byte) (int, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.b.Write(p)
}

func (h *heard) count(text string) int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return strings.Count(h.b.String(), text)
}

// outage starts the program with these providers and pools, in YAML.
func outage(t *testing.T, yaml string) *stage {
	t.Helper()
	redis := redistest.Start(t, redistest.Options{})
	return outageOn(t, redis, redis.URL(), yaml)
}

// configured is the program's configuration with a Redis at url.
func configured(t *testing.T, url, yaml string) *config.Config {
	t.Helper()
	file := filepath.Join(t.TempDir(), "sluice.yaml")
	if err := os.WriteFile(file, []byte(yaml), 0o600); err != nil {
		t.Fatal(err)
	}
	environ := []string{
		"HOME=" + t.TempDir(), "SLUICE_REDIS__URL=" + url, "SLUICE_AUTH__HMAC_SECRET=" + string(stageSecret),
		"SLUICE_LISTEN=127.0.0.1:0", "SLUICE_OPS_LISTEN=127.0.0.1:0",
	}
	if !strings.Contains(yaml, "seal:") && url != "" {
		environ = append(environ, "SLUICE_SEAL=off") // else that is a notice
	}
	cfg, faults := config.Load(file, environ)
	if len(faults) > 0 {
		t.Fatal(faults)
	}
	return cfg
}

var stageSecret = bytes.Repeat([]byte("s"), 32)

// outageOn starts the program on a Redis that it reaches at url; "" is its own.
func outageOn(t *testing.T, redis *redistest.Server, url, yaml string) *stage {
	t.Helper()
	return outageAt(t, redis, url, yaml, nil)
}

// outageAt is outageOn with the time that Redis has for the record; nil: its own.
func outageAt(t *testing.T, redis *redistest.Server, url, yaml string, now func() time.Time) *stage {
	t.Helper()
	return outageLogs(t, redis, url, yaml, now, slog.LevelWarn)
}

// outageLogs is outageAt whose log begins at a level.
func outageLogs(t *testing.T, redis *redistest.Server, url, yaml string, now func() time.Time, level slog.Level) *stage {
	t.Helper()
	url = cmp.Or(url, redis.URL())
	cfg := configured(t, url, yaml)
	r := &stage{t: t, redis: redis, said: &heard{}}
	log := slog.New(slog.NewTextHandler(io.MultiWriter(t.Output(), r.said), &slog.HandlerOptions{Level: level}))
	var err error
	if r.s, err = newService(t.Context(), cfg, roles{api: true, worker: true, grace: 100 * time.Millisecond, now: now, keepAlive: 50 * time.Millisecond}, log); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	listening, done := make(chan string, 1), make(chan error, 1)
	go func() {
		done <- r.s.serveAPI(ctx, stageSecret, func(url string) { listening <- url })
	}()
	t.Cleanup(func() {
		cancel()
		if err := errors.Join(<-done, r.s.close()); err != nil {
			t.Error(err)
		}
		http.DefaultClient.CloseIdleConnections()
	})
	select {
	case r.url = <-listening:
	case <-time.After(time.Minute):
		t.Fatal("the API does not listen after a minute")
	}
	r.token = r.mint("acme")
	return r
}

// mint returns a tenant's token.
func (r *stage) mint(tenant string) string {
	r.t.Helper()
	token, err := auth.Mint(auth.MintConfig{
		Secret: stageSecret, Issuer: "sluice", Audience: "sluice", Subject: "ann", Tenant: tenant,
		Scopes: []string{auth.ScopeJobsRead, auth.ScopeJobsWrite, auth.ScopeWebhooksWrite, auth.ScopeAdmin}, TTL: time.Hour,
	})
	if err != nil {
		r.t.Fatal(err)
	}
	return token
}

// claude is a configuration of one Anthropic pool at that address.
func claude(url string) string {
	return fmt.Sprintf(`
providers:
  anthropic: {dialect: anthropic, base_url: %q, api_key: the-secret-key}
pools:
  claude:
    provider: anthropic
    models: ["claude-*"]
    limits: {requests_per_minute: 6000, request_burst: 50, concurrency: 32}
    max_attempts: 5
    breaker: {window: 10s, min_calls: 4, failure_ratio: 0.5, probe_interval: 300ms}
`, url)
}

type jobView struct {
	ID, Status, Model, Pool, Text string
	Attempts                      int
	Waiting                       *struct {
		For            string
		EstimatedStart *time.Time `json:"estimated_start_at"`
	}
	Error *struct {
		Code        string
		MaybeBilled bool `json:"maybe_billed"`
	}
	Upstream *struct {
		Provider string
		Attempts []struct {
			Outcome, Model string
		}
	}
}

func (j jobView) outcomes() string {
	var out []string
	if j.Upstream != nil {
		for _, a := range j.Upstream.Attempts {
			out = append(out, a.Outcome)
		}
	}
	return strings.Join(out, " ")
}

type poolView struct {
	Name, State, Reason string
	PausedBy            string     `json:"paused_by"`
	Resume              *time.Time `json:"expected_resume_at"`
	Probe               *time.Time `json:"next_probe_at"`
}

// call makes one request and reads its answer into out.
func (r *stage) call(method, path, body string, out any, header ...string) *http.Response {
	r.t.Helper()
	req, err := http.NewRequestWithContext(r.t.Context(), method, r.url+path, strings.NewReader(body))
	if err != nil {
		r.t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+r.token)
	if body != "" {
		req.Header.Set("Content-Type", "application/json")
	}
	for i := 0; i+1 < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		r.t.Fatal(err)
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		r.t.Fatal(err)
	}
	if res.StatusCode == http.StatusNoContent {
		return res
	}
	if err := json.Unmarshal(b, out); err != nil {
		r.t.Fatalf("%s %s: %s: %v", method, path, b, err)
	}
	return res
}

const hello = `{"model":"claude-sonnet-4-5","prompt":"hello","max_tokens":16}`

// submit has a job accepted. It sends again, as any caller does, what a busy machine
// refuses because Redis did not say in time what was revoked.
func (r *stage) submit() string {
	r.t.Helper()
	var j struct {
		ID     string
		Status any // a number in a refusal
	}
	r.until("a job is accepted", func() bool {
		res := r.call("POST", "/v1/jobs", hello, &j)
		if res.StatusCode != http.StatusAccepted && res.StatusCode != http.StatusServiceUnavailable {
			r.t.Fatalf("submit: %s", res.Status)
		}
		return res.StatusCode == http.StatusAccepted
	})
	return j.ID
}

func (r *stage) job(id string) (j jobView) {
	r.t.Helper()
	r.call("GET", "/v1/jobs/"+id, "", &j)
	return j
}

func (r *stage) pool(name string) poolView {
	r.t.Helper()
	var s struct{ Pools []poolView }
	r.call("GET", "/v1/status", "", &s)
	for _, p := range s.Pools {
		if p.Name == name {
			return p
		}
	}
	r.t.Fatalf("no pool %s in %+v", name, s)
	return poolView{}
}

func (r *stage) until(what string, ok func() bool) {
	r.t.Helper()
	redistest.Until(r.t, what, ok)
}

func (r *stage) final(id string) (j jobView) {
	r.t.Helper()
	r.until("job "+id+" ends", func() bool {
		j = r.job(id)
		return tasks.Status(j.Status).Final()
	})
	return j
}

func TestAnOrdinaryLimitHoldsThePoolUntilItsTime(t *testing.T) {
	t.Parallel()
	w := newWire(t, recorded(t, "anthropic/429-ordinary", "retry-after: 17", "retry-after: 2"), recorded(t, "anthropic/text"))
	r := outage(t, claude(w.URL))
	id := r.submit()
	r.until("the pool is held", func() bool {
		p := r.pool("claude")
		return p.State == "degraded" && p.Reason == "rate_limited" && p.Resume != nil
	})
	j := r.final(id)
	if j.Status != "succeeded" || j.Attempts != 1 || j.outcomes() != "rate_limited succeeded" {
		t.Errorf("job %+v", j)
	}
	if calls, _ := w.seen(); len(calls) != 2 || calls[1].Sub(calls[0]) < 2*time.Second {
		t.Errorf("called at %v", calls)
	}
}

func TestAShortLimitSoftensThePace(t *testing.T) {
	t.Parallel()
	w := newWire(t, recorded(t, "anthropic/429-ordinary", "retry-after: 17", "retry-after: 1"), recorded(t, "anthropic/text"))
	r := outage(t, claude(w.URL))
	first := r.submit()
	r.until("the refusal", func() bool { return r.job(first).outcomes() == "rate_limited" })
	state, err := r.s.gates["claude"].State(t.Context())
	if err != nil || state.HeldFor != 0 || state.Pace >= 1 || state.Pace < 0.9 {
		t.Errorf("gate %+v, %v; want a pace just below 1 and no hold", state, err)
	}
	if j := r.final(first); j.Status != "succeeded" || j.Attempts != 1 {
		t.Errorf("job %+v", j)
	}
}

// A 429 that says nothing is no spending limit: the pool waits and goes on by itself,
// and waits longer when it is refused again.
func TestA429ThatSaysNothingBacksOffByItself(t *testing.T) {
	t.Parallel()
	bare := recorded(t, "anthropic/429-bare")
	w := newWire(t, bare, bare, recorded(t, "anthropic/text"))
	r := outage(t, claude(w.URL))
	id := r.submit()
	r.until("the pool is held", func() bool {
		p := r.pool("claude")
		return p.State == "degraded" && p.Reason == "rate_limited"
	})
	r.until("it is asked again", func() bool { calls, _ := w.seen(); return len(calls) == 2 })
	if j := r.final(id); j.Status != "succeeded" || j.Attempts != 1 || j.outcomes() != "rate_limited rate_limited succeeded" {
		t.Errorf("job %+v, %s", j, j.outcomes())
	}
	calls, probes := w.seen()
	// After each refusal the model may be asked whether it is this job alone.
	if len(calls) != 3 || probes > 2 {
		t.Fatalf("%d calls, %d probes", len(calls), probes)
	}
	if first, second := calls[1].Sub(calls[0]), calls[2].Sub(calls[1]); first < 5*time.Second || second < 10*time.Second {
		t.Errorf("asked again after %v and %v; want 5 s and 10 s", first, second)
	}
}

func TestARampLimitIsFollowedByASlowStart(t *testing.T) {
	t.Parallel()
	w := newWire(t, recorded(t, "anthropic/429-ramp", "retry-after: 20", "retry-after: 1"), recorded(t, "anthropic/text"))
	r := outage(t, claude(w.URL))
	id := r.submit()
	r.until("the pool goes on at a tenth", func() bool {
		state, err := r.s.gates["claude"].State(t.Context())
		return err == nil && state.HeldFor == 0 && state.Pace > 0 && state.Pace < 0.15
	})
	if j := r.final(id); j.Status != "succeeded" || j.Attempts != 1 || j.outcomes() != "ramp_limited succeeded" {
		t.Errorf("job %+v", j)
	}
	if calls, _ := w.seen(); len(calls) != 2 || calls[1].Sub(calls[0]) < 5*time.Second {
		t.Errorf("called at %v; want the least hold of 5 s between them", calls)
	}
}

// A spend cap and a refused key pause the pool; nothing is counted, nothing is
// called, and an operator's resume tries again.
func TestWhatNoWaitCuresPausesThePool(t *testing.T) {
	t.Parallel()
	y, m, _ := time.Now().UTC().Date()
	nextMonth := time.Date(y, m+1, 1, 0, 0, 0, 0, time.UTC)
	stated := time.Now().UTC().Add(3 * time.Hour).Truncate(time.Minute)
	for _, c := range []struct {
		answer  string
		replace []string
		outcome string
		resume  time.Time // that the provider states
		soon    bool      // resume is a probe in 5 to 15 minutes
	}{
		{answer: "anthropic/429-spend", outcome: "spend_limited", resume: nextMonth},
		{answer: "anthropic/429-contract", outcome: "spend_limited", soon: true},
		{answer: "anthropic/400-customer-cap", replace: []string{"2026-12-01 at 00:00 UTC", stated.Format("2006-01-02 at 15:04 UTC")}, outcome: "spend_limited", resume: stated},
		{answer: "anthropic/400-credit", outcome: "spend_limited", soon: true},
		{answer: "anthropic/401", outcome: "unauthorized", soon: true},
	} {
		t.Run(c.answer, func(t *testing.T) {
			t.Parallel()
			w := newWire(t, recorded(t, c.answer, c.replace...))
			r := outage(t, claude(w.URL))
			first := r.submit()
			var p poolView
			r.until("the pool is paused", func() bool {
				p = r.pool("claude")
				return p.State == "paused"
			})
			if p.PausedBy != "breaker" || p.Reason != c.outcome {
				t.Errorf("pool %+v", p)
			}
			switch in := time.Duration(0); {
			case c.soon:
				if p.Probe != nil {
					in = time.Until(*p.Probe)
				}
				if in < 4*time.Minute || in > 16*time.Minute {
					t.Errorf("next probe in %v; want 5 to 15 minutes", in)
				}
			case c.resume.IsZero() != (p.Resume == nil), p.Resume != nil && !p.Resume.Equal(c.resume):
				t.Errorf("resumes at %v; want %v", p.Resume, c.resume)
			}
			// It is accepted all the same, and its caller is told at once.
			var second jobView
			asked := time.Now()
			res := r.call("POST", "/v1/jobs", hello, &second, "Prefer", "wait=30")
			if res.StatusCode != http.StatusAccepted || second.Waiting == nil || second.Waiting.For != "paused" {
				t.Fatalf("submit while paused: %s %+v", res.Status, second)
			}
			if took := time.Since(asked); took > 20*time.Second {
				t.Errorf("the answer took %v; want it at once", took)
			}
			after, err := strconv.Atoi(res.Header.Get("Retry-After"))
			if err != nil || after < 1 {
				t.Errorf("Retry-After %q", res.Header.Get("Retry-After"))
			}
			if p.Resume != nil {
				if at := time.Now().Add(time.Duration(after) * time.Second); at.Before(p.Resume.Add(-2*time.Second)) || at.After(p.Resume.Add(time.Minute)) {
					t.Errorf("Retry-After %d s, the pool resumes at %v", after, p.Resume)
				}
				if start := second.Waiting.EstimatedStart; start == nil || start.Before(p.Resume.Add(-2*time.Second)) {
					t.Errorf("estimated start %v, the pool resumes at %v", start, p.Resume)
				}
			}
			// A deadline before the stated time cannot be met, and its caller is told.
			if !c.resume.IsZero() {
				var refused struct{ Code string }
				late := strings.Replace(hello, "{", `{"deadline":"`+time.Now().Add(time.Hour).UTC().Format(time.RFC3339)+`",`, 1)
				r.call("POST", "/v1/jobs", late, &refused, "Idempotency-Key", "late")
				res := r.call("POST", "/v1/jobs", late, &refused, "Idempotency-Key", "late") // the first has not kept it
				if after, err := strconv.Atoi(res.Header.Get("Retry-After")); res.StatusCode != http.StatusServiceUnavailable || refused.Code != "deadline_unreachable" ||
					err != nil || after < int(time.Until(c.resume.Add(-time.Hour-time.Minute)).Seconds()) {
					t.Errorf("a deadline in an hour: %s %s, Retry-After %q", res.Status, refused.Code, res.Header.Get("Retry-After"))
				}
			}
			asks := 1 // whether it is this job's model alone that has no money; a list of models tells for a key
			if c.outcome == "unauthorized" {
				asks = 0
			}
			if calls, probes := w.seen(); len(calls) != 1 || probes != asks {
				t.Errorf("%d calls and %d probes; want 1 and %d", len(calls), probes, asks)
			}
			w.now(recorded(t, "anthropic/text"))
			r.call("POST", "/v1/pools/claude/resume", "", &p)
			for _, id := range []string{first, second.ID} {
				if j := r.final(id); j.Status != "succeeded" || j.Attempts != 1 {
					t.Errorf("job %+v", j)
				}
			}
			if j := r.job(first); j.outcomes() != c.outcome+" succeeded" {
				t.Errorf("attempts %q", j.outcomes())
			}
		})
	}
}

// Calls that fail together open the breaker; those in flight then use up no
// attempt, nothing is called but the probe, and the pool reopens by itself.
func TestAnOutagePausesProbesAndReopens(t *testing.T) {
	t.Parallel()
	const jobs, trips = 8, 4
	for _, answer := range []string{"anthropic/529", "anthropic/500", "anthropic/504", "anthropic/stream-overloaded"} {
		t.Run(answer, func(t *testing.T) {
			t.Parallel()
			w := newWire(t, recorded(t, answer))
			w.gather = jobs
			r := outage(t, claude(w.URL))
			var ids []string
			for range jobs {
				ids = append(ids, r.submit())
			}
			r.until("the pool is paused and probed", func() bool {
				_, probes := w.seen()
				return probes > 1 && r.pool("claude").State == "paused"
			})
			if p := r.pool("claude"); p.PausedBy != "breaker" || p.Resume == nil {
				t.Errorf("pool %+v", p)
			}
			// One that failed before the breaker had heard of enough may be tried once more.
			if calls, _ := w.seen(); len(calls) < jobs || len(calls) > jobs+trips {
				t.Errorf("%d calls of jobs while down; want the first %d and at most %d more", len(calls), jobs, trips)
			}
			w.now(recorded(t, "anthropic/text"))
			attempts := 0
			for _, id := range ids {
				j := r.final(id)
				if j.Status != "succeeded" {
					t.Errorf("job %+v", j)
				}
				attempts += j.Attempts
			}
			if attempts >= jobs+2*trips {
				t.Errorf("%d attempts used by %d jobs; want at most %d more, from before the breaker opened", attempts, jobs, 2*trips-1)
			}
			r.until("the pool is open", func() bool { return r.pool("claude").State != "paused" })
		})
	}
}

// A caller's own short deadline says nothing about the provider.
func TestDeadlinesDoNotOpenTheBreaker(t *testing.T) {
	t.Parallel()
	w := newWire(t, nil)
	r := outage(t, claude(w.URL))
	for in := time.Second; ; in *= 4 { // on a busy machine some are over before their call is made
		before, _ := w.seen()
		var ids []string
		for range 6 {
			var j struct {
				ID     string
				Status any // a number in a refusal
			}
			body := strings.Replace(hello, "{", `{"deadline":"`+time.Now().Add(in).UTC().Format(time.RFC3339Nano)+`",`, 1)
			if res := r.call("POST", "/v1/jobs", body, &j); res.StatusCode == http.StatusAccepted {
				ids = append(ids, j.ID)
			} else if in > time.Minute {
				t.Fatalf("submit: %s", res.Status)
			}
		}
		for _, id := range ids {
			if j := r.final(id); j.Status != "expired" {
				t.Errorf("job %+v", j)
			}
		}
		calls, _ := w.seen()
		if n := len(calls) - len(before); n < 6 && in < time.Minute {
			continue
		} else if n != 6 {
			t.Errorf("%d calls; want each job's", n)
		}
		break
	}
	if p := r.pool("claude"); p.State == "paused" {
		t.Errorf("pool %+v", p)
	}
}

// What somebody paused in asynqmon is an operator's pause: the breaker keeps
// it, callers are told, and only an operator resumes. The audit list has both.
func TestAPauseMadeInAsynqmonIsAnOperators(t *testing.T) {
	t.Parallel()
	w := newWire(t, recorded(t, "anthropic/text"))
	r := outage(t, claude(w.URL))
	r.final(r.submit()) // the queue exists
	if err := asynq.NewInspectorFromRedisClient(r.redis.Client()).PauseQueue("claude"); err != nil {
		t.Fatal(err)
	}
	r.until("the pause is seen", func() bool { return r.pool("claude").State == "paused" })
	if p := r.pool("claude"); p.PausedBy != "operator" {
		t.Errorf("pool %+v", p)
	}
	id := r.submit()
	if j := r.job(id); j.Waiting == nil || j.Waiting.For != "paused" {
		t.Errorf("job %+v", j)
	}
	var p poolView
	r.call("POST", "/v1/pools/claude/resume", "", &p)
	if j := r.final(id); j.Status != "succeeded" {
		t.Errorf("job %+v", j)
	}
	var audit struct {
		Data []struct{ Action, By string }
	}
	r.call("GET", "/v1/pools/claude/audit", "", &audit)
	if got := fmt.Sprint(audit.Data); got != "[{resume ann} {pause unknown}]" {
		t.Errorf("audit %s", got)
	}
}

// A pause and a resume in asynqmon by somebody who is signed in are that person's, and
// hold: jobs wait, and go on.
func TestAPauseInAsynqmonBySomebodyIsTheirs(t *testing.T) {
	t.Parallel()
	w := newWire(t, recorded(t, "anthropic/text"))
	r := outage(t, claude(w.URL))
	r.final(r.submit()) // the queue exists
	change := func(act string) {
		t.Helper()
		if res := r.call("POST", "/monitoring/api/queues/claude:"+act, "", nil); res.StatusCode != http.StatusNoContent {
			t.Fatalf("%s: %s", act, res.Status)
		}
	}
	change("pause")
	if p := r.pool("claude"); p.State != "paused" || p.PausedBy != "operator" {
		t.Errorf("pool %+v", p)
	}
	id := r.submit()
	change("resume")
	if j := r.final(id); j.Status != "succeeded" {
		t.Errorf("job %+v", j)
	}
	if p := r.pool("claude"); p.State != "open" {
		t.Errorf("pool %+v", p)
	}
	var audit struct {
		Data []struct{ Action, By, Reason string }
	}
	r.call("GET", "/v1/pools/claude/audit", "", &audit)
	if got := fmt.Sprint(audit.Data); got != "[{resume ann } {pause ann paused in asynqmon}]" {
		t.Errorf("audit %s", got)
	}
}

// both is a configuration of two pools, the first with a fallback to the second.
func both(first, second, more string) string {
	return fmt.Sprintf(`
providers:
  anthropic: {dialect: anthropic, base_url: %q, api_key: the-secret-key}
  openai: {dialect: openai, base_url: %q, api_key: another-key}
pools:
  claude:
    provider: anthropic
    models: ["claude-*"]
    limits: {requests_per_minute: 6000, request_burst: 50, concurrency: 32}
    max_attempts: 2
    breaker: {window: 10s, min_calls: 50, failure_ratio: 0.5, probe_interval: 300ms}
    %s
  gpt:
    provider: openai
    models: ["gpt-*"]
    limits: {requests_per_minute: 6000, request_burst: 50, concurrency: 32}
`, first, second, more)
}

// A job that names other models is answered by one of them while its pool is
// paused, and says so; one that names none waits.
func TestFallbacksAnswerWhileThePoolIsPaused(t *testing.T) {
	t.Parallel()
	down, up := newWire(t, recorded(t, "anthropic/401")), newWire(t, recorded(t, "openai/text"))
	r := outage(t, both(down.URL, up.URL, ""))
	with := strings.Replace(hello, "{", `{"fallback_models":["claude-haiku-4-5","gpt-5"],`, 1)
	var first, second jobView
	r.call("POST", "/v1/jobs", with, &first) // finds out that the key is refused
	j := r.final(first.ID)
	if j.Status != "succeeded" || j.Pool != "gpt" || j.Model != "claude-sonnet-4-5" || j.Attempts != 1 || j.outcomes() != "unauthorized succeeded" ||
		j.Upstream.Provider != "openai" || j.Upstream.Attempts[0].Model != "" || j.Upstream.Attempts[1].Model != "gpt-5" {
		t.Errorf("job %+v %+v", j, j.Upstream)
	}
	plain := r.submit()
	if res := r.call("POST", "/v1/jobs", with, &second, "Prefer", "wait=20"); res.StatusCode != http.StatusOK || second.Status != "succeeded" {
		t.Errorf("with a fallback, the pool paused: %s %+v", res.Status, second)
	}
	// The provider's own body goes to no other dialect.
	var raw jobView
	r.call("POST", "/v1/jobs", `{"request":{"model":"claude-sonnet-4-5","max_tokens":16,"messages":[{"role":"user","content":"x"}]},"fallback_models":["gpt-5"]}`, &raw)
	for _, id := range []string{plain, raw.ID} {
		if j := r.job(id); j.Waiting == nil || j.Waiting.For != "paused" || j.Pool != "claude" {
			t.Errorf("job %+v; want it to wait", j)
		}
	}
	if calls, _ := down.seen(); len(calls) != 1 {
		t.Errorf("%d calls to the provider that refuses the key", len(calls))
	}
	up.mu.Lock()
	defer up.mu.Unlock()
	if fmt.Sprint(up.models) != "[gpt-5 gpt-5]" {
		t.Errorf("the fallback was asked for %q", up.models)
	}
}

// The pool's own list serves jobs that have none, also when attempts end; an
// empty list of a job's own asks for no other model.
func TestFallbacksAnswerWhenAttemptsAreExhausted(t *testing.T) {
	t.Parallel()
	down, up := newWire(t, recorded(t, "anthropic/500")), newWire(t, recorded(t, "openai/text"))
	r := outage(t, both(down.URL, up.URL, "fallback_models: [gpt-5]"))
	id := r.submit()
	if j := r.final(id); j.Status != "succeeded" || j.Pool != "gpt" || j.Attempts != 3 || j.outcomes() != "server_error server_error succeeded" ||
		j.Upstream.Attempts[2].Model != "gpt-5" {
		t.Errorf("job %+v %+v", j, j.Upstream)
	}
	var none jobView
	r.call("POST", "/v1/jobs", strings.Replace(hello, "{", `{"fallback_models":[],`, 1), &none)
	if j := r.final(none.ID); j.Status != "failed" || j.Error == nil || j.Error.Code != "attempts_exhausted" || j.Attempts != 2 {
		t.Errorf("job %+v", j)
	}
}

// A request of temperature 0 is answered once for its tenant while its answer is
// kept; deleting a job that has it forgets the kept copy too.
func TestARepeatableRequestIsAnsweredFromMemory(t *testing.T) {
	t.Parallel()
	w := newWire(t, recorded(t, "anthropic/text"))
	r := outage(t, strings.Replace(claude(w.URL), "max_attempts: 5", "max_attempts: 5\n    cache: {ttl: 1h}", 1))
	ask := func(temperature string) (out struct {
		jobView
		Result json.RawMessage
		Usage  *struct{}
	}) {
		t.Helper()
		body := `{"request":{"model":"claude-sonnet-4-5","max_tokens":16,"temperature":` + temperature + `,"messages":[{"role":"user","content":"x"}]}}`
		if res := r.call("POST", "/v1/jobs", body, &out, "Prefer", "wait=20"); res.StatusCode != http.StatusOK || out.Status != "succeeded" {
			t.Fatalf("submit: %s %+v", res.Status, out)
		}
		return out
	}
	calls := func(want int, what string) {
		t.Helper()
		if got, _ := w.seen(); len(got) != want {
			t.Errorf("%d calls after %s; want %d", len(got), what, want)
		}
	}
	first := ask("0")
	r.until("the answer is kept", func() bool {
		keys, err := r.redis.Client().Keys(t.Context(), "sluice:{s}:a:*").Result()
		return err == nil && len(keys) == 1
	})
	second := ask("0")
	calls(1, "the same request twice")
	if second.outcomes() != "cached" || first.outcomes() != "succeeded" || second.Upstream.Provider != "anthropic" ||
		!bytes.Equal(second.Result, first.Result) || second.Usage != nil || first.Usage == nil {
		t.Errorf("first %+v, second %+v", first, second)
	}
	ask("0.5")
	ask("0.5")
	calls(3, "two of another temperature")
	own := r.token
	r.token = r.mint("umbrella")
	if other := ask("0"); other.outcomes() != "succeeded" {
		t.Errorf("another tenant's job %+v", other)
	}
	calls(4, "another tenant's")
	r.token = own
	req, err := http.NewRequestWithContext(t.Context(), http.MethodDelete, r.url+"/v1/jobs/"+second.ID, nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+r.token)
	res, err := http.DefaultClient.Do(req)
	if err != nil || res.Body.Close() != nil || res.StatusCode != http.StatusNoContent {
		t.Fatalf("delete: %v %v", res, err)
	}
	ask("0")
	calls(5, "the deletion of a job that had the answer")
}

// fronted is a stage of an API alone: nobody works.
func fronted(t *testing.T, cfg *config.Config) *stage {
	t.Helper()
	s, err := newService(t.Context(), cfg, roles{api: true}, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.close() })
	a, err := s.newAPI("http://sluice.test", stageSecret)
	if err != nil {
		t.Fatal(err)
	}
	front := httptest.NewServer(a.Handler())
	t.Cleanup(front.Close)
	r := &stage{t: t, s: s, url: front.URL}
	r.token = r.mint("acme")
	return r
}
