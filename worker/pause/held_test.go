package pause

import (
	"context"
	"testing"
	"time"
)

// patient is a breaker that asks a model, and hands the test each question.
func (w *world) patient(questions chan<- chan<- Verdict) *Breaker {
	c := w.config(w.rdb)
	c.Ask = func(ctx context.Context, _ string, _ []string) (Verdict, error) {
		answer := make(chan Verdict)
		questions <- answer
		return <-answer, nil
	}
	return w.build(c)
}

// waits has a job of the model ask how long it waits, past the cache.
func (w *world) waits(b *Breaker, model string) time.Duration {
	w.t.Helper()
	w.state(b)
	return b.Held(w.t.Context(), model)
}

// A model that is held back is tried at the moment that is told, also for a single
// job, and jobs that wait for it follow soon after one another; where they are more than
// that has room for, they come within as long again.
func TestTheFirstJobOfAHeldModelComesWhenItIsTried(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	questions := make(chan chan<- Verdict)
	one, other := w.patient(questions), w.patient(questions)
	hold := func(want time.Duration) {
		t.Helper()
		for _, b := range []*Breaker{one, other} {
			if got := w.waits(b, "bad"); got != want {
				t.Errorf("the first job waits %v, want %v", got, want)
			}
			for i := 1; i < 16; i++ {
				if got, want := w.waits(b, "bad"), want+time.Duration(i)*turn; got != want {
					t.Errorf("job %d waits %v, want %v", i, got, want)
				}
			}
		}
	}
	if err := one.HoldModel(t.Context(), "bad", "overloaded", 0); err != nil {
		t.Fatal(err)
	}
	hold(3750 * time.Millisecond) // three quarters of 5 s, by the dice of the test
	if got := w.waits(one, "well"); got != 0 {
		t.Errorf("a job of another model waits %v", got)
	}

	// While one process tries it, nobody waits for the end of its lease.
	w.pass(3750 * time.Millisecond)
	trial := func() <-chan time.Duration {
		done := make(chan time.Duration, 1)
		w.state(one)
		go func() { done <- one.Held(t.Context(), "bad") }()
		return done
	}
	mine := trial()
	answer := <-questions
	if got := w.waits(other, "bad"); got != time.Second {
		t.Errorf("beside a trial that has just begun a job waits %v, want a second", got)
	}
	w.pass(4 * time.Second)
	if got := w.waits(other, "bad"); got != 4*time.Second+turn {
		t.Errorf("beside a trial of 4 s the next job waits %v, want as long and its turn", got)
	}
	answer <- Verdict{Kind: Bad, Reason: "overloaded"}
	if got, want := <-mine, 7500*time.Millisecond; got != want {
		t.Errorf("who tried in vain waits %v, want %v", got, want)
	}

	// Too many for turns.
	for range 400 {
		if got := w.waits(other, "bad"); got < 7500*time.Millisecond || got > 15*time.Second {
			t.Fatalf("one of many waits %v, want from 7.5 s to 15 s", got)
		}
	}

	// Who finds that another process has seen the model well waits no more.
	w.pass(7500 * time.Millisecond)
	w.state(other) // it is still held back there
	mine = trial()
	answer = <-questions
	answer <- Verdict{Kind: Good}
	if got := <-mine; got != 0 {
		t.Errorf("who tried with success waits %v", got)
	}
	if got := other.Held(t.Context(), "bad"); got != 0 {
		t.Errorf("who asks for the trial of a model that is well waits %v", got)
	}
	if s := w.state(one); len(s.Models) != 0 {
		t.Errorf("still held back: %v", s.Models)
	}
	if w.waits(one, "bad"); len(one.line.end) > 1 {
		t.Errorf("%d models are kept in line", len(one.line.end))
	}
}

// Jobs that can be sent elsewhere have a model tried, and stand in nobody's way.
func TestWhoTriesAModelForOthersTakesNoPlaceInTheLine(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	questions := make(chan chan<- Verdict, 1)
	b := w.patient(questions)
	if !b.Shut() {
		t.Error("calls are made before it is known whether the pool is paused")
	}
	if err := b.HoldModel(t.Context(), "bad", "overloaded", 0); err != nil {
		t.Fatal(err)
	}
	for range 20 {
		b.TryModel(t.Context(), "bad")
		b.TryModel(t.Context(), "well")
	}
	if len(questions) > 0 {
		t.Error("a model is tried before that is due")
	}
	if got, want := w.waits(b, "bad"), 3750*time.Millisecond; got != want {
		t.Errorf("the first job waits %v, want %v", got, want)
	}
	w.pass(3750 * time.Millisecond)
	w.state(b)
	done := make(chan struct{})
	go func() { defer close(done); b.TryModel(t.Context(), "bad") }()
	answer := <-questions
	answer <- Verdict{Kind: Good}
	<-done
	if b.Sick("bad") || b.Shut() {
		t.Errorf("a model that is well is held back: %+v", w.state(b))
	}
	if err := b.Pause(t.Context(), "ann", "a test"); err != nil {
		t.Fatal(err)
	}
	if w.state(b); !b.Shut() {
		t.Error("calls are made while the pool is paused")
	}
}
