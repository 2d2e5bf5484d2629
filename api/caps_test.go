package api_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/sluicehq/sluice/api"
	"github.com/sluicehq/sluice/api/auth"
	"github.com/sluicehq/sluice/api/caps"
)

func TestBadTokensAreSlowedAndAValidOneNever(t *testing.T) {
	t.Parallel()
	s := serve(t, func(c *api.Config) { c.Caps = room(t, caps.Config{FailedTokens: 3}) })
	for range 3 {
		s.call("GET", "/v1/jobs", "nonsense", nil).want(t, 401, "unauthorized")
	}
	for range 3 {
		if r := s.call("GET", "/v1/jobs", "nonsense", nil).want(t, 429, "too_many_failures"); r.Header.Get("Retry-After") == "" {
			t.Error("no Retry-After")
		}
		s.call("GET", "/v1/jobs", reader, nil).want(t, 200)
	}
	// Who sends none guesses none.
	s.call("GET", "/v1/jobs", "", nil).want(t, 401, "unauthorized")
}

// sending begins a request whose body has begun and does not end before end is called.
func (s *site) sending(path, token, begin string) (end func(rest string) int) {
	s.t.Helper()
	r, w := io.Pipe()
	media := map[string]string{"/v1/jobs": "application/json", "/v1/batches": "application/x-ndjson"}[path]
	status := make(chan int, 1)
	go func() {
		res, err := s.client.Do(s.request(s.t.Context(), "POST", path, token, io.Reader(r), "Content-Type", media))
		if err != nil {
			status <- 0
			return
		}
		_ = res.Body.Close()
		status <- res.StatusCode
	}()
	if _, err := io.WriteString(w, begin); err != nil {
		s.t.Fatal(err)
	}
	return func(rest string) int {
		_, _ = io.WriteString(w, rest)
		_ = w.Close()
		return <-status
	}
}

func TestOneTenantsBodiesLeaveRoomForOthers(t *testing.T) {
	t.Parallel()
	s := serve(t, func(c *api.Config) {
		c.Caps = room(t, caps.Config{BodyBytes: 520 << 10, BodyPatience: time.Millisecond})
		// As in a process: what follows a token reads the body beside what counts it.
		c.Follow = func(ctx context.Context, _ auth.Claims) (context.Context, func()) { return ctx, func() {} }
	})
	long := func(n int) string { return `{"model":"claude-x","prompt":"` + strings.Repeat("a", n) }
	end := s.sending("/v1/jobs", writer, long(140<<10))
	until(t, "the first body is counted", func() bool {
		r := s.call("POST", "/v1/jobs", writer, long(20<<10)+`"}`)
		if r.StatusCode == 429 {
			r.want(t, 429, "too_many_requests")
		}
		return r.StatusCode == 429 && r.Header.Get("Retry-After") != ""
	})
	s.call("POST", "/v1/jobs", other, long(70<<10)+`"}`).want(t, 202)
	if got := end(`"}`); got != 202 {
		t.Errorf("the long body: %d, want 202", got)
	}
	s.call("POST", "/v1/jobs", writer, long(140<<10)+`"}`).want(t, 202) // all was given back

	var bomb bytes.Buffer
	z := gzip.NewWriter(&bomb)
	_, _ = io.WriteString(z, long(400<<10)+`"}`)
	_ = z.Close()
	s.call("POST", "/v1/jobs", writer, bomb.Bytes(), "Content-Encoding", "gzip").want(t, 429, "too_many_requests")
	// A batch holds no more than what is not staged yet.
	s.call("POST", "/v1/batches", writer, strings.Repeat(long(60)+"\"}\n", 3000), "Content-Type", "application/x-ndjson").want(t, 202)
}

func TestATenantSendsFewBatchesAtOnce(t *testing.T) {
	t.Parallel()
	s := serve(t, func(c *api.Config) { c.Caps = room(t, caps.Config{TenantUploads: 1}) })
	line := `{"model":"claude-x","prompt":"x"}` + "\n"
	end := s.sending("/v1/batches", writer, line)
	until(t, "the first batch is counted", func() bool {
		r := s.call("POST", "/v1/batches", writer, line, "Content-Type", "application/x-ndjson")
		return r.StatusCode == 429
	})
	if r := s.call("POST", "/v1/batches", writer, line, "Content-Type", "application/x-ndjson").want(t, 429, "too_many_requests"); r.Header.Get("Retry-After") == "" {
		t.Error("no Retry-After")
	}
	s.call("POST", "/v1/batches", other, line, "Content-Type", "application/x-ndjson").want(t, 202)
	s.call("POST", "/v1/jobs", writer, hello).want(t, 202)
	if got := end(line); got != 202 {
		t.Errorf("the first batch: %d, want 202", got)
	}
	s.call("POST", "/v1/batches", writer, line, "Content-Type", "application/x-ndjson").want(t, 202)
}

func TestATenantWithTooManyRequestsIsToldSo(t *testing.T) {
	t.Parallel()
	s := serve(t, func(c *api.Config) { c.Caps = room(t, caps.Config{TenantRequests: 1}) })
	end := s.sending("/v1/jobs", writer, `{"model":"claude-x",`)
	until(t, "the first request is counted", func() bool {
		return s.call("GET", "/v1/jobs", reader, nil).StatusCode == http.StatusTooManyRequests
	})
	s.call("GET", "/v1/jobs", other, nil).want(t, 200)
	if got := end(`"prompt":"x"}`); got != 202 {
		t.Errorf("the first request: %d, want 202", got)
	}
	until(t, "its place is free", func() bool { return s.call("GET", "/v1/jobs", reader, nil).StatusCode == 200 })
}
