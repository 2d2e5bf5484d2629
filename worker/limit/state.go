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
}

// Wait estimates how long it takes until n further calls, like the recent ones,
// have passed. What already waits inside the processes is not counted.
func (s State) Wait(n int) time.Duration {
	var longest float64
	for _, d := range []Dimension{s.Requests, s.InputTokens, s.OutputTokens} {
		if d.Limit > 0 && d.rate > 0 && s.Pace > 0 {
			longest = max(longest, (d.guard+float64(n)*d.need-d.Level)/(d.rate*s.Pace))
		}
	}
	if s.Concurrency > 0 && s.CallsPerSecond > 0 {
		longest = max(longest, float64(n+s.InFlight-s.Concurrency)/s.CallsPerSecond)
	}
	const most = 365 * 24 * 3600
	return s.HeldFor + time.Duration(min(longest, most)*float64(time.Second))
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
