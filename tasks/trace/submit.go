package trace

import (
	"context"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"

	"github.com/sluicehq/sluice/tasks"
)

// Request is a caller's request, which may submit something.
type Request struct {
	parent context.Context // of its spans
	begun  time.Time
	id     string
}

type requestKey struct{}

// Request notes a request whose header says that it belongs to a trace of its caller's;
// traceparent may be "". Who submits with the context that is returned goes on with it.
func (t *Tracer) Request(ctx context.Context, traceparent string) (context.Context, *Request) {
	if t == nil {
		return ctx, nil
	}
	r := &Request{parent: context.Background(), begun: t.now()}
	if traceparent != "" {
		r.parent = propagation.TraceContext{}.Extract(r.parent, propagation.MapCarrier{"traceparent": traceparent})
	}
	return context.WithValue(ctx, requestKey{}, r), r
}

// TraceID is the trace of what the request has submitted, in hexadecimal digits; "": there is none.
func (r *Request) TraceID() string {
	if r == nil {
		return ""
	}
	return r.id
}

// Submit is a submit under way. Nil is one that is not traced.
type Submit struct {
	span  trace.Span
	now   func() time.Time
	trace string
}

// Submit begins the span of the submit of a job or a batch, which ends with End.
func (t *Tracer) Submit(ctx context.Context, id, tenant string) *Submit {
	if t == nil {
		return nil
	}
	r, _ := ctx.Value(requestKey{}).(*Request)
	if r == nil {
		r = &Request{parent: context.Background(), begun: t.now()}
	}
	own := tasks.Job{ID: id, Trace: tasks.OwnTrace}
	is := &ids{}
	is.trace, is.span, _ = own.Traced()
	_, span := t.tracer.Start(context.WithValue(r.parent, idsKey{}, is), "submit", trace.WithSpanKind(trace.SpanKindServer), trace.WithTimestamp(r.begun))
	if !span.SpanContext().IsSampled() {
		return nil
	}
	s := &Submit{span: span, now: t.now, trace: tasks.OwnTrace}
	if of := span.SpanContext().TraceID(); of != is.trace {
		s.trace = tasks.CallersTrace(of)
	}
	r.id = span.SpanContext().TraceID().String()
	span.SetAttributes(attribute.String("sluice.submitted", id), attribute.String("sluice.tenant", tenant))
	return s
}

// Trace is the Trace of the jobs that are submitted; "": they are not traced.
func (s *Submit) Trace() string {
	if s == nil {
		return ""
	}
	return s.trace
}

// End ends the span: jobs of these pools were accepted, or the submit was refused with the
// code, or was the repeat of an earlier one, whose id is given.
func (s *Submit) End(code, repeats string, pools ...string) {
	switch {
	case s == nil:
		return
	case code != "":
		s.span.SetStatus(codes.Error, "")
		s.span.SetAttributes(attribute.String("error.type", code))
	case repeats != "":
		s.span.SetAttributes(attribute.String("sluice.repeats", repeats))
	default:
		s.span.SetAttributes(attribute.StringSlice("sluice.pools", pools))
	}
	s.span.End(trace.WithTimestamp(s.now()))
}
