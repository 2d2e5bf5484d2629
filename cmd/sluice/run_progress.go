package main

import (
	"fmt"
	"strings"
	"time"
)

const barWidth = 30

// paint draws the progress bar on a terminal.
func (r *runner) paint() {
	if !r.progress {
		return
	}
	n := r.skipped + r.written
	full := barWidth * n / r.total
	rate := float64(r.written) / max(0.001, time.Since(r.begun).Seconds())
	left := "?"
	if rate > 0 {
		left = (time.Duration(float64(r.total-n)/rate) * time.Second).String()
	}
	fmt.Fprintf(r.stderr, "\r\033[K[%s%s] %d/%d  %d failed  %.1f/s  %s left",
		strings.Repeat("=", full), strings.Repeat(" ", barWidth-full), n, r.total, r.failed, rate, left)
	r.shown = true
}

func (r *runner) clearProgress() {
	if r.shown {
		fmt.Fprint(r.stderr, "\r\033[K")
	}
}

// tellDone says what an earlier run has done already.
func (r *runner) tellDone() {
	switch r.skipped {
	case 0:
	case r.total:
		fmt.Fprintf(r.stderr, "all %d jobs were done by an earlier run; --fresh asks again\n", r.total)
	default:
		fmt.Fprintf(r.stderr, "%d of %d jobs were done by an earlier run; --fresh asks again\n", r.skipped, r.total)
	}
}

// tellRetired says where the answers are that no line asks for any more.
func (r *runner) tellRetired(n int) {
	if n > 0 {
		fmt.Fprintf(r.stderr, "sluice: %d answers that no line asks for any more are in %s\n", n, r.out.stale())
	}
}

// summary is the run's one line: share is of the binding allowance, refused the
// 429s.
func (r *runner) summary(seconds, share float64, refused int64) {
	fmt.Fprintf(r.stderr, "%d jobs: %d succeeded, %d failed, %d done before; %d input and %d output tokens in %.1f s; %.1f %% of the allowance used; %d 429s seen\n",
		r.total, r.succeeded, r.failed, r.skipped, r.usage.InputTokens, r.usage.OutputTokens, seconds, 100*share, refused)
}

// refused is how many 429s the run has seen.
func (r *runner) refused() (n int64) {
	for _, h := range r.s.healths {
		n += h.Refused()
	}
	return n
}

// share is how much of the binding allowance the run used from its start to its
// end: of each pool what it sent, over what its bucket held and was refilled.
func (r *runner) share(seconds float64) float64 {
	var most float64
	for _, p := range r.s.cfg.Pools {
		h := r.s.healths[p.Name]
		of := func(used int64, perMinute int64, burst float64) {
			if perMinute > 0 && used > 0 {
				most = max(most, float64(used)/(burst+float64(perMinute)*seconds/60))
			}
		}
		calls, in, out := h.Used()
		of(calls, p.Limits.RequestsPerMinute, float64(p.Limits.RequestBurst))
		of(in, p.Limits.InputTokensPerMinute, 0)
		of(out, p.Limits.OutputTokensPerMinute, 0)
	}
	return min(1, most)
}
