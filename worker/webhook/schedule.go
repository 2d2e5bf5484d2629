package webhook

import (
	"net/http"
	"strings"
	"time"
)

// MaxAttempts is how many attempts a delivery gets. The last one ends about 75
// and a half hours after the first.
const MaxAttempts = 10

// jitter is the share by which a delay is made shorter or longer.
const jitter = 0.2

// busyDelay is the wait after an attempt that found its host busy.
const busyDelay = time.Second

// planned is the wait before each attempt: the example of the specification,
// and part of the public contract.
func planned(attempt int) time.Duration {
	return [MaxAttempts]time.Duration{
		0, 5 * time.Second, 5 * time.Minute, 30 * time.Minute, 2 * time.Hour,
		5 * time.Hour, 10 * time.Hour, 14 * time.Hour, 20 * time.Hour, 24 * time.Hour,
	}[attempt-1]
}

// Next says whether a delivery is attempted again, and after what delay. The
// attempt that just ended has the number attempt, the first being 1; rand is
// uniform in [0, 1).
//
//   - delivered, gone and invalid end a delivery, and so does attempt 10;
//   - otherwise the delay is the schedule's, 20 % shorter to 20 % longer;
//   - a Retry-After that asks for more is kept, up to the schedule's next delay
//     after that one (24 h at most), so that a receiver cannot park a queue of ours;
//   - canceled is again at once, and busy in 1 to 2 seconds. Neither is an
//     attempt: the next one bears the same number ([Outcome.Attempted]).
//
// The longer minimum that some senders keep after a timeout or a 429 is left out
// on purpose: the schedule is promised to receivers as it is, and one who wants
// more time says so by Retry-After.
func Next(attempt int, res Result, rand float64) (delay time.Duration, again bool) {
	switch res.Outcome {
	case Delivered, Gone, Invalid:
		return 0, false
	case Canceled:
		return 0, true
	case Busy:
		return busyDelay + time.Duration(rand*float64(busyDelay)), true
	}
	if attempt >= MaxAttempts {
		return 0, false
	}
	next := max(attempt, 0) + 1
	delay = time.Duration(float64(planned(next)) * (1 - jitter + 2*jitter*rand))
	return max(delay, min(res.RetryAfter, planned(min(next+1, MaxAttempts)))), true
}

// maxRetryAfter bounds what ParseRetryAfter returns. Next allows less.
const maxRetryAfter = 7 * 24 * time.Hour

// ParseRetryAfter reads a Retry-After header (RFC 9110, section 10.2.3): seconds
// in plain digits, or an HTTP date, which is compared with now. A date in the past
// is 0; more than a week is a week. It reports false for anything else.
func ParseRetryAfter(value string, now time.Time) (time.Duration, bool) {
	value = strings.Trim(value, " \t")
	if value == "" {
		return 0, false
	}
	if strings.Trim(value, "0123456789") == "" {
		seconds := int64(0)
		for i := range len(value) {
			seconds = min(seconds*10+int64(value[i]-'0'), int64(maxRetryAfter/time.Second))
		}
		return time.Duration(seconds) * time.Second, true
	}
	at, err := http.ParseTime(value)
	if err != nil {
		return 0, false
	}
	return min(max(at.Sub(now), 0), maxRetryAfter), true
}
