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

// pause waits for d or for ctx's end.
func (g *Gate) pause(ctx context.Context, d time.Duration) {
	due, stop := g.clock.timer(d)
	defer stop()
	select {
	case <-due:
	case <-ctx.Done():
	}
}

// backoff grows from 50 ms to 2 s, half of it random.
func backoff(failures int) time.Duration {
	d := min(2*time.Second, 50*time.Millisecond<<min(failures, 6))
	return d/2 + rand.N(d/2)
}
