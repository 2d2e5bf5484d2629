package main

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

// hollow answers every prompt but those with HOLLOW in them; these get status
// 200 and body in place of an answer.
func hollow(t *testing.T, body string) string {
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked, _ := io.ReadAll(r.Body)
		w.Header().Set("Content-Type", "application/json")
		if strings.Contains(string(asked), "HOLLOW") {
			_, _ = io.WriteString(w, body)
			return
		}
		_, _ = io.WriteString(w, `{"choices":[{"index":0,"message":{"role":"assistant","content":"hello"},"finish_reason":"stop"}],"usage":{"prompt_tokens":7,"completion_tokens":3}}`)
	}))
	t.Cleanup(s.Close)
	return s.URL
}

// Not "completed, but empty": a 200 that is no answer fails its job with the
// provider's words, is counted as failed in its batch, and holds nobody else up.
func TestAHollow200IsAFailedJobWithTheProvidersWords(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name, body     string
		code, outcomes string
		attempts       int
		says           string
	}{
		{"a gateway's envelope", `{"code":40101,"msg":"invalid api key sk-abcd1234","data":null}`,
			"attempts_exhausted", "server_error server_error", 2, "40101: invalid api key [key]"},
		{"a choice's error", `{"choices":[{"index":0,"message":{"role":"assistant","content":""},"finish_reason":"error","error":{"code":502,"message":"Upstream error"}}],"usage":{"prompt_tokens":7,"completion_tokens":0}}`,
			"attempts_exhausted", "server_error server_error", 2, "502: Upstream error"},
		{"no choices", `{"choices":[],"usage":{"prompt_tokens":7,"completion_tokens":0}}`,
			"attempts_exhausted", "server_error server_error", 2, "the provider answered 200 with something that is no chat completion: its choices are empty"},
		{"a refusal of the request", `{"object":"error","message":"This model's maximum context length is 4096 tokens.","type":"BadRequestError","code":400}`,
			"upstream_rejected", "rejected", 1, "BadRequestError (400): This model's maximum context length is 4096 tokens."},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			r := outage(t, fmt.Sprintf(`
providers:
  gateway: {dialect: openai, base_url: %q, api_key: the-secret-key}
pools:
  gpt:
    provider: gateway
    models: ["gpt-*"]
    limits: {requests_per_minute: 6000, request_burst: 50, concurrency: 32}
    max_attempts: 2
`, hollow(t, c.body)))
			var batch struct {
				ID, Status string
				Counts     struct{ Total, Succeeded, Failed int }
			}
			r.call("POST", "/v1/batches", `{"jobs":[{"model":"gpt-x","prompt":"one"},{"model":"gpt-x","prompt":"HOLLOW"},{"model":"gpt-x","prompt":"three"}]}`, &batch)
			r.until("the batch ends", func() bool {
				r.call("GET", "/v1/batches/"+batch.ID, "", &batch)
				return batch.Status == "ended"
			})
			if batch.Counts.Total != 3 || batch.Counts.Succeeded != 2 || batch.Counts.Failed != 1 {
				t.Errorf("batch %+v", batch)
			}
			var list struct {
				Data []struct {
					jobView
					Result any
					Error  struct {
						Code, Message  string
						UpstreamStatus int  `json:"upstream_status"`
						MaybeBilled    bool `json:"maybe_billed"`
					}
				}
			}
			r.call("GET", "/v1/jobs?status=failed&batch="+batch.ID, "", &list)
			if len(list.Data) != 1 {
				t.Fatalf("failed jobs %+v", list)
			}
			var one = list.Data[0]
			r.call("GET", "/v1/jobs/"+one.ID, "", &one)
			if e := one.Error; e.Code != c.code || e.Message != c.says || e.UpstreamStatus != 200 || !e.MaybeBilled {
				t.Errorf("error %+v, want %s with %q", e, c.code, c.says)
			}
			if one.Attempts != c.attempts || one.outcomes() != c.outcomes || one.Text != "" || one.Result != nil {
				t.Errorf("job %+v, want %d attempts, %s", one, c.attempts, c.outcomes)
			}
		})
	}
}

func TestAHollow200GoesToTheFallback(t *testing.T) {
	t.Parallel()
	empty := "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n" +
		"data: {\"type\":\"message_start\",\"message\":{\"type\":\"message\",\"content\":[],\"stop_reason\":null}}\n\ndata: {\"type\":\"message_stop\"}\n\n"
	down, up := newWire(t, []byte(empty)), newWire(t, recorded(t, "openai/text"))
	r := outage(t, both(down.URL, up.URL, "fallback_models: [gpt-5]"))
	if j := r.final(r.submit()); j.Status != "succeeded" || j.Pool != "gpt" || j.Text != "Hello there" || j.outcomes() != "server_error server_error succeeded" {
		t.Errorf("job %+v", j)
	}
}
