package main

import (
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
)

var crowd = flag.Int("crowd", 8, "come at a limit through each of five doors so often at once")

// Submits, batches, retries and the providers' forms come at a limit at once: so many are taken in as it
// allows, to the one, whoever it is of, and what is refused takes nothing.
func TestALimitIsExactForACrowd(t *testing.T) {
	t.Parallel()
	w := newWire(t, recorded(t, "anthropic/text"))
	limit := int64(*crowd*5/2 + 1)
	r := outage(t, fmt.Sprintf(`
auth: {users: separate}
caps: {uploads: 1000, tenant: {uploads: 1000, requests: 2000}}
tenants:
  a: {submits_per_minute: %[1]d, queued_jobs: 0}
  b: {submits_per_minute: 0, queued_jobs: %[1]d}
  c: {submits_per_minute: 0, queued_jobs: 0, users: {submits_per_minute: %[1]d}}
  d: {submits_per_minute: 0, queued_jobs: 0, users: {queued_jobs: %[1]d}}
`, limit)+strings.Replace(claude(w.URL), "pools:", fmt.Sprintf(`
  openai: {dialect: openai, base_url: %q, api_key: the-secret-key}
pools:
  gpt: {provider: openai, models: ["gpt-*"], limits: {requests_per_minute: 6000}}`, w.URL), 1))
	for _, pool := range []string{"claude", "gpt"} { // so that what was taken in waits
		if status, code := r.status("POST", "/v1/pools/"+pool+"/pause", `{"reason":"a test"}`); status != http.StatusOK {
			t.Fatalf("pause %s: %d %s", pool, status, code)
		}
	}
	for tenant, quota := range map[string]string{"a": "submits_per_minute", "b": "queued_jobs", "c": "users.submits_per_minute", "d": "users.queued_jobs"} {
		token := r.mint(tenant)
		r.token = token
		var retried []string
		for range *crowd {
			var j jobView
			r.call("POST", "/v1/jobs", hello, &j)
			if res := r.call("POST", "/v1/jobs/"+j.ID+"/cancel", "", &j); res.StatusCode != http.StatusOK {
				t.Fatalf("cancel: %s", res.Status)
			}
			retried = append(retried, j.ID)
		}
		before := int64(0)
		if strings.HasSuffix(quota, "submits_per_minute") {
			before = int64(*crowd) // just now
		}
		taken := r.crowd(token, retried)
		if taken != limit-before {
			t.Errorf("%s: %d of %d were taken in, want %d", quota, taken, 5**crowd, limit-before)
		}
		var usage struct {
			Quotas []struct {
				Name        string
				Limit, Used int64
			}
		}
		r.call("GET", "/v1/usage", "", &usage)
		found := false
		for _, q := range usage.Quotas {
			if q.Name == quota {
				found = q.Limit == limit && q.Used == limit
			}
		}
		if !found {
			t.Errorf("%s: the usage is %+v, want %d of %d", quota, usage.Quotas, limit, limit)
		}
	}
}

// crowd comes through each door at once, and returns how many were taken in.
func (r *stage) crowd(token string, retried []string) int64 {
	r.t.Helper()
	var taken atomic.Int64
	var wg sync.WaitGroup
	ask := func(path, body string) {
		req, err := http.NewRequestWithContext(r.t.Context(), http.MethodPost, r.url+path, strings.NewReader(body))
		if err != nil {
			r.t.Error(err)
			return
		}
		req.Header.Set("Authorization", "Bearer "+token)
		if body != "" {
			req.Header.Set("Content-Type", "application/json")
		}
		res, err := http.DefaultClient.Do(req)
		if err != nil {
			r.t.Error(err)
			return
		}
		defer func() { _ = res.Body.Close() }()
		said, err := io.ReadAll(res.Body)
		switch {
		case err != nil:
			r.t.Error(err)
		case res.StatusCode == http.StatusOK || res.StatusCode == http.StatusAccepted:
			taken.Add(1)
		case res.StatusCode != http.StatusTooManyRequests || !strings.Contains(string(said), "The quota ") || res.Header.Get("Retry-After") == "":
			r.t.Errorf("POST %s: %s, Retry-After %q: %s", path, res.Status, res.Header.Get("Retry-After"), said)
		}
	}
	for i, id := range retried {
		text, _ := json.Marshal(id)
		wg.Go(func() { ask("/v1/jobs", hello) })
		wg.Go(func() { ask("/v1/batches", `{"jobs":[`+hello+`]}`) })
		wg.Go(func() { ask("/v1/jobs/"+id+"/retry", "") })
		wg.Go(func() {
			ask("/anthropic/v1/messages/batches", fmt.Sprintf(`{"requests":[{"custom_id":"c%d","params":{"model":"claude-x","max_tokens":9,"messages":[{"role":"user","content":%s}]}}]}`, i, text))
		})
		wg.Go(func() {
			ask("/openai/v1/responses", fmt.Sprintf(`{"model":"gpt-x","background":true,"input":%s}`, text))
		})
	}
	wg.Wait()
	return taken.Load()
}
