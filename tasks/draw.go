package tasks

import (
	"cmp"
	"math"
	"time"
)

// Rates are what a pool's allowance gives a minute; 0: no limit in that dimension.
type Rates struct {
	Requests, InputTokens, OutputTokens int64
}

// NoDraw is the draw of a call that was not made, or that its provider does not count.
const NoDraw time.Duration = -1

// Draw is how long a pool's allowance takes to give a call what it uses, in the
// dimension in which that takes longest: the share that binds (dominant resource
// fairness, Ghodsi et al., NSDI 2011). 0: nothing limits the pool; else at least 1 µs.
func (r Rates) Draw(input, output int64) time.Duration {
	minutes := 0.0
	for _, d := range []struct{ use, limit int64 }{{1, r.Requests}, {input, r.InputTokens}, {output, r.OutputTokens}} {
		if d.limit > 0 {
			minutes = max(minutes, float64(d.use)/float64(d.limit))
		}
	}
	if minutes == 0 {
		return 0
	}
	return time.Duration(math.Ceil(minutes*60e6)) * time.Microsecond
}

// openOutput is how many output tokens are expected of a call whose model alone limits them.
const openOutput = 4096

// Use is how many tokens a call is expected to use, before any is known of it: what
// its body may take.
func (r *Request) Use() (input, output int64) {
	return int64(r.InputTokens), cmp.Or(r.Cap(), openOutput)
}
