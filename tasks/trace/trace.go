// Package trace makes the spans of jobs for OpenTelemetry: of the submit, of the wait, of
// each attempt with its time at the gate and its call of the provider, and of each
// attempt at a webhook. All spans of a job are in one trace, whichever processes make
// them: its caller's, where that has begun one (https://www.w3.org/TR/trace-context/),
// and each job of a batch in one of its own, whose spans are linked to the batch's submit.
//
// It promises that no span holds what a caller or a provider wrote but for ids and the
// names of models, that all times are of Redis's clock, and that nobody ever waits for
// who takes the spans: what is not taken in time is dropped and counted. A span is
// written as OTLP's bytes when it ends and never exists in another form. A nil [Tracer]
// makes no spans and costs nothing.
package trace

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/sluicehq/sluice/tasks"
)

// Config says what a Tracer works with.
type Config struct {
	// Send gives spans to who takes them: the fields of a message ScopeSpans of OTLP,
	// which are not Send's after it has returned. Never called twice at once. What takes
	// the others and refuses some is told by a [RejectedError].
	Send    func(ctx context.Context, spans []byte) error
	Close   func(ctx context.Context) error // is called after the last Send; nil: nothing is
	Sampler Sampler
	Queue   int           // spans at most that wait to be sent; 0: 16384
	Batch   int           // spans at most that are sent at once, a third of Queue at most; 0: 2048
	Delay   time.Duration // after which spans are sent that fill no batch; 0: 5 s
	Timeout time.Duration // of one sending; 0: 30 s
	// Now is Redis's clock; nil: time.Now.
	Now     func() time.Time
	Log     *slog.Logger       // nil: nothing is logged
	Dropped prometheus.Counter // of spans; nil: nobody counts them
}

// RejectedError is the error of who has taken spans but so many; none, where it only
// warns.
type RejectedError struct {
	Spans   int
	Message string // of who takes them
}

func (e *RejectedError) Error() string {
	return fmt.Sprintf("%d spans were refused: %s", e.Spans, e.Message)
}

// Tracer makes spans. Nil makes none.
type Tracer struct {
	sampler Sampler
	now     func() time.Time
	queue   *queue
	close   func(ctx context.Context) error
}

// New returns a Tracer, which runs until Stop.
func New(c Config) *Tracer {
	c.Queue, c.Batch = cmp.Or(c.Queue, 16384), cmp.Or(c.Batch, 2048)
	c.Batch = min(c.Batch, max(1, c.Queue/3)) // so that others have room while one is sent
	c.Delay, c.Timeout = cmp.Or(c.Delay, 5*time.Second), cmp.Or(c.Timeout, 30*time.Second)
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	if c.Dropped == nil {
		c.Dropped = prometheus.NewCounter(prometheus.CounterOpts{Name: "dropped"})
	}
	if c.Close == nil {
		c.Close = func(context.Context) error { return nil }
	}
	return &Tracer{sampler: c.Sampler, now: c.Now, queue: newQueue(c), close: c.Close}
}

// Stop gives the spans that have ended to who takes them, and drops what is not taken
// before ctx ends.
func (t *Tracer) Stop(ctx context.Context) error {
	if t == nil {
		return nil
	}
	return errors.Join(t.queue.stop(ctx), t.close(ctx))
}

// put ends a span, which has the id that is given, or one of its own. It returns the id.
func (t *Tracer) put(s span, attrs ...attr) [8]byte {
	if s.id == [8]byte{} {
		s.id = SpanID()
	}
	if s.to.Before(s.from) {
		s.to = s.from // of two clocks that agree to a few milliseconds
	}
	t.queue.put(&s, attrs)
	return s.id
}

// under is a span under that of the submit of a job, or first in the trace of a batch's job;
// false: the job is not traced.
func under(j *tasks.Job) (s span, ok bool) {
	s.trace, s.parent, ok = j.Traced()
	s.remote = s.parent != [8]byte{}
	return s, ok
}
