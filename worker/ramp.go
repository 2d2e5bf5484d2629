package worker

import (
	"context"
	"time"
)

const (
	rampPace  = 0.1                    // of the allowance, doubling each 5 s
	rampSpare = 500 * time.Millisecond // the hold outlasts what the provider asked for by this, so that none is sent before the slow start stands
)

// ramp asks for a slow start after d. Refusals that come together ask once.
func (p *pool) ramp(d time.Duration) {
	select {
	case p.ramps <- d:
	default:
	}
}

// slowly brings a pool back step by step after its provider has said that use
// rose too sharply: a hold alone would be followed by the same rise. When
// somebody holds the pool for longer, as the breaker does, the slow start waits
// for the end of that; when somebody else has begun one, that is enough. A
// process that dies meanwhile leaves a pool that goes on after its hold.
//
// Source: platform.claude.com/docs/en/api/rate-limits, acceleration limits.
func (w *Worker) slowly(ctx context.Context, p *pool) {
	var due <-chan time.Time
	for {
		select {
		case <-ctx.Done():
			return
		case d := <-p.ramps:
			due = time.After(d)
			continue
		case <-due:
			due = nil
		}
		state, err := p.Gate.State(ctx)
		switch {
		case err == nil && state.HeldFor > 2*rampSpare:
			due = time.After(state.HeldFor - rampSpare)
			continue
		case err == nil && state.Pace < 0.5:
			continue
		case err == nil:
			err = p.Gate.Resume(ctx, rampPace)
		}
		if err != nil && ctx.Err() == nil {
			w.log.Warn("a slow start waits for Redis", "pool", p.Name, "error", err)
			due = time.After(time.Second)
		}
	}
}
