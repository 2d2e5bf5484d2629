package main

import (
	"bytes"
	"context"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	collector "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	spans "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/grpc"
	_ "google.golang.org/grpc/encoding/gzip"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/proto"

	"github.com/sluicehq/sluice/api/auth"
	"github.com/sluicehq/sluice/tasks/redistest"
	"github.com/sluicehq/sluice/worker/upstream/fake"
)

// taken is a receiver of OTLP by both protocols, which keeps all that it was sent.
type taken struct {
	collector.UnimplementedTraceServiceServer
	mu    sync.Mutex
	raw   []byte
	spans []*spans.Span
	from  map[string]bool // protocol, scope, service.name, another attribute, header
}

func (k *taken) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	var said collector.ExportTraceServiceRequest
	if err == nil {
		err = proto.Unmarshal(body, &said)
	}
	if err != nil || r.URL.Path != "/v1/traces" {
		http.Error(w, fmt.Sprint(r.URL.Path, err), http.StatusBadRequest)
		return
	}
	k.keep("http", r.Header.Get("X-Of"), &said)
	w.Header().Set("Content-Type", "application/x-protobuf")
}

// Export is the call of gRPC.
func (k *taken) Export(ctx context.Context, said *collector.ExportTraceServiceRequest) (*collector.ExportTraceServiceResponse, error) {
	header, _ := metadata.FromIncomingContext(ctx)
	k.keep("grpc", strings.Join(header.Get("x-of"), ","), said)
	return &collector.ExportTraceServiceResponse{}, nil
}

func (k *taken) keep(protocol, header string, said *collector.ExportTraceServiceRequest) {
	k.mu.Lock()
	defer k.mu.Unlock()
	raw, _ := proto.Marshal(said)
	k.raw = append(k.raw, raw...)
	for _, of := range said.ResourceSpans {
		attrs := map[string]string{}
		for _, a := range of.Resource.Attributes {
			attrs[a.Key] = a.Value.GetStringValue()
		}
		for _, scope := range of.ScopeSpans {
			k.from[strings.Join([]string{protocol, scope.Scope.Name, attrs["service.name"], attrs["deployment.environment.name"], header}, " ")] = true
			k.spans = append(k.spans, scope.Spans...)
		}
	}
}

// serveGRPC serves the receiver by gRPC, and returns its address.
func (k *taken) serveGRPC(t *testing.T) string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := grpc.NewServer()
	collector.RegisterTraceServiceServer(s, k)
	served := make(chan struct{})
	go func() {
		defer close(served)
		_ = s.Serve(l)
	}()
	t.Cleanup(func() { s.Stop(); <-served })
	return "http://" + l.Addr().String()
}

// of are the spans of a trace by their names, in the order of their begin.
func (k *taken) of(trace string) map[string][]*spans.Span {
	k.mu.Lock()
	defer k.mu.Unlock()
	out := map[string][]*spans.Span{}
	for _, s := range k.spans {
		if hex.EncodeToString(s.TraceId) == trace {
			out[s.Name] = append(out[s.Name], s)
		}
	}
	for _, list := range out {
		slices.SortFunc(list, func(a, b *spans.Span) int { return int(int64(a.StartTimeUnixNano) - int64(b.StartTimeUnixNano)) })
	}
	return out
}

// A job's spans are one trace, its caller's, whichever processes make them and by whichever
// protocol; each job of a batch has its own, linked to the batch's submit. None holds what was asked and answered,
// or a secret. A provider that is to be told of a call is told its span.
func TestOneTraceOverAllProcesses(t *testing.T) {
	t.Parallel()
	const (
		caller, above = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
		canary        = "canary4711"
		secret        = "0123456789abcdef0123456789" + canary
	)
	took := &taken{from: map[string]bool{}}
	receiver := httptest.NewServer(took)
	defer receiver.Close()
	hook := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {}))
	defer hook.Close()
	model, err := fake.New(fake.Config{})
	if err != nil {
		t.Fatal(err)
	}
	told := make(chan string, 16)
	provider := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		select {
		case told <- r.Header.Get("Traceparent"):
		default:
		}
		model.ServeHTTP(w, r)
	}))
	defer provider.Close()
	config := filepath.Join(t.TempDir(), "sluice.yaml")
	if err := os.WriteFile(config, fmt.Appendf(nil, `
providers: {p: {dialect: anthropic, base_url: %q, api_key: key-%s, trace_context: true}}
pools: {p: {provider: p, models: ["claude-*"]}}
`, provider.URL, canary), 0o600); err != nil {
		t.Fatal(err)
	}
	environ := []string{
		"SLUICE_CONFIG=" + config,
		"PATH=" + os.Getenv("PATH"), "HOME=" + t.TempDir(), "GORACE=atexit_sleep_ms=0", "SLUICE_LISTEN=127.0.0.1:0", "SLUICE_OPS_LISTEN=127.0.0.1:0",
		"SLUICE_REDIS__URL=" + redistest.Start(t, redistest.Options{}).URL(), "SLUICE_AUTH__HMAC_SECRET=" + secret,
		"SLUICE_WEBHOOKS__ALLOW_HTTP=true", "SLUICE_WEBHOOKS__ALLOW_PRIVATE=true",
		"OTEL_BSP_SCHEDULE_DELAY=20", "OTEL_EXPORTER_OTLP_HEADERS=x-of=both", "OTEL_RESOURCE_ATTRIBUTES=deployment.environment.name=test",
	}
	begin := func(says string, otel []string, args ...string) (*child, string) {
		c, err := startChild(t.TempDir(), append(otel, environ...), append([]string{Sluice(t)}, args...)...)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = c.cmd.Process.Kill(); <-c.ended })
		m, err := c.await(regexp.MustCompile(says))
		if err != nil {
			t.Fatal(err)
		}
		return c, m[len(m)-1]
	}
	api, address := begin(`"msg":"listening","address":"([^"]+)"`, []string{"OTEL_EXPORTER_OTLP_ENDPOINT=" + receiver.URL}, "api")
	worker, _ := begin(`"msg":"worker started"`, []string{"OTEL_EXPORTER_OTLP_ENDPOINT=" + took.serveGRPC(t), "OTEL_EXPORTER_OTLP_PROTOCOL=grpc", "OTEL_EXPORTER_OTLP_COMPRESSION=gzip"}, "worker")
	token, err := auth.Mint(auth.MintConfig{Secret: []byte(secret), Issuer: "sluice", Audience: "sluice", Subject: "s", Tenant: "acme", Scopes: []string{auth.ScopeJobsWrite, auth.ScopeJobsRead}, TTL: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	post := func(path, form, body, parent string) string {
		r, _ := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://"+address+path, strings.NewReader(body))
		r.Header.Set("Authorization", "Bearer "+token)
		r.Header.Set("Content-Type", form)
		r.Header.Set("Idempotency-Key", canary+path)
		if parent != "" {
			r.Header.Set("Traceparent", parent)
		}
		answer, err := http.DefaultClient.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		defer answer.Body.Close()
		var made struct{ ID string }
		said, _ := io.ReadAll(answer.Body)
		if err := json.Unmarshal(said, &made); err != nil || answer.StatusCode != http.StatusAccepted {
			t.Fatalf("%s: %s\n%s", path, answer.Status, said)
		}
		return made.ID
	}
	job := post("/v1/jobs", "application/json", `{"model":"claude-sonnet-4-5","messages":[{"role":"user","content":"`+canary+`"}],"system":"`+canary+`","metadata":{"a":"`+canary+`"},"webhook_url":"`+hook.URL+"/"+canary+`"}`,
		"00-"+caller+"-"+above+"-01")
	if got, want := <-told, "00-"+caller+"-"; !strings.HasPrefix(got, want) {
		t.Errorf("the provider of the job was told %q; want %s…", got, want)
	} else {
		defer func(span string) {
			if call := took.of(caller)["call"]; len(call) != 1 || span != hex.EncodeToString(call[0].SpanId)+"-01" {
				t.Errorf("the provider was told of the span %s", span)
			}
		}(got[len(want):])
	}
	line := `{"model":"claude-sonnet-4-5","prompt":"` + canary + `","custom_id":"` + canary + `%d"}` + "\n"
	batch := post("/v1/batches", "application/x-ndjson", fmt.Sprintf(line+line, 1, 2), "")

	names := []string{"submit", "wait", "attempt", "gate", "call", "delivery"}
	redistest.Until(t, "the spans of the job", func() bool { return len(took.of(caller)) == len(names) })
	one := took.of(caller)
	id := func(name string) string { return hex.EncodeToString(one[name][0].SpanId) }
	parents := map[string]string{"submit": above, "wait": id("submit"), "attempt": id("submit"), "delivery": id("submit"), "gate": id("attempt"), "call": id("attempt")}
	for _, name := range names {
		if len(one[name]) != 1 {
			t.Errorf("%d spans %s; want one", len(one[name]), name)
			continue
		}
		s := one[name][0]
		if got := hex.EncodeToString(s.ParentSpanId); got != parents[name] {
			t.Errorf("the span %s is under %s; want %s", name, got, parents[name])
		}
		if s.EndTimeUnixNano < s.StartTimeUnixNano || time.Since(time.Unix(0, int64(s.StartTimeUnixNano))).Abs() > time.Hour {
			t.Errorf("the span %s is from %d to %d", name, s.StartTimeUnixNano, s.EndTimeUnixNano)
		}
		if owner := name != "submit" && name != "gate" && name != "call"; owner && !strings.Contains(s.String(), job) {
			t.Errorf("the span %s does not name its job:\n%s", name, s)
		}
	}

	var (
		whole  *spans.Span
		traces map[string]bool // of the batch's jobs
	)
	redistest.Until(t, "the spans of the batch", func() bool {
		calls := 0
		whole, traces = nil, map[string]bool{}
		for _, s := range func() []*spans.Span { took.mu.Lock(); defer took.mu.Unlock(); return slices.Clone(took.spans) }() {
			switch ours := strings.Contains(s.String(), batch); {
			case ours && s.Name == "submit":
				whole = s
			case ours:
				traces[hex.EncodeToString(s.TraceId)] = true
			}
		}
		for trace := range traces {
			calls += len(took.of(trace)["call"])
		}
		return whole != nil && calls == 2
	})
	if len(whole.ParentSpanId) != 0 || len(traces) != 2 || traces[hex.EncodeToString(whole.TraceId)] || traces[caller] {
		t.Errorf("a batch of two is submitted in %x, its jobs have the traces %v; want two others", whole.TraceId, traces)
	}
	for trace := range traces {
		for _, name := range []string{"wait", "attempt"} {
			s := took.of(trace)[name][0]
			if len(s.ParentSpanId) != 0 || len(s.Links) != 1 || !bytes.Equal(s.Links[0].TraceId, whole.TraceId) || !bytes.Equal(s.Links[0].SpanId, whole.SpanId) {
				t.Errorf("the span %s of a job of the batch is not the first of its trace and linked to the batch's submit:\n%s", name, s)
			}
		}
	}

	for who, c := range map[string]*child{"api": api, "worker": worker} {
		if code, err := c.end(os.Interrupt); err != nil || code != 0 {
			t.Errorf("%s ended with %d: %v", who, code, err)
		}
		said, _ := c.said()
		if !strings.Contains(said, `"trace_id":"`+caller+`"`) || who == "api" && !strings.Contains(said, fmt.Sprintf(`"trace_id":"%x"`, whole.TraceId)) {
			t.Errorf("no line of %s has the traces:\n%s", who, said)
		}
		if strings.Contains(said, canary) {
			t.Errorf("%s logs content:\n%s", who, said)
		}
	}
	took.mu.Lock()
	defer took.mu.Unlock()
	if bytes.Contains(took.raw, []byte(canary)) {
		t.Error("a span holds what was asked, answered or is secret")
	}
	for _, protocol := range []string{"http", "grpc"} {
		if !took.from[protocol+" github.com/sluicehq/sluice sluice test both"] || len(took.from) != 2 {
			t.Errorf("spans came as %v", took.from)
		}
	}
}

// Nobody is sent a span who was not named, and a variable that cannot be meant is told.
func TestTracesAreAskedForByTheStandardVariables(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		environ, protocol string
		on                bool
		err               string
	}{
		{"", "", false, ""},
		{"OTEL_EXPORTER_OTLP_ENDPOINT=http://h:4318", "http/protobuf", true, ""},
		{"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT=http://h:4318/v1/traces", "http/protobuf", true, ""},
		{"OTEL_TRACES_EXPORTER=otlp", "http/protobuf", true, ""},
		{"OTEL_TRACES_EXPORTER=otlp OTEL_EXPORTER_OTLP_PROTOCOL=grpc", "grpc", true, ""},
		{"OTEL_TRACES_EXPORTER=otlp OTEL_EXPORTER_OTLP_PROTOCOL=grpc OTEL_EXPORTER_OTLP_TRACES_PROTOCOL=http/protobuf", "http/protobuf", true, ""},
		{"OTEL_TRACES_EXPORTER=none OTEL_EXPORTER_OTLP_ENDPOINT=http://h:4318", "", false, ""},
		{"OTEL_SDK_DISABLED=true OTEL_TRACES_EXPORTER=otlp", "", false, ""},
		{"OTEL_TRACES_EXPORTER=zipkin", "", false, "neither otlp nor none"},
		{"OTEL_TRACES_EXPORTER=otlp OTEL_EXPORTER_OTLP_PROTOCOL=http/json", "", false, "neither http/protobuf nor grpc"},
		{"OTEL_EXPORTER_OTLP_PROTOCOL=grpc", "", false, ""},
	} {
		protocol, on, err := traces(variables(row.environ))
		if protocol != row.protocol || on != row.on || (err == nil) != (row.err == "") || err != nil && !strings.Contains(err.Error(), row.err) {
			t.Errorf("%q is %q, %t, %v", row.environ, protocol, on, err)
		}
	}
}

// A variable that cannot be meant stops the program and is named; what is not set is left to
// the default.
func TestTheQueueOfSpansIsSetByTheStandardVariables(t *testing.T) {
	t.Parallel()
	for _, row := range []struct{ environ, want, err string }{
		{"", "0 0 0s 0s", ""},
		{"OTEL_BSP_MAX_QUEUE_SIZE=10 OTEL_BSP_MAX_EXPORT_BATCH_SIZE=5 OTEL_BSP_SCHEDULE_DELAY=20 OTEL_BSP_EXPORT_TIMEOUT=3000", "10 5 20ms 3s", ""},
		{"OTEL_BSP_SCHEDULE_DELAY=5s", "", "OTEL_BSP_SCHEDULE_DELAY"},
		{"OTEL_BSP_MAX_QUEUE_SIZE=0", "", "OTEL_BSP_MAX_QUEUE_SIZE"},
		{"OTEL_BSP_EXPORT_TIMEOUT=99999999999", "", "OTEL_BSP_EXPORT_TIMEOUT"},
		{"OTEL_TRACES_SAMPLER=xray", "", "OTEL_TRACES_SAMPLER"},
		{"OTEL_TRACES_SAMPLER=traceidratio OTEL_TRACES_SAMPLER_ARG=2", "", "OTEL_TRACES_SAMPLER_ARG"},
	} {
		c, err := traceConfig(variables(row.environ))
		if got := fmt.Sprint(c.Queue, c.Batch, c.Delay, c.Timeout); (err == nil) != (row.err == "") || err == nil && got != row.want || err != nil && !strings.Contains(err.Error(), row.err+":") {
			t.Errorf("%q is %s, %v", row.environ, got, err)
		}
	}
}

// variables are those of an environment that is written in one line.
func variables(environ string) func(string) string {
	return func(name string) string {
		for _, kv := range strings.Fields(environ) {
			if value, ok := strings.CutPrefix(kv, name+"="); ok {
				return value
			}
		}
		return ""
	}
}
