package sdks

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/sluicehq/sluice/cmd/prove/rig"
)

var openaiScenarios = []scenario{
	{"create and stream", chats}, {"tools", chatTools}, {"a long wait", chatPings}, {"embeddings and models", embeddings},
	{"responses", responses}, {"responses streamed", responseStreams}, {"responses in the background", background},
	{"files", files}, {"batch to the end", fileBatch}, {"batches in pages, cancel", fileBatches},
	{"errors of the provider", providerErrors}, {"errors of ours", ownErrors}, {"Idempotency-Key", chatKeys}, {"timeouts", timeouts}, {"webhooks", webhooks},
}

type completion struct {
	ID, Object string
	Choices    []struct {
		Finish  string `json:"finish_reason"`
		Message struct {
			Role, Content string
			Calls         []struct{ Function function } `json:"tool_calls"`
		}
	}
	Usage struct {
		Total int `json:"total_tokens"`
	}
}

type function struct{ Name, Arguments string }

func (c *completion) text() string {
	if len(c.Choices) == 0 {
		return ""
	}
	return c.Choices[0].Message.Content
}

type chunked struct {
	Text  string
	Usage *struct {
		Total int `json:"total_tokens"`
	}
	Tools []function
}

func chats(ctx context.Context, t *trial) error {
	prompt := t.tenant + " says hello"
	var whole completion
	if err := t.do(ctx, t.call(prompt), &whole); err != nil {
		return err
	}
	t.expect(whole.Object == "chat.completion" && whole.text() != "" && whole.Choices[0].Finish == "stop" && whole.Usage.Total > 0, "the completion is %+v", whole)
	p := t.asking("gpt-x", prompt)
	for _, usage := range []bool{false, true} {
		if usage {
			p["stream_options"] = map[string]any{"include_usage": true}
		}
		var s chunked
		if err := t.do(ctx, command{Do: "chat_stream", Params: p}, &s); err != nil {
			return err
		}
		t.expect(s.Text == whole.text() && (s.Usage != nil) == usage && (!usage || s.Usage.Total == whole.Usage.Total), "streamed: %+v; whole: %+v", s, whole)
	}
	t.called(3, prompt)
	return nil
}

func chatTools(ctx context.Context, t *trial) error {
	p := t.asking("gpt-x", t.tenant+" [[fault:tools]]")
	p["tools"] = []any{map[string]any{"type": "function", "function": map[string]any{"name": weather["name"], "parameters": weather["input_schema"]}}}
	var whole completion
	var s chunked
	if err := t.do(ctx, command{Do: "chat", Params: p}, &whole); err != nil {
		return err
	}
	if err := t.do(ctx, command{Do: "chat_stream", Params: p}, &s); err != nil {
		return err
	}
	var called []function
	for _, c := range whole.Choices[0].Message.Calls {
		called = append(called, c.Function)
	}
	t.expect(len(called) == 2 && called[0].Name == "weather" && strings.Contains(called[1].Arguments, "Rome") && whole.Choices[0].Finish == "tool_calls", "whole: %+v", whole)
	t.expect(slices.Equal(called, s.Tools), "streamed: %+v; whole: %+v", s.Tools, called)
	p = t.asking("gpt-x", t.tenant+" again")
	p["messages"] = append(p["messages"].([]any),
		map[string]any{"role": "assistant", "content": nil, "tool_calls": []any{map[string]any{"id": "call_a", "type": "function", "function": map[string]any{"name": "weather", "arguments": "{}"}}}},
		map[string]any{"role": "tool", "tool_call_id": "call_a", "content": "rain"})
	return t.do(ctx, command{Do: "chat", Params: p}, &whole)
}

func chatPings(ctx context.Context, t *trial) error {
	var s chunked
	if err := t.do(ctx, command{Do: "chat_stream", Params: t.asking("gpt-x", t.tenant+" [[latency:9s]]")}, &s); err != nil {
		return err
	}
	t.expect(s.Text != "", "%+v", s)
	return nil
}

func embeddings(ctx context.Context, t *trial) error {
	for _, p := range []map[string]any{
		{"model": "gpt-embed", "input": []string{"one", "two"}},
		{"model": "gpt-embed", "input": []string{"one", "two"}, "encoding_format": "float"},
	} {
		var e struct {
			Object string
			Data   []struct{ Embedding json.RawMessage }
		}
		if err := t.do(ctx, command{Do: "embed", Params: p}, &e); err != nil {
			return err
		}
		t.expect(e.Object == "list" && len(e.Data) == 2 && strings.HasPrefix(string(e.Data[0].Embedding), "["), "embeddings: %+v", e)
	}
	return t.models(ctx, "gpt-4o", "claude-sonnet-4-5")
}

type response struct {
	ID, Object, Status string
	Background         bool
	Output             []struct {
		Content []struct{ Type, Text string }
	}
	Usage *struct {
		Total int `json:"total_tokens"`
	}
}

func (r *response) text() string {
	if len(r.Output) == 0 || len(r.Output[0].Content) == 0 {
		return ""
	}
	return r.Output[0].Content[0].Text
}

func responses(ctx context.Context, t *trial) error {
	var r, again response
	if err := t.do(ctx, command{Do: "response", Params: map[string]any{"model": "gpt-x", "input": t.tenant + " asks"}}, &r); err != nil {
		return err
	}
	t.expect(strings.HasPrefix(r.ID, "resp_") && r.Object == "response" && r.Status == "completed" && r.text() != "" && r.Usage != nil && r.Usage.Total > 0, "the response is %+v", r)
	if err := t.do(ctx, command{Do: "response_get", ID: r.ID}, &again); err != nil {
		return err
	}
	t.expect(again.ID == r.ID && again.text() == r.text(), "read again: %+v", again)
	// One that goes on from it.
	if err := t.do(ctx, command{Do: "response", Params: map[string]any{"model": "gpt-x", "input": t.tenant + " goes on", "previous_response_id": r.ID}}, &again); err != nil {
		return err
	}
	t.fails(ctx, 404, "", command{Do: "response_get", ID: r.ID, Key: t.stranger()})
	t.fails(ctx, 404, "", command{Do: "response_get", ID: "resp_none"})
	if err := t.do(ctx, command{Do: "response_delete", ID: r.ID}, nil); err != nil {
		return err
	}
	t.fails(ctx, 404, "", command{Do: "response_get", ID: r.ID})
	return nil
}

type eventful struct {
	Text     string
	Events   []string
	Numbers  []int
	Response response
}

// told expects a whole stream, from the n-th event on.
func (t *trial) told(s *eventful, from int, text string) {
	t.expect(len(s.Events) > 0 && s.Events[len(s.Events)-1] == "response.completed" && s.Response.Status == "completed" && s.Response.text() == text, "a stream: %+v; want %q", s, text)
	for i, n := range s.Numbers {
		t.expect(n == from+i, "the event %d has the number %d", from+i, n)
	}
}

func responseStreams(ctx context.Context, t *trial) error {
	p := map[string]any{"model": "gpt-x", "input": t.tenant + " asks"}
	var whole response
	var s eventful
	if err := t.do(ctx, command{Do: "response", Params: p}, &whole); err != nil {
		return err
	}
	if err := t.do(ctx, command{Do: "response_stream", Params: p}, &s); err != nil {
		return err
	}
	t.expect(s.Text == whole.text(), "streamed: %+v; whole: %+v", s, whole)
	t.told(&s, 0, whole.text())
	p["background"] = true
	var behind eventful
	if err := t.do(ctx, command{Do: "response_stream", Params: p}, &behind); err != nil {
		return err
	}
	t.told(&behind, 0, whole.text())
	var rest eventful
	if err := t.do(ctx, command{Do: "response_follow", ID: behind.Response.ID, StartingAfter: 1}, &rest); err != nil {
		return err
	}
	t.told(&rest, 2, whole.text())
	return nil
}

func background(ctx context.Context, t *trial) error {
	var r response
	if err := t.do(ctx, command{Do: "response", Params: map[string]any{"model": "gpt-x", "input": t.tenant + " asks [[latency:1s]]", "background": true}}, &r); err != nil {
		return err
	}
	t.expect(strings.HasPrefix(r.ID, "resp_") && (r.Status == "queued" || r.Status == "in_progress") && r.Background, "made: %+v", r)
	err := rig.Until(ctx, time.Minute, "the response is there", func(ctx context.Context) (bool, error) {
		err := t.do(ctx, command{Do: "response_get", ID: r.ID}, &r)
		return r.Status == "completed", err
	})
	if err != nil {
		return err
	}
	t.expect(r.text() != "" && r.Background, "at its end: %+v", r)
	var slow response
	if err := t.do(ctx, command{Do: "response", Params: map[string]any{"model": "gpt-x", "input": t.tenant + " waits [[latency:30s]]", "background": true}}, &slow); err != nil {
		return err
	}
	id := slow.ID
	for range 2 { // the second time as the first
		if err := t.do(ctx, command{Do: "response_cancel", ID: id}, &slow); err != nil {
			return err
		}
		t.expect(slow.ID == id && slow.Status == "cancelled", "canceled: %+v", slow)
	}
	for _, id := range []string{id, r.ID} {
		if err := t.do(ctx, command{Do: "response_delete", ID: id}, nil); err != nil {
			return err
		}
		t.fails(ctx, 404, "", command{Do: "response_get", ID: id})
	}
	return nil
}

// lines is the file of a batch for an endpoint, a line a prompt.
func lines(endpoint string, prompts ...string) string {
	var b strings.Builder
	for i, prompt := range prompts {
		body := map[string]any{"model": "gpt-x"}
		switch endpoint {
		case "/v1/chat/completions":
			body["messages"] = []any{map[string]any{"role": "user", "content": prompt}}
		default:
			body["input"] = prompt
		}
		line, err := json.Marshal(map[string]any{"custom_id": fmt.Sprint("line-", i), "method": "POST", "url": endpoint, "body": body})
		if err != nil {
			panic(err) // strings
		}
		b.Write(append(line, '\n'))
	}
	return b.String()
}

// pages expects all of some objects in a list, in the same order however long a page is.
// Two APIs have two clocks: of what was made within moments, either may be first.
func (t *trial) pages(ctx context.Context, list string, ids []string) error {
	var first []string
	for _, limit := range []int{20, 1, len(ids)} {
		var got []string
		if err := t.do(ctx, command{Do: list, Limit: limit}, &got); err != nil {
			return err
		}
		if first == nil {
			first = got
		}
		t.expect(slices.Equal(got, first) && slices.Equal(slices.Sorted(slices.Values(got)), slices.Sorted(slices.Values(ids))), "%s by %d: %q, want %q", list, limit, got, ids)
	}
	return nil
}

type fileView struct {
	ID, Object, Purpose, Filename, Status string
	Bytes                                 int
	Deleted                               bool
}

func files(ctx context.Context, t *trial) error {
	text := lines("/v1/chat/completions", "one", "two \u2028 é")
	var ids []string
	for range 3 {
		var f fileView
		if err := t.do(ctx, command{Do: "file", Text: text}, &f); err != nil {
			return err
		}
		t.expect(strings.HasPrefix(f.ID, "file-") && f.Object == "file" && f.Purpose == "batch" && f.Filename == "lines.jsonl" && f.Bytes == len(text), "uploaded: %+v", f)
		ids = append(ids, f.ID)
	}
	if err := t.pages(ctx, "file_list", ids); err != nil {
		return err
	}
	var f fileView
	var content string
	if err := t.do(ctx, command{Do: "file_get", ID: ids[0]}, &f); err != nil {
		return err
	}
	if err := t.do(ctx, command{Do: "file_content", ID: ids[0]}, &content); err != nil {
		return err
	}
	t.expect(f.ID == ids[0] && content == text, "%+v has %q", f, content)
	t.fails(ctx, 404, "", command{Do: "file_get", ID: ids[0], Key: t.stranger()})
	if err := t.do(ctx, command{Do: "file_delete", ID: ids[0]}, &f); err != nil {
		return err
	}
	t.expect(f.Deleted, "deleted: %+v", f)
	t.fails(ctx, 404, "", command{Do: "file_get", ID: ids[0]})
	return nil
}

type fileBatchView struct {
	ID, Object, Status string
	Output             string                                 `json:"output_file_id"`
	Failures           string                                 `json:"error_file_id"`
	Counts             struct{ Total, Completed, Failed int } `json:"request_counts"`
	Errors             struct {
		Data []struct {
			Code string
			Line int
		}
	}
}

// batched uploads lines and makes a batch of them.
func (t *trial) batched(ctx context.Context, endpoint, text string) (b fileBatchView, err error) {
	var f fileView
	if err := t.do(ctx, command{Do: "file", Text: text}, &f); err != nil {
		return b, err
	}
	return b, t.do(ctx, command{Do: "batch", Params: map[string]any{"input_file_id": f.ID, "endpoint": endpoint, "completion_window": "24h"}}, &b)
}

// ends waits until a batch has a status.
func (t *trial) ends(ctx context.Context, b *fileBatchView, status string) error {
	return rig.Until(ctx, time.Minute, "the batch is "+status, func(ctx context.Context) (bool, error) {
		err := t.do(ctx, command{Do: "batch_get", ID: b.ID}, b)
		return b.Status == status, err
	})
}

func fileBatch(ctx context.Context, t *trial) error {
	for _, endpoint := range []string{"/v1/chat/completions", "/v1/responses", "/v1/embeddings"} {
		b, err := t.batched(ctx, endpoint, lines(endpoint, t.tenant+endpoint, t.tenant+" [[fault:400]]", t.tenant+" \u2028 \"quoted\"\n"))
		if err != nil {
			return err
		}
		t.expect(strings.HasPrefix(b.ID, "batch_") && b.Object == "batch", "made: %+v", b)
		if err := t.ends(ctx, &b, "completed"); err != nil {
			return err
		}
		t.expect(b.Counts.Total == 3 && b.Counts.Completed == 2 && b.Counts.Failed == 1, "%s: at its end: %+v", endpoint, b)
		for id, want := range map[string]struct{ lines, status int }{b.Output: {2, 200}, b.Failures: {1, 400}} {
			var text string
			if err := t.do(ctx, command{Do: "file_content", ID: id}, &text); err != nil {
				return err
			}
			n := 0
			for line := range strings.Lines(text) {
				var l struct {
					ID       string `json:"custom_id"`
					Response struct {
						Status int `json:"status_code"`
						Body   map[string]any
					}
				}
				err := json.Unmarshal([]byte(line), &l)
				n++
				t.expect(err == nil && l.Response.Status == want.status && len(l.Response.Body) > 0, "%s: %s: %v", endpoint, line, err)
			}
			t.expect(n == want.lines, "%s: the file %s has %d lines, want %d", endpoint, id, n, want.lines)
		}
	}
	b, err := t.batched(ctx, "/v1/chat/completions", "nonsense\n"+lines("/v1/embeddings", "x"))
	if err != nil {
		return err
	}
	if err := t.ends(ctx, &b, "failed"); err != nil {
		return err
	}
	t.expect(len(b.Errors.Data) > 0 && b.Errors.Data[0].Line == 1, "a faulty file: %+v", b)
	return nil
}

func fileBatches(ctx context.Context, t *trial) error {
	var ids []string
	for i := range 3 {
		b, err := t.batched(ctx, "/v1/chat/completions", lines("/v1/chat/completions", fmt.Sprintf("%s %d [[latency:30s]]", t.tenant, i)))
		if err != nil {
			return err
		}
		ids = append(ids, b.ID)
	}
	if err := t.pages(ctx, "batch_list", ids); err != nil {
		return err
	}
	t.fails(ctx, 404, "", command{Do: "batch_get", ID: ids[0], Key: t.stranger()})
	for _, id := range ids {
		b := fileBatchView{ID: id}
		if err := t.do(ctx, command{Do: "batch_cancel", ID: id}, &b); err != nil {
			return err
		}
		t.expect(b.Status == "cancelling" || b.Status == "cancelled", "canceled: %+v", b)
		if err := t.ends(ctx, &b, "cancelled"); err != nil {
			return err
		}
	}
	return nil
}

func chatKeys(ctx context.Context, t *trial) error {
	prompt := t.tenant + " with a key"
	var first, again completion
	c := t.call(prompt)
	c.Headers = map[string]string{"Idempotency-Key": "k"}
	if err := t.do(ctx, c, &first); err != nil {
		return err
	}
	if err := t.do(ctx, c, &again); err != nil {
		return err
	}
	t.expect(first.ID == again.ID && first.text() == again.text(), "%+v and %+v", first, again)
	t.called(1, prompt)
	c.Params = t.asking("gpt-x", prompt+" other")
	t.fails(ctx, 422, "invalid_request_error", c)
	return nil
}

// inbox receives webhooks, by the path that they are sent to.
type inbox struct {
	server *http.Server
	addr   string
	mu     sync.Mutex
	got    map[string][]delivery
}

type delivery struct {
	headers map[string]string
	body    string
}

func openInbox() (*inbox, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	in := &inbox{addr: l.Addr().String(), got: map[string][]delivery{}}
	in.server = &http.Server{ReadHeaderTimeout: time.Minute, Handler: http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		d := delivery{headers: map[string]string{}, body: string(body)}
		for name := range r.Header {
			d.headers[strings.ToLower(name)] = r.Header.Get(name)
		}
		in.mu.Lock()
		defer in.mu.Unlock()
		in.got[r.URL.Path] = append(in.got[r.URL.Path], d)
	})}
	go func() { _ = in.server.Serve(l) }()
	return in, nil
}

func (in *inbox) close() { _ = in.server.Close() }

func (in *inbox) at(path string) []delivery {
	in.mu.Lock()
	defer in.mu.Unlock()
	return slices.Clone(in.got[path])
}

// webhooks has the ends of a response and of a batch told, verified by the SDK, which
// then reads what they name.
func webhooks(ctx context.Context, t *trial) error {
	path := "/" + t.tenant
	c := t.w.stage.ClientOf(t.token)
	defer c.Close()
	a, err := c.Ask(ctx, http.MethodPost, "/v1/webhook-endpoints", "hook", fmt.Appendf(nil, `{"url":"http://%s%s","events":["job.succeeded","batch.completed"],"format":"openai"}`, t.w.inbox.addr, path))
	if err != nil {
		return err
	}
	var endpoint struct{ Secret string }
	if err := json.Unmarshal(a.Body, &endpoint); err != nil || endpoint.Secret == "" {
		return fmt.Errorf("no endpoint: %d %s", a.Status, a.Body)
	}
	var r response
	if err := t.do(ctx, command{Do: "response", Params: map[string]any{"model": "gpt-x", "input": t.tenant, "background": true}}, &r); err != nil {
		return err
	}
	b, err := t.batched(ctx, "/v1/chat/completions", lines("/v1/chat/completions", t.tenant+" in a batch"))
	if err != nil {
		return err
	}
	want := map[string]string{"response.completed": r.ID, "batch.completed": b.ID}
	told := 0
	err = rig.Until(ctx, time.Minute, "both ends are told", func(ctx context.Context) (bool, error) {
		all := t.w.inbox.at(path)
		for ; told < len(all); told++ {
			var e struct {
				Type string
				Data struct{ ID string }
			}
			if err := t.do(ctx, command{Do: "unwrap", Text: all[told].body, Sent: all[told].headers, Secret: endpoint.Secret}, &e); err != nil {
				return false, fmt.Errorf("%w of %s", err, all[told].body)
			}
			if e.Data.ID == want[e.Type] {
				delete(want, e.Type)
			}
			if strings.HasPrefix(e.Data.ID, "job_") {
				continue // a line of the batch, of which OpenAI tells nothing: it is read under /v1
			}
			read := map[string]string{"response.completed": "response_get", "batch.completed": "batch_get"}[e.Type]
			if err := t.do(ctx, command{Do: read, ID: e.Data.ID}, nil); err != nil {
				return false, fmt.Errorf("%s: %w", all[told].body, err)
			}
			if err := t.do(ctx, command{Do: "unwrap", Text: all[told].body + " ", Sent: all[told].headers, Secret: endpoint.Secret}, nil); err == nil {
				return false, fmt.Errorf("a changed body is verified")
			}
		}
		return len(want) == 0, nil
	})
	if err != nil {
		err = fmt.Errorf("%w; still missing: %v", err, want)
	}
	return err
}
