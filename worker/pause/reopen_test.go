package pause

import (
	"testing"
	"time"
)

// An outage is expected to last as long as those before it that lasted longer than it
// has so far.
func TestAnOutageEndsWhenOthersDid(t *testing.T) {
	t.Parallel()
	minute := []float64{62, 58, 60, 61, 59}
	for _, c := range []struct {
		name       string
		before     []float64
		lasts      float64
		half, most float64
	}{
		{"none was seen", nil, 0, 60, 1800},
		{"none was seen, a while in", nil, 61, 300, 1800},
		{"one was seen", []float64{30}, 1, 60, 1800},
		{"five of a minute", minute, 10, 60, 62},
		{"five of a minute, the shorter ones are outlasted", minute, 60.5, 61, 62},
		{"longer than all", minute, 100, 150, 1000},
		{"one in ten is long", []float64{10, 10, 10, 10, 10, 10, 10, 10, 10, 900}, 5, 10, 10},
		{"the long one", []float64{10, 10, 10, 10, 10, 10, 10, 10, 10, 900}, 11, 900, 900},
	} {
		if half, most := ends(c.before, c.lasts); half != c.half || most != c.most {
			t.Errorf("%s: after %v s it ends at %v, nine of ten by %v; want %v and %v", c.name, c.lasts, half, most, c.half, c.most)
		}
	}
}

// After five outages of about a minute the sixth's end is known within a tenth, whatever
// the probes do meanwhile.
func TestTheReopeningIsForetoldFromOutagesBefore(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	b := w.breaker()
	outage := func() (told []time.Time, over time.Time) {
		w.trip(b)
		w.answers(bad)
		for range 60 {
			w.pass(time.Second)
			w.step(b)
			s := w.state(b)
			told = append(told, s.ExpectedResumeAt)
			if s.NextProbeAt.IsZero() || s.ResumeBy.Before(s.ExpectedResumeAt) {
				t.Fatalf("%+v: want a probe, and that it is late later than it is expected", s)
			}
		}
		w.answers(good)
		w.until(b, SlowStart, 30*time.Second)
		over = w.at
		w.pass(5 * time.Minute)
		return told, over
	}
	for range 5 {
		outage()
	}
	told, over := outage()
	for n, at := range told {
		if n >= 10 && n < 50 && over.Sub(at).Abs() > 7*time.Second {
			t.Errorf("%d s in, it is told to end %v, and ended %v", n, at, over)
		}
	}
	if s := w.state(b); !s.ExpectedResumeAt.IsZero() || !s.NextProbeAt.IsZero() {
		t.Errorf("it is over: %+v", s)
	}
	lengths, _ := b.look(t.Context())
	if n := len(lengths.outages()); n != 6 {
		t.Errorf("%d outages were noted, want 6", n)
	}
}
