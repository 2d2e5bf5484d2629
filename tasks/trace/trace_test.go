package trace_test

import (
	"cmp"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	otlp "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/protobuf/proto"

	"github.com/sluicehq/sluice/tasks"
	"github.com/sluicehq/sluice/tasks/trace"
)

// kept keeps the spans that have ended, as OpenTelemetry's package reads them.
type kept struct {
	mu    sync.Mutex
	err   error
	spans []*otlp.Span
}

func (k *kept) send(_ context.Context, written []byte) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	var in otlp.ScopeSpans
	err := proto.Unmarshal(written, &in)
	if k.err = errors.Join(k.err, err); err == nil && in.Scope != nil {
		k.err = errors.New("the scope is the sender's to say")
	}
	k.spans = append(k.spans, in.Spans...)
	return nil
}

// told are the spans, each as name, parent's name and length, once the tracer is stopped.
func (k *kept) told(t *testing.T, tr *trace.Tracer) (out []string) {
	t.Helper()
	if err := errors.Join(tr.Stop(context.Background()), k.err); err != nil {
		t.Fatal(err)
	}
	names := map[string]string{}
	for _, s := range k.spans {
		names[string(s.SpanId)] = s.Name
		if unknown := s.ProtoReflect().GetUnknown(); len(unknown) > 0 || len(s.TraceId) != 16 || len(s.SpanId) != 8 {
			t.Errorf("the span %s has fields that nobody reads, or no id: %v", s.Name, s)
		}
	}
	for _, s := range k.spans {
		parent := cmp.Or(names[string(s.ParentSpanId)], "-")
		out = append(out, fmt.Sprintf("%s<%s %s", s.Name, parent, time.Duration(s.EndTimeUnixNano-s.StartTimeUnixNano).Round(time.Second)))
	}
	slices.Sort(out)
	return out
}

func tracer() (*kept, *trace.Tracer) {
	k := &kept{}
	return k, trace.New(trace.Config{Send: k.send})
}

const id = "job_01K9XCANARY0000000000000A"

// A submit goes on with its caller's trace, or begins one that is made of its id; and what
// the record keeps of it is enough for who makes the other spans.
func TestASubmitGoesOnWithItsCallersTrace(t *testing.T) {
	t.Parallel()
	const theirs, span = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
	for _, row := range []struct {
		parent string
		trace  string // "": its own; "-": none
	}{
		{"", ""},
		{"00-" + theirs + "-" + span + "-01", theirs},
		{"00-" + theirs + "-" + span + "-00", "-"}, // its caller has not sampled it
		{"00-" + theirs + "-" + span, ""},
		{"nonsense", ""},
		{"00-" + theirs + "-" + span + "-01-more", ""}, // of a version that has no more
		{"00-" + strings.ToUpper(theirs) + "-" + span + "-01", ""},
		{"00-" + theirs + "-0000000000000000-01", ""},
		{"ff-" + theirs + "-" + span + "-01", ""},
		{"00-" + theirs + "-" + span + "-xx", ""},
		{"00-" + theirs + "-" + span + "-03", theirs}, // and a flag of a later version
		{"cc-" + theirs + "-" + span + "-01.", ""},
		{"00-00000000000000000000000000000000-" + span + "-01", ""},
		{"cc-" + theirs + "-" + span + "-01-of-a-later-version", theirs},
	} {
		k, tr := tracer()
		ctx, request := tr.Request(t.Context(), row.parent)
		s := tr.Submit(ctx, id, "acme")
		job := tasks.Job{ID: id, Trace: s.Trace()}
		s.End("", "", "pool")
		spans := k.told(t, tr)
		if row.trace == "-" {
			if len(spans) > 0 || job.Trace != "" || job.TraceID() != "" || request.TraceID() != "" {
				t.Errorf("%q: %v, the job has %q", row.parent, spans, job.Trace)
			}
			continue
		}
		if len(spans) != 1 {
			t.Errorf("%q: %v", row.parent, spans)
			continue
		}
		got, of := k.spans[0], job.TraceID()
		_, submit, _ := job.Traced()
		if hex.EncodeToString(got.TraceId) != of || request.TraceID() != of || [8]byte(got.SpanId) != submit || row.trace != "" && of != row.trace || row.trace == "" && job.Trace != tasks.OwnTrace {
			t.Errorf("%q: the span is %s of %s; the job says %x of %s (%q), its request %s", row.parent, hex.EncodeToString(got.SpanId), hex.EncodeToString(got.TraceId), submit, of, job.Trace, request.TraceID())
		}
		if under := hex.EncodeToString(got.ParentSpanId) == span; under != (row.trace != "") {
			t.Errorf("%q: the submit is under another span: %t", row.parent, under)
		}
	}
}

// An attempt's spans say how long its job waited, stood at the gate and was asked for,
// however far it came.
func TestTheSpansOfAnAttempt(t *testing.T) {
	t.Parallel()
	now := time.Now()
	ago := func(seconds int) time.Time { return now.Add(-time.Duration(seconds) * time.Second) }
	taken := trace.Attempt{Job: &tasks.Job{ID: id, Trace: tasks.OwnTrace, CreatedAt: ago(100)}, Taken: ago(50)}
	paced := taken
	paced.Paced, paced.Passed = ago(50), ago(20)
	asked := paced
	asked.Asked, asked.Answered, asked.Outcome, asked.Number = ago(20), ago(10), tasks.Succeeded, 1
	again := asked
	again.Job = &tasks.Job{ID: id, Trace: tasks.OwnTrace, CreatedAt: ago(100), Log: []tasks.Attempt{{EndedAt: ago(70), Delay: 5 * time.Second}}}
	held := taken
	held.Job = &tasks.Job{ID: id, Trace: tasks.OwnTrace, CreatedAt: ago(100), Since: ago(55)}
	ahead := taken
	ahead.Job = &tasks.Job{ID: id, Trace: tasks.OwnTrace, CreatedAt: ago(100), NotBefore: ago(40)}
	for _, row := range []struct {
		name string
		a    trace.Attempt
		want string
	}{
		{"taken and handed back", taken, "attempt<- 50s, wait<- 50s"},
		{"handed back at the gate", paced, "attempt<- 50s, gate<attempt 30s, wait<- 50s"},
		{"answered", asked, "attempt<- 50s, call<attempt 10s, gate<attempt 30s, wait<- 50s"},
		{"a second try", again, "attempt<- 50s, call<attempt 10s, gate<attempt 30s, wait<- 15s"},
		{"put off before", held, "attempt<- 50s, wait<- 5s"},
		{"of a clock that is behind", ahead, "attempt<- 50s, wait<- 0s"},
		{"not traced", trace.Attempt{Job: &tasks.Job{ID: id}}, ""},
		{"of a later release", trace.Attempt{Job: &tasks.Job{ID: id, Trace: "?"}}, ""},
	} {
		k, tr := tracer()
		tr.Attempt(row.a)
		if got := strings.Join(k.told(t, tr), ", "); got != row.want {
			t.Errorf("%s: %s; want %s", row.name, got, row.want)
		}
		for _, s := range k.spans {
			if hex.EncodeToString(s.TraceId) != row.a.Job.TraceID() {
				t.Errorf("%s: the span %s is of another trace", row.name, s.Name)
			}
		}
	}
}

// What a provider or a receiver is told of a call is the span that is made of it.
// A job of a batch has a trace of its own, whose first spans are linked to the batch's submit,
// also where that is in its caller's trace.
func TestAJobOfABatchHasATraceOfItsOwn(t *testing.T) {
	t.Parallel()
	theirs := [16]byte{1, 2, 3}
	for _, kept := range []string{tasks.OwnTrace, tasks.CallersTrace(theirs)} {
		batch := tasks.Job{ID: "batch_01K9XCANARY0000000000000B", Trace: kept}
		of, submit, _ := batch.Traced()
		k, tr := tracer()
		now := time.Now()
		for _, line := range []string{id, id + "2"} {
			tr.Attempt(trace.Attempt{
				Job:   &tasks.Job{ID: line, Batch: batch.ID, Trace: kept, CreatedAt: now},
				Taken: now, Paced: now, Passed: now, Asked: now, Answered: now, Outcome: tasks.Succeeded,
			})
		}
		k.told(t, tr)
		traces := map[string]int{}
		for _, s := range k.spans {
			traces[string(s.TraceId)]++
			first := len(s.ParentSpanId) == 0
			if first != (s.Name == "wait" || s.Name == "attempt") {
				t.Errorf("%s is the first of its trace: %t", s.Name, first)
			}
			if linked := len(s.Links) == 1 && [16]byte(s.Links[0].TraceId) == of && [8]byte(s.Links[0].SpanId) == submit; linked != first {
				t.Errorf("%s is linked to the submit of its batch: %t", s.Name, linked)
			}
		}
		if len(traces) != 2 || traces[string(of[:])] > 0 {
			t.Errorf("two jobs are in %d traces, %d spans in the batch's; want two others", len(traces), traces[string(of[:])])
		}
	}
}

func TestTheSpanOfACallHasTheIDThatItsProviderWasTold(t *testing.T) {
	t.Parallel()
	k, tr := tracer()
	a := trace.Attempt{Job: &tasks.Job{ID: id, Trace: tasks.OwnTrace}, Call: trace.SpanID(), Taken: time.Now(), Asked: time.Now(), Answered: time.Now(), Outcome: tasks.ServerError}
	tr.Attempt(a)
	tr.Delivery(trace.Delivery{Job: a.Job, Outcome: "timeout", At: time.Now()})
	tr.Delivery(trace.Delivery{})
	k.told(t, tr)
	for _, s := range k.spans {
		if parent := "00-" + hex.EncodeToString(s.TraceId) + "-" + hex.EncodeToString(s.SpanId) + "-01"; (parent == trace.Parent(a.Job, a.Call)) != (s.Name == "call") {
			t.Errorf("the span %s is %s; its provider was told %s", s.Name, parent, trace.Parent(a.Job, a.Call))
		}
		if failed := s.Status.GetCode() == otlp.Status_STATUS_CODE_ERROR; failed != (s.Name != "wait") {
			t.Errorf("the span %s failed: %t", s.Name, failed)
		}
	}
	if len(k.spans) != 4 {
		t.Errorf("%d spans", len(k.spans))
	}
}

// Where nobody wants spans, none are made, and nothing is allocated for them.
func TestNoTracerCostsNothing(t *testing.T) {
	var tr *trace.Tracer
	ctx, job := t.Context(), &tasks.Job{ID: id}
	if n := testing.AllocsPerRun(100, func() {
		ctx, r := tr.Request(ctx, "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01")
		s := tr.Submit(ctx, id, "acme")
		if s.Trace() != "" || r.TraceID() != "" {
			t.Error("there is a trace")
		}
		s.End("", "")
		tr.Attempt(trace.Attempt{Job: job})
		tr.Delivery(trace.Delivery{Job: job})
	}); n > 0 {
		t.Errorf("%v allocations", n)
	}
	if err := tr.Stop(ctx); err != nil {
		t.Error(err)
	}
}

// A queue smaller than a batch still sends, and what a collector only warns of is not lost.
func TestASmallQueueSendsAndAWarningLosesNothing(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name  string
		err   error
		spans int
		lost  float64
	}{
		{"taken", nil, 99, 0},
		{"a warning", &trace.RejectedError{Message: "slow down"}, 99, 0},
		{"one of a batch", fmt.Errorf("collector: %w", &trace.RejectedError{Spans: 1}), 33, 1},
		{"none of a batch", errors.New("away"), 33, 33},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			sent := make(chan struct{}, 100)
			dropped := prometheus.NewCounter(prometheus.CounterOpts{Name: "d"})
			tr := trace.New(trace.Config{Queue: 99, Delay: time.Hour, Dropped: dropped, Send: func(context.Context, []byte) error {
				sent <- struct{}{}
				return c.err
			}})
			for i := range c.spans {
				tr.Submit(t.Context(), "job_1", "acme").End("", "")
				if i%33 == 32 {
					<-sent // a batch is a third of the queue, however many OTEL_BSP_MAX_EXPORT_BATCH_SIZE would send
				}
			}
			if err := tr.Stop(t.Context()); err != nil {
				t.Error(err)
			}
			if got := testutil.ToFloat64(dropped); got != c.lost {
				t.Errorf("%v spans are counted as dropped, want %v", got, c.lost)
			}
		})
	}
}
