package main_test

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sluicehq/sluice/tasks"
)

const messageBatches = "/anthropic/v1/messages/batches"

// asked is one request of a batch in Anthropic's form.
func asked(id, model, text string) string {
	return fmt.Sprintf(`{"custom_id":%q,"params":{"model":%q,"max_tokens":20,"messages":[{"role":"user","content":%q}]}}`, id, model, text)
}

func batchOf(requests ...string) string { return `{"requests":[` + strings.Join(requests, ",") + `]}` }

// refused fails the test unless the answer is Anthropic's error, which no repeat cures.
func (r reply) refused(t *testing.T, status int, kind string) {
	t.Helper()
	if r.status != status || r.str("type") != "error" || r.str("error.type") != kind || r.str("error.message") == "" ||
		r.header.Get("X-Should-Retry") != "false" || r.header.Get("Request-Id") == "" || r.str("request_id") != r.header.Get("Request-Id") {
		t.Errorf("%d %q: %s; want %d and %s", r.status, r.header, r.body, status, kind)
	}
}

// ended waits for a batch's end.
func (c caller) ended(id string) (r reply) {
	c.t.Helper()
	eventually(c.t, "the batch ends", func() bool {
		r = c.do("GET", messageBatches+"/"+id, "").want(c.t, 200)
		return r.str("processing_status") == "ended"
	})
	return r
}

// Message Batches, as one who speaks HTTP sees them.
func TestMessageBatches(t *testing.T) {
	t.Parallel()
	s := newSystem(t, nil)
	t.Run("to the end", func(t *testing.T) { messageBatchToTheEnd(t, s) })
	t.Run("cancel", func(t *testing.T) { messageBatchCanceled(t, s) })
	t.Run("repeats", func(t *testing.T) { messageBatchRepeats(t, s) })
	t.Run("pages", func(t *testing.T) { messageBatchPages(t, s) })
	t.Run("faults", func(t *testing.T) { messageBatchFaults(t, s) })
	t.Run("models", func(t *testing.T) { anthropicModels(t, s) })
	t.Run("count_tokens", func(t *testing.T) { anthropicCounts(t, s) })
}

func messageBatchToTheEnd(t *testing.T, s *system) {
	c := s.as(t, "whole")
	if r := c.do("GET", messageBatches, "").want(t, 200); string(r.body) != `{"data":[],"has_more":false,"first_id":null,"last_id":null}`+"\n" {
		t.Errorf("the list of none is %s", r.body)
	}
	faulty := map[string]string{ // custom_id to what its line says
		"unserved": "not_found_error", "other": "not_found_error", "stream": "invalid_request_error", "none": "invalid_request_error",
		"list": "invalid_request_error", "speed": "invalid_request_error", "zero": "invalid_request_error", "theirs": "invalid_request_error",
	}
	made := c.do("POST", messageBatches+"?beta=true", batchOf(
		asked("good", "claude-x", "batch-canary"),
		asked("unserved", "nobody", "x"), asked("other", "gpt-4o", "x"),
		`{"custom_id":"stream","params":{"model":"claude-x","stream":true}}`,
		`{"custom_id":"none","params":{}}`, `{"custom_id":"list","params":[]}`,
		`{"custom_id":"speed","params":{"model":"claude-x","speed":"fast"}}`,
		`{"custom_id":"zero","params":{"model":"claude-x","max_tokens":0}}`,
		`{"custom_id":"theirs","params":{"model":"claude-x","max_tokens":5,"messages":"none"}}`,
	), "anthropic-version", "2023-06-01", "anthropic-beta", "message-batches-2024-09-24").want(t, 200)
	id := made.str("id")
	created, err := time.Parse(time.RFC3339, made.str("created_at"))
	expires, err2 := time.Parse(time.RFC3339, made.str("expires_at"))
	if err != nil || err2 != nil || expires.Sub(created) != 24*time.Hour || made.num("request_counts.processing") != 9 || made.get("results_url") != nil || made.str("type") != "message_batch" {
		t.Errorf("made: %s", made.body)
	}
	r := c.ended(id)
	if r.str("results_url") != s.url+messageBatches+"/"+id+"/results" || r.str("ended_at") == "" || r.num("request_counts.succeeded") != 1 || r.num("request_counts.errored") != 8 || r.num("request_counts.processing") != 0 {
		t.Errorf("at its end: %s", r.body)
	}
	var counts tasks.Counts
	if err := json.Unmarshal([]byte(r.header.Get("sluice-batch-counts")), &counts); err != nil || counts != (tasks.Counts{Total: 9, Succeeded: 1, Failed: 8}) {
		t.Errorf("sluice-batch-counts is %q, %v", r.header.Get("sluice-batch-counts"), err)
	}
	results := c.do("GET", messageBatches+"/"+id+"/results", "", "Accept", "application/binary").want(t, 200)
	if got := results.header.Get("Content-Type"); got != "application/x-jsonl" {
		t.Errorf("the results are %q", got)
	}
	for line := range strings.Lines(string(results.body)) {
		r := reply{body: []byte(line)}
		want := faulty[r.str("custom_id")]
		delete(faulty, r.str("custom_id"))
		switch {
		case want == "" && (r.str("result.type") != "succeeded" || r.str("result.message.type") != "message"),
			want != "" && (r.str("result.type") != "errored" || r.str("result.error.type") != "error" || r.str("result.error.error.type") != want):
			t.Errorf("a line is %s; want %q", line, want)
		}
	}
	if len(faulty) > 0 {
		t.Errorf("no line for %v", faulty)
	}
	calls := s.provider.calls("batch-canary")
	if len(calls) != 1 || calls[0].header.Get("anthropic-version") != "2023-06-01" || calls[0].header.Get("anthropic-beta") != "message-batches-2024-09-24" {
		t.Errorf("the provider was sent %+v", calls)
	}
	// The same batch and jobs in our own form.
	own := "batch_" + strings.TrimPrefix(id, "msgbatch_")
	if r := c.do("GET", "/v1/batches/"+own, "").want(t, 200); r.num("counts.failed") != 8 {
		t.Errorf("under /v1: %s", r.body)
	}
	jobs := c.do("GET", "/v1/jobs?status=succeeded&batch="+own, "").want(t, 200)
	var page struct {
		Data []struct{ ID, Deadline string }
	}
	if err := json.Unmarshal(jobs.body, &page); err != nil || len(page.Data) != 1 || page.Data[0].Deadline != made.str("expires_at") {
		t.Errorf("its jobs under /v1, %v: %s", err, jobs.body)
	}
	other := s.as(t, "stranger")
	for method, path := range map[string]string{"GET": "", "DELETE": "", "POST": "/cancel"} {
		other.do(method, messageBatches+"/"+id+path, "").refused(t, 404, "not_found_error")
	}
	other.do("GET", messageBatches+"/"+id+"/results", "").refused(t, 404, "not_found_error")
	if r := c.do("DELETE", messageBatches+"/"+id, "").want(t, 200); string(r.body) != `{"id":"`+id+`","type":"message_batch_deleted"}`+"\n" {
		t.Errorf("deleted: %s", r.body)
	}
	c.do("GET", messageBatches+"/"+id, "").refused(t, 404, "not_found_error")
	c.do("GET", "/v1/jobs/"+page.Data[0].ID, "").want(t, 404)
}

func messageBatchCanceled(t *testing.T, s *system) {
	c := s.as(t, "cancels")
	id := c.do("POST", messageBatches, batchOf(asked("a", "claude-x", "[[latency:30s]]"), asked("b", "nobody", "x"))).want(t, 200).str("id")
	c.do("GET", messageBatches+"/"+id+"/results", "").refused(t, 400, "invalid_request_error")
	c.do("DELETE", messageBatches+"/"+id, "").refused(t, 400, "invalid_request_error")
	eventually(t, "the faulty line has failed", func() bool {
		r := c.do("GET", messageBatches+"/"+id, "")
		if r.num("request_counts.processing") != 2 { // it counts as processing until the end
			t.Fatalf("before its end: %s", r.body)
		}
		return strings.Contains(r.header.Get("sluice-batch-counts"), `"failed":1`)
	})
	if r := c.do("POST", messageBatches+"/"+id+"/cancel", "").want(t, 200); r.str("processing_status") != "canceling" || r.str("cancel_initiated_at") == "" || r.get("ended_at") != nil || r.get("results_url") != nil {
		t.Errorf("canceled: %s", r.body)
	}
	r := c.ended(id)
	if r.num("request_counts.canceled") != 1 || r.num("request_counts.errored") != 1 || r.str("cancel_initiated_at") == "" {
		t.Errorf("at its end: %s", r.body)
	}
	if again := c.do("POST", messageBatches+"/"+id+"/cancel", "").want(t, 200); !slices.Equal(again.body, r.body) {
		t.Errorf("canceled again: %s; want %s", again.body, r.body)
	}
	if r := c.do("GET", messageBatches+"/"+id+"/results", ""); !strings.Contains(string(r.body), `{"custom_id":"a","result":{"type":"canceled"}}`) {
		t.Errorf("its results: %s", r.body)
	}
	// A deadline of its own makes lines expire sooner.
	for in := time.Second; ; in *= 4 { // on a busy machine it may be over before the batch is there, or its quick line
		at := time.Now().Add(in).UTC().Format(time.RFC3339Nano)
		made := c.do("POST", messageBatches, batchOf(asked("a", "claude-x", "[[fault:hang]]"), asked("b", "claude-x", "x")), "sluice-deadline", at)
		if made.status != 200 && in < patience {
			continue
		}
		id = made.want(t, 200).str("id")
		r := c.ended(id)
		if r.num("request_counts.expired") == 2 && in < patience {
			continue
		}
		if r.num("request_counts.expired") != 1 || r.num("request_counts.succeeded") != 1 {
			t.Errorf("after its deadline: %s", r.body)
		}
		break
	}
	if r := c.do("GET", messageBatches+"/"+id+"/results", ""); !strings.Contains(string(r.body), `{"custom_id":"a","result":{"type":"expired"}}`) {
		t.Errorf("its results: %s", r.body)
	}
	c.do("POST", messageBatches+"/"+id+"/cancel", "").refused(t, 400, "invalid_request_error")
}

func messageBatchRepeats(t *testing.T, s *system) {
	c := s.as(t, "repeats")
	create := func(body string, headers ...string) string {
		t.Helper()
		return c.do("POST", messageBatches, body, headers...).want(t, 200).str("id")
	}
	body := batchOf(asked("a", "claude-x", "repeated"))
	first := create(body, "X-Stainless-Retry-Count", "0")
	if again := create(body, "X-Stainless-Retry-Count", "1"); again != first {
		t.Errorf("the repeat is %s; want %s", again, first)
	}
	if on := create(body, "X-Stainless-Retry-Count", "0"); on == first {
		t.Error("the same on purpose is the first one")
	}
	if off := create(body, "X-Stainless-Retry-Count", "1", "sluice-dedup", "off"); off == first {
		t.Error("with sluice-dedup: off it is the first one")
	}
	if other := create(batchOf(asked("b", "claude-x", "repeated")), "X-Stainless-Retry-Count", "1"); other == first {
		t.Error("another body is the first one's")
	}
	keyed := create(body, "Idempotency-Key", "k")
	if again := create(body, "Idempotency-Key", "k"); again != keyed {
		t.Errorf("the key's repeat is %s; want %s", again, keyed)
	}
	c.do("POST", messageBatches, batchOf(asked("c", "claude-x", "x")), "Idempotency-Key", "k").refused(t, 422, "invalid_request_error")
	if n := strings.Count(string(c.do("GET", messageBatches, "").body), `"type":"message_batch"`); n != 5 {
		t.Errorf("there are %d batches, want 5", n)
	}
}

func messageBatchPages(t *testing.T, s *system) {
	c := s.as(t, "pages")
	var ids []string // newest first
	for i := range 5 {
		id := c.do("POST", messageBatches, batchOf(asked("a", "nobody", fmt.Sprint(i)))).want(t, 200).str("id")
		ids = append([]string{id}, ids...)
	}
	for query, want := range map[string]struct {
		ids  []string
		more bool
	}{
		"":                                {ids, false},
		"?limit=5":                        {ids, false},
		"?limit=2":                        {ids[:2], true},
		"?limit=2&after_id=" + ids[1]:     {ids[2:4], true},
		"?limit=2&after_id=" + ids[2]:     {ids[3:], false},
		"?limit=2&after_id=" + ids[4]:     {nil, false},
		"?limit=2&before_id=" + ids[4]:    {ids[2:4], true},
		"?limit=2&before_id=" + ids[2]:    {ids[:2], false},
		"?limit=2&before_id=" + ids[0]:    {nil, false},
		"?limit=1000&before_id=" + ids[4]: {ids[:4], false},
	} {
		r := c.do("GET", messageBatches+query, "").want(t, 200)
		var page struct {
			Data    []struct{ ID string }
			HasMore bool   `json:"has_more"`
			First   string `json:"first_id"`
			Last    string `json:"last_id"`
		}
		if err := json.Unmarshal(r.body, &page); err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, b := range page.Data {
			got = append(got, b.ID)
		}
		first, last := "", ""
		if len(want.ids) > 0 {
			first, last = want.ids[0], want.ids[len(want.ids)-1]
		}
		if !slices.Equal(got, want.ids) || page.HasMore != want.more || page.First != first || page.Last != last {
			t.Errorf("%s: got %s", query, r.body)
		}
	}
	for _, query := range []string{"?limit=0", "?limit=1001", "?limit=x", "?after_id=x", "?before_id=batch_x", "?after_id=" + ids[0] + "&before_id=" + ids[1], "?after=x"} {
		c.do("GET", messageBatches+query, "").refused(t, 400, "invalid_request_error")
	}
}

func messageBatchFaults(t *testing.T, s *system) {
	c := s.as(t, "faults")
	for body, status := range map[string]int{
		`{}`: 400, `[]`: 400, `{"requests":[]}`: 400, `{"requests":{}}`: 400, `{"requests":[1]}`: 400, `{"requests":[{}]}`: 400, `{"requests":[`: 400,
		batchOf(`{"custom_id":"a"}`):                                           400,
		batchOf(`{"custom_id":"a b","params":{}}`):                             400,
		batchOf(`{"custom_id":"` + strings.Repeat("a", 65) + `","params":{}}`): 400,
		batchOf(`{"params":{}}`):                                               400,
		batchOf(asked("a", "claude-x", "x"), asked("a", "claude-x", "y")):      400,
		batchOf(slices.Repeat([]string{"0"}, 3)...):                            400,
	} {
		c.do("POST", messageBatches, body).refused(t, status, "invalid_request_error")
	}
	if r := c.do("GET", messageBatches, ""); r.get("has_more") != false || r.get("first_id") != nil {
		t.Errorf("there are %s", r.body)
	}
	s.as(t, "reader", "jobs:read").do("POST", messageBatches, batchOf(asked("a", "claude-x", "x"))).refused(t, 403, "permission_error")
}

// The models are the provider's own, as far as a pool of this form serves them.
func anthropicModels(t *testing.T, s *system) {
	c := s.as(t, "models", "jobs:read")
	r := c.do("GET", "/anthropic/v1/models", "").want(t, 200)
	if r.get("has_more") != false || r.str("first_id") != "claude-sonnet-4-5" || r.str("last_id") != "claude-sonnet-4-5" || !strings.Contains(string(r.body), `"created_at":"2025-01-01T00:00:00Z"`) {
		t.Errorf("the models: %s", r.body)
	}
	for _, query := range []string{"?after_id=claude-sonnet-4-5", "?before_id=claude-sonnet-4-5", "?after_id=gone"} {
		if r := c.do("GET", "/anthropic/v1/models"+query, "").want(t, 200); string(r.body) != `{"data":[],"has_more":false,"first_id":null,"last_id":null}`+"\n" {
			t.Errorf("%s: %s", query, r.body)
		}
	}
	if r := c.do("GET", "/anthropic/v1/models/claude-sonnet-4-5", "").want(t, 200); r.str("type") != "model" || r.str("id") != "claude-sonnet-4-5" {
		t.Errorf("one model: %s", r.body)
	}
	for _, id := range []string{"claude-none", "gpt-4o", "nobody"} {
		c.do("GET", "/anthropic/v1/models/"+id, "").refused(t, 404, "not_found_error")
	}
	c.do("GET", "/anthropic/v1/models?limit=0", "").refused(t, 400, "invalid_request_error")
}

// A count of tokens is the provider's answer, its refusal too.
func anthropicCounts(t *testing.T, s *system) {
	c := s.as(t, "counts")
	const path = "/anthropic/v1/messages/count_tokens"
	body := `{"model":"claude-x","messages":[{"role":"user","content":"count-canary one two three"}]}`
	if r := c.do("POST", path+"?beta=true", body, "anthropic-version", "2026-10-21", "anthropic-beta", "b").want(t, 200); r.num("input_tokens") < 1 || r.header.Get("Request-Id") == "" {
		t.Errorf("counted: %s", r.body)
	}
	calls := s.provider.calls("count-canary")
	if len(calls) != 1 || calls[0].path != "/v1/messages/count_tokens" || string(calls[0].body) != body || calls[0].header.Get("anthropic-version") != "2026-10-21" || calls[0].header.Get("anthropic-beta") != "b" {
		t.Errorf("the provider was sent %+v", calls)
	}
	if r := c.do("POST", path, `{"model":"claude-x","messages":"none"}`); r.status != 400 || r.str("error.type") != "invalid_request_error" || r.header.Get("X-Should-Retry") != "false" {
		t.Errorf("refused: %d %s", r.status, r.body)
	}
	c.do("POST", path, `{"messages":[]}`).refused(t, 400, "invalid_request_error")
	c.do("POST", path, `{"model":"gpt-4o"}`).refused(t, 404, "not_found_error")
	if r := c.do("GET", "/v1/jobs", "").want(t, 200); strings.Contains(string(r.body), "job_") {
		t.Errorf("a count is a job: %s", r.body)
	}
}
