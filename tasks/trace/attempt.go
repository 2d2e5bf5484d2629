package trace

import (
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/trace"

	"github.com/sluicehq/sluice/tasks"
)

// Attempt is what a worker knows of an attempt that has ended. Its times are the
// process's own; a zero one says that it did not come so far.
type Attempt struct {
	Job      *tasks.Job // as it was taken
	Pool     string
	Provider string // its name
	Dialect  string
	Call     trace.SpanID // of the span of the call, see [SpanID]

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
	submit, ok := submitOf(a.Job)
	if !ok {
		return
	}
	now, ours := t.now(), time.Now()
	at := func(moment time.Time) time.Time { return now.Add(moment.Sub(ours)) }
	taken := at(a.Taken)
	internal := trace.SpanKindInternal
	t.span(submit, trace.SpanID{}, "wait", internal, earlier(ready(a.Job), taken), taken, false,
		attribute.String("sluice.job", a.Job.ID), attribute.Int64("sluice.queue_ms", a.Job.Lay.Milliseconds()))
	failed := a.Outcome != "" && a.Outcome != tasks.Succeeded && a.Outcome != tasks.Cached && a.Outcome != tasks.Shared
	attempt := t.span(submit, trace.SpanID{}, "attempt", trace.SpanKindConsumer, taken, now, failed,
		ofJob(a.Job, attribute.String("sluice.pool", a.Pool), attribute.String("sluice.outcome", string(a.Outcome)), attribute.Int("sluice.call", a.Number))...)
	if !a.Paced.IsZero() && !a.Passed.IsZero() {
		var bound []attribute.KeyValue
		if a.Bound != "" {
			bound = []attribute.KeyValue{attribute.String("sluice.bound", a.Bound)}
		}
		t.span(attempt, trace.SpanID{}, "gate", internal, at(a.Paced), at(a.Passed), false, bound...)
	}
	if !a.Asked.IsZero() {
		t.span(attempt, a.Call, "call", trace.SpanKindClient, at(a.Asked), at(a.Answered), failed, a.call(failed)...)
	}
}

// call says what was asked and answered, in the words of OpenTelemetry's conventions for
// generative AI.
func (a *Attempt) call(failed bool) []attribute.KeyValue {
	attrs := []attribute.KeyValue{
		attribute.String("gen_ai.provider.name", a.Dialect), attribute.String("gen_ai.request.model", a.Job.Asks()),
		attribute.String("sluice.provider", a.Provider), attribute.Int("http.response.status_code", a.Status),
	}
	if a.RequestID != "" {
		attrs = append(attrs, attribute.String("sluice.request_id", a.RequestID))
	}
	if a.Usage != nil {
		attrs = append(attrs, attribute.Int64("gen_ai.usage.input_tokens", a.Usage.InputTokens), attribute.Int64("gen_ai.usage.output_tokens", a.Usage.OutputTokens))
	}
	if failed {
		attrs = append(attrs, attribute.String("error.type", string(a.Outcome)))
	}
	return attrs
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
	submit, ok := submitOf(d.Job)
	if !ok {
		return
	}
	from := t.now().Add(-time.Since(d.At))
	t.span(submit, trace.SpanID{}, "delivery", trace.SpanKindClient, from, from.Add(d.Took), !d.Arrived,
		ofJob(d.Job, attribute.String("sluice.delivery", d.ID), attribute.String("sluice.event", d.Type), attribute.Int("sluice.attempt", d.Number),
			attribute.String("sluice.outcome", d.Outcome), attribute.Int("http.response.status_code", d.Status))...)
}

// Parent is the traceparent header of a call of the provider whose span will have that id; "": the job is not traced.
func Parent(j *tasks.Job, call trace.SpanID) string {
	submit, ok := submitOf(j)
	if !ok {
		return ""
	}
	return "00-" + submit.TraceID().String() + "-" + call.String() + "-01"
}
