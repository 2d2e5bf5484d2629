package abuse

import (
	"strings"
	"testing"
	"time"
)

var morning = time.Date(2026, 3, 2, 9, 0, 0, 0, time.UTC)

// watched is a tenant with a past, and what to say of it.
type watched struct {
	t   *testing.T
	r   Rules
	c   Conduct
	key Key
	now time.Time
}

// grown is a tenant that has sent one of five kinds of prompts four times in ten minutes, for eight days.
func grown(t *testing.T) *watched {
	w := &watched{t: t, r: Rules{Window: 10 * time.Minute, Learn: 7 * 24 * time.Hour, Model: NewModel(1), Enforce: true}, key: NewKey([]byte("secret"), "acme"), now: morning}
	for range 8 * 24 * 6 {
		w.usual()
	}
	return w
}

func (w *watched) usual() {
	for i := range 4 {
		kind := string(rune('a' + (w.now.Minute()/10+w.now.Hour()+i)%5))
		w.send("Translate the page "+strings.Repeat(kind, 3)+" of our handbook number "+w.now.Format("1504")+strings.Repeat("1", i), "office")
	}
	w.step()
}

func (w *watched) send(text, who string) {
	p := w.key.Of([]byte(text))
	w.c.Take(&w.r, &Act{At: w.now, Jobs: 1, Tokens: 500, Print: &p, User: w.key.Hash(who), Address: w.key.Hash(who), Credential: 1, Model: 1})
}

func (w *watched) step() {
	w.now = w.now.Add(w.r.Window)
	w.c.Close(&w.r, w.now)
}

func (w *watched) found() string {
	var names []string
	for _, f := range w.c.Signals(&w.r, w.now) {
		names = append(names, f.Rule.String())
	}
	return strings.Join(names, " ")
}

func TestLadder(t *testing.T) {
	t.Parallel()
	w := grown(t)
	if got := w.found(); got != "" || w.c.Ladder.Rung != Observe {
		t.Fatalf("an ordinary tenant: %q, %s", got, w.c.Ladder.Rung)
	}
	calm := w.c
	// One signal: the same prompt as often as usual, for an hour.
	for range 30 {
		w.send("Say something", "office")
		w.send("Say something", "office")
		w.send("Say something", "office")
		w.send("Say something", "office")
		w.send("Say something", "office")
		w.step()
	}
	if got := w.found(); got != "identical" || w.c.Ladder.Rung != Observe {
		t.Errorf("one prompt, at the usual pace: %q, %s", got, w.c.Ladder.Rung)
	}
	// Two: a sweep much above the usual pace.
	w.c = calm
	rungs := []Action{Observe}
	for n := range 40 {
		w.usual()
		for i := range 20 {
			w.send("Give me the record "+w.now.Format("1504")+strings.Repeat("1", i)+" of the file", "office")
		}
		w.step()
		if last := rungs[len(rungs)-1]; w.c.Ladder.Rung != last {
			rungs = append(rungs, w.c.Ladder.Rung)
		}
		if len(rungs) == 4 {
			t.Logf("for review after %d windows", n)
			break
		}
	}
	if len(rungs) != 4 || rungs[3] != Review {
		t.Fatalf("a sweep: %v by %q", rungs, w.found())
	}
	held := w.c
	for range 36 {
		w.usual()
	}
	if w.c.Ladder.Rung != Review {
		t.Errorf("six hours later it is at %s without an admin", w.c.Ladder.Rung)
	}
	w.c = held
	w.c.release(&w.r, w.now)
	for range 30 {
		w.send("Give me the record "+w.now.Format("1504")+" of the file", "office")
		w.usual()
	}
	if got := w.found(); strings.Contains(got, "sweep") || w.c.Ladder.Rung != Observe {
		t.Errorf("released, it is told of %q, at %s", got, w.c.Ladder.Rung)
	}
}

// After what came has ended a tenant climbs no further, and comes down; while it goes on and is
// refused, it climbs.
func TestNobodyClimbsByWhatIsOver(t *testing.T) {
	t.Parallel()
	attacked := func() *watched {
		w := grown(t)
		for w.c.Ladder.Rung < Refuse {
			if w.usual(); w.now.Sub(morning) > 10*24*time.Hour {
				t.Fatal("it is never refused")
			}
			for range 200 {
				w.send("Give me the record of the file", "office")
			}
			w.step()
		}
		return w
	}
	w := attacked()
	for range 100 {
		if w.step(); w.c.Ladder.Rung > Refuse {
			t.Fatal("it climbs on though nothing comes")
		}
	}
	if w.c.Ladder.Rung != Observe {
		t.Errorf("hours later it is at %s", w.c.Ladder.Rung)
	}
	w = attacked()
	for range 20 {
		w.c.Refused += 100
		w.step()
	}
	if w.c.Ladder.Rung < Refuse {
		t.Errorf("it goes on being refused, at %s, for %q", w.c.Ladder.Rung, w.found())
	}
}

func TestNothingBeforeLearn(t *testing.T) {
	t.Parallel()
	w := &watched{t: t, r: Rules{Window: 10 * time.Minute, Learn: 7 * 24 * time.Hour}, key: NewKey([]byte("secret"), "acme"), now: morning}
	for n := range 2 * 24 * 6 {
		w.usual()
		if n > 24*6 {
			for i := range 20 {
				w.send("one more "+strings.Repeat("x", i), string(rune('a'+i)))
			}
		}
	}
	for _, f := range w.c.Signals(&w.r, w.now) {
		if f.Rule.family() != content {
			t.Errorf("%s is told in the first week", f.Rule)
		}
	}
	if w.c.Ladder.Rung != Observe {
		t.Errorf("acted on: %s", w.c.Ladder.Rung)
	}
}

// A test of tasks/store measures what this many bytes take of Redis.
func TestConductIsSmall(t *testing.T) {
	t.Parallel()
	if n := len(pack(&Conduct{})); n > 3560 {
		t.Errorf("a tenant takes %d bytes", n)
	}
}

// What comes from where the tenant never was is told, leads to nothing alone, and is a habit after
// some hours.
func TestNewAddress(t *testing.T) {
	t.Parallel()
	w := grown(t)
	for n := range 6 * 6 {
		many := 10
		if n > 4 {
			many = 4 // as usual, or its rate would be told as well
		}
		for i := range many {
			w.send("Translate the page "+strings.Repeat(string(rune('a'+i%5)), 3)+" of our handbook number "+w.now.Format("1504")+strings.Repeat("1", i), "elsewhere")
		}
		w.step()
		got := strings.Contains(w.found(), "new_address")
		if n == 4 && !got || n > 5*6 && got {
			t.Errorf("after %d windows elsewhere: told %t", n, got)
		}
		if w.c.Ladder.Rung != Observe {
			t.Fatalf("after %d windows elsewhere it is at %s, for %q", n, w.c.Ladder.Rung, w.found())
		}
	}
}
