package main_test

import (
	"testing"
)

// TestOpenAI asks as OpenAI's SDKs do, beside chat completions.
func TestOpenAI(t *testing.T) {
	t.Parallel()
	s := newSystem(t, nil)
	t.Run("embeddings", func(t *testing.T) { testEmbeddings(t, s) })
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
