package fake

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"reflect"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sluicehq/sluice/tasks"
	"github.com/sluicehq/sluice/tasks/redistest"
	"github.com/sluicehq/sluice/worker/upstream"
)

const testKey = "the-secret-key"

var testTime = time.Date(2026, 11, 20, 10, 0, 0, 0, time.UTC)

func newCaller(t testing.TB, d Dialect, url string) *upstream.Caller {
	t.Helper()
	c, err := upstream.New(upstream.Config{
		Provider: upstream.Provider{Name: "p", Dialect: upstream.Dialect(d), BaseURL: url, APIKey: testKey},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

func prompt(text string) tasks.Request {
	b, _ := json.Marshal(text)
	return tasks.Request{Kind: tasks.Text, Body: b, MaxTokens: 64}
}

func ask(text string) upstream.Ask { return upstream.Ask{Question: upstream.Read("m", prompt(text))} }

// handClock stands still until it is moved; a sleep moves it.
type handClock struct {
	mu  sync.Mutex
	now time.Time
}

func (c *handClock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

func (c *handClock) Sleep(ctx context.Context, d time.Duration) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
	return ctx.Err()
}

func startFake(t testing.TB, cfg Config) (*Provider, string) {
	t.Helper()
	f, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	s := httptest.NewServer(f)
	t.Cleanup(s.Close)
	t.Cleanup(f.Close)
	return f, s.URL
}

// post sends a body in a dialect, as its own client would.
func post(t testing.TB, url string, d Dialect, body string, header ...string) (*http.Response, []byte) {
	t.Helper()
	path := "/v1/messages"
	if d == OpenAI {
		path = "/v1/chat/completions"
	}
	req, err := http.NewRequestWithContext(t.Context(), "POST", url+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/json")
	if d == OpenAI {
		req.Header.Set("Authorization", "Bearer k")
	} else {
		req.Header.Set("X-Api-Key", "k")
		req.Header.Set("Anthropic-Version", "2023-06-01")
	}
	for i := 0; i < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp, b
}

func body(d Dialect, text string, more string) string {
	q, _ := json.Marshal(text)
	limit := `"max_tokens":50`
	if d == OpenAI {
		limit = `"max_completion_tokens":50`
	}
	return fmt.Sprintf(`{"model":"m",%s,"messages":[{"role":"user","content":%s}]%s}`, limit, q, more)
}

// same decodes a body and takes out what differs from call to call.
func same(t *testing.T, b []byte) map[string]any {
	t.Helper()
	var v map[string]any
	if err := json.Unmarshal(b, &v); err != nil {
		t.Fatalf("%v in %s", err, b)
	}
	delete(v, "id")
	delete(v, "created")
	return v
}

func TestTheFakesStreamIsItsWholeAnswer(t *testing.T) {
	_, url := startFake(t, Config{MeanOutputTokens: 40, OutputSigma: 1})
	for _, d := range []Dialect{Anthropic, OpenAI} {
		c := newCaller(t, d, url)
		cutOff := 0
		for i := range 30 {
			text := fmt.Sprintf("question %d, with \"quotes\" and ünïcode", i)
			more := ""
			if d == OpenAI && i%3 == 0 {
				more = `,"n":2`
			}
			_, whole := post(t, url, d, body(d, text, more))
			said, start := "", int64(0)
			a := c.Do(t.Context(), upstream.Ask{Question: upstream.Read("", tasks.Request{Kind: tasks.Raw, Body: []byte(body(d, text, more))}),
				OnText: func(s string) { said += s }, OnStart: func(n int64, _ upstream.Rates) { start = n }})
			if a.Outcome != tasks.Succeeded {
				t.Fatalf("%s: %s %s", d, a.Outcome, a.Message)
			}
			got, want := same(t, a.Result), same(t, whole)
			if !reflect.DeepEqual(got, want) {
				t.Fatalf("%s: the stream gave\n%s\nthe whole answer is\n%s", d, a.Result, whole)
			}
			if said != tasks.ResultText(a.Result) || said == "" {
				t.Errorf("%s: text %q, result's text %q", d, said, tasks.ResultText(a.Result))
			}
			if start != a.ChargedInput || start <= 0 || a.Usage.InputTokens != start || a.Usage.OutputTokens <= 0 || a.RequestID == "" {
				t.Errorf("%s: start %d, usage %+v, id %q", d, start, a.Usage, a.RequestID)
			}
			if bytes.Contains(whole, []byte(`_reason":"max_tokens"`)) || bytes.Contains(whole, []byte(`_reason":"length"`)) {
				cutOff++
				perChoice := a.Usage.OutputTokens
				if more != "" {
					perChoice /= 2
				}
				if perChoice != 50 {
					t.Errorf("%s: cut off at %d tokens, want max_tokens, 50", d, perChoice)
				}
			}
		}
		if cutOff == 0 || cutOff == 30 {
			t.Errorf("%s: %d of 30 answers reached max_tokens, want some", d, cutOff)
		}
	}
}

func TestTheSameQuestionGetsTheSameAnswer(t *testing.T) {
	_, url := startFake(t, Config{MeanOutputTokens: 20, OutputSigma: 0.5, Seed: 7})
	_, other := startFake(t, Config{MeanOutputTokens: 20, OutputSigma: 0.5, Seed: 8})
	_, a := post(t, url, Anthropic, body(Anthropic, "x", ""))
	post(t, url, Anthropic, body(Anthropic, "y", ""))
	_, b := post(t, url, Anthropic, body(Anthropic, "x", ""))
	_, c := post(t, other, Anthropic, body(Anthropic, "x", ""))
	if tasks.ResultText(a) != tasks.ResultText(b) || tasks.ResultText(a) == "" {
		t.Errorf("got %q, then %q", tasks.ResultText(a), tasks.ResultText(b))
	}
	if tasks.ResultText(a) == tasks.ResultText(c) {
		t.Error("another seed gave the same answer")
	}
}

func TestLognormalHasItsMean(t *testing.T) {
	f, err := New(Config{MeanOutputTokens: 200, OutputSigma: 0.8, MeanLatency: 4 * time.Second, LatencySigma: 0.5})
	if err != nil {
		t.Fatal(err)
	}
	const n = 20000
	tokens, latency := 0.0, 0.0
	for i := range n {
		p := f.cfg.prepare(&question{model: "m", text: fmt.Sprint(i), maxTokens: 1 << 20})
		tokens += float64(len(p.tokens)) / n
		latency += p.first.Seconds() / n
	}
	if tokens < 194 || tokens > 206 || latency < 3.9 || latency > 4.1 {
		t.Errorf("got means of %.1f tokens and %.2f s, want 200 and 4", tokens, latency)
	}
}

// The request bucket lets through exactly burst + rate x time, wherever in a
// second the calls come.
func TestTheRequestBucketIsContinuousAndStrict(t *testing.T) {
	clock := &handClock{now: testTime}
	f, url := startFake(t, Config{RequestsPerMinute: 600, RequestBurst: 10, Clock: clock})
	accepted := 0
	for i := range 400 { // 4 s in steps of 10 ms; the rate is one every 100 ms
		resp, b := post(t, url, Anthropic, body(Anthropic, fmt.Sprint(i), ""))
		switch resp.StatusCode {
		case 200:
			accepted++
		case 429:
			if resp.Header.Get("Retry-After") != "1" || resp.Header.Get("X-Should-Retry") != "true" ||
				!bytes.Contains(b, []byte("rate_limit_error")) || !bytes.Contains(b, []byte("600 requests per minute")) {
				t.Fatalf("429 with header %v, body %s", resp.Header, b)
			}
		default:
			t.Fatalf("status %d: %s", resp.StatusCode, b)
		}
		_ = clock.Sleep(t.Context(), 10*time.Millisecond)
	}
	if want := 10 + 39; accepted != want { // the call after 3.99 s finds 39 refilled
		t.Errorf("accepted %d calls in 4 s, want %d", accepted, want)
	}
	s := f.Stats(true)
	if s.Calls != 400 || s.Accepted != int64(accepted) || s.RateLimited != 400-s.Accepted || s.Refused["requests"] != s.RateLimited ||
		s.SentTwice != 0 || s.Prompts != 400 || s.InFlight != 0 || s.Completed != s.Accepted {
		t.Errorf("stats: %+v", s)
	}
	if got := s.LastAcceptedAt.Sub(*s.FirstAcceptedAt); got != 3900*time.Millisecond {
		t.Errorf("accepted over %v, want 3.9s", got)
	}
}

func TestInputIsChargedOnArrivalAndOutputAsProduced(t *testing.T) {
	clock := &handClock{now: testTime}
	f, url := startFake(t, Config{InputTokensPerMinute: 6000, InputBurst: 100, OutputTokensPerMinute: 60, OutputBurst: 100, MeanOutputTokens: 1, Clock: clock})
	text := strings.Repeat("word ", 53) // 53 and a frame of 7
	if got := countTokens("\n"+text) + 4; got != 60 {
		t.Fatalf("the text has %d tokens, want 60", got)
	}
	try := func(text string) int {
		resp, _ := post(t, url, Anthropic, body(Anthropic, text, ""))
		return resp.StatusCode
	}
	if got := try(text); got != 200 {
		t.Fatalf("the first call: %d", got)
	}
	if got := try(text); got != 429 { // 40 left
		t.Errorf("60 of 40 tokens: got %d, want 429", got)
	}
	_ = clock.Sleep(t.Context(), 199*time.Millisecond) // 100 a second
	if got := try(text); got != 429 {
		t.Errorf("60 of 59.9 tokens: got %d, want 429", got)
	}
	_ = clock.Sleep(t.Context(), time.Millisecond)
	if got := try(text); got != 200 {
		t.Errorf("60 of 60 tokens: got %d, want 200", got)
	}
	if got := f.Stats(false).Refused["input_tokens"]; got != 2 {
		t.Errorf("refused %d for input, want 2", got)
	}

	// Output: 98 left. A call is admitted while there is one token, and may go below.
	for range 2 {
		_ = clock.Sleep(t.Context(), 400*time.Millisecond)
		if got := try("[[tokens:50]]"); got != 200 {
			t.Fatalf("output %d", got)
		}
	}
	resp, _ := post(t, url, Anthropic, body(Anthropic, "x", ""))
	if resp.StatusCode != 429 || f.Stats(false).Refused["output_tokens"] != 1 {
		t.Errorf("in debt: got %d, refused %v", resp.StatusCode, f.Stats(false).Refused)
	}
	wait, err := strconv.Atoi(resp.Header.Get("Retry-After"))
	if err != nil {
		t.Fatal(err)
	}
	_ = clock.Sleep(t.Context(), time.Duration(wait)*time.Second)
	if got := try("x"); got != 200 {
		t.Errorf("after waiting the %d s it asked for: got %d", wait, got)
	}
}

func TestAnInputAboveTheBucketPassesWhenItIsFull(t *testing.T) {
	clock := &handClock{now: testTime}
	_, url := startFake(t, Config{InputTokensPerMinute: 60, InputBurst: 60, Clock: clock})
	long := strings.Repeat("word ", 500)
	for i, want := range []int{200, 429} {
		if resp, _ := post(t, url, Anthropic, body(Anthropic, long, "")); resp.StatusCode != want {
			t.Errorf("call %d: got %d, want %d", i, resp.StatusCode, want)
		}
	}
}

func TestKeysAndDialectsHaveBucketsOfTheirOwn(t *testing.T) {
	clock := &handClock{now: testTime}
	f, url := startFake(t, Config{RequestsPerMinute: 60, Clock: clock})
	for _, step := range []struct {
		d    Dialect
		key  string
		want int
	}{{Anthropic, "a", 200}, {Anthropic, "a", 429}, {Anthropic, "b", 200}, {OpenAI, "a", 200}, {OpenAI, "a", 429}} {
		resp, _ := post(t, url, step.d, body(step.d, "x", ""), "X-Api-Key", step.key)
		if resp.StatusCode != step.want {
			t.Errorf("%s with key %s: got %d, want %d", step.d, step.key, resp.StatusCode, step.want)
		}
	}
	if got := len(f.Stats(false).Keys); got != 3 {
		t.Errorf("counted %d keys, want 3", got)
	}
}

func TestTheFakeStatesItsLimitsAsTheProvidersDo(t *testing.T) {
	clock := &handClock{now: time.Now().UTC()}
	_, url := startFake(t, Config{RequestsPerMinute: 600, RequestBurst: 600, InputTokensPerMinute: 100000, OutputTokensPerMinute: 20000, Clock: clock})
	for d, want := range map[Dialect]upstream.Rates{
		Anthropic: {
			Requests: upstream.Rate{Present: true, Limit: 600, Remaining: 599, Granularity: 1, Window: time.Minute},
			Input:    upstream.Rate{Present: true, Limit: 100000, Remaining: 100000, Granularity: 1000, Window: time.Minute},
			Output:   upstream.Rate{Present: true, Limit: 20000, Remaining: 20000, Granularity: 1000, Window: time.Minute},
			Tokens:   upstream.Rate{Present: true, Limit: 100000, Remaining: 100000, Granularity: 1000, Window: time.Minute},
		},
		OpenAI: {
			Requests: upstream.Rate{Present: true, Limit: 600, Remaining: 599, Granularity: 1, Window: time.Minute},
			Tokens:   upstream.Rate{Present: true, Limit: 120000, Remaining: 119992, Granularity: 1, Window: time.Minute},
		},
	} {
		a := newCaller(t, d, url).Do(t.Context(), ask("x"))
		got := a.Rates
		for _, r := range []*upstream.Rate{&got.Requests, &got.Input, &got.Output, &got.Tokens} {
			if r.Present && d == OpenAI && (r.Reset <= 0 || r.Reset > time.Second) {
				t.Errorf("%s: reset %v", d, r.Reset)
			}
			r.Reset = 0
		}
		if got != want {
			t.Errorf("%s: got %+v\nwant %+v", d, got, want)
		}
	}
}

// Every fault, in both dialects, is what the caller takes it for.
func TestEveryFaultHasItsOutcome(t *testing.T) {
	f, url := startFake(t, Config{MeanOutputTokens: 100})
	outcomes := map[string]tasks.Outcome{
		"429": tasks.RateLimited, "ramp": tasks.RampLimited, "spend": tasks.SpendLimited, "customer_cap": tasks.SpendLimited,
		"400": tasks.Rejected, "401": tasks.Unauthorized, "402": tasks.SpendLimited, "403": tasks.Unauthorized, "404": tasks.Rejected,
		"408": tasks.Timeout, "409": tasks.ServerError, "422": tasks.Rejected, "413": tasks.Rejected, "500": tasks.ServerError, "502": tasks.ServerError, "503": tasks.Overloaded,
		"504": tasks.Timeout, "529": tasks.Overloaded,
		"hang": tasks.Timeout, "reset": tasks.CutOff, "cut": tasks.CutOff, "truncated": tasks.CutOff, "slow": tasks.Timeout,
		"stream_error": "", "plain": tasks.Succeeded, "garbage": tasks.CutOff,
		"429_page": tasks.RateLimited, "429_bare": tasks.RateLimited, "429_wait": tasks.RateLimited, "403_page": tasks.Unauthorized, "404_page": tasks.Rejected, "redirect": tasks.ServerError,
		"detail": tasks.Rejected, "unknown": tasks.Rejected, "echo_key": tasks.Unauthorized,
		"no_end": tasks.Succeeded, "done_only": tasks.Succeeded, "done_space": tasks.Succeeded, "as_json": tasks.Succeeded, "as_html": tasks.Succeeded,
		"bom": tasks.Succeeded, "gzip": tasks.Succeeded, "no_usage": tasks.Succeeded, "filtered": tasks.Succeeded, "list": tasks.Succeeded,
		"echo_text": tasks.Succeeded, "tools": tasks.Succeeded, "tools_interleaved": tasks.Succeeded, "tools_unordered": tasks.Succeeded,
		"tools_no_index": tasks.Succeeded, "tools_one_index": tasks.Succeeded, "tools_id_again": tasks.Succeeded, "tools_whole": tasks.Succeeded,
		"tools_no_id": tasks.Succeeded, "tools_empty": tasks.Succeeded, "function_call": tasks.Succeeded,
		"broken_off": tasks.ServerError, "error_200": tasks.Rejected, "limit_200": tasks.RateLimited, "hollow": tasks.ServerError, "other_dialect": tasks.ServerError,
	}
	for _, k := range Kinds() {
		if _, ok := outcomes[k.Name]; !ok {
			t.Errorf("the kind %s has no outcome here", k.Name)
		}
	}
	for kind, want := range outcomes {
		for _, d := range []Dialect{Anthropic, OpenAI} {
			want := want
			if kind == "stream_error" {
				want = tasks.Overloaded
				if d == OpenAI {
					want = tasks.ServerError
				}
			}
			redistest.Until(t, "the call before, which may have its answer, is counted", func() bool { return f.Stats(false).InFlight == 0 })
			f.Reset()
			if err := f.AddFault(Fault{Kind: kind, Count: 1, RetryAfter: 7 * time.Second}); err != nil {
				t.Fatal(err)
			}
			ctx, pass := redistest.Expiring(t.Context())
			var ends sync.WaitGroup
			if kind == "hang" || kind == "slow" {
				ends.Go(func() {
					defer pass()
					redistest.Until(t, "the call is taken", func() bool { return f.Stats(false).Accepted == 1 })
				})
			}
			c := newCaller(t, d, url)
			a := c.Do(ctx, ask("x"))
			ends.Wait()
			if a.Outcome != want {
				t.Errorf("%s, %s: got %s (%s), want %s", kind, d, a.Outcome, a.Message, want)
			}
			if want == tasks.Succeeded && !strings.Contains(tasks.ResultText(a.Result), "You wrote: x.") {
				t.Errorf("%s, %s: result %s", kind, d, a.Result)
			}
			if strings.Contains(fmt.Sprintf("%+v %s", a, a.Result), testKey) {
				t.Errorf("%s, %s: the key shows in %+v", kind, d, a)
			}
			waits := kind == "429" || kind == "429_wait" || kind == "ramp"
			if a.HasRetryAfter != waits || waits && a.RetryAfter != 7*time.Second {
				t.Errorf("%s, %s: wait %v, %v", kind, d, a.RetryAfter, a.HasRetryAfter)
			}
			_, refuses := refusals[kind]
			s := f.Stats(false)
			if refuses && (s.Accepted != 0 || s.InputTokens != 0 || s.OutputTokens != 0 || s.Refused[kind] != 1) {
				t.Errorf("%s, %s: a refusal was charged: %+v", kind, d, s)
			}
			if !refuses && s.Accepted != 1 {
				t.Errorf("%s, %s: accepted %d, want 1", kind, d, s.Accepted)
			}
			if a := c.Do(t.Context(), ask("x")); a.Outcome != tasks.Succeeded {
				t.Errorf("after %s, %s: got %s, want the fault to be spent", kind, d, a.Outcome)
			}
			c.Close()
		}
	}
}

// However a provider sends its calls of tools, they come out as in the answer that
// it gives in one piece, behind the text.
func TestCallsOfToolsComeOutAsTheyAreMeant(t *testing.T) {
	t.Parallel()
	_, url := startFake(t, Config{MeanOutputTokens: 40})
	for _, c := range callings() {
		for _, d := range []Dialect{Anthropic, OpenAI} {
			want, holds := tasks.FinishToolUse, "["+strings.TrimPrefix(c.whole, `"tool_calls":[`)
			switch {
			case d == Anthropic:
				holds = c.blocks + "]"
			case c.kind == "function_call":
				holds = c.whole
			case c.kind == "tools_no_id":
				holds = `"arguments":"{\"city\":\"Oslo\"}"}},`
			}
			var texts []string
			for _, kind := range []string{"", "whole"} {
				caller, err := upstream.New(upstream.Config{Provider: upstream.Provider{Dialect: upstream.Dialect(d), BaseURL: url, APIKey: testKey, NoStream: kind == "whole"}})
				if err != nil {
					t.Fatal(err)
				}
				a := caller.Do(t.Context(), ask("[[fault:"+c.kind+"]] x"))
				caller.Close()
				texts = append(texts, tasks.ResultText(a.Result))
				if a.Outcome != tasks.Succeeded || a.Finish != want || !strings.Contains(texts[0], "You wrote:") || texts[0] != texts[len(texts)-1] {
					t.Errorf("%s, %s %s: %s, finish %s, %s, %s", c.kind, d, kind, a.Outcome, a.Finish, a.Message, a.Result)
				}
				got := strings.NewReplacer(`{"type":"function","id":"call_a"`, `{"id":"call_a","type":"function"`).Replace(string(a.Result))
				if !strings.Contains(got, holds) {
					t.Errorf("%s, %s %s: %s\nwant in it %s", c.kind, d, kind, a.Result, holds)
				}
			}
		}
	}
}

func TestFaultsByPromptAndByHeader(t *testing.T) {
	_, url := startFake(t, Config{})
	for i, want := range []int{529, 529, 200, 200} {
		if resp, _ := post(t, url, Anthropic, body(Anthropic, "please [[fault:529:2]]", "")); resp.StatusCode != want {
			t.Errorf("call %d of a prompt that fails twice: got %d, want %d", i, resp.StatusCode, want)
		}
	}
	if resp, _ := post(t, url, OpenAI, body(OpenAI, "x", ""), "X-Fake-Fault", "402"); resp.StatusCode != 402 {
		t.Errorf("by header: got %d, want 402", resp.StatusCode)
	}
	if _, b := post(t, url, Anthropic, body(Anthropic, "x [[tokens:7]]", "")); !bytes.Contains(b, []byte(`"output_tokens":7,`)) {
		t.Errorf("[[tokens:7]]: got %s", b)
	}
}

func TestFaultsAtRunTime(t *testing.T) {
	clock := &handClock{now: testTime}
	f, url := startFake(t, Config{Clock: clock, Faults: []Fault{{Kind: "500", Model: "other-*"}}})
	do := func(method, path, body string) (int, string) {
		t.Helper()
		req, err := http.NewRequestWithContext(t.Context(), method, url+path, strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		b, _ := io.ReadAll(resp.Body)
		return resp.StatusCode, string(b)
	}
	if got, b := do("POST", "/fake/faults", `{"kind":"529","duration":"2s","probability":0.5}`); got != 204 {
		t.Fatal(got, b)
	}
	for _, bad := range []string{`{"kind":"nope"}`, `{"kind":"529","typo":1}`, `{`, `{"kind":"529","probability":2}`, `{"kind":"529","duration":"x"}`} {
		if got, _ := do("POST", "/fake/faults", bad); got != 400 {
			t.Errorf("%s: got %d, want 400", bad, got)
		}
	}
	if got, b := do("GET", "/fake/faults", ""); got != 200 || b != `[{"kind":"500","model":"other-*"},{"kind":"529","probability":0.5,"duration":"2s"}]` {
		t.Errorf("faults: %d %s", got, b)
	}
	struck := 0
	for i := range 100 {
		if resp, _ := post(t, url, Anthropic, body(Anthropic, fmt.Sprint(i), "")); resp.StatusCode == 529 {
			struck++
		}
	}
	if struck < 30 || struck > 70 {
		t.Errorf("with probability 0.5, %d of 100 calls were struck", struck)
	}
	_ = clock.Sleep(t.Context(), 2*time.Second)
	for i := range 20 {
		if resp, _ := post(t, url, Anthropic, body(Anthropic, fmt.Sprint(i), "")); resp.StatusCode != 200 {
			t.Fatalf("after its duration the fault struck again: %d", resp.StatusCode)
		}
	}
	got, b := do("GET", "/fake/stats?detail=1", "")
	var s Stats
	if err := json.Unmarshal([]byte(b), &s); got != 200 || err != nil || s.Calls != 120 || len(s.Detail) != 100 || s.SentTwice == 0 {
		t.Errorf("stats: %d %v, calls %d, prompts %d, twice %d", got, err, s.Calls, len(s.Detail), s.SentTwice)
	}
	if got, _ := do("POST", "/fake/reset", ""); got != 204 {
		t.Errorf("reset: %d", got)
	}
	if s := f.Stats(true); s.Calls != 0 || len(s.Detail) != 0 || len(s.Keys) != 0 || s.FirstAcceptedAt != nil {
		t.Errorf("after a reset: %+v", s)
	}
	if got, _ := do("DELETE", "/fake/faults", ""); got != 204 {
		t.Errorf("clear: %d", got)
	}
	if _, b := do("GET", "/fake/faults", ""); b != `[]` {
		t.Errorf("faults after a clear: %s", b)
	}
}

func TestTheFakeIsStrictAboutRequests(t *testing.T) {
	f, url := startFake(t, Config{RequireKey: "k", Models: []string{"m", "claude-*"}})
	for _, tc := range []struct {
		name   string
		d      Dialect
		body   string
		header []string
		status int
		says   string
	}{
		{"wrong key", Anthropic, body(Anthropic, "x", ""), []string{"X-Api-Key", "no"}, 401, "authentication_error"},
		{"bearer", Anthropic, body(Anthropic, "x", ""), []string{"X-Api-Key", "", "Authorization", "Bearer k"}, 200, "stop_reason"},
		{"no key", OpenAI, body(OpenAI, "x", ""), []string{"Authorization", ""}, 401, "invalid_api_key"},
		{"no version", Anthropic, body(Anthropic, "x", ""), []string{"Anthropic-Version", ""}, 400, "anthropic-version"},
		{"form", Anthropic, body(Anthropic, "x", ""), []string{"Content-Type", "text/plain"}, 400, "application/json"},
		{"not JSON", Anthropic, `{"model":`, nil, 400, "not valid JSON"},
		{"wrong type", OpenAI, `{"model":7,"messages":[]}`, nil, 400, "/model"},
		{"no model", Anthropic, `{"max_tokens":1,"messages":[{"role":"user","content":"x"}]}`, nil, 400, "model: Field required"},
		{"unknown model", Anthropic, `{"model":"gpt","max_tokens":1,"messages":[{"role":"user","content":"x"}]}`, nil, 404, "not_found_error"},
		{"no messages", OpenAI, `{"model":"m","messages":[]}`, nil, 400, "messages"},
		{"bad role", Anthropic, `{"model":"m","max_tokens":1,"messages":[{"role":"system","content":"x"}]}`, nil, 400, "messages.0.role"},
		{"no max_tokens", Anthropic, `{"model":"m","messages":[{"role":"user","content":"x"}]}`, nil, 400, "max_tokens: Field required"},
		{"zero max_tokens", Anthropic, `{"model":"m","max_tokens":0,"messages":[{"role":"user","content":"x"}]}`, nil, 400, "max_tokens"},
		{"old sampling", Anthropic, body(Anthropic, "x", `,"temperature":1`), nil, 200, "stop_reason"},
		{"new sampling", Anthropic, body(Anthropic, "x", `,"temperature":1`), []string{"Anthropic-Version", "2026-10-21"}, 400, "temperature"},
		{"unknown members", Anthropic, body(Anthropic, "x", `,"of_tomorrow":{"a":1e400}`), nil, 200, "stop_reason"},
	} {
		resp, b := post(t, url, tc.d, tc.body, tc.header...)
		if resp.StatusCode != tc.status || !bytes.Contains(b, []byte(tc.says)) {
			t.Errorf("%s: got %d %s; want %d with %q", tc.name, resp.StatusCode, b, tc.status, tc.says)
		}
		id := resp.Header.Get("Request-Id") + resp.Header.Get("X-Request-Id")
		if id == "" || tc.d == Anthropic && tc.status != 200 && !bytes.Contains(b, []byte(id)) {
			t.Errorf("%s: request id %q in %s", tc.name, id, b)
		}
	}
	if s := f.Stats(false); s.Refused["401"] != 2 || s.Refused["404"] != 1 || s.Accepted != 3 {
		t.Errorf("stats: %+v", s)
	}
}

func TestCountingAndListing(t *testing.T) {
	_, url := startFake(t, Config{Models: []string{"claude-x"}})
	get := func(method, path, body string, header ...string) (int, string) {
		t.Helper()
		req, err := http.NewRequestWithContext(t.Context(), method, url+path, strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("X-Api-Key", "k")
		req.Header.Set("Content-Type", "application/json")
		for i := 0; i < len(header); i += 2 {
			req.Header.Set(header[i], header[i+1])
		}
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		b, _ := io.ReadAll(resp.Body)
		return resp.StatusCode, string(b)
	}
	a := newCaller(t, Anthropic, url).Do(t.Context(), upstream.Ask{Question: upstream.Read("claude-x", prompt("how many tokens?"))})
	status, b := get("POST", "/v1/messages/count_tokens", `{"model":"claude-x","messages":[{"role":"user","content":"how many tokens?"}]}`, "Anthropic-Version", "2023-06-01")
	if want := fmt.Sprintf(`{"input_tokens":%d}`, a.ChargedInput); status != 200 || b != want {
		t.Errorf("count: %d %s, want %s", status, b, want)
	}
	if status, b := get("GET", "/v1/models", "", "Anthropic-Version", "2023-06-01"); status != 200 || !strings.Contains(b, `"first_id":"claude-x"`) {
		t.Errorf("models: %d %s", status, b)
	}
	if status, b := get("GET", "/v1/models", ""); status != 200 || !strings.Contains(b, `"object":"list"`) {
		t.Errorf("models: %d %s", status, b)
	}
	if status, _ := get("GET", "/v1/nothing", ""); status != 404 {
		t.Errorf("an unknown path: %d", status)
	}
}

// The stream's text and the calls' digests show in the hook; keys and prompts do not.
func TestOnCallSeesDigestsOnly(t *testing.T) {
	calls := make(chan Call, 2)
	_, url := startFake(t, Config{OnCall: func(c Call) { calls <- c }})
	newCaller(t, Anthropic, url).Do(t.Context(), ask("a private prompt"))
	c := <-calls
	if c.Prompt == "" || !c.Accepted || !c.Completed || c.Status != 200 || c.InputTokens == 0 || c.OutputTokens == 0 {
		t.Errorf("call: %+v", c)
	}
	if s := fmt.Sprintf("%+v", c); strings.Contains(s, "private") || strings.Contains(s, testKey) {
		t.Errorf("the call shows a secret: %s", s)
	}
}

func TestACallThatIsLeftStaysChargedForWhatItProduced(t *testing.T) {
	calls := make(chan Call, 1)
	f, url := startFake(t, Config{TimePerToken: 5 * time.Millisecond, MeanOutputTokens: 100000, OnCall: func(c Call) { calls <- c }})
	ctx, cancel := context.WithCancel(t.Context())
	r := prompt("x")
	r.MaxTokens = 100000
	q := upstream.Ask{Question: upstream.Read("m", r)}
	q.OnText = func(string) { cancel() }
	if a := newCaller(t, Anthropic, url).Do(ctx, q); a.Outcome != tasks.CallCanceled || !a.MaybeBilled || a.ChargedInput == 0 || a.Usage != nil {
		t.Errorf("got %+v", a)
	}
	c := <-calls
	if c.Completed || c.OutputTokens == 0 || c.OutputTokens > 10000 {
		t.Errorf("call: %+v", c)
	}
	if s := f.Stats(false); s.InFlight != 0 || s.OutputTokens != c.OutputTokens {
		t.Errorf("stats: %+v", s)
	}
}

func TestCloseLetsGoOfHangingCalls(t *testing.T) {
	f, url := startFake(t, Config{Faults: []Fault{{Kind: "hang"}}})
	done := make(chan upstream.Answer)
	go func() { done <- newCaller(t, Anthropic, url).Do(t.Context(), ask("x")) }()
	redistest.Until(t, "the call arrives", func() bool { return f.Stats(false).Accepted > 0 })
	f.Close()
	f.Close()
	if a := <-done; a.Outcome != tasks.CutOff {
		t.Errorf("got %s, want cut_off", a.Outcome)
	}
}

func TestNewNamesEveryFault(t *testing.T) {
	_, err := New(Config{RequestsPerMinute: -1, Models: []string{"["}, Faults: []Fault{{Kind: "nope"}}})
	if err == nil {
		t.Fatal("got no error")
	}
	for _, want := range []string{"RequestsPerMinute", `"["`, "nope"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("got %q, want it to name %s", err, want)
		}
	}
}

// Every kind says what it does, each in words of its own.
func TestEveryKindIsDescribed(t *testing.T) {
	seen := map[string]string{}
	for _, k := range Kinds() {
		if k.Says == "" || seen[k.Says] != "" {
			t.Errorf("%s says %q, as does %s", k.Name, k.Says, seen[k.Says])
		}
		seen[k.Says] = k.Name
	}
}

func BenchmarkCallerAgainstFake(b *testing.B) {
	for _, d := range []Dialect{Anthropic, OpenAI} {
		b.Run(string(d), func(b *testing.B) {
			_, url := startFake(b, Config{MeanOutputTokens: 64})
			c := newCaller(b, d, url)
			b.ReportAllocs()
			b.SetParallelism(16)
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					if a := c.Do(b.Context(), ask("how fast is this?")); a.Outcome != tasks.Succeeded {
						b.Error(a.Outcome, a.Message)
						return
					}
				}
			})
		})
	}
}

func BenchmarkFake(b *testing.B) {
	f, err := New(Config{RequestsPerMinute: 1e9, RequestBurst: 1e9, InputTokensPerMinute: 1e12, OutputTokensPerMinute: 1e12})
	if err != nil {
		b.Fatal(err)
	}
	raw := body(Anthropic, "how fast is this?", `,"stream":true`)
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			r := httptest.NewRequest("POST", "/v1/messages", strings.NewReader(raw))
			r.Header.Set("X-Api-Key", "k")
			r.Header.Set("Content-Type", "application/json")
			r.Header.Set("Anthropic-Version", "2023-06-01")
			w := httptest.NewRecorder()
			f.ServeHTTP(w, r)
			if w.Code != 200 {
				b.Fatal(w.Code, w.Body)
			}
		}
	})
}
