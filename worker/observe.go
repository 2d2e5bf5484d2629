package worker

import (
	"time"

	"github.com/sluicehq/sluice/worker/limit"
	"github.com/sluicehq/sluice/worker/upstream"
)

// observed turns an answer's rate-limit headers into what the gate corrects
// itself by; nil when there were none. A provider's one limit for tokens of
// both kinds says nothing about either, and is left out. age is how long
// ago the headers came.
func observed(r upstream.Rates, age time.Duration) *limit.Observed {
	reading := func(r upstream.Rate) limit.Reading {
		if !r.Present || r.Window != time.Minute {
			return limit.Reading{} // of another span, such as a day's requests: not the gate's
		}
		return limit.Reading{Limit: r.Limit, Remaining: r.Remaining, HasLimit: true, HasRemaining: true}
	}
	o := limit.Observed{
		Requests: reading(r.Requests), InputTokens: reading(r.Input), OutputTokens: reading(r.Output),
		Rounding: max(r.Input.Granularity, r.Output.Granularity), Age: age,
	}
	if o == (limit.Observed{Rounding: o.Rounding, Age: age}) {
		return nil
	}
	return &o
}
