package api_test

import (
	"strings"
	"testing"
)

// What is refused says what to do about it.
func TestARefusalSaysWhatToDo(t *testing.T) {
	t.Parallel()
	s := serve(t)
	id := s.call("POST", "/v1/jobs", writer, `{"model":"claude-x","prompt":"hi","not_before":"2030-01-01T00:00:00Z"}`).want(t, 202).str(t, "id")
	s.call("POST", "/v1/jobs", writer, hello, "Idempotency-Key", "k").want(t, 202)
	for _, c := range []struct {
		method, path, token, body string
		status                    int
		says                      string
	}{
		{"GET", "/v1/jobs", "", "", 401, "sluice token makes one"},
		{"POST", "/v1/jobs", writer, `{"model":"claude-x","promt":"hi"}`, 400, `did you mean "prompt"?`},
		{"POST", "/v1/jobs", writer, `{"model":"claude-x","message":[]}`, 400, `did you mean "messages"?`},
		{"POST", "/v1/jobs", writer, `{"model":"claude-x","prompt":"hi","temperature":0}`, 400, `put it into "request"`},
		{"GET", "/v1/jobs?status=done", reader, "", 400, "queued, scheduled, running, retrying, succeeded, failed, canceled, expired"},
		{"GET", "/v1/jobs?state=queued", reader, "", 400, "this route takes"},
		{"DELETE", "/v1/jobs/" + id, writer, "", 409, "cancel it first"},
		{"POST", "/v1/jobs/" + id + "/retry", writer, "", 409, "Only a job that failed"},
		{"GET", "/v1/job", reader, "", 404, "/docs lists"},
		{"PUT", "/v1/jobs", writer, `{}`, 405, "GET, "},
		{"GET", "/v1/jobs/job_01ARZ3NDEKTSV4RRFFQ69G5FAV", reader, "", 404, "another tenant's, deleted, or older than results.ttl"},
		{"POST", "/v1/jobs", writer, `{"model":"claude-x","prompt":"other"}`, 422, "Send another key"},
	} {
		var body any
		if c.body != "" {
			body = c.body
		}
		var headers []string
		if c.status == 422 {
			headers = []string{"Idempotency-Key", "k"}
		}
		r := s.call(c.method, c.path, c.token, body, headers...).want(t, c.status)
		if got := r.str(t, "detail"); !strings.Contains(got, c.says) {
			t.Errorf("%s %s: told %q; want %q in it", c.method, c.path, got, c.says)
		}
	}
}
