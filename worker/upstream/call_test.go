package upstream

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/sluicehq/sluice/tasks"
	"github.com/sluicehq/sluice/tasks/redistest"
	"github.com/sluicehq/sluice/worker/upstream/fake"
)

const testKey = "the-secret-key"

var testTime = time.Date(2026, 11, 20, 10, 0, 0, 0, time.UTC)

// wire is a provider that answers every request with the same bytes.
type wire struct {
	url      string
	requests chan *http.Request // one entry a request, its body read
	bodies   chan []byte
}

// serveBytes answers each connection's first request with raw and closes it;
// with reset, by a RST.
func serveBytes(t *testing.T, raw []byte, reset bool) *wire {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	w := &wire{url: "http://" + l.Addr().String(), requests: make(chan *http.Request, 16), bodies: make(chan []byte, 16)}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			req, err := http.ReadRequest(bufio.NewReader(conn))
			if err == nil {
				body, _ := io.ReadAll(req.Body)
				w.requests <- req
				w.bodies <- body
				_, _ = conn.Write(raw)
			}
			if reset {
				_ = conn.(*net.TCPConn).SetLinger(0)
			}
			_ = conn.Close()
		}
	}()
	t.Cleanup(func() { _ = l.Close(); <-done })
	return w
}

// fixture returns a stored answer as it goes over the wire: a header with CR
// LF, then the body as it stands.
func fixture(t *testing.T, name string) []byte {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("testdata", filepath.FromSlash(name)))
	if err != nil {
		t.Fatal(err)
	}
	head, body, ok := bytes.Cut(b, []byte("\n\n"))
	if !ok {
		t.Fatalf("%s has no empty line after its header", name)
	}
	head = bytes.ReplaceAll(head, []byte("\n"), []byte("\r\n"))
	return append(append(head, "\r\nConnection: close\r\n\r\n"...), body...)
}

func newCaller(t *testing.T, d Dialect, url string, change func(*Config)) *Caller {
	t.Helper()
	cfg := Config{
		Provider: Provider{Name: "p", Dialect: d, BaseURL: url, APIKey: testKey},
		Now:      func() time.Time { return testTime },
	}
	if change != nil {
		change(&cfg)
	}
	c, err := New(cfg)
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

func ask(text string) Ask { return Ask{Question: Read("m", prompt(text))} }

func TestAStreamBecomesTheBodyOfTheOtherAPI(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name    string
		start   int64
		usage   *tasks.Usage
		text    string
		request string
	}{
		{"anthropic/text", 32, &tasks.Usage{InputTokens: 25, OutputTokens: 15, CacheReadInputTokens: 100, CacheCreationInputTokens: 7},
			"", "req_011CVJx2ZsGrkqTwM4dWnA7b"},
		{"anthropic/rich", 472, &tasks.Usage{InputTokens: 10682, OutputTokens: 510}, "It is sunny.", "req_011CVJx2ZsGrkqTwM4dWnA7c"},
		{"openai/text", 19, &tasks.Usage{InputTokens: 15, OutputTokens: 10, CacheReadInputTokens: 4}, "Hello there",
			"req_39dbc38ef4bd4e1c9f8a21d4c9e0a1b2"},
		{"openai/tools", -1, nil, "", "req_tools"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			want, err := os.ReadFile(filepath.Join("testdata", tc.name+".json"))
			if err != nil {
				t.Fatal(err)
			}
			d := Dialect(strings.Split(tc.name, "/")[0])
			// The same answer with every end of line that the standard allows.
			for _, eol := range []string{"\n", "\r\n", "\r"} {
				raw := fixture(t, tc.name+".http")
				head, body, _ := bytes.Cut(raw, []byte("\r\n\r\n"))
				raw = append(append(bytes.Clone(head), "\r\n\r\n"...), bytes.ReplaceAll(body, []byte("\n"), []byte(eol))...)
				c := newCaller(t, d, serveBytes(t, raw, false).url, nil)
				q := ask("hi")
				start, said := int64(-1), ""
				q.OnStart = func(n int64, _ Rates) { start = n }
				q.OnText = func(s string) { said += s }
				a := c.Do(t.Context(), q)
				if a.Outcome != tasks.Succeeded {
					t.Fatalf("lines ended by %q: outcome %s (%s)", eol, a.Outcome, a.Message)
				}
				if got := string(a.Result); got != strings.TrimSpace(string(want)) {
					t.Errorf("lines ended by %q: result\n got %s\nwant %s", eol, got, want)
				}
				if start != tc.start {
					t.Errorf("OnStart: got %d, want %d", start, tc.start)
				}
				if (a.Usage == nil) != (tc.usage == nil) || a.Usage != nil && *a.Usage != *tc.usage {
					t.Errorf("usage: got %+v, want %+v", a.Usage, tc.usage)
				}
				if tc.text != "" && said != tc.text {
					t.Errorf("text: got %q, want %q", said, tc.text)
				}
				if a.RequestID != tc.request || a.Status != 200 || a.MaybeBilled {
					t.Errorf("got request %q, status %d, maybe billed %v", a.RequestID, a.Status, a.MaybeBilled)
				}
			}
		})
	}
}

func TestHeadersOfAnAnswerAreRead(t *testing.T) {
	t.Parallel()
	c := newCaller(t, Anthropic, serveBytes(t, fixture(t, "anthropic/text.http"), false).url, nil)
	a := c.Do(t.Context(), ask("hi"))
	if !a.HeadersAt.Equal(c.now()) {
		t.Errorf("headers came at %v, want %v", a.HeadersAt, c.now())
	}
	got := a.Rates
	want := Rates{
		Requests: Rate{Present: true, Limit: 1000, Remaining: 999, Granularity: 1, Window: time.Minute},
		Input:    Rate{Present: true, Limit: 2000000, Remaining: 1998000, Granularity: 1000, Reset: time.Second, Window: time.Minute},
		Output:   Rate{Present: true, Limit: 400000, Remaining: 399000, Granularity: 1000, Reset: 2 * time.Second, Window: time.Minute},
		Tokens:   Rate{Present: true, Limit: 2400000, Remaining: 2397000, Granularity: 1000, Reset: time.Second, Window: time.Minute},
	}
	if got != want {
		t.Errorf("anthropic: got %+v, want %+v", got, want)
	}

	c = newCaller(t, OpenAI, serveBytes(t, fixture(t, "openai/text.http"), false).url, nil)
	got = c.Do(t.Context(), ask("hi")).Rates
	want = Rates{
		Requests: Rate{Present: true, Limit: 5000, Remaining: 4999, Granularity: 1, Reset: 12 * time.Millisecond, Window: time.Minute},
		Tokens:   Rate{Present: true, Limit: 450000, Remaining: 449985, Granularity: 1, Reset: 2 * time.Millisecond, Window: time.Minute},
	}
	if got != want {
		t.Errorf("openai: got %+v, want %+v", got, want)
	}
}

func TestEveryRefusalHasItsOutcome(t *testing.T) {
	t.Parallel()
	yes, no := true, false
	december := time.Date(2026, 12, 1, 0, 0, 0, 0, time.UTC)
	for _, tc := range []struct {
		name   string
		want   tasks.Outcome
		status int
		wait   time.Duration // -1: none stated
		resume time.Time
		retry  *bool
		billed bool
		says   string
	}{
		{"anthropic/429-ordinary", tasks.RateLimited, 429, 17 * time.Second, time.Time{}, &yes, false, "rate_limit_error: This request would exceed"},
		{"anthropic/429-ramp", tasks.RampLimited, 429, 20 * time.Second, time.Time{}, nil, false, "rate_limit_error (ramp_limit_exceeded): Usage"},
		{"anthropic/429-spend", tasks.SpendLimited, 429, -1, december, &no, false, "enforced_spend_limit_reached"},
		{"anthropic/429-contract", tasks.SpendLimited, 429, -1, time.Time{}, nil, false, "Contract limit."},
		{"anthropic/429-bare", tasks.RateLimited, 429, -1, time.Time{}, nil, false, "Limited"},
		{"anthropic/400-customer-cap", tasks.SpendLimited, 400, -1, december, nil, false, "You have reached"},
		{"anthropic/400-credit", tasks.SpendLimited, 400, -1, time.Time{}, nil, false, "Your credit balance"},
		{"anthropic/400", tasks.Rejected, 400, -1, time.Time{}, &no, false, "invalid_request_error: messages: at least one message is required"},
		{"anthropic/401", tasks.Unauthorized, 401, -1, time.Time{}, nil, false, "authentication_error: invalid x-api-key [key]"},
		{"anthropic/402", tasks.SpendLimited, 402, -1, time.Time{}, nil, false, "billing_error"},
		{"anthropic/402-linked", tasks.SpendLimited, 402, -1, time.Time{}, nil, false, "billing_error (linked_organization_spend_limit_reached)"},
		{"anthropic/403", tasks.Unauthorized, 403, -1, time.Time{}, nil, false, "permission_error"},
		{"anthropic/404", tasks.Rejected, 404, -1, time.Time{}, nil, false, "not_found_error: model: claude-nope"},
		{"anthropic/409", tasks.ServerError, 409, -1, time.Time{}, nil, false, "conflict_error"},
		{"anthropic/413", tasks.Rejected, 413, -1, time.Time{}, nil, false, "the page “413 Request Entity Too Large”"},
		{"anthropic/500", tasks.ServerError, 500, -1, time.Time{}, &yes, false, "api_error"},
		{"anthropic/502", tasks.ServerError, 502, -1, time.Time{}, nil, true, "bad gateway"},
		{"anthropic/504", tasks.Timeout, 504, -1, time.Time{}, nil, true, "timeout_error"},
		{"anthropic/529", tasks.Overloaded, 529, -1, time.Time{}, &yes, false, "overloaded_error: Overloaded"},
		{"anthropic/redirect", tasks.ServerError, 301, -1, time.Time{}, nil, false, "redirects to another"},
		{"anthropic/html", tasks.ServerError, 200, -1, time.Time{}, nil, true, "did not answer as the provider"},
		{"anthropic/stream-overloaded", tasks.Overloaded, 200, -1, time.Time{}, nil, true, "overloaded_error: Overloaded"},
		{"anthropic/stream-limited", tasks.RateLimited, 200, -1, time.Time{}, nil, true, "rate_limit_error: This request"},
		{"openai/429-ordinary", tasks.RateLimited, 429, 120 * time.Millisecond, time.Time{}, nil, false, "requests (rate_limit_exceeded): Rate limit"},
		{"openai/429-bare", tasks.RateLimited, 429, -1, time.Time{}, nil, false, "Rate limit"},
		{"openai/429-quota", tasks.SpendLimited, 429, -1, time.Time{}, nil, false, "insufficient_quota: You exceeded"},
		{"openai/429-oversize", tasks.Rejected, 429, -1, time.Time{}, nil, false, "Request too large"},
		{"openai/401", tasks.Unauthorized, 401, -1, time.Time{}, nil, false, "provided: [key]. You can"},
		{"openai/503", tasks.Overloaded, 503, 30 * time.Second, time.Time{}, nil, false, "overloaded"},
		{"openai/stream-error", tasks.ServerError, 200, -1, time.Time{}, nil, true, "server_error"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			d := Dialect(strings.Split(tc.name, "/")[0])
			w := serveBytes(t, fixture(t, tc.name+".http"), false)
			a := newCaller(t, d, w.url, nil).Do(t.Context(), ask("hi"))
			if a.Outcome != tc.want || a.Status != tc.status {
				t.Errorf("got %s with status %d, want %s with %d", a.Outcome, a.Status, tc.want, tc.status)
			}
			if tc.wait < 0 && a.HasRetryAfter || tc.wait >= 0 && (!a.HasRetryAfter || a.RetryAfter != tc.wait) {
				t.Errorf("wait: got %v, %v; want %v", a.RetryAfter, a.HasRetryAfter, tc.wait)
			}
			if !a.ResumeAt.Equal(tc.resume) {
				t.Errorf("resume: got %v, want %v", a.ResumeAt, tc.resume)
			}
			if (a.ShouldRetry == nil) != (tc.retry == nil) || a.ShouldRetry != nil && *a.ShouldRetry != *tc.retry {
				t.Errorf("x-should-retry: got %v, want %v", a.ShouldRetry, tc.retry)
			}
			if a.MaybeBilled != tc.billed {
				t.Errorf("maybe billed: got %v, want %v", a.MaybeBilled, tc.billed)
			}
			if !strings.Contains(a.Message, tc.says) || len(a.Message) > maxMessage {
				t.Errorf("message of %d bytes: got %q, want it to hold %q", len(a.Message), a.Message, tc.says)
			}
			if a.Result != nil || a.Usage != nil {
				t.Errorf("a failure carries result %s, usage %v", a.Result, a.Usage)
			}
			if len(w.requests) != 1 {
				t.Errorf("sent %d requests, want 1", len(w.requests))
			}
		})
	}
}

func TestABodyThatIsNoStreamIsKeptByteForByte(t *testing.T) {
	t.Parallel()
	raw := fixture(t, "anthropic/whole.http")
	_, body, _ := bytes.Cut(raw, []byte("\r\n\r\n"))
	said, start := "", int64(0)
	q := ask("hi")
	q.OnText = func(s string) { said += s }
	q.OnStart = func(n int64, _ Rates) { start = n }
	a := newCaller(t, Anthropic, serveBytes(t, raw, false).url, nil).Do(t.Context(), q)
	if a.Outcome != tasks.Succeeded || !bytes.Equal(a.Result, body) {
		t.Errorf("got %s, result %q; want %q", a.Outcome, a.Result, body)
	}
	if said != "as one body" || start != 4 || a.Usage == nil || *a.Usage != (tasks.Usage{InputTokens: 4, OutputTokens: 3, CacheReadInputTokens: 2}) {
		t.Errorf("got text %q, start %d, usage %+v", said, start, a.Usage)
	}

	a = newCaller(t, Anthropic, serveBytes(t, raw[:len(raw)-20], false).url, nil).Do(t.Context(), q)
	if a.Outcome != tasks.CutOff || !a.MaybeBilled {
		t.Errorf("cut short: got %s, maybe billed %v; want cut_off, true", a.Outcome, a.MaybeBilled)
	}
}

// Some servers send a whole message inside a chunk; the call panicked at one.
func TestAChunkMayHoldAWholeMessage(t *testing.T) {
	t.Parallel()
	const whole = `"message":{"role":"assistant","content":"hello","n":1.50}`
	for name, events := range map[string][]string{
		"alone":          {`{"choices":[{"index":0,` + whole + `,"finish_reason":"stop"}]}`},
		"after deltas":   {`{"choices":[{"index":0,"delta":{"content":"hel"}}]}`, `{"choices":[{"index":0,"delta":{"content":"lo"}}]}`, `{"choices":[{"index":0,` + whole + `,"finish_reason":"stop"}]}`},
		"before a delta": {`{"choices":[{"index":0,` + whole + `,"delta":{},"finish_reason":"stop"}]}`},
		"then null":      {`{"choices":[{"index":0,` + whole + `}]}`, `{"choices":[{"index":0,"message":null,"delta":{},"finish_reason":"stop"}]}`},
		"then a string":  {`{"choices":[{"index":0,` + whole + `}]}`, `{"choices":[{"index":0,"message":"x","delta":{},"finish_reason":"stop"}]}`},
	} {
		raw := "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\ndata: " + strings.Join(append(events, "[DONE]"), "\n\ndata: ") + "\n\n"
		q, said := ask("hi"), ""
		q.OnText = func(s string) { said += s }
		a := newCaller(t, OpenAI, serveBytes(t, []byte(raw), false).url, nil).Do(t.Context(), q)
		want := `{"choices":[{"index":0,` + whole + `,"logprobs":null,"finish_reason":"stop"}]}`
		if a.Outcome != tasks.Succeeded || string(a.Result) != want || said != "hello" {
			t.Errorf("%s: got %s (%s), text %q, result\n %s, want\n %s", name, a.Outcome, a.Message, said, a.Result, want)
		}
	}
}

func TestAResultOverTheCapIsTooLarge(t *testing.T) {
	t.Parallel()
	want, err := os.ReadFile("testdata/anthropic/rich.json")
	if err != nil {
		t.Fatal(err)
	}
	size := int64(len(bytes.TrimSpace(want)))
	for _, tc := range []struct {
		name string
		max  int64
		want tasks.Outcome
	}{
		{"anthropic/rich", size + 200, tasks.Succeeded},
		{"anthropic/rich", size - 1, tasks.TooLarge},
		{"anthropic/whole", 100, tasks.TooLarge},
		{"openai/text", 300, tasks.TooLarge},
	} {
		d := Dialect(strings.Split(tc.name, "/")[0])
		c := newCaller(t, d, serveBytes(t, fixture(t, tc.name+".http"), false).url, func(cfg *Config) { cfg.MaxResultBytes = tc.max })
		if a := c.Do(t.Context(), ask("hi")); a.Outcome != tc.want {
			t.Errorf("%s with at most %d bytes: got %s, want %s", tc.name, tc.max, a.Outcome, tc.want)
		}
	}
	long := append([]byte("HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\ndata: "), bytes.Repeat([]byte("x"), 1<<20)...)
	c := newCaller(t, Anthropic, serveBytes(t, long, false).url, func(cfg *Config) { cfg.MaxResultBytes = 1000 })
	if a := c.Do(t.Context(), ask("hi")); a.Outcome != tasks.TooLarge {
		t.Errorf("an endless line: got %s, want too_large", a.Outcome)
	}
}

func TestWhatIsSent(t *testing.T) {
	t.Parallel()
	w := serveBytes(t, fixture(t, "anthropic/text.http"), false)
	c := newCaller(t, Anthropic, w.url+"/v1/", func(cfg *Config) { cfg.UserAgent = "sluice/1" })
	q := ask("hi")
	q.Question.request.Version, q.Question.request.Beta = "2026-10-21", "a-2025-01-01,b-2025-02-02"
	c.Do(t.Context(), q)
	req, body := <-w.requests, <-w.bodies
	if req.Method != "POST" || req.URL.Path != "/v1/messages" {
		t.Errorf("got %s %s", req.Method, req.URL.Path)
	}
	for name, want := range map[string]string{
		"X-Api-Key": testKey, "Authorization": "", "Anthropic-Version": "2026-10-21", "User-Agent": "sluice/1",
		"Anthropic-Beta": "a-2025-01-01,b-2025-02-02", "Content-Type": "application/json", "Accept-Encoding": "identity",
	} {
		if got := req.Header.Get(name); got != want {
			t.Errorf("header %s: got %q, want %q", name, got, want)
		}
	}
	if got, want := string(body), `{"model":"m","max_tokens":64,"messages":[{"role":"user","content":"hi"}],"stream":true}`; got != want {
		t.Errorf("body: got %s, want %s", got, want)
	}

	w = serveBytes(t, fixture(t, "openai/text.http"), false)
	newCaller(t, OpenAI, w.url, nil).Do(t.Context(), ask("hi"))
	req, body = <-w.requests, <-w.bodies
	if req.URL.Path != "/v1/chat/completions" || req.Header.Get("Authorization") != "Bearer "+testKey || req.Header.Get("Anthropic-Version") != "" {
		t.Errorf("openai: got path %s, header %v", req.URL.Path, req.Header)
	}
	if got, want := string(body), `{"model":"m","max_completion_tokens":64,"messages":[{"role":"user","content":"hi"}],"stream":true,"stream_options":{"include_usage":true}}`; got != want {
		t.Errorf("openai body: got %s, want %s", got, want)
	}
	for _, row := range []struct {
		dialect               Dialect
		organization, project bool
		want                  [3]string
	}{
		{OpenAI, false, false, [3]string{"b=v1"}}, {OpenAI, true, false, [3]string{"b=v1", "org"}}, {OpenAI, false, true, [3]string{"b=v1", "", "proj"}},
		{OpenAI, true, true, [3]string{"b=v1", "org", "proj"}}, {Anthropic, true, true, [3]string{}},
	} {
		w = serveBytes(t, fixture(t, string(row.dialect)+"/text.http"), false)
		q := ask("hi")
		q.Question.request.OpenAI = tasks.OpenAIFields{Beta: "b=v1", Organization: "org", Project: "proj"}
		newCaller(t, row.dialect, w.url, func(c *Config) { c.Provider.Organization, c.Provider.Project = row.organization, row.project }).Do(t.Context(), q)
		h := (<-w.requests).Header
		if got := [3]string{h.Get("OpenAI-Beta"), h.Get("OpenAI-Organization"), h.Get("OpenAI-Project")}; got != row.want {
			t.Errorf("%+v: sent with %q", row, got)
		}
	}
	w = serveBytes(t, fixture(t, "anthropic/text.http"), false)
	newCaller(t, Anthropic, w.url, nil).Do(t.Context(), ask("hi"))
	if got := (<-w.requests).Header.Get("Anthropic-Version"); got != "2023-06-01" {
		t.Errorf("version by default: got %q", got)
	}
}

// A call carries its place in a trace where its provider may be told of it, and only there.
func TestTracesOfCallsAreTheProvidersToKnowWhereItSaysSo(t *testing.T) {
	t.Parallel()
	const parent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
	for _, dialect := range []Dialect{Anthropic, OpenAI} {
		for _, row := range []struct {
			told         bool
			parent, want string
		}{{true, parent, parent}, {true, "", ""}, {false, parent, ""}} {
			w := serveBytes(t, fixture(t, string(dialect)+"/text.http"), false)
			q := ask("hi")
			q.Traceparent = row.parent
			newCaller(t, dialect, w.url, func(c *Config) { c.Provider.TraceContext = row.told }).Do(t.Context(), q)
			if got := strings.Join((<-w.requests).Header.Values("Traceparent"), ","); got != row.want {
				t.Errorf("%s, %+v: sent with %q", dialect, row, got)
			}
		}
	}
}

func TestACallThatNeverArrivedIsNotBilled(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	url := l.Addr().String()
	_ = l.Close()
	plain := httptest.NewServer(http.NotFoundHandler())
	defer plain.Close()
	for name, base := range map[string]string{
		"refused":    "http://" + url,
		"no tls":     "https" + strings.TrimPrefix(plain.URL, "http"),
		"no address": "http://name.invalid",
	} {
		a := newCaller(t, Anthropic, base, nil).Do(t.Context(), ask("hi"))
		if a.Outcome != tasks.ConnectError || a.MaybeBilled || a.Status != 0 {
			t.Errorf("%s: got %s, maybe billed %v, status %d", name, a.Outcome, a.MaybeBilled, a.Status)
		}
	}
}

func TestAConnectionLostAfterSendingMayBeBilled(t *testing.T) {
	t.Parallel()
	for _, reset := range []bool{false, true} {
		for name, raw := range map[string][]byte{
			"before the status": nil,
			"in the header":     []byte("HTTP/1.1 200 OK\r\nContent-Ty"),
			"in the body":       []byte("HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nContent-Length: 999\r\n\r\nevent: ping\n"),
		} {
			w := serveBytes(t, raw, reset)
			a := newCaller(t, Anthropic, w.url, nil).Do(t.Context(), ask("hi"))
			if a.Outcome != tasks.CutOff || !a.MaybeBilled {
				t.Errorf("lost %s, reset %v: got %s, maybe billed %v", name, reset, a.Outcome, a.MaybeBilled)
			}
			if len(w.requests) != 1 {
				t.Errorf("lost %s, reset %v: sent %d times, want 1", name, reset, len(w.requests))
			}
		}
	}
}

// hanging answers the header and then nothing until the client is gone.
func hanging(t *testing.T, early bool) (url string, arrived chan struct{}) {
	t.Helper()
	arrived = make(chan struct{}, 4)
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		if early {
			w.Header().Set("Content-Type", "text/event-stream")
			w.WriteHeader(200)
			_ = http.NewResponseController(w).Flush()
		}
		arrived <- struct{}{}
		<-r.Context().Done()
	}))
	t.Cleanup(s.Close)
	return s.URL, arrived
}

func TestTheContextBoundsACall(t *testing.T) {
	t.Parallel()
	for _, early := range []bool{false, true} {
		url, arrived := hanging(t, early)
		c := newCaller(t, Anthropic, url, nil)

		ctx, cancel := context.WithCancel(t.Context())
		go func() { <-arrived; cancel() }()
		if a := c.Do(ctx, ask("hi")); a.Outcome != tasks.CallCanceled || !a.MaybeBilled {
			t.Errorf("cancelled, header sent %v: got %s, maybe billed %v", early, a.Outcome, a.MaybeBilled)
		}

		ctx, pass := redistest.Expiring(t.Context())
		go func() { <-arrived; pass() }()
		if a := c.Do(ctx, ask("hi")); a.Outcome != tasks.Timeout {
			t.Errorf("deadline, header sent %v: got %s", early, a.Outcome)
		}
		c.Close()
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if a := newCaller(t, Anthropic, "http://127.0.0.1:1", nil).Do(ctx, ask("hi")); a.Outcome != tasks.CallCanceled || a.MaybeBilled {
		t.Errorf("cancelled before: got %s, maybe billed %v", a.Outcome, a.MaybeBilled)
	}
}

// A process that does not reach the provider any more gives up a call that has not
// left, unpaid. One that was sent may be paid for, and its answer is waited for.
func TestACallThatHasNotLeftIsGivenUp(t *testing.T) {
	t.Parallel()
	silent, err := net.Listen("tcp", "127.0.0.1:0") // its connections wait for a handshake
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	accepted := make(chan net.Conn, 1)
	go func() {
		if conn, err := silent.Accept(); err == nil {
			accepted <- conn
		}
	}()
	leave, ended := make(chan struct{}), make(chan Answer, 1)
	q := ask("hi")
	q.Leave = leave
	c := newCaller(t, OpenAI, "https://"+silent.Addr().String(), nil)
	go func() { ended <- c.Do(t.Context(), q) }()
	defer (<-accepted).Close()
	close(leave)
	select {
	case a := <-ended:
		if a.Outcome != tasks.ConnectError || a.MaybeBilled {
			t.Errorf("a call that has not left: %s, maybe billed %v", a.Outcome, a.MaybeBilled)
		}
	case <-time.After(time.Minute):
		t.Error("a call that has not left goes on")
	}

	arrived, release := make(chan struct{}), make(chan struct{})
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		close(arrived)
		<-release
		_, _ = io.WriteString(w, `{"choices":[{"message":{"content":"hello"},"finish_reason":"stop"}]}`)
	}))
	defer server.Close()
	gone := make(chan struct{})
	q.Leave = gone
	c = newCaller(t, OpenAI, server.URL, nil)
	go func() { ended <- c.Do(t.Context(), q) }()
	<-arrived
	close(gone)
	close(release)
	if a := <-ended; a.Outcome != tasks.Succeeded {
		t.Errorf("a call that was sent: %s, %s", a.Outcome, a.Message)
	}
}

func TestAnswersShareAConnection(t *testing.T) {
	t.Parallel()
	_, body, _ := bytes.Cut(fixture(t, "anthropic/text.http"), []byte("\r\n\r\n"))
	addresses := map[string]bool{}
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		addresses[r.RemoteAddr] = true
		w.Header().Set("Content-Type", "text/event-stream")
		_, _ = w.Write(body[:200])
		_ = http.NewResponseController(w).Flush()
		_, _ = w.Write(body[200:])
	}))
	defer s.Close()
	c := newCaller(t, Anthropic, s.URL, nil)
	for range 20 {
		if a := c.Do(t.Context(), ask("hi")); a.Outcome != tasks.Succeeded {
			t.Fatal(a.Outcome, a.Message)
		}
	}
	if len(addresses) != 1 {
		t.Errorf("20 calls in a row used %d connections, want 1", len(addresses))
	}
}

func TestHTTP2(t *testing.T) {
	t.Parallel()
	f, err := fake.New(fake.Config{MeanOutputTokens: 300, TimePerToken: 10 * time.Microsecond})
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	versions := make(chan int, 16)
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		versions <- r.ProtoMajor
		f.ServeHTTP(w, r)
	}))
	s.EnableHTTP2 = true
	s.StartTLS()
	defer s.Close()
	c := newCaller(t, Anthropic, s.URL, func(cfg *Config) { cfg.Client = s.Client() })
	for kind, want := range map[string]tasks.Outcome{"": tasks.Succeeded, "reset": tasks.CutOff, "cut": tasks.CutOff, "529": tasks.Overloaded} {
		a := c.Do(t.Context(), ask("[[fault:"+kind+"]] hi"))
		if a.Outcome != want || a.MaybeBilled != (want == tasks.CutOff) {
			t.Errorf("fault %q: got %s (%s), maybe billed %v; want %s", kind, a.Outcome, a.Message, a.MaybeBilled, want)
		}
		if v := <-versions; v != 2 {
			t.Errorf("fault %q: asked by HTTP/%d, want 2", kind, v)
		}
	}
	if len(versions) != 0 {
		t.Errorf("%d calls too many", len(versions))
	}
}

func TestABrokenCallIsNeverSentAgain(t *testing.T) {
	t.Parallel()
	f, err := fake.New(fake.Config{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(f.Close)
	s := httptest.NewServer(f)
	t.Cleanup(s.Close)
	c := newCaller(t, Anthropic, s.URL, nil)
	for i := range 5 {
		if a := c.Do(t.Context(), ask("hi")); a.Outcome != tasks.Succeeded {
			t.Fatalf("call %d: %s", i, a.Outcome)
		}
		// By the connection that the first call left, which then ends.
		a := c.Do(t.Context(), ask("[[fault:cut]] hi"))
		if a.Outcome != tasks.CutOff {
			t.Fatalf("call %d: %s", i, a.Outcome)
		}
	}
	if s := f.Stats(false); s.Calls != 10 {
		t.Errorf("10 calls arrived as %d", s.Calls)
	}
}

func TestNothingThatCannotBeSentIsSent(t *testing.T) {
	t.Parallel()
	c := newCaller(t, Anthropic, "http://127.0.0.1:1", nil)
	for name, r := range map[string]tasks.Request{
		"no object":   {Kind: tasks.Raw, Body: []byte(`[1]`)},
		"cut":         {Kind: tasks.Raw, Body: []byte(`{"a":`)},
		"two":         {Kind: tasks.Raw, Body: []byte(`{} {}`)},
		"no string":   {Kind: tasks.Text, Body: []byte(`12`)},
		"no messages": {Kind: tasks.Messages, Body: []byte(`{"system":"x"}`)},
		"no kind":     {Body: []byte(`{}`)},
		"bad version": {Kind: tasks.Raw, Body: []byte(`{}`), Version: "a\r\nX-Api-Key: b"},
		"bad beta":    {Kind: tasks.Raw, Body: []byte(`{}`), Beta: "a\nb"},
	} {
		if a := c.Do(t.Context(), Ask{Question: Read("m", r)}); a.Outcome != tasks.Rejected || a.Message == "" || a.Status != 0 {
			t.Errorf("%s: got %s, %q, status %d; want rejected", name, a.Outcome, a.Message, a.Status)
		}
	}
}

func TestNewNamesEveryFaultAndNoSecret(t *testing.T) {
	t.Parallel()
	_, err := New(Config{
		Provider:       Provider{Name: "p", Dialect: "latin", BaseURL: "ftp://user:hunter2@host", APIKey: "hunter2\n"},
		MaxResultBytes: -1,
	})
	if err == nil {
		t.Fatal("got no error")
	}
	for _, want := range []string{"latin", "base URL", "API key", "-1"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("got %q, want it to name %q", err, want)
		}
	}
	if strings.Contains(err.Error(), "hunter2") {
		t.Errorf("the error shows a secret: %v", err)
	}
}

func TestBaseURLs(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		d          Dialect
		base, want string
	}{
		{Anthropic, "", "https://api.anthropic.com/v1/messages"},
		{Anthropic, "http://h:1/", "http://h:1/v1/messages"},
		{Anthropic, "http://h/v1", "http://h/v1/messages"},
		{Anthropic, "http://h/proxy", "http://h/proxy/v1/messages"},
		{OpenAI, "", "https://api.openai.com/v1/chat/completions"},
		{OpenAI, "http://h", "http://h/v1/chat/completions"},
		{OpenAI, "http://h/v1/", "http://h/v1/chat/completions"},
		{OpenAI, "http://h/openai/v3", "http://h/openai/v3/chat/completions"},
	} {
		if got, err := endpoint(tc.d, tc.base); err != nil || got != tc.want {
			t.Errorf("endpoint(%s, %q): got %q, %v; want %q", tc.d, tc.base, got, err, tc.want)
		}
	}
}

func TestInputCutShortIsClosed(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		`{"a": 1.50}`:                    `{"a": 1.50}`,
		`{"a":1,"b":[1,{"c":"x"`:         `{"a":1,"b":[1,{"c":"x"}]}`,
		`{"a":1,"b":"cut in hal`:         `{"a":1}`,
		`{"a":1,"b`:                      `{"a":1}`,
		`{"a":12345678901234567890,"b":`: `{"a":12345678901234567890}`,
		`{`:                              `{}`,
		`nonsense`:                       `{}`,
	} {
		if got := string(completed([]byte(in))); got != want {
			t.Errorf("completed(%s): got %s, want %s", in, got, want)
		}
	}
}
