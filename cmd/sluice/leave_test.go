package main_test

import (
	"context"
	"net/http"
	"regexp"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/sluicehq/sluice/tasks/redistest"
)

// A proxy that keeps its connections loses no request to a stop: an API says first
// that it goes, answers until that was heard, and closes no connection that a request
// may be on.
func TestAnAPIThatStopsIsLeftFirst(t *testing.T) {
	t.Parallel()
	redis := redistest.Start(t, redistest.Options{})
	api := start(t, []string{"SLUICE_REDIS__URL=" + redis.URL(), "SLUICE_DRAIN_DELAY=700ms"}, "api")
	address := ""
	eventually(t, "the API listens", func() bool {
		m := regexp.MustCompile(`"msg":"listening","address":"([^"]+)"`).FindStringSubmatch(api.stderr.String())
		if m != nil {
			address = m[1]
		}
		return m != nil
	})
	bearer := token(t, "acme")
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	var accepted, closing atomic.Int64
	var heard atomic.Bool // that it goes: a proxy asks elsewhere from then on
	var callers sync.WaitGroup
	transport := &http.Transport{MaxIdleConnsPerHost: 8}
	defer transport.CloseIdleConnections()
	for range 4 {
		callers.Go(func() {
			for ctx.Err() == nil && !heard.Load() {
				// A body that cannot be had again: no request is sent twice in silence.
				req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://"+address+"/v1/jobs", struct{ *strings.Reader }{strings.NewReader(prompt("claude-sonnet-4-5", "hello"))})
				if err != nil {
					t.Error(err)
					return
				}
				req.Header.Set("Authorization", "Bearer "+bearer)
				req.Header.Set("Content-Type", "application/json")
				res, err := transport.RoundTrip(req)
				if err != nil {
					t.Errorf("a submit was cut off: %v", err)
					return
				}
				res.Body.Close()
				if res.StatusCode == http.StatusAccepted {
					accepted.Add(1)
				} else {
					t.Errorf("a submit was answered with %d", res.StatusCode)
				}
				if res.Close {
					closing.Add(1)
				}
			}
		})
	}
	eventually(t, "submits go through", func() bool { return accepted.Load() > 20 })
	api.signal(syscall.SIGTERM)
	eventually(t, "readiness says that it stops", func() bool {
		res, err := http.Get("http://" + api.ops() + "/readyz")
		if err != nil {
			return false
		}
		defer res.Body.Close()
		return res.StatusCode == http.StatusServiceUnavailable
	})
	eventually(t, "answers close their connections", func() bool { return closing.Load() > 3 })
	heard.Store(true)
	callers.Wait()
	if code := api.exits(); code != 0 {
		t.Errorf("exit code %d", code)
	}
}
