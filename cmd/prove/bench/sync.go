package bench

import (
	"context"
	"fmt"
	"net/http"
	"time"

	"github.com/sluicehq/sluice/cmd/prove/rig"
	"github.com/sluicehq/sluice/worker/upstream/fake"
)

// Sync measures what waiting for the result within the submit, and a call in the
// provider's own form, add to asking the provider directly.
type Sync struct {
	Options
	Rounds int `default:"500" help:"Calls, after a few for warmth."`
}

// Run asks directly, submits and waits, calls in the provider's form, and writes to Redis,
// in turns.
func (s *Sync) Run(ctx context.Context, lab *rig.Lab) error {
	t := setup{name: "sync", aof: s.fsync("always"), limits: roomy(), workers: 1, fake: fake.Config{MeanOutputTokens: 8}}
	return s.measure(ctx, func(ctx context.Context) error {
		return s.with(ctx, lab, t, func(st *stack) error { return s.turns(ctx, st) })
	})
}

func (s *Sync) turns(ctx context.Context, st *stack) error {
	through, err := rig.Dial(ctx, st.api)
	if err != nil {
		return err
	}
	defer through.Close()
	direct, err := rig.Dial(ctx, st.Provider.Addr)
	if err != nil {
		return err
	}
	defer direct.Close()

	var slow, form, fast, writes []time.Duration
	wait := func() {}
	for i := range warmUps + s.Rounds {
		if i == warmUps {
			wait = st.profile(ctx, "sync", 5*time.Second)
			slow, form, fast, writes = nil, nil, nil, nil
		}
		prompt := prose(uint64(i), 1024)
		ask := rig.AskRequest(st.Provider.Addr, rig.Key(-1), model, prompt, 16)
		start := time.Now()
		if err := direct.Expect(ctx, http.StatusOK, ask); err != nil {
			return fmt.Errorf("ask the provider directly: %w", err)
		}
		fast = append(fast, time.Since(start))
		submit := st.single(job(uint64(i), 1024, 16), "Prefer: wait=30")
		start = time.Now()
		if err := through.Expect(ctx, http.StatusOK, submit); err != nil {
			return fmt.Errorf("submit and wait: %w", err)
		}
		slow = append(slow, time.Since(start))
		call := rig.CallRequest(st.api, "/anthropic/v1/messages", st.Token, model, prose(uint64(i)+1<<32, 1024), 16)
		start = time.Now()
		if err := through.Expect(ctx, http.StatusOK, call); err != nil {
			return fmt.Errorf("call in the provider's form: %w", err)
		}
		form = append(form, time.Since(start))
		start = time.Now()
		if err := st.RDB.Set(ctx, "bench", prompt, 0).Err(); err != nil {
			return fmt.Errorf("write to Redis: %w", err)
		}
		writes = append(writes, time.Since(start))
	}
	wait()
	with, called, without, set := milliseconds(slow), milliseconds(form), milliseconds(fast), milliseconds(writes)
	added := func(p float64) float64 { return percentile(with, p) - percentile(without, p) }
	return report(fmt.Sprintf("sync: %d calls with Prefer: wait in turns with direct ones, API and worker in separate processes, appendfsync %s", len(with), st.aof), []figure{
		atMost("added, p50", "%.2f ms", added(0.5), 5, fmt.Sprintf("%.2f against %.2f ms", percentile(with, 0.5), percentile(without, 0.5))),
		atMost("added, p99", "%.2f ms", added(0.99), 25, fmt.Sprintf("%.2f against %.2f ms", percentile(with, 0.99), percentile(without, 0.99))),
		atMost("added to a call in the provider's form, p50", "%.2f ms", percentile(called, 0.5)-percentile(without, 0.5), 5, fmt.Sprintf("p99 %.2f ms", percentile(called, 0.99)-percentile(without, 0.99))),
		plain("one SET in this Redis, p50", "%.2f ms", percentile(set, 0.5), fmt.Sprintf("p99 %.2f ms; what every durable step costs here, added p50 is %.1f of them", percentile(set, 0.99), added(0.5)/percentile(set, 0.5))),
	})
}
