package worker

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"
	"strconv"
	"time"

	"github.com/sluicehq/sluice/tasks"
	"github.com/sluicehq/sluice/tasks/pipeline"
	"github.com/sluicehq/sluice/worker/limit"
	"github.com/sluicehq/sluice/worker/pool"
	"github.com/sluicehq/sluice/worker/upstream"
)

// attempt is one try at one job, from its ticket to its end in the record. Its
// steps run one after the other, and each leaves here what the later ones need.
//
// A step is given base, which ends with the grace period, or ctx, which ends
// with it and also when the job is no longer this worker's.
type attempt struct {
	w      *Worker
	p      *servedPool
	log    *slog.Logger // says the job's trace, where it has one
	ticket tasks.Ticket
	lose   context.CancelCauseFunc // ends ctx: waiting and call alike
	text   *text

	job       tasks.Job         // taken
	taken     time.Time         // when
	question  upstream.Question // its request, read
	digest    string            // of its request, in a pool that keeps or shares answers
	cacheable bool              // its answer may serve later jobs that ask the same
	price     tasks.Price       // of the model that it asks, as the call's day has it
	priced    bool              // it has one
	leads     bool              // it asks for all that ask the same now

	by      *account    // whose call it is; nil: none has been chosen
	grant   limit.Grant // of the pace
	paced   time.Time   // when it came to the gate
	granted time.Time   // when
	settled bool        // the gate knows what the call has cost
	started tasks.Started

	span      [8]byte // the id of the call's, in the job's trace
	asked     time.Time
	answer    upstream.Answer
	took      time.Duration // the call
	outOfTime bool          // the job's own deadline cut the call off
	told      bool          // a caller may have been told of the answer as it came
	large     bool          // the answer has taken room among the large ones
}

func (w *Worker) attempt(p *servedPool, t tasks.Ticket) *attempt {
	return &attempt{w: w, p: p, log: w.log, ticket: t, text: &text{texts: w.c.Texts, ticket: t}}
}

// run makes the attempt. A nil error acknowledges the task: the rest of the
// work stands in the record. An error means that the record could not be asked at
// all.
func (a *attempt) run(base context.Context) error {
	ctx, lose := context.WithCancelCause(base)
	defer lose(nil)
	a.lose = lose
	if err := a.take(base); err != nil {
		if tasks.Void(err) {
			a.w.m.stale.WithLabelValues(a.p.Name).Inc()
			return nil
		}
		return err
	}
	defer a.spans()
	a.w.hold(a)
	defer a.w.drop(a)
	defer a.shrink()

	a.identify(base)
	if a.recall(base) || a.withOthers(base) {
		return nil
	}
	if wait, held := a.held(base); held {
		a.record(base, tasks.Ending{Status: tasks.StatusRetrying, Delay: wait}) // nothing is counted
		return nil
	}
	leave, ok := a.join(ctx)
	if !ok {
		if !lost(ctx) {
			a.handBack(base, "")
		}
		return nil
	}
	defer leave()
	if err := a.pace(ctx); err != nil {
		if !lost(ctx) {
			a.unpaced(base, err)
		}
		return nil
	}
	if err := a.start(base, ctx); err != nil {
		a.settle(base, limit.Actual{Refused: true}) // no call is made
		if !tasks.Void(err) {
			a.handBack(base, tasks.HandedBack)
		}
		return nil
	}
	if err := a.confirm(ctx); err != nil {
		if !lost(ctx) {
			a.handBack(base, tasks.HandedBack)
		}
		return nil
	}
	a.ask(ctx)
	if lost(ctx) {
		// The record has moved on already, or is gone. What the provider did is still charged.
		a.settle(base, a.actual())
		a.handBack(base, tasks.CallCanceled)
		return nil
	}
	a.end(base, a.judge(base))
	return nil
}

// lost reports whether the job is no longer this worker's.
func lost(ctx context.Context) bool { return errors.Is(context.Cause(ctx), errLost) }

// takeWithin is how long a worker asks for a ticket's job before it gives the
// task back to Asynq, which brings it again: a record that cannot be read while
// others can holds no place.
const takeWithin = 30 * time.Second

// take asks for the ticket's job, again while Redis is away. A record that came
// and cannot be read is not asked for again at once.
func (a *attempt) take(base context.Context) error {
	var unread error
	err := persist(a.w.server.stopping, takeWithin, func() (err error) {
		a.job, err = a.w.c.Record.Take(base, a.ticket)
		if err != nil && !tasks.Void(err) && !errors.Is(err, tasks.ErrUnavailable) && !errors.Is(err, tasks.ErrFull) {
			unread = err
			return nil
		}
		return err
	})
	a.taken = time.Now()
	if a.job.Trace != "" {
		a.log = a.log.With("trace_id", a.job.TraceID())
	}
	a.ticket.Tenant = a.job.Tenant
	a.text.of(a.job.Tenant)
	a.price, a.priced = a.w.c.Prices.Of(a.job.Asks(), a.w.c.Now())
	a.ticket.Asks = tasks.Asked{Account: a.p.accounts[0].Name, Model: a.job.Asks(), AtMost: a.price.AtMost(&a.job.Request), Priced: a.priced}
	return cmp.Or(unread, err)
}

// waited is what the record is told of the wait, at the start.
func (a *attempt) waited() tasks.Waited {
	w := tasks.Waited{Handed: -1, Granted: time.Since(a.granted), For: tasks.WaitReason(a.grant.Bound)}
	if a.job.Lay >= 0 {
		w.Handed = a.job.Lay + time.Since(a.taken)
	}
	return w
}

// cost is what the call cost, as far as its answer says; nil: its model has no price.
// What the provider may have charged and did not count is taken for the most that it
// may be.
func (a *attempt) cost() *tasks.Cost {
	answer := &a.answer
	switch {
	case !a.priced:
		return nil
	case answer.Outcome == tasks.Cached, answer.Outcome == tasks.Shared:
		return &tasks.Cost{}
	case answer.Usage != nil && !answer.MaybeBilled:
		return &tasks.Cost{Amount: a.price.Of(*answer.Usage, answer.Served)}
	case answer.MaybeBilled, answer.Outcome == tasks.Succeeded:
		return &tasks.Cost{Maybe: a.price.AtMost(&a.job.Request)}
	}
	return &tasks.Cost{}
}

// held reports whether the job may not be called for now, and for how long.
func (a *attempt) held(base context.Context) (wait time.Duration, held bool) {
	if a.p.shut() {
		return 0, true
	}
	if wait = a.p.heldFor(base, a.job.Asks()); wait == 0 {
		return 0, false
	}
	if left := a.job.Deadline.Sub(a.w.c.Now()); !a.job.Deadline.IsZero() && left > 0 {
		wait = min(wait, left/2) // a wait beyond the deadline would end it now
	}
	return wait, true
}

// join waits until the job may make a call in this process: beside others, or, when its
// workers have died during its calls, alone. False: it is to be handed back.
func (a *attempt) join(ctx context.Context) (leave func(), ok bool) {
	if a.job.Losses < tasks.AloneFrom {
		return a.w.room.enter()
	}
	a.w.mu.Lock()
	a.ticket.Alone = true // the renewal of leases reads it
	a.w.mu.Unlock()
	ctx, cancel := a.untilStop(ctx)
	defer cancel()
	open, ok := a.w.room.alone(ctx)
	if !ok {
		return nil, false
	}
	a.log.Warn("a job runs alone: its workers were lost during its calls", "job", a.job.ID, "pool", a.p.Name, "losses", a.job.Losses)
	return func() {
		open()
		for name := range a.w.pools {
			a.w.Kick(name, 0)
		}
	}, true
}

// pace waits until the job may be sent. The wait ends early when the job is
// lost, the worker stops, or makes no calls of this pool any more.
func (a *attempt) pace(ctx context.Context) (err error) {
	ctx, cancel := a.untilStop(ctx)
	defer cancel()
	job := &a.job
	a.paced = time.Now()
	err = a.choose(ctx, limit.Need{
		ID: job.ID + ":" + strconv.FormatInt(job.Fence, 10), Class: a.question.Class(a.p.Dialect),
		InputTokens: int64(job.Request.InputTokens), MaxTokens: job.Request.Cap(), Within: a.left(),
	})
	a.granted = time.Now()
	return err
}

// left is the time to the job's deadline; 0: it has none, or it has passed.
func (a *attempt) left() time.Duration {
	if a.job.Deadline.IsZero() {
		return 0
	}
	return max(0, a.job.Deadline.Sub(a.w.c.Now()))
}

// unpaced gives a job back that was not let through; nothing is counted. One whose model is held
// back waits elsewhere, and leaves its place to others. One whose place
// comes after its deadline is put off until then, and so ends now: it has cost nothing yet.
func (a *attempt) unpaced(base context.Context, err error) {
	if errors.Is(err, errHeld) {
		if wait, held := a.held(base); held {
			a.record(base, tasks.Ending{Status: tasks.StatusRetrying, Delay: wait})
			return
		}
	}
	var late *limit.LateError
	if !errors.As(err, &late) {
		a.handBack(base, "")
		return
	}
	a.record(base, tasks.Ending{Status: tasks.StatusRetrying, Delay: late.Wait + 2*time.Millisecond}) // the record has whole ones
}

// confirm takes another place in the pace when this process stood still since it
// got its own. A job that has to wait long for that is handed back: it says
// that it runs, and does not.
func (a *attempt) confirm(ctx context.Context) (err error) {
	ctx, cancel := a.untilStop(ctx)
	defer cancel()
	late := time.AfterFunc(a.w.c.StartWithin, cancel)
	defer late.Stop()
	a.grant, err = a.by.Gate.Confirm(ctx, a.grant)
	return err
}

// untilStop returns a context that also ends when the worker begins to stop, or
// makes no calls of this pool any more, or another job is to run alone. Its cancel returns when nothing watches for that any more.
func (a *attempt) untilStop(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(ctx)
	leaving := a.w.room.leaving()
	if a.ticket.Alone {
		leaving = nil // it is this one that the others leave for
	}
	watched := make(chan struct{})
	go func() {
		defer close(watched)
		select {
		case <-a.w.server.stopping:
			cancel()
		case <-a.p.gone():
			cancel()
		case <-leaving:
			cancel()
		case <-ctx.Done():
		}
	}()
	return ctx, func() { cancel(); <-watched }
}

// errLate is a start that was recorded after StartWithin: this process or Redis
// stood still. The lease may be over, and another worker may be making the call.
var errLate = errors.New("the start was recorded too late")

// start records the call before it is made. After an error no call may be made:
// the job was canceled or has expired while it waited (tasks.Void), or it is
// unknown whether the start is in the record.
func (a *attempt) start(base, ctx context.Context) error {
	asked, ticket := time.Now(), a.ticket
	ticket.Waited = a.waited()
	started, next, err := a.w.c.Record.Start(ctx, ticket)
	if err != nil {
		return err
	}
	a.w.hand(base, next)
	if time.Since(asked) > a.w.c.StartWithin {
		return errLate
	}
	a.started = started
	a.w.m.wait.WithLabelValues(a.p.Name).Observe(started.At.Sub(ready(a.job)).Seconds())
	a.text.begin(started)
	return nil
}

// ask makes the call.
func (a *attempt) ask(ctx context.Context) {
	p, m := a.p, a.w.m
	m.inflight.WithLabelValues(p.Name).Inc()
	defer m.inflight.WithLabelValues(p.Name).Dec()
	most, own := bound(p, a.job, a.started)
	a.asked = time.Now()
	ctx, cancel := context.WithTimeout(ctx, most)
	defer cancel()
	ask := upstream.Ask{Question: a.question, Owner: a.job.Owner(), Leave: a.by.gone(), Traceparent: a.parent(), OnText: func(s string) { a.text.add(ctx, s) }, OnLarge: func() error { return a.swell(ctx) }}
	if p.slow() {
		// The gate learns the input and the headers now, not when they are stale.
		ask.OnStart = func(input int64, rates upstream.Rates) {
			if err := a.by.Gate.SettleInput(ctx, a.grant, input, observed(rates, 0)); err != nil {
				a.log.Warn("a call's input was not settled early", "pool", p.Name, "error", err)
			}
		}
	}
	if a.job.Request.Stream {
		e := a.stream(ctx)
		ask.OnEvent = e.add
		defer func() {
			e.finish(ctx, streamEnd(a.answer))
			a.told = e.told && !a.job.Request.Background // whoever reads that may begin anew
		}()
	}
	a.answer = a.by.Caller.Do(ctx, ask)
	a.took = time.Since(a.asked)
	a.outOfTime = own && a.answer.Outcome != tasks.Succeeded && a.took >= most
	p.took(a.took)
	p.budget.call()
	m.attempts.WithLabelValues(p.Name, string(a.answer.Outcome)).Inc()
}

// swell waits for room for a large answer. Who has room needs no more of it, so that
// none waits for one that waits.
func (a *attempt) swell(ctx context.Context) error {
	select {
	case a.w.large <- struct{}{}:
		a.large = true
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// shrink gives the room back once nothing of the answer is held.
func (a *attempt) shrink() {
	if a.large {
		<-a.w.large
	}
}

// judge says what becomes of the job: by the answer, by what the pool's health
// makes of it, and by the one rule.
func (a *attempt) judge(base context.Context) tasks.Ending {
	standing := a.report(base)
	v := decide(a.answer, situation{
		attempts: a.started.Attempts - a.job.Spent, max: a.p.MaxAttempts, told: a.told, standing: standing, guarded: a.by.Health != nil,
		spent: a.p.budget.spent(), bare: a.by.bare.saw(a.answer, time.Now().Add(-a.took)), random: rand.Float64(),
	})
	if v.status == tasks.StatusRetrying && v.counted {
		a.p.budget.retry()
	}
	a.brake(base, v)
	return a.ending(base, v)
}

// report tells the pool's health how the call ended, and returns what that means
// for the job. A refusal that may concern the key is held until it is settled.
func (a *attempt) report(base context.Context) pool.Standing {
	if context.Cause(base) == errGrace && a.answer.Outcome != tasks.Succeeded {
		a.answer.Outcome, a.answer.MaybeBilled = tasks.HandedBack, true
	}
	if a.answer.Doubt != upstream.NoDoubt {
		a.settle(base, a.actual()) // while the refusal is held, its reservation holds up nobody
	}
	// That the job's own deadline cut the call off says nothing about the provider.
	if a.by.Health == nil || a.outOfTime {
		return pool.Open
	}
	standing := a.by.Health.Report(base, pool.Call{Job: a.job.ID, Tenant: a.job.Tenant, Model: a.job.Asks(), Prompt: a.job.Request.Body, Took: a.took,
		Held: func() { a.settle(base, a.actual()) }}, a.answer)
	switch {
	case standing == pool.AtFault:
		a.answer.Outcome = tasks.Rejected
	case standing == pool.Unsettled && context.Cause(base) == errGrace:
		a.answer.Outcome = tasks.HandedBack
	}
	return standing
}

// brake makes the gate wait, or send more slowly, when the provider said so. It
// comes before the end, so that no other call is sent in between.
func (a *attempt) brake(base context.Context, v verdict) {
	gate := a.by.Gate
	switch {
	case v.hold > 0:
		a.w.m.refused.WithLabelValues(a.p.Name).Inc()
		hold := gate.Hold
		if v.ramp {
			hold = gate.Ramp
		}
		if err := hold(base, v.hold, string(a.answer.Outcome)); err != nil {
			a.log.Warn("the pool was not held", "pool", a.p.Name, "error", err)
		}
	case v.soft:
		a.w.m.refused.WithLabelValues(a.p.Name).Inc()
		if err := gate.SoftRefusal(base); err != nil {
			a.log.Warn("the pace was not softened", "pool", a.p.Name, "error", err)
		}
	}
}

// ending is what the record is told of the attempt. A job whose attempts are
// exhausted goes to its next fallback model instead, if that can answer it.
func (a *attempt) ending(base context.Context, v verdict) tasks.Ending {
	answer := &a.answer
	e := tasks.Ending{
		Status: v.status, Counted: v.counted, Delay: v.delay, Result: answer.Result, Finish: answer.Finish, Usage: answer.Usage, Provider: a.provider(), Draw: a.draw(),
		Attempt: tasks.Attempt{
			Outcome: answer.Outcome, Status: answer.Status, RequestID: answer.RequestID, MaybeBilled: answer.MaybeBilled,
			Account: a.ticket.Asks.Account, Usage: answer.Usage, Cost: a.cost(),
		},
	}
	if a.leads {
		e.Leads = a.digest
	}
	if a.job.Passed > 0 {
		e.Attempt.Model = a.job.Asks()
	}
	code := v.code
	if code == tasks.AttemptsExhausted && a.w.c.Detour != nil {
		if d, ok := a.w.c.Detour(base, a.job); ok {
			e.Status, e.Counted, e.Detour = tasks.StatusRetrying, true, &d
		}
	}
	if e.Status == tasks.StatusRetrying && answer.Outcome != tasks.HandedBack {
		code = tasks.UpstreamUnavailable // as long as the job waits for another try
	}
	if code != "" {
		e.Error = &tasks.JobError{Code: code, Message: answer.Message, UpstreamStatus: answer.Status, MaybeBilled: answer.MaybeBilled}
		if e.Status.Final() {
			e.Error.Body = string(answer.Refusal)
		}
	}
	return e
}

// end records an ending and settles the call.
func (a *attempt) end(base context.Context, e tasks.Ending) {
	kept := false
	record := func(ctx context.Context) { kept = a.record(ctx, e) }
	settle := func(ctx context.Context) { a.settle(ctx, a.actual()) }
	if e.Status == tasks.StatusSucceeded {
		pipeline.Join(base, nil, record, settle) // in one round trip, the end first: somebody may wait for it
	} else {
		settle(base)
		record(base)
	}
	a.count(e, kept)
	if !kept {
		a.remember(base, e)
	}
}

// handBack gives the job back for another worker, uncounted. The outcome is that
// of a start that may be in the record; "" without a start.
func (a *attempt) handBack(base context.Context, o tasks.Outcome) {
	a.record(base, tasks.Ending{Status: tasks.StatusRetrying, Draw: a.draw(), Attempt: tasks.Attempt{Outcome: o}})
}

// record writes an ending, again until the record has it or has moved on: an
// answer that was paid for is not given up, whatever error Redis returns. What is
// refused although other writes succeed, and what is left past the grace period
// after one more try, goes to the disk, where there is one: then it returns true.
func (a *attempt) record(base context.Context, e tasks.Ending) (kept bool) {
	for {
		err := a.w.refusals.persist(base.Done(), a.write(base, e))
		if err == nil || tasks.Void(err) {
			return false
		}
		if a.spill(e, err) {
			return true
		}
		if base.Err() != nil {
			return false
		}
	}
}

// spill keeps an ending of a call on the disk, and reports whether it does.
func (a *attempt) spill(e tasks.Ending, why error) bool {
	call := a.started.Call
	if call == 0 || e.Attempt.Outcome == tasks.HandedBack || a.w.c.Spill == nil {
		return false // nothing is lost with it but time
	}
	e.Kept = call
	if err := a.w.c.Spill.KeepEnding(a.ticket, e, why); err != nil {
		a.log.Error("an ending that redis does not take cannot be kept in data_dir either", "job", a.job.ID, "pool", a.p.Name, "error", err)
		return false
	}
	return true
}

// write returns the act of writing an ending once.
func (a *attempt) write(base context.Context, e tasks.Ending) func() error {
	return func() error {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(base), 10*time.Second)
		defer cancel()
		next, err := a.w.c.Record.End(ctx, a.ticket, e)
		switch {
		case err == nil:
			a.w.refusals.passed()
			a.w.hand(ctx, next)
		case errors.Is(err, tasks.ErrNotFound):
			a.w.m.unknown.WithLabelValues(a.p.Name).Inc()
			a.log.Warn("an attempt ended whose job Redis does not know; if nobody deleted it, Redis has lost data: see whether it keeps an append-only file", "job", a.job.ID, "pool", a.p.Name, "outcome", string(e.Attempt.Outcome))
		case !tasks.Void(err):
			a.log.Warn("an ending waits for Redis", "job", a.job.ID, "pool", a.p.Name, "error", err)
		}
		return err
	}
}

// settle tells the gate once what the call has cost, also past the grace period:
// a reservation that is kept holds others up. What Redis does not take within five
// seconds the gate keeps, and writes when Redis does.
func (a *attempt) settle(base context.Context, cost limit.Actual) {
	if a.settled {
		return
	}
	a.settled = true
	ctx, cancel := context.WithTimeout(context.WithoutCancel(base), 5*time.Second)
	defer cancel()
	if err := a.by.Gate.Settle(ctx, a.grant, cost); err != nil {
		a.log.Warn("what a call has cost is not written yet; its reservation stands until then or until it expires", "pool", a.p.Name, "error", err)
	}
}

// count writes the metrics of an ended attempt, and of an ended job the one log
// line and the account that is kept elsewhere. An ending that lies on the disk has
// ended no job yet.
func (a *attempt) count(e tasks.Ending, kept bool) {
	name, m, log := a.p.Name, a.w.m, a.log
	ran, usage := time.Since(a.started.At), a.answer.Usage
	m.run.WithLabelValues(name).Observe(ran.Seconds())
	if usage != nil {
		m.used(name, a.job.Tenant, *usage)
	}
	if kept {
		return
	}
	if e.Detour != nil {
		log.Info("a job goes to its fallback", "job", a.job.ID, "pool", name, "to", e.Detour.Pool)
	}
	if !e.Status.Final() {
		log.Info("attempt ended", "job", a.job.ID, "pool", name, "outcome", string(a.answer.Outcome), "upstream_status", a.answer.Status,
			"counted", e.Counted, "delay_ms", e.Delay.Milliseconds())
		return
	}
	m.ended(name, e)
	job, code := a.job, tasks.ErrorCode("")
	job.Attempts = a.started.Attempts
	if e.Error != nil {
		code = e.Error.Code
	}
	line := append(tasks.EndedAttrs(&job, e.Status, code),
		"calls", a.started.Call, "wait_ms", a.started.At.Sub(ready(job)).Milliseconds(),
		"run_ms", ran.Milliseconds(), "upstream_status", a.answer.Status, "request_id", a.answer.RequestID)
	if usage != nil {
		line = append(line, "input_tokens", usage.InputTokens, "output_tokens", usage.OutputTokens)
	}
	a.w.log.Info("job ended", line...)
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

// actual is what the call has cost, for the gate. Headers that may have waited for
// this process to go on say nothing of what remains now.
func (a *attempt) actual() limit.Actual {
	out := actual(a.answer)
	if o := out.Observed; o != nil && a.w.pulse.late(a.answer.HeadersAt, time.Now()) {
		o.Requests.HasRemaining, o.InputTokens.HasRemaining, o.OutputTokens.HasRemaining = false, false, false
	}
	return out
}

// draw is what the call took of the pool's allowance, by what that gives now; 0: nobody knows.
func (a *attempt) draw() time.Duration {
	used := actual(a.answer)
	switch {
	case a.answer.Outcome == "", a.answer.Outcome == tasks.Cached, a.answer.Outcome == tasks.Shared, used.Refused:
		return tasks.NoDraw
	case !used.Known:
		return 0
	}
	requests, input, output := a.p.limits()
	return tasks.Rates{Requests: requests, InputTokens: input, OutputTokens: output}.Draw(used.InputTokens, used.OutputTokens)
}

// actual is what a call has cost, as far as its answer says.
func actual(a upstream.Answer) limit.Actual {
	out := limit.Actual{Refused: refusedUnpaid(a), Observed: observed(a.Rates, time.Since(a.HeadersAt))}
	if a.Usage != nil {
		out.Known, out.InputTokens, out.OutputTokens = true, a.ChargedInput, a.Usage.OutputTokens
	}
	return out
}
