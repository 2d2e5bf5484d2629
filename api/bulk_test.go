package api_test

import (
	"strings"
	"testing"
	"time"

	"github.com/sluicehq/sluice/tasks"
)

// A bulk call takes no body but those that it describes, and says what to write.
func TestABulkCallIsStrict(t *testing.T) {
	t.Parallel()
	s := serve(t)
	ids := func(n int) string { return `{"ids":["job_1"` + strings.Repeat(`,"job_1"`, n-1) + `]}` }
	for _, row := range []struct{ body, code, detail string }{
		{`{}`, "invalid_request", "nothing of which jobs"},
		{`[]`, "invalid_request", "JSON object"},
		{``, "invalid_json", "ends before"},
		{`{"batch":"batch_1"} {}`, "invalid_json", "follows"},
		{`{"batch":"batch_1","batch":"batch_1"}`, "invalid_json", "twice"},
		{`{"model":"m"}`, "invalid_request", `"model" is unknown`},
		{`{"batch":"job_1"}`, "invalid_request", `"batch"`},
		{`{"batch":null}`, "invalid_request", `"batch"`},
		{`{"status":"nosuch"}`, "invalid_request", `"status" must be one of`},
		{`{"status":"succeeded"}`, "invalid_request", `"status" must be one of`},
		{`{"since":"yesterday"}`, "invalid_request", `"since"`},
		{`{"until":1}`, "invalid_request", `"until"`},
		{`{"ids":"job_1"}`, "invalid_request", `"ids" must be a list`},
		{`{"ids":[]}`, "invalid_request", "at least one"},
		{`{"ids":["job_1","batch_1"]}`, "invalid_request", "element 2"},
		{`{"ids":[1]}`, "invalid_request", `"ids"`},
		{`{"ids":["job_1"],"batch":"batch_1"}`, "invalid_request", "leave the other members out"},
		{ids(10_001), "invalid_request", "at most 10000"},
	} {
		for _, path := range []string{"/v1/jobs/retry", "/v1/jobs/cancel"} {
			r := s.call("POST", path, writer, row.body).want(t, 400, row.code)
			if !strings.Contains(r.str(t, "detail"), row.detail) {
				t.Errorf("%s %.60s: %s, want %q", path, row.body, r.body, row.detail)
			}
		}
	}
	s.call("POST", "/v1/jobs/retry", writer, ids(10_000)).want(t, 200)
	s.call("POST", "/v1/jobs/retry", writer, `{"status":"running"}`).want(t, 400, "invalid_request")
	s.call("POST", "/v1/jobs/cancel", writer, `{"status":"failed"}`).want(t, 400, "invalid_request")
	s.call("POST", "/v1/jobs/retry", writer, `{"status":"failed"}`, "Content-Type", "text/plain").want(t, 415)
	s.call("POST", "/v1/batches/batch_nosuch/retry", reader, nil).want(t, 403)
}

// What a bulk call moves is the caller's own and what was asked for.
func TestABulkCallMovesWhatWasAskedFor(t *testing.T) {
	t.Parallel()
	s := serve(t)
	batch := s.batch(hello, hello, hello)
	first, second := s.submit(), s.submit()
	theirs := s.call("POST", "/v1/jobs", other, hello).want(t, 202).str(t, "id")
	past := time.Now().Add(-time.Hour).UTC().Format(time.RFC3339)
	for _, row := range []struct{ token, path, body, want string }{
		{writer, "/v1/jobs/retry", `{"batch":"` + batch + `"}`, `{"retried":0,"has_more":false}`},
		{writer, "/v1/jobs/cancel", `{"until":"` + past + `"}`, `{"canceled":0,"has_more":false}`},
		{writer, "/v1/jobs/cancel", `{"batch":"` + batch + `","status":"queued","since":"` + past + `"}`, `{"canceled":3,"has_more":false}`},
		{other, "/v1/jobs/cancel", `{"ids":["` + first + `","` + second + `"]}`, `{"canceled":0,"has_more":false}`},
		{writer, "/v1/jobs/cancel", `{"ids":["` + first + `","` + theirs + `","job_nosuch","` + first + `"]}`, `{"canceled":1,"has_more":false}`},
		{writer, "/v1/batches/" + batch + "/retry", "", `{"retried":3,"has_more":false}`},
		{writer, "/v1/jobs/retry", `{"since":"` + past + `"}`, `{"retried":1,"has_more":false}`},
		{writer, "/v1/jobs/cancel", `{"status":"queued"}`, `{"canceled":5,"has_more":false}`},
		{writer, "/v1/jobs/retry", `{"status":"canceled"}`, `{"retried":5,"has_more":false}`},
		{"acme:jobs:write", "/v1/jobs/retry", `{"status":"canceled"}`, `{"retried":0,"has_more":false}`},
	} {
		var body any
		if row.body != "" {
			body = row.body
		}
		if r := s.call("POST", row.path, row.token, body).want(t, 200); strings.TrimSpace(string(r.body)) != row.want {
			t.Errorf("%s %s as %s: %s, want %s", row.path, row.body, row.token, r.body, row.want)
		}
	}
	if j, err := s.world.Job(t.Context(), "other", theirs); err != nil || j.Status != tasks.StatusQueued {
		t.Errorf("another tenant's job: %v, %v", j.Status, err)
	}
}

// A quota that fills up on the way is told beside what was done; one that is full at once
// is a 429. A bulk call is one submit.
func TestABulkRetryThatAQuotaStops(t *testing.T) {
	t.Parallel()
	s := serve(t)
	for range 3 {
		s.submit()
	}
	s.call("POST", "/v1/jobs/cancel", writer, `{"status":"queued"}`).want(t, 200)
	s.world.limits.QueuedJobs, s.world.limits.SubmitsPerMinute = 2, 100
	before := s.world.admitted
	r := s.call("POST", "/v1/jobs/retry", writer, `{"status":"canceled"}`).want(t, 200)
	stopped, _ := r.json(t)["stopped"].(map[string]any)
	if r.json(t)["retried"] != 2.0 || r.json(t)["has_more"] != true || stopped["quota"] != "queued_jobs" || stopped["retry_after"] == nil || s.world.admitted != before+1 {
		t.Errorf("%s with %v, %d submits", r.body, r.Header, s.world.admitted-before)
	}
	conforms(t, "Retried", r.body)
	s.call("POST", "/v1/jobs/retry", writer, `{"status":"canceled"}`).want(t, 429, "quota_exceeded")
	if s.world.admitted != before+1 {
		t.Errorf("%d submits, want 1: a refused call took one", s.world.admitted-before)
	}
}

// The same Idempotency-Key moves nothing twice; a call that failed is forgotten.
func TestABulkCallUnderAKeyIsOneCall(t *testing.T) {
	t.Parallel()
	s := serve(t)
	s.submit()
	cancel := func(body, key string) reply {
		return s.call("POST", "/v1/jobs/cancel", writer, body, "Idempotency-Key", key)
	}
	s.world.breakWith(tasks.ErrUnavailable)
	cancel(`{"status":"queued"}`, "k").want(t, 503, "unavailable")
	s.world.breakWith(&tasks.UnknownError{Err: tasks.ErrUnavailable})
	s.call("POST", "/v1/jobs/cancel", writer, `{"status":"queued"}`).want(t, 503, "outcome_unknown")
	s.world.breakWith(nil)
	delete(s.world.keys, "acme|k")
	first := cancel(`{"status":"queued"}`, "k").want(t, 200)
	s.submit()
	again := cancel(`{ "status": "queued" }`, "k").want(t, 200)
	if string(again.body) != string(first.body) || again.Header.Get("Idempotency-Replayed") != "true" || first.Header.Get("Idempotency-Replayed") != "" {
		t.Errorf("the first answer is %s, the second %s", first.body, again.body)
	}
	if r := cancel(`{"status":"running"}`, "k").want(t, 422, "idempotency_key_reused"); !strings.Contains(r.str(t, "detail"), "which queued again or canceled many jobs") {
		t.Errorf("whose key it is, nobody says: %s", r.body)
	}
	s.call("POST", "/v1/jobs/retry", writer, `{"status":"canceled"}`, "Idempotency-Key", "k").want(t, 422, "idempotency_key_reused")
	if r := cancel(`{"status":"queued"}`, "k2").want(t, 200); r.json(t)["canceled"] != 1.0 {
		t.Errorf("another key: %s", r.body)
	}
}
