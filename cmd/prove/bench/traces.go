package bench

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"sync/atomic"

	"google.golang.org/protobuf/proto"

	collector "go.opentelemetry.io/proto/otlp/collector/trace/v1"

	"github.com/sluicehq/sluice/cmd/prove/rig"
	"github.com/sluicehq/sluice/worker/upstream/fake"
)

// Traces measures what traces take of the processors.
type Traces struct {
	Options
	Rounds  int     `default:"7" help:"Rounds, after a first one for warmth."`
	Sampled float64 `default:"1" help:"The share of the jobs that are traced."`
}

// Run compares a stack whose jobs are traced with one without traces, in turns. The spans
// go to this process, which counts them.
func (c *Traces) Run(ctx context.Context, lab *rig.Lab) error {
	var spans atomic.Int64
	receiver := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var said collector.ExportTraceServiceRequest
		if body, err := io.ReadAll(r.Body); err == nil && proto.Unmarshal(body, &said) == nil {
			for _, of := range said.ResourceSpans {
				for _, scope := range of.ScopeSpans {
					spans.Add(int64(len(scope.Spans)))
				}
			}
		}
		w.Header().Set("Content-Type", "application/x-protobuf")
	}))
	defer receiver.Close()
	s := setup{name: "silent", aof: c.fsync("everysec"), limits: wide(), workers: 1, fake: fake.Config{MeanOutputTokens: 8, MaxPrompts: 1000}}
	t := s
	t.name, t.env = "traced", []string{"OTEL_EXPORTER_OTLP_ENDPOINT=" + receiver.URL, "OTEL_TRACES_SAMPLER=parentbased_traceidratio", fmt.Sprintf("OTEL_TRACES_SAMPLER_ARG=%g", c.Sampled)}
	return c.measure(ctx, func(ctx context.Context) error {
		return c.with(ctx, lab, s, func(silent *stack) error {
			return c.with(ctx, lab, t, func(traced *stack) error {
				without, with := &side{stack: silent, jobs: smallBacklog, bytes: backlogBytes}, &side{stack: traced, jobs: smallBacklog, bytes: backlogBytes}
				for _, s := range []*side{without, with} {
					if err := s.pause(ctx); err != nil {
						return err
					}
				}
				for i := range c.Rounds + 1 {
					for _, s := range []*side{without, with} {
						if err := s.round(ctx, i > 0); err != nil {
							return fmt.Errorf("%s: %w", s.name, err)
						}
					}
				}
				return c.tell(without, with, spans.Load())
			})
		})
	})
}

// tell compares round by round, so that what slows the machine slows both sides.
func (c *Traces) tell(without, with *side, spans int64) error {
	ratios := func(with, without []float64) (out []float64) {
		for i := range with {
			out = append(out, 100*with[i]/without[i]-100)
		}
		return out
	}
	jobs := (c.Rounds + 1) * (smallBacklog + submitRound)
	return report(fmt.Sprintf("traces: %g of the jobs traced against none, one API, one worker, medians of %d rounds in turns", c.Sampled, c.Rounds), []figure{
		atMost("processor time more, a submit", "%.1f %%", median(ratios(with.taking, without.taking)), 2,
			fmt.Sprintf("%.3f against %.3f ms of Redis, API and worker", median(with.taking), median(without.taking))),
		atMost("processor time more, a call", "%.1f %%", median(ratios(with.doing, without.doing)), 2,
			fmt.Sprintf("%.3f against %.3f ms, from backlog to end", median(with.doing), median(without.doing))),
		plain("spans a job", "%.2f", float64(spans)/float64(jobs), fmt.Sprintf("%d spans came; 5 are made of a traced job without a webhook", spans)),
	})
}
