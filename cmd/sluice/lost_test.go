package main

import (
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/sluicehq/sluice/tasks/redistest"
)

// What a caller is told of an act whose answer never comes is what the record says
// of it: that it may have been done, never that nothing was.
func TestACallerIsToldWhenTheOutcomeIsNotKnown(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t, redistest.Options{})
	proxy := redistest.Before(t, server)
	cfg := configured(t, proxy.URL(), claude("http://127.0.0.1:1")+"tenants:\n  acme: {submits_per_minute: 0, queued_jobs: 0, tokens_per_day: 0}\n")
	r := fronted(t, cfg)

	type answer struct {
		ID, Code, URL, Priority string
		Status                  any // a problem's is a number
		Data                    []struct{ Action string }
	}
	ask := func(method, path, body string) (status int, a answer) {
		res := r.call(method, path, body, &a)
		return res.StatusCode, a
	}
	made := func(path, body string) string {
		t.Helper()
		status, a := ask("POST", path, body)
		if status >= 300 {
			t.Fatalf("%s: %d %s", path, status, a.Code)
		}
		return a.ID
	}
	hook := `{"url":"https://example.com/hook","events":["job.canceled"]}`
	job := func() string { return made("/v1/jobs", hello) }
	ended := func() string { id := job(); made("/v1/jobs/"+id+"/cancel", ""); return id }
	lines := `{"jobs":[` + hello + `,` + hello + `]}`
	canceled, retried, deleted, edited := job(), ended(), ended(), job()
	batch, changed, rotated, gone := made("/v1/batches", lines), made("/v1/webhook-endpoints", hook), made("/v1/webhook-endpoints", hook), made("/v1/webhook-endpoints", hook)

	acts := []struct {
		method, path, body, id string
		look                   string // %s is the id
		want                   func(status int, a answer) bool
	}{
		{"POST", "/v1/jobs", hello, "", "/v1/jobs/%s", func(_ int, a answer) bool { return a.Status == "queued" }},
		{"POST", "/v1/jobs/" + canceled + "/cancel", "", canceled, "/v1/jobs/%s", func(_ int, a answer) bool { return a.Status == "canceled" }},
		{"POST", "/v1/jobs/" + retried + "/retry", "", retried, "/v1/jobs/%s", func(_ int, a answer) bool { return a.Status == "queued" }},
		{"PATCH", "/v1/jobs/" + edited, `{"priority":"low"}`, edited, "/v1/jobs/%s", func(_ int, a answer) bool { return a.Priority == "low" }},
		{"DELETE", "/v1/jobs/" + deleted, "", deleted, "/v1/jobs/%s", func(status int, _ answer) bool { return status == 404 }},
		{"POST", "/v1/batches/" + batch + "/cancel", "", batch, "/v1/batches/%s", func(_ int, a answer) bool { return a.Status == "ended" }},
		{"POST", "/v1/webhook-endpoints", hook, "", "/v1/webhook-endpoints/%s", func(_ int, a answer) bool { return a.URL == "https://example.com/hook" }},
		{"PATCH", "/v1/webhook-endpoints/" + changed, `{"url":"https://example.com/other"}`, changed, "/v1/webhook-endpoints/%s", func(_ int, a answer) bool { return a.URL == "https://example.com/other" }},
		{"POST", "/v1/webhook-endpoints/" + rotated + "/rotate-secret", "", rotated, "/v1/webhook-endpoints/%s", func(status int, _ answer) bool { return status == 200 }},
		{"DELETE", "/v1/webhook-endpoints/" + gone, "", gone, "/v1/webhook-endpoints/%s", func(status int, _ answer) bool { return status == 404 }},
		{"POST", "/v1/pools/claude/pause", `{"reason":"x"}`, "claude", "/v1/pools/%s/audit", func(status int, a answer) bool { return status == 200 && len(a.Data) == 0 }}, // whether its line is in the audit is not known: it was not done
	}
	proxy.Lose(func(command, reply string) bool {
		return strings.Contains(command, "\r\neval") && !strings.HasPrefix(reply, "-")
	})
	ids := make([]string, len(acts))
	var asked sync.WaitGroup
	asked.Go(func() { // nothing of a batch exists before its commit, and that was never asked for
		if status, a := ask("POST", "/v1/batches", lines); status != 503 || a.Code != "unavailable" {
			t.Errorf("POST /v1/batches: %d %s; want 503 unavailable", status, a.Code)
		}
	})
	for i, c := range acts {
		asked.Go(func() {
			status, a := ask(c.method, c.path, c.body)
			if status != 503 || a.Code != "outcome_unknown" || a.ID == "" || c.id != "" && a.ID != c.id {
				t.Errorf("%s %s: %d %s of %q; want 503 outcome_unknown of %q", c.method, c.path, status, a.Code, a.ID, c.id)
			}
			ids[i] = a.ID
		})
	}
	asked.Wait()
	proxy.Lose(nil)
	for i, c := range acts {
		if status, a := ask("GET", fmt.Sprintf(c.look, ids[i]), ""); !c.want(status, a) {
			t.Errorf("%s %s was told as unknown; then %d %+v", c.method, c.path, status, a)
		}
	}

	// Sent again with the id that was told, the submit is the first one.
	if status, a := ask("POST", "/v1/jobs", strings.Replace(hello, "{", `{"id":"`+ids[0]+`",`, 1)); status != 202 || a.ID != ids[0] {
		t.Errorf("the submit with its id: %d %s %s, want 202 %s", status, a.Code, a.ID, ids[0])
	}
}
