package main

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sluicehq/sluice/tasks/bodies"
	"github.com/sluicehq/sluice/tasks/redistest"
	"github.com/sluicehq/sluice/tasks/store"
)

// Two programs of the same tenants, pools and Redis, and of different prefixes, do
// each other's work neither from the backlog nor from the queue, and pause for
// themselves alone.
func TestTwoSluicesOfDifferentPrefixesOnOneRedisNeverMeet(t *testing.T) {
	redis := redistest.Start(t, redistest.Options{})
	var calls [2]atomic.Int64
	var stages [2]*stage
	for i, prefix := range []string{"sluice", "other"} {
		provider := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			calls[i].Add(1)
			w.Header().Set("Content-Type", "application/json")
			w.WriteHeader(http.StatusBadRequest) // answered, and final
			_, _ = w.Write([]byte(`{"type":"error","error":{"type":"invalid_request_error","message":"no"}}`))
		}))
		defer provider.Close()
		stages[i] = outageOn(t, redis, redis.URL(), claude(provider.URL)+"redis: {prefix: "+prefix+"}\n")
	}
	const each = 10
	for i, s := range stages {
		other := stages[1-i]
		before := calls[1-i].Load()
		for range each {
			id := s.submit()
			s.final(id)
			if status, _ := other.status("GET", "/v1/jobs/"+id, ""); status != http.StatusNotFound {
				t.Errorf("a job of %s is %d to the other", s.s.cfg.Redis.Prefix, status)
			}
		}
		if n := calls[1-i].Load() - before; n != 0 {
			t.Errorf("the other made %d calls for the jobs of %s", n, s.s.cfg.Redis.Prefix)
		}
	}
	for i := range calls {
		if n := calls[i].Load(); n != each {
			t.Errorf("%s made %d calls for its %d jobs", stages[i].s.cfg.Redis.Prefix, n, each)
		}
	}

	// One is paused; the other's jobs go on.
	for i, s := range stages {
		s.call("POST", "/v1/pools/claude/pause", `{"reason":"a look"}`, &poolView{})
		s.until("paused", func() bool { return s.pool("claude").State == "paused" })
		other := stages[1-i]
		if state := other.pool("claude").State; state == "paused" {
			t.Errorf("a pause of %s is the other's too", s.s.cfg.Redis.Prefix)
		}
		other.final(other.submit())
		s.call("POST", "/v1/pools/claude/resume", "", &poolView{})
		s.until("resumed", func() bool { return s.pool("claude").State != "paused" })
	}

	keys, err := redis.Client().Keys(t.Context(), "*").Result()
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"sluice:{s}:", "other:{s}:", "sluice:pause:", "other:pause:", "sluice:quota:", "other:quota:", "asynq:{claude}", "asynq:{other:claude}"} {
		found := false
		for _, key := range keys {
			found = found || strings.HasPrefix(key, want)
		}
		if !found {
			t.Errorf("no key begins with %s: %v", want, keys)
		}
	}
}

// Whatever two programs of one Redis have in common, tenants, tokens' secret, ids,
// keys, pools and the folder of bodies, what is done with one is nothing to the other.
func TestWhatOneSluiceHasIsNothingToAnother(t *testing.T) {
	t.Parallel()
	redis := redistest.Start(t, redistest.Options{})
	folder := t.TempDir()
	var arrived [2]atomic.Int64
	var stages [2]*stage
	for i, prefix := range []string{"sluice", "other"} {
		answer := fmt.Sprintf(`{"id":"msg_1","type":"message","role":"assistant","model":"claude-x","stop_reason":"end_turn","stop_sequence":null,"usage":{"input_tokens":1,"output_tokens":2},"content":[{"type":"text","text":"from %s"}]}`, prefix)
		provider := newWire(t, fmt.Appendf(nil, "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%s", len(answer), answer))
		stages[i] = outageOn(t, redis, redis.URL(), strings.Replace(claude(provider.URL), "api_key:", "stream: false, api_key:", 1)+
			"redis: {prefix: "+prefix+"}\nwebhooks: {allow_http: true, allow_private: true}\nbodies: {url: 'file://"+folder+"', above: 1024}\n")
	}
	a, b := stages[0], stages[1]
	receiver := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		if strings.HasPrefix(r.URL.Path, "/a") {
			arrived[0].Add(1)
		} else {
			arrived[1].Add(1)
		}
	}))
	t.Cleanup(receiver.Close)
	var made struct{ ID, Token string }
	a.call("POST", "/v1/webhook-endpoints", `{"url":"`+receiver.URL+`/a","events":["job.succeeded","pool.paused"]}`, &made)

	// The same ids and the same key.
	job, batch := store.NewID("job"), store.NewID("batch")
	large := strings.Repeat("large ", 1000)
	for i, s := range stages {
		from := "from " + s.s.cfg.Redis.Prefix
		var one struct{ Text string }
		if res := s.call("POST", "/v1/jobs", `{"id":"`+job+`","model":"claude-x","prompt":"`+large+`"}`, &one, "Idempotency-Key", "one"); res.StatusCode != 202 || res.Header.Get("Idempotency-Replayed") != "" {
			t.Errorf("submit: %s, %v", res.Status, res.Header)
		}
		s.final(job)
		if s.call("GET", "/v1/jobs/"+job, "", &one); one.Text != from {
			t.Errorf("%s answers %q", s.s.cfg.Redis.Prefix, one.Text)
		}
		var g struct{ Status any }
		if res := s.call("POST", "/v1/batches", `{"id":"`+batch+`","jobs":[{"model":"claude-x","prompt":"a"},{"model":"claude-x","prompt":"`+large+`"}]}`, &g); res.StatusCode != 202 {
			t.Errorf("batch: %s", res.Status)
		}
		s.until("the batch ends", func() bool { s.call("GET", "/v1/batches/"+batch, "", &g); return g.Status == "ended" })
		if _, text := s.raw("GET", "/v1/batches/"+batch+"/results", ""); strings.Count(text, from) != 4 { // in result and text of both
			t.Errorf("results of %d: %s", i, text)
		}
	}
	a.until("its webhooks arrive", func() bool { return arrived[0].Load() >= 3 })
	if n := arrived[0].Load(); n != 3 {
		t.Errorf("%d webhooks of the one's three jobs", n)
	}
	var list struct{ Data []map[string]any }
	if b.call("GET", "/v1/webhook-endpoints", "", &list); len(list.Data) != 0 {
		t.Errorf("the other has the endpoints %v", list.Data)
	}

	// What the one deletes, and what its sweep finds, leaves the other's.
	if code, text := a.raw("DELETE", "/v1/jobs/"+job, ""); code != 204 {
		t.Fatal(code, text)
	}
	if j := b.job(job); j.Status != "succeeded" {
		t.Errorf("after the one's end the other's is %+v", j)
	}
	held := b.paused()
	waits := b.submitText(large)
	for _, s := range stages {
		old, err := bodies.Open(bodies.Config{URL: s.s.cfg.BodiesURL(), Keep: time.Nanosecond})
		if err == nil {
			err = old.Sweep(t.Context(), s.s.store)
			old.Close()
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	held()
	if j := b.final(waits); j.Status != "succeeded" {
		t.Errorf("after sweeps: %+v", j)
	}

	// Tokens that the one keeps or revokes.
	a.call("POST", "/v1/tokens", `{"tenant":"acme","scope":"jobs:read","ttl":"1h","name":"x"}`, &made)
	if b.call("GET", "/v1/tokens", "", &list); len(list.Data) != 0 {
		t.Errorf("the other lists the tokens %v", list.Data)
	}
	if code, _ := a.raw("DELETE", "/v1/tokens/"+made.ID, ""); code != 204 {
		t.Errorf("revoke: %d", code)
	}

	// Pauses, and asynqmon.
	if code, text := a.raw("POST", "/monitoring/api/queues/claude:pause", ""); code != 204 {
		t.Fatal(code, text)
	}
	if state := b.pool("claude").State; state == "paused" {
		t.Error("a pause in asynqmon is the other's too")
	}
	for i, name := range []string{"claude", "other:claude"} {
		foreign := []string{"claude", "other:claude"}[1-i]
		for _, path := range []string{"queues", "queue_stats", "servers"} {
			if code, text := stages[i].raw("GET", "/monitoring/api/"+path, ""); code != 200 || !strings.Contains(text, `"`+name+`"`) || strings.Contains(text, `"`+foreign+`"`) {
				t.Errorf("%s of %s: %d %s", path, name, code, text)
			}
		}
		for _, c := range [][2]string{{"GET", ""}, {"POST", ":pause"}, {"POST", ":resume"}, {"DELETE", ""}, {"GET", "/pending_tasks"}, {"POST", "/active_tasks:cancel_all"}} {
			if code, text := stages[i].raw(c[0], "/monitoring/api/queues/"+foreign+c[1], ""); code != 404 {
				t.Errorf("%s %s%s: %d %s", c[0], foreign, c[1], code, text)
			}
		}
	}
	if b.final(b.submit()).Status != "succeeded" {
		t.Error("the other does not go on")
	}
	for s, want := range map[*stage]bool{a: true, b: false} {
		if _, text := s.raw("GET", "/v1/audit", ""); strings.Contains(text, "paused in asynqmon") != want || strings.Contains(text, "token.make") && !want {
			t.Errorf("the audit of %s: %s", s.s.cfg.Redis.Prefix, text)
		}
	}
	if n := arrived[1].Load(); n != 0 {
		t.Errorf("%d webhooks elsewhere", n)
	}
}

// paused holds the pool until the function returned is called.
func (r *stage) paused() (resume func()) {
	r.t.Helper()
	r.call("POST", "/v1/pools/claude/pause", `{"reason":"held"}`, &poolView{})
	return func() { r.t.Helper(); r.call("POST", "/v1/pools/claude/resume", "", &poolView{}) }
}

// submitText has a job of a text accepted.
func (r *stage) submitText(text string) string {
	r.t.Helper()
	var j jobView
	if res := r.call("POST", "/v1/jobs", `{"model":"claude-x","prompt":"`+text+`"}`, &j); res.StatusCode != http.StatusAccepted {
		r.t.Fatalf("submit: %s", res.Status)
	}
	return j.ID
}

// raw is a call and its answer as it came.
func (r *stage) raw(method, path, body string) (status int, text string) {
	r.t.Helper()
	req, err := http.NewRequestWithContext(r.t.Context(), method, r.url+path, strings.NewReader(body))
	if err != nil {
		r.t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+r.token)
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		r.t.Fatal(err)
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		r.t.Fatal(err)
	}
	return res.StatusCode, string(b)
}
