package pool

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"go.uber.org/goleak"

	"github.com/sluicehq/sluice/tasks"
	"github.com/sluicehq/sluice/tasks/redistest"
	"github.com/sluicehq/sluice/worker/pause"
	"github.com/sluicehq/sluice/worker/upstream"
)

func TestMain(m *testing.M) {
	// These tests wait for probes, and need little of a processor.
	_ = flag.Set("test.parallel", "12")
	goleak.VerifyTestMain(m)
}

// provider is a real server that answers by what it is asked.
type provider struct {
	*httptest.Server
	mu     sync.Mutex
	answer func(model, prompt string) (status int, body string) // "" answers well
	list   func() (status int, body string)
	after  string   // the Retry-After of a 429; "" for none
	pings  []string // models of the smallest calls
	lists  int
}

const well = `{"id":"c","object":"chat.completion","choices":[{"index":0,"message":{"role":"assistant","content":"hi"},"finish_reason":"stop"}],"usage":{"prompt_tokens":1,"completion_tokens":1}}`

func newProvider(t *testing.T) *provider {
	p := &provider{list: func() (int, string) { return 200, `{"object":"list","data":[{"id":"gpt-a"},{"id":"gpt-b"}]}` }}
	p.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		p.mu.Lock()
		defer p.mu.Unlock()
		status, body := 200, ""
		if r.Method == http.MethodGet {
			p.lists++
			status, body = p.list()
		} else {
			raw, _ := io.ReadAll(r.Body)
			var asked struct {
				Model    string
				Messages []struct{ Content string }
			}
			_ = json.Unmarshal(raw, &asked)
			if asked.Messages[0].Content == "ping" {
				p.pings = append(p.pings, asked.Model)
			}
			if status, body = p.answer(asked.Model, asked.Messages[0].Content); body == "" {
				status, body = 200, well
			}
		}
		w.Header().Set("Content-Type", "application/json")
		if status == http.StatusTooManyRequests && p.after != "" {
			w.Header().Set("Retry-After", p.after)
		}
		w.WriteHeader(status)
		_, _ = io.WriteString(w, body)
	}))
	t.Cleanup(p.Close)
	return p
}

// queue is the pool's queue: one flag.
type queue struct{ rdb redis.UniversalClient }

func (q queue) Pause(ctx context.Context, pool string) error {
	return q.rdb.Set(ctx, "paused:"+pool, 1, 0).Err()
}
func (q queue) Resume(ctx context.Context, pool string) error {
	return q.rdb.Del(ctx, "paused:"+pool).Err()
}
func (q queue) Paused(ctx context.Context, pool string) (bool, error) {
	n, err := q.rdb.Exists(ctx, "paused:"+pool).Result()
	return n == 1, err
}

// desk asks a provider as a worker does, and reports.
type desk struct {
	t      *testing.T
	h      *Health
	caller *upstream.Caller
}

func newDesk(t *testing.T, p *provider, models ...string) *desk {
	t.Helper()
	caller, err := upstream.New(upstream.Config{Provider: upstream.Provider{Name: "p", Dialect: upstream.OpenAI, BaseURL: p.URL, APIKey: "k"}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(caller.Close)
	rdb := redistest.New(t)
	h, err := NewHealth(HealthConfig{Breaker: pause.Config{Redis: rdb, Pool: "gpt", Queue: queue{rdb}}, Asker: caller, Models: models})
	if err != nil {
		t.Fatal(err)
	}
	return &desk{t, h, caller}
}

func (d *desk) ask(model, prompt string) (upstream.Answer, Standing) {
	body, err := json.Marshal(prompt)
	if err != nil {
		d.t.Error(err)
	}
	sent := time.Now()
	a := d.caller.Do(d.t.Context(), upstream.Ask{Question: upstream.Read(model, tasks.Request{Kind: tasks.Text, Body: body, MaxTokens: 5})})
	return a, d.h.Report(d.t.Context(), Call{Model: model, Prompt: body, Took: time.Since(sent)}, a)
}

func (d *desk) state() pause.State {
	d.t.Helper()
	s, err := d.h.breaker.State(d.t.Context())
	if err != nil {
		d.t.Fatal(err)
	}
	return s
}

// refusals are what providers and what stands before them answer to one prompt.
var refusals = []struct {
	name   string
	status int
	body   string
}{
	{"moderation", 403, `{"error":{"code":403,"message":"Your chosen model requires moderation and your input was flagged"}}`},
	{"a page of an edge", 403, `<html><title>Attention Required! | Cloudflare</title></html>`},
	{"a bare 403", 403, ``},
	{"more credit than there is", 402, `{"error":{"code":402,"message":"This request requires more credits, or fewer max_tokens."}}`},
	{"a passing 401", 401, `{"error":{"type":"invalid_request_error","code":"invalid_api_key","message":"Incorrect API key provided"}}`},
	{"a model that the project may not use", 403, `{"error":{"code":"model_not_found","message":"Project x does not have access to model gpt-a"}}`},
	{"a model that is not there", 404, `{"error":{"code":"model_not_found","message":"The model does not exist"}}`},
	{"permission", 403, `{"error":{"type":"permission_error","message":"no"}}`},
	{"a cap of one user's, by a code", 402, `{"error":{"code":"insufficient_quota","message":"You exceeded your current quota"}}`},
	{"a quota of one model's, with a 429", 429, `{"error":{"type":"insufficient_quota","code":"insufficient_quota","message":"You exceeded your current quota"}}`},
	{"a spending limit in words, with a 429", 429, `{"error":{"message":"This user has reached the spend limit."}}`},
	{"a budget with a 400", 400, `{"error":{"code":"billing_hard_limit_reached","message":"Billing hard limit has been reached"}}`},
	{"a cap in words, with a 400", 400, `{"error":{"message":"You have reached your specified API usage limits."}}`},
	{"a quota inside a 200", 200, `{"error":{"code":"insufficient_quota","message":"no credit"}}`},
	{"a 401 inside a 200", 200, `{"error":{"code":401,"message":"No auth credentials found"}}`},
	{"a 403 inside a 200", 200, `{"error":{"code":403,"message":"flagged"}}`},
}

// Whatever the provider says to one prompt, that job is at fault while the key
// is well, and the pool goes on for everybody else.
func TestOnePromptThatIsRefusedStopsNobodyElse(t *testing.T) {
	t.Parallel()
	for _, c := range refusals {
		for _, known := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s, a model known: %t", c.name, known), func(t *testing.T) {
				t.Parallel()
				p := newProvider(t)
				p.answer = func(_, prompt string) (int, string) {
					if strings.Contains(prompt, "POISON") {
						return c.status, c.body + " "
					}
					return 200, ""
				}
				d := newDesk(t, p, "gpt-*")
				if known {
					if a, s := d.ask("gpt-a", "hello"); a.Outcome != tasks.Succeeded || s != Open {
						t.Fatalf("an ordinary call: %s, standing %d", a.Outcome, s)
					}
				}
				a, s := d.ask("gpt-a", "POISON")
				if a.Doubt == upstream.NoDoubt || s != AtFault {
					t.Errorf("the refused call: doubt %q, standing %d; want it at fault", a.Doubt, s)
				}
				if st := d.state(); st.Paused {
					t.Errorf("the pool is paused: %+v", st)
				}
				if n := p.lists + len(p.pings); n < 1 || n > 2 {
					t.Errorf("%d lists and %q pings; want one of each at most", p.lists, p.pings)
				}
			})
		}
	}
}

// A quota that one model has used up, or that a gateway has for it, is no other
// model's: also where nobody has asked any other yet.
func TestAModelsOwnQuotaStopsNoOtherModel(t *testing.T) {
	t.Parallel()
	for _, known := range []bool{true, false} {
		t.Run(fmt.Sprintf("another model known: %t", known), func(t *testing.T) {
			t.Parallel()
			p := newProvider(t)
			p.answer = func(model, _ string) (int, string) {
				if model == "gpt-a" {
					return 429, `{"error":{"type":"insufficient_quota","code":"insufficient_quota","message":"You exceeded your current quota"}}`
				}
				return 200, ""
			}
			d := newDesk(t, p, "gpt-*")
			if known {
				d.ask("gpt-b", "hello")
			}
			if a, s := d.ask("gpt-a", "hello"); s != AtFault || d.state().Paused {
				t.Errorf("%s: standing %d, the pool %+v; want it at fault and the pool open", a.Outcome, s, d.state())
			}
			if _, s := d.ask("gpt-b", "hello"); s != Open {
				t.Errorf("the other model: standing %d", s)
			}
		})
	}
}

// A key that is refused pauses the pool, and no job has a part in it, however
// many found out at once.
func TestARefusedKeyPausesThePoolAndFailsNoJob(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name   string
		status int
		body   string
		list   int
		cause  pause.Cause
	}{
		{"401", 401, `{"error":{"message":"invalid key"}}`, 401, pause.BadAuthority},
		{"401, and no list of models", 401, `{"error":{"message":"invalid key"}}`, 404, pause.BadAuthority},
		{"401, and a list of models for anybody", 401, `{"error":{"message":"invalid key"}}`, 200, pause.BadAuthority},
		{"402 by a code", 402, `{"error":{"code":"insufficient_quota","message":"no credit"}}`, 200, pause.SpendCap},
		{"429 by a code", 429, `{"error":{"type":"insufficient_quota","code":"insufficient_quota","message":"no credit"}}`, 200, pause.SpendCap},
		{"400 in words", 400, `{"error":{"message":"Your credit balance is too low to access the API."}}`, 200, pause.SpendCap},
		{"403", 403, `{"error":{"message":"account suspended"}}`, 200, pause.BadAuthority},
		{"402", 402, `{"error":{"message":"no credit"}}`, 200, pause.SpendCap},
		{"no model is there any more, and the key is refused", 404, `{"error":{"code":"model_not_found","message":"gone"}}`, 401, pause.BadAuthority},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			p := newProvider(t)
			revoked := false
			p.answer = func(string, string) (int, string) {
				if revoked {
					return c.status, c.body
				}
				return 200, ""
			}
			ok := p.list
			p.list = func() (int, string) {
				if c.list != 200 {
					return c.list, c.body
				}
				return ok()
			}
			d := newDesk(t, p, "gpt-*")
			d.ask("gpt-a", "hello")
			p.mu.Lock()
			revoked = true
			p.mu.Unlock()
			var jobs sync.WaitGroup
			for i := range 8 {
				jobs.Go(func() {
					if _, s := d.ask("gpt-b", fmt.Sprint("prompt ", i)); s != Paused {
						t.Errorf("prompt %d: standing %d, want the pool paused", i, s)
					}
				})
			}
			jobs.Wait()
			if st := d.state(); !st.Paused || st.Cause != c.cause || st.NextProbeAt.IsZero() {
				t.Errorf("state %+v; want it paused for %s, with another probe to come", st, c.cause)
			}
			if n := p.lists + len(p.pings); n > 2 {
				t.Errorf("%d lists and %q pings for 8 jobs", p.lists, p.pings)
			}
		})
	}
}

// Where no model has succeeded yet, one prompt proves nothing against the key, nor
// do many of one model; three prompts of two models do.
func TestAKeyIsConvictedByThreePromptsOfTwoModels(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name   string
		asks   [][2]string // model, prompt
		paused bool
	}{
		{"one prompt", [][2]string{{"gpt-a", "1"}}, false},
		{"one prompt, again and again", [][2]string{{"gpt-a", "1"}, {"gpt-b", "1"}, {"gpt-a", "1"}}, false},
		{"two prompts of two models", [][2]string{{"gpt-a", "1"}, {"gpt-b", "2"}}, false},
		{"three prompts of one model", [][2]string{{"gpt-a", "1"}, {"gpt-a", "2"}, {"gpt-a", "3"}}, false},
		{"three prompts of two models", [][2]string{{"gpt-a", "1"}, {"gpt-a", "2"}, {"gpt-b", "3"}}, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			p := newProvider(t)
			p.answer = func(string, string) (int, string) { return 403, `{"error":{"message":"no"}}` }
			p.list = func() (int, string) { return 404, "{}" }
			d := newDesk(t, p, "gpt-*")
			d.h.doubts.now = skipping() // the pause between two inquiries is not waited for
			for i, a := range c.asks {
				want := Unsettled
				if c.paused && i == len(c.asks)-1 {
					want = Paused
				}
				if _, s := d.ask(a[0], a[1]); s != want {
					t.Errorf("call %d: standing %d, want %d", i+1, s, want)
				}
			}
			if st := d.state(); st.Paused != c.paused {
				t.Errorf("paused %t, want %t", st.Paused, c.paused)
			}
		})
	}
}

// After a resume, refusals from before it are no evidence, and new ones are.
func TestAfterAResumeAKeyIsConvictedByNewRefusalsAlone(t *testing.T) {
	t.Parallel()
	p := newProvider(t)
	p.answer = func(string, string) (int, string) { return 402, `{"error":{"message":"no credit"}}` }
	d := newDesk(t, p, "gpt-*")
	for round := range 3 {
		for i := range 3 {
			if st := d.state(); st.Paused {
				t.Fatalf("round %d: paused after %d prompts", round, i)
			}
			// A call that took longer than the resume is old may be from before it, as
			// far as anybody can tell: it is made again.
			redistest.Until(t, "the refusal is not of the time before the resume", func() bool {
				d.h.doubts.mu.Lock()
				d.h.doubts.earliest = time.Time{} // the pause between two inquiries is not waited for
				d.h.doubts.mu.Unlock()
				_, standing := d.ask("gpt-a", fmt.Sprint("prompt ", round, i))
				return standing != Paused || d.state().Paused
			})
		}
		if st := d.state(); !st.Paused || st.Cause != pause.SpendCap {
			t.Fatalf("round %d: %+v after three prompts and another model", round, st)
		}
		if err := d.h.breaker.Resume(t.Context(), "ada"); err != nil {
			t.Fatal(err)
		}
		// A call of the resume's own millisecond may be from before it.
		redistest.Until(t, "the resume is past", func() bool { st := d.state(); return st.AsOf.Sub(st.Since) > 3*time.Millisecond })
	}
}

// What was known to work and is withdrawn says nothing about the key.
func TestAWithdrawnModelDoesNotShieldARefusedKey(t *testing.T) {
	t.Parallel()
	p := newProvider(t)
	gone := false
	p.answer = func(model, _ string) (int, string) {
		switch {
		case !gone:
			return 200, ""
		case model == "gpt-a":
			return 404, `{"error":{"code":"model_not_found","message":"gone"}}`
		}
		return 402, `{"error":{"message":"no credit"}}`
	}
	d := newDesk(t, p, "gpt-*")
	d.ask("gpt-a", "hello")
	p.mu.Lock()
	gone = true
	p.mu.Unlock()
	d.h.doubts.now = skipping()
	for i := range 4 {
		d.ask(fmt.Sprint("gpt-", i), fmt.Sprint("prompt ", i))
	}
	if st := d.state(); !st.Paused || st.Cause != pause.SpendCap {
		t.Errorf("state %+v", st)
	}
}

// A finding about a model that is not there acquits nobody of a 401.
func TestAMissingModelAcquitsNoKey(t *testing.T) {
	t.Parallel()
	p := newProvider(t)
	p.list = func() (int, string) { return 500, "{}" }
	p.answer = func(model, _ string) (int, string) {
		if model == "gpt-none" {
			return 404, `{"error":{"code":"model_not_found","message":"no"}}`
		}
		return 401, `{"error":{"message":"invalid key"}}`
	}
	d := newDesk(t, p, "gpt-*")
	var jobs sync.WaitGroup
	for i := range 6 {
		jobs.Go(func() {
			if i%2 == 0 {
				d.ask("gpt-none", fmt.Sprint("prompt ", i))
			} else if _, s := d.ask("gpt-a", fmt.Sprint("prompt ", i)); s != Paused {
				t.Errorf("a 401: standing %d, want the pool paused", s)
			}
		})
	}
	jobs.Wait()
}

// skipping is a clock that passes some seconds each time it is read.
func skipping() func() time.Time {
	var mu sync.Mutex
	var ahead time.Duration
	return func() time.Time {
		mu.Lock()
		defer mu.Unlock()
		ahead += time.Second
		return time.Now().Add(ahead)
	}
}

// An ordinary success that was sent later shows the key to be well; no call is
// made for it.
func TestTrafficSettlesADoubtWithoutAProbe(t *testing.T) {
	t.Parallel()
	p := newProvider(t)
	p.answer = func(_, prompt string) (int, string) {
		if prompt == "POISON" {
			return 403, `{"error":{"message":"flagged"}}`
		}
		return 200, ""
	}
	d := newDesk(t, p, "gpt-*")
	d.h.doubts.earliest = time.Now().Add(time.Hour) // no inquiry
	held := make(chan Standing)
	go func() {
		_, s := d.ask("gpt-a", "POISON")
		held <- s
	}()
	for {
		d.ask("gpt-b", "hello")
		select {
		case s := <-held:
			if s != AtFault || len(p.pings) != 0 {
				t.Errorf("standing %d after %d pings", s, len(p.pings))
			}
			return
		default:
		}
	}
}

// Any mix of prompts that are refused and prompts that are not leaves the pool
// open, and nothing but the refused ones is at fault.
func TestNoMixOfRefusedPromptsStopsAPool(t *testing.T) {
	t.Parallel()
	p := newProvider(t)
	p.answer = func(_, prompt string) (int, string) {
		for _, r := range refusals {
			if strings.HasPrefix(prompt, r.name) {
				return r.status, r.body + " "
			}
		}
		return 200, ""
	}
	d := newDesk(t, p, "gpt-*")
	dice := rand.New(rand.NewPCG(1, 2))
	var jobs sync.WaitGroup
	for i := range 200 {
		prompt, want := fmt.Sprint("hello ", i), Open
		if dice.IntN(3) == 0 {
			prompt, want = fmt.Sprint(refusals[dice.IntN(len(refusals))].name, i), AtFault
		}
		model := fmt.Sprint("gpt-", dice.IntN(3))
		jobs.Go(func() {
			if _, s := d.ask(model, prompt); s != want {
				t.Errorf("%q of %s: standing %d, want %d", prompt, model, s, want)
			}
		})
	}
	jobs.Wait()
	if st := d.state(); st.Paused {
		t.Errorf("the pool is paused: %+v", st)
	}
}
