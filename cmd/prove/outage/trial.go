package main

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/sluicehq/sluice/cmd/prove/rig"
	"github.com/sluicehq/sluice/worker/upstream"
)

const (
	burst     = 10.0
	warmUp    = 10 * time.Second
	maxTokens = 32
)

// bench is one scenario under way.
type bench struct {
	bin, dir string
	rate     float64
	minute   time.Duration

	worker  func(i int) (bin string, env []string) // nil: bin, and nothing more
	stage   *rig.Stage
	client  *rig.Client
	batches []rig.Batch

	mu    sync.Mutex
	calls []call
}

// call is one call that the provider has seen.
type call struct {
	upstream.Call
	end time.Time
}

// open starts the processes and submits what the pool needs for so long at
// full pace.
func (b *bench) open(ctx context.Context, load time.Duration) error {
	b.calls, b.batches = nil, nil
	var err error
	b.stage, err = rig.Open(ctx, rig.Config{
		Bin: b.bin, Dir: b.dir, APIs: 1, Workers: 4, OneKey: true, Worker: b.worker,
		Pool: fmt.Sprintf("timeout: 30s, limits: {requests_per_minute: %.0f, request_burst: %.0f, concurrency: 64}", b.rate*60, burst),
		Fake: upstream.FakeConfig{
			RequestsPerMinute: b.rate * 60, RequestBurst: burst, MeanLatency: 200 * time.Millisecond, LatencySigma: 0.5,
			MeanOutputTokens: 16, OnCall: func(c upstream.Call) {
				b.mu.Lock()
				defer b.mu.Unlock()
				b.calls = append(b.calls, call{c, time.Now()})
			},
		},
	})
	if err != nil {
		return err
	}
	b.client = b.stage.Client()
	jobs := int(b.rate * load.Seconds())
	for n := 0; n < jobs; n += 500 {
		prompts := make([]string, min(500, jobs-n))
		for i := range prompts {
			prompts[i] = fmt.Sprintf("job %d", n+i)
		}
		id, err := b.client.SubmitBatch(ctx, fmt.Sprintf("batch-%d", n), prompts, maxTokens)
		if err != nil {
			return err
		}
		b.batches = append(b.batches, rig.Batch{ID: id})
	}
	return nil
}

func (b *bench) close() error {
	if b.client != nil {
		b.client.Close()
		b.client = nil
	}
	if b.stage == nil {
		return nil
	}
	s := b.stage
	b.stage = nil
	return s.Close()
}

// wait lets time pass.
func wait(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}

// finish waits until every batch has ended and prints how its jobs did.
func (b *bench) finish(ctx context.Context, most time.Duration) error {
	deadline := time.Now().Add(most)
	total, succeeded := 0, 0
	for i := range b.batches {
		for {
			g, err := b.client.Batch(ctx, b.batches[i].ID)
			if err != nil {
				return err
			}
			b.batches[i] = g
			if g.Status == "ended" || time.Now().After(deadline) {
				break
			}
			if err := wait(ctx, 200*time.Millisecond); err != nil {
				return err
			}
		}
		total += b.batches[i].Counts["total"]
		succeeded += b.batches[i].Counts["succeeded"]
	}
	row("jobs succeeded of those accepted", fmt.Sprintf("%d of %d", succeeded, total), "all")
	return nil
}

// seen returns the calls so far that ours selects, by their arrival.
func (b *bench) seen(ours func(call) bool) []call {
	b.mu.Lock()
	defer b.mu.Unlock()
	var out []call
	for _, c := range b.calls {
		if ours == nil || ours(c) {
			out = append(out, c)
		}
	}
	slices.SortFunc(out, func(a, b call) int { return a.At.Compare(b.At) })
	return out
}

// pings tells the breaker's probes.
func pings() func(call) bool {
	ping := rig.PromptDigest("ping")
	return func(c call) bool { return c.Prompt == ping }
}

// between counts, of the calls that arrived from a until b, those accepted,
// those answered 429 and all.
func between(calls []call, a, b time.Time) (accepted, limited, all int) {
	for _, c := range calls {
		if c.At.Before(a) || !c.At.Before(b) {
			continue
		}
		all++
		if c.Accepted {
			accepted++
		}
		if c.Status == 429 {
			limited++
		}
	}
	return accepted, limited, all
}

// fullPace returns the first moment from a on at which a stretch of span begins
// that holds share of the allowance; false when there is none.
func fullPace(calls []call, a time.Time, span time.Duration, rate, share float64) (time.Time, bool) {
	need := int(rate * span.Seconds() * share)
	var at []time.Time
	for _, c := range calls {
		if c.Accepted && !c.At.Before(a) {
			at = append(at, c.At)
		}
	}
	for i := 0; i+need-1 < len(at); i++ {
		if at[i+need-1].Sub(at[i]) <= span {
			return at[i], true
		}
	}
	return time.Time{}, false
}

func row(what, got, bar string) { fmt.Printf("  %-66s %16s   %s\n", what, got, bar) }

func percent(part, whole float64) string { return fmt.Sprintf("%.2f %%", 100*part/whole) }
