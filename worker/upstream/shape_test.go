package upstream

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/sluicehq/sluice/tasks"
)

// answered is a provider's answer with status 200 to a call, whole or as a
// stream, over a connection.
func answered(t *testing.T, d Dialect, media, body string) Answer {
	t.Helper()
	raw := "HTTP/1.1 200 OK\r\nContent-Type: " + media + "\r\nConnection: close\r\n\r\n" + body
	return newCaller(t, d, serveBytes(t, []byte(raw), false).url, nil).Do(t.Context(), ask("hi"))
}

// streamed is body as the provider would have streamed it: an answer in its
// pieces, anything else as the one event.
func streamed(d Dialect, body string) string {
	if d == OpenAI {
		return "data: " + strings.ReplaceAll(body, `"message":{"role"`, `"delta":{"role"`) + "\n\ndata: [DONE]\n\n"
	}
	var m map[string]json.RawMessage
	if json.Unmarshal([]byte(body), &m) != nil || string(m["type"]) != `"message"` {
		return "data: " + body + "\n\n"
	}
	var blocks []json.RawMessage
	_ = json.Unmarshal(m["content"], &blocks) // what is no list has no blocks
	stop, usage := m["stop_reason"], m["usage"]
	m["content"], m["stop_reason"] = json.RawMessage(`[]`), json.RawMessage(`null`)
	delete(m, "usage")
	start, _ := json.Marshal(m) // cannot fail
	s := fmt.Sprintf("data: {\"type\":\"message_start\",\"message\":%s}\n\n", start)
	for i, block := range blocks {
		s += fmt.Sprintf("data: {\"type\":\"content_block_start\",\"index\":%d,\"content_block\":%s}\n\n", i, block)
	}
	if stop != nil {
		s += fmt.Sprintf("data: {\"type\":\"message_delta\",\"delta\":{\"stop_reason\":%s}}\n\n", stop)
	}
	if usage != nil {
		s += fmt.Sprintf("data: {\"type\":\"message_delta\",\"usage\":%s}\n\n", usage)
	}
	return s + "data: {\"type\":\"message_stop\"}\n\n"
}

func check(t *testing.T, a Answer, want tasks.Outcome, says string, usage *tasks.Usage) {
	t.Helper()
	if a.Outcome != want || !strings.Contains(a.Message, says) || len(a.Message) > maxMessage {
		t.Errorf("got %s, %q; want %s and a message that holds %q", a.Outcome, a.Message, want, says)
	}
	if strings.Contains(a.Message, testKey) || strings.Contains(a.Message, "sk-") {
		t.Errorf("the message shows a key: %q", a.Message)
	}
	if failed := want != tasks.Succeeded; a.MaybeBilled != failed || failed != (a.Result == nil) || a.Status != 200 {
		t.Errorf("maybe billed %v, result %s, status %d", a.MaybeBilled, a.Result, a.Status)
	}
	if usage != nil && (a.Usage == nil || *a.Usage != *usage || a.ChargedInput != usage.InputTokens) {
		t.Errorf("usage: got %+v, %d charged; want %+v", a.Usage, a.ChargedInput, usage)
	}
}

// What gateways say in place of an answer, with status 200.
func TestAnErrorWithStatus200IsNoSuccess(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		body string
		want tasks.Outcome
		says string
	}{
		{`{"code":40101,"msg":"invalid api key","data":null}`, tasks.ServerError, "40101: invalid api key"},
		{`{"code":500,"msg":"404 NOT_FOUND","success":false}`, tasks.ServerError, "500: 404 NOT_FOUND"},
		{`{"success":false,"errors":[{"code":10000,"message":"Authentication error"}],"result":null}`, tasks.ServerError, "10000: Authentication error"},
		{`{"object":"error","message":"This model's maximum context length is 4096 tokens.","type":"BadRequestError","param":null,"code":400}`,
			tasks.Rejected, "BadRequestError (400): This model's maximum context length is 4096 tokens."},
		{`{"object":"error","message":"No such model","type":"NotFoundError"}`, tasks.Rejected, "NotFoundError: No such model"},
		{`{"object":"error","message":{"detail":[{"loc":["body"],"msg":"Field required","type":"missing"}]}}`, tasks.ServerError, "missing: Field required"},
		{`{"detail":"max_tokens must be at most 8192"}`, tasks.ServerError, "max_tokens must be at most 8192"},
		{`{"detail":[{"loc":["body","max_tokens"],"msg":"too large","type":"less_than"}]}`, tasks.ServerError, "less_than: too large"},
		{`{"detail":{"message":"deep","code":422}}`, tasks.Rejected, "422: deep"},
		{`{"title":"Unavailable","status":503,"detail":"maintenance until noon"}`, tasks.Overloaded, "503: maintenance until noon"},
		{`{"choices":null,"base_resp":{"status_code":1004,"status_msg":"login fail"}}`, tasks.ServerError, "1004: login fail"},
		{`{"error_code":110,"error_msg":"Access token invalid"}`, tasks.ServerError, "110: Access token invalid"},
		{`{"code":"429","msg":"slow down"}`, tasks.RateLimited, "429: slow down"},
		{`{"code":"throttled","status":429,"message":"slow down"}`, tasks.RateLimited, "throttled: slow down"},
		{`{"code":401,"msg":"no such key"}`, tasks.Unauthorized, "401: no such key"},
		{`{"code":"402","msg":"pay"}`, tasks.SpendLimited, "402: pay"},
		{`{"code":403,"message":"not yours"}`, tasks.Unauthorized, "403: not yours"},
		{`{"code":504,"message":"upstream timed out"}`, tasks.Timeout, "504: upstream timed out"},
		{`{"code":"insufficient_quota","message":"no credit"}`, tasks.SpendLimited, "insufficient_quota: no credit"},
		{`{"type":"overloaded_error","message":"busy"}`, tasks.Overloaded, "overloaded_error: busy"},
		{`{"code":503,"success":false}`, tasks.Overloaded, "503: the provider answered 200 with something that is no"},
		{`{"msg":"key the-secret-key or sk-abcd1234 refused\nline two"}`, tasks.ServerError, "key [key] or [key] refused line two"},
		{`{"msg":"` + strings.Repeat("é", 600) + `"}`, tasks.ServerError, "éé"},
		// In the dialects' own envelope: a number is the status, a word what it is known by.
		{`{"error":{"message":"maximum context length is 131072 tokens","code":400}}`, tasks.Rejected, "400: maximum context length"},
		{`{"error":{"message":"slow down","code":"429"},"choices":[]}`, tasks.RateLimited, "429: slow down"},
		{`{"error":{"message":"no","type":"invalid_request_error","code":"invalid_api_key"}}`, tasks.Unauthorized, "invalid_request_error (invalid_api_key): no"},
		{`{"error":{"message":"Overloaded","type":"overloaded_error"}}`, tasks.Overloaded, "overloaded_error: Overloaded"},
		{`{"error":"it broke"}`, tasks.ServerError, "it broke"},
		{`{"error":true,"message":"it broke"}`, tasks.ServerError, "it broke"},
		{`{"error":{"detail":"it broke"}}`, tasks.ServerError, "it broke"},
		{`{"error":{"errors":[{"reason":"x"},{"message":"it broke"}]}}`, tasks.ServerError, "it broke"},
	} {
		for _, d := range []Dialect{OpenAI, Anthropic} {
			for media, body := range map[string]string{"application/json": tc.body, "text/event-stream": streamed(d, tc.body)} {
				t.Run(fmt.Sprintf("%s/%s/%.60s", d, media, tc.body), func(t *testing.T) {
					check(t, answered(t, d, media, body), tc.want, tc.says, nil)
				})
			}
		}
	}
}

func TestOnlyTheDialectsShapeSucceeds(t *testing.T) {
	t.Parallel()
	const no = "the provider answered 200 with "
	const ok = tasks.Succeeded
	hollow, cut := tasks.ServerError, tasks.CutOff
	used := &tasks.Usage{InputTokens: 7, OutputTokens: 3}
	choice := func(message, rest string) string {
		return `{"id":"c","object":"chat.completion","choices":[{"index":0,"message":{"role":"assistant"` + message + `}` + rest +
			`}],"usage":{"prompt_tokens":7,"completion_tokens":3}}`
	}
	message := func(rest string) string {
		return `{"id":"m","type":"message","role":"assistant",` + rest + `,"usage":{"input_tokens":7,"output_tokens":3}}`
	}
	for _, tc := range []struct {
		name   string
		d      Dialect
		body   string
		want   tasks.Outcome // as one body; "" when it cannot come so
		stream tasks.Outcome // streamed; "" when it cannot
		says   string        // in either form, when it fails with server_error
		usage  *tasks.Usage
	}{
		{"an answer", OpenAI, choice(`,"content":"hello"`, `,"finish_reason":"stop"`), ok, ok, "", used},
		{"an empty text", OpenAI, choice(`,"content":""`, `,"finish_reason":"length"`), ok, ok, "", used},
		{"content null", OpenAI, choice(`,"content":null`, `,"finish_reason":"content_filter"`), ok, ok, "", used},
		{"tool calls", OpenAI, choice(`,"content":null,"tool_calls":[{"id":"a","type":"function","function":{"name":"f","arguments":"{}"}}]`, `,"finish_reason":"tool_calls"`), ok, ok, "", used},
		{"no content", OpenAI, choice(``, `,"finish_reason":"stop"`), ok, ok, "", used},
		{"content as a list", OpenAI, choice(`,"content":[{"type":"text","text":"hello"}]`, `,"finish_reason":"stop"`), ok, ok, "", used},
		{"members of its own", OpenAI, choice(`,"content":"x","reasoning":"y"`, `,"finish_reason":"stop","error":null,"matched_stop":7,"stop_reason":null`), ok, ok, "", used},
		{"a word of its own", OpenAI, choice(`,"content":""`, `,"finish_reason":"sensitive"`), ok, ok, "", used},
		{"beside an error that is null", OpenAI, `{"error":null,"choices":[{"index":0,"message":{"role":"assistant","content":"x"},"finish_reason":"stop"}]}`, ok, ok, "", nil},
		{"no index", OpenAI, `{"choices":[{"message":{"role":"assistant","content":"x"},"finish_reason":"stop"}]}`, ok, ok, "", nil},

		// The JSON that was closed, or [DONE], shows that the answer is whole.
		{"finish_reason null", OpenAI, choice(`,"content":"hello"`, `,"finish_reason":null`), ok, ok, "", used},
		{"finish_reason missing", OpenAI, choice(`,"content":"hello"`, ``), ok, ok, "", used},
		{"finish_reason empty", OpenAI, choice(`,"content":"hello"`, `,"finish_reason":""`), ok, ok, "", used},
		{"finish_reason null, a refusal", OpenAI, choice(`,"content":null,"refusal":"no"`, `,"finish_reason":null`), ok, ok, "", used},
		{"finish_reason null, nothing said", OpenAI, choice(`,"content":"","tool_calls":[ ]`, `,"finish_reason":null`), hollow, hollow, no + "a choice that has neither text nor a finish_reason", used},
		{"finish_reason empty, nothing said", OpenAI, choice(`,"content":""`, `,"finish_reason":""`), hollow, hollow, no + "a choice that has neither", used},
		{"finish_reason a number", OpenAI, choice(`,"content":"x"`, `,"finish_reason":7`), hollow, hollow, no + "a choice whose finish_reason is no word", used},
		{"finish_reason an object", OpenAI, choice(`,"content":"x"`, `,"finish_reason":{"type":"abort","message":"out of memory"}`), hollow, hollow, "abort: out of memory", used},

		{"choices empty", OpenAI, `{"id":"c","object":"chat.completion","choices":[],"usage":{"prompt_tokens":7,"completion_tokens":3}}`, hollow, hollow, no + "something that is no chat completion: it", used},
		{"choices null", OpenAI, `{"id":"c","object":"chat.completion","choices":null,"usage":{"prompt_tokens":7,"completion_tokens":3}}`, hollow, hollow, no + "something that is no chat completion", used},
		{"choices an object", OpenAI, `{"choices":{"message":{"role":"assistant","content":"x"}}}`, hollow, cut, no + "something that is no chat completion", nil},
		{"a choice null", OpenAI, `{"choices":[null]}`, hollow, cut, no + "something that is no chat completion", nil},
		{"a choice without members", OpenAI, `{"choices":[{}]}`, hollow, hollow, no, nil},
		{"a message null", OpenAI, `{"choices":[{"message":null,"finish_reason":"stop"}]}`, hollow, "", no + "something that is no chat completion", nil},
		{"a message that is a string", OpenAI, `{"choices":[{"message":"x","finish_reason":"stop"}]}`, hollow, "", no + "something that is no chat completion", nil},
		{"a legacy completion", OpenAI, `{"object":"text_completion","choices":[{"index":0,"text":"hello","finish_reason":"stop"}]}`, hollow, "", no + "something that is no chat completion: a choice has no message", nil},
		{"a chunk as the whole", OpenAI, `{"object":"chat.completion.chunk","choices":[{"index":0,"delta":{"content":"hello"},"finish_reason":"stop"}]}`, hollow, ok, no + "something that is no chat completion", nil},
		{"nothing", OpenAI, `{}`, hollow, hollow, no + "something that is no chat completion: it has no choices", nil},
		{"all is well", OpenAI, `{"code":0,"msg":"success","data":null}`, hollow, hollow, no + "something that is no chat completion", nil},
		{"another API's answer", OpenAI, `{"model":"m","message":{"role":"assistant","content":"SECRET"},"done":true}`, hollow, hollow, no + "something that is no chat completion", nil},
		{"Anthropic's message", OpenAI, message(`"content":[{"type":"text","text":"SECRET"}],"stop_reason":"end_turn"`), hollow, "", "set the provider's dialect to anthropic", nil},

		{"an error in the choice", OpenAI, choice(`,"content":""`, `,"finish_reason":"error","error":{"code":502,"message":"Upstream error"}`), hollow, hollow, "502: Upstream error", used},
		{"an overload in the choice", OpenAI, choice(`,"content":"par"`, `,"finish_reason":"error","error":{"code":"503","message":"busy"}`), tasks.Overloaded, tasks.Overloaded, "", used},
		{"a refused key in the choice", OpenAI, choice(`,"content":""`, `,"finish_reason":"stop","error":{"code":401,"message":"no"}`), tasks.Unauthorized, tasks.Unauthorized, "", used},
		{"an error in the choice, no word", OpenAI, choice(`,"content":"par"`, `,"finish_reason":null,"error":{"message":"gone"}`), hollow, hollow, "gone", used},
		{"an error without words in the choice", OpenAI, choice(`,"content":""`, `,"finish_reason":"stop","error":{}`), hollow, hollow, no + "an error inside a choice", used},
		{"an error as a string in the choice", OpenAI, choice(`,"content":""`, `,"finish_reason":"stop","error":"gone"`), hollow, hollow, "gone", used},
		{"the second choice's error", OpenAI, `{"choices":[{"index":0,"message":{"role":"assistant","content":"x"},"finish_reason":"stop"},` +
			`{"index":1,"message":{"role":"assistant","content":""},"finish_reason":"error","error":{"message":"gone"}}]}`, hollow, hollow, "gone", nil},
		{"finish_reason error", OpenAI, choice(`,"content":"par"`, `,"finish_reason":"error"`), hollow, hollow, `the provider ended the answer with the finish_reason "error"`, used},
		{"finish_reason network_error", OpenAI, choice(`,"content":""`, `,"finish_reason":"network_error"`), hollow, hollow, `"network_error"`, used},
		{"finish_reason abort", OpenAI, choice(`,"content":"par"`, `,"finish_reason":"abort"`), hollow, hollow, `"abort"`, used},
		{"finish_reason insufficient_system_resource", OpenAI, choice(`,"content":""`, `,"finish_reason":"insufficient_system_resource"`), hollow, hollow, `"insufficient_system_resource"`, used},

		{"an answer", Anthropic, message(`"content":[{"type":"text","text":"hello"}],"stop_reason":"end_turn"`), ok, ok, "", used},
		{"nothing to say", Anthropic, message(`"content":[],"stop_reason":"end_turn"`), ok, ok, "", used},
		{"a refusal", Anthropic, message(`"content":[],"stop_reason":"refusal"`), ok, ok, "", used},
		{"a stop of its own", Anthropic, message(`"content":[],"stop_reason":"pondered","odd":1e400`), ok, ok, "", used},
		{"empty, stop_reason null", Anthropic, message(`"content":[],"stop_reason":null`), hollow, hollow, no + "a message that has no stop_reason", used},
		{"a text, stop_reason null", Anthropic, message(`"content":[{"type":"text","text":"SECRET"}],"stop_reason":null`), hollow, hollow, no + "a message that has no stop_reason", used},
		{"stop_reason missing", Anthropic, message(`"content":[]`), hollow, hollow, no + "a message that has no stop_reason", used},
		{"stop_reason empty", Anthropic, message(`"content":[],"stop_reason":""`), hollow, hollow, no + "a message that has no stop_reason", used},
		{"stop_reason a number", Anthropic, message(`"content":[],"stop_reason":7`), hollow, hollow, no + "a message that has no stop_reason", used},
		{"stop_reason error", Anthropic, message(`"content":[{"type":"text","text":"par"}],"stop_reason":"error"`), hollow, hollow, `the provider ended the answer with the stop_reason "error"`, used},
		{"content null", Anthropic, message(`"content":null,"stop_reason":"end_turn"`), hollow, "", no + "a message that has no content", used},
		{"content a string", Anthropic, message(`"content":"SECRET","stop_reason":"end_turn"`), hollow, "", no + "a message that has no content", used},
		{"no type", Anthropic, `{"role":"assistant","content":[],"stop_reason":"end_turn"}`, hollow, cut, "", nil},
		{"another type", Anthropic, `{"type":"completion","completion":"SECRET","stop_reason":"stop_sequence"}`, hollow, cut, "", nil},
		{"OpenAI's completion", Anthropic, choice(`,"content":"SECRET"`, `,"finish_reason":"stop"`), hollow, hollow, "set the provider's dialect to openai", nil},
	} {
		for media, want := range map[string]tasks.Outcome{"application/json": tc.want, "text/event-stream": tc.stream} {
			if want == "" {
				continue
			}
			t.Run(fmt.Sprintf("%s/%s/%s", tc.d, tc.name, media), func(t *testing.T) {
				body, says := tc.body, ""
				if media == "text/event-stream" {
					body = streamed(tc.d, tc.body)
				}
				if want == hollow {
					says = tc.says
				}
				a := answered(t, tc.d, media, body)
				check(t, a, want, says, tc.usage)
				if strings.Contains(a.Message, "SECRET") {
					t.Errorf("the message shows a text of the model: %q", a.Message)
				}
				if want == ok && media == "application/json" && string(a.Result) != tc.body {
					t.Errorf("result\n got %s\nwant %s", a.Result, tc.body)
				}
			})
		}
	}
}

// What only a stream can do.
func TestAStreamThatIsNoAnswerIsNoSuccess(t *testing.T) {
	t.Parallel()
	data := func(events ...string) string { return "data: " + strings.Join(events, "\n\ndata: ") + "\n\n" }
	const (
		begun = `{"type":"message_start","message":{"id":"m","type":"message","role":"assistant","content":[],"stop_reason":null,"usage":{"input_tokens":7,"output_tokens":1}}}`
		par   = `{"id":"c","choices":[{"index":0,"delta":{"content":"par"},"finish_reason":null}]}`
		used  = `{"id":"c","choices":[],"usage":{"prompt_tokens":7,"completion_tokens":3}}`
		ends  = `{"type":"message_delta","delta":{"stop_reason":"end_turn"},"usage":{"output_tokens":3}}`
		stop  = `{"type":"message_stop"}`
	)
	for _, tc := range []struct {
		name, body string
		d          Dialect
		want       tasks.Outcome
		says       string
		usage      *tasks.Usage
	}{
		{"a text, then the choice's error", data(par, `{"choices":[{"index":0,"delta":{"content":""},"finish_reason":"error","error":{"code":429,"message":"slow down"}}]}`, used, "[DONE]"),
			OpenAI, tasks.RateLimited, "429: slow down", &tasks.Usage{InputTokens: 7, OutputTokens: 3}},
		{"the choice's error, then the end", data(par, `{"choices":[{"index":0,"delta":{},"finish_reason":"error","error":{"message":"gone"}}]}`),
			OpenAI, tasks.ServerError, "gone", nil},
		{"the choice's error, then no JSON", data(par, `{"choices":[{"index":0,"delta":{},"error":{"message":"gone"}}]}`, "<html>"),
			OpenAI, tasks.ServerError, "gone", nil},
		{"a text, then an envelope of another kind", data(par, `{"code":503,"msg":"gone"}`, "[DONE]"), OpenAI, tasks.Overloaded, "503: gone", nil},
		{"a text, then nothing but the closing", data(par, "[DONE]"), OpenAI, tasks.Succeeded, "", nil},
		{"an envelope of another kind, then the end", data(`{"code":400,"msg":"too long"}`), OpenAI, tasks.Rejected, "400: too long", nil},
		{"[DONE] alone", data("[DONE]"), OpenAI, tasks.ServerError, "the provider answered 200 with something that is no chat completion", nil},
		{"nothing", "", OpenAI, tasks.CutOff, "ended before its closing event", nil},
		{"an error after choices that are null", data(`{"choices":null,"error":{"message":"gone"}}`), OpenAI, tasks.ServerError, "gone", nil},
		{"Anthropic's stream", data(begun, ends, stop), OpenAI, tasks.ServerError, "set the provider's dialect to anthropic", nil},

		{"an opening and a closing", data(begun, stop), Anthropic, tasks.ServerError, "the provider answered 200 with a message that has no stop_reason", nil},
		{"nothing", "", Anthropic, tasks.CutOff, "ended before its closing event", nil},
		{"an error without a type", data(begun, `{"error":{"message":"gone","code":503}}`, ends, stop), Anthropic, tasks.Overloaded, "503: gone", nil},
		{"an envelope of another kind, then the end", data(begun, `{"code":400,"msg":"too long"}`), Anthropic, tasks.Rejected, "400: too long", nil},
		{"an envelope of another kind in place of the end", data(begun, `{"code":503,"msg":"gone"}`, stop), Anthropic, tasks.Overloaded, "503: gone", nil},
		{"OpenAI's stream", data(par, used, "[DONE]"), Anthropic, tasks.ServerError, "set the provider's dialect to openai", nil},
		{"events of a later version", data(begun, `{"type":"note","message":"hello","code":599}`, ends, stop), Anthropic, tasks.Succeeded, "", nil},
		{"no type in the message", data(strings.Replace(begun, `"type":"message",`, "", 1), ends, stop), Anthropic, tasks.Succeeded, "", &tasks.Usage{InputTokens: 7, OutputTokens: 3}},
	} {
		t.Run(string(tc.d)+"/"+tc.name, func(t *testing.T) {
			check(t, answered(t, tc.d, "text/event-stream", tc.body), tc.want, tc.says, tc.usage)
		})
	}
}

// shaped says by another reader of JSON whether body is an answer of the dialect.
func shaped(d Dialect, body []byte) bool {
	var m map[string]any
	dec := json.NewDecoder(bytes.NewReader(body))
	dec.UseNumber()
	if dec.Decode(&m) != nil || m["error"] != nil || m["type"] == "error" {
		return false
	}
	ends := func(v any) bool {
		s, _ := v.(string)
		return s != "" && s != "abort" && !strings.Contains(strings.ToLower(s), "error")
	}
	if d == Anthropic {
		_, list := m["content"].([]any)
		return m["type"] == "message" && list && ends(m["stop_reason"])
	}
	choices, _ := m["choices"].([]any)
	for _, c := range choices {
		choice, _ := c.(map[string]any)
		message, ok := choice["message"].(map[string]any)
		if _, failed := choice["error"].(map[string]any); !ok || failed {
			return false
		}
		if s, _ := choice["error"].(string); s != "" {
			return false
		}
		if reason := choice["finish_reason"]; !ends(reason) {
			if reason != nil && reason != "" {
				return false
			}
			said := false
			for _, v := range message {
				s, _ := v.(string)
				l, _ := v.([]any)
				o, _ := v.(map[string]any)
				said = said || s != "" || len(l) > 0 || len(o) > 0
			}
			if !said {
				return false
			}
		}
	}
	return len(choices) > 0
}

func readWhole(t *testing.T, d Dialect, body []byte) Answer {
	t.Helper()
	c, err := New(Config{Provider: Provider{Dialect: d, APIKey: testKey}, MaxResultBytes: 64 << 10})
	if err != nil {
		t.Fatal(err)
	}
	var a Answer
	c.read(t.Context(), func() {}, Ask{}, &http.Response{
		StatusCode: 200, Header: http.Header{"Content-Type": {"application/json"}}, Body: io.NopCloser(bytes.NewReader(body)),
	}, &a)
	a.clean(c.redact)
	return a
}

func answersByDialect() map[Dialect]string {
	return map[Dialect]string{
		OpenAI: `{"id":"c","object":"chat.completion","choices":[{"index":0,"message":{"role":"assistant","content":"hi"},"finish_reason":"stop"},` +
			`{"index":1,"message":{"role":"assistant","content":null,"tool_calls":[{"id":"a"}]},"finish_reason":"tool_calls"}],"usage":{"prompt_tokens":7,"completion_tokens":3}}`,
		Anthropic: `{"id":"m","type":"message","role":"assistant","content":[{"type":"text","text":"hi"}],"stop_reason":"end_turn","usage":{"input_tokens":7,"output_tokens":3}}`,
	}
}

// Whatever one member of an answer is replaced by, or when it is missing: what
// succeeds has the shape, and what has it succeeds.
func TestAnAnswerWithOneMemberChangedSucceedsOnlyInShape(t *testing.T) {
	t.Parallel()
	values := []string{"", "null", "0", "7", "true", "false", `""`, `"x"`, `"error"`, `"message"`, `"abort"`, `[]`, `[null]`, `[{}]`, `{}`,
		`{"message":"gone"}`, `{"role":"assistant"}`, `[{"message":{}}]`, `[{"message":{"content":"x"},"finish_reason":null}]`}
	for d, answer := range answersByDialect() {
		var root any
		if err := json.Unmarshal([]byte(answer), &root); err != nil {
			t.Fatal(err)
		}
		tried, succeeded := 0, 0
		try := func() {
			body, err := json.Marshal(root)
			if err != nil {
				t.Fatal(err)
			}
			a := readWhole(t, d, body)
			tried++
			if a.Outcome == tasks.Succeeded {
				succeeded++
			}
			if (a.Outcome == tasks.Succeeded) != shaped(d, body) || (a.Outcome == tasks.Succeeded) == (a.Message != "") {
				t.Errorf("%s: got %s, %q; it has the shape: %v\n%s", d, a.Outcome, a.Message, shaped(d, body), body)
			}
		}
		var walk func(v any)
		walk = func(v any) {
			switch v := v.(type) {
			case []any:
				for i := range v {
					walk(v[i])
				}
			case map[string]any:
				v["error"] = nil // a member that may be added
				for name, old := range v {
					for _, value := range values {
						if v[name] = json.RawMessage(value); value == "" {
							delete(v, name)
						}
						try()
					}
					v[name] = old
					walk(old)
				}
				delete(v, "error")
			}
		}
		walk(root)
		if tried < 200 || succeeded == 0 || succeeded == tried {
			t.Errorf("%s: %d of %d succeeded", d, succeeded, tried)
		}
	}
}

// No body at all without the dialect's shape comes back as a success, and none
// that is cut short.
func FuzzWhole(f *testing.F) {
	for _, r := range rows(f) {
		f.Add(r.body, r.d == OpenAI)
	}
	for d, answer := range answersByDialect() {
		f.Add([]byte(answer), d == OpenAI)
		f.Add([]byte(answer), d != OpenAI)
	}
	for _, s := range []string{`{"code":400,"msg":"x"}`, `{"choices":[{"error":{"code":1}}],"choices":[{"message":{"content":[ ]}}]}`,
		`{"detail":[[[[[{"msg":"deep"}]]]]]}`, `{"type":"message","content":[],"stop_reason":"e\u0072ror"}`, `{"errors":{"error":{"errors":["x"]}}}`} {
		f.Add([]byte(s), true)
		f.Add([]byte(s), false)
	}
	f.Fuzz(func(t *testing.T, body []byte, openai bool) {
		d := Anthropic
		if openai {
			d = OpenAI
		}
		a, one := readWhole(t, d, body), jsontext.Value(body).IsValid(lenient) // several values are a stream, whose last mark may be missing
		switch {
		case a.Outcome == tasks.Succeeded && !shaped(d, a.Result):
			t.Fatalf("%s: a success without the shape: %q gave %q", d, body, a.Result)
		case a.Outcome == tasks.Succeeded && one && bytes.HasPrefix(bytes.Trim(body, " \t\r\n"), []byte("{")) && !bytes.Equal(bytes.TrimSpace(a.Result), bytes.TrimSpace(body)):
			t.Fatalf("%s: %q became %q", d, body, a.Result)
		case a.Outcome != tasks.Succeeded && (a.Result != nil || !a.MaybeBilled || a.Message == "" || len(a.Message) > maxMessage):
			t.Fatalf("%s: %s, %q, result %q, maybe billed %v", d, a.Outcome, a.Message, a.Result, a.MaybeBilled)
		}
		if object := bytes.Trim(body, " \t\r\n"); a.Outcome == tasks.Succeeded && one && object[0] == '{' {
			for cut := len(object) - 1; cut > 0; cut -= 1 + cut/8 {
				if a := readWhole(t, d, object[:cut]); a.Outcome == tasks.Succeeded {
					t.Fatalf("%s: %q cut at %d succeeded", d, object, cut)
				}
			}
		}
	})
}
