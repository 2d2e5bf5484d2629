package main

import (
	"encoding/json"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/sluicehq/sluice/worker/upstream/fake"
)

// lined is a job with what tells of its batch.
type lined struct {
	ID       string
	Status   string
	Upstream *struct {
		Attempts []struct {
			Outcome     string
			NativeBatch string `json:"native_batch"`
		}
	}
}

// A pool with native_batch sends jobs with a far deadline, and calls with the priority batch,
// to its provider's batch API; others are called for as ever.
func TestJobsWithTimeGoToTheProvidersBatches(t *testing.T) {
	t.Parallel()
	provider, err := fake.New(fake.Config{BatchDelay: time.Hour, BatchHidden: time.Second})
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(provider)
	t.Cleanup(func() { provider.Close(); server.Close() })
	r := outage(t, strings.Replace(claude(server.URL), "max_attempts: 5", "max_attempts: 5\n    native_batch: true\n    batches: {max_age: 200ms, poll_interval: 200ms}", 1))
	submit := func(deadline time.Duration) (j lined) {
		t.Helper()
		r.call("POST", "/v1/jobs", strings.Replace(hello, "{", `{"deadline":"`+time.Now().Add(deadline).UTC().Format(time.RFC3339Nano)+`",`, 1), &j)
		return j
	}
	far, near := submit(6*time.Hour), submit(10*time.Minute)
	var made struct{ ID string }
	r.call("POST", "/anthropic/v1/messages/batches", `{"requests":[{"custom_id":"a","params":{"model":"claude-x","max_tokens":9,"messages":[{"role":"user","content":"patient"}]}}]}`, &made,
		"anthropic-version", "2023-06-01", "sluice-priority", "batch")
	if made.ID == "" {
		t.Fatal("no batch was made with the priority batch")
	}
	read := func(id string) (j lined) {
		t.Helper()
		r.call("GET", "/v1/jobs/"+id, "", &j)
		return j
	}
	r.until("one is called for", func() bool { return read(near.ID).Status == "succeeded" })
	r.until("two are in batches of the provider", func() bool { n, _ := provider.Batches(); return n == 2 })
	r.until("its job says where it is", func() bool {
		var spans json.RawMessage
		r.call("GET", "/v1/jobs/"+far.ID+"/timeline", "", &spans)
		return strings.Contains(string(spans), "in the provider's batch msgbatch_") && read(far.ID).Status == "running"
	})
	if j := read(near.ID); j.Upstream.Attempts[0].NativeBatch != "" {
		t.Errorf("a job without room was in a batch: %+v", j)
	}
	if s := provider.Stats(false); s.Accepted != 1 {
		t.Errorf("%d calls were paid for, want 1", s.Accepted)
	}
	var canceled lined
	r.call("POST", "/v1/jobs/"+far.ID+"/cancel", "", &canceled)
	if j := read(far.ID); j.Status != "canceled" {
		t.Errorf("it is %s after its cancellation", j.Status)
	}
}
