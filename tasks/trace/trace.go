// Package trace makes the spans of jobs for OpenTelemetry: of the submit, of the wait, of
// each attempt with its time at the gate and its call of the provider, and of each
// attempt at a webhook. All spans of a job are in one trace, whichever processes make
// them: its caller's, where that has begun one (https://www.w3.org/TR/trace-context/),
// and the spans of a batch's jobs in the batch's.
//
// It promises that no span holds what a caller or a provider wrote but for ids and the
// names of models, that all times are of Redis's clock, and that nobody ever waits for
// who takes the spans: what is not taken in time is dropped. A nil [Tracer] makes no
// spans and costs nothing.
package trace

import (
	"context"
	"encoding/binary"
	"math/rand/v2"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/sdk/resource"
	sdk "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"

	"github.com/sluicehq/sluice/tasks"
)

// Config says what a Tracer works with.
type Config struct {
	Exporter sdk.SpanExporter // takes the spans in batches
	Resource *resource.Resource
	Options  []sdk.BatchSpanProcessorOption
	// Now is Redis's clock; nil: time.Now.
	Now func() time.Time
}

// Tracer makes spans. Nil makes none.
type Tracer struct {
	provider *sdk.TracerProvider
	tracer   trace.Tracer
	now      func() time.Time
}

// New returns a Tracer, which runs until Stop. Which traces are sampled, the variable
// OTEL_TRACES_SAMPLER says.
func New(c Config) *Tracer {
	if c.Now == nil {
		c.Now = time.Now
	}
	provider := sdk.NewTracerProvider(sdk.WithBatcher(c.Exporter, c.Options...), sdk.WithResource(c.Resource), sdk.WithIDGenerator(given{}))
	return &Tracer{provider: provider, tracer: provider.Tracer("github.com/sluicehq/sluice"), now: c.Now}
}

// Stop gives the spans that have ended to who takes them.
func (t *Tracer) Stop(ctx context.Context) error {
	if t == nil {
		return nil
	}
	return t.provider.Shutdown(ctx)
}

// SpanID returns an id for a span that is made later.
func SpanID() (id trace.SpanID) {
	for !id.IsValid() {
		binary.BigEndian.PutUint64(id[:], rand.Uint64())
	}
	return id
}

// given generates the ids that a context names, and random ones where it names none.
type given struct{}

type idsKey struct{}

// ids are those that a span is to have.
type ids struct {
	trace trace.TraceID
	span  trace.SpanID
}

func (given) NewIDs(ctx context.Context) (id trace.TraceID, span trace.SpanID) {
	if is, ok := ctx.Value(idsKey{}).(*ids); ok {
		return is.trace, is.span
	}
	for !id.IsValid() {
		binary.BigEndian.PutUint64(id[:8], rand.Uint64())
		binary.BigEndian.PutUint64(id[8:], rand.Uint64())
	}
	return id, SpanID()
}

func (given) NewSpanID(ctx context.Context, _ trace.TraceID) trace.SpanID {
	if is, ok := ctx.Value(idsKey{}).(*ids); ok && is.span.IsValid() {
		return is.span
	}
	return SpanID()
}

// span makes a span that has ended. It has the id that is given, or one of its own.
func (t *Tracer) span(parent trace.SpanContext, id trace.SpanID, name string, kind trace.SpanKind, from, to time.Time, failed bool, attrs ...attribute.KeyValue) trace.SpanContext {
	ctx := trace.ContextWithRemoteSpanContext(context.Background(), parent)
	if id.IsValid() {
		ctx = context.WithValue(ctx, idsKey{}, &ids{span: id})
	}
	_, s := t.tracer.Start(ctx, name, trace.WithSpanKind(kind), trace.WithTimestamp(from), trace.WithAttributes(attrs...))
	if failed {
		s.SetStatus(codes.Error, "")
	}
	if to.Before(from) {
		to = from // of two clocks that agree to a few milliseconds
	}
	s.End(trace.WithTimestamp(to))
	return s.SpanContext()
}

// submitOf is the span of a job's submit, which all others of the job are under.
func submitOf(j *tasks.Job) (trace.SpanContext, bool) {
	id, span, ok := j.Traced()
	return trace.NewSpanContext(trace.SpanContextConfig{TraceID: id, SpanID: span, TraceFlags: trace.FlagsSampled, Remote: true}), ok
}

// ofJob says whose span it is.
func ofJob(j *tasks.Job, more ...attribute.KeyValue) []attribute.KeyValue {
	attrs := append([]attribute.KeyValue{attribute.String("sluice.job", j.ID), attribute.String("sluice.tenant", j.Tenant)}, more...)
	if j.Batch != "" {
		attrs = append(attrs, attribute.String("sluice.batch", j.Batch))
	}
	return attrs
}
