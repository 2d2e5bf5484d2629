package pool

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/sluicehq/sluice/tasks"
	"github.com/sluicehq/sluice/tasks/redistest"
	"github.com/sluicehq/sluice/worker/pause"
	"github.com/sluicehq/sluice/worker/upstream"
)

// town is a provider, the ways to it of several processes, and their Redis. A way
// is the first part of a path.
type town struct {
	t   *testing.T
	rdb redis.UniversalClient
	srv *httptest.Server
	url string

	mu     sync.Mutex
	ill    map[string]int  // by model: the status of its answers
	down   int             // of all answers; 0: the provider is well
	cut    map[string]bool // by process: its connections are reset
	answer func(prompt string) (status int, body string)
	pings  []string // "process model"
	calls  int
}

func newTown(t *testing.T) *town {
	w := &town{t: t, rdb: redistest.New(t), ill: map[string]int{}, cut: map[string]bool{}}
	w.srv = httptest.NewServer(w)
	w.url = w.srv.URL
	srv := w.srv
	t.Cleanup(srv.Close)
	return w
}

func (w *town) ServeHTTP(rw http.ResponseWriter, r *http.Request) {
	process, _, _ := strings.Cut(r.URL.Path[1:], "/")
	raw, _ := io.ReadAll(r.Body)
	var asked struct {
		Model    string
		Messages []struct{ Content string }
	}
	_ = json.Unmarshal(raw, &asked)
	w.mu.Lock()
	status, body := 200, well
	switch {
	case w.cut[process]:
		w.mu.Unlock()
		panic(http.ErrAbortHandler)
	case w.down != 0:
		status, body = w.down, "{}"
	case r.Method == http.MethodGet:
		body = `{"object":"list","data":[{"id":"gpt-a"},{"id":"gpt-b"}]}`
	default:
		if asked.Messages[0].Content == "ping" {
			w.pings = append(w.pings, process+" "+asked.Model)
		} else {
			w.calls++
			if w.answer != nil {
				status, body = w.answer(asked.Messages[0].Content)
			}
		}
		if s := w.ill[asked.Model]; s != 0 {
			status, body = s, `{"error":{"message":"ill"}}`
		}
	}
	w.mu.Unlock()
	if body == "" {
		body = well
	}
	rw.Header().Set("Content-Type", "application/json")
	rw.WriteHeader(status)
	_, _ = io.WriteString(rw, body)
}

func (w *town) set(f func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	f()
}

// state is the pool's as somebody sees it who has not looked before.
func (w *town) state() pause.State {
	w.t.Helper()
	b, err := pause.New(pause.Config{Redis: w.rdb, Pool: "gpt", Queue: queue{w.rdb}})
	if err != nil {
		w.t.Fatal(err)
	}
	s, err := b.State(w.t.Context())
	if err != nil {
		w.t.Fatal(err)
	}
	return s
}

// process is one that makes calls.
type process struct {
	*desk
	name string
	stop func()
}

// process starts one of that name. Its address is shut while it is cut.
func (w *town) process(name string, models ...string) *process {
	w.t.Helper()
	return w.by(shutting{w, name, http.DefaultTransport}, name, models...)
}

// by is process, whose calls go out by a transport.
func (w *town) by(out http.RoundTripper, name string, models ...string) *process {
	w.t.Helper()
	if len(models) == 0 {
		models = []string{"gpt-*"}
	}
	caller, err := upstream.New(upstream.Config{
		Provider: upstream.Provider{Name: "p", Dialect: upstream.OpenAI, BaseURL: w.url + "/" + name, APIKey: "k"},
		Client:   &http.Client{Transport: out},
	})
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(caller.Close)
	h, err := NewHealth(HealthConfig{Breaker: pause.Config{Redis: w.rdb, Pool: "gpt", Queue: queue{w.rdb}}, Asker: caller, Models: models})
	if err != nil {
		w.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); _ = h.Run(ctx) }()
	stop := sync.OnceFunc(func() { cancel(); <-done })
	w.t.Cleanup(stop)
	return &process{&desk{w.t, h, caller}, name, stop}
}

// shutting refuses the connections of a process that is cut, as a dead proxy does.
type shutting struct {
	w    *town
	name string
	next http.RoundTripper
}

func (s shutting) RoundTrip(r *http.Request) (*http.Response, error) {
	s.w.mu.Lock()
	cut := s.w.cut[s.name]
	s.w.mu.Unlock()
	if cut {
		if r.Body != nil {
			_ = r.Body.Close()
		}
		return nil, fmt.Errorf("dial: connection refused")
	}
	return s.next.RoundTrip(r)
}

func (p *process) job(id, model, prompt string) (upstream.Answer, Standing) {
	body, _ := json.Marshal(prompt)
	sent := time.Now()
	a := p.caller.Do(p.t.Context(), upstream.Ask{Question: upstream.Read(model, tasks.Request{Kind: tasks.Text, Body: body, MaxTokens: 5})})
	return a, p.h.Report(p.t.Context(), Call{Job: id, Model: model, Prompt: body, Took: time.Since(sent)}, a)
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	redistest.Until(t, what, ok)
}

// A process whose way is shut leaves the pool to others, and returns when it is open.
func TestAProcessThatCannotReachTheProviderLeavesThePoolToOthers(t *testing.T) {
	t.Parallel()
	w := newTown(t)
	here, there := w.process("here"), w.process("there")
	if _, s := there.job("1", "gpt-a", "hello"); s != Open {
		t.Fatal(s)
	}
	here.job("2", "gpt-a", "hello")
	eventually(t, "both are known", func() bool { n, err := here.h.breaker.Others(t.Context()); return err == nil && n == 1 })
	w.set(func() { w.cut["here"] = true })
	var jobs sync.WaitGroup
	for i := range 4 {
		jobs.Go(func() {
			if a, s := here.job(fmt.Sprint("job ", i), "gpt-a", "hello"); s != Away {
				t.Errorf("job %d: %s, standing %d; want it to have no part in it", i, a.Outcome, s)
			}
		})
	}
	jobs.Wait()
	if here.h.Away() == "" {
		t.Error("it is not away")
	}
	if st := here.state(); st.Paused {
		t.Errorf("the pool is paused: %+v", st)
	}
	select {
	case <-here.h.Gone():
	default:
		t.Error("nobody is told that it is gone")
	}
	if a, s := there.job("3", "gpt-a", "hello"); a.Outcome != tasks.Succeeded || s != Open {
		t.Errorf("the other process: %s, standing %d", a.Outcome, s)
	}
	w.set(func() { w.cut["here"] = false })
	eventually(t, "it is back", func() bool { return here.h.Away() == "" })
	if a, s := here.job("4", "gpt-a", "hello"); a.Outcome != tasks.Succeeded || s != Open {
		t.Errorf("when it is back: %s, standing %d", a.Outcome, s)
	}
}

// What all processes see is the provider's, and so is what the only one sees.
func TestAnOutageThatAllSeeIsTheProviders(t *testing.T) {
	t.Parallel()
	for _, names := range [][]string{{"one"}, {"one", "two"}, {"one", "two", "three"}} {
		t.Run(fmt.Sprint(names), func(t *testing.T) {
			t.Parallel()
			w := newTown(t)
			var all []*process
			for _, name := range names {
				p := w.process(name)
				p.job("0", "gpt-a", "hello")
				all = append(all, p)
			}
			eventually(t, "all are known", func() bool {
				n, err := all[0].h.breaker.Others(t.Context())
				return err == nil && int(n) == len(names)-1
			})
			w.set(func() {
				for _, name := range names {
					w.cut[name] = true
				}
			})
			a, s := all[0].job("1", "gpt-a", "hello")
			if a.Outcome != tasks.ConnectError || s != Paused {
				t.Errorf("%s, standing %d; want the pool paused", a.Outcome, s)
			}
			if st := all[0].state(); st.Cause != pause.Overload || all[0].h.Away() != "" {
				t.Errorf("state %+v, away %q", st, all[0].h.Away())
			}
			w.set(func() { clear(w.cut) })
			eventually(t, "the pool is open", func() bool { return !all[0].state().Paused })
		})
	}
}

// A model that fails holds back its own jobs, whoever sends them, and comes back.
func TestAModelThatFailsHoldsBackItsOwnJobsAlone(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name   string
		known  bool // another model has succeeded before
		status int
	}{{"503", true, 503}, {"500", true, 500}, {"another model is only listed", false, 503}, {"hollow 200s", true, 200}} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			w := newTown(t)
			p := w.process("one")
			if c.known {
				p.job("0", "gpt-a", "hello")
			}
			w.set(func() { w.ill["gpt-b"] = c.status })
			excused := 0
			for i := range 16 {
				if p.h.Held(t.Context(), "gpt-b") > 0 {
					excused++
					continue
				}
				if _, s := p.job(fmt.Sprint(i), "gpt-b", fmt.Sprint("prompt ", i)); s == Paused {
					excused++
				}
				if st := p.state(); st.Paused {
					t.Fatalf("after %d jobs the pool is paused: %+v", i+1, st)
				}
				if d := p.h.Held(t.Context(), "gpt-a"); d != 0 {
					t.Errorf("the other model is held for %v", d)
				}
				p.job(fmt.Sprint("other ", i), "gpt-b", "again")
			}
			if excused == 0 || !p.h.breaker.Sick("gpt-b") {
				t.Errorf("%d excused, held back: %t", excused, p.h.breaker.Sick("gpt-b"))
			}
			w.set(func() { clear(w.ill) })
			eventually(t, "it answers again", func() bool { return p.h.Held(t.Context(), "gpt-b") == 0 })
			if a, s := p.job("17", "gpt-b", "hello"); a.Outcome != tasks.Succeeded || s != Open {
				t.Errorf("%s, standing %d", a.Outcome, s)
			}
		})
	}
}

// Prompts that fail while their model answers a ping stop nothing, however many
// there are, and their attempts count.
func TestPromptsThatFailWhileTheirModelIsWellStopNothing(t *testing.T) {
	t.Parallel()
	poisoned := func(t *testing.T) (*town, *process) {
		w := newTown(t)
		w.answer = func(prompt string) (int, string) {
			if strings.HasPrefix(prompt, "POISON") {
				return 500, `{"error":{"message":"cannot tokenize"}}`
			}
			return 200, ""
		}
		return w, w.process("one")
	}
	t.Run("many jobs", func(t *testing.T) {
		t.Parallel()
		_, p := poisoned(t)
		for i := range 60 {
			if _, s := p.job(fmt.Sprint(i), "gpt-a", fmt.Sprint("POISON ", i)); s != Open {
				t.Errorf("prompt %d: standing %d, want its attempt counted", i, s)
			}
			if st := p.state(); st.Paused || len(st.Models) > 0 {
				t.Fatalf("after %d prompts: %+v", i+1, st)
			}
		}
	})
	// It has its model asked when most calls of the window have failed, and not at
	// each of its attempts.
	t.Run("a job again and again", func(t *testing.T) {
		t.Parallel()
		w, p := poisoned(t)
		p.job("well", "gpt-b", "hello")
		for range 40 {
			p.job("same", "gpt-b", "POISON")
		}
		w.set(func() {
			if len(w.pings) > 3 {
				t.Errorf("pings for 40 attempts of one job: %q; want 3 at most", w.pings)
			}
		})
	})
}

// An address that is not the provider's pauses a pool that has never worked, with
// what came for a reason and the address for operators; a pool that works has one
// such answer as its job's.
func TestAnAddressThatDoesNotFitPausesThePoolThatNeverWorked(t *testing.T) {
	t.Parallel()
	elsewhere := "http://secret-host.invalid/v2"
	page := func(status int, header, value, body string) http.Handler {
		return http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
			rw.Header().Set(header, value)
			rw.WriteHeader(status)
			_, _ = io.WriteString(rw, body)
		})
	}
	for _, c := range []struct {
		name   string
		start  func(http.Handler) *httptest.Server
		stand  http.Handler // at the address
		reason string
		detail string
	}{
		{"a redirect", httptest.NewServer, page(301, "Location", elsewhere, ""), "redirects", "secret-host.invalid"},
		{"a page", httptest.NewServer, page(200, "Content-Type", "text/html", "<html>welcome</html>"), "did not answer as the provider's API", "127.0.0.1"},
		{"a wrong path", httptest.NewServer, page(404, "Content-Type", "text/html", "<html>nothing here</html>"), "does not know the provider's API", ""},
		{"a path that an API does not know", httptest.NewServer, page(404, "Content-Type", "application/json", `{"error":{"message":"nothing here"}}`), "does not know the provider's API (404): nothing here", ""},
		{"a certificate that nobody trusts", httptest.NewTLSServer, page(200, "Content-Type", "application/json", well), "certificate", "certificate"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			srv := c.start(c.stand)
			srv.Config.ErrorLog = log.New(io.Discard, "", 0)
			t.Cleanup(srv.Close)
			w := newTown(t)
			w.srv, w.url = srv, srv.URL
			p := w.process("one")
			for i := range 2 {
				if a, s := p.job(fmt.Sprint(i), "gpt-a", "hello"); s != Paused {
					t.Errorf("%s, standing %d; want the job to have no part in it", a.Outcome, s)
				}
			}
			st := p.state()
			if st.Cause != pause.Misfit || !strings.Contains(st.Reason, c.reason) || !strings.Contains(st.Detail, c.detail) || strings.Contains(st.Reason, "127.0.0.1") || strings.Contains(st.Reason, "secret-host") || strings.Count(st.Reason, "does not know") > 1 {
				t.Errorf("%+v; want a misfit, for %q, and %q in the detail alone", st, c.reason, c.detail)
			}
		})
	}
	t.Run("behind connections that broke first", func(t *testing.T) {
		t.Parallel()
		w := newTown(t)
		p := w.process("one")
		w.set(func() { w.cut["one"] = true })
		p.job("0", "gpt-a", "hello")
		if st := p.state(); st.Cause != pause.Overload {
			t.Fatalf("%+v; want an outage", st)
		}
		w.set(func() { clear(w.cut); w.down = 301 })
		eventually(t, "the misfit is told", func() bool {
			st := p.state()
			return st.Cause == pause.Misfit && strings.Contains(st.Reason, "redirects")
		})
	})
	t.Run("in a pool that works", func(t *testing.T) {
		w := newTown(t)
		p := w.process("one")
		p.job("0", "gpt-a", "hello")
		eventually(t, "it is known to work", p.h.breaker.Worked)
		w.set(func() {
			w.answer = func(prompt string) (int, string) {
				if prompt == "POISON" {
					return 404, "<html>nothing</html>"
				}
				return 200, ""
			}
		})
		for i := range 30 {
			if a, s := p.job(fmt.Sprint(i), "gpt-a", "POISON"); a.Outcome == tasks.Succeeded || s != Open {
				t.Errorf("%s, standing %d", a.Outcome, s)
			}
		}
		if st := p.state(); st.Paused {
			t.Errorf("%+v", st)
		}
	})
	t.Run("one request that does not fit, before anything has worked", func(t *testing.T) {
		w := newTown(t)
		p := w.process("one")
		w.set(func() {
			w.answer = func(string) (int, string) { return 404, `{"error":{"message":"no such response"}}` }
		})
		if a, s := p.job("0", "gpt-a", "hello"); a.Outcome != tasks.Rejected || s != Open || p.state().Paused {
			t.Errorf("%s, standing %d, %+v", a.Outcome, s, p.state())
		}
	})
}

// A model that is refused by a 429 without a word, while another succeeds, is held
// back alone; the pace of the pool is not to blame.
func TestAModelsOwn429HoldsBackThatModelAlone(t *testing.T) {
	t.Parallel()
	w := newTown(t)
	p := w.process("one")
	w.set(func() { w.ill["gpt-b"] = 429 })
	var standings []Standing
	for i := range 3 {
		p.job(fmt.Sprint("well ", i), "gpt-a", "hello")
		_, s := p.job(fmt.Sprint(i), "gpt-b", "hello")
		standings = append(standings, s)
	}
	if want := []Standing{Paused, Paused, Paused}; !slices.Equal(standings, want) {
		t.Errorf("standings %v, want %v: it is the model's", standings, want)
	}
	if p.h.Held(t.Context(), "gpt-b") == 0 || p.h.Held(t.Context(), "gpt-a") != 0 || p.state().Paused {
		t.Error("want the one model held back, and nothing else")
	}
	w.set(func() { clear(w.ill) })
	eventually(t, "it answers again", func() bool { return p.h.Held(t.Context(), "gpt-b") == 0 })
	// Alone in its pool, its 429s are the pool's.
	w = newTown(t)
	p = w.process("one")
	w.set(func() { w.ill["gpt-b"] = 429 })
	for i := range 3 {
		if _, s := p.job(fmt.Sprint("alone ", i), "gpt-b", "hello"); s != Open {
			t.Errorf("standing %d, want the pool's pace to blame", s)
		}
	}
}
