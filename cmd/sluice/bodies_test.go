package main

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/johannesboyne/gofakes3"
	"github.com/johannesboyne/gofakes3/backend/s3mem"

	"github.com/sluicehq/sluice/tasks/redistest"
)

// Large prompts and answers lie in a bucket and nowhere in Redis; while the bucket is
// away the process says so, small jobs go on, and large ones are done afterwards.
func TestLargeBodiesLieInABucket(t *testing.T) {
	t.Parallel()
	const asks, answers = "a-large-prompt ", "a-large-answer "
	backend := s3mem.New()
	if err := backend.CreateBucket("jobs"); err != nil {
		t.Fatal(err)
	}
	var away atomic.Bool
	objects := gofakes3.New(backend).Server()
	bucket := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if away.Load() {
			_, _ = io.Copy(io.Discard, r.Body)
			w.WriteHeader(http.StatusServiceUnavailable)
			return
		}
		objects.ServeHTTP(w, r)
	}))
	t.Cleanup(bucket.Close)
	lie := func() (n int) {
		list, err := backend.ListBucket("jobs", &gofakes3.Prefix{}, gofakes3.ListBucketPage{})
		if err != nil {
			t.Fatal(err)
		}
		for _, o := range list.Contents {
			if !strings.HasPrefix(o.Key, "in/trial/") {
				n++
			}
		}
		return n
	}
	answer := `{"id":"msg_1","type":"message","role":"assistant","model":"claude-x","stop_reason":"end_turn","stop_sequence":null,"usage":{"input_tokens":1,"output_tokens":2},"content":[{"type":"text","text":"` +
		strings.Repeat(answers, 4000) + `"}]}`
	provider := newWire(t, fmt.Appendf(nil, "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%s", len(answer), answer))
	server := durably(t)
	r := outageOn(t, server, "", strings.Replace(claude(provider.URL), "api_key:", "stream: false, api_key:", 1)+
		"bodies: {url: 's3://jobs/in?endpoint="+bucket.URL+"', access_key: AKIA, secret_key: geheim}\n")
	large := `{"model":"claude-x","prompt":"` + strings.Repeat(asks, 2000) + `"}`
	holds := func(when string) {
		t.Helper()
		for _, word := range []string{asks, answers} {
			if keys := redistest.Holding(t, server.Client(), word); len(keys) > 0 {
				t.Errorf("%s: Redis has %q at %v", when, word, keys)
			}
		}
	}
	var job struct{ ID, Text, Code, Detail string }
	if res := r.call("POST", "/v1/jobs", large, &job); res.StatusCode != 202 {
		t.Fatalf("submit: %d %s", res.StatusCode, job.Detail)
	}
	first := job.ID
	if j := r.final(first); j.Status != "succeeded" {
		t.Fatalf("%+v", j)
	}
	if r.call("GET", "/v1/jobs/"+job.ID, "", &job); job.Text != strings.Repeat(answers, 4000) {
		t.Errorf("its text has %d bytes", len(job.Text))
	}
	r.until("its prompt is gone", func() bool { return lie() == 1 })
	holds("done")

	away.Store(true)
	if err := r.s.bodies.Try(t.Context()); err == nil {
		t.Error("a trial succeeds while the bucket is away")
	}
	if z := r.readyz(); z.code != 503 || !strings.Contains(z.down(), "bodies: the store of bodies (s3://jobs/in) cannot be used") || strings.Contains(z.down(), "geheim") {
		t.Errorf("readiness while it is away: %+v", z)
	}
	for _, c := range [][3]string{{"POST", "/v1/jobs", large}, {"GET", "/v1/jobs/" + first, ""}} {
		if res := r.call(c[0], c[1], c[2], &job); res.StatusCode != 503 || res.Header.Get("Retry-After") == "" || job.Code != "unavailable" || job.Detail != "The store of large bodies cannot be reached." {
			t.Errorf("%s %s: %d %s, %s", c[0], c[1], res.StatusCode, job.Code, job.Detail)
		}
	}
	waits := r.submit() // a small prompt with a large answer, which was paid for
	r.until("it is asked", func() bool { calls, _ := provider.seen(); return len(calls) == 2 })
	away.Store(false)
	if j := r.final(waits); j.Status != "succeeded" {
		t.Errorf("%+v", j)
	}
	if calls, _ := provider.seen(); len(calls) != 2 {
		t.Errorf("the answer was paid for again: %d calls", len(calls))
	}
	if err := r.s.bodies.Try(t.Context()); err != nil || r.readyz().code != 200 {
		t.Errorf("readiness when it is back: %v, %+v", err, r.readyz())
	}
	for _, id := range []string{waits, first} {
		req, err := http.NewRequestWithContext(t.Context(), "DELETE", r.url+"/v1/jobs/"+id, nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Authorization", "Bearer "+r.token)
		res, err := http.DefaultClient.Do(req)
		if err != nil || res.StatusCode != 204 || res.Body.Close() != nil {
			t.Fatalf("delete: %v, %v", res, err)
		}
	}
	if n := lie(); n != 0 {
		t.Errorf("%d bodies are left of deleted jobs", n)
	}
	holds("deleted")
}
