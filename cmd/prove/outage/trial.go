package outage

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/sluicehq/sluice/cmd/prove/rig"
	"github.com/sluicehq/sluice/worker/upstream/fake"
)

const (
	burst     = 10.0
	warmUp    = 10 * time.Second
	maxTokens = 32
)

// trial is one scenario under way.
type trial struct {
	rate   float64
	minute time.Duration
	worker func(i int) (bin string, env []string) // nil: the program, and nothing more

	stage   *rig.Stage
	client  *rig.Client
	batches []string
}

// play prepares a scenario, runs it once the processes are warm, and tells how
// the jobs did.
func (t *trial) play(ctx context.Context, lab *rig.Lab, sc scenario) error {
	if sc.prepare != nil {
		if err := sc.prepare(t, ctx, lab); err != nil {
			return err
		}
	}
	if err := t.open(ctx, lab, sc.name, warmUp+sc.minutes*t.minute+sc.spare); err != nil {
		return err
	}
	if err := rig.Wait(ctx, warmUp); err != nil {
		return err
	}
	if err := sc.run(t, ctx); err != nil {
		return err
	}
	return t.finish(ctx)
}

// open starts the processes and submits the jobs that the pool does within load
// at full pace.
func (t *trial) open(ctx context.Context, lab *rig.Lab, name string, load time.Duration) (err error) {
	t.stage, err = lab.Stage(ctx, rig.Config{
		Name: name, APIs: 1, Workers: 4, OneKey: true, Worker: t.worker,
		Pool: fmt.Sprintf("timeout: 30s, limits: {requests_per_minute: %.0f, request_burst: %.0f, concurrency: 64}", t.rate*60, burst),
		Fake: fake.Config{
			RequestsPerMinute: t.rate * 60, RequestBurst: burst, MeanLatency: 200 * time.Millisecond, LatencySigma: 0.5, MeanOutputTokens: 16,
		},
	})
	if err != nil {
		return err
	}
	t.client = t.stage.Client()
	jobs := int(t.allowed(load))
	for n := 0; n < jobs; n += 500 {
		prompts := make([]string, min(500, jobs-n))
		for i := range prompts {
			prompts[i] = fmt.Sprintf("job %d", n+i)
		}
		id, err := t.client.SubmitBatch(ctx, fmt.Sprintf("batch-%d", n), prompts, maxTokens)
		if err != nil {
			return err
		}
		t.batches = append(t.batches, id)
	}
	return nil
}

func (t *trial) close() error {
	if t.stage == nil {
		return nil
	}
	if t.client != nil {
		t.client.Close()
	}
	return t.stage.Close()
}

// finish waits until every batch has ended and prints how its jobs did.
func (t *trial) finish(ctx context.Context) error {
	deadline := time.Now().Add(t.minute)
	total, succeeded := 0, 0
	for _, id := range t.batches {
		g, err := t.client.Batch(ctx, id)
		for err == nil && g.Status != "ended" && time.Now().Before(deadline) {
			if err = rig.Wait(ctx, 200*time.Millisecond); err == nil {
				g, err = t.client.Batch(ctx, id)
			}
		}
		if err != nil {
			return err
		}
		total += g.Counts["total"]
		succeeded += g.Counts["succeeded"]
	}
	row("jobs succeeded of those accepted", fmt.Sprintf("%d of %d", succeeded, total), "all")
	return nil
}

// seen returns the calls so far that ours selects, by their arrival; nil
// selects all.
func (t *trial) seen(ours func(rig.Call) bool) []rig.Call {
	calls := t.stage.Provider.Calls(0)
	if ours != nil {
		calls = slices.DeleteFunc(calls, func(c rig.Call) bool { return !ours(c) })
	}
	slices.SortFunc(calls, func(a, b rig.Call) int { return a.At.Compare(b.At) })
	return calls
}

// isPing tells the breaker's probes.
func isPing(c rig.Call) bool { return c.Prompt == rig.PromptDigest("ping") }

// between counts, of the calls that arrived from a until b, those accepted,
// those answered 429 and all.
func between(calls []rig.Call, a, b time.Time) (accepted, limited, all int) {
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
func fullPace(calls []rig.Call, a time.Time, span time.Duration, rate, share float64) (time.Time, bool) {
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

// rowFullPace prints after what time the allowance is used at a share again, over 5 s.
func (t *trial) rowFullPace(what string, from time.Time, share float64, bar string) {
	got := "never"
	if full, ok := fullPace(t.seen(nil), from, 5*time.Second, t.rate, share); ok {
		got = fmt.Sprintf("%.1f s", full.Sub(from).Seconds())
	}
	row(what, got, bar)
}

// allowed is how many calls the provider allows in a stretch of time.
func (t *trial) allowed(d time.Duration) float64 { return t.rate * d.Seconds() }

func row(what, got, bar string) { fmt.Printf("  %-66s %16s   %s\n", what, got, bar) }

func percent(part, whole float64) string { return fmt.Sprintf("%.2f %%", 100*part/whole) }
