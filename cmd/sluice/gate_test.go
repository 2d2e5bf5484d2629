package main

import (
	"strings"
	"testing"
)

// A process that cannot read the gate's state gives back what waits there within
// seconds, uncounted, so that its places are others', says so, and goes on by itself.
func TestWhatCannotPassTheGateIsGivenBack(t *testing.T) {
	t.Parallel()
	w := newWire(t, recorded(t, "anthropic/text"))
	r := outage(t, strings.NewReplacer("requests_per_minute: 6000", "requests_per_minute: 60", "request_burst: 50", "request_burst: 1").Replace(claude(w.URL)))
	rdb := r.redis.Client()
	r.final(r.submit())
	const gate, held = "sluice:limit:{claude}:gate", "sluice:{s}:hold:claude"
	kept, err := rdb.Get(t.Context(), gate).Bytes()
	if err != nil {
		t.Fatal(err)
	}
	var ids []string
	for range 4 {
		ids = append(ids, r.submit())
	}
	if err := rdb.Set(t.Context(), gate, `{"version":99}`, 0).Err(); err != nil {
		t.Fatal(err)
	}
	r.until("all of it is given back, and this is said", func() bool {
		z := r.readyz()
		return rdb.ZCard(t.Context(), held).Val() == 0 && strings.Contains(z.down(), "a newer release")
	})
	calls, _ := w.seen()
	waiting := 0
	for _, id := range ids {
		j := r.job(id)
		if j.Status == "queued" || j.Status == "retrying" {
			waiting++
		}
		if j.Attempts > 1 || j.Status == "failed" {
			t.Errorf("%+v", j)
		}
	}
	if waiting == 0 {
		t.Error("nothing waits")
	}
	if err := rdb.Set(t.Context(), gate, kept, 0).Err(); err != nil {
		t.Fatal(err)
	}
	for _, id := range ids {
		if j := r.final(id); j.Status != "succeeded" || j.Attempts != 1 {
			t.Errorf("%+v", j)
		}
	}
	if now, _ := w.seen(); len(now) != len(ids)+1 {
		t.Errorf("%d calls, %d while the gate was shut", len(now), len(calls))
	}
}
