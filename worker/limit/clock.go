package limit

import (
	"context"
	"math/rand/v2"
	"time"
)

// clock is the time of the process. It decides nothing about the allowance, it
// wakes a call at the moment that Redis named.
type clock interface {
	now() time.Time
	// timer returns a channel that is told after d, and what stops it.
	timer(d time.Duration) (due <-chan time.Time, stop func())
}

// systemClock is the machine's.
type systemClock struct{}

func (systemClock) now() time.Time { return time.Now() }

func (systemClock) timer(d time.Duration) (<-chan time.Time, func()) {
	t := time.NewTimer(d)
	return t.C, func() { t.Stop() }
}

// backoff grows from 50 ms to 2 s, half of it random.
func backoff(failures int) time.Duration {
	d := min(2*time.Second, 50*time.Millisecond<<min(failures, 6))
	return d/2 + rand.N(d/2)
}

// lastCall is a context for what has to be said to Redis when ctx has ended.
func lastCall(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.WithoutCancel(ctx), time.Second)
}
