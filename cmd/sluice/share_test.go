package main

import (
	"net/http"
	"strings"
	"testing"
	"time"
)

// sharing is a configuration whose pool shares calls.
func sharing(url string) string {
	return strings.Replace(claude(url), "max_attempts: 5", "max_attempts: 5\n    share_in_flight: true", 1)
}

// follows reports whether a job waits for another's answer.
func (r *stage) follows(tenant, id string) bool {
	r.t.Helper()
	j, err := r.s.store.Job(r.t.Context(), tenant, id)
	if err != nil {
		r.t.Fatal(err)
	}
	return j.Followed != "" && !j.Status.Final()
}

// A tenant's jobs that ask the same while one of them is under way cost one
// call. What differs in anything, or is another tenant's, is asked for itself;
// a job that waits for another's answer is canceled and expires as any other.
func TestIdenticalRequestsUnderWayShareACall(t *testing.T) {
	t.Parallel()
	w := newWire(t, recorded(t, "anthropic/text"))
	w.gather = -1 // until held is closed
	r := outage(t, sharing(w.URL))
	var ids []string
	for range 6 {
		ids = append(ids, r.submit())
	}
	var late, longer, foreign jobView
	r.call("POST", "/v1/jobs", strings.Replace(hello, "{", `{"deadline":"`+time.Now().Add(2*time.Second).UTC().Format(time.RFC3339Nano)+`",`, 1), &late)
	r.call("POST", "/v1/jobs", strings.Replace(hello, ":16", ":17", 1), &longer)
	own := r.token
	r.token = r.mint("umbrella")
	r.call("POST", "/v1/jobs", hello, &foreign)
	r.token = own
	r.until("all but three wait for another", func() bool {
		n := 0
		for _, id := range append(ids, late.ID) {
			if r.follows("acme", id) {
				n++
			}
		}
		calls, _ := w.seen()
		return n == 6 && len(calls) == 3
	})
	var canceled string
	for _, id := range ids {
		j := r.job(id)
		if j.Status == "running" {
			continue
		}
		if j.Status != "queued" || j.Attempts != 0 || j.Waiting == nil || j.Waiting.For != "concurrency" {
			t.Errorf("a job that waits for another's answer: %+v %+v", j, j.Waiting)
		}
		canceled = id
	}
	var gone jobView
	if res := r.call("POST", "/v1/jobs/"+canceled+"/cancel", "", &gone); res.StatusCode != http.StatusOK || gone.Status != "canceled" {
		t.Errorf("cancel: %s %+v", res.Status, gone)
	}
	if j := r.final(late.ID); j.Status != "expired" || j.outcomes() != "" {
		t.Errorf("past its deadline: %+v", j)
	}
	close(w.held)
	shared := 0
	for _, id := range ids {
		if id == canceled {
			continue
		}
		var j struct {
			jobView
			Usage *struct{}
		}
		r.final(id)
		r.call("GET", "/v1/jobs/"+id, "", &j)
		if j.Status != "succeeded" || j.Text == "" || j.Attempts != 1 || j.Upstream.Provider != "anthropic" || (j.Usage == nil) != (j.outcomes() == "shared") {
			t.Errorf("job %+v %+v", j, j.Upstream)
		}
		if j.outcomes() == "shared" {
			shared++
		}
	}
	if shared != 4 {
		t.Errorf("%d jobs were given another's answer; want 4", shared)
	}
	r.final(longer.ID)
	r.until("the other tenant's job ends", func() bool {
		j, err := r.s.store.Job(t.Context(), "umbrella", foreign.ID)
		return err == nil && j.Status == "succeeded"
	})
	// What was under way is not a cache.
	if j := r.final(r.submit()); j.outcomes() != "succeeded" {
		t.Errorf("asked again afterwards: %+v", j)
	}
	if calls, _ := w.seen(); len(calls) != 4 {
		t.Errorf("%d calls; want 4", len(calls))
	}
}

func TestCallsAreNotSharedUnasked(t *testing.T) {
	t.Parallel()
	w := newWire(t, recorded(t, "anthropic/text"))
	w.gather = 3
	r := outage(t, claude(w.URL))
	for _, id := range []string{r.submit(), r.submit(), r.submit()} {
		if j := r.final(id); j.outcomes() != "succeeded" {
			t.Errorf("job %+v", j)
		}
	}
}

// A refusal is not shared: each asks for itself, one after another.
func TestAFailureIsNotShared(t *testing.T) {
	t.Parallel()
	w := newWire(t, recorded(t, "anthropic/400"), recorded(t, "anthropic/400"), recorded(t, "anthropic/text"))
	r := outage(t, sharing(w.URL))
	var ids []string
	for range 5 {
		ids = append(ids, r.submit())
	}
	count := map[string]int{}
	for _, id := range ids {
		j := r.final(id)
		count[j.Status+" "+j.outcomes()]++
	}
	calls, _ := w.seen()
	if count["failed rejected"] != 2 || count["succeeded succeeded"]+count["succeeded shared"] != 3 || len(calls) != 2+count["succeeded succeeded"] {
		t.Errorf("%v with %d calls", count, len(calls))
	}
}
