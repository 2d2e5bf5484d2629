package main

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"time"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracegrpc"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracehttp"
	"go.opentelemetry.io/otel/sdk/resource"
	sdk "go.opentelemetry.io/otel/sdk/trace"

	"github.com/sluicehq/sluice/tasks/trace"
)

// traces reports whether the environment asks for traces, and by which protocol: it names
// an exporter or an address. The other standard variables (OTEL_EXPORTER_OTLP_…,
// OTEL_TRACES_SAMPLER, OTEL_SERVICE_NAME, OTEL_RESOURCE_ATTRIBUTES, OTEL_BSP_…) are read by
// OpenTelemetry's packages.
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

// newTracer makes the spans' way out; nil, without an error, where nobody asks for spans.
func newTracer(ctx context.Context, now func() time.Time, log *slog.Logger) (*trace.Tracer, error) {
	protocol, on, err := traces(os.Getenv)
	if !on || err != nil {
		return nil, err
	}
	var exporter sdk.SpanExporter
	if protocol == "grpc" {
		exporter, err = otlptracegrpc.New(ctx)
	} else {
		exporter, err = otlptracehttp.New(ctx)
	}
	if err != nil {
		return nil, fmt.Errorf("traces: %w", err)
	}
	of, err := resource.New(ctx, resource.WithTelemetrySDK(), resource.WithAttributes(
		attribute.String("service.name", "sluice"), attribute.String("service.version", version), attribute.String("service.instance.id", instance()),
	), resource.WithFromEnv())
	if err != nil {
		return nil, fmt.Errorf("OTEL_RESOURCE_ATTRIBUTES: %w", err)
	}
	otel.SetErrorHandler(otel.ErrorHandlerFunc(func(err error) { log.Warn("spans were not taken; they are dropped", "error", err) }))
	c := trace.Config{Exporter: exporter, Resource: of, Now: now}
	if os.Getenv("OTEL_BSP_MAX_QUEUE_SIZE") == "" { // the default is two seconds of one slow worker
		c.Options = append(c.Options, sdk.WithMaxQueueSize(16384))
	}
	if os.Getenv("OTEL_BSP_MAX_EXPORT_BATCH_SIZE") == "" {
		c.Options = append(c.Options, sdk.WithMaxExportBatchSize(2048))
	}
	return trace.New(c), nil
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
