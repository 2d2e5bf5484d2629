package fake

import (
	"math"
	"net/http"
	"strconv"
	"time"
)

// bucket is a strict token bucket that refills continuously. A rate of 0 is no
// limit at all.
type bucket struct {
	rate  float64 // a second
	cap   float64
	level float64
	at    time.Time
}

func newBucket(perMinute, capacity float64, now time.Time) bucket {
	return bucket{rate: perMinute / 60, cap: capacity, level: capacity, at: now}
}

// slack forgives the rounding of a sum of fractions: a billionth of a token.
const slack = 1e-9

func (b *bucket) refill(now time.Time) {
	if d := now.Sub(b.at).Seconds(); d > 0 {
		b.level = math.Min(b.cap, b.level+d*b.rate)
		b.at = now
	}
}

// short returns how long until the bucket holds need, 0 when it does. Need
// above the capacity waits for a full bucket.
func (b *bucket) short(need float64) time.Duration {
	need = math.Min(need, b.cap)
	if b.rate == 0 || b.level+slack >= need {
		return 0
	}
	return max(1, time.Duration(math.Ceil((need-b.level)/b.rate*1e9)))
}

func (b *bucket) take(n float64) {
	if b.rate > 0 {
		b.level -= n
	}
}

// full returns how long until the bucket is full.
func (b *bucket) full() time.Duration {
	return time.Duration((b.cap - b.level) / b.rate * 1e9)
}

// account is the allowance of one key in one dialect.
type account struct {
	requests, input, output bucket
}

// admit takes a request and its input, or nothing at all when some bucket is
// short: then it names that bucket and the wait.
func (a *account) admit(now time.Time, input float64) (short string, wait time.Duration) {
	a.requests.refill(now)
	a.input.refill(now)
	a.output.refill(now)
	for _, d := range []struct {
		name string
		wait time.Duration
	}{
		{"requests", a.requests.short(1)},
		{"input_tokens", a.input.short(input)},
		{"output_tokens", a.output.short(1)},
	} {
		if d.wait > wait {
			short, wait = d.name, d.wait
		}
	}
	if short != "" {
		return short, wait
	}
	a.requests.take(1)
	a.input.take(input)
	return "", 0
}

// draw takes output tokens as they are produced.
func (a *account) draw(now time.Time, tokens int) {
	a.output.refill(now)
	a.output.take(float64(tokens))
}

// describe sets the dialect's rate-limit headers. OpenAI knows one limit for
// tokens, so the two of the fake are stated as their sum.
func (a *account) describe(h http.Header, d Dialect, now time.Time) {
	a.requests.refill(now)
	a.input.refill(now)
	a.output.refill(now)
	if d == OpenAI {
		if a.requests.rate > 0 {
			setOpenAIRate(h, "Requests", a.requests.rate*60, a.requests.level, a.requests.full())
		}
		var limit, level float64
		var reset time.Duration
		for _, b := range []*bucket{&a.input, &a.output} {
			if b.rate > 0 {
				limit += b.rate * 60
				level += b.level
				reset = max(reset, b.full())
			}
		}
		if limit > 0 {
			setOpenAIRate(h, "Tokens", limit, level, reset)
		}
		return
	}
	if a.requests.rate > 0 {
		setAnthropicRate(h, "Requests", &a.requests, 1, now)
	}
	if a.input.rate > 0 {
		setAnthropicRate(h, "Input-Tokens", &a.input, 1000, now)
	}
	if a.output.rate > 0 {
		setAnthropicRate(h, "Output-Tokens", &a.output, 1000, now)
	}
	tightest := &a.input
	if a.input.rate == 0 || a.output.rate > 0 && a.output.level/a.output.cap < a.input.level/a.input.cap {
		tightest = &a.output
	}
	if tightest.rate > 0 {
		setAnthropicRate(h, "Tokens", tightest, 1000, now)
	}
}

func setAnthropicRate(h http.Header, name string, b *bucket, unit float64, now time.Time) {
	remaining := math.Max(0, b.level+slack)
	if unit > 1 {
		remaining = math.Round(remaining/unit) * unit
	}
	prefix := "Anthropic-Ratelimit-" + name
	h[prefix+"-Limit"] = []string{strconv.FormatInt(int64(math.Round(b.rate*60)), 10)}
	h[prefix+"-Remaining"] = []string{strconv.FormatInt(int64(remaining), 10)}
	h[prefix+"-Reset"] = []string{now.Add(b.full() + time.Second - 1).UTC().Truncate(time.Second).Format(time.RFC3339)}
}

func setOpenAIRate(h http.Header, name string, limit, level float64, reset time.Duration) {
	h["X-Ratelimit-Limit-"+name] = []string{strconv.FormatInt(int64(math.Round(limit)), 10)}
	h["X-Ratelimit-Remaining-"+name] = []string{strconv.FormatInt(int64(math.Max(0, level+slack)), 10)}
	h["X-Ratelimit-Reset-"+name] = []string{reset.Round(time.Millisecond).String()}
}
