package trace_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	sdk "go.opentelemetry.io/otel/sdk/trace"
	api "go.opentelemetry.io/otel/trace"
	common "go.opentelemetry.io/proto/otlp/common/v1"
	otlp "go.opentelemetry.io/proto/otlp/trace/v1"

	"github.com/sluicehq/sluice/tasks"
	"github.com/sluicehq/sluice/tasks/trace"
)

// attributes are those of a span.
func attributes(s *otlp.Span) map[string]any {
	out := map[string]any{}
	for _, a := range s.Attributes {
		switch v := a.Value.Value.(type) {
		case *common.AnyValue_StringValue:
			out[a.Key] = v.StringValue
		case *common.AnyValue_IntValue:
			out[a.Key] = v.IntValue
		case *common.AnyValue_ArrayValue:
			var list []string
			for _, of := range v.ArrayValue.Values {
				list = append(list, of.GetStringValue())
			}
			out[a.Key] = strings.Join(list, " ")
		default:
			out[a.Key] = fmt.Sprintf("%T", v)
		}
	}
	return out
}

// What a span says is read by OpenTelemetry's own package, whatever a provider wrote and
// however long it is; what is not known is left out.
func TestSpansAreReadAsTheyWereMeant(t *testing.T) {
	t.Parallel()
	k, tr := tracer()
	long, at := strings.Repeat("long-", 1000), time.Now()
	s := tr.Submit(t.Context(), id, "acme")
	s.End("", "", "pool", long)
	tr.Submit(t.Context(), id+"B", "acme").End("store_full", "")
	tr.Submit(t.Context(), id+"C", "acme").End("", id)
	job := &tasks.Job{ID: id, Tenant: "acme", Batch: "batch_1", Trace: tasks.OwnTrace, Lay: 1500 * time.Millisecond, Model: "m"}
	tr.Attempt(trace.Attempt{
		Job: job, Pool: "pool", Provider: "p", Dialect: "openai", Taken: at, Paced: at, Passed: at, Bound: "requests", Asked: at, Answered: at,
		Number: 2, Outcome: tasks.ServerError, Status: 500, RequestID: "req\xff" + long, Usage: &tasks.Usage{InputTokens: 1 << 40},
	})
	alone := *job
	alone.Batch = ""
	tr.Delivery(trace.Delivery{Job: &alone, ID: "dlv_1", Type: "job.failed", Number: 3, Outcome: "refused", Status: 410, At: at})
	k.told(t, tr)
	var said []string
	for _, s := range k.spans {
		said = append(said, strings.ReplaceAll(fmt.Sprintf("%s %s %s %#x %v", s.Name, s.Kind, s.Status.GetCode(), s.Flags, attributes(s)), long, "LONG"))
	}
	own := "sluice.batch:batch_1 sluice.job:" + id + " "
	want := []string{
		"submit SPAN_KIND_SERVER STATUS_CODE_UNSET 0x101 map[sluice.pools:pool LONG sluice.submitted:" + id + " sluice.tenant:acme]",
		"submit SPAN_KIND_SERVER STATUS_CODE_ERROR 0x101 map[error.type:store_full sluice.submitted:" + id + "B sluice.tenant:acme]",
		"submit SPAN_KIND_SERVER STATUS_CODE_UNSET 0x101 map[sluice.repeats:" + id + " sluice.submitted:" + id + "C sluice.tenant:acme]",
		"wait SPAN_KIND_INTERNAL STATUS_CODE_UNSET 0x101 map[" + own + "sluice.queue_ms:1500 sluice.tenant:acme]",
		"attempt SPAN_KIND_CONSUMER STATUS_CODE_ERROR 0x101 map[sluice.batch:batch_1 sluice.call:2 sluice.job:" + id + " sluice.outcome:server_error sluice.pool:pool sluice.tenant:acme]",
		"gate SPAN_KIND_INTERNAL STATUS_CODE_UNSET 0x101 map[sluice.bound:requests]",
		"call SPAN_KIND_CLIENT STATUS_CODE_ERROR 0x101 map[error.type:server_error gen_ai.provider.name:openai gen_ai.request.model:m gen_ai.usage.input_tokens:1099511627776 gen_ai.usage.output_tokens:0 http.response.status_code:500 sluice.provider:p sluice.request_id:req\uFFFDLONG]",
		"delivery SPAN_KIND_CLIENT STATUS_CODE_ERROR 0x301 map[http.response.status_code:410 sluice.attempt:3 sluice.delivery:dlv_1 sluice.event:job.failed sluice.job:" + id + " sluice.outcome:refused sluice.tenant:acme]",
	}
	if got, want := strings.Join(said, "\n"), strings.Join(want, "\n"); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

// Which traces are sampled is what OpenTelemetry's SDK would sample.
func TestTheSamplersAreTheStandardOnes(t *testing.T) {
	t.Parallel()
	half := sdk.TraceIDRatioBased(0.5)
	for name, sampler := range map[string]sdk.Sampler{
		"": sdk.ParentBased(sdk.AlwaysSample()), "always_on": sdk.AlwaysSample(), " Always_Off": sdk.NeverSample(), "traceidratio": sdk.AlwaysSample(),
		"traceidratio 0.5": half, "traceidratio 0": sdk.NeverSample(), "traceidratio 1": sdk.AlwaysSample(),
		"parentbased_always_on": sdk.ParentBased(sdk.AlwaysSample()), "parentbased_always_off": sdk.ParentBased(sdk.NeverSample()), "parentbased_traceidratio 0.5": sdk.ParentBased(half),
	} {
		name, arg, _ := strings.Cut(strings.TrimSpace(name), " ")
		ours, err := trace.ParseSampler(name, arg)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		k := &kept{}
		tr := trace.New(trace.Config{Send: k.send, Sampler: ours})
		for i := range 60 {
			made := tasks.Job{ID: fmt.Sprint(id, i), Trace: tasks.OwnTrace}
			of, _, _ := made.Traced()
			parent, header := context.Background(), ""
			if i%3 > 0 { // a caller has sampled it, or has not
				parent = api.ContextWithRemoteSpanContext(parent, api.NewSpanContext(api.SpanContextConfig{TraceID: of, SpanID: api.SpanID{1}, TraceFlags: api.TraceFlags(i % 3 % 2)}))
				header = fmt.Sprintf("00-%x-0100000000000000-%02x", of, i%3%2)
			}
			want := sampler.ShouldSample(sdk.SamplingParameters{ParentContext: parent, TraceID: of}).Decision == sdk.RecordAndSample
			ctx, _ := tr.Request(t.Context(), header)
			if s := tr.Submit(ctx, made.ID, "acme"); (s != nil) != want {
				t.Errorf("%s %s of %x, its caller says %q: sampled %t; want %t", name, arg, of, header, s != nil, want)
			}
		}
		k.told(t, tr)
	}
	for _, row := range [][2]string{{"xray", ""}, {"parentbased_", ""}, {"traceidratio", "x"}, {"traceidratio", "1.1"}, {"parentbased_traceidratio", "-1"}, {"traceidratio", "NaN"}} {
		if _, err := trace.ParseSampler(row[0], row[1]); err == nil || !strings.Contains(err.Error(), "OTEL_TRACES_SAMPLER") {
			t.Errorf("%v: %v", row, err)
		}
	}
}

// Spans are sent when they fill a batch, and at the stop; what is not taken, and what finds
// the queue full meanwhile, is dropped and counted, and nobody waits.
func TestSpansThatNobodyTakesAreDropped(t *testing.T) {
	t.Parallel()
	asked, answers := make(chan int), make(chan error)
	dropped := prometheus.NewCounter(prometheus.CounterOpts{Name: "dropped"})
	tr := trace.New(trace.Config{Queue: 6, Batch: 2, Delay: time.Hour, Dropped: dropped, Send: func(_ context.Context, spans []byte) error {
		asked <- strings.Count(string(spans), "sluice.submitted")
		return <-answers
	}})
	submit := func(n int) {
		for range n {
			tr.Submit(t.Context(), id, "acme").End("", "")
		}
	}
	submit(2)
	if n := <-asked; n != 2 {
		t.Errorf("%d spans in a batch of 2", n)
	}
	submit(6) // two wait for an answer: four more are kept
	answers <- errors.New("refused")
	for _, n := range []int{2, 2} {
		if got := <-asked; got != n {
			t.Errorf("%d spans in a batch; want %d", got, n)
		}
		answers <- nil
	}
	submit(1)
	stopped := beside(func() error { return tr.Stop(t.Context()) })
	if n := <-asked; n != 1 {
		t.Errorf("%d spans are sent at the stop; want 1", n)
	}
	answers <- nil
	if err := <-stopped; err != nil {
		t.Error(err)
	}
	submit(1)
	// Two that filled the queue, two that were refused, one after the stop.
	if n := testutil.ToFloat64(dropped); n != 5 {
		t.Errorf("%v spans were dropped; want 5", n)
	}
}

// beside calls f beside the test.
func beside(f func() error) <-chan error {
	done := make(chan error, 1)
	go func() { done <- f() }()
	return done
}

// A stop that may last no longer ends the sending that is under way, and says so.
func TestAStopWaitsForNobodyForEver(t *testing.T) {
	t.Parallel()
	asked, closed := make(chan struct{}), false
	tr := trace.New(trace.Config{
		Send:  func(ctx context.Context, _ []byte) error { close(asked); <-ctx.Done(); return ctx.Err() },
		Close: func(context.Context) error { closed = true; return nil },
	})
	tr.Submit(t.Context(), id, "acme").End("", "")
	ctx, cancel := context.WithCancel(t.Context())
	stopped := beside(func() error { return tr.Stop(ctx) })
	<-asked
	cancel()
	if err := <-stopped; err == nil || !strings.Contains(err.Error(), "in time") || !closed {
		t.Errorf("%v, closed %t", err, closed)
	}
}

// What a job's spans cost whoever makes them, in a queue that is emptied.
func BenchmarkSpans(b *testing.B) {
	tr := trace.New(trace.Config{Send: func(context.Context, []byte) error { return nil }, Queue: 1 << 30})
	job := &tasks.Job{ID: id, Tenant: "acme", Trace: tasks.OwnTrace, CreatedAt: time.Now()}
	b.Run("submit", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			ctx, _ := tr.Request(b.Context(), "")
			tr.Submit(ctx, id, "acme").End("", "", "pool")
		}
	})
	b.Run("attempt", func(b *testing.B) {
		b.ReportAllocs()
		at := time.Now()
		a := trace.Attempt{Job: job, Pool: "pool", Provider: "p", Dialect: "openai", Call: trace.SpanID(), Taken: at, Paced: at, Passed: at, Asked: at, Answered: at, Number: 1, Outcome: tasks.Succeeded, Status: 200, RequestID: "req_1", Usage: &tasks.Usage{}}
		for b.Loop() {
			tr.Attempt(a)
		}
	})
	if err := tr.Stop(context.Background()); err != nil {
		b.Error(err)
	}
}
