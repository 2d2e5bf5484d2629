package fake

import (
	"strings"
	"testing"

	"github.com/sluicehq/sluice/tasks"
	"github.com/sluicehq/sluice/worker/upstream"
)

func TestResponsesAndEmbeddingsAreAnswered(t *testing.T) {
	t.Parallel()
	_, url := startFake(t, Config{MeanOutputTokens: 20})
	c := newCaller(t, OpenAI, url)
	for _, tc := range []struct {
		at   tasks.Path
		body string
		want tasks.Outcome
		says string
	}{
		{tasks.Responses, `{"input":"Say it.","max_output_tokens":100}`, tasks.Succeeded, `"object":"response"`},
		{tasks.Responses, `{"input":[{"role":"user","content":[{"type":"input_text","text":"Say it."}]}],"instructions":"Be brief."}`, tasks.Succeeded, "Say it."},
		{tasks.Responses, `{"input":"[[tokens:50]]","max_output_tokens":5}`, tasks.Succeeded, `"incomplete"`},
		{tasks.Responses, `{"input":"x","background":true}`, tasks.Succeeded, `"completed"`},
		{tasks.Responses, `{"input":"x","previous_response_id":"resp_01JDXXXXXXXXXXXXXXXXXXXXXX"}`, tasks.Rejected, "not found"},
		{tasks.Responses, `{"input":"x","max_tokens":5}`, tasks.Rejected, "max_output_tokens"},
		{tasks.Responses, `{"messages":[]}`, tasks.Rejected, "input"},
		{tasks.Embeddings, `{"input":["a","b"],"dimensions":3}`, tasks.Succeeded, `"index":1,"embedding":[`},
		{tasks.Embeddings, `{"input":"a","encoding_format":"base64"}`, tasks.Succeeded, `"embedding":"`},
		{tasks.Embeddings, `{"input":[1,2,3]}`, tasks.Succeeded, `"object":"list"`},
		{tasks.Embeddings, `{"input":{}}`, tasks.Rejected, "input"},
		{tasks.Embeddings, `{"input":"a","encoding_format":"hex"}`, tasks.Rejected, "encoding_format"},
	} {
		a := c.Do(t.Context(), upstream.Ask{Question: upstream.Read("m", tasks.Request{Kind: tasks.Raw, Endpoint: tc.at, Body: []byte(tc.body)})})
		if said := string(a.Result) + a.Message; a.Outcome != tc.want || !strings.Contains(said, tc.says) {
			t.Errorf("%s %s: got %s, %s; want %s and %q", tc.at, tc.body, a.Outcome, said, tc.want, tc.says)
		}
		if a.Outcome == tasks.Succeeded && (a.Usage == nil || a.Usage.InputTokens == 0) {
			t.Errorf("%s %s: got usage %v", tc.at, tc.body, a.Usage)
		}
	}
}

// A stream of a response is what the answer would be if it came whole, and each of its
// faults is told as one.
func TestResponsesAreStreamed(t *testing.T) {
	t.Parallel()
	_, url := startFake(t, Config{MeanOutputTokens: 200})
	c := newCaller(t, OpenAI, url)
	for _, tc := range []struct {
		input    string
		want     tasks.Outcome
		streamed bool
	}{
		{`Say it.`, tasks.Succeeded, true},
		{`[[tokens:1]]`, tasks.Succeeded, true},
		{`[[fault:stream_error]]`, tasks.ServerError, true},
		{`[[fault:truncated]]`, tasks.CutOff, false},
		{`[[fault:cut]]`, tasks.CutOff, false},
	} {
		ask := upstream.Ask{Question: upstream.Read("m", tasks.Request{Kind: tasks.Raw, Endpoint: tasks.Responses, Stream: true, Body: []byte(`{"max_output_tokens":300,"input":"` + tc.input + `"}`)})}
		var events, text string
		ask.OnEvent, ask.OnText = func(raw []byte) { events += string(raw) }, func(s string) { text += s }
		a := c.Do(t.Context(), ask)
		if a.Outcome != tc.want || a.Streamed != tc.streamed || !strings.HasPrefix(events, "event: response.created\ndata: {\"type\":\"response.created\",\"sequence_number\":0,") {
			t.Errorf("%s: got %s (%s), streamed %v; events %s", tc.input, a.Outcome, a.Message, a.Streamed, events)
		}
		if a.Outcome == tasks.Succeeded && (text == "" || text != tasks.ResultText(a.Result) || a.Usage == nil) {
			t.Errorf("%s: the text is %q, of the result %s", tc.input, text, a.Result)
		}
	}
}
