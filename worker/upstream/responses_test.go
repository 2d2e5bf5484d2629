package upstream

import (
	"net/http"
	"strings"
	"testing"

	"github.com/sluicehq/sluice/tasks"
)

// responding asks for a stream of a response, and returns the text and the events told.
func responding(t *testing.T, key, body string) (a Answer, text, events string) {
	t.Helper()
	c, err := New(Config{Provider: Provider{Dialect: OpenAI, BaseURL: "http://provider.test", APIKey: key}, MaxResultBytes: 1 << 10, Client: &http.Client{Transport: answering(func() *http.Response {
		return &http.Response{StatusCode: 200, Header: http.Header{}, Body: readCloser{strings.NewReader(body)}}
	})}})
	if err != nil {
		t.Fatal(err)
	}
	a = c.Do(t.Context(), Ask{
		Question: Read("", tasks.Request{Kind: tasks.Raw, Endpoint: tasks.Responses, Stream: true, Body: []byte(`{}`)}),
		OnText:   func(s string) { text += s },
		OnEvent:  func(raw []byte) { events += string(raw) },
	})
	return a, text, events
}

func TestAResponseIsReadFromItsEvents(t *testing.T) {
	t.Parallel()
	event := func(kind, rest string) string {
		return "event: " + kind + "\ndata: {\"type\":\"" + kind + "\"," + rest + "}\n\n"
	}
	delta := func(item, text string) string {
		return event("response.output_text.delta", `"item_id":"`+item+`","output_index":0,"delta":"`+text+`"`)
	}
	const body = `{"id":"resp_1","status":"completed","error":null,"output":[{"type":"message","content":[{"type":"output_text","text":"hi"}]}],"usage":{"input_tokens":7,"output_tokens":3},"odd":1e2}`
	created := event("response.created", `"sequence_number":0,"response":{"id":"resp_1","status":"in_progress","error":null,"output":[]}`)
	end := event("response.completed", `"sequence_number":3,"response":`+body)
	failed := event("response.failed", `"response":{"id":"resp_1","status":"failed","error":{"code":"rate_limit_exceeded","message":"slower"},"output":[]}`)
	for name, row := range map[string]struct {
		body, key string
		want      tasks.Outcome
		text      string
		told      string // "": the body
		streamed  bool
	}{
		"whole":                   {body: created + delta("a", "h") + delta("a", "i") + end, want: tasks.Succeeded, text: "hi", streamed: true},
		"bytes behind the end":    {body: created + end + "data: [DONE]\n\n", want: tasks.Succeeded, told: created + end, streamed: true},
		"cut short":               {body: created + event("response.incomplete", `"response":`+strings.Replace(body, `"completed"`, `"incomplete"`, 1)), want: tasks.Succeeded, streamed: true},
		"no end":                  {body: created + delta("a", "hi"), want: tasks.CutOff, text: "hi"},
		"an end that is none":     {body: created + "data: [DONE]\n\n", want: tasks.CutOff, told: created},
		"failed":                  {body: created + failed, want: tasks.RateLimited, streamed: true},
		"failed at once":          {body: failed, want: tasks.RateLimited, told: "-"},
		"an error":                {body: created + event("error", `"code":"server_error","message":"broke"`), want: tasks.ServerError, streamed: true},
		"an error in an envelope": {body: created + `data: {"error":{"type":"server_error","message":"broke"}}` + "\n\n", want: tasks.ServerError, streamed: true},
		"no response at the end":  {body: created + event("response.completed", `"response":{"id":"resp_1"}`), want: tasks.ServerError, told: created},
		"our key in pieces":       {body: created + delta("a", "sk-sec") + delta("a", "ret-key!") + end, key: "sk-secret-key", want: tasks.Succeeded, text: "[key]!", told: created + delta("a", "[key]!") + delta("a", "") + end, streamed: true},
		"pieces of two items":     {body: created + delta("a", "sk-sec") + delta("b", "ret-key!") + end, key: "sk-secret-key", want: tasks.Succeeded, streamed: true, text: "-"},
		"too large":               {body: created + delta("a", strings.Repeat("x", 2<<10)) + end, want: tasks.TooLarge, text: "-", told: "-"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			a, text, told := responding(t, row.key, row.body)
			want := row.told
			if want == "" {
				want = row.body
			}
			if a.Outcome != row.want || a.Streamed != row.streamed || row.told != "-" && told != want || row.text != "-" && text != row.text {
				t.Errorf("%s (%s), streamed %v, text %q, told %q; want %s, %q, %q", a.Outcome, a.Message, a.Streamed, text, told, row.want, row.text, want)
			}
			if row.want == tasks.Succeeded && (a.Usage == nil || a.Usage.OutputTokens != 3 || !strings.Contains(string(a.Result), `"odd":1e2`)) {
				t.Errorf("usage %v of %s", a.Usage, a.Result)
			}
		})
	}
}
