package upstream

import (
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/sluicehq/sluice/tasks"
)

// sent is the body of a request for the model.
func sent(d Dialect, model string, r tasks.Request) ([]byte, error) {
	q := Read(model, r)
	return q.Body(&Provider{Dialect: d})
}

func TestARawBodyKeepsEveryByte(t *testing.T) {
	t.Parallel()
	const odd = "{ \"model\" : \"m\",\n\t\"n\": 12345678901234567890, \"f\":1e400,\"g\":1.50, \"h\":\"<b>&\\u00e9\\ud800\", \"dup\":1,\"dup\":2, \"nested\":{\"stream\":false} %s}"
	with := func(s string) string { return strings.Replace(odd, "%s", s, 1) }
	for _, tc := range []struct {
		name     string
		d        Dialect
		model    string
		in, want string
	}{
		{"added", Anthropic, "m", with(""), with("")[:len(with(""))-2] + `,"stream":true }`},
		{"replaced", Anthropic, "m", with(`, "stream" : false `), with(`, "stream" : true `)},
		{"already", Anthropic, "", with(`,"stream":true`), with(`,"stream":true`)},
		{"each time", Anthropic, "", `{"stream":false,"stream":0}`, `{"stream":true,"stream":true}`},
		{"an escaped name", Anthropic, "", `{"str\u0065am":false}`, `{"str\u0065am":true}`},
		{"empty", Anthropic, "", " { } ", ` {"stream":true } `},
		{"another model", Anthropic, "m2", `{"model": "m" ,"a":0}`, `{"model": "m2" ,"a":0,"stream":true}`},
		{"the same model, spelt otherwise", Anthropic, "m", `{"model":"\u006d"}`, `{"model":"\u006d","stream":true}`},
		{"no model", Anthropic, "m", `{"a":0}`, `{"a":0,"stream":true,"model":"m"}`},
		{"usage asked for", OpenAI, "m", `{"model":"m"}`, `{"model":"m","stream":true,"stream_options":{"include_usage":true}}`},
		{"usage added", OpenAI, "m", `{"model":"m","stream_options": { "x":1 }}`, `{"model":"m","stream_options": { "x":1,"include_usage":true },"stream":true}`},
		{"usage turned on", OpenAI, "m", `{"model":"m","stream_options":{"include_usage":false},"stream":null}`, `{"model":"m","stream_options":{"include_usage":true},"stream":true}`},
		{"options null", OpenAI, "m", `{"model":"m","stream_options":null}`, `{"model":"m","stream_options":{"include_usage":true},"stream":true}`},
		{"options odd", OpenAI, "m", `{"model":"m","stream_options":7}`, `{"model":"m","stream_options":7,"stream":true}`},
	} {
		in := []byte(tc.in)
		got, err := sent(tc.d, tc.model, tasks.Request{Kind: tasks.Raw, Body: in})
		if err != nil || string(got) != tc.want {
			t.Errorf("%s: got %s, %v\nwant %s", tc.name, got, err, tc.want)
		}
		if string(in) != tc.in {
			t.Errorf("%s: the caller's own bytes were changed", tc.name)
		}
	}
}

// Anthropic refuses a body without max_tokens; the job has one, by default 1024.
func TestARawAnthropicBodyGetsTheJobsMaxTokens(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name     string
		d        Dialect
		in, want string
	}{
		{"missing", Anthropic, `{ "model":"m", "n":1.50 }`, `{ "model":"m", "n":1.50,"stream":true,"max_tokens":7 }`},
		{"null", Anthropic, `{"max_tokens" : null,"model":"m","stream":true}`, `{"max_tokens" : 7,"model":"m","stream":true}`},
		{"its own", Anthropic, `{"model":"m","max_tokens": 9,"stream":true}`, `{"model":"m","max_tokens": 9,"stream":true}`},
		{"odd", Anthropic, `{"model":"m","max_tokens":"9","stream":true}`, `{"model":"m","max_tokens":"9","stream":true}`},
		{"only within", Anthropic, `{"model":"m","x":{"max_tokens":9},"stream":true}`, `{"model":"m","x":{"max_tokens":9},"stream":true,"max_tokens":7}`},
		{"of OpenAI", OpenAI, `{"model":"m","stream_options":{"include_usage":true},"stream":true}`, `{"model":"m","stream_options":{"include_usage":true},"stream":true}`},
	} {
		got, err := sent(tc.d, "m", tasks.Request{Kind: tasks.Raw, Body: []byte(tc.in), MaxTokens: 7})
		if err != nil || string(got) != tc.want {
			t.Errorf("%s: got %s, %v\nwant %s", tc.name, got, err, tc.want)
		}
	}
}

func TestMessagesInBothDialects(t *testing.T) {
	t.Parallel()
	r := tasks.Request{Kind: tasks.Messages, MaxTokens: 5,
		Body: []byte(`{"messages": [ {"role":"user","content":"a\u00e9"} ],"system":"be <brief>"}`)}
	for d, want := range map[Dialect]string{
		Anthropic: `{"model":"m","max_tokens":5,"system":"be <brief>","messages":[ {"role":"user","content":"a\u00e9"} ],"stream":true}`,
		OpenAI: `{"model":"m","max_completion_tokens":5,"messages":[{"role":"system","content":"be <brief>"}, {"role":"user","content":"a\u00e9"} ],` +
			`"stream":true,"stream_options":{"include_usage":true}}`,
	} {
		if got, err := sent(d, "m", r); err != nil || string(got) != want {
			t.Errorf("%s: got %s, %v\nwant %s", d, got, err, want)
		}
	}
	r = tasks.Request{Kind: tasks.Messages, Body: []byte(`{"messages":[ ],"system":[{"type":"text","text":"x"}]}`)}
	if got, err := sent(OpenAI, `m"`, r); err != nil || !json.Valid(got) {
		t.Errorf("empty messages: got %s, %v", got, err)
	}
}

// Some servers send an empty list of tool calls with every later chunk.
func TestAnEmptyListOfToolCallsUndoesNothing(t *testing.T) {
	t.Parallel()
	o := new(object)
	for _, delta := range []string{
		`{"content":null,"tool_calls":[]}`,
		`{"tool_calls":[{"index":0,"id":"a","function":{"name":"f","arguments":"{"}}]}`,
		`{"tool_calls":[]}`, `{"tool_calls":null}`,
		`{"tool_calls":[{"index":0,"function":{"arguments":"}"}}]}`,
		`{"content":"","tool_calls":[ ]}`,
	} {
		if _, err := o.merge([]byte(delta), 0); err != nil {
			t.Fatal(err)
		}
	}
	want := `{"content":"","tool_calls":[{"id":"a","function":{"name":"f","arguments":"{}"}}]}`
	if got := string(o.appendTo(nil)); got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

// Taking the stream member out again gives back what the caller wrote.
func FuzzSpliceIsUndone(f *testing.F) {
	for _, s := range []string{`{}`, ` { "a" : [1, {"stream":false}] } `, `{"stream":false}`, `{"a":1e400,"a":"\ud800"}`, `{"model":"x","stream_options":{}}`, `[]`} {
		f.Add([]byte(s))
	}
	const added = `,"stream":true`
	f.Fuzz(func(t *testing.T, body []byte) {
		original := bytes.Clone(body)
		got, err := sent(Anthropic, "", tasks.Request{Kind: tasks.Raw, Body: body})
		if !bytes.Equal(body, original) {
			t.Fatal("the input was changed")
		}
		valid := jsontext.Value(body).IsValid(lenient) && jsontext.Value(body).Kind() == '{'
		if (err == nil) != valid {
			t.Fatalf("%q: got error %v for a body that is an object: %v", body, err, valid)
		}
		if err != nil {
			return
		}
		var olds, news []string // every member but stream, as spelt, and the streams' values
		streams := 0
		_ = eachMember(body, func(name string, _ jsontext.Value, start, end int) error {
			olds = append(olds, string(body[start:end]))
			if name == "stream" {
				streams++
				olds[len(olds)-1] = "true"
			}
			return nil
		})
		if err := eachMember(got, func(_ string, v jsontext.Value, start, end int) error {
			news = append(news, string(got[start:end]))
			return nil
		}); err != nil {
			t.Fatalf("%q became %q: %v", body, got, err)
		}
		if streams > 0 {
			if strings.Join(olds, "\x00") != strings.Join(news, "\x00") {
				t.Fatalf("members changed: %q became %q", body, got)
			}
			return
		}
		cut := added
		if len(olds) == 0 {
			cut = added[1:]
		}
		i := bytes.LastIndex(got, []byte(cut))
		if i < 0 || string(got[:i])+string(got[i+len(cut):]) != string(body) {
			t.Fatalf("%q became %q, which does not go back", body, got)
		}
	})
}

// Whatever arrives, the reader ends, keeps to its limit, and delivers the same
// events however the bytes are cut.
func FuzzEvents(f *testing.F) {
	f.Add([]byte("event: a\ndata: 1\ndata: 2\n\n: c\ndata\n\r\ndata:x\r\r"), uint8(3))
	f.Add([]byte("\xef\xbb\xbfdata: x\n\n"), uint8(1))
	f.Add([]byte("data: "+strings.Repeat("y", 300)+"\n\n"), uint8(9))
	f.Fuzz(func(t *testing.T, stream []byte, size uint8) {
		const limit = 256
		read := func(r io.Reader) (all string) {
			e := newEvents(r, limit)
			for range 10000 {
				kind, data, err := e.next()
				if err != nil {
					return all + "|" + err.Error()
				}
				if len(data) > limit {
					t.Fatalf("an event of %d bytes, limit %d", len(data), limit)
				}
				all += "|" + kind + "=" + string(data)
			}
			t.Fatal("does not end")
			return ""
		}
		whole := read(bytes.NewReader(stream))
		pieces := read(&pieceReader{rest: stream, n: int(size%16) + 1})
		if whole != pieces {
			t.Fatalf("%q: whole %q, in pieces of %d %q", stream, whole, size%16+1, pieces)
		}
	})
}

type pieceReader struct {
	rest []byte
	n    int
}

func (r *pieceReader) Read(p []byte) (int, error) {
	if len(r.rest) == 0 {
		return 0, io.EOF
	}
	n := copy(p, r.rest[:min(r.n, len(r.rest))])
	r.rest = r.rest[n:]
	return n, nil
}

// Whatever a provider streams, the assembly neither fails badly nor makes
// anything but valid JSON within its own count.
func FuzzStream(f *testing.F) {
	for _, r := range rows(f) {
		f.Add(r.body, r.d == OpenAI)
	}
	for _, name := range []string{"text", "rich", "tools"} {
		for _, d := range []Dialect{Anthropic, OpenAI} {
			if raw, err := readFixture(d, name); err == nil {
				f.Add(raw, d == OpenAI)
			}
		}
	}
	for d, answer := range answersByDialect() {
		f.Add([]byte(streamed(d, answer)), d == OpenAI)
		f.Add([]byte("data: "+answer+"\n\ndata: [DONE]\n\n"), d != OpenAI)
		f.Add([]byte("data: "+answer+"\n\ndata: [DONE]\n\n"), d == OpenAI)
	}
	f.Fuzz(func(t *testing.T, stream []byte, openai bool) {
		d := Anthropic
		if openai {
			d = OpenAI
		}
		c, err := New(Config{Provider: Provider{Dialect: d}, MaxResultBytes: 64 << 10})
		if err != nil {
			t.Fatal(err)
		}
		var a Answer
		said := ""
		q := Ask{OnText: func(s string) { said += s }, OnStart: func(n int64, _ Rates) {
			if n < 0 {
				t.Fatal("negative count")
			}
		}}
		resp := &http.Response{StatusCode: 200, Header: http.Header{"Content-Type": {"text/event-stream"}},
			Body: io.NopCloser(bytes.NewReader(stream))}
		c.read(t.Context(), func() {}, q, resp, &a)
		a.clean(c.redact)
		if a.Outcome == "" {
			t.Fatal("no outcome")
		}
		if a.Outcome == tasks.Succeeded {
			if !jsontext.Value(a.Result).IsValid(lenient) || len(a.Result) > 64<<10 {
				t.Fatalf("result of %d bytes: %q", len(a.Result), a.Result)
			}
			if !shaped(d, a.Result) {
				t.Fatalf("%s: a success without the shape: %q", d, a.Result)
			}
			if a.Finish == "" || len(a.Finish) > maxFinish {
				t.Fatalf("%s: finish %q of %q", d, a.Finish, a.Result)
			}
			if closed := bytes.Contains(stream, []byte("[DONE]")) || bytes.Contains(stream, []byte("message_stop")); !closed && !bytes.Contains(stream, []byte("\x1f\x8b")) && !bytes.HasPrefix(bytes.TrimLeft(stream, " \t\r\n\xef\xbb\xbf"), []byte("{")) &&
				!bytes.Contains(stream, []byte("_reason")) && !bytes.Contains(stream, []byte(`\u`)) {
				t.Fatalf("%s: a success without any end: %q", d, stream)
			}
		} else if a.Result != nil {
			t.Fatalf("%s with a result", a.Outcome)
		}
		if len(a.Message) > maxMessage {
			t.Fatalf("message of %d bytes", len(a.Message))
		}
	})
}

func FuzzHeaders(f *testing.F) {
	f.Add("17", "6m0s", "100", "2026-11-20T10:00:05Z")
	f.Add("Fri, 20 Nov 2026 10:00:30 GMT", "1d2h", "-3", "x")
	f.Add("1e309", "88ms", "9223372036854775807", "0001-01-01T00:00:00Z")
	f.Fuzz(func(t *testing.T, wait, span, count, at string) {
		h := http.Header{}
		h.Set("Retry-After", wait)
		h.Set("Date", at)
		for _, k := range []string{"Requests", "Tokens", "Project-Tokens"} {
			h.Set("X-Ratelimit-Limit-"+k, count)
			h.Set("X-Ratelimit-Remaining-"+k, count)
			h.Set("X-Ratelimit-Reset-"+k, span)
		}
		for _, k := range []string{"Input-Tokens", "Output-Tokens"} {
			h.Set("Anthropic-Ratelimit-"+k+"-Limit", count)
			h.Set("Anthropic-Ratelimit-"+k+"-Remaining", wait)
			h.Set("Anthropic-Ratelimit-"+k+"-Reset", at)
		}
		if d, ok := parseRetryAfter(h, testTime); d < 0 || d > maxWait || !ok && d != 0 {
			t.Fatalf("retry-after %q: %v, %v", wait, d, ok)
		}
		rates := parseRates(h, testTime)
		for _, r := range []Rate{rates.Requests, rates.Input, rates.Output, rates.Tokens, rates.Project} {
			if r.Reset < 0 || r.Reset > maxWait || r.Window < 0 || r.Window > maxWait || r.Remaining < 0 || r.Limit < 0 ||
				r.Present != (r.Limit > 0) {
				t.Fatalf("%q, %q, %q: %+v", wait, span, count, r)
			}
		}
	})
}

func TestWaits(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name, value string
		want        time.Duration
		ok          bool
	}{
		{"Retry-After", "17", 17 * time.Second, true},
		{"Retry-After", "0.25", 250 * time.Millisecond, true},
		{"Retry-After", "-4", 0, true},
		{"Retry-After", "99999999999", 24 * time.Hour, true},
		{"Retry-After", "Inf", 24 * time.Hour, true},
		{"Retry-After", "NaN", 0, false},
		{"Retry-After", "soon", 0, false},
		{"Retry-After", "Fri, 20 Nov 2026 10:00:30 GMT", 30 * time.Second, true},
		{"Retry-After", "Fri, 20 Nov 2020 10:00:30 GMT", 0, true},
		{"Retry-After-Ms", "120.5", 120500 * time.Microsecond, true},
		{"Retry-After-Ms", "x", 0, false},
	} {
		h := http.Header{}
		h.Set(tc.name, tc.value)
		if got, ok := parseRetryAfter(h, testTime); got != tc.want || ok != tc.ok {
			t.Errorf("%s: %s: got %v, %v; want %v, %v", tc.name, tc.value, got, ok, tc.want, tc.ok)
		}
	}
	// A date is read by the answer's own clock, not by ours.
	h := http.Header{"Retry-After": {"Fri, 20 Nov 2026 10:05:30 GMT"}, "Date": {"Fri, 20 Nov 2026 10:05:00 GMT"}}
	if got, _ := parseRetryAfter(h, testTime); got != 30*time.Second {
		t.Errorf("with a skewed clock: got %v, want 30s", got)
	}
	for in, want := range map[string]time.Duration{
		"6m0s": 6 * time.Minute, "88ms": 88 * time.Millisecond, "7.66s": 7660 * time.Millisecond, "12": 12 * time.Second, "1d": 24 * time.Hour,
	} {
		if got, ok := parseSpan(in); !ok || got != want {
			t.Errorf("parseSpan(%q): got %v, %v; want %v", in, got, ok, want)
		}
	}
}

// Groq states requests a day under the names that OpenAI uses for a minute.
func TestALimitADayIsNotTakenForAMinute(t *testing.T) {
	t.Parallel()
	h := http.Header{}
	for k, v := range map[string]string{
		"x-ratelimit-limit-requests": "14400", "x-ratelimit-remaining-requests": "14370", "x-ratelimit-reset-requests": "2m59.56s",
		"x-ratelimit-limit-tokens": "18000", "x-ratelimit-remaining-tokens": "17997", "x-ratelimit-reset-tokens": "7.66ms",
	} {
		h.Set(k, v)
	}
	r := parseRates(h, testTime)
	if r.Requests.Window != 24*time.Hour || r.Tokens.Window != time.Minute {
		t.Errorf("got windows %v and %v, want 24h and 1m", r.Requests.Window, r.Tokens.Window)
	}
}

func readFixture(d Dialect, name string) ([]byte, error) {
	raw, err := os.ReadFile(filepath.Join("testdata", string(d), name+".http"))
	_, body, _ := bytes.Cut(raw, []byte("\n\n"))
	return body, err
}

func TestClass(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		d     Dialect
		model string
		r     tasks.Request
		want  string
	}{
		{Anthropic, "claude-x", tasks.Request{Kind: tasks.Text, MaxTokens: 1024}, "claude-x/1024"},
		{Anthropic, "claude-x", tasks.Request{Kind: tasks.Text, MaxTokens: 1025}, "claude-x/2048"},
		{Anthropic, "claude-x", tasks.Request{Kind: tasks.Text, MaxTokens: 1}, "claude-x/1"},
		{Anthropic, "claude-x", tasks.Request{Kind: tasks.Text}, "claude-x/any"},
		{Anthropic, "a b", tasks.Request{Kind: tasks.Text, MaxTokens: 1 << 40}, "other/1048576"},
		{Anthropic, "c", tasks.Request{Kind: tasks.Raw, OutputTokens: 300, Body: []byte(`{"max_tokens":300,"thinking":{"type":"enabled","budget_tokens":9}}`)}, "c/512/thinking"},
		{Anthropic, "c", tasks.Request{Kind: tasks.Raw, MaxTokens: 16, Body: []byte(`{"max_tokens":300,"thinking":{"type":"disabled"}}`)}, "c/16"},
		{OpenAI, "o", tasks.Request{Kind: tasks.Raw, OutputTokens: 100, Body: []byte(`{"max_completion_tokens":100,"reasoning_effort":"low"}`)}, "o/128/thinking"},
		{OpenAI, "", tasks.Request{Kind: tasks.Raw, OutputTokens: 32768, Open: true, Body: []byte(`{"model":"gpt-x"}`)}, "gpt-x/any"},
		{OpenAI, "o", tasks.Request{Kind: tasks.Raw, OutputTokens: 400, Body: []byte(`{"max_tokens":100,"n":4}`)}, "o/512"},
		{OpenAI, "o", tasks.Request{Kind: tasks.Messages, MaxTokens: 100, Body: []byte(`{"messages":[{"role":"user","content":[{"type":"image_url","image_url":{"url":"https://x"}}]}]}`)}, "o/128/files"},
	} {
		q := Read(tc.model, tc.r)
		if got := q.Class(tc.d); got != tc.want {
			t.Errorf("Class(%s, %q, %s): got %q, want %q", tc.d, tc.model, tc.r.Body, got, tc.want)
		}
	}
	seen := map[string]bool{}
	for n := 0; n < 3_000_000; n += 1 + n/50 {
		q := Read("m", tasks.Request{Kind: tasks.Text, MaxTokens: n})
		seen[q.Class(Anthropic)] = true
	}
	if len(seen) > 22 {
		t.Errorf("one model has %d classes, want at most 22", len(seen))
	}
}

func TestRepeatable(t *testing.T) {
	t.Parallel()
	for body, want := range map[string]bool{
		`{"model":"m","temperature":0}`:             true,
		`{"temperature":0.0,"messages":[]}`:         true,
		`{"temperature":0.1}`:                       false,
		`{"temperature":null}`:                      false,
		`{"temperature":"0"}`:                       false,
		`{"metadata":{"temperature":0},"model":""}`: false,
		`{}`:               false,
		`[`:                false,
		`{"temperature":0`: false,
	} {
		q := Read("", tasks.Request{Kind: tasks.Raw, Body: []byte(body)})
		if got := q.Repeatable(); got != want {
			t.Errorf("%s: %t", body, got)
		}
	}
	q := Read("m", tasks.Request{Kind: tasks.Text, Body: []byte(`"temperature 0"`)})
	if q.Repeatable() {
		t.Error("a prompt has the provider's temperature")
	}
}
