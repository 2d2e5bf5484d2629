package bench

import (
	"cmp"
	"math"
	"slices"
	"time"

	"github.com/sluicehq/sluice/cmd/prove/rig"
)

// percentile returns the smallest value that at least the share p, above 0 and
// at most 1, of all values is not above (the nearest-rank method); 0 of none.
// It leaves values as they are.
func percentile[T cmp.Ordered](values []T, p float64) T {
	var zero T
	if len(values) == 0 {
		return zero
	}
	sorted := slices.Sorted(slices.Values(values))
	// Forgive the rounding of a product such as 0.99 * 100.
	rank := int(math.Ceil(p*float64(len(sorted)) - 1e-9))
	return sorted[min(max(rank, 1), len(sorted))-1]
}

// median returns the middle value, the mean of the two middle ones when their
// number is even; 0 of none.
func median(values []float64) float64 {
	n := len(values)
	if n == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(values))
	if n%2 == 1 {
		return sorted[n/2]
	}
	return (sorted[n/2-1] + sorted[n/2]) / 2
}

// sent is one call that the provider accepted.
type sent struct {
	at     time.Time // when it arrived at the provider
	amount float64   // what it took of the bucket: 1 request, or its tokens
}

// accepted returns the accepted calls, each with what amount says that it took.
func accepted(calls []rig.Call, amount func(rig.Call) float64) []sent {
	var out []sent
	for _, c := range calls {
		if c.Accepted {
			out = append(out, sent{c.At, amount(c)})
		}
	}
	return out
}

func oneRequest(rig.Call) float64     { return 1 }
func inputTokens(c rig.Call) float64  { return float64(c.InputTokens) }
func outputTokens(c rig.Call) float64 { return float64(c.OutputTokens) }

// share is how much of an allowance was used.
type share struct {
	// strict is (used - burst) / (rate x span): what was used beyond the bucket
	// that was full at the start, against what flowed in between the first and
	// the last send. It is 1 only when the whole burst was used as well, and is
	// the one that the bars are held against.
	strict float64
	// whole is used / (burst + rate x span): what was used against all that
	// could have been. Never below strict while strict is at most 1.
	whole float64
	used  float64
	span  time.Duration // from the first to the last send
}

// ends are the moments of the first and the last of at least one call.
func ends(calls []sent) (first, last time.Time) {
	byTime := func(a, b sent) int { return a.at.Compare(b.at) }
	return slices.MinFunc(calls, byTime).at, slices.MaxFunc(calls, byTime).at
}

// allowance computes the share used of a token bucket that held burst at the
// first send and was refilled at rate a second. The order of calls is free.
func allowance(calls []sent, burst, rate float64) share {
	if len(calls) < 2 {
		return share{}
	}
	first, last := ends(calls)
	s := share{span: last.Sub(first)}
	for _, c := range calls {
		s.used += c.amount
	}
	flow := rate * s.span.Seconds()
	if flow <= 0 {
		return s
	}
	s.strict = (s.used - burst) / flow
	s.whole = s.used / (burst + flow)
	return s
}

// secondHalf is how much of a rate a second was used in the second half of the
// time between the first and the last send: the pace once a burst is behind.
func secondHalf(calls []sent, rate float64) float64 {
	if len(calls) < 2 {
		return 0
	}
	first, last := ends(calls)
	half := last.Sub(first) / 2
	if half <= 0 || rate <= 0 {
		return 0
	}
	used := 0.0
	for _, c := range calls {
		if c.at.After(last.Add(-half)) {
			used += c.amount
		}
	}
	return used / (rate * half.Seconds())
}

// milliseconds returns durations as numbers.
func milliseconds(d []time.Duration) []float64 {
	out := make([]float64, len(d))
	for i := range d {
		out[i] = float64(d[i]) / float64(time.Millisecond)
	}
	return out
}
