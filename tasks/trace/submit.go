package trace

import (
	"context"
	"encoding/hex"
	"time"

	"github.com/sluicehq/sluice/tasks"
)

// Request is a caller's request, which may submit something. It is the context of its submits.
type Request struct {
	context.Context
	caller parent
	begun  time.Time
	id     [16]byte // of the trace of what it has submitted; zero: none
}

type requestKey struct{}

// Value has the request found by its submits.
func (r *Request) Value(key any) any {
	if key == (requestKey{}) {
		return r
	}
	return r.Context.Value(key)
}

// Request notes a request whose header says that it belongs to a trace of its caller's;
// traceparent may be "". Who submits with the context that is returned goes on with it.
func (t *Tracer) Request(ctx context.Context, traceparent string) (context.Context, *Request) {
	if t == nil {
		return ctx, nil
	}
	r := &Request{Context: ctx, caller: parentOf(traceparent), begun: t.now()}
	return r, r
}

// TraceID is the trace of what the request has submitted, in hexadecimal digits; "": there is none.
func (r *Request) TraceID() string {
	if r == nil || r.id == [16]byte{} {
		return ""
	}
	return hex.EncodeToString(r.id[:])
}

// Submit is a submit under way. Nil is one that is not traced.
type Submit struct {
	t      *Tracer
	span   span
	id     string // of what is submitted
	tenant string
}

// Submit begins the span of the submit of a job or a batch, which ends with End.
func (t *Tracer) Submit(ctx context.Context, id, tenant string) *Submit {
	if t == nil {
		return nil
	}
	r, _ := ctx.Value(requestKey{}).(*Request)
	if r == nil {
		r = &Request{begun: t.now()}
	}
	s := &Submit{t: t, span: span{name: "submit", kind: server, from: r.begun}, id: id, tenant: tenant}
	own := tasks.Job{ID: id, Trace: tasks.OwnTrace}
	s.span.trace, s.span.id, _ = own.Traced()
	if r.caller.is {
		s.span.trace, s.span.parent, s.span.remote = r.caller.trace, r.caller.span, true
	}
	if !t.sampler.samples(s.span.trace, r.caller) {
		return nil
	}
	r.id = s.span.trace
	return s
}

// Trace is the Trace of the jobs that are submitted; "": they are not traced.
func (s *Submit) Trace() string {
	switch {
	case s == nil:
		return ""
	case s.span.parent == [8]byte{}:
		return tasks.OwnTrace
	}
	return tasks.CallersTrace(s.span.trace)
}

// End ends the span: jobs of these pools were accepted, or the submit was refused with the
// code, or was the repeat of an earlier one, whose id is given.
func (s *Submit) End(code, repeats string, pools ...string) {
	if s == nil {
		return
	}
	s.span.to, s.span.failed = s.t.now(), code != ""
	room := [5]attr{text("sluice.submitted", s.id), text("sluice.tenant", s.tenant), text("error.type", code), text("sluice.repeats", repeats)}
	attrs := room[:4]
	if len(pools) > 0 {
		attrs = append(attrs, texts("sluice.pools", pools))
	}
	s.t.put(s.span, attrs...)
}
