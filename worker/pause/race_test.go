package pause

import (
	"testing"
	"time"
)

// Each of these is two processes, of which one acts on what it read before the other moved.

func TestStaleMarkIsRefused(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	a, b := w.breaker(), w.breaker()
	if err := a.Pause(t.Context(), "ada", ""); err != nil {
		t.Fatal(err)
	}
	old, err := b.look(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := a.Pause(t.Context(), "bob", ""); err != nil {
		t.Fatal(err)
	}
	if ok, err := b.mark(t.Context(), old, "own", 0); ok || err != nil {
		t.Errorf("mark on an older state: %t, %v; want it refused", ok, err)
	}
}

func TestNoProbeAfterAnOperatorsPause(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	a, b := w.breaker(), w.breaker()
	w.trip(a)
	w.pass(5 * time.Second)
	old, err := b.look(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := a.Pause(t.Context(), "ada", ""); err != nil {
		t.Fatal(err)
	}
	if fence, _ := b.takeProbe(t.Context(), old); fence != 0 {
		t.Error("got the lease to probe under an operator's pause")
	}
}

func TestOwnPauseIsNotAdopted(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	a, b := w.breaker(), w.breaker()
	// Open, and nothing done about it yet.
	limit := verdictArgs(args{"goods": 0, "good_age": 0, "kind": string(Spend), "age": 0}, Verdict{Kind: Spend})
	if _, _, err := a.run(t.Context(), a.script.record, a.rules(limit)); err != nil {
		t.Fatal(err)
	}
	old, err := b.look(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	w.step(a)
	if ok, err := b.adopt(t.Context(), old); ok || err != nil {
		t.Errorf("adopt another process's pause: %t, %v; want it refused", ok, err)
	}
	if s := w.state(a); s.PausedBy != ByBreaker {
		t.Errorf("got %+v", s)
	}
}

func TestPauseJustAfterAResumeIsLeftForAWhile(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	b := w.breaker()
	if err := b.Pause(t.Context(), "ada", ""); err != nil {
		t.Fatal(err)
	}
	if err := b.Resume(t.Context(), "ada"); err != nil {
		t.Fatal(err)
	}
	// Nobody can tell yet whether this is a late pause of ours or a human's.
	if err := (queue{w, w.rdb}).Pause(t.Context(), pool); err != nil {
		t.Fatal(err)
	}
	w.pass(adoptGrace - time.Second)
	w.step(b)
	if s := w.state(b); s.Paused || !w.queuePaused() {
		t.Errorf("within the grace: %+v, queue paused %t; want it neither adopted nor undone", s, w.queuePaused())
	}
	w.pass(time.Second)
	w.step(b)
	if s := w.state(b); s.PausedBy != ByOperator || !w.queuePaused() {
		t.Errorf("after the grace: %+v, queue paused %t; want it adopted", s, w.queuePaused())
	}
}
