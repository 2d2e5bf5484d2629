package limit

import (
	"context"
	"fmt"
	"math"
	"time"
)

// Hold lets nothing through until Redis's now plus d. It never shortens a
// longer hold. Slots that were booked and not sent return. A d of zero or less
// does nothing.
func (g *Gate) Hold(ctx context.Context, d time.Duration, reason string) error {
	if d <= 0 {
		return nil
	}
	return g.holdBy(ctx, "hold", d, reason)
}

// Ramp holds as [Gate.Hold] does, after the provider has said that use rose too
// sharply: a hold alone would be followed by the same rise. When the hold ends,
// by itself or by a [Gate.Resume], the gate goes on at a tenth of the pace, doubling
// each 5 s, whoever lives by then.
//
// Source: platform.claude.com/docs/en/api/rate-limits, acceleration limits.
func (g *Gate) Ramp(ctx context.Context, d time.Duration, reason string) error {
	return g.holdBy(ctx, "ramp", max(0, d), reason)
}

func (g *Gate) holdBy(ctx context.Context, verb string, d time.Duration, reason string) error {
	g.m.holds.Inc()
	left, err := g.steer(ctx, steerArgs{Verb: verb, Seconds: d.Seconds(), Reason: reason})
	if err == nil {
		g.noteHold(left)
	}
	return err
}

// Resume ends a hold and starts at that share of the full pace (0.1 for a
// tenth), doubling each 5 s until it is full. 1 or more is the full pace at once,
// but for a slow start that [Gate.Ramp] has begun and that has not got so far.
func (g *Gate) Resume(ctx context.Context, pace float64) error {
	_, err := g.steer(ctx, steerArgs{Verb: "resume", Pace: clampPace(pace)})
	if err == nil {
		g.noteFree()
	}
	return err
}

// SoftRefusal reports a refusal whose retry-after is a second or less: one
// request is taken off the level, and the pace becomes 3 % slower, at most once
// a second. Time makes it good by 0.1 % of the full pace a second, or [Gate.Resume]
// at once. Only the third in 5 s holds the gate, for 1 s.
func (g *Gate) SoftRefusal(ctx context.Context) error {
	g.m.soft.Inc()
	left, err := g.steer(ctx, steerArgs{Verb: "soft"})
	if err == nil && left > 0 {
		g.noteHold(left)
	}
	return err
}

func clampPace(f float64) float64 {
	if math.IsNaN(f) {
		return 1
	}
	return max(0.01, min(1, f))
}

// noteHold notes a hold that lasts for another d.
func (g *Gate) noteHold(d time.Duration) {
	until := g.clock.now().Add(d)
	g.mu.Lock()
	if until.After(g.holdUntil) {
		g.holdUntil = until
	}
	g.holdsNoted++
	g.mu.Unlock()
	wake(g.wakePump)
}

// heldNow reports whether a hold lasts, as far as this process knows.
func (g *Gate) heldNow() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.holdUntil.After(g.clock.now())
}

// noteFree notes that a hold is over or the pace another.
func (g *Gate) noteFree() {
	g.mu.Lock()
	g.holdUntil = time.Time{}
	g.freedTimes++
	g.mu.Unlock()
	wake(g.wakePump)
}

type steerArgs struct {
	common
	Verb    string  `json:"verb"`
	Seconds float64 `json:"seconds"`
	Reason  string  `json:"reason"`
	Pace    float64 `json:"pace"`
}

// steer returns how long the hold still lasts.
func (g *Gate) steer(ctx context.Context, a steerArgs) (time.Duration, error) {
	return g.heldFor(ctx, a.Verb, steerScript, &a)
}

// peek returns how long the hold still lasts.
func (g *Gate) peek(ctx context.Context) (time.Duration, error) {
	return g.heldFor(ctx, "ask for the hold of", peekScript, &common{})
}

func (g *Gate) heldFor(ctx context.Context, act string, s *script, a arguments) (time.Duration, error) {
	_, reply, err := g.run(ctx, s, a)
	if err == nil && len(reply) != 1 {
		err = fmt.Errorf("script answered %d values", len(reply))
	}
	if err != nil {
		return 0, fmt.Errorf("%s pool %s: %w", act, g.cfg.Pool, err)
	}
	return parseWait(reply[0])
}
