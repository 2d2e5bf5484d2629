package pause

import (
	"testing"
	"time"
)

// A pause until a time ends then, once, whichever process runs, and whatever became of
// the one that took it. All that replaces it replaces its end too.
func TestAPauseUntilATimeEndsThen(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		meanwhile func(w *world, b *Breaker) error // in the hour before its end
		paused    bool                             // after it
		resumes   int                              // in the audit
	}{
		"nothing":              {func(*world, *Breaker) error { return nil }, false, 1},
		"it is resumed before": {func(w *world, b *Breaker) error { return b.Resume(w.t.Context(), "bob") }, false, 1},
		"paused again for good": {func(w *world, b *Breaker) error {
			return b.Pause(w.t.Context(), "ada", "maintenance")
		}, true, 0},
		"paused again for longer": {func(w *world, b *Breaker) error {
			return b.PauseUntil(w.t.Context(), "ada", "maintenance", w.now().Add(3*time.Hour))
		}, true, 0},
		"resumed and paused for good": {func(w *world, b *Breaker) error {
			w.must(b.Resume(w.t.Context(), "bob"))
			w.pass(time.Second)
			return b.Pause(w.t.Context(), "ada", "maintenance")
		}, true, 1},
		"paused for good by release 0.1.0": {func(w *world, b *Breaker) error {
			return w.rdb.HSet(w.t.Context(), b.key, "op_by", "bob", "op_why", "no").Err()
		}, true, 0},
		"same end, other words": {func(w *world, b *Breaker) error {
			return b.PauseUntil(w.t.Context(), "bob", "typo", w.now().Add(time.Hour))
		}, false, 1},
		"Redis loses the state": {func(w *world, b *Breaker) error {
			w.must(w.rdb.Del(w.t.Context(), b.key).Err())
			w.step(b) // a process that remembers runs
			return nil
		}, false, 1},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			took, runs := w.breaker(), w.breaker()
			until := w.now().Add(time.Hour)
			w.must(took.PauseUntil(t.Context(), "ada", "maintenance", until))
			w.step(runs)
			if s := w.state(runs); !s.Paused || s.PausedBy != ByOperator || !s.ExpectedResumeAt.Equal(until) {
				t.Fatalf("it is %+v, want a pause until %v", s, until)
			}
			w.must(c.meanwhile(w, runs))
			w.pass(59 * time.Minute)
			for _, b := range []*Breaker{runs, w.breaker(), runs} {
				w.pass(time.Minute)
				w.step(b)
			}
			if s := w.state(runs); s.Paused != c.paused || w.queuePaused() != c.paused {
				t.Errorf("after its end: %+v, the queue paused %t", s, w.queuePaused())
			}
			entries, err := runs.Audit(t.Context(), 10)
			resumes := 0
			for _, e := range entries {
				if e.Action == "resume" {
					resumes++
				}
			}
			if first := entries[len(entries)-1]; err != nil || resumes != c.resumes || !first.Until.Equal(until) || first.By != "ada" {
				t.Errorf("the audit is %+v, %v; want %d resumes", entries, err, c.resumes)
			}
		})
	}
}

// The end of a pause is no word about the provider: a breaker that is open stays so.
func TestTheEndOfAPauseLeavesTheBreakerAsItIs(t *testing.T) {
	t.Parallel()
	for name, v := range map[string]Verdict{"down": bad, "spending limit": {Kind: Spend}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			b := w.breaker()
			w.must(b.PauseUntil(t.Context(), "ada", "maintenance", w.now().Add(time.Minute)))
			w.must(w.records(b, 0, v, 0)())
			if v.Kind == Bad {
				w.trip(b)
			}
			w.pass(61 * time.Second)
			w.must(w.runs(b, b.script.lapse, args{})())
			if s := w.state(b); s.PausedBy != ByBreaker {
				t.Errorf("it is %+v, want it held by the breaker", s)
			}
		})
	}
}
