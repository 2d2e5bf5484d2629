package trace

import (
	"encoding/hex"
	"time"

	"github.com/sluicehq/sluice/tasks"
)

// Attempt is what a worker knows of an attempt that has ended. Its times are the
// process's own; a zero one says that it did not come so far.
type Attempt struct {
	Job      *tasks.Job // as it was taken
	Pool     string
	Provider string // its name
	Dialect  string
	Call     [8]byte // of the span of the call, see [SpanID]

	Taken         time.Time
	Paced, Passed time.Time // came to the gate, and went on
	Bound         string    // what the gate made it wait for; "": nothing
	Asked         time.Time // the provider
	Answered      time.Time

	Number    int           // of the call in the job's log; 0: none was made
	Outcome   tasks.Outcome // of the call
	Status    int           // of the provider's answer; 0: none
	RequestID string        // the provider's
	Usage     *tasks.Usage
}

// Attempt makes the spans of an attempt that ends now, and of the wait before it.
func (t *Tracer) Attempt(a Attempt) {
	if t == nil {
		return
	}
	own, ok := under(a.Job)
	if !ok {
		return
	}
	now, ours := t.now(), time.Now()
	at := func(moment time.Time) time.Time { return now.Add(moment.Sub(ours)) }
	own.of, own.kind = a.Job, internal
	wait := own
	wait.name, wait.to = "wait", at(a.Taken)
	wait.from = earlier(ready(a.Job), wait.to)
	t.put(wait, number("sluice.queue_ms", a.Job.Lay.Milliseconds()))

	failed := a.Outcome != "" && a.Outcome != tasks.Succeeded && a.Outcome != tasks.Cached && a.Outcome != tasks.Shared
	whole := own
	whole.name, whole.kind, whole.from, whole.to, whole.failed = "attempt", consumer, wait.to, now, failed
	part := span{trace: own.trace, kind: internal}
	part.parent = t.put(whole, text("sluice.pool", a.Pool), text("sluice.outcome", string(a.Outcome)), number("sluice.call", int64(a.Number)))
	if !a.Paced.IsZero() && !a.Passed.IsZero() {
		gate := part
		gate.name, gate.from, gate.to = "gate", at(a.Paced), at(a.Passed)
		t.put(gate, text("sluice.bound", a.Bound))
	}
	if !a.Asked.IsZero() {
		part.name, part.kind, part.id, part.from, part.to, part.failed = "call", client, a.Call, at(a.Asked), at(a.Answered), failed
		a.call(t, part)
	}
}

// call ends the span of the call, which says what was asked and answered, in the words of
// OpenTelemetry's conventions for generative AI.
func (a *Attempt) call(t *Tracer, s span) {
	room := [8]attr{
		text("gen_ai.provider.name", a.Dialect), text("gen_ai.request.model", a.Job.Asks()),
		text("sluice.provider", a.Provider), text("sluice.request_id", a.RequestID),
	}
	attrs := room[:4]
	if a.Status != 0 {
		attrs = append(attrs, number("http.response.status_code", int64(a.Status)))
	}
	if a.Usage != nil {
		attrs = append(attrs, number("gen_ai.usage.input_tokens", a.Usage.InputTokens), number("gen_ai.usage.output_tokens", a.Usage.OutputTokens))
	}
	if s.failed {
		attrs = append(attrs, text("error.type", string(a.Outcome)))
	}
	t.put(s, attrs...)
}

// ready is when a job could last begin to wait for this attempt.
func ready(j *tasks.Job) time.Time {
	at := j.CreatedAt
	for _, later := range []time.Time{j.NotBefore, j.Since} {
		if later.After(at) {
			at = later
		}
	}
	if n := len(j.Log); n > 0 {
		if again := j.Log[n-1].EndedAt.Add(j.Log[n-1].Delay); again.After(at) {
			at = again
		}
	}
	return at
}

func earlier(a, b time.Time) time.Time {
	if b.Before(a) {
		return b
	}
	return a
}

// Delivery is what is known of an attempt at a webhook that has ended.
type Delivery struct {
	Job     *tasks.Job // that it tells of
	ID      string
	Type    string // of its event
	Number  int    // of the attempt in its round, from 1
	Outcome string
	Arrived bool
	Status  int // of the receiver's answer; 0: none
	At      time.Time
	Took    time.Duration
}

// Delivery makes the span of an attempt at a webhook.
func (t *Tracer) Delivery(d Delivery) {
	if t == nil || d.Job == nil {
		return
	}
	s, ok := under(d.Job)
	if !ok {
		return
	}
	s.name, s.kind, s.of, s.failed = "delivery", client, d.Job, !d.Arrived
	s.from = t.now().Add(-time.Since(d.At))
	s.to = s.from.Add(d.Took)
	room := [5]attr{text("sluice.delivery", d.ID), text("sluice.event", d.Type), number("sluice.attempt", int64(d.Number)), text("sluice.outcome", d.Outcome)}
	attrs := room[:4]
	if d.Status != 0 {
		attrs = append(attrs, number("http.response.status_code", int64(d.Status)))
	}
	t.put(s, attrs...)
}

// Parent is the traceparent header of a call of the provider whose span will have that id; "": the job is not traced.
func Parent(j *tasks.Job, call [8]byte) string {
	trace, _, ok := j.Traced()
	if !ok {
		return ""
	}
	return "00-" + hex.EncodeToString(trace[:]) + "-" + hex.EncodeToString(call[:]) + "-01"
}
