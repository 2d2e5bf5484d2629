package upstream

import (
	"net/http"
	"strings"
	"testing"

	"github.com/sluicehq/sluice/tasks"
)

// What a call costs goes by the tier at which the answer says that it was served, not by
// the one that was asked for.
func TestTheTierThatAnAnswerNames(t *testing.T) {
	t.Parallel()
	const (
		message   = `{"type":"message","id":"m","role":"assistant","model":"m","content":[{"type":"text","text":"hi"}],"stop_reason":"end_turn","usage":{"input_tokens":1,"output_tokens":1,"cache_creation_input_tokens":7,"cache_creation":{"ephemeral_5m_input_tokens":3,"ephemeral_1h_input_tokens":4},"service_tier":"batch"}}`
		begun     = `{"type":"message_start","message":{"type":"message","id":"m","role":"assistant","model":"m","content":[],"stop_reason":null,"usage":{"input_tokens":1,"output_tokens":1,"cache_creation_input_tokens":7,"cache_creation":{"ephemeral_1h_input_tokens":4},"service_tier":"priority"}}}`
		block     = `{"type":"content_block_start","index":0,"content_block":{"type":"text","text":"hi"}}`
		delta     = `{"type":"message_delta","delta":{"stop_reason":"end_turn"},"usage":{"output_tokens":5}}`
		chat      = `{"id":"c","object":"chat.completion","service_tier":"flex","choices":[{"index":0,"message":{"role":"assistant","content":"hi"},"finish_reason":"stop"}],"usage":{"prompt_tokens":1,"completion_tokens":1}}`
		chunk     = `{"id":"c","object":"chat.completion.chunk","service_tier":"priority","choices":[{"index":0,"delta":{"content":"hi"},"finish_reason":"stop"}],"usage":{"prompt_tokens":1,"completion_tokens":1}}`
		response  = `{"object":"response","status":"completed","service_tier":"flex","output":[{"type":"message","content":[{"type":"output_text","text":"hi"}]}],"usage":{"input_tokens":1,"output_tokens":1}}`
		completed = `{"type":"response.completed","response":` + response + `}`
	)
	for _, tc := range []struct {
		d    Dialect
		at   tasks.Path
		body string
		want tasks.Served
	}{
		{Anthropic, "", message, tasks.Served{Tier: tasks.TierBatch, Hour: 4}},
		{Anthropic, "", "data: " + begun + "\n\ndata: " + block + "\n\ndata: " + delta + "\n\ndata: {\"type\":\"message_stop\"}\n\n", tasks.Served{Tier: tasks.TierPriority, Hour: 4}},
		{OpenAI, "", chat, tasks.Served{Tier: tasks.TierFlex}},
		{OpenAI, "", strings.Replace(chat, `"flex"`, "null", 1), tasks.Served{}},
		{OpenAI, "", "data: " + chunk + "\n\ndata: [DONE]\n\n", tasks.Served{Tier: tasks.TierPriority}},
		{OpenAI, tasks.Responses, response, tasks.Served{Tier: tasks.TierFlex}},
		{OpenAI, tasks.Responses, "data: " + completed + "\n\n", tasks.Served{Tier: tasks.TierFlex}},
	} {
		kind := "application/json"
		if strings.HasPrefix(tc.body, "data: ") {
			kind = "text/event-stream"
		}
		url := served(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", kind)
			_, _ = w.Write([]byte(tc.body))
		}))
		q := tasks.Request{Kind: tasks.Raw, Endpoint: tc.at, Body: []byte(`{"model":"m","messages":[{"role":"user","content":"hi"}],"input":"hi","max_tokens":5,"service_tier":"auto"}`)}
		if a := newCaller(t, tc.d, url, nil).Do(t.Context(), Ask{Question: Read("m", q)}); a.Outcome != tasks.Succeeded || a.Usage == nil || a.Served != tc.want {
			t.Errorf("%s: %s, served %+v, %s; want %+v", tc.body, a.Outcome, a.Served, a.Message, tc.want)
		}
	}
}
