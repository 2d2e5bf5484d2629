package main

import (
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// stubborn is a compatible server that takes a prompt and max_tokens and refuses
// everything else, and the certificate that vouches for it.
func stubborn(t *testing.T) (url, ca string) {
	s := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked, _ := io.ReadAll(r.Body)
		var members map[string]json.RawMessage
		_ = json.Unmarshal(asked, &members)
		w.Header().Set("Content-Type", "application/json")
		for _, known := range []string{"model", "messages", "max_tokens"} {
			delete(members, known)
		}
		if len(members) > 0 {
			w.WriteHeader(http.StatusBadRequest)
			_, _ = io.WriteString(w, `{"error":{"type":"invalid_request_error","message":"Unsupported parameter"}}`)
			return
		}
		_, _ = io.WriteString(w, `{"choices":[{"index":0,"message":{"role":"assistant","content":"hello"},"finish_reason":"stop"}],"usage":{"prompt_tokens":7,"completion_tokens":3}}`)
	}))
	t.Cleanup(s.Close)
	ca = filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(ca, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw}), 0o600); err != nil {
		t.Fatal(err)
	}
	return s.URL, ca
}

// A server that knows no stream could not be used at all.
func TestAServerWithoutStreamsGivesResultsEventsAndEstimates(t *testing.T) {
	t.Parallel()
	url, ca := stubborn(t)
	r := outage(t, fmt.Sprintf(`
providers:
  local: {dialect: openai, base_url: %q, api_key: k, stream: false, stream_options: false, token_limit: max_tokens, ca_file: %q}
pools:
  gpt:
    provider: local
    models: ["gpt-*"]
    limits: {requests_per_minute: 6000, input_tokens_per_minute: 100000, request_burst: 50, concurrency: 32}
`, url, ca))
	for _, body := range []string{
		`{"model":"gpt-x","prompt":"hi"}`,
		`{"model":"gpt-x","messages":[{"role":"user","content":"hi"}],"max_tokens":5}`,
		`{"max_tokens":5,"request":{"model":"gpt-x","messages":[{"role":"user","content":"hi"}]}}`,
		`{"request":{"model":"gpt-x","stream":true,"stream_options":{"include_usage":true},"messages":[{"role":"user","content":"hi"}]}}`,
	} {
		var made struct{ ID string }
		r.call("POST", "/v1/jobs", body, &made)
		events := r.stream("/v1/jobs/" + made.ID + "/events")
		for _, want := range []string{"event: status", `"text":"hello"`, "event: done", `"status":"succeeded"`} {
			if !strings.Contains(events, want) {
				t.Errorf("%s: the events lack %s:\n%s", body, want, events)
			}
		}
		var job struct {
			Status, Text string
			Usage        struct {
				InputTokens  int64 `json:"input_tokens"`
				OutputTokens int64 `json:"output_tokens"`
			}
			Error struct{ Message string }
		}
		r.call("GET", "/v1/jobs/"+made.ID, "", &job)
		if job.Status != "succeeded" || job.Text != "hello" || job.Usage.InputTokens != 7 || job.Usage.OutputTokens != 3 {
			t.Errorf("%s: %+v", body, job)
		}
	}
	// What the calls used is known to the pace: the pool's use is that of the usage.
	r.until("the gate knows what was used", func() bool {
		var pools struct {
			Pools []struct {
				Allowance map[string]struct{ Used float64 }
			}
		}
		r.call("GET", "/v1/status", "", &pools)
		used := pools.Pools[0].Allowance["input_tokens"].Used
		return used > 0 && used < 0.001
	})
}
