package main_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/sluicehq/sluice/api/auth"
)

// contents is everything in Redis whose key begins with a prefix, and its keys.
func contents(t *testing.T, rdb *redis.Client, prefix string) (keys []string, all string) {
	t.Helper()
	ctx := t.Context()
	var b strings.Builder
	it := rdb.Scan(ctx, 0, prefix+"*", 1000).Iterator()
	for it.Next(ctx) {
		key := it.Val()
		keys = append(keys, key)
		var v any
		switch kind := rdb.Type(ctx, key).Val(); kind {
		case "string":
			v = rdb.Get(ctx, key).Val()
		case "hash":
			v = rdb.HGetAll(ctx, key).Val()
		case "list":
			v = rdb.LRange(ctx, key, 0, -1).Val()
		case "set":
			v = rdb.SMembers(ctx, key).Val()
		case "zset":
			v = rdb.ZRange(ctx, key, 0, -1).Val()
		case "stream":
			v = rdb.XRange(ctx, key, "-", "+").Val()
		case "none":
		default:
			t.Errorf("%s is a %s", key, kind)
		}
		fmt.Fprintf(&b, "%s = %v\n", key, v)
	}
	if err := it.Err(); err != nil {
		t.Fatal(err)
	}
	return keys, b.String()
}

// TestNothingLeaks drives every kind of ending and then looks for what was said
// in confidence.
func TestNothingLeaks(t *testing.T) {
	t.Parallel()
	s := newSystem(t, nil)
	c := s.as(t, "confidant")
	for i, fault := range []string{"", "[[fault:400]]", "[[fault:401]]", "[[fault:500:1]]", "[[fault:garbage:1]]", "[[fault:truncated:1]]", "[[fault:cut:1]]"} {
		model := "claude-x"
		if fault == "[[fault:401]]" {
			model = "halted-x" // it pauses its pool
		}
		r := c.do("POST", "/v1/jobs", fmt.Sprintf(`{"model":%q,"prompt":"prompt-canary %s","metadata":{"meta-canary":"meta-canary"}}`, model, fault), "Idempotency-Key", fmt.Sprintf("key-canary-%d", i))
		r.want(t, 202)
		if model == "claude-x" {
			c.final(r.str("id"))
		}
	}
	// What is wrong is not repeated either.
	for _, body := range []string{
		`{"model":"claude-x","prompt":"prompt-canary","prompt-canary":1}`, `{"model":"claude-x","prompt":"prompt-canary",,}`, `{"model":"prompt-canary","prompt":"x"}`,
		`{"model":"claude-x","prompt":"x","deadline":"prompt-canary"}`, `{"model":"claude-x","prompt":"x","webhook_url":"http://prompt-canary/"}`,
	} {
		if r := c.do("POST", "/v1/jobs", body); r.status < 400 {
			t.Errorf("%s: %d", body, r.status)
		}
	}
	c.do("GET", "/v1/jobs?model=prompt-canary", "").want(t, 200)
	(caller{s, t, "token-canary.token-canary.token-canary"}).do("GET", "/v1/jobs?access_token=token-canary", "").want(t, 401)
	c.submit(prompt("claude-x", "prompt-canary [[latency:60s]]"))
	eventually(t, "a call hangs", func() bool { return len(s.provider.calls("latency:60s")) == 1 })

	look := func(where, text string) {
		t.Helper()
		for _, mark := range []string{"prompt-canary", "You wrote", "key-canary", "secret-canary", "token-canary", "meta-canary", c.token} {
			if i := strings.Index(text, mark); i >= 0 {
				t.Errorf("%s holds %q: …%s…", where, mark, text[max(0, i-200):min(len(text), i+60)])
			}
		}
	}
	_, asynq := contents(t, s.redis.Client(), "asynq:")
	if !strings.Contains(asynq, "job_") {
		t.Error("no task in Redis")
	}
	look("asynq", asynq)
	monitor := s.as(t, "operator", auth.ScopeMonitor)
	anon := caller{s, t, ""}
	for _, path := range []string{"/monitoring/api/queues", "/monitoring/api/queues/claude/active_tasks", "/monitoring/api/queues/claude/completed_tasks", "/monitoring/api/queues/claude/archived_tasks", "/monitoring/api/queues/claude/retry_tasks", "/monitoring/api/servers"} {
		r := monitor.do("GET", path, "")
		if r.status != 200 {
			t.Errorf("%s: %d %s", path, r.status, r.body)
		}
		look(path, string(r.body))
	}
	for _, p := range []*process{s.api, s.worker} {
		look("metrics", string(anon.do("GET", "http://"+p.ops()+"/metrics", "").body))
		look("cmdline", string(anon.do("GET", "http://"+p.ops()+"/debug/pprof/goroutine?debug=2", "").body))
	}
	// A second signal stops at once; two within half a second are one.
	s.worker.signal(syscall.SIGTERM)
	eventually(t, "the worker hears", func() bool { return s.probe(s.worker, "/readyz") != 200 })
	eventually(t, "the worker ends", func() bool {
		s.worker.signal(syscall.SIGTERM)
		select {
		case <-s.worker.done:
			return true
		default:
			return false
		}
	})
	s.api.signal(syscall.SIGTERM)
	if code := s.api.exits(); code != 0 {
		t.Errorf("the API ends with %d", code)
	}
	_, asynq = contents(t, s.redis.Client(), "asynq:")
	look("asynq", asynq)
	for name, p := range map[string]*process{"api": s.api, "worker": s.worker} {
		look(name+"'s log", p.stderr.String())
		if out := p.stdout.String(); out != "" {
			t.Errorf("%s wrote to standard output: %s", name, out)
		}
		for line := range strings.Lines(p.stderr.String()) {
			if !json.Valid([]byte(line)) {
				t.Errorf("%s logs %q", name, line)
			}
		}
	}
}

func TestResultsExpireWithoutATrace(t *testing.T) {
	t.Parallel()
	s := newSystem(t, nil, "SLUICE_RESULTS__TTL=2s")
	c := s.as(t, "brief")
	id := c.submit(prompt("claude-x", "forget-me"), "Idempotency-Key", "k")
	f := c.final(id)
	if d := f.str("expires_at"); d == "" {
		t.Errorf("%s", f.body)
	}
	failed := c.submit(prompt("claude-x", "forget-me [[fault:400]]"))
	batch := c.do("POST", "/v1/batches", `{"jobs":[{"model":"claude-x","prompt":"forget-me"}]}`).want(t, 202).str("id")
	eventually(t, "all is gone", func() bool {
		return c.do("GET", "/v1/jobs/"+id, "").status == 404 && c.do("GET", "/v1/jobs/"+failed, "").status == 404 && c.do("GET", "/v1/batches/"+batch, "").status == 404
	})
	rdb := s.redis.Client()
	// The memory of the Idempotency-Key lasts a day, and ends by itself.
	const ofKey = "sluice:{s}:i:brief:k"
	if d := rdb.TTL(t.Context(), ofKey).Val(); d <= 0 || d > 24*time.Hour {
		t.Errorf("the key is remembered for %v", d)
	}
	if err := rdb.Del(t.Context(), ofKey).Err(); err != nil {
		t.Fatal(err)
	}
	left := ""
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("left are:\n%s", left)
		}
	})
	eventually(t, "nothing of it is left", func() bool {
		_, left = contents(t, rdb, "")
		return !strings.Contains(left, "forget-me") && !strings.Contains(left, id) && !strings.Contains(left, batch)
	})
	if r := c.do("GET", "/v1/jobs", "").want(t, 200); len(r.get("data").([]any)) != 0 {
		t.Errorf("the list %s", r.body)
	}
}

func TestRedisDiesAndComesBack(t *testing.T) {
	t.Parallel()
	s := newSystem(t, nil)
	c := s.as(t, "outage")
	done := c.submit(prompt("claude-x", "before"))
	c.final(done)
	running := c.submit(prompt("claude-x", "through-the-outage [[latency:2s]]"))
	eventually(t, "the call is made", func() bool { return len(s.provider.calls("through-the-outage")) == 1 })
	s.redis.Kill()
	for _, p := range []*process{s.api, s.worker} {
		eventually(t, "/readyz says so", func() bool { return s.probe(p, "/readyz") == 503 })
		if got := s.probe(p, "/healthz"); got != 200 {
			t.Errorf("/healthz: %d", got)
		}
	}
	if r := (caller{s, t, ""}).do("GET", "/readyz", ""); r.status != 503 {
		t.Errorf("/readyz of the API: %d", r.status)
	}
	for _, x := range []struct{ method, path, body string }{
		{"POST", "/v1/jobs", prompt("claude-x", "half")}, {"GET", "/v1/jobs/" + done, ""}, {"GET", "/v1/jobs", ""}, {"POST", "/v1/jobs/" + done + "/cancel", ""},
		{"POST", "/v1/batches", `{"jobs":[{"model":"claude-x","prompt":"half"}]}`}, {"GET", "/v1/status", ""}, {"DELETE", "/v1/jobs/" + done, ""},
	} {
		begun := time.Now()
		r := c.do(x.method, x.path, x.body)
		if r.status != 503 || r.header.Get("Retry-After") == "" || time.Since(begun) > 25*time.Second {
			t.Errorf("%s %s without Redis, after %v: %d %s", x.method, x.path, time.Since(begun), r.status, r.body)
			continue
		}
		r.isProblem(t)
	}
	s.redis.Start()
	for _, p := range []*process{s.api, s.worker} {
		eventually(t, "/readyz is well again", func() bool { return s.probe(p, "/readyz") == 200 })
		for line := range strings.Lines(p.stderr.String()) {
			if !json.Valid([]byte(line)) {
				t.Errorf("while Redis was away, a line of the log is %q", line)
			}
		}
	}
	if f := c.final(running); f.str("status") != "succeeded" || len(s.provider.calls("through-the-outage")) != 1 {
		t.Errorf("the running job, %d calls: %s", len(s.provider.calls("through-the-outage")), f.body)
	}
	if f := c.final(c.submit(prompt("claude-x", "after"))); f.str("status") != "succeeded" {
		t.Errorf("after: %s", f.body)
	}
	if n := len(s.provider.calls(`"half"`)); n != 0 {
		t.Errorf("%d calls of jobs that were refused", n)
	}
}

func TestAFullRedisTakesNothingInByHalf(t *testing.T) {
	t.Parallel()
	s := newSystem(t, []string{"--maxmemory", "14mb", "--maxmemory-policy", "noeviction"})
	c := s.as(t, "full")
	big := strings.Repeat("filler ", 30_000)
	var ids []string
	var refused reply
	for range 200 {
		r := c.do("POST", "/v1/jobs", `{"model":"claude-x","prompt":"`+big+`","not_before":"2099-01-01T00:00:00Z"}`)
		if r.status != 202 {
			refused = r
			break
		}
		ids = append(ids, r.str("id"))
	}
	if refused.status != 503 || refused.header.Get("Retry-After") == "" || len(ids) == 0 {
		t.Fatalf("after %d jobs: %d %s", len(ids), refused.status, refused.body)
	}
	refused.isProblem(t)
	r := c.do("POST", "/v1/batches", strings.Repeat(`{"model":"claude-x","prompt":"`+big+`"}`+"\n", 40), "Content-Type", "application/x-ndjson").want(t, 503)
	if r.header.Get("Retry-After") == "" {
		t.Error("no Retry-After")
	}
	list := func() (got []string) {
		for after := ""; ; {
			r := c.do("GET", "/v1/jobs?limit=100"+after, "").want(t, 200)
			for _, j := range r.get("data").([]any) {
				got = append(got, at(j, "id").(string))
			}
			if r.get("has_more") != true {
				return got
			}
			after = "&after=" + r.str("next")
		}
	}
	got, want := slices.Sorted(slices.Values(list())), slices.Sorted(slices.Values(ids)) // the clock of ids may be set right meanwhile
	if !slices.Equal(got, want) {
		t.Errorf("stored are %d jobs; accepted were %d", len(got), len(want))
	}
	// Room is made, and all goes on.
	for _, id := range ids {
		c.do("POST", "/v1/jobs/"+id+"/cancel", "").want(t, 200)
		c.do("DELETE", "/v1/jobs/"+id, "").want(t, 204)
	}
	eventually(t, "jobs are taken again", func() bool { return c.do("POST", "/v1/jobs", prompt("claude-x", "room")).status == 202 })
}

func TestAWorkerIsAskedToStop(t *testing.T) {
	t.Parallel()
	s := newSystem(t, nil)
	c := s.as(t, "stop")
	// A call that ends within the grace period is finished.
	release := s.provider.hold("short-call")
	short := c.submit(prompt("claude-x", "short-call"))
	eventually(t, "the call is made", func() bool { return len(s.provider.calls("short-call")) == 1 })
	s.worker.signal(syscall.SIGTERM)
	// Meanwhile whoever watches it is told, and not refused.
	eventually(t, "readiness says that it stops", func() bool { return s.probe(s.worker, "/readyz") == 503 })
	if got := s.probe(s.worker, "/metrics"); got != 200 {
		t.Errorf("metrics while it stops: %d", got)
	}
	release()
	if code := s.worker.exits(); code != 0 {
		t.Errorf("the worker ends with %d", code)
	}
	if f := c.do("GET", "/v1/jobs/"+short, ""); f.str("status") != "succeeded" || len(s.provider.calls("short-call")) != 1 {
		t.Errorf("after a stop: %s", f.body)
	}
	// One that does not is handed back, uncounted.
	w := s.startWorker("--grace", "1s")
	long := c.submit(prompt("claude-x", "long-call [[latency:60s]]"))
	waiting := c.submit(prompt("single-x", "[[latency:60s]] first"))
	eventually(t, "the calls are made", func() bool { return len(s.provider.calls("latency:60s")) == 2 })
	behind := c.submit(prompt("single-x", "behind")) // only now, for two that come together may go either way
	w.signal(syscall.SIGTERM)
	begun := time.Now()
	if code := w.exits(); code != 0 || time.Since(begun) > 30*time.Second {
		t.Errorf("the worker ends with %d after %v", code, time.Since(begun))
	}
	for _, id := range []string{long, waiting, behind} {
		r := c.do("GET", "/v1/jobs/"+id, "").want(t, 200)
		want := "retrying"
		if id == behind {
			want = "queued"
		}
		if r.str("status") != want || r.num("attempts") != 0 {
			t.Errorf("handed back: %s", r.body)
		}
	}
	if a, _ := c.do("GET", "/v1/jobs/"+long, "").get("upstream.attempts").([]any); len(a) != 1 || at(a[0], "maybe_billed") != true {
		t.Errorf("attempts %v", a)
	}
	s.startWorker()
	eventually(t, "they are sent again", func() bool { return len(s.provider.calls("latency:60s")) == 4 })
	c.do("POST", "/v1/jobs/"+waiting+"/cancel", "").want(t, 200)
	if f := c.final(behind); f.str("status") != "succeeded" || f.num("attempts") != 1 {
		t.Errorf("%s", f.body)
	}
}

func TestAWorkerIsKilled(t *testing.T) {
	if testing.Short() {
		t.Skip("a lease has to end: 15 s")
	}
	t.Parallel()
	s := newSystem(t, nil)
	c := s.as(t, "kill")
	id := c.submit(prompt("claude-x", "killed-call [[fault:hang:1]]"))
	eventually(t, "the call is made", func() bool { return len(s.provider.calls("killed-call")) == 1 })
	s.worker.signal(syscall.SIGKILL)
	s.worker.exits()
	begun := time.Now()
	s.startWorker()
	eventually(t, "it is sent again", func() bool { return len(s.provider.calls("killed-call")) == 2 })
	t.Logf("sent again after %v", time.Since(begun))
	f := c.final(id)
	attempts, _ := f.get("upstream.attempts").([]any)
	if f.str("status") != "succeeded" || f.num("attempts") != 1 || len(attempts) != 2 {
		t.Fatalf("%s", f.body)
	}
	if at(attempts[0], "maybe_billed") != true || at(attempts[1], "maybe_billed") != false {
		t.Errorf("attempts %v", attempts)
	}
}

// The process that makes the shared call dies, and the one that waits with it:
// the call is made once more, and everybody has the answer.
func TestAWorkerWithASharedCallIsKilled(t *testing.T) {
	if testing.Short() {
		t.Skip("a lease has to end: 15 s")
	}
	t.Parallel()
	s := newSystem(t, nil, "SLUICE_POOLS__CLAUDE__SHARE_IN_FLIGHT=true")
	second := s.startWorker()
	c := s.as(t, "kill")
	var ids []string
	for range 8 {
		ids = append(ids, c.submit(prompt("claude-x", "shared-call [[fault:hang:1]]")))
	}
	eventually(t, "the call is made", func() bool { return len(s.provider.calls("shared-call")) == 1 })
	eventually(t, "the others wait for it", func() bool {
		n := 0
		for _, id := range ids {
			if c.do("GET", "/v1/jobs/"+id, "").str("waiting.for") == "concurrency" {
				n++
			}
		}
		return n == len(ids)-1
	})
	for _, w := range []*process{s.worker, second} {
		w.signal(syscall.SIGKILL)
		w.exits()
	}
	s.startWorker()
	outcomes := map[string]int{}
	for _, id := range ids {
		f := c.final(id)
		attempts, _ := f.get("upstream.attempts").([]any)
		if f.str("status") != "succeeded" || f.num("attempts") != 1 || len(attempts) == 0 {
			t.Fatalf("%s", f.body)
		}
		for _, a := range attempts {
			outcome, _ := at(a, "outcome").(string)
			outcomes[outcome]++
		}
	}
	if outcomes["worker_lost"] != 1 || outcomes["succeeded"] != 1 || outcomes["shared"] != len(ids)-1 || len(s.provider.calls("shared-call")) != 2 {
		t.Errorf("outcomes %v with %d calls", outcomes, len(s.provider.calls("shared-call")))
	}
}

// TestTheAPIStopsGently holds a long poll and a stream through a SIGTERM.
func TestTheAPIStopsGently(t *testing.T) {
	t.Parallel()
	s := newSystem(t, nil)
	c := s.as(t, "gentle")
	id := c.submit(`{"model":"claude-x","prompt":"p","not_before":"2099-01-01T00:00:00Z"}`)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, s.url+"/v1/jobs/"+id+"/events", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+c.token)
	res, err := (&http.Transport{DisableKeepAlives: true}).RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	first := make([]byte, 512)
	if n, err := res.Body.Read(first); err != nil || !bytes.Contains(first[:n], []byte("retry:")) {
		t.Fatalf("%q, %v", first[:n], err)
	}
	polled := make(chan reply, 1)
	go func() { polled <- c.do("GET", "/v1/jobs/"+id+"?wait=60", "") }()
	eventually(t, "the poll is held", func() bool {
		return strings.Contains(string((caller{s, t, ""}).do("GET", "http://"+s.api.ops()+"/metrics", "").body), "sluice_http_held_requests 2")
	})
	begun := time.Now()
	s.api.signal(syscall.SIGTERM)
	if code := s.api.exits(); code != 0 || time.Since(begun) > 30*time.Second {
		t.Errorf("the API ends with %d after %v", code, time.Since(begun))
	}
	if r := <-polled; r.status != 200 || r.str("status") != "scheduled" {
		t.Errorf("the poll: %d %s", r.status, r.body)
	}
}
