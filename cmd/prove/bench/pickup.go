package bench

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"time"

	"github.com/sluicehq/sluice/cmd/prove/rig"
	"github.com/sluicehq/sluice/worker/upstream/fake"
)

const (
	warmUps  = 20
	idleSpan = 20 * time.Second
)

// Pickup measures how soon an idle system sends what it is given, and what
// being idle costs.
type Pickup struct {
	Options
	Rounds int `default:"300" help:"Submits, after a few for warmth."`
}

// Run submits one at a time, then watches the processes idle.
func (p *Pickup) Run(ctx context.Context, lab *rig.Lab) error {
	s := setup{name: "pickup", aof: p.fsync("everysec"), limits: wide(), workers: 1, fake: fake.Config{MeanOutputTokens: 8}}
	return p.measure(ctx, func(ctx context.Context) error {
		return p.with(ctx, lab, s, func(st *stack) error {
			picked, accepted, err := p.submit(ctx, st)
			if err != nil {
				return err
			}
			if err := rig.Wait(ctx, 2*time.Second); err != nil {
				return err
			}
			return st.watch(ctx, milliseconds(picked), milliseconds(accepted))
		})
	})
}

// submit submits one job at a time: how long each took to the provider, and to
// the API's answer.
func (p *Pickup) submit(ctx context.Context, st *stack) (picked, accepted []time.Duration, err error) {
	c, err := rig.Dial(ctx, st.api)
	if err != nil {
		return nil, nil, err
	}
	defer c.Close()
	wait := func() {}
	for i := range warmUps + p.Rounds {
		// Apart, and never in step with anything periodic.
		if err := rig.Wait(ctx, 40*time.Millisecond+rand.N(60*time.Millisecond)); err != nil {
			return nil, nil, err
		}
		if i == warmUps {
			wait = st.profile(ctx, "pickup", 10*time.Second)
		}
		request := st.single(job(uint64(i), 1024, 16))
		start := time.Now()
		if err := c.Expect(ctx, http.StatusAccepted, request); err != nil {
			return nil, nil, fmt.Errorf("submit: %w", err)
		}
		answered := time.Now()
		select {
		case at := <-st.Provider.Arrived:
			if i >= warmUps {
				picked = append(picked, at.Sub(start))
				accepted = append(accepted, answered.Sub(start))
			}
		case <-time.After(10 * time.Second):
			return nil, nil, errors.New("a job was not picked up within 10 s")
		case <-ctx.Done():
			return nil, nil, ctx.Err()
		}
	}
	wait()
	return picked, accepted, nil
}

// watch leaves the processes idle and reports what that costs, beside how long
// the submits took in ms.
func (st *stack) watch(ctx context.Context, ms, answers []float64) error {
	before, err := st.snapshot(ctx)
	if err != nil {
		return err
	}
	_, spent, err := st.cpu()
	if err != nil {
		return err
	}
	start := time.Now()
	if err := rig.Wait(ctx, idleSpan); err != nil {
		return err
	}
	span := time.Since(start).Seconds()
	_, now, err := st.cpu()
	if err != nil {
		return err
	}
	after, err := st.snapshot(ctx)
	if err != nil {
		return err
	}
	core := make([]float64, len(now))
	for i := range now {
		core[i] = 100 * (now[i] - spent[i]).Seconds() / span
	}
	did := after.since(before)
	return report(fmt.Sprintf("pickup: %d submits one at a time to an idle API and worker in separate processes, appendfsync %s", len(ms), st.aof), []figure{
		atMost("submit to provider, p50", "%.2f ms", percentile(ms, 0.5), 3, "from before the request is written to its headers at the provider"),
		atMost("submit to provider, p99", "%.2f ms", percentile(ms, 0.99), 12, fmt.Sprintf("p90 %.2f, most %.2f ms", percentile(ms, 0.9), percentile(ms, 1))),
		plain("submit to 202, p50", "%.2f ms", percentile(answers, 0.5), fmt.Sprintf("p99 %.2f ms", percentile(answers, 0.99))),
		atMost("idle worker, of a core", "%.2f %%", core[2], 1, fmt.Sprintf("over %.0f s; %.1f Redis round trips a second", span, (did.counters[redisCalls]-did.api)/span)),
		plain("  idle API, of a core", "%.2f %%", core[1], fmt.Sprintf("%.1f Redis round trips a second", did.api/span)),
		plain("  idle Redis, of a core", "%.2f %%", core[0], ""),
	})
}
