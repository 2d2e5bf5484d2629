package webhook_test

import (
	"net/http"
	"testing"
	"time"

	"github.com/sluicehq/sluice/worker/webhook"
)

func TestSchedule(t *testing.T) {
	// As the public contract has it: the wait before attempts 2 to 10.
	waits := []time.Duration{5 * time.Second, 5 * time.Minute, 30 * time.Minute, 2 * time.Hour, 5 * time.Hour,
		10 * time.Hour, 14 * time.Hour, 20 * time.Hour, 24 * time.Hour}
	if webhook.MaxAttempts != len(waits)+1 {
		t.Fatalf("MaxAttempts = %d, want %d", webhook.MaxAttempts, len(waits)+1)
	}
	failed := webhook.Result{Outcome: webhook.Status5xx}
	var total time.Duration
	for i, want := range waits {
		for rand, share := range map[float64]float64{0: 0.8, 0.25: 0.9, 0.5: 1, 0.75: 1.1} {
			got, again := webhook.Next(i+1, failed, rand)
			if diff := got - time.Duration(float64(want)*share); !again || diff.Abs() > time.Microsecond {
				t.Errorf("Next(%d, failed, %v) = %v, %v, want %v times %v", i+1, rand, got, again, share, want)
			}
		}
		mean, _ := webhook.Next(i+1, failed, 0.5)
		total += mean
	}
	if want := 75*time.Hour + 35*time.Minute + 5*time.Second; (total - want).Abs() > time.Millisecond {
		t.Errorf("the schedule spans %v, want %v", total, want)
	}
	if _, again := webhook.Next(10, failed, 0.5); again {
		t.Error("an attempt after the tenth")
	}
}

func TestNextByOutcome(t *testing.T) {
	for _, o := range webhook.Outcomes() {
		_, again := webhook.Next(1, webhook.Result{Outcome: o}, 0.5)
		want := o != webhook.Delivered && o != webhook.Gone && o != webhook.Invalid
		if again != want {
			t.Errorf("Next after %s: again = %v, want %v", o, again, want)
		}
		_, again = webhook.Next(webhook.MaxAttempts, webhook.Result{Outcome: o}, 0.5)
		if again == o.Attempted() {
			t.Errorf("Next after %s at the last attempt: again = %v; it counts as an attempt: %v", o, again, o.Attempted())
		}
	}
	for rand, want := range map[float64]time.Duration{0: time.Second, 0.5: 1500 * time.Millisecond} {
		if got, _ := webhook.Next(3, webhook.Result{Outcome: webhook.Busy}, rand); got != want {
			t.Errorf("Next(3, busy, %v) = %v, want %v", rand, got, want)
		}
	}
}

// What a receiver asks for is kept up to the schedule's step after the one that is due.
func TestRetryAfterIsKeptUpToTheNextStep(t *testing.T) {
	for _, c := range []struct {
		attempt     int
		asked, want time.Duration
	}{
		{1, 0, 5 * time.Second},
		{1, time.Second, 5 * time.Second},
		{1, time.Minute, time.Minute},
		{1, time.Hour, 5 * time.Minute},
		{2, 0, 5 * time.Minute},
		{2, 20 * time.Minute, 20 * time.Minute},
		{2, 7 * 24 * time.Hour, 30 * time.Minute},
		{8, 23 * time.Hour, 23 * time.Hour},
		{9, 23 * time.Hour, 24 * time.Hour},
		{9, 7 * 24 * time.Hour, 24 * time.Hour},
	} {
		for _, o := range []webhook.Outcome{webhook.Throttled, webhook.Status5xx, webhook.Status4xx} {
			if got, _ := webhook.Next(c.attempt, webhook.Result{Outcome: o, RetryAfter: c.asked}, 0.5); got != c.want {
				t.Errorf("Next(%d) after %s with Retry-After %v = %v, want %v", c.attempt, o, c.asked, got, c.want)
			}
		}
	}
}

func TestParseRetryAfter(t *testing.T) {
	now := time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)
	const week = 7 * 24 * time.Hour
	for _, c := range []struct {
		in   string
		want time.Duration
		ok   bool
	}{
		{"0", 0, true}, {"120", 2 * time.Minute, true}, {" 120\t", 2 * time.Minute, true}, {"00120", 2 * time.Minute, true},
		{"604801", week, true}, {"99999999999999999999999999999999", week, true},
		{"Sun, 22 Nov 2026 12:01:00 GMT", time.Minute, true},
		{"Sunday, 22-Nov-26 12:01:00 GMT", time.Minute, true},
		{"Sun Nov 22 12:01:00 2026", time.Minute, true},
		{"Sun, 22 Nov 2026 11:59:00 GMT", 0, true},
		{"Fri, 31 Dec 9999 23:59:59 GMT", week, true},
		{"Mon, 01 Jan 0001 00:00:00 GMT", 0, true},
		{"", 0, false}, {"-1", 0, false}, {"+1", 0, false}, {"1.5", 0, false}, {"1e3", 0, false}, {"soon", 0, false},
		{"1 2", 0, false}, {"2026-11-22T12:01:00Z", 0, false}, {"０", 0, false},
	} {
		got, ok := webhook.ParseRetryAfter(c.in, now)
		if got != c.want || ok != c.ok {
			t.Errorf("ParseRetryAfter(%q) = %v, %v, want %v, %v", c.in, got, ok, c.want, c.ok)
		}
	}
}

func FuzzParseRetryAfter(f *testing.F) {
	now := time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)
	for _, s := range []string{"0", "120", "-1", "1e9", "99999999999999999999", now.Format(http.TimeFormat), "Fri, 31 Dec 9999 23:59:59 GMT"} {
		f.Add(s, 0.5)
	}
	f.Fuzz(func(t *testing.T, value string, rand float64) {
		got, ok := webhook.ParseRetryAfter(value, now)
		if got < 0 || got > 7*24*time.Hour || !ok && got != 0 {
			t.Fatalf("ParseRetryAfter(%q) = %v, %v", value, got, ok)
		}
		if rand < 0 || rand >= 1 || rand != rand {
			return
		}
		// Whatever a receiver asks for, the delay stays within the schedule's next step.
		for attempt := 1; attempt < webhook.MaxAttempts; attempt++ {
			nominal, _ := webhook.Next(attempt, webhook.Result{Outcome: webhook.Throttled}, 0.5)
			most, _ := webhook.Next(min(attempt+1, webhook.MaxAttempts-1), webhook.Result{Outcome: webhook.Throttled}, 0.5)
			delay, again := webhook.Next(attempt, webhook.Result{Outcome: webhook.Throttled, RetryAfter: got}, rand)
			if !again || float64(delay) < 0.79*float64(nominal) || float64(delay) > 1.21*float64(most) {
				t.Fatalf("Next(%d) with Retry-After %v = %v, planned %v", attempt, got, delay, nominal)
			}
		}
	})
}
