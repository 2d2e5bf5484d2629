package main

import (
	"encoding/json"
	"io"
	"net/http"
	"strings"
	"testing"
)

// A timeline is a table with what it adds up to, and says of a job that waits what happens
// next, whatever it waits for.
func TestExplainSaysWhatTimeWasForAndWhatComesNext(t *testing.T) {
	const spans = `{"data":[
		{"from":"2026-01-01T00:00:00Z","to":"2026-01-01T00:00:03.5Z","seconds":3.5,"what":"waiting","for":"no_worker","detail":"no worker makes calls\nof the pool"},
		{"from":"2026-01-01T00:00:03.5Z","to":"2026-01-01T00:00:03.75Z","seconds":0.25,"what":"handover","for":null,"detail":null}]}`
	const table = "FROM                      SECONDS  WHAT      FOR        DETAIL\n" +
		"2026-01-01 00:00:00.000Z  3.500    waiting   no_worker  no worker makes calls of the pool\n" +
		"2026-01-01 00:00:03.500Z  0.250    handover  -          -\n\n" +
		"3.500 s waiting, 0.250 s handover, 0.000 s attempts\n\n"
	job := ""
	api := newFakeAPI(t, func(_ int, r asked, w http.ResponseWriter) {
		if strings.HasSuffix(r.uri, "/v1/jobs/job_1/timeline") {
			_, _ = io.WriteString(w, spans)
			return
		}
		_, _ = io.WriteString(w, job)
	})
	for body, want := range map[string]string{
		`"status":"running"`:               "job_1 is running: sluice watch job_1 shows its text as it comes.",
		`"status":"succeeded"`:             "job_1 succeeded.",
		`"status":"queued","waiting":null`: "job_1 is queued; what it waits for cannot be told now: ask again.",
		`"status":"expired","error":{"code":"deadline_exceeded","message":"late"}`:               "job_1 expired: deadline_exceeded: late. Nothing happens next; POST /v1/jobs/job_1/retry queues it again.",
		`"status":"queued","waiting":{"for":"no_worker","position":0,"estimated_start_at":null}`: "job_1 is queued. Nothing, until a worker of its pool runs: start sluice worker, and see its /readyz.",
		`"status":"queued","waiting":{"for":"tenant_share","position":3,"estimated_start_at":"2026-01-01T00:01:00Z"}`: "job_1 is queued. It starts in its tenant's turn: other tenants share the pool. " +
			"It has place 3 among its tenant's own. Expected start: 2026-01-01T00:01:00Z.",
		`"status":"queued","waiting":{"for":"of a later release","position":0}`: "job_1 is queued. It waits for of a later release.",
	} {
		job = `{"id":"job_1",` + body + `}`
		if code, stdout, stderr := invoke(t, "", api.environ(), "explain", "job_1"); code != 0 || stdout != table+want+"\n" {
			t.Errorf("%s: code %d, stderr %q, stdout\n%s\nwant\n%s", body, code, stderr, stdout, table+want)
		}
	}
	if code, stdout, _ := invoke(t, "", api.environ(), "explain", "--json", "job_1"); code != 0 || !json.Valid([]byte(stdout)) || strings.Count(stdout, "\n") != 1 {
		t.Errorf("--json: %d, %q", code, stdout)
	}
}
