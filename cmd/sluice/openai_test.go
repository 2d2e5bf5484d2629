package main_test

import (
	"bytes"
	"regexp"
	"strings"
	"testing"
)

// TestOpenAI asks as OpenAI's SDKs do, beside chat completions.
func TestOpenAI(t *testing.T) {
	t.Parallel()
	s := newSystem(t, nil)
	t.Run("embeddings", func(t *testing.T) { testEmbeddings(t, s) })
	t.Run("responses", func(t *testing.T) { testResponses(t, s) })
}

func testEmbeddings(t *testing.T, s *system) {
	c := s.as(t, "embeddings")
	r := c.do("POST", "/openai/v1/embeddings", `{"model":"gpt-embed","input":["one","exact-embed"],"odd": 1e2}`).want(t, 200)
	if r.str("object") != "list" || r.num("usage.prompt_tokens") == 0 || r.header.Get("X-Request-Id") == "" {
		t.Errorf("embeddings: %s", r.body)
	}
	if list, _ := r.get("data").([]any); len(list) != 2 || len(at(list[1], "embedding").([]any)) == 0 {
		t.Errorf("embeddings: %s", r.body)
	}
	calls := s.provider.calls("exact-embed")
	if len(calls) != 1 || calls[0].path != "/v1/embeddings" || string(calls[0].body) != `{"model":"gpt-embed","input":["one","exact-embed"],"odd": 1e2}` {
		t.Errorf("upstream: %v", calls)
	}
	job := c.do("GET", "/v1/jobs/"+r.header.Get("Sluice-Job-Id"), "").want(t, 200)
	if job.str("status") != "succeeded" || job.str("finish") != "complete" || job.num("usage.output_tokens") != 0 || job.num("usage.input_tokens") == 0 {
		t.Errorf("its job: %s", job.body)
	}
	if r := c.do("POST", "/openai/v1/embeddings", `{"model":"gpt-embed"}`); r.status != 400 || r.str("error.type") != "invalid_request_error" {
		t.Errorf("no input: %s", r.body)
	}
	if r := c.do("POST", "/openai/v1/embeddings", `{"model":"claude-x","input":"a"}`); r.status != 404 || r.str("error.code") != "model_not_found" {
		t.Errorf("another provider's model: %s", r.body)
	}
}

func testResponses(t *testing.T, s *system) {
	c := s.as(t, "responses")
	ask := func(body string) reply {
		t.Helper()
		r := c.do("POST", "/openai/v1/responses", body)
		if r.status != 200 || r.str("object") != "response" || !regexp.MustCompile(`^resp_[0-9A-Z]{26}$`).MatchString(r.str("id")) {
			t.Fatalf("%s: %d %s", body, r.status, r.body)
		}
		if job := r.header.Get("Sluice-Job-Id"); strings.TrimPrefix(job, "job_") != strings.TrimPrefix(r.str("id"), "resp_") {
			t.Errorf("job %s of response %s", job, r.str("id"))
		}
		return r
	}
	get := func(id string) reply { return c.do("GET", "/openai/v1/responses/"+id, "") }
	ends := func(id, status string) (r reply) {
		t.Helper()
		eventually(t, "the response is "+status, func() bool { r = get(id); return r.str("status") == status })
		return r
	}

	// One whose caller waits is the provider's own, under our id.
	r := ask(`{"model":"gpt-r","input":"exact-first","max_output_tokens":500,"odd": 1e2}`)
	if r.str("status") != "completed" || r.get("output") == nil || r.num("usage.input_tokens") <= 0 {
		t.Errorf("response: %s", r.body)
	}
	calls := s.provider.calls("exact-first")
	if len(calls) != 1 || calls[0].path != "/v1/responses" || string(calls[0].body) != `{"model":"gpt-r","input":"exact-first","max_output_tokens":500,"odd": 1e2}` {
		t.Errorf("upstream: %v", calls)
	}
	if again := get(r.str("id")); again.status != 200 || !bytes.Equal(again.body, r.body) {
		t.Errorf("it is read again: %s", again.body)
	}
	// The next one goes on from it: the provider is told its own id, and refuses others.
	ask(`{"model":"gpt-r","previous_response_id":"` + r.str("id") + `","input":"exact-second"}`)
	if calls := s.provider.calls("exact-second"); len(calls) != 1 || !regexp.MustCompile(`"previous_response_id":"resp_[0-9a-f]{32}"`).Match(calls[0].body) {
		t.Errorf("upstream: %v", calls)
	}
	if r := c.do("POST", "/openai/v1/responses", `{"model":"gpt-r","previous_response_id":"resp_01JDXXXXXXXXXXXXXXXXXXXXXX","input":"x"}`); r.status != 400 {
		t.Errorf("an unknown response before it: %d %s", r.status, r.body)
	}

	// In the background it is answered at once, runs, and is found.
	b := ask(`{"model":"gpt-r","background":true,"input":"exact-third [[latency:300ms]]"}`)
	if b.str("status") != "queued" || b.get("background") != true {
		t.Errorf("in the background: %s", b.body)
	}
	if done := ends(b.str("id"), "completed"); done.str("id") != b.str("id") || done.get("output") == nil {
		t.Errorf("at the end: %s", done.body)
	}
	if calls := s.provider.calls("exact-third"); len(calls) != 1 || bytes.Contains(calls[0].body, []byte("background")) {
		t.Errorf("upstream: %v", calls)
	}
	// A repeat that says so finds the first one, and any other is one of its own.
	const repeated = `{"model":"gpt-r","background":true,"input":"exact-repeat"}`
	first := ask(repeated)
	again := c.do("POST", "/openai/v1/responses", repeated, "X-Stainless-Retry-Count", "1").want(t, 200)
	if other := ask(repeated); again.str("id") != first.str("id") || other.str("id") == first.str("id") {
		t.Errorf("first %s, repeated %s, another %s", first.str("id"), again.str("id"), other.str("id"))
	}

	// One that fails says why; one that is canceled stays so.
	f := ends(ask(`{"model":"gpt-r","background":true,"input":"[[fault:400]]"}`).str("id"), "failed")
	if f.str("error.code") != "invalid_prompt" || f.str("error.message") == "" {
		t.Errorf("failed: %s", f.body)
	}
	b = ask(`{"model":"gpt-r","background":true,"input":"[[latency:20s]]"}`)
	if r := c.do("DELETE", "/openai/v1/responses/"+b.str("id"), ""); r.status != 409 || r.header.Get("X-Should-Retry") != "false" {
		t.Errorf("deleted before its end: %d %s", r.status, r.body)
	}
	for range 2 {
		if r := c.do("POST", "/openai/v1/responses/"+b.str("id")+"/cancel", "").want(t, 200); r.str("status") != "cancelled" {
			t.Errorf("canceled: %s", r.body)
		}
	}
	if r := c.do("DELETE", "/openai/v1/responses/"+b.str("id"), "").want(t, 200); r.get("deleted") != true || r.str("id") != b.str("id") {
		t.Errorf("deleted: %s", r.body)
	}

	// What is gone, another tenant's, or no response is not found.
	job := c.do("POST", "/v1/jobs", prompt("gpt-r", "a job")).want(t, 202).str("id")
	for _, id := range []string{b.str("id"), "resp_x", "resp_" + strings.TrimPrefix(job, "job_")} {
		if r := get(id); r.status != 404 || r.str("error.type") != "invalid_request_error" {
			t.Errorf("%s: %d %s", id, r.status, r.body)
		}
	}
	other := s.as(t, "other")
	if r := other.do("GET", "/openai/v1/responses/"+first.str("id"), ""); r.status != 404 {
		t.Errorf("another tenant reads: %d %s", r.status, r.body)
	}
	if r := other.do("POST", "/openai/v1/responses/"+first.str("id")+"/cancel", ""); r.status != 404 {
		t.Errorf("another tenant cancels: %d %s", r.status, r.body)
	}
}
