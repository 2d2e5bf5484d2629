package main_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/sluicehq/sluice/api/auth"
)

// TestEndingsFromOutside is every way a job can end but well.
func TestEndingsFromOutside(t *testing.T) {
	t.Parallel()
	s := newSystem(t, nil, "SLUICE_RESULTS__MAX_BYTES=2000", "SLUICE_POOLS__CLAUDE__MAX_ATTEMPTS=2")
	c, admin := s.as(t, "endings"), s.as(t, "endings", auth.ScopeAdmin)
	if f := c.final(c.submit(`{"model":"gpt-x","prompt":"large [[tokens:2000]]","max_tokens":4000}`)); f.str("status") != "failed" || f.str("error.code") != "result_too_large" || f.get("result") != nil {
		t.Errorf("too large: %.600s", f.body)
	}
	f := c.final(c.submit(prompt("claude-x", "always [[fault:500]]")))
	if code := f.str("error.code"); f.str("status") != "failed" || code != "attempts_exhausted" || f.num("attempts") != 2 || f.num("error.upstream_status") != 500 || len(s.provider.calls("always [[")) != 2 {
		t.Errorf("always 500: %s", f.body)
	}

	admin.do("POST", "/v1/pools/halted/pause", `{"reason":"x"}`).want(t, 200)
	expires := c.due(500*time.Millisecond, `{"model":"halted-x","prompt":"expires-in-pause","deadline":%q}`)
	canceled := c.submit(prompt("halted-x", "canceled-in-pause"))
	waits := c.submit(prompt("halted-x", "waits-in-pause"))
	if f := c.final(expires); f.str("status") != "expired" || f.num("attempts") != 0 {
		t.Errorf("in a paused pool: %s", f.body)
	}
	c.do("POST", "/v1/jobs/"+canceled+"/cancel", "").want(t, 200)
	// A deadline that has passed does not hold for a retry that somebody asks for later.
	if r := c.do("POST", "/v1/jobs/"+expires+"/retry", "").want(t, 200); r.str("status") != "queued" {
		t.Errorf("expired, again: %s", r.body)
	}
	admin.do("POST", "/v1/pools/halted/resume", "").want(t, 200)
	if f := c.final(waits); f.str("status") != "succeeded" {
		t.Errorf("waited: %s", f.body)
	}
	if f := c.final(expires); f.str("status") != "succeeded" {
		t.Errorf("expired, then retried: %s", f.body)
	}
	if n := len(s.provider.calls("canceled-in-pause")); n != 0 {
		t.Errorf("%d calls of a canceled job", n)
	}

	// What a job waits for behind another, in a pool with one slot.
	release := s.provider.hold("in-front")
	first := c.submit(prompt("single-x", "in-front"))
	eventually(t, "the slot is taken", func() bool { return len(s.provider.calls("in-front")) == 1 })
	second := c.submit(prompt("single-x", "behind"))
	var r reply
	eventually(t, "it is told what is waited for", func() bool {
		r = c.do("GET", "/v1/jobs/"+second, "").want(t, 200)
		return r.str("waiting.for") == "concurrency" || r.str("status") != "queued"
	})
	if r.str("waiting.for") != "concurrency" || r.num("waiting.position") < 1 || r.str("waiting.estimated_start_at") == "" {
		t.Errorf("behind another: %s", r.body)
	}
	if r := c.do("GET", "/v1/jobs/"+first, "").want(t, 200); r.get("waiting") != nil && r.get("waiting.for") != nil {
		t.Errorf("running: %s", r.body)
	}
	// A stream of a job that is canceled ends with that.
	go func() {
		eventually(t, "it is followed", func() bool {
			return strings.Contains(string((caller{s, t, ""}).do("GET", "http://"+s.api.ops()+"/metrics", "").body), "sluice_http_held_requests 1")
		})
		c.do("POST", "/v1/jobs/"+second+"/cancel", "")
	}()
	if _, all := c.events("/v1/jobs/" + second + "/events"); len(all) < 2 || all[len(all)-1].name != "done" || !strings.Contains(all[len(all)-2].data, `"status":"canceled"`) {
		t.Errorf("events of a canceled job: %+v", all)
	}
	// Deleting a job of a batch takes its result and leaves the rest.
	batch := c.do("POST", "/v1/batches", `{"jobs":[{"model":"claude-x","prompt":"1"},{"model":"claude-x","prompt":"2"}]}`).want(t, 202).str("id")
	if r := c.do("GET", "/v1/batches/"+batch+"?wait=20", "").want(t, 200); r.str("status") != "ended" {
		t.Errorf("batch %s", r.body)
	}
	list := c.do("GET", "/v1/jobs?batch="+batch, "").want(t, 200).get("data").([]any)
	c.do("DELETE", "/v1/jobs/"+at(list[0], "id").(string), "").want(t, 204)
	if r := c.do("GET", "/v1/batches/"+batch+"/results", "").want(t, 200); strings.Count(string(r.body), "\n") != 1 {
		t.Errorf("results %s", r.body)
	}
	if r := c.do("GET", "/v1/batches/"+batch, "").want(t, 200); r.num("counts.total") != 2 || r.num("counts.succeeded") != 2 {
		t.Errorf("counts %s", r.body)
	}
	release()
	c.final(first)
}

// TestTwoWorkersShareAMachine and their pools' one slot, and an address.
func TestTwoWorkersShareAMachine(t *testing.T) {
	t.Parallel()
	s := newSystem(t, nil)
	second := start(t, append(s.environ, "SLUICE_OPS_LISTEN="+s.worker.ops()), "worker")
	eventually(t, "the second one says where it is", func() bool { return strings.Contains(second.stderr.String(), "ops_listen") })
	c := s.as(t, "two")
	var ids []string
	for i := range 20 {
		ids = append(ids, c.submit(prompt("claude-x", fmt.Sprintf("shared-%d.", i))))
	}
	for i, id := range ids {
		if f := c.final(id); f.str("status") != "succeeded" {
			t.Errorf("%s", f.body)
		}
		if n := len(s.provider.calls(fmt.Sprintf("shared-%d.", i))); n != 1 {
			t.Errorf("job %d: %d calls", i, n)
		}
	}
}
