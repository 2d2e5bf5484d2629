package main

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"math"
	"os"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracegrpc"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracehttp"
	"go.opentelemetry.io/otel/sdk/resource"
	common "go.opentelemetry.io/proto/otlp/common/v1"
	described "go.opentelemetry.io/proto/otlp/resource/v1"
	spans "go.opentelemetry.io/proto/otlp/trace/v1"

	"github.com/sluicehq/sluice/tasks/trace"
)

// traces reports whether the environment asks for traces, and by which protocol: it names
// an exporter or an address. OTEL_EXPORTER_OTLP_…, OTEL_SERVICE_NAME and
// OTEL_RESOURCE_ATTRIBUTES are read by OpenTelemetry's packages; see [traceConfig] for the others.
func traces(env func(string) string) (protocol string, on bool, err error) {
	exporter := strings.ToLower(env("OTEL_TRACES_EXPORTER"))
	address := firstSet(env("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"), env("OTEL_EXPORTER_OTLP_ENDPOINT"))
	switch {
	case strings.EqualFold(env("OTEL_SDK_DISABLED"), "true"), exporter == "none", exporter == "" && address == "":
		return "", false, nil
	case exporter != "" && exporter != "otlp":
		return "", false, fmt.Errorf("OTEL_TRACES_EXPORTER: %q is neither otlp nor none", exporter)
	}
	protocol = cmp.Or(env("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL"), env("OTEL_EXPORTER_OTLP_PROTOCOL"), "http/protobuf")
	if protocol != "http/protobuf" && protocol != "grpc" {
		return "", false, fmt.Errorf("OTEL_EXPORTER_OTLP_PROTOCOL: %q is neither http/protobuf nor grpc", protocol)
	}
	return protocol, true, nil
}

// traceConfig reads OTEL_TRACES_SAMPLER and OTEL_BSP_….
func traceConfig(env func(string) string) (c trace.Config, err error) {
	if c.Sampler, err = trace.ParseSampler(env("OTEL_TRACES_SAMPLER"), env("OTEL_TRACES_SAMPLER_ARG")); err != nil {
		return c, err
	}
	var delay, timeout int
	for _, of := range []struct {
		name string
		to   *int
	}{
		{"OTEL_BSP_MAX_QUEUE_SIZE", &c.Queue}, {"OTEL_BSP_MAX_EXPORT_BATCH_SIZE", &c.Batch},
		{"OTEL_BSP_SCHEDULE_DELAY", &delay}, {"OTEL_BSP_EXPORT_TIMEOUT", &timeout},
	} {
		value := strings.TrimSpace(env(of.name))
		if value == "" {
			continue
		}
		if *of.to, err = strconv.Atoi(value); err != nil || *of.to < 1 || *of.to > math.MaxInt32 {
			return c, fmt.Errorf("%s: %q is no whole number above 0", of.name, value)
		}
	}
	c.Delay, c.Timeout = time.Duration(delay)*time.Millisecond, time.Duration(timeout)*time.Millisecond
	return c, nil
}

// newTracer makes the spans' way out; nil, without an error, where nobody asks for spans.
func newTracer(ctx context.Context, now func() time.Time, metrics prometheus.Registerer, log *slog.Logger) (*trace.Tracer, error) {
	dropped := prometheus.NewCounter(prometheus.CounterOpts{Name: "sluice_spans_dropped_total", Help: "Spans of traces that nobody took in time; 0 where there are none."})
	metrics.MustRegister(dropped)
	protocol, on, err := traces(os.Getenv)
	if !on || err != nil {
		return nil, err
	}
	c, err := traceConfig(os.Getenv)
	if err != nil {
		return nil, err
	}
	out := otlptracehttp.NewClient()
	if protocol == "grpc" {
		out = otlptracegrpc.NewClient()
	}
	of, err := resource.New(ctx, resource.WithAttributes(
		attribute.String("service.name", "sluice"), attribute.String("service.version", version), attribute.String("service.instance.id", instance()),
	), resource.WithFromEnv())
	if err != nil {
		return nil, fmt.Errorf("OTEL_RESOURCE_ATTRIBUTES: %w", err)
	}
	if err := out.Start(ctx); err != nil {
		return nil, fmt.Errorf("traces: %w", err)
	}
	otel.SetErrorHandler(otel.ErrorHandlerFunc(func(err error) { log.Warn("spans were not taken", "error", err) }))
	c.Send, c.Close, c.Now, c.Dropped, c.Log = sendTo(out, of), out.Stop, now, dropped, log
	return trace.New(c), nil
}

// sendTo sends spans of this process by a client of OTLP. The spans are written already:
// they go out as fields that the message ScopeSpans does not know here, byte by byte.
func sendTo(out otlptrace.Client, of *resource.Resource) func(context.Context, []byte) error {
	process := &described.Resource{}
	for _, a := range of.Attributes() {
		process.Attributes = append(process.Attributes, &common.KeyValue{Key: string(a.Key), Value: &common.AnyValue{Value: &common.AnyValue_StringValue{StringValue: a.Value.String()}}})
	}
	scope := &common.InstrumentationScope{Name: "github.com/sluicehq/sluice", Version: version}
	return func(ctx context.Context, written []byte) error {
		in := &spans.ScopeSpans{Scope: scope}
		in.ProtoReflect().SetUnknown(written)
		return rejected(out.UploadTraces(ctx, []*spans.ResourceSpans{{Resource: process, SchemaUrl: of.SchemaURL(), ScopeSpans: []*spans.ScopeSpans{in}}}))
	}
}

// partly is how the clients of OTLP tell that some spans were refused; the type of that
// error is their own.
var partly = regexp.MustCompile(`OTLP partial success: (.*) \((\d+) spans rejected\)`)

// rejected is the error of sending spans as a Tracer takes it.
func rejected(err error) error {
	if err == nil {
		return nil
	}
	m := partly.FindStringSubmatch(err.Error())
	if m == nil {
		return err
	}
	n, _ := strconv.Atoi(m[2])
	return &trace.RejectedError{Spans: n, Message: m[1]}
}

// instance tells this process from others of its kind.
func instance() string {
	host, _ := os.Hostname()
	return fmt.Sprintf("%s-%d", host, os.Getpid())
}

// stopTracer has the last spans taken, within five seconds.
func stopTracer(t *trace.Tracer, log *slog.Logger) {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	if err := t.Stop(ctx); err != nil {
		log.Warn("the last spans were not taken", "error", err)
	}
}
