package bench

import (
	"context"
	"fmt"
	"time"

	"github.com/sluicehq/sluice/cmd/prove/rig"
	"github.com/sluicehq/sluice/worker/upstream/fake"
)

// Far measures how much of an allowance one worker uses that is far from Redis.
type Far struct {
	Options
	RoundTrip []time.Duration `default:"0s,20ms" help:"What each round trip to Redis takes longer, separated by commas; each is measured in turn."`
	Jobs      int             `default:"1500" help:"Jobs, which 100 calls a second are allowed."`
}

// Run drains the jobs with one worker for each distance.
func (f *Far) Run(ctx context.Context, lab *rig.Lab) error {
	return f.measure(ctx, func(ctx context.Context) error {
		var figures []figure
		for _, trip := range f.RoundTrip {
			s := setup{
				name: "far-" + trip.String(), aof: f.fsync("everysec"), limits: limits{requests: 6000, burst: 10, concurrency: 64}, workers: 1, far: trip,
				fake: fake.Config{RequestsPerMinute: 6000, RequestBurst: 10, MeanLatency: 200 * time.Millisecond, MeanOutputTokens: 64},
			}
			err := f.with(ctx, lab, s, func(st *stack) error {
				some, err := f.drain(ctx, st, trip)
				figures = append(figures, some...)
				return err
			})
			if err != nil {
				return fmt.Errorf("at %s: %w", trip, err)
			}
		}
		return report(fmt.Sprintf("far: %d jobs one by one, one worker, 100 requests/s, burst 10", f.Jobs), figures)
	})
}

func (f *Far) drain(ctx context.Context, st *stack, trip time.Duration) ([]figure, error) {
	before, err := st.snapshot(ctx)
	if err != nil {
		return nil, err
	}
	wait := st.profile(ctx, st.name, 10*time.Second)
	if _, err := submit(ctx, st.api, 32, st.singles(f.Jobs, 1024, 256, 0)); err != nil {
		return nil, err
	}
	after, err := st.awaitEnds(ctx, before, f.Jobs)
	if err != nil {
		return nil, err
	}
	wait()
	used := allowance(accepted(st.Provider.Calls(0), oneRequest), 10, 100)
	t, did := st.Provider.Tally(), after.since(before)
	return []figure{
		atLeast("calls a second, round trip + "+trip.String(), "%.1f", used.used/used.span.Seconds(), 90,
			fmt.Sprintf("%.0f calls in %.1f s; %d refused; %.2f Redis round trips a job", used.used, used.span.Seconds(), t.Refused, did.counters[redisCalls]/float64(f.Jobs))),
	}, nil
}
