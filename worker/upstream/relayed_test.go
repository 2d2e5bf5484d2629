package upstream

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/sluicehq/sluice/tasks"
)

// relaying makes a call whose events are wanted, and returns each as it was told.
func relaying(t testing.TB, d Dialect, key, request, body string) (a Answer, told []string) {
	t.Helper()
	c, err := New(Config{Provider: Provider{Dialect: d, BaseURL: "http://provider.test", APIKey: key}, MaxResultBytes: 1 << 20, Client: &http.Client{Transport: answering(func() *http.Response {
		return &http.Response{StatusCode: 200, Header: http.Header{}, Body: readCloser{strings.NewReader(body)}}
	})}})
	if err != nil {
		t.Fatal(err)
	}
	a = c.Do(t.Context(), Ask{
		Question: Read("", tasks.Request{Kind: tasks.Raw, Body: []byte(request)}),
		OnEvent:  func(raw []byte) { told = append(told, string(raw)) },
	})
	return a, told
}

// The events of an answer are told to their end though they are larger than a result may
// be: each piece of its text has much around it.
func TestEventsMayBeLargerThanAResult(t *testing.T) {
	t.Parallel()
	piece := `data: {"id":"chatcmpl-` + strings.Repeat("x", 10_000) + `","object":"chat.completion.chunk","choices":[{"index":0,"delta":{"content":"hi"},"finish_reason":null}]}` + "\n\n"
	end := `data: {"id":"c","object":"chat.completion.chunk","choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}` + "\n\ndata: [DONE]\n\n"
	for pieces, streamed := range map[int]bool{200: true, 1000: false} { // a result has 1 MiB at most
		a, told := relaying(t, OpenAI, "", `{}`, strings.Repeat(piece, pieces)+end)
		if n := len(strings.Join(told, "")); a.Outcome != tasks.Succeeded || a.Streamed != streamed || n > 8<<20 {
			t.Errorf("%d pieces: %s, streamed %v, %d bytes told; want %v", pieces, a.Outcome, a.Streamed, n, streamed)
		}
	}
}

// A stream is told byte for byte, however its lines end; only what the caller did not
// ask for is left out, and what is no event.
func TestEventsAreToldAsTheyCame(t *testing.T) {
	t.Parallel()
	start := `data: {"type":"message_start","message":{"type":"message","content":[],"usage":{"input_tokens":1}}}`
	text := `data: {"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"h\u00eb  \/"}}`
	end := `data: {"type":"message_delta","delta":{"stop_reason":"end_turn"},"usage":{"output_tokens":1}}`
	stop := `data: {"type":"message_stop"}`
	block := `data: {"type":"content_block_start","index":0,"content_block":{"type":"text","text":""}}`
	lines := func(nl string, list ...string) string { return strings.Join(list, nl) }
	chunk := `data: {"id":"c","object":"chat.completion.chunk","choices":[{"index":0,"delta":{"content":"hi"},"finish_reason":"stop"}],"usage":null}`
	usage := `data: {"id":"c","choices":[],"usage":{"prompt_tokens":1,"completion_tokens":1}}`
	filter := `data: {"id":"","choices":[],"prompt_filter_results":[]}`
	for _, row := range []struct {
		name     string
		d        Dialect
		request  string
		body     string
		want     string // "": the body
		streamed bool
	}{
		{"lines that end in LF", Anthropic, `{}`, lines("\n\n", "event: message_start\n"+start, "event: ping\ndata: {\"type\": \"ping\"}", block, text, end, stop, ""), "", true},
		{"in CR LF", Anthropic, `{}`, lines("\r\n\r\n", "event: message_start\r\n"+start, block, text, end, "id: 7\r\nretry: 5\r\n"+stop, ""), "", true},
		{"in CR", Anthropic, `{}`, lines("\r\r", start, block, text, end, stop, ""), "", true},
		{"comments", Anthropic, `{}`, lines("\n\n", ": a\n"+start, ": b", block, text, end, stop, ""), lines("\n\n", start, block, text, end, stop, ""), true},
		{"data in lines", Anthropic, `{}`, lines("\n\n", "data: {\n"+"data: "+start[7:], block, text, end, stop, ""), "", true},
		{"bytes behind the end", Anthropic, `{}`, lines("\n\n", start, block, text, end, stop, text, ""), lines("\n\n", start, block, text, end, stop, ""), true},
		{"a count that was not asked for", OpenAI, `{}`, lines("\n\n", filter, chunk, usage, "data: [DONE]", ""), lines("\n\n", filter, chunk, "data: [DONE]", ""), true},
		{"a count that was refused", OpenAI, `{"stream_options":{"include_usage":false}}`, lines("\n\n", chunk, usage, "data: [DONE]", ""), lines("\n\n", chunk, "data: [DONE]", ""), true},
		{"a count that was asked for", OpenAI, `{"stream_options":{"include_usage":true}}`, lines("\n\n", chunk, usage, "data: [DONE]", ""), "", true},
		{"an end without its event", OpenAI, `{}`, lines("\n\n", chunk, ""), "", true},
		{"an end without its line", OpenAI, `{}`, chunk, chunk + "\n\n", true},
		{"a break", Anthropic, `{}`, lines("\n\n", start, block, text, ""), "", false},
		{"an error in the middle", Anthropic, `{}`, lines("\n\n", start, "event: error\n"+`data: {"type":"error","error":{"type":"overloaded_error","message":"Overloaded"}}`, ""), "", true},
		{"an error in the place of an answer", Anthropic, `{}`, `data: {"type":"error","error":{"type":"overloaded_error","message":"Overloaded"}}` + "\n\n", "-", false},
		{"a whole answer", Anthropic, `{}`, `{"type":"message","content":[{"type":"text","text":"x"}],"stop_reason":"end_turn"}`, "-", false},
		{"an end of nothing", Anthropic, `{}`, lines("\n\n", stop, ""), "-", false},
		{"more than a result", Anthropic, `{}`, lines("\n\n", start, block, text+strings.Repeat(" ", 1<<20), text, end, stop, ""), "", true},
	} {
		want := row.want
		switch want {
		case "":
			want = row.body
		case "-":
			want = ""
		}
		for _, key := range []string{"", testKey} {
			a, told := relaying(t, row.d, key, row.request, row.body)
			if got := strings.Join(told, ""); got != want || a.Streamed != row.streamed {
				t.Errorf("%s: told %q, streamed %v (%s %s); want %q", row.name, got, a.Streamed, a.Outcome, a.Message, want)
			}
		}
	}
}

// Our key is in no event, and not in what the events say together: whoever puts them
// together gets what the result is.
func TestOurKeyInEventsReachesNobody(t *testing.T) {
	t.Parallel()
	for _, key := range []string{"aaabaaab-aaab", "pK/9+x7=q/Q"} {
		for _, e := range echoes() {
			for form, s := range spelt(key) {
				for _, n := range []int{1, 3, 1000} {
					if e.whole || e.name == "an input" && (form == "after a quote" || form == "after a backslash") { // no JSON there
						continue
					}
					what := fmt.Sprintf("%s/%s %s in pieces of %d", e.d, e.name, form, n)
					body := e.body(pieces("is: "+s+" th", n)...)
					a, told := relaying(t, e.d, key, `{}`, body)
					if a.Outcome != tasks.Succeeded || !a.Streamed {
						t.Fatalf("%s: %s, %s, streamed %v", what, a.Outcome, a.Message, a.Streamed)
					}
					again, _ := saying(t, e.d, "", strings.Join(told, ""))
					if !json.Valid(again.Result) || unescaped(string(again.Result)) != unescaped(string(a.Result)) {
						t.Errorf("%s: the events say %s and the result is %s", what, again.Result, a.Result)
					}
					for _, shown := range []string{strings.Join(told, ""), string(again.Result), unescaped(string(again.Result))} {
						if strings.Contains(shown, key) || strings.Contains(shown, base64.RawStdEncoding.EncodeToString([]byte(key))) {
							t.Fatalf("%s: shown %s", what, shown)
						}
					}
				}
			}
		}
	}
}

// One piece of text that may begin the key does not hold up a stream that has gone on to
// something else.
func TestAHeldEventHoldsUpNoStream(t *testing.T) {
	t.Parallel()
	all := []string{`{"type":"message_start","message":{"type":"message","content":[]}}`,
		`{"type":"content_block_start","index":0,"content_block":{"type":"text","text":""}}`,
		`{"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"the"}}`, // as the key begins
	}
	all = append(all, `{"type":"content_block_start","index":1,"content_block":{"type":"tool_use","id":"t","name":"f","input":{}}}`)
	for range 3 * mostQuiet {
		all = append(all, `{"type":"content_block_delta","index":1,"delta":{"type":"input_json_delta","partial_json":"1"}}`)
	}
	_, told := relaying(t, Anthropic, testKey, `{}`, sse(all...))
	if len(told) < 2*mostQuiet {
		t.Errorf("of %d events %d were told", len(all), len(told))
	}
}
