package limit

import "time"

// Sum is how several gates together look to who may use any of them: their allowances are
// added up. One that is held counts only where all are. Of none it is the zero State.
func Sum(states ...State) State {
	var open []State
	for _, s := range states {
		if s.HeldFor <= 0 {
			open = append(open, s)
		}
	}
	if len(open) == 0 {
		open = states
	}
	if len(open) == 0 {
		return State{}
	}
	sum := State{HeldFor: open[0].HeldFor, HoldReason: open[0].HoldReason, Binds: open[0].Binds}
	var pace, soft, calls, latency float64
	for _, s := range open {
		if s.HeldFor < sum.HeldFor {
			sum.HeldFor, sum.HoldReason = s.HeldFor, s.HoldReason
		}
		if s.Binds == "" {
			sum.Binds = "" // whoever comes has not to wait there
		}
		weight := max(1, s.CallsPerSecond)
		pace, soft, calls = pace+weight*s.Pace, soft+weight*s.soft, calls+weight
		latency += weight * s.Latency.Seconds()
		sum.CallsPerSecond += s.CallsPerSecond
	}
	sum.Pace, sum.soft, sum.Latency = pace/calls, soft/calls, time.Duration(latency/calls*float64(time.Second))
	unbound := false
	for _, s := range open {
		sum.Concurrency, unbound = sum.Concurrency+s.Concurrency, unbound || s.Concurrency == 0
	}
	if unbound {
		sum.Concurrency = 0
	}
	for _, s := range states {
		sum.InFlight, sum.Served = sum.InFlight+s.InFlight, sum.Served || s.Served
	}
	sum.Requests = sumOf(open, func(s State) Dimension { return s.Requests })
	sum.InputTokens = sumOf(open, func(s State) Dimension { return s.InputTokens })
	sum.OutputTokens = sumOf(open, func(s State) Dimension { return s.OutputTokens })
	return sum
}

// sumOf adds one dimension up; it has no limit where one of them has none.
func sumOf(states []State, of func(State) Dimension) (sum Dimension) {
	var used, needs float64
	seen := 0
	for _, s := range states {
		d := of(s)
		if d.Limit == 0 {
			return Dimension{}
		}
		used += d.Used * float64(d.Limit)
		sum.Limit, sum.Capacity, sum.Level = sum.Limit+d.Limit, sum.Capacity+d.Capacity, sum.Level+d.Level
		sum.guard, sum.rate = sum.guard+d.guard, sum.rate+d.rate
		if d.need > 0 {
			needs, seen = needs+d.need, seen+1
		}
	}
	sum.Used = used / float64(sum.Limit)
	if seen > 0 {
		sum.need = needs / float64(seen)
	}
	return sum
}
