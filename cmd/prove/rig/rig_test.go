package rig

import (
	"bufio"
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestReadAnswer(t *testing.T) {
	for _, c := range []struct {
		name, wire string
		status     int
		body       string
		bad        bool
	}{
		{"length", "HTTP/1.1 202 Accepted\r\nContent-Length: 5\r\nX-A: b\r\n\r\nhelloHTTP", 202, "hello", false},
		{"length in other letters", "HTTP/1.1 200 OK\r\ncontent-length:  2 \r\n\r\nok", 200, "ok", false},
		{"chunks", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\nA\r\n0123456789\r\n0\r\n\r\n", 200, "abc0123456789", false},
		{"no body", "HTTP/1.1 204 No Content\r\n\r\n", 204, "", false},
		{"cut", "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhel", 0, "", true},
		{"not HTTP", "hello\r\n\r\n", 0, "", true},
	} {
		a, err := readAnswer(bufio.NewReader(strings.NewReader(c.wire)))
		if (err != nil) != c.bad {
			t.Errorf("%s: error %v, want one: %v", c.name, err, c.bad)
			continue
		}
		if !c.bad && (a.Status != c.status || string(a.Body) != c.body) {
			t.Errorf("%s: got %d %q, want %d %q", c.name, a.Status, a.Body, c.status, c.body)
		}
	}
}

func TestCounters(t *testing.T) {
	text := `# HELP sluice_gate_acquires_total Questions.
# TYPE sluice_gate_acquires_total counter
sluice_gate_acquires_total{pool="p",result="granted"} 7
sluice_gate_acquires_total{pool="p",result="booked"} 1.5e+01
sluice_gate_acquires_totals 100
# TYPE sluice_redis_calls_total counter
sluice_redis_calls_total 42
`
	sum, err := counters(strings.NewReader(text))
	for name, want := range map[string]float64{"sluice_gate_acquires_total": 22, "sluice_redis_calls_total": 42, "absent": 0} {
		if err != nil || sum[name] != want {
			t.Errorf("%s is %v, %v; want %v", name, sum[name], err, want)
		}
	}
}

// An API that goes away closes the connections that its callers kept: one that
// was idle is replaced, and only what is refused counts as repeated.
func TestAClientAsksAgain(t *testing.T) {
	var calls atomic.Int64
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if key := r.Header.Get("Idempotency-Key"); key != "k" {
			t.Errorf("the key is %q, want k", key)
		}
		if calls.Add(1) == 2 {
			w.WriteHeader(http.StatusServiceUnavailable)
			return
		}
		w.WriteHeader(http.StatusAccepted)
		_, _ = w.Write([]byte(`{"id":"job_1"}`))
	}))
	defer server.Close()
	c := (&Stage{Addrs: []string{server.Listener.Addr().String()}}).Client()
	defer c.Close()
	for i, want := range []struct{ calls, retries int64 }{{1, 0}, {3, 1}, {4, 1}} {
		id, err := c.Submit(t.Context(), "k", "p", 1)
		if err != nil || id != "job_1" || calls.Load() != want.calls || c.Retries.Load() != want.retries {
			t.Errorf("submit %d: %q, %v, %d calls, %d repeated; want job_1, %+v", i, id, err, calls.Load(), c.Retries.Load(), want)
		}
		server.CloseClientConnections()
	}
}

func TestADoEndsWithItsContext(t *testing.T) {
	arrived := make(chan struct{})
	server := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		close(arrived)
		<-r.Context().Done()
	}))
	defer server.Close()
	ctx, cancel := context.WithCancel(t.Context())
	go func() { <-arrived; cancel() }()
	c, err := Dial(ctx, server.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if a, err := c.Do(ctx, Request(http.MethodGet, "x", "/", nil)); !errors.Is(err, context.Canceled) {
		t.Errorf("got %+v, %v; want that the context was canceled", a, err)
	}
}
