package pause

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
)

var (
	good = Verdict{Kind: Good}
	bad  = Verdict{Kind: Bad, Reason: "overloaded"}
)

// many is n times v.
func many(n int, v Verdict) []Verdict { return slices.Repeat([]Verdict{v}, n) }

func TestTripRules(t *testing.T) {
	t.Parallel()
	type event struct {
		after time.Duration
		n     int
		v     Verdict
	}
	long := func(v Verdict, took time.Duration) Verdict { v.Took = took; return v }
	for _, tt := range []struct {
		name   string
		events []event
		want   Name
	}{
		{"four failures are few", []event{{0, 4, bad}}, Closed},
		{"five in a row, no success ever", []event{{0, 5, bad}}, Open},
		{"five in a row, success four seconds ago", []event{{0, 1, good}, {4 * time.Second, 5, bad}}, Closed},
		{"five in a row, success five seconds ago", []event{{0, 1, good}, {5 * time.Second, 5, bad}}, Open},
		{"eight in a row at once", []event{{0, 9, good}, {100 * time.Millisecond, 8, bad}}, Closed},
		{"eight in a row over a second", []event{{0, 9, good}, {100 * time.Millisecond, 7, bad}, {time.Second, 1, bad}}, Open},
		{"eight in a row over half a second", []event{{0, 9, good}, {100 * time.Millisecond, 7, bad}, {500 * time.Millisecond, 1, bad}}, Open},
		{"eight in a row at once", []event{{0, 9, good}, {100 * time.Millisecond, 8, bad}}, Closed},
		{"seven in a row over a second", []event{{0, 9, good}, {100 * time.Millisecond, 6, bad}, {time.Second, 1, bad}}, Closed},
		{"a success between ends the row", []event{{0, 9, good}, {100 * time.Millisecond, 6, bad}, {time.Second, 1, good}, {time.Second, 2, bad}}, Closed},
		{"a success sent before the row does not end it", []event{{0, 30, good}, {100 * time.Millisecond, 6, bad}, {time.Second, 1, long(good, 3*time.Second)}, {time.Second, 2, bad}}, Open},
		{"twenty in a row at once", []event{{0, 100, good}, {100 * time.Millisecond, 20, bad}}, Open},
		{"nineteen in a row at once", []event{{0, 100, good}, {100 * time.Millisecond, 19, bad}}, Closed},
		{"half of twenty", []event{{0, 7, good}, {time.Millisecond, 7, bad}, {time.Millisecond, 3, good}, {time.Millisecond, 3, bad}}, Open},
		{"half of nineteen and a bit", []event{{0, 9, good}, {time.Millisecond, 5, bad}, {time.Millisecond, 1, good}, {time.Millisecond, 4, bad}}, Closed},
		{"less than half", []event{{0, 11, good}, {time.Millisecond, 5, bad}, {time.Millisecond, 1, good}, {time.Millisecond, 5, bad}}, Closed},
		{"what is older than the window is forgotten", []event{{0, 1, good}, {0, 4, bad}, {0, 1, good}, {0, 4, bad}, {11 * time.Second, 6, good}, {0, 4, bad}}, Closed},
		{"a spend cap", []event{{0, 100, good}, {0, 1, Verdict{Kind: Spend}}}, Open},
		{"a refused key", []event{{0, 100, good}, {0, 1, Verdict{Kind: Unauthorized}}}, Open},
		{"what says nothing", []event{{0, 100, Verdict{}}}, Closed},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			b := w.breaker()
			for _, e := range tt.events {
				w.pass(e.after)
				for i, v := range many(e.n, e.v) {
					if i == e.n-1 && e.v.Kind == Good {
						b.goods.flushed = time.Time{} // the last of them counts all
					}
					w.record(b, v)
				}
			}
			got := w.state(b)
			if got.Name != tt.want {
				t.Errorf("got %s (%s), want %s", got.Name, got.Reason, tt.want)
			}
			if open := tt.want == Open; w.queuePaused() != open || (w.flow() == 0) != open {
				t.Errorf("state %s, but queue paused: %t, gate at %v", got.Name, w.queuePaused(), w.flow())
			}
		})
	}
}

func TestGateIsHeldBeforeTheQueueIsPaused(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.trip(w.breaker())
	if got := strings.Join(w.log, ", "); !strings.HasPrefix(got, "hold, pause") {
		t.Errorf("got %s, want hold before pause", got)
	}
}

func TestAResumeSaysThatTheGateIsStillHeld(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	b := w.breaker()
	cfg := w.config(w.rdb)
	cfg.Gate, cfg.Probe = nil, nil
	api := w.build(cfg)
	for _, c := range []struct {
		what         string
		do           func() error
		paused, held bool
	}{
		{"new", func() error { return nil }, false, false},
		{"paused", func() error { return api.Pause(t.Context(), "ada", "") }, true, false},
		{"paused for a while", func() error { return b.step(t.Context()) }, true, false},
		{"resumed", func() error { return api.Resume(t.Context(), "ada") }, false, true},
		{"resumed for a while", func() error { return b.step(t.Context()) }, false, false},
	} {
		if err := c.do(); err != nil {
			t.Fatalf("%s: %v", c.what, err)
		}
		if s := w.state(b); s.Paused != c.paused || s.Held != c.held {
			t.Errorf("%s: paused %t, held %t; want %t, %t", c.what, s.Paused, s.Held, c.paused, c.held)
		}
	}
}

func TestFullPaceWithinTwentySecondsOfRecovery(t *testing.T) {
	t.Parallel()
	for _, rnd := range []float64{0, 0.5, 0.999} {
		for _, outage := range []time.Duration{time.Second, 17 * time.Second, 3 * time.Minute} {
			t.Run(fmt.Sprint(rnd, outage), func(t *testing.T) {
				t.Parallel()
				w := newWorld(t)
				w.rnd = rnd
				b := w.breaker()
				w.trip(b)
				for began := w.at; w.at.Sub(began) < outage; w.pass(250 * time.Millisecond) {
					w.step(b)
				}
				if want := max(1, int(outage/(10*time.Second))); outage > time.Second && w.probes < want {
					t.Errorf("%d probes in %s, want at least %d", w.probes, outage, want)
				}
				w.answers(good)
				back := w.at
				took := w.until(b, SlowStart, 6*time.Second)
				if took > 5500*time.Millisecond {
					t.Errorf("noticed and closed %s after the recovery, want at most the probe interval", took)
				}
				if w.queuePaused() {
					t.Error("queue is still paused")
				}
				last := 0.0
				for w.flow() < 1 {
					if w.flow() < last {
						t.Errorf("pace fell from %v to %v", last, w.flow())
					}
					last = w.flow()
					w.pass(250 * time.Millisecond)
					w.step(b)
				}
				if got := w.at.Sub(back); got > 20*time.Second+500*time.Millisecond {
					t.Errorf("full pace %s after the recovery, want at most 20 s", got)
				}
				w.pass(slowStart)
				if s := w.state(b); s.Name != Closed || s.Paused || s.Pace != 1 {
					t.Errorf("in the end: %+v", s)
				}
			})
		}
	}
}

func TestFalseAlarmIsOverWithinAProbeInterval(t *testing.T) {
	t.Parallel()
	for _, rnd := range []float64{0, 0.999} {
		w := newWorld(t)
		w.rnd = rnd
		b := w.breaker()
		w.trip(b)
		w.answers(good)
		if got := w.until(b, SlowStart, 10*time.Second); got > 5*time.Second {
			t.Errorf("jitter %v: a healthy provider was paused for %s, want at most 5 s", rnd, got)
		}
	}
}

func TestOutageIsNoticedWithinTwoSecondsAndTwentyCalls(t *testing.T) {
	t.Parallel()
	for _, perSecond := range []int{5, 10, 40, 200} {
		t.Run(fmt.Sprint(perSecond), func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			b := w.breaker()
			gap := time.Second / time.Duration(perSecond)
			for range 12 * perSecond {
				w.pass(gap)
				w.record(b, Verdict{Kind: Good, Took: 4 * time.Second})
			}
			began, wasted := w.at, 0
			for w.state(b).Name == Closed {
				w.pass(gap)
				w.record(b, bad)
				// Long calls go on succeeding for a while.
				w.record(b, Verdict{Kind: Good, Took: 4 * time.Second})
				wasted++
			}
			if got := w.at.Sub(began); got > 2*time.Second || wasted > 20 {
				t.Errorf("opened after %s and %d calls, want at most 2 s and 20 calls", got, wasted)
			}
		})
	}
}

func TestFailureInHalfOpenOpensAgain(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	b := w.breaker()
	w.trip(b)
	w.answers(good)
	w.until(b, HalfOpen, 10*time.Second)
	w.step(b) // the gate follows; the second probe
	if !w.queuePaused() || w.flow() != halfOpenPace {
		t.Errorf("half open: queue paused %t, flow %v; want paused, and a tenth for jobs in hand", w.queuePaused(), w.flow())
	}
	w.pass(time.Second)
	w.record(b, Verdict{Kind: Bad, Took: 30 * time.Second})
	if s := w.state(b); s.Name == Open {
		t.Error("a call sent before the probe succeeded opened it again")
	}
	w.record(b, bad)
	if s := w.state(b); s.Name != Open || w.flow() != 0 {
		t.Errorf("a failed call in half open: %+v, flow %v; want open and held", s, w.flow())
	}
	// That relapse was free; from the next on the time between probes doubles, up to 120 s.
	for n, want := range []float64{10, 20, 40, 80, 120, 120} {
		w.answers(good)
		w.until(b, HalfOpen, 3*time.Minute)
		w.answers(bad)
		w.step(b)
		s, err := b.look(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		got := float64(s.int("next")-s.int("counts_from")) / 1000
		if want *= 0.75; got != want { // the jitter takes up to half off
			t.Errorf("relapse %d: next probe in %v s, want %v", n+2, got, want)
		}
	}
}

func TestProviderRetryAfterDelaysTheProbe(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	b := w.breaker()
	for range 5 {
		w.record(b, Verdict{Kind: Bad, RetryAfter: 40 * time.Second})
	}
	got := w.state(b).NextProbeAt.Sub(w.at)
	if got < 40*time.Second || got > 44*time.Second {
		t.Errorf("next probe in %s, want the Retry-After of 40 s and up to a tenth", got)
	}
}

func TestSpendCap(t *testing.T) {
	t.Parallel()
	t.Run("until a stated time", func(t *testing.T) {
		w := newWorld(t)
		b := w.breaker()
		end := w.at.Add(3 * time.Hour)
		w.record(b, Verdict{Kind: Spend, Reason: "monthly spend cap", ResumeAt: end})
		s := w.state(b)
		if s.Name != Open || s.Cause != SpendCap || s.Reason != "monthly spend cap" || !s.ExpectedResumeAt.Equal(end) {
			t.Errorf("got %+v", s)
		}
		w.pass(3*time.Hour - time.Second)
		w.step(b)
		if w.probes != 0 {
			t.Errorf("%d probes before the stated time", w.probes)
		}
		w.answers(good)
		w.until(b, SlowStart, 10*time.Second)
	})
	t.Run("with no stated time", func(t *testing.T) {
		for _, rnd := range []float64{0, 0.999} {
			w := newWorld(t)
			w.rnd = rnd
			b := w.breaker()
			w.answers(Verdict{Kind: Spend})
			w.record(b, Verdict{Kind: Spend})
			for n := range 3 {
				d := w.state(b).NextProbeAt.Sub(w.at)
				if d < 5*time.Minute || d > 15*time.Minute {
					t.Errorf("probe %d in %s, want 5 to 15 min", n, d)
				}
				w.pass(d)
				w.step(b)
				if w.probes != n+1 {
					t.Fatalf("%d probes, want %d", w.probes, n+1)
				}
			}
		}
	})
}

// What is asked for again and again is back within 20 s of being well, whatever it was paused for
// and until when.
func TestRecheck(t *testing.T) {
	t.Parallel()
	cases := []struct {
		name    string
		verdict Verdict
		least   time.Duration // before the first probe
		ill     bool          // the provider fails as well
	}{
		{name: "refused", verdict: Verdict{Kind: Unauthorized}, least: 2500 * time.Millisecond},
		{name: "spent", verdict: Verdict{Kind: Spend}, least: 2500 * time.Millisecond},
		{name: "spent until a stated time", verdict: Verdict{Kind: Spend, ResumeAt: time.UnixMilli(1_800_000_000_000).Add(200 * time.Hour)}, least: 2500 * time.Millisecond},
		{name: "refused, and down later", verdict: Verdict{Kind: Unauthorized}, least: 2500 * time.Millisecond, ill: true},
	}
	for _, c := range cases {
		for _, rnd := range []float64{0, 0.999} {
			t.Run(fmt.Sprintf("%s, %.0f", c.name, rnd), func(t *testing.T) {
				w := newWorld(t)
				w.rnd = rnd
				config := w.config(w.rdb)
				config.Rules.Recheck = 5 * time.Second
				b := w.build(config)
				w.answers(c.verdict)
				w.record(b, c.verdict)
				s := w.state(b)
				if in := s.NextProbeAt.Sub(w.at); in < c.least || in > 5*time.Second {
					t.Errorf("first probe in %s, want %s to 5 s", in, c.least)
				}
				if !s.ExpectedResumeAt.Equal(c.verdict.ResumeAt) {
					t.Errorf("expected back at %v, want what was stated, %v", s.ExpectedResumeAt, c.verdict.ResumeAt)
				}
				for i := range 600 {
					if c.ill && i == 100 {
						w.answers(bad)
					}
					w.pass(time.Second)
					w.step(b)
				}
				if w.probes < 100 || w.probes > 300 {
					t.Errorf("%d probes in 10 minutes, want one each 2.5 to 5 s", w.probes)
				}
				w.answers(good)
				if took := w.until(b, SlowStart, 20*time.Second); took > 7*time.Second {
					t.Errorf("calls flow after %s, want 5 s and what three probes take", took)
				}
			})
		}
	}
	t.Run("a Retry-After is waited out", func(t *testing.T) {
		w := newWorld(t)
		config := w.config(w.rdb)
		config.Rules.Recheck = 5 * time.Second
		b := w.build(config)
		w.record(b, Verdict{Kind: Unauthorized, RetryAfter: time.Minute})
		if in := w.state(b).NextProbeAt.Sub(w.at); in < time.Minute || in > 66*time.Second {
			t.Errorf("first probe in %s, want the minute that was stated", in)
		}
	})
}

func TestRefusedKey(t *testing.T) {
	t.Parallel()
	refused := Verdict{Kind: Unauthorized, Reason: "authentication_error"}
	setup := func(t *testing.T) (*world, *Breaker) {
		w := newWorld(t)
		b := w.breaker()
		w.answers(refused)
		w.record(b, many(3, good)...)
		w.record(b, refused)
		w.pass(4 * time.Minute)
		w.step(b)
		if s := w.state(b); w.probes != 0 || s.Cause != BadAuthority || s.NextProbeAt.Before(w.at) {
			t.Fatalf("after four minutes: %d probes, %+v; want none yet", w.probes, s)
		}
		return w, b
	}
	t.Run("it is probed now and then", func(t *testing.T) {
		w, b := setup(t)
		for range 24 * 60 {
			w.pass(time.Minute)
			w.step(b)
		}
		if w.probes < 24*60/15 || w.probes > 24*60/5 {
			t.Errorf("%d probes in a day, want one each 5 to 15 minutes", w.probes)
		}
		w.answers(good)
		w.until(b, SlowStart, 16*time.Minute)
		if w.queuePaused() {
			t.Error("the key is taken again, and the queue still paused")
		}
	})
	t.Run("a restart with the same key changes nothing", func(t *testing.T) {
		w, _ := setup(t)
		b := w.breaker()
		if err := b.arrive(t.Context()); err != nil {
			t.Fatal(err)
		}
		w.step(b)
		if w.probes != 0 {
			t.Errorf("%d probes, want none", w.probes)
		}
	})
	t.Run("another key is probed once, by its own holder", func(t *testing.T) {
		w, old := setup(t)
		c := w.config(w.rdb)
		c.Fingerprint = "key two"
		b := w.build(c)
		if err := b.arrive(t.Context()); err != nil {
			t.Fatal(err)
		}
		w.step(old)
		if w.probes != 0 {
			t.Error("the process with the refused key probed")
		}
		for range 3 {
			w.step(b)
			w.pass(time.Minute)
		}
		if w.probes != 1 {
			t.Errorf("%d probes with the new key, want 1", w.probes)
		}
		if err := b.arrive(t.Context()); err != nil {
			t.Fatal(err)
		}
		w.step(b)
		if w.probes != 1 {
			t.Error("a second start with the key that was refused probed again")
		}
		if keys, _ := w.rdb.HGetAll(t.Context(), b.key).Result(); strings.Contains(fmt.Sprint(keys), "key two") {
			t.Error("the fingerprint itself is stored")
		}
	})
}

// An operator's word counts for more than what was seen before it: the pool goes
// on slowly, and only what is sent from then on pauses it again.
func TestAResumeClearsWhatIsHeldAgainstTheKey(t *testing.T) {
	t.Parallel()
	for _, kind := range []Kind{Unauthorized, Spend} {
		for _, probing := range []bool{false, true} {
			t.Run(fmt.Sprint(kind, probing), func(t *testing.T) {
				w := newWorld(t)
				b := w.breaker()
				w.record(b, Verdict{Kind: kind})
				w.pass(time.Hour)
				var fence int64
				if probing {
					var err error
					if fence, _, err = b.run(t.Context(), b.script.take, args{"holder": b.holder, "lease": 15000, "fp": b.fingerprint}); err != nil || fence == 0 {
						t.Fatalf("no lease to probe: %d, %v", fence, err)
					}
				}
				if err := b.Resume(t.Context(), "ada"); err != nil {
					t.Fatal(err)
				}
				if s := w.state(b); w.probes != 0 || s.Name != SlowStart || w.queuePaused() || w.flow() > 0.25 || w.flow() == 0 {
					t.Errorf("after the resume: %d probes, queue paused %t, flow %v, %+v", w.probes, w.queuePaused(), w.flow(), s)
				}
				if probing { // its answer is older than the operator's word
					if result, _, err := b.run(t.Context(), b.script.probed, b.rules(verdictArgs(args{"fence": fence, "kind": string(kind)}, Verdict{Kind: kind}))); err != nil || result != 0 {
						t.Errorf("a probe from before the resume: %d, %v", result, err)
					}
				}
				w.pass(time.Second)
				w.record(b, Verdict{Kind: kind, Took: 2 * time.Second})
				if s := w.state(b); s.Paused {
					t.Errorf("a call sent before the resume paused the pool: %+v", s)
				}
				w.record(b, Verdict{Kind: kind, Took: 500 * time.Millisecond})
				if s := w.state(b); !s.Paused || s.PausedBy != ByBreaker {
					t.Errorf("a call sent after the resume did not: %+v", s)
				}
			})
		}
	}
}

func TestATryLeavesAnOperatorsPauseAndAnOutage(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	b := w.breaker()
	try := func(want Name, paused bool) {
		t.Helper()
		if err := b.Try(t.Context(), "run"); err != nil {
			t.Fatal(err)
		}
		if s := w.state(b); s.Name != want || s.Paused != paused {
			t.Errorf("got %+v, want %s, paused %t", s, want, paused)
		}
	}
	try(Closed, false)
	w.trip(b)
	try(Open, true)
	w.record(b, Verdict{Kind: Unauthorized})
	if err := b.Pause(t.Context(), "ada", "bill"); err != nil {
		t.Fatal(err)
	}
	try(Open, true)
	if err := b.Resume(t.Context(), "ada"); err != nil {
		t.Fatal(err)
	}
	w.pass(time.Second)
	w.record(b, Verdict{Kind: Unauthorized})
	try(SlowStart, false)
}

func TestGraverCauseTakesOver(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	b := w.breaker()
	w.trip(b)
	w.pass(time.Second)
	w.record(b, Verdict{Kind: Spend, Took: 2 * time.Second})
	if s := w.state(b); s.Cause != Overload {
		t.Errorf("a call sent before the breaker opened changed its cause to %s", s.Cause)
	}
	w.record(b, Verdict{Kind: Spend})
	w.record(b, many(50, bad)...)
	if s := w.state(b); s.Cause != SpendCap {
		t.Errorf("got cause %s, want spend", s.Cause)
	}
	w.record(b, Verdict{Kind: Unauthorized})
	w.record(b, Verdict{Kind: Spend})
	if s := w.state(b); s.Cause != BadAuthority {
		t.Errorf("got cause %s, want unauthorized", s.Cause)
	}
}

// The calls before an outage may meet something else than what keeps it up: a
// connection that breaks, and then an address that is not the provider's.
func TestAProbeRestatesTheCause(t *testing.T) {
	t.Parallel()
	misfit := Verdict{Kind: Bad, Reason: "redirected", Detail: "to elsewhere", Misfit: true}
	away := Verdict{Kind: Bad, Reason: "refused", Detail: "to here"}
	w := newWorld(t)
	b := w.breaker()
	w.trip(b)
	tripped := w.state(b).Reason
	for i, c := range []struct {
		found  Verdict
		cause  Cause
		reason string
	}{
		{misfit, Misfit, "redirected"},
		{away, Overload, "refused"},
		{bad, Overload, "refused"},
		{misfit, Misfit, "redirected"},
	} {
		w.answers(c.found)
		w.pass(5 * time.Second)
		w.step(b)
		if s := w.state(b); w.probes != i+1 || s.Name != Open || s.Cause != c.cause || s.Reason != c.reason || s.Detail != c.found.Detail {
			t.Errorf("after probe %d, which found %+v: %+v", i+1, c.found, s)
		}
	}

	w = newWorld(t)
	b = w.breaker()
	w.record(b, Verdict{Kind: Good, Model: "m"})
	w.pass(10 * time.Second)
	w.trip(b)
	w.answers(misfit)
	w.pass(5 * time.Second)
	w.step(b)
	if s := w.state(b); s.Cause != Overload || s.Reason != tripped || s.Detail != misfit.Detail {
		t.Errorf("at an address that has worked: %+v; want an outage, %q", s, tripped)
	}
}

func TestProbeThatSaysNothingIsRepeated(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	b := w.breaker()
	w.trip(b)
	w.answers(Verdict{RetryAfter: 30 * time.Second})
	w.pass(5 * time.Second)
	w.step(b)
	s := w.state(b)
	if d := s.NextProbeAt.Sub(w.at); w.probes != 1 || s.Name != Open || s.Tries != 0 || d < 30*time.Second || d > 33*time.Second {
		t.Errorf("after an ordinary 429: %d probes, next in %s, %+v", w.probes, d, s)
	}
}

func TestAudit(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	b := w.breaker()
	ctx := t.Context()
	at := w.at
	long := strings.Repeat("é", MaxReason+1)
	for _, do := range []func() error{
		func() error { return b.Resume(ctx, "nobody") }, // nothing to resume: no entry
		func() error { return b.Pause(ctx, "ada", "maintenance") },
		func() error { return b.Pause(ctx, "ada", "maintenance") }, // nothing new: no entry
		func() error { w.pass(time.Minute); return b.Pause(ctx, "bob", long) },
		func() error { w.pass(time.Minute); return b.Resume(ctx, "cyd") },
	} {
		if err := do(); err != nil {
			t.Fatal(err)
		}
	}
	got, err := b.Audit(ctx, 10)
	if err != nil {
		t.Fatal(err)
	}
	want := []Entry{
		{at.Add(2 * time.Minute).UTC(), "resume", "cyd", "", time.Time{}},
		{at.Add(time.Minute).UTC(), "pause", "bob", strings.Repeat("é", MaxReason), time.Time{}},
		{at.UTC(), "pause", "ada", "maintenance", time.Time{}},
	}
	if !slices.Equal(got, want) {
		t.Errorf("got  %v\nwant %v", got, want)
	}
	if got, err := b.Audit(ctx, 1); err != nil || !slices.Equal(got, want[:1]) {
		t.Errorf("the last one: got %v, %v", got, err)
	}
	for n := range auditMax {
		if _, _, err := b.run(ctx, b.script.operate, args{"op": fmt.Sprint(n), "verb": "pause", "by": "ada", "reason": fmt.Sprint(n)}); err != nil {
			t.Fatal(err)
		}
	}
	if n, err := w.rdb.LLen(ctx, b.auditKey).Result(); err != nil || n != auditMax {
		t.Errorf("the list holds %d entries, %v; want %d", n, err, auditMax)
	}
}

func TestMetrics(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	reg := prometheus.NewPedanticRegistry()
	c := w.config(w.rdb)
	c.Metrics = reg
	b := w.build(c)
	c.Pool = "gpt"
	other := w.build(c) // a second pool shares the collectors
	w.record(b, Verdict{Kind: Spend})
	w.step(b)
	if err := other.Pause(t.Context(), "ada", ""); err != nil {
		t.Fatal(err)
	}
	err := testutil.GatherAndCompare(reg, strings.NewReader(`
# HELP sluice_breaker_open 1 while the pool's breaker is open for this cause: overload, misfit, spend or unauthorized.
# TYPE sluice_breaker_open gauge
sluice_breaker_open{cause="misfit",pool="claude"} 0
sluice_breaker_open{cause="misfit",pool="gpt"} 0
sluice_breaker_open{cause="overload",pool="claude"} 0
sluice_breaker_open{cause="overload",pool="gpt"} 0
sluice_breaker_open{cause="spend",pool="claude"} 1
sluice_breaker_open{cause="spend",pool="gpt"} 0
sluice_breaker_open{cause="unauthorized",pool="claude"} 0
sluice_breaker_open{cause="unauthorized",pool="gpt"} 0
# HELP sluice_pool_paused 1 while the pool is paused by this side: operator, breaker or memory.
# TYPE sluice_pool_paused gauge
sluice_pool_paused{by="breaker",pool="claude"} 1
sluice_pool_paused{by="breaker",pool="gpt"} 0
sluice_pool_paused{by="memory",pool="claude"} 0
sluice_pool_paused{by="memory",pool="gpt"} 0
sluice_pool_paused{by="operator",pool="claude"} 0
sluice_pool_paused{by="operator",pool="gpt"} 1
`), "sluice_breaker_open", "sluice_pool_paused")
	if err != nil {
		t.Error(err)
	}
}

func TestNewNamesEveryFault(t *testing.T) {
	t.Parallel()
	_, err := New(Config{Pool: "a{b}", Rules: Rules{Window: time.Millisecond, MinCalls: -1, FailureRatio: 2, ProbeInterval: -1}})
	if err == nil {
		t.Fatal("no error")
	}
	for _, want := range []string{"Redis", "Pool", "Window", "MinCalls", "FailureRatio", "ProbeInterval"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%q does not name %s", err, want)
		}
	}
}

func TestUnknownKindIsRefused(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	if err := w.breaker().Record(t.Context(), Verdict{Kind: "worse"}); err == nil {
		t.Error("no error")
	}
}

// An operator's word whose answer was lost is sent again under its name. It does not
// undo what another operator has done meanwhile.
func TestAWordThatIsSentTwiceIsOneWord(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	b := w.breaker()
	ctx := t.Context()
	pause := func() {
		t.Helper()
		if _, _, err := b.run(ctx, b.script.operate, args{"op": "one", "verb": "pause", "by": "ada", "reason": ""}); err != nil {
			t.Fatal(err)
		}
	}
	pause()
	if err := b.Resume(ctx, "bob"); err != nil {
		t.Fatal(err)
	}
	pause()
	got, err := b.Audit(ctx, 10)
	if err != nil || len(got) != 2 || got[0].Action != "resume" {
		t.Errorf("the audit is %v, %v; want a pause and its resume", got, err)
	}
}

// What a script counts in parts of a window is added up with as many.
func TestTheScriptsCountInAsManyBuckets(t *testing.T) {
	t.Parallel()
	if want := fmt.Sprintf("local buckets = %d\n", buckets); !strings.Contains(libLua, want) {
		t.Errorf("lib.lua has no line %q", want)
	}
}

func TestSuccessIsTheShareOfTheLatestCalls(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		b     []string
		share float64
		calls int64
	}{
		"none":                {nil, 0, 0},
		"cleared":             {[]string{"", ""}, 0, 0},
		"all well":            {[]string{"100:3:0", "101:2:0"}, 1, 5},
		"half":                {[]string{"100:1:2", "101:2:1"}, 0.5, 6},
		"an older window too": {[]string{"100:1:0", "91:0:4", "90:0:9"}, 0.2, 5},
		"not a count":         {[]string{"x:1:0", "100:1"}, 0, 0},
	} {
		s := snapshot{h: map[string]string{}}
		for i, v := range c.b {
			s.h["b"+strconv.Itoa(i)] = v
		}
		if share, calls := s.success(); share != c.share || calls != c.calls {
			t.Errorf("%s: %v of %d, want %v of %d", name, share, calls, c.share, c.calls)
		}
	}
}
