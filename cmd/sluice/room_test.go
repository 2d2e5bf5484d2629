package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/sluicehq/sluice/tasks"
	"github.com/sluicehq/sluice/tasks/redistest"
)

// large is a provider's answer with a text of so many bytes, and few tokens, so that the
// pace does not hold it back.
func large(t *testing.T, n int) []byte {
	t.Helper()
	body, err := json.Marshal(map[string]any{
		"id": "msg_1", "type": "message", "role": "assistant", "model": "claude-sonnet-4-5", "stop_reason": "end_turn",
		"content": []any{map[string]string{"type": "text", "text": strings.Repeat("x", n)}}, "usage": map[string]int{"input_tokens": 5, "output_tokens": 10},
	})
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Appendf(nil, "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%s", len(body), body)
}

// Results filled Redis until nothing moved, and everything said that it was ready: of
// 1,500 accepted jobs 539 waited for good. Now intake says no first.
func TestWhatIsAcceptedHasRoomToEndIn(t *testing.T) {
	t.Parallel()
	const size = 200_000
	w := newWire(t, large(t, size))
	server := redistest.Start(t, redistest.Options{Args: []string{"--maxmemory", "10mb"}})
	r := outageOn(t, server, "", claude(w.URL))
	var ids []string
	full := func() bool {
		var p struct{ ID, Code string }
		res := r.call("POST", "/v1/jobs", `{"model":"claude-sonnet-4-5","prompt":"hello","max_tokens":60000}`, &p)
		if res.StatusCode == http.StatusAccepted {
			ids = append(ids, p.ID)
			return false
		}
		if res.StatusCode != http.StatusServiceUnavailable || p.Code != "store_full" || res.Header.Get("Retry-After") == "" {
			t.Fatalf("refused with %s %s", res.Status, p.Code)
		}
		return true
	}
	for !full() {
	}
	r.until("all have ended", func() bool {
		load, err := r.s.store.Load(t.Context(), "claude")
		return err == nil && load.Queued == 0 && load.Running == 0
	})
	page, err := r.s.store.Jobs(t.Context(), tasks.Filter{Tenant: "acme", Status: tasks.StatusSucceeded, Limit: 100})
	if err != nil || len(page.Jobs) != len(ids) {
		t.Errorf("%d of %d jobs have succeeded, %v", len(page.Jobs), len(ids), err)
	}
	if len(ids) < 8 || len(ids) > 10<<20/size {
		t.Errorf("%d jobs were taken in, of %d bytes each", len(ids), size)
	}
	if p := r.pool("claude"); p.State == "paused" || r.said.count("paused: redis is nearly full") != 0 {
		t.Errorf("intake did not say no first: the pool is %+v", p)
	}
	// Room is made, and work comes in again.
	for _, id := range ids {
		if err := r.s.store.Delete(t.Context(), "acme", id); err != nil {
			t.Fatal(err)
		}
	}
	r.until("work comes in again", func() bool { return !full() })
}

// Redis that is full all the same pauses the pools, loses no answer that was paid for,
// and goes on by itself when there is room.
func TestAFullRedisPausesThePoolsUntilThereIsRoom(t *testing.T) {
	t.Parallel()
	w := newWire(t, recorded(t, "anthropic/text"))
	w.gather = -1
	server := redistest.Start(t, redistest.Options{AOF: "always", Args: []string{"--maxmemory", "100mb"}})
	admin := server.Client()
	r := outageOn(t, server, "", claude(w.URL))
	running := r.submit()
	r.until("its call is made", func() bool { calls, _ := w.seen(); return len(calls) == 1 })
	set := func(most string) {
		t.Helper()
		if err := admin.ConfigSet(t.Context(), "maxmemory", most).Err(); err != nil {
			t.Fatal(err)
		}
	}
	if err := admin.Set(t.Context(), "of another program", bytes.Repeat([]byte("x"), 8<<20), 0).Err(); err != nil {
		t.Fatal(err)
	}
	var ids []string
	for range 3 {
		ids = append(ids, r.submit())
	}
	set("6mb") // far below what is in use
	r.until("the pool is paused", func() bool { return r.pool("claude").PausedBy == "memory" })
	p := r.pool("claude")
	if p.State != "paused" || !strings.Contains(p.Reason, "redis is nearly full") || p.Resume != nil {
		t.Errorf("the pool: %+v", p)
	}
	close(w.held)
	if j := r.final(running); j.Status != "succeeded" || j.Attempts != 1 {
		t.Errorf("the answer that came into a full Redis: %+v", j)
	}
	r.until("it says so", func() bool {
		z := r.readyz()
		return z.code == http.StatusServiceUnavailable && strings.Contains(z.notices(), "the pools are paused")
	})
	var out struct{ Code string }
	if res := r.call("POST", "/v1/jobs", hello, &out); res.StatusCode != http.StatusServiceUnavailable || out.Code != "store_full" {
		t.Errorf("a submit: %s, %s", res.Status, out.Code)
	}
	set("100mb")
	for _, id := range ids {
		if j := r.final(id); j.Status != "succeeded" || j.Attempts != 1 {
			t.Errorf("what waited: %+v", j)
		}
	}
	r.until("the pool is open", func() bool { return r.pool("claude").State == "open" })
}
