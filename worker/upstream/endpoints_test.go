package upstream

import (
	"strings"
	"testing"

	"github.com/sluicehq/sluice/tasks"
)

func TestAnAnswerIsJudgedByItsEndpoint(t *testing.T) {
	t.Parallel()
	const message = `{"type":"message","content":[{"type":"output_text","text":"hi"}]}`
	usage := &tasks.Usage{InputTokens: 5, CacheReadInputTokens: 2, OutputTokens: 3}
	for _, tc := range []struct {
		at     tasks.Path
		body   string
		want   tasks.Outcome
		finish tasks.Finish
		text   string
		usage  *tasks.Usage
	}{
		{tasks.Embeddings, `{"object":"list","data":[{"object":"embedding","index":0,"embedding":[0.5,1]}],"usage":{"prompt_tokens":7,"total_tokens":7}}`, tasks.Succeeded, tasks.FinishComplete, "", &tasks.Usage{InputTokens: 7}},
		{tasks.Embeddings, `{"object":"list","data":[{"embedding":"AACAPw=="}]}`, tasks.Succeeded, tasks.FinishComplete, "", nil},
		{tasks.Embeddings, `{"object":"list","data":[]}`, tasks.ServerError, "", "", nil},
		{tasks.Embeddings, `{"object":"list","data":[{"embedding":[1]},{"embedding":[]}]}`, tasks.ServerError, "", "", nil},
		{tasks.Embeddings, `{"id":"c","choices":[{"message":{"content":"hi"},"finish_reason":"stop"}]}`, tasks.ServerError, "", "", nil},
		{tasks.Embeddings, `{"error":{"message":"no","type":"server_error"}}`, tasks.ServerError, "", "", nil},
		{tasks.Responses, `{"object":"response","status":"completed","error":null,"output":[{"type":"reasoning"},` + message + `],"usage":{"input_tokens":7,"input_tokens_details":{"cached_tokens":2},"output_tokens":3}}`, tasks.Succeeded, tasks.FinishComplete, "hi", usage},
		{tasks.Responses, `{"status":"completed","output":[{"type":"function_call","name":"f"}]}`, tasks.Succeeded, tasks.FinishToolUse, "", nil},
		{tasks.Responses, `{"status":"completed","output":[]}`, tasks.Succeeded, tasks.FinishEmpty, "", nil},
		{tasks.Responses, `{"status":"completed","output":[{"type":"message","content":[{"type":"refusal","refusal":"no"}]}]}`, tasks.Succeeded, tasks.FinishRefused, "no", nil},
		{tasks.Responses, `{"status":"incomplete","incomplete_details":{"reason":"max_output_tokens"},"output":[` + message + `]}`, tasks.Succeeded, tasks.FinishLength, "hi", nil},
		{tasks.Responses, `{"status":"incomplete","incomplete_details":{"reason":"content_filter"},"output":[]}`, tasks.Succeeded, tasks.FinishFiltered, "", nil},
		{tasks.Responses, `{"status":"failed","error":{"code":"server_error","message":"broke"},"output":[]}`, tasks.ServerError, "", "", nil},
		{tasks.Responses, `{"status":"in_progress","output":[]}`, tasks.ServerError, "", "", nil},
		{tasks.Responses, `{"output":[]}`, tasks.ServerError, "", "", nil},
		{tasks.Responses, `{"id":"c","choices":[{"message":{"content":"hi"},"finish_reason":"stop"}]}`, tasks.ServerError, "", "", nil},
	} {
		raw := "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nConnection: close\r\n\r\n" + tc.body
		var told string
		a := newCaller(t, OpenAI, serveBytes(t, []byte(raw), false).url, nil).Do(t.Context(), Ask{
			Question: Read("m", tasks.Request{Kind: tasks.Raw, Endpoint: tc.at, Body: []byte(`{"model":"m","input":"hi"}`)}),
			OnText:   func(s string) { told += s },
		})
		if a.Outcome != tc.want || a.Finish != tc.finish || told != tc.text {
			t.Errorf("%s %s: got %s %q %q (%s); want %s %q %q", tc.at, tc.body, a.Outcome, a.Finish, told, a.Message, tc.want, tc.finish, tc.text)
		}
		if got := a.Usage; tc.want == tasks.Succeeded && (got == nil) != (tc.usage == nil) || got != nil && tc.usage != nil && *got != *tc.usage {
			t.Errorf("%s %s: got usage %v; want %v", tc.at, tc.body, got, tc.usage)
		}
		if tc.want == tasks.Succeeded {
			if got := Finish(OpenAI, tc.at, []byte(tc.body)); got != tc.finish {
				t.Errorf("%s %s: kept, it ended %q; want %q", tc.at, tc.body, got, tc.finish)
			}
		}
	}
}

// Only a chat completion is asked for as a stream whether its caller streams or not; a
// response where it does.
func TestABodyIsSentAsItsEndpointTakesIt(t *testing.T) {
	t.Parallel()
	const streams = ", streamed"
	for _, tc := range []struct {
		at         tasks.Path
		body, want string
	}{
		{tasks.Embeddings, `{"model":"a","input":["x"], "odd": 1e2}`, `{"model":"m","input":["x"], "odd": 1e2}`},
		{tasks.Responses, `{"background":true,"model":"m","input":"x","stream":true,"stream_options":{},"odd": 1}`, `{"model":"m","input":"x","odd": 1}`},
		{tasks.Responses + streams, `{"background":true,"model":"m","input":"x","stream":true,"stream_options":{"include_obfuscation":false},"odd": 1}`, `{"model":"m","input":"x","stream":true,"stream_options":{"include_obfuscation":false},"odd": 1}`},
		{tasks.Responses, `{"model":"m","input":"x","max_output_tokens":5}`, `{"model":"m","input":"x","max_output_tokens":5}`},
	} {
		at, wanted := strings.CutSuffix(string(tc.at), streams)
		q := Read("m", tasks.Request{Kind: tasks.Raw, Endpoint: tasks.Path(at), Stream: wanted, Body: []byte(tc.body), OutputTokens: 5})
		got, err := q.Body(&Provider{Dialect: OpenAI})
		if err != nil || string(got) != tc.want {
			t.Errorf("%s %s: got %s, %v; want %s", tc.at, tc.body, got, err, tc.want)
		}
	}
}
