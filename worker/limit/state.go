package limit

import (
	"context"
	"fmt"
	"strconv"
	"time"
)

// Dimension is one bucket of the allowance, as [State] has it.
type Dimension struct {
	// Limit is what is allowed a minute now, as configured or as the provider
	// says. Zero means no limit; the other fields then say nothing.
	Limit int64
	// Capacity is the most that the bucket holds.
	Capacity int64
	// Level is what it will hold once every granted call is done. Negative is debt.
	Level float64
	// Used is the share of the allowance used of late: a decaying sum over about
	// a minute. It may be above 1 for a while, by what the bucket held.
	Used float64

	guard, need, rate float64
}

// State is what a gate looks like, from [Gate.State].
type State struct {
	Requests, InputTokens, OutputTokens Dimension
	// InFlight counts reservations that are not settled, of all processes.
	InFlight int
	// Concurrency is the limit of InFlight, zero for none.
	Concurrency int
	// HeldFor is how long the gate lets nothing through yet, and HoldReason why.
	HeldFor    time.Duration
	HoldReason string
	// Pace is the share of the full pace at which the gate runs now.
	Pace float64
	// Binds is what calls wait for: requests, input_tokens, output_tokens,
	// concurrency, or nothing when there was no wait within 5 s.
	Binds string
	// Served is true while a process holds places here or has asked for some in the last
	// seconds. One with nothing to do does not count.
	Served bool
	// CallsPerSecond is the pace that the allowance gives to calls like the
	// recent ones. Zero means that nothing limits it, or that none were seen.
	CallsPerSecond float64
	// Latency is how long calls like the recent ones take; zero when none were seen.
	Latency time.Duration

	soft float64 // the part of Pace that is no slow start: refusals lower it, and minutes restore it
}

// Wait estimates how long it takes until n further calls, like the recent ones,
// have passed: the hold first, then a slow start where there is one. What already
// waits inside the processes is not counted.
func (s State) Wait(n float64) time.Duration {
	return s.wait(s.HeldFor, n, s.Pace, stair/2) // nobody knows how far the present stair is
}

// WaitAfter is Wait where nothing passes before shut is over, and the gate then goes on at a
// share of the pace that doubles each 5 s, as after a pause. Meanwhile the buckets fill.
func (s State) WaitAfter(shut time.Duration, n, share float64) time.Duration {
	return s.wait(max(shut, s.HeldFor), n, share, stair)
}

func (s State) wait(shut time.Duration, n, share, left float64) time.Duration {
	var work, soft float64 // s of the full pace; share of it
	if soft = s.soft; soft <= 0 {
		soft = 1
	}
	for i, d := range []Dimension{s.Requests, s.InputTokens, s.OutputTokens} {
		if d.Limit > 0 && d.rate > 0 {
			level := max(d.Level, min(float64(d.Capacity), d.Level+d.rate*soft*shut.Seconds()))
			if i == 0 {
				d.need = 1 // also before any call was seen
			}
			work = max(work, (d.guard+n*d.need-level)/(d.rate*soft))
		}
	}
	took := min(slowly(work, min(1, share/soft), left), longest)
	if calls := s.freed(); s.Concurrency > 0 && calls > 0 {
		took = max(took, min((n+float64(s.InFlight-s.Concurrency))/calls, longest))
	}
	return shut + time.Duration(max(0, took)*float64(time.Second))
}

const (
	longest = 365 * 24 * 3600 // s that a wait is at most said to be
	stair   = 5               // s until a slow start's share doubles; see lua/pace.lua
)

// freed is how many calls a second end while as many are under way as may be; 0: not known.
func (s State) freed() float64 {
	if s.Latency <= 0 {
		return s.CallsPerSecond
	}
	return float64(s.Concurrency) / s.Latency.Seconds()
}

// slowly is how long so many seconds of the full pace take, from a share of the pace on that
// doubles at each stair, of which the first lasts so much longer.
func slowly(work, share, left float64) (took float64) {
	if share <= 0 || work <= 0 {
		return max(0, work)
	}
	for ; share < 1; left = stair {
		if work <= left*share {
			return took + work/share
		}
		work, took, share = work-left*share, took+left, 2*share
	}
	return took + work
}

// State reads the gate: one call of Redis. It works without [Gate.Run].
func (g *Gate) State(ctx context.Context) (State, error) {
	_, reply, err := g.run(ctx, describeScript, &common{})
	if err != nil {
		return State{}, fmt.Errorf("read the gate of pool %s: %w", g.cfg.Pool, err)
	}
	p := parser{v: reply}
	s := State{
		InFlight: int(p.next()),
		HeldFor:  time.Duration(p.next() * float64(time.Second)), HoldReason: p.text(), Pace: p.next(),
	}
	bind, latency := int(p.next()), 0.0
	latency, s.Concurrency = p.next(), int(p.next())
	for _, d := range []*Dimension{&s.Requests, &s.InputTokens, &s.OutputTokens} {
		d.Limit, d.Capacity, d.Level, d.Used = int64(p.next()), int64(p.next()), p.next(), p.next()
		d.guard, d.need, d.rate = p.next(), p.next(), p.next()
		if d.Limit > 0 && d.need > 0 {
			if c := d.rate / d.need * s.Pace; s.CallsPerSecond == 0 || c < s.CallsPerSecond {
				s.CallsPerSecond = c
			}
		}
	}
	s.Served = p.next() == 1
	s.soft, s.Latency = p.next(), time.Duration(latency*float64(time.Second))
	if p.err != nil {
		return State{}, fmt.Errorf("read the gate of pool %s: %w", g.cfg.Pool, p.err)
	}
	if s.Concurrency > 0 && latency > 0 {
		if c := float64(s.Concurrency) / latency; s.CallsPerSecond == 0 || c < s.CallsPerSecond {
			s.CallsPerSecond = c
		}
	}
	s.Binds = binding(bind)
	return s, nil
}

// concurrency is what a call waits for that is let through when another has ended.
const concurrency = "concurrency"

// binding names what the scripts have as a number: a dimension or concurrency; "" for none.
func binding(n int) string {
	switch {
	case n <= 0:
		return ""
	case n <= len(dimensions):
		return dimensions[n-1]
	}
	return concurrency
}

// parser reads a script's reply value by value.
type parser struct {
	v   []string
	err error
}

func (p *parser) text() string {
	if len(p.v) == 0 {
		p.err = fmt.Errorf("script answered too little")
		return ""
	}
	t := p.v[0]
	p.v = p.v[1:]
	return t
}

// next reads a number; an empty one is 0.
func (p *parser) next() float64 {
	t := p.text()
	if t == "" {
		return 0
	}
	f, err := strconv.ParseFloat(t, 64)
	if err != nil {
		p.err = err
	}
	return f
}
