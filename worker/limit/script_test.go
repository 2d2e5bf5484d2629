package limit

import (
	"context"
	"math"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/maintnotifications"

	"github.com/sluicehq/sluice/tasks/redistest"
)

// manual is a gate in time that the test moves.
type manual struct {
	testing.TB
	g *Gate
	t float64
}

func newClock(t testing.TB, l Limits, change ...func(*Config)) *manual {
	t.Helper()
	return onClock(t, redistest.New(t), l, change...)
}

func onClock(t testing.TB, rdb redis.UniversalClient, l Limits, change ...func(*Config)) *manual {
	t.Helper()
	c := &manual{TB: t, t: 1_800_000_000}
	c.g = c.another(rdb, l, change...)
	return c
}

// another is a gate of another process at the same time.
func (c *manual) another(rdb redis.UniversalClient, l Limits, change ...func(*Config)) *Gate {
	c.Helper()
	return newGate(c, rdb, l, append(change, func(cfg *Config) { cfg.now = func() float64 { return c.t } })...)
}

// ask asks once on a gate's behalf.
func (c *manual) ask(g *Gate, n Need) (answer, Grant) {
	c.Helper()
	if n.ID == "" {
		n.ID = "a"
	}
	w := &waiter{need: n}
	w.key = g.newKey(n)
	answers, err := g.ask(c.Context(), []*waiter{w})
	if err != nil {
		c.Fatal(err)
	}
	return answers[0], Grant{ID: n.ID, Class: n.Class, key: w.key, epoch: answers[0].epoch}
}

// wait is the wait of a slot that must be given.
func (c *manual) wait(n Need) time.Duration {
	c.Helper()
	a, _ := c.ask(c.g, n)
	if a.status != "ok" {
		c.Fatalf("got %s, want a slot", a.status)
	}
	return a.wait
}

// lose loses all state, and has the gate notice.
func (c *manual) lose() {
	c.Helper()
	if err := c.g.rdb.FlushAll(c.Context()).Err(); err != nil {
		c.Fatal(err)
	}
	if a, _ := c.ask(c.g, Need{}); a.status != "hold" {
		c.Fatalf("got %s after the state was lost, want hold", a.status)
	}
}

func (c *manual) settle(g *Gate, grant Grant, a Actual) {
	c.Helper()
	if err := g.Settle(c.Context(), grant, a); err != nil {
		c.Fatal(err)
	}
}

func near(got time.Duration, want, within float64) bool {
	return math.Abs(got.Seconds()-want) <= within
}

func approx(got, want, within float64) bool { return math.Abs(got-want) <= within }

func TestSlotsAreSpacedAtTheRate(t *testing.T) {
	t.Parallel()
	c := newClock(t, Limits{RequestsPerMinute: 60, RequestBurst: 10})
	for i := range 5 {
		if got := c.wait(Need{}); !near(got, float64(i), 1e-5) {
			t.Errorf("slot %d: got %v ahead, want %d s", i, got, i)
		}
	}
	c.t += 1000
	for i := range 10 { // full: 10, of which 2 stay as the guard
		want := max(0, float64(i)-7)
		if got := c.wait(Need{}); !near(got, want, 1e-5) {
			t.Errorf("after a rest, slot %d: got %v ahead, want %v s", i, got, want)
		}
	}
}

func TestSameReservationAskedAgainIsTheSameSlot(t *testing.T) {
	t.Parallel()
	c := newClock(t, Limits{RequestsPerMinute: 60})
	c.wait(Need{})
	w := &waiter{need: Need{ID: "a"}, key: "a/x/1"}
	for _, want := range []float64{1, 1} {
		a, err := c.g.ask(t.Context(), []*waiter{w})
		if err != nil || !near(a[0].wait, want, 1e-5) {
			t.Errorf("got %+v, %v; want %v s", a, err, want)
		}
	}
	if s := state(t, c.g); s.InFlight != 2 {
		t.Errorf("got %d in flight, want 2", s.InFlight)
	}
}

func TestOneQuestionLetsThroughWhatMayPassAndBooksOneSlotAhead(t *testing.T) {
	t.Parallel()
	c := newClock(t, Limits{RequestsPerMinute: 60, RequestBurst: 10})
	c.wait(Need{})
	c.t += 1000
	var ws []*waiter
	for range 20 {
		ws = append(ws, &waiter{key: c.g.newKey(Need{ID: "a"})})
	}
	answers, err := c.g.ask(t.Context(), ws)
	if err != nil {
		t.Fatal(err)
	}
	if len(answers) != 9 || answers[7].wait != 0 || answers[8].wait <= 0 {
		t.Errorf("got %d answers, want 8 that pass and one ahead: %+v", len(answers), answers)
	}
}

// What is granted and not yet charged cannot be refilled: the provider's bucket is full meanwhile.
func TestClip(t *testing.T) {
	t.Parallel()
	c := newClock(t, Limits{RequestsPerMinute: 600, InputTokensPerMinute: 60_000, OutputTokensPerMinute: 60_000, RequestBurst: 10})
	_, first := c.ask(c.g, Need{Class: "c", InputTokens: 1000, MaxTokens: 2000})
	c.settle(c.g, first, Actual{InputTokens: 1000, OutputTokens: 500, Known: true})
	c.t += 1000
	for range 3 {
		if wait := c.wait(Need{Class: "c", InputTokens: 1000, MaxTokens: 2000}); wait != 0 {
			t.Fatalf("waits %v", wait)
		}
	}
	c.t += 0.05
	if got := state(t, c.g).OutputTokens.Level; got < 58_500-1 || got > 58_700 {
		t.Errorf("output: level %v with 1,500 of 60,000 not yet drawn, want little more than 58,500", got)
	}
	wait := c.wait(Need{Class: "c", InputTokens: 59_000, MaxTokens: 2000})
	if wait < 2*time.Second {
		t.Fatalf("a call of 59,000 of 60,000 tokens waits %v", wait)
	}
	c.t += wait.Seconds() - 0.01
	s := state(t, c.g)
	if got := s.Requests.Level; got != 9 {
		t.Errorf("requests: level %v with one slot ahead, want 9 of 10", got)
	}
	if got := s.InputTokens.Level; got > 1000 {
		t.Errorf("input: level %v with 59,000 of 60,000 ahead", got)
	}
	c.t += 1
	if got := state(t, c.g).Requests.Level; got < 9.8 {
		t.Errorf("requests: level %v after the slot's time, want 10", got)
	}
}

func TestDebtIsPaidBeforeTheNext(t *testing.T) {
	t.Parallel()
	c := newClock(t, Limits{OutputTokensPerMinute: 60_000})
	n := Need{Class: "c", MaxTokens: 400}
	_, grant := c.ask(c.g, n)
	c.settle(c.g, grant, Actual{OutputTokens: 10_100, Known: true})
	s := state(t, c.g)
	if s.OutputTokens.Level > -8000 { // it began with a second's worth
		t.Errorf("level %v after 10,000 tokens more than expected, want debt", s.OutputTokens.Level)
	}
	if got := c.wait(Need{Class: "other", MaxTokens: 400}); got < 8*time.Second || got > 12*time.Second {
		t.Errorf("next waits %v at 1,000 tokens a second, want about 10 s", got)
	}
}

func TestSettlingReturnsWhatWasNotUsed(t *testing.T) {
	t.Parallel()
	c := newClock(t, Limits{RequestsPerMinute: 60, InputTokensPerMinute: 60_000, OutputTokensPerMinute: 60_000})
	c.wait(Need{Class: "c", InputTokens: 1, MaxTokens: 4})
	before := state(t, c.g)
	for _, row := range []struct {
		name        string
		actual      Actual
		req, in, ou float64 // of the level, after against before
	}{
		{"refused", Actual{Refused: true}, 0, 0, 0},
		{"unknown", Actual{}, -1, -1000, -100},
		{"known", Actual{Known: true, InputTokens: 900, OutputTokens: 40}, -1, -900, -40},
	} {
		_, grant := c.ask(c.g, Need{Class: row.name, InputTokens: 1000, MaxTokens: 400})
		c.settle(c.g, grant, row.actual)
		c.settle(c.g, grant, row.actual) // changes nothing
		after := state(t, c.g)
		for _, d := range []struct {
			name             string
			got, before, off float64
		}{
			{"requests", after.Requests.Level, before.Requests.Level, row.req},
			{"input", after.InputTokens.Level, before.InputTokens.Level, row.in},
			{"output", after.OutputTokens.Level, before.OutputTokens.Level, row.ou},
		} {
			if !approx(d.got-d.before, d.off, 0.01) {
				t.Errorf("%s: %s moved by %v, want %v", row.name, d.name, d.got-d.before, d.off)
			}
		}
		if after.InFlight != 1 {
			t.Errorf("%s: %d in flight, want 1", row.name, after.InFlight)
		}
		before = after
	}
}

func TestInputSettledEarlyIsNotChargedTwice(t *testing.T) {
	t.Parallel()
	c := newClock(t, Limits{InputTokensPerMinute: 60_000})
	c.wait(Need{Class: "c", InputTokens: 1})
	before := state(t, c.g).InputTokens.Level
	_, grant := c.ask(c.g, Need{Class: "c", InputTokens: 1000})
	if err := c.g.SettleInput(t.Context(), grant, 1500, nil); err != nil {
		t.Fatal(err)
	}
	if got := state(t, c.g).InputTokens.Level - before; !approx(got, -1500, 0.01) {
		t.Errorf("at the start of the answer: moved by %v, want -1500", got)
	}
	c.settle(c.g, grant, Actual{InputTokens: 1500, OutputTokens: 1, Known: true})
	if got := state(t, c.g).InputTokens.Level - before; !approx(got, -1500, 0.01) {
		t.Errorf("at the end: moved by %v, want -1500", got)
	}
}

func TestExpectationIsTheMeanOfTheClass(t *testing.T) {
	t.Parallel()
	c := newClock(t, Limits{InputTokensPerMinute: 6_000_000, OutputTokensPerMinute: 6_000_000})
	// What a call of this class is expected to use: how far the levels fall.
	expect := func(n Need) (in, out float64) {
		before := state(t, c.g)
		_, grant := c.ask(c.g, n)
		after := state(t, c.g)
		c.settle(c.g, grant, Actual{Refused: true})
		return before.InputTokens.Level - after.InputTokens.Level, before.OutputTokens.Level - after.OutputTokens.Level
	}
	c.wait(Need{Class: "c"})
	c.t += 60
	for _, row := range []struct{ max, want int64 }{{400, 100}, {100_000, 512}, {0, 512}} {
		if _, got := expect(Need{Class: "new", MaxTokens: row.max}); !approx(got, float64(row.want), 1) {
			t.Errorf("nothing known, max_tokens %d: expected %v, want %d", row.max, got, row.want)
		}
	}
	for i := range 20 {
		_, grant := c.ask(c.g, Need{Class: "c", InputTokens: 1000, MaxTokens: 4000})
		c.t += 2
		c.settle(c.g, grant, Actual{InputTokens: 200, OutputTokens: int64(100 + 200*(i%2)), Known: true})
	}
	c.t += 60
	in, out := expect(Need{Class: "c", InputTokens: 2000, MaxTokens: 4000})
	if !approx(out, 200, 1) || !approx(in, 400, 1) {
		t.Errorf("expected %v in, %v out; want a fifth of 2,000, and 200", in, out)
	}
	if _, out := expect(Need{Class: "c", InputTokens: 2000, MaxTokens: 50}); !approx(out, 50, 1) {
		t.Errorf("expected %v out of at most 50", out)
	}
	if _, out := expect(Need{Class: "other", MaxTokens: 400}); !approx(out, 100, 1) {
		t.Errorf("another class: expected %v, want 100", out)
	}
}

// A class that never draws any output has a speed of nothing, which is not the
// same as one that is not known.
func TestCallsWithoutOutputAreNotTakenOffTheUnknownOnes(t *testing.T) {
	t.Parallel()
	c := newClock(t, Limits{RequestsPerMinute: 6000, OutputTokensPerMinute: 60_000, RequestBurst: 100})
	for range 2 {
		_, grant := c.ask(c.g, Need{Class: "silent"})
		c.t++
		c.settle(c.g, grant, Actual{OutputTokens: 0, Known: true})
	}
	_, silent := c.ask(c.g, Need{Class: "silent"})
	c.ask(c.g, Need{Class: "new"})
	c.settle(c.g, silent, Actual{OutputTokens: 0, Known: true})
	unknown, err := c.g.rdb.Eval(t.Context(), `return cmsgpack.unpack(redis.call('GET', KEYS[1])).running_unknown`, c.g.keys).Int()
	if err != nil || unknown != 1 {
		t.Errorf("got %d calls under way of a class that is not known, %v; want 1, the new one", unknown, err)
	}
}

func TestNeedLargerThanTheBucketIsAdmitted(t *testing.T) {
	t.Parallel()
	c := newClock(t, Limits{InputTokensPerMinute: 60_000})
	c.wait(Need{Class: "c", InputTokens: 1000})
	got := c.wait(Need{Class: "c", InputTokens: 500_000})
	if got > 60*time.Second || got < 10*time.Second {
		t.Errorf("waits %v, want until the bucket is full, at most 60 s", got)
	}
	if a, _ := c.ask(c.g, Need{Class: "c", InputTokens: 10}); a.status != "far" {
		t.Errorf("behind it: got %q, want far", a.status)
	}
}

// A large prompt asks once and has its slot; small ones of another process queue behind it.
func TestLargePromptIsNotStarved(t *testing.T) {
	t.Parallel()
	rdb := redistest.New(t)
	l := Limits{InputTokensPerMinute: 60_000}
	c := onClock(t, rdb, l)
	other := c.another(rdb, l)
	small := Need{Class: "small", InputTokens: 1000}
	end := c.t + 60
	for c.t < end { // the allowance is in use
		a, grant := c.ask(other, small)
		c.t += a.wait.Seconds() + 0.001
		c.settle(other, grant, Actual{InputTokens: 1000, OutputTokens: 1, Known: true})
	}
	a, _ := c.ask(c.g, Need{Class: "large", InputTokens: 40_000})
	if a.status != "ok" || a.wait > 60*time.Second {
		t.Fatalf("large prompt: got %s in %v, want a slot in 40 s and its guard", a.status, a.wait)
	}
	sent := c.t + a.wait.Seconds()
	for asked := 0; c.t < sent; asked++ {
		if asked > 100 {
			t.Fatal("100 questions and still before the large prompt's slot")
		}
		b, _ := c.ask(other, small)
		if b.status == "ok" && c.t+b.wait.Seconds() < sent {
			t.Fatalf("a small prompt goes %v before the large one", time.Duration((sent-c.t-b.wait.Seconds())*1e9))
		}
		c.t += b.wait.Seconds() + 0.001
	}
}

func TestLostStateStartsEmptyAndWaitsASecond(t *testing.T) {
	t.Parallel()
	rdb := redistest.New(t)
	l := Limits{RequestsPerMinute: 60, OutputTokensPerMinute: 60_000, RequestBurst: 10}
	c := onClock(t, rdb, l)
	_, old := c.ask(c.g, Need{Class: "c", MaxTokens: 4000})
	c.t += 1000
	if err := rdb.FlushAll(t.Context()).Err(); err != nil {
		t.Fatal(err)
	}
	// A newcomer makes the new epoch; those that knew the old one hold it.
	newcomer := c.another(rdb, l)
	c.ask(newcomer, Need{Class: "c", MaxTokens: 4000})
	if a, _ := c.ask(c.g, Need{Class: "c", MaxTokens: 4000}); a.status != "hold" || !near(a.wait, 1, 1e-3) {
		t.Errorf("got %s for %v, want a hold for 1 s", a.status, a.wait)
	}
	before := state(t, c.g)
	c.settle(c.g, old, Actual{Known: true, OutputTokens: 1})
	if after := state(t, c.g); after.OutputTokens.Level != before.OutputTokens.Level || after.InFlight != 1 {
		t.Errorf("a call of the lost epoch moved the level from %v to %v", before.OutputTokens.Level, after.OutputTokens.Level)
	}
	if err := rdb.FlushAll(t.Context()).Err(); err != nil {
		t.Fatal(err)
	}
	if a, _ := c.ask(c.g, Need{}); a.status != "hold" {
		t.Errorf("got %s after the state was lost, want hold", a.status)
	}
	c.t += 1
	a, _ := c.ask(c.g, Need{})
	if a.status != "ok" || a.wait > time.Second {
		t.Errorf("after the hold: %s in %v, want a slot within a second", a.status, a.wait)
	}
	if got := state(t, c.g).Requests.Level; got > 2 {
		t.Errorf("level %v a second after the state was lost, want an almost empty bucket", got)
	}
}

func TestClockThatWentBackFarIsLostState(t *testing.T) {
	t.Parallel()
	c := newClock(t, Limits{RequestsPerMinute: 60, RequestBurst: 10})
	c.wait(Need{})
	c.t -= 10 // a little: time stands still
	if got := c.wait(Need{}); !near(got, 1, 1e-3) {
		t.Errorf("clock 10 s behind: slot in %v, want 1 s", got)
	}
	c.t -= 3600
	if a, _ := c.ask(c.g, Need{}); a.status != "hold" || !near(a.wait, 1, 1e-3) {
		t.Errorf("clock an hour behind: got %s %v, want a hold of 1 s", a.status, a.wait)
	}
}

func TestHoldAndResume(t *testing.T) {
	t.Parallel()
	c := newClock(t, Limits{RequestsPerMinute: 600})
	ctx := t.Context()
	for _, err := range []error{
		c.g.Hold(ctx, 10*time.Second, "refused"),
		c.g.Hold(ctx, 2*time.Second, "shorter"), // changes nothing
		c.g.Hold(ctx, -time.Second, "nonsense"),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	if s := state(t, c.g); !near(s.HeldFor, 10, 1e-3) || s.HoldReason != "refused" || s.Wait(1) < 10*time.Second {
		t.Errorf("held for %v, %q; want 10 s, refused", s.HeldFor, s.HoldReason)
	}
	c.t += 4
	if a, _ := c.ask(c.g, Need{}); a.status != "hold" || !near(a.wait, 6, 1e-3) {
		t.Errorf("got %s %v, want hold 6 s", a.status, a.wait)
	}
	if err := c.g.Resume(ctx, 1); err != nil {
		t.Fatal(err)
	}
	if a, _ := c.ask(c.g, Need{}); a.status != "ok" {
		t.Errorf("resumed: got %s", a.status)
	}
	if s := state(t, c.g); s.HeldFor != 0 || s.HoldReason != "" {
		t.Errorf("resumed: held for %v, %q", s.HeldFor, s.HoldReason)
	}
}

func TestSlowStartDoublesEachFiveSeconds(t *testing.T) {
	t.Parallel()
	c := newClock(t, Limits{RequestsPerMinute: 6000, RequestBurst: 5})
	c.wait(Need{})
	if err := c.g.Resume(t.Context(), 0.1); err != nil {
		t.Fatal(err)
	}
	began := c.t
	var sent []float64
	for c.t < began+25 {
		a, _ := c.ask(c.g, Need{})
		if a.status != "ok" {
			t.Fatal(a.status)
		}
		c.t += a.wait.Seconds()
		sent = append(sent, c.t-began)
	}
	for i, want := range []float64{50, 100, 200, 400, 500} { // of 500 at the full pace
		got := 0.0
		for _, at := range sent {
			if at > float64(i)*5 && at <= float64(i+1)*5 {
				got++
			}
		}
		if !approx(got, want, 6) {
			t.Errorf("from %d s to %d s: %v calls, want about %v", 5*i, 5*i+5, got, want)
		}
	}
	if s := state(t, c.g); s.Pace != 1 {
		t.Errorf("pace %v at the end, want 1", s.Pace)
	}
}

// A slot that is promised in a slow start counts on the pace that grows meanwhile.
func TestSlotAheadCountsOnTheSlowStart(t *testing.T) {
	t.Parallel()
	c := newClock(t, Limits{RequestsPerMinute: 60, RequestBurst: 1})
	c.wait(Need{})
	if err := c.g.Resume(t.Context(), 0.1); err != nil {
		t.Fatal(err)
	}
	// 0.5 in the first 5 s, then 0.2 a second: 1 after 7.5 s.
	if got := c.wait(Need{}); !near(got, 7.5, 1e-3) {
		t.Errorf("slot in %v, want 7.5 s", got)
	}
	// 1 more by 10 s (1.5 in all), 2 by 11.25 s.
	if got := c.wait(Need{}); !near(got, 11.25, 1e-3) {
		t.Errorf("slot in %v, want 11.25 s", got)
	}
}

// Of the process that was refused nothing is needed after the refusal: whoever
// asks when the hold is over finds the slow start.
func TestARampsSlowStartNeedsNobodyWhoLives(t *testing.T) {
	t.Parallel()
	rdb := redistest.New(t)
	limits := Limits{RequestsPerMinute: 600, RequestBurst: 1}
	c := onClock(t, rdb, limits)
	ctx := t.Context()
	c.wait(Need{})
	if err := c.g.Ramp(ctx, 10*time.Second, "ramp_limited"); err != nil {
		t.Fatal(err)
	}
	other := c.another(rdb, limits)
	c.t += 5
	if err := other.Hold(ctx, 10*time.Second, "rate_limited"); err != nil { // a longer one: the slow start waits for its end
		t.Fatal(err)
	}
	if a, _ := c.ask(other, Need{}); a.status != "hold" || !near(a.wait, 10, 1e-3) {
		t.Errorf("got %s %v, want hold 10 s", a.status, a.wait)
	}
	for _, step := range []struct{ after, pace float64 }{{10.01, 0.1}, {4.9, 0.1}, {0.1, 0.2}, {5, 0.4}, {5, 0.8}, {5, 1}} {
		c.t += step.after
		if s := state(t, other); !approx(s.Pace, step.pace, 1e-6) || s.HeldFor != 0 {
			t.Errorf("at %v s: pace %v, held for %v; want %v, 0", c.t-1_800_000_000, s.Pace, s.HeldFor, step.pace)
		}
	}
}

// A refusal for a rise of use need not say when to come again.
func TestARampOfNoTimeIsASlowStartAtOnce(t *testing.T) {
	t.Parallel()
	c := newClock(t, Limits{RequestsPerMinute: 600})
	c.wait(Need{})
	if err := c.g.Ramp(t.Context(), 0, "ramp_limited"); err != nil {
		t.Fatal(err)
	}
	if s := state(t, c.g); !approx(s.Pace, 0.1, 1e-6) || s.HeldFor != 0 {
		t.Errorf("pace %v, held for %v; want 0.1, 0", s.Pace, s.HeldFor)
	}
}

// The breaker, or an operator, resumes at a pace of its own, and perhaps more
// than once. It may be slower than a ramp's slow start and not faster.
func TestAResumeDoesNotCutARampShort(t *testing.T) {
	t.Parallel()
	c := newClock(t, Limits{RequestsPerMinute: 600})
	ctx := t.Context()
	pace := func(want float64, what string) {
		t.Helper()
		if s := state(t, c.g); !approx(s.Pace, want, 1e-6) || s.HeldFor != 0 {
			t.Errorf("%s: pace %v, held for %v; want %v, 0", what, s.Pace, s.HeldFor, want)
		}
	}
	resume := func(at float64) {
		t.Helper()
		if err := c.g.Resume(ctx, at); err != nil {
			t.Fatal(err)
		}
	}
	c.wait(Need{})
	if err := c.g.Ramp(ctx, 10*time.Second, "ramp_limited"); err != nil {
		t.Fatal(err)
	}
	c.t++
	resume(1)
	resume(1) // another process
	pace(0.1, "resumed in the hold")
	c.t += 5.1
	resume(0.8)
	pace(0.2, "resumed after a doubling")
	resume(0.05)
	pace(0.05, "resumed at less")
	c.t += 25.1
	pace(1, "at the end")
	resume(0.1)
	resume(1)
	pace(1, "long after")
}

func TestHalfThePace(t *testing.T) {
	t.Parallel()
	c := newClock(t, Limits{RequestsPerMinute: 60, RequestBurst: 1})
	c.wait(Need{})
	if err := c.g.Resume(t.Context(), 0.5); err != nil {
		t.Fatal(err)
	}
	if got := c.wait(Need{}); !near(got, 2, 1e-3) {
		t.Errorf("at half the pace: slot in %v, want 2 s", got)
	}
	if s := state(t, c.g); s.Pace != 0.5 || !approx(s.CallsPerSecond, 0.5, 1e-6) {
		t.Errorf("pace %v, %v calls a second; want 0.5, 0.5", s.Pace, s.CallsPerSecond)
	}
}

func TestSoftRefusal(t *testing.T) {
	t.Parallel()
	c := newClock(t, Limits{RequestsPerMinute: 600, RequestBurst: 10})
	c.wait(Need{})
	c.t += 100
	for i := range 3 {
		c.t += 1.5
		if s := state(t, c.g); s.HeldFor != 0 {
			t.Errorf("held after %d refusals", i)
		}
		before := state(t, c.g)
		if err := c.g.SoftRefusal(t.Context()); err != nil {
			t.Fatal(err)
		}
		after := state(t, c.g)
		if !approx(before.Requests.Level-after.Requests.Level, 1, 1e-6) || !approx(after.Pace/before.Pace, 0.97, 1e-3) {
			t.Errorf("level %v to %v, pace %v to %v; want one less and 3 %% less", before.Requests.Level, after.Requests.Level, before.Pace, after.Pace)
		}
	}
	if s := state(t, c.g); !near(s.HeldFor, 1, 1e-3) {
		t.Errorf("third in 5 s: held for %v, want 1 s", s.HeldFor)
	}
	c.t += 30
	if s := state(t, c.g); !approx(s.Pace, 0.97*0.97*0.97+0.03, 4e-3) {
		t.Errorf("30 s later: pace %v, want 3 %% more", s.Pace)
	}
	c.t += 1000
	for range 3 {
		c.t += 3
		if err := c.g.SoftRefusal(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if s := state(t, c.g); s.HeldFor != 0 {
		t.Errorf("three in 6 s: held for %v", s.HeldFor)
	}
}

// Calls that were delayed together are refused together: that is one burst, and
// says no more of the pace than one refusal.
func TestABurstOfSoftRefusalsSlowsOnce(t *testing.T) {
	t.Parallel()
	c := newClock(t, Limits{RequestsPerMinute: 600, RequestBurst: 10})
	c.wait(Need{})
	c.t += 100
	before := state(t, c.g)
	for range 4 {
		if err := c.g.SoftRefusal(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	after := state(t, c.g)
	if !approx(after.Pace, 0.97, 1e-3) || !approx(before.Requests.Level-after.Requests.Level, 4, 1e-6) {
		t.Errorf("pace %v, level %v to %v; want 0.97 and four less", after.Pace, before.Requests.Level, after.Requests.Level)
	}
	// An outage's slow start is a new beginning.
	if err := c.g.Resume(t.Context(), 0.5); err != nil {
		t.Fatal(err)
	}
	if s := state(t, c.g); !approx(s.Pace, 0.5, 1e-3) {
		t.Errorf("after a resume at a half: pace %v", s.Pace)
	}
}

func TestConcurrency(t *testing.T) {
	t.Parallel()
	c := newClock(t, Limits{Concurrency: 2})
	_, first := c.ask(c.g, Need{})
	c.ask(c.g, Need{})
	if a, _ := c.ask(c.g, Need{}); a.status != "full" {
		t.Errorf("third of two: got %s, want full", a.status)
	}
	if s, n := state(t, c.g), waitingProcesses(t, c.g); s.Binds != "concurrency" || n != 1 || s.InFlight != 2 {
		t.Errorf("got %+v, %d waiting; want bound by concurrency, one waiting, two in flight", s, n)
	}
	c.settle(c.g, first, Actual{})
	c.g.mu.Lock()
	handed := len(c.g.handed)
	c.g.mu.Unlock()
	if s, n := state(t, c.g), waitingProcesses(t, c.g); handed != 1 || s.InFlight != 2 || n != 0 {
		t.Errorf("%d handed over, %d in flight, %d waiting; want 1, 2, 0", handed, s.InFlight, n)
	}
}

func TestConcurrencyIsHandedOverInOrder(t *testing.T) {
	t.Parallel()
	rdb := redistest.New(t)
	l := Limits{Concurrency: 1}
	c := onClock(t, rdb, l)
	second, third := c.another(rdb, l), c.another(rdb, l)
	_, grant := c.ask(c.g, Need{})
	for _, g := range []*Gate{second, third} {
		if a, _ := c.ask(g, Need{}); a.status != "full" {
			t.Fatalf("got %s, want full", a.status)
		}
	}
	sub := rdb.Subscribe(t.Context(), c.g.channel)
	defer sub.Close()
	if _, err := sub.Receive(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, g := range []*Gate{second, third} {
		c.settle(c.g, grant, Actual{})
		m, err := sub.ReceiveMessage(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		g.hear(m.Payload)
		g.mu.Lock()
		got := g.handed
		g.mu.Unlock()
		if len(got) != 1 || got[0].status != "ok" {
			t.Fatalf("handed over %+v, want one slot", got)
		}
		grant = Grant{key: got[0].key, epoch: got[0].epoch}
	}
}

func TestReservationsOfADeadHolderEnd(t *testing.T) {
	t.Parallel()
	rdb := redistest.New(t)
	l := Limits{RequestsPerMinute: 600, OutputTokensPerMinute: 60_000, Concurrency: 2}
	c := onClock(t, rdb, l)
	dead := c.another(rdb, l)
	c.ask(dead, Need{})
	c.ask(dead, Need{})
	for range 4 {
		c.t += 4.5
		if err := c.g.renew(t.Context(), ""); err != nil {
			t.Fatal(err)
		}
		if a, _ := c.ask(c.g, Need{}); a.status != "full" {
			t.Errorf("got %s while the holder's lease lasts, want full", a.status)
		}
	}
	c.t += 4.5
	if a, _ := c.ask(c.g, Need{}); a.status != "ok" {
		t.Errorf("got %s after the holder's lease, want ok", a.status)
	}
	if s := state(t, c.g); s.InFlight != 1 {
		t.Errorf("%d in flight, want 1", s.InFlight)
	}
}

func TestLeasesOutliveAnOutageOfRedis(t *testing.T) {
	t.Parallel()
	rdb := redistest.New(t)
	l := Limits{Concurrency: 1}
	c := onClock(t, rdb, l)
	other := c.another(rdb, l)
	c.ask(c.g, Need{})
	c.t += 300 // nobody came through
	if a, _ := c.ask(other, Need{}); a.status != "full" {
		t.Errorf("got %s, want full: the holder lives", a.status)
	}
}

func TestUnsettledReservationExpires(t *testing.T) {
	t.Parallel()
	c := newClock(t, Limits{Concurrency: 1}, func(cfg *Config) { cfg.Timeout = time.Minute })
	c.ask(c.g, Need{})
	for range 17 {
		c.t += 5
		if err := c.g.renew(t.Context(), ""); err != nil {
			t.Fatal(err)
		}
	}
	if a, _ := c.ask(c.g, Need{}); a.status != "full" {
		t.Errorf("after 85 s of 90: got %s, want full", a.status)
	}
	c.t += 6
	if a, _ := c.ask(c.g, Need{}); a.status != "ok" {
		t.Errorf("after 91 s of 90: got %s, want ok", a.status)
	}
}

func reading(limit, remaining int64) Reading {
	return Reading{Limit: limit, HasLimit: limit > 0, Remaining: remaining, HasRemaining: remaining >= 0}
}

func TestProviderLimits(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		name       string
		configured int64
		follow     bool
		said       int64
		early      bool // within the quiet period, after the state was lost
		want       int64
	}{
		{"lowers", 600, false, 300, true, 300},
		{"does not raise by itself", 600, false, 900, false, 600},
		{"raises when allowed", 600, true, 900, false, 900},
		{"does not raise in the quiet period", 600, true, 900, true, 600},
		{"fills in what is not configured", 0, false, 900, true, 900},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			c := newClock(t, Limits{RequestsPerMinute: row.configured}, func(cfg *Config) { cfg.FollowProvider = row.follow })
			c.wait(Need{})
			if row.early {
				c.lose()
			}
			observe(t, c.g, Observed{Requests: reading(row.said, -1)})
			if got := state(t, c.g).Requests.Limit; got != row.want {
				t.Errorf("limit %d, want %d", got, row.want)
			}
		})
	}
}

func TestHeadersCorrectTheLevel(t *testing.T) {
	t.Parallel()
	c := newClock(t, Limits{OutputTokensPerMinute: 60_000})
	c.wait(Need{})
	c.lose()
	c.t += 1 // the hold
	_, grant := c.ask(c.g, Need{Class: "c", MaxTokens: 4})
	c.settle(c.g, grant, Actual{OutputTokens: 1, Known: true})
	c.t += 18.5 // the level has come to about 19,500
	moved := func(remaining int64, age time.Duration) float64 {
		before := state(t, c.g).OutputTokens.Level
		observe(t, c.g, Observed{OutputTokens: reading(-1, remaining), Age: age})
		return state(t, c.g).OutputTokens.Level - before
	}
	if got := moved(60_000, 0); got != 0 {
		t.Errorf("in the quiet period: up by %v", got)
	}
	if got := moved(9_000, 3*time.Second); got != 0 {
		t.Errorf("headers 3 s old moved the level by %v", got)
	}
	level := state(t, c.g).OutputTokens.Level
	if got := moved(int64(level)-500, 0); got != 0 {
		t.Errorf("within the dead band: moved by %v", got)
	}
	if got := moved(int64(level)-10_600, 0); !approx(got, -5000, 100) {
		t.Errorf("10,000 beyond the band too high: moved by %v, want -5,000", got)
	}
	c.t += 10
	level = state(t, c.g).OutputTokens.Level
	if got := moved(int64(level)+10_600, 0); !approx(got, 1000, 100) {
		t.Errorf("10,000 beyond the band too low: moved by %v, want 1,000", got)
	}
}

// Headers that were written before a call was sent do not know of it.
func TestHeadersOlderThanACallDoNotRaiseTheLevel(t *testing.T) {
	t.Parallel()
	c := newClock(t, Limits{InputTokensPerMinute: 60_000})
	_, first := c.ask(c.g, Need{Class: "c", InputTokens: 100})
	c.settle(c.g, first, Actual{InputTokens: 100, OutputTokens: 1, Known: true})
	c.t += 30
	told := int64(state(t, c.g).InputTokens.Level)
	c.wait(Need{Class: "c", InputTokens: 10_000})
	c.t += 0.03
	before := state(t, c.g).InputTokens.Level
	observe(t, c.g, Observed{InputTokens: reading(-1, told)})
	if got := state(t, c.g).InputTokens.Level - before; got > 0 {
		t.Errorf("raised by %v", got)
	}
}

// The in-process Redis of a bare machine has to understand the scripts too.
func TestScriptsRunOnMiniredis(t *testing.T) {
	m := miniredis.RunT(t)
	rdb := redis.NewClient(&redis.Options{
		Addr: m.Addr(), MaintNotificationsConfig: &maintnotifications.Config{Mode: maintnotifications.ModeDisabled},
	})
	t.Cleanup(func() { _ = rdb.Close() })
	c := onClock(t, rdb, Limits{RequestsPerMinute: 60, InputTokensPerMinute: 60_000, OutputTokensPerMinute: 60_000, Concurrency: 2})
	need := Need{Class: "c", InputTokens: 100, MaxTokens: 400}
	for i := range 10 {
		a, grant := c.ask(c.g, need)
		if a.status != "ok" || i > 0 && !near(a.wait, 0.9, 0.01) {
			t.Fatalf("call %d: %s in %v", i, a.status, a.wait)
		}
		c.t += a.wait.Seconds() + 0.1
		if err := c.g.SettleInput(context.Background(), grant, 100, &Observed{Requests: reading(60, 2)}); err != nil {
			t.Fatal(err)
		}
		c.settle(c.g, grant, Actual{InputTokens: 100, OutputTokens: 100, Known: true})
	}
	for _, err := range []error{
		c.g.Hold(t.Context(), time.Second, "x"), c.g.Resume(t.Context(), 0.1), c.g.SoftRefusal(t.Context()),
		c.g.renew(t.Context(), "x"),
	} {
		if err != nil {
			t.Error(err)
		}
	}
	if _, _, err := c.g.run(t.Context(), leaveScript, &common{}); err != nil {
		t.Error(err)
	}
	if s := state(t, c.g); s.InFlight != 0 {
		t.Errorf("%d in flight, want 0", s.InFlight)
	}
}
