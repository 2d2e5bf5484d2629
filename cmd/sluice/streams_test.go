package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/sluicehq/sluice/tasks"
	"github.com/sluicehq/sluice/tasks/redistest"
	"github.com/sluicehq/sluice/worker/upstream"
)

// teller is a provider that tells each call what a test has it tell, piece by piece.
type teller struct {
	*httptest.Server
	calls chan *toldCall
}

// toldCall is one call. Its answer ends with Close.
type toldCall struct {
	body  []byte
	say   chan string
	abort chan struct{}
}

func newTeller(t *testing.T) *teller {
	p := &teller{calls: make(chan *toldCall, 64)}
	p.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		if r.Method == http.MethodGet {
			_, _ = io.WriteString(w, `{"data":[]}`)
			return
		}
		c := &toldCall{body: body, say: make(chan string), abort: make(chan struct{})}
		p.calls <- c
		w.Header().Set("Content-Type", "text/event-stream")
		for {
			select {
			case s, more := <-c.say:
				if !more {
					return
				}
				if status, whole, refused := strings.Cut(s, " refused "); refused {
					w.Header().Set("Content-Type", "application/json")
					w.WriteHeader(map[string]int{"400": 400, "529": 529}[status])
					_, _ = io.WriteString(w, whole)
					return
				}
				_, _ = io.WriteString(w, s)
				w.(http.Flusher).Flush()
			case <-c.abort:
				panic(http.ErrAbortHandler)
			case <-r.Context().Done():
				return
			}
		}
	}))
	t.Cleanup(p.Close)
	return p
}

// next is the next call that the provider gets.
func (p *teller) next(t *testing.T) *toldCall {
	t.Helper()
	select {
	case c := <-p.calls:
		return c
	case <-time.After(time.Minute):
		t.Fatal("no call after a minute")
		return nil
	}
}

// form is a dialect as these tests need it.
type form struct {
	name, path, model string
	events            []string // an answer; the first is the beginning, the last its end
	whole             string   // another, in one piece
	text              string   // of both
}

func forms() []form {
	chunk := func(rest string) string { return `data: {"id":"c","object":"chat.completion.chunk",` + rest + "}\n\n" }
	event := func(kind, rest string) string {
		return "event: " + kind + "\ndata: {\"type\":\"" + kind + "\"" + rest + "}\n\n"
	}
	return []form{
		{"anthropic", "/anthropic/v1/messages", "claude-x", []string{
			event("message_start", `,"message":{"id":"m","type":"message","role":"assistant","content":[],"model":"claude-x","stop_reason":null,"usage":{"input_tokens":3,"output_tokens":1}}`),
			event("content_block_start", `,"index":0,"content_block":{"type":"text","text":""}`),
			event("ping", ""),
			event("content_block_delta", `,"index":0,"delta":{"type":"text_delta","text":"h\u00e9l  "}`),
			event("content_block_delta", `,"index":0,"delta":{"type":"text_delta","text":"lo"}`),
			event("content_block_stop", `,"index":0`),
			event("message_delta", `,"delta":{"stop_reason":"end_turn","stop_sequence":null},"usage":{"output_tokens":5}`),
			event("message_stop", ""),
		}, `{"id":"m","type":"message","role":"assistant","model":"claude-x","content":[{"type":"text","text":"h\u00e9l  lo"}],"stop_reason":"end_turn","usage":{"input_tokens":3,"output_tokens":5}}`, "hél  lo"},
		{"openai", "/openai/v1/chat/completions", "gpt-x", []string{
			chunk(`"choices":[{"index":0,"delta":{"role":"assistant","content":""},"finish_reason":null}],"usage":null`),
			chunk(`"choices":[{"index":0,"delta":{"content":"h\u00e9l  "},"finish_reason":null}]`),
			chunk(`"choices":[{"index":0,"delta":{"content":"lo"},"finish_reason":null}]`),
			chunk(`"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]`),
			"data: [DONE]\n\n",
		}, `{"id":"c","object":"chat.completion","choices":[{"index":0,"message":{"role":"assistant","content":"h\u00e9l  lo"},"logprobs":null,"finish_reason":"stop"}],"usage":{"prompt_tokens":3,"completion_tokens":5}}`, "hél  lo"},
	}
}

const usageChunk = `data: {"id":"c","choices":[],"usage":{"prompt_tokens":3,"completion_tokens":5}}` + "\n\n"

// streams is a program with a pool of each dialect at one provider.
func streams(t *testing.T) (*stage, *teller) {
	t.Helper()
	p := newTeller(t)
	return outage(t, tellers(p.URL)), p
}

func tellers(url string) string {
	return fmt.Sprintf(`
providers:
  anthropic: {dialect: anthropic, base_url: %q, api_key: the-secret-key}
  openai: {dialect: openai, base_url: %q, api_key: the-secret-key}
pools:
  claude: {provider: anthropic, models: ["claude-*"], max_attempts: 2, limits: {requests_per_minute: 60000, request_burst: 1000, concurrency: 64}}
  gpt: {provider: openai, models: ["gpt-*"], max_attempts: 2, limits: {requests_per_minute: 60000, request_burst: 1000, concurrency: 64}}
`, url, url)
}

// listener is a caller who streams.
type listener struct {
	t      *testing.T
	res    *http.Response
	cancel context.CancelFunc
	mu     sync.Mutex
	got    bytes.Buffer
	over   chan struct{}
}

func (r *stage) listen(f form, more string, header ...string) *listener {
	r.t.Helper()
	return listenAt(r.t, r.url, r.token, f, more, header...)
}

func listenAt(t *testing.T, url, token string, f form, more string, header ...string) *listener {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	body := `{"model":"` + f.model + `","max_tokens":16,"messages":[{"role":"user","content":"hi"}],"stream":true` + more + `}`
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, url+f.path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+token)
	req.Header.Set("Content-Type", "application/json")
	for i := 0; i+1 < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	return hear(t, req, cancel)
}

// readAt has a caller read what a stream tells at an address.
func readAt(t *testing.T, url, token, path string) *listener {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+token)
	return hear(t, req, cancel)
}

func hear(t *testing.T, req *http.Request, cancel context.CancelFunc) *listener {
	t.Helper()
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	l := &listener{t: t, res: res, cancel: cancel, over: make(chan struct{})}
	go func() {
		defer close(l.over)
		defer res.Body.Close()
		in := bufio.NewReader(res.Body)
		for {
			line, err := in.ReadString('\n')
			l.mu.Lock()
			l.got.WriteString(line)
			l.mu.Unlock()
			if err != nil {
				return
			}
		}
	}()
	t.Cleanup(func() { cancel(); <-l.over })
	return l
}

// told is what has come so far, without keep-alives of our own.
func (l *listener) told() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	s := strings.ReplaceAll(l.got.String(), "event: ping\ndata: {\"type\": \"ping\"}\n\n", "")
	return strings.ReplaceAll(s, ": waiting\n\n", "")
}

func (l *listener) until(want string) {
	l.t.Helper()
	redistest.Until(l.t, fmt.Sprintf("the caller is told %q", want), func() bool { return l.told() == want })
}

// end waits for the end of the stream, and returns all of it.
func (l *listener) end() string {
	l.t.Helper()
	select {
	case <-l.over:
	case <-time.After(time.Minute):
		l.t.Fatalf("no end after a minute behind %q", l.told())
	}
	return l.told()
}

func (l *listener) job() string { return l.res.Header.Get("sluice-job-id") }

func (c *toldCall) tell(events ...string) {
	for _, e := range events {
		c.say <- e
	}
}

// Each event of the provider goes out before the next has come, byte for byte.
func TestAStreamIsTheProvidersOwn(t *testing.T) {
	t.Parallel()
	r, p := streams(t)
	for _, f := range forms() {
		l := r.listen(f, "")
		if l.res.StatusCode != 200 || !strings.HasPrefix(l.res.Header.Get("Content-Type"), "text/event-stream") || l.job() == "" {
			t.Fatalf("%s: %s %v", f.name, l.res.Status, l.res.Header)
		}
		c, want := p.next(t), ""
		for i, e := range f.events {
			if f.name == "openai" && i == len(f.events)-1 {
				c.tell(usageChunk)
			}
			c.tell(e)
			if want += e; i < len(f.events)-1 {
				l.until(want)
			}
		}
		close(c.say)
		if got := l.end(); got != want {
			t.Errorf("%s: told %q, want %q", f.name, got, want)
		}
		if j := r.final(l.job()); j.Status != "succeeded" || j.Text != f.text {
			t.Errorf("%s: the job is %+v", f.name, j)
		}
	}
}

// A count of tokens reaches an OpenAI client that asks for it, and no other.
func TestAStreamHasTheCountThatWasAskedFor(t *testing.T) {
	t.Parallel()
	r, p := streams(t)
	f := forms()[1]
	l := r.listen(f, `,"stream_options":{"include_usage":true}`)
	c := p.next(t)
	c.tell(f.events[:4]...)
	c.tell(usageChunk, f.events[4])
	close(c.say)
	if got, want := l.end(), strings.Join(f.events[:4], "")+usageChunk+f.events[4]; got != want {
		t.Errorf("told %q, want %q", got, want)
	}
}

// A stream that breaks says so at its end, and its job is not asked for again for nobody:
// each repeat of the call has it asked once more, and is told all that this brings.
func TestABrokenStreamEndsWithAnError(t *testing.T) {
	t.Parallel()
	r, p := streams(t)
	for _, f := range forms() {
		for _, how := range []string{"cut", "the provider's error"} {
			begun, repeat := strings.Join(f.events[:2], ""), []string{"X-Stainless-Retry-Count", "1"}
			if f.name == "openai" {
				repeat = []string{"Idempotency-Key", strings.ReplaceAll(how, " ", "-")}
			}
			l := r.listen(f, `,"x":"`+how+`"`, repeat...)
			c := p.next(t)
			c.tell(f.events[:2]...)
			l.until(begun)
			own := "event: error\ndata: {\"type\":\"error\",\"error\":{\"type\":\"overloaded_error\",\"message\":\"Overloaded\"}}\n\n"
			if f.name == "openai" {
				own = "data: {\"error\":{\"message\":\"Overloaded\",\"type\":\"server_error\"}}\n\n"
			}
			breaks := func(c *toldCall) {
				if how == "cut" {
					close(c.abort)
				} else {
					c.tell(own)
					close(c.say)
				}
			}
			breaks(c)
			rest, ok := strings.CutPrefix(l.end(), begun)
			if how != "cut" {
				ok = ok && rest == own
			}
			if data := errorOf(f, rest); !ok || data == "" {
				t.Errorf("%s, %s: told %q", f.name, how, l.told())
			}
			if j := r.final(l.job()); j.Status != "failed" || j.Error.Code != "stream_broken" || !j.Error.MaybeBilled || len(j.Upstream.Attempts) != 1 {
				t.Errorf("%s, %s: the job is %+v", f.name, how, j)
			}
			again := r.listen(f, `,"x":"`+how+`"`, repeat...)
			c = p.next(t)
			c.tell(f.events[:2]...)
			again.until(begun)
			breaks(c)
			again.end()
			if j := r.final(l.job()); again.job() != l.job() || j.Status != "failed" || j.Error.Code != "stream_broken" || len(j.Upstream.Attempts) != 2 {
				t.Errorf("%s, %s: after a repeat the job is %+v", f.name, how, j)
			}
			last := r.listen(f, `,"x":"`+how+`"`, repeat...)
			c = p.next(t)
			c.tell(f.events...)
			close(c.say)
			if got := last.end(); got != strings.Join(f.events, "") || last.job() != l.job() {
				t.Errorf("%s, %s: the last repeat is told %q of %s, not of %s", f.name, how, got, last.job(), l.job())
			}
			if j := r.final(l.job()); j.Status != "succeeded" || len(j.Upstream.Attempts) != 3 {
				t.Errorf("%s, %s: at its end the job is %+v", f.name, how, j)
			}
		}
	}
	if n := len(p.calls); n > 0 {
		t.Errorf("%d calls more", n)
	}
}

// errorOf returns the type of error that one event of the dialect says, "" for anything else.
func errorOf(f form, event string) string {
	data, ok := strings.CutPrefix(event, map[string]string{"anthropic": "event: error\ndata: ", "openai": "data: "}[f.name])
	if !ok || strings.Count(event, "\n\n") != 1 {
		return ""
	}
	var said struct {
		Type  string
		Error struct{ Type, Message string }
	}
	if json.Unmarshal([]byte(data), &said) != nil || f.name == "anthropic" && said.Type != "error" || said.Error.Message == "" {
		return ""
	}
	return said.Error.Type
}

// Nothing that comes before a first event is told but its end: another attempt's events
// are, and the last refusal as an event.
func TestAttemptsBeforeTheFirstEvent(t *testing.T) {
	t.Parallel()
	r, p := streams(t)
	for _, f := range forms() {
		l := r.listen(f, "")
		close(p.next(t).abort)
		c := p.next(t)
		c.tell(f.events...)
		close(c.say)
		if got, want := l.end(), strings.Join(f.events, ""); got != want {
			t.Errorf("%s: after a cut, told %q, want %q", f.name, got, want)
		}
		l = r.listen(f, "")
		p.next(t).tell(`400 refused {"type":"error","error":{"type":"invalid_request_error",` + "\n" + `"message":"no such thing"}}`)
		if got := l.end(); errorOf(f, got) != "invalid_request_error" || !strings.Contains(got, "no such thing") {
			t.Errorf("%s: after a refusal, told %q", f.name, got)
		}
	}
}

// A caller who sends the request again gets the same call's events from the beginning,
// while it runs and when it has ended.
func TestARepeatedStreamBeginsAnew(t *testing.T) {
	t.Parallel()
	r, p := streams(t)
	for _, f := range forms() {
		l := r.listen(f, "")
		c := p.next(t)
		c.tell(f.events[:2]...)
		l.until(strings.Join(f.events[:2], ""))
		l.cancel()
		<-l.over
		again := r.listen(f, "", "X-Stainless-Retry-Count", "1")
		again.until(strings.Join(f.events[:2], ""))
		again.cancel()
		<-again.over
		c.tell(f.events[2:]...)
		close(c.say)
		r.final(l.job())
		last := r.listen(f, "", "X-Stainless-Retry-Count", "2")
		if got, want := last.end(), strings.Join(f.events, ""); got != want || last.job() != l.job() || again.job() != l.job() {
			t.Errorf("%s: told %q of %s, want %q of %s", f.name, got, last.job(), want, l.job())
		}
		select {
		case <-p.calls:
			t.Errorf("%s: a second call", f.name)
		default:
		}
	}
}

// assembled is what an SDK makes of a stream, by the reader that the worker has.
func assembled(t *testing.T, f form, stream string) map[string]any {
	t.Helper()
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, stream) }))
	defer srv.Close()
	c, err := upstream.New(upstream.Config{Provider: upstream.Provider{Dialect: upstream.Dialect(f.name), BaseURL: srv.URL}})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	a := c.Do(t.Context(), upstream.Ask{Question: upstream.Read("", tasks.Request{Kind: tasks.Raw, Body: []byte(`{}`)})})
	var out map[string]any
	if err := json.Unmarshal(a.Result, &out); err != nil {
		t.Fatalf("%s: %s %s of %q: %v", f.name, a.Outcome, a.Message, stream, err)
	}
	return out
}

// An answer that came whole is told as the events of which it would be made.
func TestAWholeAnswerIsToldInEvents(t *testing.T) {
	t.Parallel()
	r, p := streams(t)
	for name, whole := range map[string]string{
		"anthropic/text":     forms()[0].whole,
		"anthropic/in lines": strings.ReplaceAll(forms()[0].whole, ",", ",\n  "),
		"anthropic/tools": `{"id":"m","type":"message","role":"assistant","model":"claude-x","odd":{"er":[1.10]},"content":[
			{"type":"thinking","thinking":"hm","signature":"sig=="},{"type":"redacted_thinking","data":"xx"},{"type":"text","text":"a","citations":[{"type":"char_location","n":1},{"type":"char_location","n":2}]},
			{"type":"tool_use","id":"t","name":"f","input":{"k":"v\"\n","n":[1.10,{}]}},{"type":"server_tool_use","id":"s","name":"web_search","input":{"q":"x"}},
			{"type":"web_search_tool_result","tool_use_id":"s","content":[{"type":"web_search_result","url":"u"}]},{"type":"tool_use","id":"u","name":"g","input":{}},{"type":"text","text":""}],
			"stop_reason":"tool_use","stop_sequence":null,"usage":{"input_tokens":3,"output_tokens":5,"cache_read_input_tokens":7}}`,
		"openai/text":     forms()[1].whole,
		"openai/in lines": strings.ReplaceAll(forms()[1].whole, ",", ",\n  "),
		"openai/tools": `{"id":"c","object":"chat.completion","created":1,"model":"gpt-x","system_fingerprint":"fp","choices":[
			{"index":0,"message":{"role":"assistant","content":null,"refusal":null,"tool_calls":[{"id":"a","type":"function","function":{"name":"f","arguments":"{\"k\": \"v\"}"}},{"id":"b","type":"function","function":{"name":"g","arguments":"{}"}}]},"logprobs":null,"finish_reason":"tool_calls"},
			{"index":1,"message":{"role":"assistant","content":"two","refusal":null,"annotations":[]},"logprobs":{"content":[{"token":"two","logprob":-0.5}],"refusal":null},"finish_reason":"length"}],"usage":{"prompt_tokens":3,"completion_tokens":5}}`,
	} {
		dialect, _, _ := strings.Cut(name, "/")
		f := forms()[map[string]int{"anthropic": 0, "openai": 1}[dialect]]
		l := r.listen(f, `,"n":2,"x":"`+name+`"`)
		c := p.next(t)
		c.tell(whole)
		close(c.say)
		got := assembled(t, f, l.end())
		var want map[string]any
		if err := json.Unmarshal([]byte(whole), &want); err != nil {
			t.Fatal(err)
		}
		if f.name == "openai" {
			delete(want, "usage") // nobody asked for it
		}
		was, _ := json.Marshal(want)
		if is, _ := json.Marshal(got); string(is) != string(was) {
			t.Errorf("%s: an SDK makes\n%s of\n%s", name, is, was)
		}
		r.final(l.job())
	}
	// The count that was asked for is told.
	f := forms()[1]
	l := r.listen(f, `,"stream_options":{"include_usage":true},"x":"count"`)
	c := p.next(t)
	c.tell(f.whole)
	close(c.say)
	if got := l.end(); !strings.Contains(got, `"choices":[],"usage":{"prompt_tokens":3,"completion_tokens":5}}`+"\n\ndata: [DONE]\n\n") {
		t.Errorf("told %q", got)
	}
}

// What is known at once is an ordinary answer with a status.
func TestAStreamThatCannotBegin(t *testing.T) {
	t.Parallel()
	r, p := streams(t)
	for _, f := range forms() {
		other := f
		other.model = "no-such-model"
		l := r.listen(other, "")
		if body := l.end(); l.res.StatusCode != 404 || l.res.Header.Get("X-Should-Retry") != "false" || !strings.Contains(body, "error") {
			t.Errorf("%s: a model that nobody serves: %s %s", f.name, l.res.Status, body)
		}
		l = r.listen(f, `,"x":1`)
		p.next(t).tell(`400 refused {"type":"error","error":{"type":"invalid_request_error","message":"no"}}`)
		l.end()
		r.final(l.job())
		again := r.listen(f, `,"x":1`, "X-Stainless-Retry-Count", "1")
		if body := again.end(); again.res.StatusCode != 400 || again.job() != l.job() || !strings.Contains(body, `"no"`) {
			t.Errorf("%s: a repeat of what was refused: %s %s", f.name, again.res.Status, body)
		}
	}
}

// While a call waits, before its first event and between two, something comes.
func TestAStreamIsKeptAlive(t *testing.T) {
	t.Parallel()
	r, p := streams(t)
	for i, ping := range []string{"event: ping\ndata: {\"type\": \"ping\"}\n\n", ": waiting\n\n"} {
		f := forms()[i]
		l := r.listen(f, "")
		comes := func(before string) {
			redistest.Until(t, "a keep-alive comes behind "+before, func() bool {
				l.mu.Lock()
				defer l.mu.Unlock()
				return strings.Contains(l.got.String(), before+ping)
			})
		}
		comes(ping)
		c := p.next(t)
		c.tell(f.events[0])
		comes(f.events[0])
		c.tell(f.events[1:]...)
		close(c.say)
		if got, want := l.end(), strings.Join(f.events, ""); got != want {
			t.Errorf("%s: told %q, want %q", f.name, got, want)
		}
	}
}

// Of many calls at once each has its own events, all of them and in their order.
func TestNoEventOfAStreamIsLost(t *testing.T) {
	t.Parallel()
	r, p := streams(t)
	f := forms()[0]
	const calls, events = 12, 60
	var late []time.Duration // from the provider's first event to the caller's
	var mu sync.Mutex
	var all sync.WaitGroup
	for range calls {
		l := r.listen(f, `,"n":"`+rand.Text()+`"`)
		c := p.next(t)
		all.Go(func() {
			want := append([]string{}, f.events[:2]...)
			for i := range events {
				want = append(want, fmt.Sprintf("event: content_block_delta\ndata: {\"type\":\"content_block_delta\",\"index\":0,\"delta\":{\"type\":\"text_delta\",\"text\":\"%d of %s \"}}\n\n", i, l.job()))
			}
			want = append(want, f.events[5:]...)
			begun := time.Now()
			c.tell(want[0])
			redistest.Until(t, "the first event comes", func() bool { return l.told() != "" })
			mu.Lock()
			late = append(late, time.Since(begun))
			mu.Unlock()
			c.tell(want[1:]...)
			close(c.say)
			if got := l.end(); got != strings.Join(want, "") {
				t.Errorf("%s: told %q", l.job(), got)
			}
		})
	}
	all.Wait()
	if slices.Sort(late); len(late) == calls {
		t.Logf("first event behind the provider's, as a poll sees it: p50 %s, last %s", late[calls/2], late[calls-1])
	}
}

// parted is the program as an API and a worker, each its own process.
type parted struct {
	t       *testing.T
	environ []string
	dir     string
	url     string
	token   string
	api     *child
	worker  *child
}

func apart(t *testing.T, p *teller) *parted {
	t.Helper()
	redis := redistest.Start(t, redistest.Options{})
	s := &parted{t: t, dir: t.TempDir(), token: (&stage{t: t}).mint("acme")}
	if err := os.WriteFile(filepath.Join(s.dir, "sluice.yaml"), []byte(tellers(p.URL)), 0o600); err != nil {
		t.Fatal(err)
	}
	s.environ = []string{
		"HOME=" + s.dir, "PATH=" + os.Getenv("PATH"), "SLUICE_AUTH__HMAC_SECRET=" + string(stageSecret), "SLUICE_LISTEN=127.0.0.1:0",
		"SLUICE_OPS_LISTEN=127.0.0.1:0", "SLUICE_DRAIN_DELAY=0s", "SLUICE_CONFIG=sluice.yaml", "GORACE=atexit_sleep_ms=0", "SLUICE_REDIS__URL=" + redis.URL(),
	}
	s.startAPI()
	s.worker = s.start("worker")
	return s
}

func (s *parted) start(role string) *child {
	s.t.Helper()
	c, err := startChild(s.dir, s.environ, Raced(s.t), role)
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() {
		if _, err := c.end(syscall.SIGKILL); err != nil {
			s.t.Error(err)
		}
	})
	return c
}

func (s *parted) startAPI() {
	s.t.Helper()
	s.api = s.start("api")
	m, err := s.api.await(regexp.MustCompile(`"msg":"listening".*"address":"([^"]+)"`))
	if err != nil {
		s.t.Fatal(err)
	}
	s.url = "http://" + m[1]
}

// kill ends a process at once.
func (s *parted) kill(c *child) {
	s.t.Helper()
	if _, err := c.end(syscall.SIGKILL); err != nil {
		s.t.Fatal(err)
	}
}

// A stream that is open when its API is told to stop is told to its end.
func TestAStreamThatIsOpenAtAStop(t *testing.T) {
	t.Parallel()
	p := newTeller(t)
	s := apart(t, p)
	f := forms()[0]
	l := listenAt(t, s.url, s.token, f, "")
	c := p.next(t)
	c.tell(f.events[:3]...)
	l.until(strings.Join(f.events[:3], ""))
	if err := s.api.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	redistest.Until(t, "the API takes no requests", func() bool {
		conn, err := net.Dial("tcp", strings.TrimPrefix(s.url, "http://"))
		if err == nil {
			_ = conn.Close()
		}
		return err != nil
	})
	c.tell(f.events[3:]...)
	close(c.say)
	if got, want := l.end(), strings.Join(f.events, ""); got != want {
		t.Errorf("told %q, want %q", got, want)
	}
	if code, err := s.api.end(syscall.SIGTERM); err != nil || code > 0 {
		t.Errorf("the API ends with %d, %v", code, err)
	}
}

// A killed API costs a caller who sends the request again nothing.
func TestAStreamWhoseAPIIsKilled(t *testing.T) {
	t.Parallel()
	p := newTeller(t)
	s := apart(t, p)
	for _, f := range forms() {
		all, begun := strings.Join(f.events, ""), strings.Join(f.events[:3], "")
		l := listenAt(t, s.url, s.token, f, "")
		c := p.next(t)
		c.tell(f.events[:3]...)
		l.until(begun)
		s.kill(s.api)
		if got := l.end(); got != begun {
			t.Errorf("%s: of a killed API: %q", f.name, got)
		}
		s.startAPI()
		again := listenAt(t, s.url, s.token, f, "", "X-Stainless-Retry-Count", "1")
		again.until(begun)
		c.tell(f.events[3:]...)
		close(c.say)
		if got := again.end(); got != all || again.job() != l.job() {
			t.Errorf("%s: told %q of %s, want %q of %s", f.name, got, again.job(), all, l.job())
		}
	}
}

// With its worker killed a stream ends with an error, and the repeat has the answer of
// the second call, from its beginning.
func TestAStreamWhoseWorkerIsKilled(t *testing.T) {
	t.Parallel()
	p := newTeller(t)
	s := apart(t, p)
	f := forms()[0]
	all, begun := strings.Join(f.events, ""), strings.Join(f.events[:4], "")
	l := listenAt(t, s.url, s.token, f, "")
	p.next(t).tell(f.events[:4]...)
	l.until(begun)
	s.kill(s.worker)
	s.worker = s.start("worker")
	if rest, ok := strings.CutPrefix(l.end(), begun); !ok || errorOf(f, rest) == "" {
		t.Errorf("of a killed worker: %q", l.told())
	}
	again := listenAt(t, s.url, s.token, f, "", "X-Stainless-Retry-Count", "1")
	c := p.next(t)
	c.tell(f.events...)
	close(c.say)
	if got := again.end(); got != all || again.job() != l.job() {
		t.Errorf("told %q of %s, want %q of %s", got, again.job(), all, l.job())
	}
}
