package worker

import (
	"github.com/sluicehq/sluice/tasks/trace"
)

// parent is the call's place in the job's trace, for its provider; "": there is none.
func (a *attempt) parent() string {
	if a.w.c.Trace == nil || a.job.Trace == "" {
		return ""
	}
	a.span = trace.SpanID()
	return trace.Parent(&a.job, a.span)
}

// spans makes the spans of an attempt that ends.
func (a *attempt) spans() {
	if a.w.c.Trace == nil || a.job.Trace == "" {
		return
	}
	answer := &a.answer
	a.w.c.Trace.Attempt(trace.Attempt{
		Job: &a.job, Pool: a.p.Name, Provider: a.provider(), Dialect: string(a.p.Dialect), Call: a.span,
		Taken: a.taken, Paced: a.paced, Passed: a.granted, Bound: a.grant.Bound, Asked: a.asked, Answered: a.asked.Add(a.took),
		Number: a.started.Call, Outcome: answer.Outcome, Status: answer.Status, RequestID: answer.RequestID, Usage: answer.Usage,
	})
}
