package pause

import (
	"context"
	"time"
)

// Step is one round of [Breaker.Run] for a simulation, by the clock of [Config.Now]: gate and
// queue follow the state, and a probe that is due is made before Step returns how soon the next
// round is due. Outcomes are told by [Breaker.Record] as ever.
func (b *Breaker) Step(ctx context.Context) (time.Duration, error) {
	s, err := b.enforce(ctx)
	if err != nil || b.probe == nil {
		return b.tick, err
	}
	fence, soon := b.takeProbe(ctx, s)
	if fence > 0 {
		b.probeOnce(ctx, fence)
	}
	return min(b.tick, soon), nil
}
