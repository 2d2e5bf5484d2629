package upstream

import (
	"math"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// Rate is one dimension of a provider's limits, as its headers state it.
type Rate struct {
	// Present is true when the headers stated a limit and what is left of it;
	// the other fields mean nothing without it.
	Present bool
	// Limit is the allowance of one Window, and Remaining what is left of it.
	Limit, Remaining int64
	// Granularity is the unit to which Remaining is rounded: 1 or 1000.
	Granularity int64
	// Reset is how long until the allowance is whole again, from the moment of
	// the answer; 0 when not stated.
	Reset time.Duration
	// Window is the span that Limit is for. Anthropic's is a minute. OpenAI's
	// headers do not say, and providers that copied their names mean other spans
	// by them; it is then worked out from Reset, and 0 when that is not possible.
	Window time.Duration
}

// Rates are the dimensions that a provider may state. Tokens is OpenAI's one
// token limit, and for Anthropic whichever token limit is the tightest.
type Rates struct {
	Requests Rate
	Input    Rate
	Output   Rate
	Tokens   Rate
	Project  Rate // OpenAI's token limit of the key's project
}

// organization is whose key a call was made with, in the words of either dialect. A header of
// which nobody could make a name says nothing.
func organization(h http.Header) string {
	for _, name := range []string{"Anthropic-Organization-Id", "Openai-Organization"} {
		if v := strings.TrimSpace(h.Get(name)); v != "" && len(v) <= 100 && strings.IndexFunc(v, func(r rune) bool { return r <= ' ' || r > '~' }) < 0 {
			return v
		}
	}
	return ""
}

// maxWait clamps a stated wait: nobody means more than a day by it.
const maxWait = 24 * time.Hour

// serverTime is the clock by which an answer's own dates are read: its Date
// header when that is credible, since the two clocks need not agree.
func serverTime(h http.Header, now time.Time) time.Time {
	if t, err := http.ParseTime(h.Get("Date")); err == nil {
		if skew := t.Sub(now); skew > -maxWait && skew < maxWait {
			return t
		}
	}
	return now
}

// parseRates reads the rate-limit headers of both dialects.
//
// Sources: platform.claude.com/docs/en/api/rate-limits (reset is an RFC 3339
// time, remaining tokens are rounded to the nearest thousand),
// developers.openai.com/api/docs/guides/rate-limits (reset is a duration).
func parseRates(h http.Header, now time.Time) Rates {
	now = serverTime(h, now)
	anthropic := func(dimension string, granularity int64) Rate {
		prefix := "Anthropic-Ratelimit-" + dimension
		r := parseRate(h[prefix+"-Limit"], h[prefix+"-Remaining"], granularity)
		if !r.Present {
			return Rate{}
		}
		r.Window = time.Minute
		if v := h[prefix+"-Reset"]; len(v) > 0 {
			if t, err := time.Parse(time.RFC3339, v[0]); err == nil {
				r.Reset = clampWait(t.Sub(now))
			}
		}
		return r
	}
	openAI := func(dimension string) Rate {
		r := parseRate(h["X-Ratelimit-Limit-"+dimension], h["X-Ratelimit-Remaining-"+dimension], 1)
		if !r.Present {
			return Rate{}
		}
		if v := h["X-Ratelimit-Reset-"+dimension]; len(v) > 0 {
			if d, ok := parseSpan(v[0]); ok {
				r.Reset = d
				r.Window = window(r)
			}
		}
		return r
	}
	r := Rates{
		Requests: anthropic("Requests", 1),
		Input:    anthropic("Input-Tokens", 1000),
		Output:   anthropic("Output-Tokens", 1000),
		Tokens:   anthropic("Tokens", 1000),
		Project:  openAI("Project-Tokens"),
	}
	if !r.Requests.Present {
		r.Requests = openAI("Requests")
	}
	if !r.Tokens.Present {
		r.Tokens = openAI("Tokens")
	}
	return r
}

func parseRate(limit, remaining []string, granularity int64) Rate {
	if len(limit) == 0 || len(remaining) == 0 {
		return Rate{}
	}
	l, err := strconv.ParseInt(strings.TrimSpace(limit[0]), 10, 64)
	if err != nil || l <= 0 || l > 1<<53 {
		return Rate{}
	}
	n, err := strconv.ParseInt(strings.TrimSpace(remaining[0]), 10, 64)
	if err != nil || n > 1<<53 {
		return Rate{}
	}
	return Rate{Present: true, Limit: l, Remaining: max(n, 0), Granularity: granularity}
}

// window works out the span of a limit that refills evenly: what is missing
// comes back within Reset. Near a minute and near a day it is taken for that.
func window(r Rate) time.Duration {
	missing := r.Limit - r.Remaining
	if missing <= 0 || r.Reset <= 0 || r.Reset >= maxWait {
		return 0
	}
	span := float64(r.Reset) * float64(r.Limit) / float64(missing)
	switch {
	case span >= float64(maxWait)/2:
		return maxWait
	case span <= float64(2*time.Minute):
		return time.Minute
	}
	return time.Duration(span)
}

// parseSpan reads a duration such as "6m0s", "88ms", "1d2h" or plain seconds.
func parseSpan(s string) (time.Duration, bool) {
	s = strings.TrimSpace(s)
	if seconds, ok := parseSeconds(s); ok {
		return seconds, true
	}
	var days time.Duration
	if d, rest, ok := strings.Cut(s, "d"); ok {
		n, err := strconv.Atoi(d)
		if err != nil || n < 0 {
			return 0, false
		}
		if n > 0 {
			days = maxWait // clamped below in any case
		}
		if s = rest; s == "" {
			return clampWait(days), true
		}
	}
	span, err := time.ParseDuration(s)
	if err != nil || span < 0 {
		return 0, false
	}
	return clampWait(days + min(span, maxWait)), true
}

// parseSeconds reads a decimal number of seconds.
func parseSeconds(s string) (time.Duration, bool) {
	f, err := strconv.ParseFloat(s, 64)
	if err != nil || math.IsNaN(f) {
		return 0, false
	}
	return clampWait(time.Duration(math.Max(0, math.Min(f, maxWait.Seconds())) * float64(time.Second))), true
}

func clampWait(d time.Duration) time.Duration { return max(0, min(d, maxWait)) }

// parseRetryAfter returns the wait that an answer asks for: retry-after-ms,
// else Retry-After in seconds or as an HTTP date (RFC 9110, section 10.2.3). A
// past or negative wait is 0, an absurd one a day.
func parseRetryAfter(h http.Header, now time.Time) (time.Duration, bool) {
	if v := strings.TrimSpace(h.Get("Retry-After-Ms")); v != "" {
		if f, err := strconv.ParseFloat(v, 64); err == nil && !math.IsNaN(f) {
			ms := math.Max(0, math.Min(f, float64(maxWait.Milliseconds())))
			return clampWait(time.Duration(ms * float64(time.Millisecond))), true
		}
	}
	v := strings.TrimSpace(h.Get("Retry-After"))
	if v == "" {
		return 0, false
	}
	if d, ok := parseSeconds(v); ok {
		return d, true
	}
	if t, err := http.ParseTime(v); err == nil {
		return clampWait(t.Sub(serverTime(h, now))), true
	}
	return 0, false
}

// parseShouldRetry reads x-should-retry, by which both providers overrule
// their clients' own rule.
func parseShouldRetry(h http.Header) *bool {
	switch strings.TrimSpace(h.Get("X-Should-Retry")) {
	case "true":
		v := true
		return &v
	case "false":
		v := false
		return &v
	}
	return nil
}

// parseRequestID returns the provider's name of the call.
func parseRequestID(d Dialect, h http.Header) string {
	names := [2]string{"Request-Id", "X-Request-Id"}
	if d == OpenAI {
		names[0], names[1] = names[1], names[0]
	}
	for _, name := range names {
		if id := h.Get(name); id != "" && len(id) <= maxID && printable(id) {
			return id
		}
	}
	return ""
}

// printable reports whether s can be the value of a header.
func printable(s string) bool {
	for i := 0; i < len(s); i++ {
		if s[i] != '\t' && (s[i] < ' ' || s[i] > '~') {
			return false
		}
	}
	return true
}
