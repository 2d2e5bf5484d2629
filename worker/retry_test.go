package worker

import (
	"testing"
	"time"

	"github.com/sluicehq/sluice/tasks"
	"github.com/sluicehq/sluice/worker/pool"
	"github.com/sluicehq/sluice/worker/upstream"
)

func TestDecide(t *testing.T) {
	t.Parallel()
	after := func(o tasks.Outcome, d time.Duration) upstream.Answer {
		return upstream.Answer{Outcome: o, HasRetryAfter: true, RetryAfter: d}
	}
	is := func(o tasks.Outcome) upstream.Answer { return upstream.Answer{Outcome: o} }
	refused := func(d upstream.Doubt) upstream.Answer { return upstream.Answer{Outcome: tasks.Rejected, Doubt: d} }
	no := false
	first := situation{attempts: 1, max: 3, random: 0.5}
	last := situation{attempts: 3, max: 3, random: 0.5}
	for _, c := range []struct {
		name string
		a    upstream.Answer
		s    situation
		want verdict
	}{
		{"success", is(tasks.Succeeded), first, verdict{status: tasks.StatusSucceeded}},
		{"429, short", after(tasks.RateLimited, time.Second), first, verdict{status: tasks.StatusRetrying, delay: time.Second, soft: true}},
		{"429, long", after(tasks.RateLimited, 7*time.Second), first, verdict{status: tasks.StatusRetrying, hold: 7 * time.Second}},
		{"429, bare", is(tasks.RateLimited), first, verdict{status: tasks.StatusRetrying, hold: defaultHold}},
		{"429, bare, the third in a row", is(tasks.RateLimited), situation{attempts: 1, max: 3, bare: 2}, verdict{status: tasks.StatusRetrying, hold: 20 * time.Second}},
		{"429, bare, the hundredth in a row", is(tasks.RateLimited), situation{attempts: 1, max: 3, bare: 99}, verdict{status: tasks.StatusRetrying, hold: capHold}},
		{"429 of a model alone", is(tasks.RateLimited), situation{attempts: 1, max: 3, standing: pool.Paused, guarded: true}, verdict{status: tasks.StatusRetrying}},
		{"429 of a job alone, the first times", is(tasks.RateLimited), situation{attempts: 3, max: 3, standing: pool.Singled, guarded: true}, verdict{status: tasks.StatusRetrying, delay: 10 * time.Second}},
		{"429 of a job alone, that says how long, the first times", after(tasks.RateLimited, 20*time.Second), situation{attempts: 3, max: 3, standing: pool.Singled, guarded: true}, verdict{status: tasks.StatusRetrying, delay: 20 * time.Second}},
		{"429 of a job alone", is(tasks.RateLimited), situation{attempts: 1, max: 3, standing: pool.Blamed, guarded: true}, verdict{status: tasks.StatusRetrying, counted: true, delay: 10 * time.Second}},
		{"429 of a job alone, that says how long", after(tasks.RateLimited, 90*time.Second), situation{attempts: 2, max: 3, standing: pool.Blamed, guarded: true}, verdict{status: tasks.StatusRetrying, counted: true, delay: 90 * time.Second}},
		{"429 of a job alone, last", is(tasks.RateLimited), situation{attempts: 3, max: 3, standing: pool.Blamed, guarded: true}, verdict{status: tasks.StatusFailed, code: tasks.AttemptsExhausted}},
		{"this process is cut off", is(tasks.ConnectError), situation{attempts: 3, max: 3, standing: pool.Away, guarded: true}, verdict{status: tasks.StatusRetrying}},
		{"429 on the last attempt", after(tasks.RateLimited, 7*time.Second), last, verdict{status: tasks.StatusRetrying, hold: 7 * time.Second}},
		{"ramp", after(tasks.RampLimited, 9*time.Second), first, verdict{status: tasks.StatusRetrying, hold: 9 * time.Second, ramp: true}},
		{"spend cap, no breaker", is(tasks.SpendLimited), last, verdict{status: tasks.StatusRetrying, hold: capHold}},
		{"key refused, no breaker", is(tasks.Unauthorized), last, verdict{status: tasks.StatusRetrying, hold: capHold}},
		{"spend cap", is(tasks.SpendLimited), situation{attempts: 3, max: 3, standing: pool.Paused, guarded: true}, verdict{status: tasks.StatusRetrying}},
		{"key refused", is(tasks.Unauthorized), situation{attempts: 3, max: 3, standing: pool.Paused, guarded: true}, verdict{status: tasks.StatusRetrying}},
		{"key refused, but the pool is open again", is(tasks.Unauthorized), situation{attempts: 3, max: 3, guarded: true}, verdict{status: tasks.StatusRetrying, delay: reopenedDelay}},
		{"a refusal that nobody could settle", is(tasks.Unauthorized), situation{attempts: 1, max: 3, standing: pool.Unsettled, guarded: true, random: 0.5}, verdict{status: tasks.StatusRetrying, counted: true, delay: 250 * time.Millisecond}},
		{"a refusal that nobody could settle, last", is(tasks.SpendLimited), situation{attempts: 3, max: 3, standing: pool.Unsettled, guarded: true}, verdict{status: tasks.StatusFailed, code: tasks.UpstreamRejected}},
		{"403, and the key is well", refused(upstream.DoubtAccess), situation{attempts: 1, max: 3, standing: pool.AtFault, guarded: true}, verdict{status: tasks.StatusFailed, code: tasks.UpstreamRejected}},
		{"401, and the key is well", refused(upstream.DoubtKey), situation{attempts: 1, max: 3, standing: pool.AtFault, guarded: true, random: 0.5}, verdict{status: tasks.StatusRetrying, counted: true, delay: 250 * time.Millisecond}},
		{"401 again, and the key is well", refused(upstream.DoubtKey), situation{attempts: 2, max: 3, standing: pool.AtFault, guarded: true}, verdict{status: tasks.StatusFailed, code: tasks.UpstreamRejected}},
		{"no such model, and the key is refused", refused(upstream.DoubtModel), situation{attempts: 3, max: 3, standing: pool.Paused, guarded: true}, verdict{status: tasks.StatusRetrying}},
		{"no such model, no breaker", refused(upstream.DoubtModel), first, verdict{status: tasks.StatusFailed, code: tasks.UpstreamRejected}},
		{"shutdown", is(tasks.HandedBack), last, verdict{status: tasks.StatusRetrying}},
		{"500", is(tasks.ServerError), first, verdict{status: tasks.StatusRetrying, counted: true, delay: 250 * time.Millisecond}},
		{"500, second", is(tasks.ServerError), situation{attempts: 2, max: 3, random: 0.5}, verdict{status: tasks.StatusRetrying, counted: true, delay: 500 * time.Millisecond}},
		{"529 with retry-after", after(tasks.Overloaded, 10*time.Second), first, verdict{status: tasks.StatusRetrying, counted: true, delay: 10500 * time.Millisecond}},
		{"500, last", is(tasks.ServerError), last, verdict{status: tasks.StatusFailed, code: tasks.AttemptsExhausted}},
		{"500, last, but the pool is paused", is(tasks.ServerError), situation{attempts: 3, max: 3, standing: pool.Paused}, verdict{status: tasks.StatusRetrying}},
		{"timeout", is(tasks.Timeout), first, verdict{status: tasks.StatusRetrying, counted: true, delay: 250 * time.Millisecond}},
		{"500, budget spent", is(tasks.ServerError), situation{attempts: 1, max: 3, random: 0.5, spent: true}, verdict{status: tasks.StatusRetrying, counted: true, delay: 5250 * time.Millisecond}},
		{"500 that a retry cannot cure", upstream.Answer{Outcome: tasks.ServerError, ShouldRetry: &no}, first, verdict{status: tasks.StatusFailed, code: tasks.UpstreamRejected}},
		{"500 behind what was told", is(tasks.ServerError), situation{attempts: 1, max: 3, told: true}, verdict{status: tasks.StatusFailed, code: tasks.StreamBroken}},
		{"500 behind what was told, last", is(tasks.ServerError), situation{attempts: 3, max: 3, told: true}, verdict{status: tasks.StatusFailed, code: tasks.StreamBroken}},
		{"500 behind what was told, but the pool is paused", is(tasks.ServerError), situation{attempts: 1, max: 3, told: true, standing: pool.Paused}, verdict{status: tasks.StatusRetrying}},
		{"shutdown behind what was told", is(tasks.HandedBack), situation{attempts: 1, max: 3, told: true}, verdict{status: tasks.StatusRetrying}},
		{"the way failed before the call was sent, and is another's turn", upstream.Answer{Outcome: tasks.ConnectError, Cause: upstream.Cause{Kind: upstream.Egress}}, situation{attempts: 3, max: 3, guarded: true, random: 0.5}, verdict{status: tasks.StatusRetrying, delay: 750 * time.Millisecond}},
		{"the way broke off what was sent", upstream.Answer{Outcome: tasks.CutOff, Cause: upstream.Cause{Kind: upstream.Egress}}, first, verdict{status: tasks.StatusRetrying, counted: true, delay: 250 * time.Millisecond}},
		{"no way is open", upstream.Answer{Outcome: tasks.ConnectError, Cause: upstream.Cause{Kind: upstream.EgressShut}}, situation{attempts: 3, max: 3, standing: pool.Paused, guarded: true}, verdict{status: tasks.StatusRetrying}},
		{"no way is open, and the pool is not paused yet", upstream.Answer{Outcome: tasks.ConnectError, Cause: upstream.Cause{Kind: upstream.EgressShut}}, situation{attempts: 3, max: 3, guarded: true, random: 0.5}, verdict{status: tasks.StatusRetrying, delay: 7500 * time.Millisecond}},
		{"400", is(tasks.Rejected), first, verdict{status: tasks.StatusFailed, code: tasks.UpstreamRejected}},
		{"too large", is(tasks.TooLarge), first, verdict{status: tasks.StatusFailed, code: tasks.ResultTooLarge}},
	} {
		if got := decide(c.a, c.s); got != c.want {
			t.Errorf("%s: got %+v, want %+v", c.name, got, c.want)
		}
	}
}

func TestBackoffStaysBounded(t *testing.T) {
	t.Parallel()
	for attempts := 1; attempts < 1000; attempts++ {
		if d := backoff(upstream.Answer{}, situation{attempts: attempts, random: 1}); d <= 0 || d > retryCap {
			t.Fatalf("after %d attempts: %v", attempts, d)
		}
	}
}

func TestBudgetIsATenthOfTheCalls(t *testing.T) {
	t.Parallel()
	now := time.Unix(1000, 0)
	b := newBudget()
	b.now = func() time.Time { return now }
	for range 200 {
		b.call()
	}
	for range 20 {
		b.retry()
	}
	if b.spent() {
		t.Error("spent at 20 retries of 200 calls")
	}
	b.retry()
	if !b.spent() {
		t.Error("not spent at 21 retries of 200 calls")
	}
	now = now.Add(10 * time.Second)
	if b.spent() {
		t.Error("still spent ten seconds later")
	}
}

// The gate takes off what was sent since the headers came, so it has to be told
// when that was, however long the call took.
func TestHeadersAreAsOldAsTheyAre(t *testing.T) {
	t.Parallel()
	rate := upstream.Rate{Present: true, Limit: 10, Remaining: 5, Granularity: 1, Window: time.Minute}
	a := actual(upstream.Answer{Rates: upstream.Rates{Requests: rate}, HeadersAt: time.Now().Add(-time.Hour)})
	if got := a.Observed.Age; got < time.Hour || got > time.Hour+time.Minute {
		t.Errorf("headers of an hour ago are %v old", got)
	}
}

// A provider that refuses and says nothing is asked less and less, whatever was
// under way together, until it answers.
func TestBare429sAreCountedOnceATime(t *testing.T) {
	t.Parallel()
	var b bare
	silent, begun := upstream.Answer{Outcome: tasks.RateLimited}, time.Now()
	for range 50 { // all sent together
		if n := b.saw(silent, begun); n != 0 {
			t.Fatalf("%d before the first", n)
		}
	}
	for want := 1; want < 4; want++ {
		if n := b.saw(silent, time.Now()); n != want {
			t.Errorf("%d, want %d", n, want)
		}
	}
	b.saw(upstream.Answer{Outcome: tasks.RateLimited, HasRetryAfter: true}, time.Now())
	if n := b.saw(silent, begun); n != 3 {
		t.Errorf("%d after a refusal that says how long, want 3", n)
	}
	b.saw(upstream.Answer{Outcome: tasks.Succeeded}, time.Now())
	if n := b.saw(silent, time.Now()); n != 0 {
		t.Errorf("%d after a success, want none", n)
	}
}
