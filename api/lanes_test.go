package api_test

import (
	"strings"
	"testing"

	"github.com/sluicehq/sluice/api"
)

// limited is a site in which acme may not use the lane high.
func limited(t *testing.T) *site {
	return serve(t, func(c *api.Config) {
		c.Calls, c.High = callers{c.Jobs.(*world)}, func(tenant string) bool { return tenant != "acme" }
	})
}

// Who may not use the lane high is told so at every door, and nothing is made.
func TestHighIsForThoseWhoMay(t *testing.T) {
	t.Parallel()
	s := limited(t)
	high := `{"model":"claude-x","prompt":"Say hello.","priority":"high"}`
	for _, row := range []struct{ method, path, body, header, want string }{
		{"POST", "/v1/jobs", high, "", "priority_not_allowed"},
		{"POST", "/v1/batches", hello + "\n" + high, "application/x-ndjson", "Line 2"},
		{"PATCH", "/v1/jobs/" + s.submit(), `{"priority":"high"}`, "", "priority_not_allowed"},
		{"POST", "/anthropic/v1/messages", `{"model":"claude-x","max_tokens":9,"messages":[]}`, "high", "permission_error"},
		{"POST", "/openai/v1/chat/completions", `{"model":"gpt-5","messages":[]}`, "high", "high_priority"},
		{"POST", "/openai/v1/responses", `{"model":"gpt-5","input":"x","background":true}`, "high", "high_priority"},
		{"POST", "/anthropic/v1/messages/batches", `{"requests":[{"custom_id":"a","params":{"model":"claude-x","max_tokens":9,"messages":[]}}]}`, "high", "permission_error"},
	} {
		var headers []string
		switch {
		case strings.HasPrefix(row.header, "application"):
			headers = []string{"Content-Type", row.header}
		case row.header != "":
			headers = []string{"sluice-priority", row.header}
		}
		if r := s.call(row.method, row.path, writer, row.body, headers...).want(t, 403); !strings.Contains(string(r.body), row.want) {
			t.Errorf("%s %s: %s, want %s in it", row.method, row.path, r.body, row.want)
		}
	}
	if n := s.world.made(); n != 1 {
		t.Errorf("%d jobs and batches were made, want the one of before", n)
	}
	s.call("POST", "/v1/jobs", other, high).want(t, 202)
}

// A call through a vendor's form that names no lane runs in the highest that its tenant may use.
func TestACallRunsHighWhereItMay(t *testing.T) {
	t.Parallel()
	for token, want := range map[string]string{writer: "normal", other: "high"} {
		s := limited(t)
		r := s.call("POST", "/openai/v1/responses", token, `{"model":"gpt-5","input":"x","background":true}`).want(t, 200)
		got := s.call("GET", "/v1/jobs/"+r.Header.Get("sluice-job-id"), token, nil).want(t, 200).str(t, "priority")
		if got != want {
			t.Errorf("it runs %s, want %s", got, want)
		}
	}
}
