package main

import (
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
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

// posts sends a request until it is known whether its token was revoked, before which nothing is done: on a busy
// machine Redis does not say so in time to a crowd.
func (r *stage) posts(path, token, body string) (status int, retryAfter, said string) {
	for {
		req, err := http.NewRequestWithContext(r.t.Context(), http.MethodPost, r.url+path, strings.NewReader(body))
		if err != nil {
			r.t.Error(err)
			return 0, "", ""
		}
		req.Header.Set("Authorization", "Bearer "+token)
		if body != "" {
			req.Header.Set("Content-Type", "application/json")
		}
		res, err := http.DefaultClient.Do(req)
		if err != nil {
			r.t.Error(err)
			return 0, "", ""
		}
		b, err := io.ReadAll(res.Body)
		_ = res.Body.Close()
		if err != nil {
			r.t.Error(err)
			return 0, "", ""
		}
		if said = string(b); res.StatusCode != http.StatusServiceUnavailable || !strings.Contains(said, "whether the token was revoked") {
			return res.StatusCode, res.Header.Get("Retry-After"), said
		}
		select {
		case <-r.t.Context().Done():
		case <-time.After(250 * time.Millisecond):
		}
	}
}

// refusedByQuota reports whether an answer says that a quota is used up, and when to come again.
func refusedByQuota(status int, retryAfter, said string) bool {
	return status == http.StatusTooManyRequests && strings.Contains(said, "The quota ") && retryAfter != ""
}

// crowd comes through each door at once, and returns how many were taken in.
func (r *stage) crowd(token string, retried []string) int64 {
	r.t.Helper()
	var taken atomic.Int64
	var wg sync.WaitGroup
	ask := func(path, body string) {
		status, retryAfter, said := r.posts(path, token, body)
		switch {
		case status == http.StatusOK || status == http.StatusAccepted:
			taken.Add(1)
		case status != 0 && !refusedByQuota(status, retryAfter, said):
			r.t.Errorf("POST %s: %d, Retry-After %q: %s", path, status, retryAfter, said)
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

// turnstile is a provider of both dialects, which keeps the calls that ask for it until it opens.
type turnstile struct {
	*httptest.Server
	open      chan struct{}
	mu        sync.Mutex
	in, crowd int // calls that are kept, and the most that there were at once
}

func newTurnstile(t *testing.T) *turnstile {
	p := &turnstile{open: make(chan struct{})}
	p.Server = httptest.NewServer(p)
	t.Cleanup(p.Close)
	return p
}

func (p *turnstile) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	if r.Method == http.MethodGet {
		_, _ = io.WriteString(w, `{"data":[]}`)
		return
	}
	if strings.Contains(string(body), "keep me") {
		p.mu.Lock()
		p.in++
		p.crowd = max(p.crowd, p.in)
		p.mu.Unlock()
		select {
		case <-p.open:
		case <-r.Context().Done():
		}
		p.mu.Lock()
		p.in--
		p.mu.Unlock()
	}
	w.Header().Set("Content-Type", "text/event-stream")
	for _, f := range forms() {
		if strings.Contains(r.URL.Path, "messages") == (f.name == "anthropic") {
			_, _ = io.WriteString(w, strings.Join(f.events, ""))
		}
	}
}

func (p *turnstile) kept() (now, most int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.in, p.crowd
}

// Calls in both dialects, streamed and whole, which wait in the queue for their answers, come at a limit at
// once: so many are taken in, or run at once, as it allows, to the one. Whoever was taken in gets an answer.
func TestALimitIsExactForACrowdOfCalls(t *testing.T) {
	t.Parallel()
	p := newTurnstile(t)
	all := *crowd * 5
	limit := all/3 + 1
	pool := fmt.Sprintf("limits: {requests_per_minute: 60000, request_burst: 1000, concurrency: %d, input_tokens_per_minute: 0, output_tokens_per_minute: 0}", all)
	r := outage(t, fmt.Sprintf(`
caps: {tenant: {requests: 2000, streams: 2000}}
tenants:
  a: {submits_per_minute: %[1]d, queued_jobs: 0}
  b: {submits_per_minute: 0, queued_jobs: %[1]d}
  c: {submits_per_minute: 0, queued_jobs: 0, running_jobs: %[1]d}
providers:
  anthropic: {dialect: anthropic, base_url: %[2]q, api_key: the-secret-key}
  openai: {dialect: openai, base_url: %[2]q, api_key: the-secret-key}
pools:
  claude: {provider: anthropic, models: ["claude-*"], %[3]s}
  gpt: {provider: openai, models: ["gpt-*"], %[3]s}
`, limit, p.URL, pool))
	operator := r.token
	move := func(how string) {
		for _, pool := range []string{"claude", "gpt"} {
			if status, _, said := r.posts("/v1/pools/"+pool+"/"+how, operator, `{"reason":"a test"}`); status != http.StatusOK {
				t.Fatalf("%s %s: %d %s", how, pool, status, said)
			}
		}
	}
	move("pause") // so that what was taken in waits
	var refused, answered [2]atomic.Int64
	var waiting sync.WaitGroup
	tenants := []string{"a", "b"}
	for i, tenant := range tenants {
		r.calls(&waiting, r.mint(tenant), "hello", all, &refused[i], &answered[i])
	}
	for i, tenant := range tenants {
		r.token = r.mint(tenant)
		r.until("every call of "+tenant+" waits or was refused", func() bool { return int(refused[i].Load())+r.count("") == all })
		if n := r.count(""); n != limit {
			t.Errorf("%s: %d calls wait, want %d", tenant, n, limit)
		}
	}
	move("resume")
	waiting.Wait()
	for i, tenant := range tenants {
		if n := int(answered[i].Load()); n != limit {
			t.Errorf("%s: %d calls were answered, want %d", tenant, n, limit)
		}
	}

	var turned, served atomic.Int64
	r.token = r.mint("c")
	r.calls(&waiting, r.token, "keep me", all, &turned, &served)
	r.until("as many run as may, and the others wait", func() bool {
		now, _ := p.kept()
		return now == limit && r.count("?status=running") == limit && r.count("?status=queued") == all-limit
	})
	close(p.open)
	waiting.Wait()
	if _, most := p.kept(); most != limit || turned.Load() != 0 || int(served.Load()) != all {
		t.Errorf("%d ran at once, want %d; %d of %d were answered, %d refused", most, limit, served.Load(), all, turned.Load())
	}
}

// calls makes so many calls at once, a half in each dialect and a half of those streamed, and counts how they end.
func (r *stage) calls(all *sync.WaitGroup, token, prompt string, n int, refused, answered *atomic.Int64) {
	for i := range n {
		f := forms()[i%2]
		body := fmt.Sprintf(`{"model":%q,"max_tokens":9,"stream":%v,"messages":[{"role":"user","content":"%s %d"}]}`, f.model, i/2%2 == 0, prompt, i)
		all.Go(func() {
			status, retryAfter, said := r.posts(f.path, token, body)
			switch {
			case status == http.StatusOK && (strings.Contains(said, "message_stop") || strings.Contains(said, "[DONE]") || json.Valid([]byte(said))):
				answered.Add(1)
			case refusedByQuota(status, retryAfter, said):
				refused.Add(1)
			case status != 0:
				r.t.Errorf("POST %s: %d, Retry-After %q: %s", f.path, status, retryAfter, said)
			}
		})
	}
}

// count is how many jobs of the tenant there are, by a query.
func (r *stage) count(query string) (n int) {
	r.t.Helper()
	path := "/v1/jobs" + query
	for {
		var page struct {
			Data []struct{ ID string }
			Next string
			More bool `json:"has_more"`
		}
		if res := r.call("GET", path+map[bool]string{true: "?", false: "&"}[path == "/v1/jobs"]+"limit=100", "", &page); res.StatusCode != http.StatusOK {
			r.t.Fatalf("GET %s: %s", path, res.Status)
		}
		if n += len(page.Data); !page.More {
			return n
		}
		path = "/v1/jobs?after=" + page.Next + strings.Replace(query, "?", "&", 1)
	}
}
