package worker

import (
	"context"
	"errors"
	"math/rand/v2"
	"strconv"
	"time"

	"github.com/sluicehq/sluice/tasks"
	"github.com/sluicehq/sluice/tasks/pipeline"
	"github.com/sluicehq/sluice/worker/limit"
	"github.com/sluicehq/sluice/worker/pool"
	"github.com/sluicehq/sluice/worker/upstream"
)

// prompt makes one attempt at one job: take it, wait for the pace, record the
// call, make it, settle, record the end. A nil error acknowledges the task:
// whatever is left to do stands in the record. An error means that the record
// could not be asked at all.
func (w *Worker) prompt(base context.Context, p *servedPool, t tasks.Ticket) error {
	job, err := w.take(base, t)
	switch {
	case tasks.Void(err):
		w.m.stale.WithLabelValues(p.Name).Inc()
		return nil
	case err != nil:
		return err
	}

	ctx, lose := context.WithCancelCause(base)
	defer lose(nil)
	h := &holding{ticket: t, lost: lose, text: &text{w: w, ticket: t}}
	w.hold(h)
	defer w.drop(h)

	if w.recall(base, p, job, t) || w.follow(base, p, job, t) {
		return nil
	}
	grant, err := w.pace(ctx, p, job)
	if err != nil {
		if !errors.Is(context.Cause(ctx), errLost) {
			w.end(base, p, job, t, tasks.Ending{Status: tasks.StatusRetrying}) // not started: nothing is counted
		}
		return nil
	}
	asked := time.Now()
	started, next, err := w.c.Record.Start(ctx, t)
	if err != nil {
		// Canceled or expired while it waited, or Redis is away: no call is made.
		w.settle(base, p, grant, limit.Actual{Refused: true})
		if !tasks.Void(err) {
			// It may be in the record all the same, its answer lost.
			w.end(base, p, job, t, tasks.Ending{Status: tasks.StatusRetrying, Attempt: tasks.Attempt{Outcome: tasks.HandedBack}})
		}
		return nil
	}
	w.hand(base, next)
	if time.Since(asked) > w.c.StartWithin {
		// This process or Redis stood still: the lease may be over, and somebody
		// else's call for the job under way.
		w.settle(base, p, grant, limit.Actual{Refused: true})
		w.end(base, p, job, t, tasks.Ending{Status: tasks.StatusRetrying, Attempt: tasks.Attempt{Outcome: tasks.HandedBack}})
		return nil
	}
	w.m.wait.WithLabelValues(p.Name).Observe(started.At.Sub(ready(job)).Seconds())
	h.text.begin(started)

	most, own := bound(p, job, started)
	sent := time.Now()
	answer := w.ask(ctx, p, job, grant, h.text, most)
	took := time.Since(sent)
	w.m.attempts.WithLabelValues(p.Name, string(answer.Outcome)).Inc()
	p.budget.call()

	if errors.Is(context.Cause(ctx), errLost) {
		// The record has moved on already. What the provider did is still charged.
		w.settle(base, p, grant, actual(answer))
		return nil
	}
	if context.Cause(ctx) == errGrace && answer.Outcome != tasks.Succeeded {
		answer.Outcome, answer.MaybeBilled = tasks.HandedBack, true
	}
	doubtful := answer.Doubt != upstream.NoDoubt
	if doubtful {
		w.settle(base, p, grant, actual(answer)) // while the refusal is held, its reservation holds up nobody
	}
	standing := pool.Open
	// That the job's own deadline cut the call off says nothing about the provider.
	outOfTime := own && answer.Outcome != tasks.Succeeded && took >= most
	if p.Health != nil && !outOfTime {
		standing = p.Health.Report(base, pool.Call{Model: job.Asks(), Prompt: job.Request.Body, Took: took}, answer)
	}
	switch {
	case standing == pool.AtFault:
		answer.Outcome = tasks.Rejected
	case standing == pool.Unsettled && context.Cause(base) == errGrace:
		answer.Outcome = tasks.HandedBack
	}
	v := decide(answer, situation{
		attempts: started.Attempts - job.Spent, max: p.MaxAttempts, standing: standing, guarded: p.Health != nil, spent: p.budget.spent(), random: rand.Float64(),
	})
	e := tasks.Ending{
		Status: v.status, Counted: v.counted, Delay: v.delay, Result: answer.Result, Usage: answer.Usage, Provider: p.Provider,
		Attempt: tasks.Attempt{
			Outcome: answer.Outcome, Status: answer.Status, RequestID: answer.RequestID, MaybeBilled: answer.MaybeBilled,
		},
	}
	if job.Passed > 0 {
		e.Attempt.Model = job.Asks()
	}
	if v.code == tasks.AttemptsExhausted && w.c.Detour != nil {
		if d, ok := w.c.Detour(base, job); ok {
			e.Status, e.Counted, e.Detour, v.code = tasks.StatusRetrying, true, &d, ""
		}
	}
	if v.code != "" {
		e.Error = &tasks.JobError{Code: v.code, Message: answer.Message, UpstreamStatus: answer.Status, MaybeBilled: answer.MaybeBilled}
	}
	if v.status == tasks.StatusRetrying && v.counted {
		p.budget.retry()
	}
	// The gate first when the provider said to wait, so that nobody is sent meanwhile.
	if v.hold > 0 {
		w.m.refused.WithLabelValues(p.Name).Inc()
		hold := p.Gate.Hold
		if v.ramp {
			hold = p.Gate.Ramp
		}
		if err := hold(base, v.hold, string(answer.Outcome)); err != nil {
			w.log.Warn("the pool was not held", "pool", p.Name, "error", err)
		}
	} else if v.soft {
		w.m.refused.WithLabelValues(p.Name).Inc()
		if err := p.Gate.SoftRefusal(base); err != nil {
			w.log.Warn("the pace was not softened", "pool", p.Name, "error", err)
		}
	}
	if e.Status == tasks.StatusSucceeded {
		// In one round trip, the end first: somebody may wait for it.
		pipeline.Join(base, nil,
			func(ctx context.Context) { w.end(ctx, p, job, t, e) },
			func(ctx context.Context) { w.settle(ctx, p, grant, actual(answer)) })
	} else {
		if !doubtful {
			w.settle(base, p, grant, actual(answer))
		}
		w.end(base, p, job, t, e)
	}
	w.count(p, job, started, answer, e)
	w.remember(base, p, job, e)
	return nil
}

// bound is how long a job's call may take, and whether its own deadline says so
// and not its pool. The deadline is measured from the start by Redis's clock:
// this process's may be wrong.
func bound(p *servedPool, j tasks.Job, started tasks.Started) (d time.Duration, own bool) {
	if j.Deadline.IsZero() || j.Deadline.Sub(started.At) >= p.Timeout {
		return p.Timeout, false
	}
	return j.Deadline.Sub(started.At), true
}

// ready is when a job could first have run.
func ready(j tasks.Job) time.Time {
	if j.NotBefore.After(j.CreatedAt) {
		return j.NotBefore
	}
	return j.CreatedAt
}

// takeWithin is how long a worker asks for a ticket's job before it gives the
// task back to Asynq, which brings it again: a record that cannot be read while
// others can holds no place.
const takeWithin = 30 * time.Second

// take asks for the ticket's job, again while Redis is away.
func (w *Worker) take(ctx context.Context, t tasks.Ticket) (job tasks.Job, err error) {
	err = persist(w.server.stopping, takeWithin, func() (err error) {
		job, err = w.c.Record.Take(ctx, t)
		return err
	})
	return job, err
}

// pace waits until the job may be sent. The wait ends early when the job is
// lost or the worker stops.
func (w *Worker) pace(ctx context.Context, p *servedPool, job tasks.Job) (limit.Grant, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		select {
		case <-w.server.stopping:
			cancel()
		case <-ctx.Done():
		}
	}()
	grant, err := p.Gate.Take(ctx, limit.Need{
		ID: job.ID + ":" + strconv.FormatInt(job.Fence, 10), Class: upstream.Class(p.Dialect, job.Asks(), job.Request),
		InputTokens: int64(job.Request.InputTokens), MaxTokens: int64(job.Request.MaxTokens),
	})
	cancel()
	<-stopped
	return grant, err
}

// ask makes the call, which may take so long.
func (w *Worker) ask(ctx context.Context, p *servedPool, job tasks.Job, grant limit.Grant, out *text, most time.Duration) upstream.Answer {
	w.m.inflight.WithLabelValues(p.Name).Inc()
	defer w.m.inflight.WithLabelValues(p.Name).Dec()
	ctx, cancel := context.WithTimeout(ctx, most)
	defer cancel()
	ask := upstream.Ask{Model: job.Asks(), Request: job.Request, OnText: func(s string) { out.add(ctx, s) }}
	begun := time.Now()
	if p.slow() {
		// The gate learns the input and the headers now, not when they are stale.
		ask.OnStart = func(input int64, rates upstream.Rates) {
			if err := p.Gate.SettleInput(ctx, grant, input, observed(rates, 0)); err != nil {
				w.log.Warn("a call's input was not settled early", "pool", p.Name, "error", err)
			}
		}
	}
	answer := p.Caller.Do(ctx, ask)
	p.took(time.Since(begun))
	return answer
}

// actual is what a call has cost, for the gate.
func actual(a upstream.Answer) limit.Actual {
	out := limit.Actual{Refused: refusedUnpaid(a), Observed: observed(a.Rates, time.Since(a.HeadersAt))}
	if a.Usage != nil {
		out.Known, out.InputTokens, out.OutputTokens = true, a.ChargedInput, a.Usage.OutputTokens
	}
	return out
}

func (w *Worker) settle(base context.Context, p *servedPool, g limit.Grant, a limit.Actual) {
	// Also past the grace period: a reservation that is kept holds others up.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(base), 5*time.Second)
	defer cancel()
	if err := p.Gate.Settle(ctx, g, a); err != nil {
		w.log.Warn("a call was not settled; its reservation will expire", "pool", p.Name, "error", err)
	}
}

// end records an ending, again until the record has it or has moved on: an
// answer that was paid for is not given up, whatever Redis says meanwhile. Past
// the grace period it is tried once more only.
func (w *Worker) end(base context.Context, p *servedPool, job tasks.Job, t tasks.Ticket, e tasks.Ending) {
	_ = persist(base.Done(), 0, func() error {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(base), 10*time.Second)
		defer cancel()
		next, err := w.c.Record.End(ctx, t, e)
		switch {
		case err == nil:
			w.hand(ctx, next)
		case !tasks.Void(err):
			w.log.Warn("an ending waits for Redis", "job", job.ID, "pool", p.Name, "error", err)
		}
		return err
	})
}

// count writes the metrics of an ended attempt, and the one log line of an ended job.
func (w *Worker) count(p *servedPool, job tasks.Job, started tasks.Started, a upstream.Answer, e tasks.Ending) {
	run := time.Since(started.At)
	w.m.run.WithLabelValues(p.Name).Observe(run.Seconds())
	if a.Usage != nil {
		w.m.tokens.WithLabelValues(p.Name, "input").Add(float64(a.Usage.InputTokens + a.Usage.CacheCreationInputTokens))
		w.m.tokens.WithLabelValues(p.Name, "output").Add(float64(a.Usage.OutputTokens))
		w.m.tokens.WithLabelValues(p.Name, "cache_read").Add(float64(a.Usage.CacheReadInputTokens))
	}
	if e.Detour != nil {
		w.log.Info("a job goes to its fallback", "job", job.ID, "pool", p.Name, "to", e.Detour.Pool)
	}
	if !e.Status.Final() {
		w.log.Info("attempt ended", "job", job.ID, "pool", p.Name, "outcome", string(a.Outcome), "upstream_status", a.Status,
			"counted", e.Counted, "delay_ms", e.Delay.Milliseconds())
		return
	}
	w.m.results.WithLabelValues(p.Name, string(e.Status)).Inc()
	line := []any{
		"job", job.ID, "tenant", job.Tenant, "pool", p.Name, "model", job.Asks(), "status", string(e.Status),
		"attempts", started.Attempts, "calls", started.Call, "wait_ms", started.At.Sub(ready(job)).Milliseconds(),
		"run_ms", run.Milliseconds(), "upstream_status", a.Status, "request_id", a.RequestID,
	}
	if a.Usage != nil {
		line = append(line, "input_tokens", a.Usage.InputTokens, "output_tokens", a.Usage.OutputTokens)
	}
	if e.Error != nil {
		line = append(line, "code", string(e.Error.Code))
	}
	w.log.Info("job ended", line...)
}
