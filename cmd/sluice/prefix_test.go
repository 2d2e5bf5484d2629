package main

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/sluicehq/sluice/tasks/redistest"
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
