package pause

import (
	"testing"
	"time"
)

// A simulation goes through an outage by its own clock: the rounds say when the next is due, the
// gate is held, probes are made, and once the provider is back the breaker closes.
func TestASimulationStepsThroughAnOutage(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	b, err := New(Config{Redis: w.rdb, Pool: pool, Queue: queue{w, w.rdb}, Gate: w, Probe: w.probe, Now: w.now, Random: func() float64 { return 0.5 }})
	if err != nil {
		t.Fatal(err)
	}
	step := func(seconds int) (s State) {
		t.Helper()
		for end := w.now().Add(time.Duration(seconds) * time.Second); w.now().Before(end); {
			again, err := b.Step(t.Context())
			if err != nil || again <= 0 {
				t.Fatalf("%v, %v", again, err)
			}
			w.pass(again)
		}
		if s, err = b.State(t.Context()); err != nil {
			t.Fatal(err)
		}
		return s
	}
	if s := step(3); s.Paused || w.probes > 0 {
		t.Fatalf("with no failure: %+v, %d probes", s, w.probes)
	}
	for range 20 {
		if err := b.Record(t.Context(), Verdict{Kind: Bad, Reason: "overloaded"}); err != nil {
			t.Fatal(err)
		}
	}
	if s := step(20); !s.Paused || w.probes < 2 || !w.held.After(w.now()) {
		t.Fatalf("in the outage: %+v, %d probes, held until %v", s, w.probes, w.held)
	}
	w.answers(Verdict{Kind: Good})
	if s := step(20); s.Paused {
		t.Fatalf("after it: %+v", s)
	}
}
