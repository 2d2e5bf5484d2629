package main

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

func TestHostOfTheOpsPort(t *testing.T) {
	t.Parallel()
	server := httptest.NewServer(hosted([]string{"Metrics.internal"}, http.HandlerFunc(func(http.ResponseWriter, *http.Request) {})))
	defer server.Close()
	for _, c := range []struct {
		host, path string
		want       int
	}{
		{"127.0.0.1:9090", "/metrics", 200},
		{"10.1.2.3", "/metrics", 200},
		{"[::1]:9090", "/metrics", 200},
		{"localhost:9090", "/debug/pprof/cmdline", 200},
		{"LocalHost.", "/metrics", 200},
		{"api.localhost:9090", "/metrics", 200},
		{"metrics.INTERNAL:9090", "/metrics", 200},
		{"evil.example:9090", "/metrics", 421},
		{"evil.example", "/debug/pprof/heap", 421},
		{"evil.example", "/nothing", 421},
		{"localhost.evil.example", "/metrics", 421},
		{"127.0.0.1.evil.example", "/metrics", 421},
		{"metrics.internal.evil.example", "/metrics", 421},
		{"notlocalhost", "/metrics", 421},
		{"evil.example:9090", "/healthz", 200},
		{"evil.example:9090", "/readyz", 200},
		{"evil.example:9090", "/readyz/", 421},
	} {
		r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, server.URL+c.path, nil)
		if err != nil {
			t.Fatal(err)
		}
		r.Host = c.host
		answer, err := server.Client().Do(r)
		if err != nil {
			t.Fatal(err)
		}
		if got := statusOf(t, answer); got != c.want {
			t.Errorf("%s under the Host %s: %d, want %d", c.path, c.host, got, c.want)
		}
	}
	w := httptest.NewRecorder()
	r := httptest.NewRequestWithContext(t.Context(), http.MethodGet, "http://evil.example/metrics", nil)
	if server.Config.Handler.ServeHTTP(w, r); !strings.Contains(w.Body.String(), "ops_hosts") {
		t.Errorf("it does not say what to do: %q", w.Body)
	}
}

// A process stays below what its container may use, beside an embedded Redis too.
func TestMemoryStaysBelowTheContainers(t *testing.T) {
	for _, c := range []struct{ container, redis, want int64 }{
		{0, 0, 0},
		{0, 1 << 30, 0},
		{1000, 0, 900},
		{1000, 500, 400},
		{1000, 950, 100},
	} {
		if got := softMemory(c.container, c.redis); got != c.want {
			t.Errorf("in a container of %d, beside a Redis of %d, it is %d; want %d", c.container, c.redis, got, c.want)
		}
	}
}
