package sdks

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/sluicehq/sluice/cmd/prove/rig"
)

var anthropicScenarios = []scenario{
	{"create and stream", messages}, {"tools", messageTools}, {"a long wait", messagePings}, {"count_tokens and models", messageModels},
	{"batch to the end", messageBatch}, {"batches in pages, cancel, delete", messageBatches},
	{"errors of the provider", providerErrors}, {"errors of ours", ownErrors}, {"Idempotency-Key", messageKeys}, {"timeouts", timeouts},
}

type message struct {
	ID, Type, Role string
	Content        []struct {
		Type, Text, Name string
		Input            json.RawMessage
	}
	StopReason string `json:"stop_reason"`
	Usage      struct {
		Input  int `json:"input_tokens"`
		Output int `json:"output_tokens"`
	}
}

func (m *message) text() string {
	if len(m.Content) == 0 {
		return ""
	}
	return m.Content[0].Text
}

// asking is the body of a call of the dialect, with a prompt.
func (k *sdk) asking(model, prompt string) map[string]any {
	p := map[string]any{"model": model, "messages": []any{map[string]any{"role": "user", "content": prompt}}}
	if k.dialect == "anthropic" {
		p["max_tokens"] = 64
	}
	return p
}

// call is the dialect's own call, and the model that answers it.
func (k *sdk) call(prompt string) command {
	if k.dialect == "anthropic" {
		return command{Do: "message", Params: k.asking("claude-x", prompt)}
	}
	return command{Do: "chat", Params: k.asking("gpt-x", prompt)}
}

func messages(ctx context.Context, t *trial) error {
	prompt := t.tenant + " says hello"
	var m message
	if err := t.do(ctx, t.call(prompt), &m); err != nil {
		return err
	}
	t.expect(m.Type == "message" && m.Role == "assistant" && m.text() != "" && m.StopReason == "end_turn" && m.Usage.Input > 0 && m.Usage.Output > 0, "the message is %+v", m)
	var s struct {
		Message message
		Events  []string
	}
	if err := t.do(ctx, command{Do: "stream", Params: t.asking("claude-x", prompt)}, &s); err != nil {
		return err
	}
	t.expect(s.Message.text() == m.text() && s.Message.StopReason == m.StopReason && s.Message.Usage == m.Usage, "streamed: %+v; whole: %+v", s.Message, m)
	t.expect(len(s.Events) > 5 && s.Events[0] == "message_start" && s.Events[len(s.Events)-1] == "message_stop", "events: %q", s.Events)
	t.called(2, prompt)
	return nil
}

var weather = map[string]any{"name": "weather", "description": "The weather in a city.", "input_schema": map[string]any{
	"type": "object", "properties": map[string]any{"city": map[string]any{"type": "string"}}, "required": []string{"city"},
}}

func messageTools(ctx context.Context, t *trial) error {
	p := t.asking("claude-x", t.tenant+" [[fault:tools]]")
	p["tools"] = []any{weather}
	var m message
	var s struct{ Message message }
	if err := t.do(ctx, command{Do: "message", Params: p}, &m); err != nil {
		return err
	}
	if err := t.do(ctx, command{Do: "stream", Params: p}, &s); err != nil {
		return err
	}
	for how, m := range map[string]message{"whole": m, "streamed": s.Message} {
		ok := m.StopReason == "tool_use" && len(m.Content) == 3
		for i, city := range []string{"Oslo", "Rome"} {
			ok = ok && m.Content[1+i].Type == "tool_use" && m.Content[1+i].Name == "weather" && strings.Contains(string(m.Content[1+i].Input), city)
		}
		t.expect(ok, "%s: %+v", how, m)
	}
	// The answers of the tools, a picture and a prompt of the system go as they are.
	p = t.asking("claude-x", t.tenant+" again")
	p["system"] = []any{map[string]any{"type": "text", "text": "Be short.", "cache_control": map[string]any{"type": "ephemeral"}}}
	p["tools"] = []any{weather}
	p["messages"] = append(p["messages"].([]any),
		map[string]any{"role": "assistant", "content": []any{map[string]any{"type": "tool_use", "id": "call_a", "name": "weather", "input": map[string]any{"city": "Oslo"}}}},
		map[string]any{"role": "user", "content": []any{
			map[string]any{"type": "tool_result", "tool_use_id": "call_a", "content": "rain"},
			map[string]any{"type": "image", "source": map[string]any{"type": "base64", "media_type": "image/png", "data": "iVBORw0KGgo="}},
		}})
	return t.do(ctx, command{Do: "message", Params: p}, &m)
}

// messagePings has a stream wait longer than it is silent.
func messagePings(ctx context.Context, t *trial) error {
	var s struct{ Message message }
	if err := t.do(ctx, command{Do: "stream", Params: t.asking("claude-x", t.tenant+" [[latency:9s]]")}, &s); err != nil {
		return err
	}
	t.expect(s.Message.text() != "", "%+v", s)
	return nil
}

func messageModels(ctx context.Context, t *trial) error {
	var n struct {
		Input int `json:"input_tokens"`
	}
	p := t.asking("claude-x", "how many tokens")
	delete(p, "max_tokens")
	if err := t.do(ctx, command{Do: "count", Params: p}, &n); err != nil {
		return err
	}
	t.expect(n.Input > 0, "count_tokens: %+v", n)
	t.fails(ctx, 404, "not_found_error", command{Do: "count", Params: map[string]any{"model": "none", "messages": p["messages"]}})
	return t.models(ctx, "claude-sonnet-4-5", "gpt-4o")
}

// models expects a model of the dialect's in the list, and not the other's.
func (t *trial) models(ctx context.Context, own, other string) error {
	var ids []string
	if err := t.do(ctx, command{Do: "models", Limit: 1}, &ids); err != nil {
		return err
	}
	t.expect(slices.Contains(ids, own) && !slices.Contains(ids, other), "the models are %q", ids)
	var one struct{ ID string }
	if err := t.do(ctx, command{Do: "model", ID: own}, &one); err != nil {
		return err
	}
	t.expect(one.ID == own, "the model is %+v", one)
	t.fails(ctx, 404, "", command{Do: "model", ID: other})
	return nil
}

type messageBatchView struct {
	ID, Type   string
	Status     string                                                          `json:"processing_status"`
	ResultsURL string                                                          `json:"results_url"`
	Created    string                                                          `json:"created_at"`
	Expires    string                                                          `json:"expires_at"`
	Ended      string                                                          `json:"ended_at"`
	Canceled   string                                                          `json:"cancel_initiated_at"`
	Counts     struct{ Processing, Succeeded, Errored, Canceled, Expired int } `json:"request_counts"`
}

// of returns the body of a batch whose requests have those prompts.
func (k *sdk) batchOf(prompts ...string) map[string]any {
	list := []any{}
	for i, prompt := range prompts {
		model, text := "claude-x", prompt
		if prompt == "unserved" {
			model = "nobody"
		}
		list = append(list, map[string]any{"custom_id": fmt.Sprint("line-", i), "params": k.asking(model, text)})
	}
	return map[string]any{"requests": list}
}

func messageBatch(ctx context.Context, t *trial) error {
	prompts := []string{t.tenant + " one", "unserved", t.tenant + " two \u2028 \"quoted\"\n", t.tenant + " [[fault:400]]"}
	for _, do := range []string{"batch", "batch_beta"} {
		var b messageBatchView
		if err := t.do(ctx, command{Do: do, Params: t.batchOf(prompts...)}, &b); err != nil {
			return err
		}
		t.expect(strings.HasPrefix(b.ID, "msgbatch_") && b.Type == "message_batch" && b.Counts.Processing == 4 && b.ResultsURL == "", "%s: made: %+v", do, b)
		err := rig.Until(ctx, time.Minute, "the batch ends", func(ctx context.Context) (bool, error) {
			err := t.do(ctx, command{Do: "batch_get", ID: b.ID}, &b)
			return b.Status == "ended", err
		})
		if err != nil {
			return err
		}
		t.expect(b.Counts.Succeeded == 2 && b.Counts.Errored == 2 && b.Counts.Processing == 0 && strings.HasPrefix(b.ResultsURL, t.base()) && b.Ended != "", "%s: at its end: %+v", do, b)
		var lines []struct {
			ID     string `json:"custom_id"`
			Result struct {
				Type    string
				Message message
				Error   struct{ Error struct{ Type string } }
			}
		}
		if err := t.do(ctx, command{Do: "batch_results", ID: b.ID}, &lines); err != nil {
			return err
		}
		got := map[string]string{}
		for _, l := range lines {
			got[l.ID] = l.Result.Type + l.Result.Error.Error.Type
			t.expect(l.Result.Type != "succeeded" || l.Result.Message.text() != "", "a line: %+v", l)
		}
		want := map[string]string{"line-0": "succeeded", "line-1": "errorednot_found_error", "line-2": "succeeded", "line-3": "erroredinvalid_request_error"}
		for id, w := range want {
			t.expect(got[id] == w, "%s: line %s is %s, want %s", do, id, got[id], w)
		}
	}
	t.called(2, prompts[0])
	return nil
}

func messageBatches(ctx context.Context, t *trial) error {
	var ids []string
	for i := range 3 {
		var b messageBatchView
		if err := t.do(ctx, command{Do: "batch", Params: t.batchOf(fmt.Sprintf("%s %d [[latency:30s]]", t.tenant, i))}, &b); err != nil {
			return err
		}
		ids = append(ids, b.ID)
	}
	made := slices.Sorted(slices.Values(ids))
	if err := t.do(ctx, command{Do: "batch_list", Limit: 20}, &ids); err != nil { // two APIs have two clocks
		return err
	}
	t.expect(slices.Equal(slices.Sorted(slices.Values(ids)), made), "the batches are %q, want %q", ids, made)
	for name, c := range map[string]struct {
		command
		want []string
	}{
		"all, one by one":     {command{Limit: 1}, ids},
		"after, one by one":   {command{Limit: 1, After: ids[0]}, ids[1:]},
		"before, two by two":  {command{Limit: 2, Before: ids[2]}, ids[:2]},
		"an exact page":       {command{Limit: 3}, ids},
		"before the newest":   {command{Limit: 2, Before: ids[0]}, nil},
		"after the oldest":    {command{Limit: 2, After: ids[2]}, nil},
		"before, one by one":  {command{Limit: 1, Before: ids[2]}, []string{ids[1], ids[0]}},
		"of another's tenant": {command{Limit: 1, Key: t.stranger()}, nil},
	} {
		c.Do = "batch_list"
		var got []string
		if err := t.do(ctx, c.command, &got); err != nil {
			return err
		}
		t.expect(slices.Equal(got, c.want), "%s: %q, want %q", name, got, c.want)
	}
	t.fails(ctx, 404, "not_found_error", command{Do: "batch_get", ID: ids[0], Key: t.stranger()})
	t.fails(ctx, 400, "invalid_request_error", command{Do: "batch_delete", ID: ids[0]})
	if err := t.do(ctx, command{Do: "batch_results", ID: ids[0]}, nil); err == nil {
		t.expect(false, "there are results before the end")
	}
	for _, id := range ids {
		var b messageBatchView
		if err := t.do(ctx, command{Do: "batch_cancel", ID: id}, &b); err != nil {
			return err
		}
		t.expect(b.Status == "canceling" && b.Canceled != "", "canceled: %+v", b)
		if err := rig.Until(ctx, time.Minute, "the batch ends", func(ctx context.Context) (bool, error) {
			err := t.do(ctx, command{Do: "batch_get", ID: id}, &b)
			return b.Status == "ended", err
		}); err != nil {
			return err
		}
		t.expect(b.Counts.Canceled == 1, "ended: %+v", b)
		var gone struct{ ID, Type string }
		if err := t.do(ctx, command{Do: "batch_delete", ID: id}, &gone); err != nil {
			return err
		}
		t.expect(gone.ID == id && gone.Type == "message_batch_deleted", "deleted: %+v", gone)
	}
	var none []string
	if err := t.do(ctx, command{Do: "batch_list", Limit: 1}, &none); err != nil {
		return err
	}
	t.expect(len(none) == 0, "there are still %q", none)
	return nil
}

// stranger is another tenant's token.
func (t *trial) stranger() string {
	token, err := rig.TokenOf("stranger")
	t.expect(err == nil, "%v", err)
	return token
}

// messageKeys sends the same with a key of the caller's.
func messageKeys(ctx context.Context, t *trial) error {
	prompt := t.tenant + " with a key"
	var first, again message
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
	c.Params = t.asking("claude-x", prompt+" other")
	t.fails(ctx, 422, "invalid_request_error", c)
	return nil
}
