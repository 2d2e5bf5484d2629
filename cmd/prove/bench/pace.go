package bench

import (
	"context"
	"fmt"
	"maps"
	"net/http"
	"os"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/sluicehq/sluice/cmd/prove/rig"
	"github.com/sluicehq/sluice/worker/upstream/fake"
)

// Pace measures how much of an allowance is used.
type Pace struct {
	Options
	Only    []string      `enum:"requests,output,input" help:"Loads, separated by commas, of ${enum}; all without it."`
	Rounds  int           `default:"1" help:"How often each load is drained."`
	Workers int           `default:"4" help:"Worker processes."`
	Idle    time.Duration `default:"10s" help:"How long the background is watched before the load."`
	Slow    bool          `help:"Show where Redis's time went, by command."`
	Verbose bool          `short:"v" help:"Show what was accepted and refused every 2 s."`
}

// Run drains each load with several workers at the strict fake provider.
func (p *Pace) Run(ctx context.Context, lab *rig.Lab) error {
	return p.measure(ctx, func(ctx context.Context) error {
		for _, l := range drainLoads() {
			if len(p.Only) > 0 && !slices.Contains(p.Only, l.name) {
				continue
			}
			asked := fake.Config{
				RequestsPerMinute: l.limits.requests, RequestBurst: float64(l.limits.burst),
				InputTokensPerMinute: l.limits.input, OutputTokensPerMinute: l.limits.output,
				MeanLatency: 200 * time.Millisecond, MeanOutputTokens: l.output, OutputSigma: l.sigma,
			}
			for i := range p.Rounds {
				s := setup{name: fmt.Sprintf("%s-%d", l.name, i), aof: p.fsync("everysec"), limits: l.limits, workers: p.Workers, fake: asked, slow: p.Slow}
				if err := p.with(ctx, lab, s, func(st *stack) error { return p.drain(ctx, st, l) }); err != nil {
					return fmt.Errorf("load %s: %w", l.name, err)
				}
			}
		}
		return nil
	})
}

// drainLoad is a load that one bucket of the provider binds.
type drainLoad struct {
	name      string
	bound     string // what binds it
	limits    limits // of the provider, and of the pool alike
	jobs      int
	prompt    int     // bytes
	spread    float64 // of the prompt's size
	maxTokens int
	output    float64 // mean length of an answer, in tokens
	sigma     float64 // its spread
	amount    func(rig.Call) float64
	burst     float64 // capacity of the binding bucket
	rate      float64 // its refill a second
	bar       float64
}

// drainLoads are one load for each bucket. A bucket of tokens holds a minute's
// worth, as at the provider, and is full at the start: those loads are as long
// as it takes to use that up and a minute more, and requests do not bind them.
func drainLoads() []drainLoad {
	const tokens = 240_000.0 // a minute
	return []drainLoad{
		{
			name: "requests", bound: "100 requests/s, burst 10", limits: limits{requests: 6000, burst: 10, concurrency: 64},
			jobs: 3000, prompt: 1024, maxTokens: 256, output: 64, amount: oneRequest, burst: 10, rate: 100, bar: 0.995,
		},
		{
			name: "output", bound: "4,000 output tokens/s, a minute's worth at once", limits: limits{requests: 60_000, output: tokens, burst: 1000, concurrency: 64},
			jobs: 2400, prompt: 512, maxTokens: 1024, output: 200, sigma: 0.5, amount: outputTokens, burst: tokens, rate: tokens / 60, bar: 0.99,
		},
		{
			name: "input", bound: "4,000 input tokens/s, a minute's worth at once", limits: limits{requests: 60_000, input: tokens, burst: 1000, concurrency: 64},
			jobs: 2400, prompt: 800, spread: 0.5, maxTokens: 64, output: 16, amount: inputTokens, burst: tokens, rate: tokens / 60, bar: 0.99,
		},
	}
}

func (p *Pace) drain(ctx context.Context, st *stack, l drainLoad) error {
	// What runs without any work: sweeps, heartbeats, looks at the queue.
	quiet, err := st.snapshot(ctx)
	if err != nil {
		return err
	}
	if err := rig.Wait(ctx, p.Idle); err != nil {
		return err
	}
	before, err := st.snapshot(ctx)
	if err != nil {
		return err
	}
	if err := st.watchRedis(ctx); err != nil {
		return err
	}
	requests := st.singles(l.jobs, l.prompt, l.maxTokens, l.spread)
	start := time.Now()
	wait := st.profile(ctx, "pace-"+l.name, 20*time.Second)
	submitted, err := submit(ctx, st.api, 8, requests)
	if err != nil {
		return err
	}
	after, err := st.awaitEnds(ctx, before, l.jobs)
	if err != nil {
		return err
	}
	wait()
	if err := st.redisTime(ctx, l.jobs); err != nil {
		return err
	}
	if p.Verbose {
		if err := timeline(st.Provider.Calls(0), 2*time.Second, l.amount); err != nil {
			return err
		}
	}
	idle := before.since(quiet).counters[redisCalls] / before.at.Sub(quiet.at).Seconds()
	return p.report(st, l, after.since(before), idle, submitted, after.at.Sub(start))
}

// awaitEnds waits until the given number of jobs have ended since before.
func (st *stack) awaitEnds(ctx context.Context, before snapshot, jobs int) (after snapshot, err error) {
	// A refused call comes again, so more than the jobs may have to end.
	err = rig.Until(ctx, st.Timeout, "every job was called", func(context.Context) (bool, error) { return st.Provider.Tally().Completed >= jobs, nil })
	if err != nil {
		return after, fmt.Errorf("%w (%+v)", err, st.Provider.Tally())
	}
	// The last jobs are written down just after their calls.
	err = rig.Until(ctx, st.Timeout, "every job has ended", func(ctx context.Context) (bool, error) {
		after, err = st.snapshot(ctx)
		return err == nil && after.since(before).counters[ended] >= float64(jobs), err
	})
	return after, err
}

// report prints what was counted over the load.
func (p *Pace) report(st *stack, l drainLoad, did snapshot, idle float64, submitted, took time.Duration) error {
	all := st.Provider.Calls(0)
	calls := accepted(all, l.amount)
	used := allowance(calls, l.burst, l.rate)
	t := st.Provider.Tally()
	jobs := float64(l.jobs)
	names, spent, err := st.cpu()
	if err != nil {
		return err
	}
	cpu := ""
	for i := range names {
		cpu += fmt.Sprintf(" %s %.1f", names[i], spent[i].Seconds())
	}
	return report(fmt.Sprintf("pace: %d jobs one by one, %d workers, %s", l.jobs, p.Workers, l.bound), []figure{
		atLeast("allowance used", "%.2f %%", 100*used.strict, 100*l.bar, fmt.Sprintf("(used - burst) / (rate x span): (%.0f - %.0f) / (%.0f x %.2f s)", used.used, l.burst, l.rate, used.span.Seconds())),
		plain("  of all there was", "%.2f %%", 100*used.whole, "used / (burst + rate x span)"),
		plain("  rate of the second half", "%.2f %%", 100*secondHalf(calls, l.rate), "what was used in it / (rate x its length)"),
		atMost("429s in 10,000 calls", "%.1f", float64(t.Refused)/float64(t.Calls)*10_000, 1, strings.TrimSuffix(fmt.Sprintf("%d of %d calls; %d ended otherwise; %s", t.Refused, t.Calls, t.Other, refusals(all)), "; ")),
		atMost("gate calls a job", "%.3f", did.counters[acquires]/jobs, 1.1, "one question may book several"),
		atMost("Redis round trips a job", "%.2f", did.counters[redisCalls]/jobs, 10, fmt.Sprintf("all processes, Asynq and background included; the API %.2f", did.api/jobs)),
		plain("  of it background", "%.2f", idle*took.Seconds()/jobs, fmt.Sprintf("idle, all processes make %.1f a second", idle)),
		plain("  Redis commands a job", "%.1f", did.commands/jobs, "also those inside scripts"),
		plain("time to submit", "%.2f s", submitted.Seconds(), "8 connections"),
		plain("processor seconds", "%.1f", took.Seconds(), "of the clock;"+cpu+", since each was started"),
	})
}

// refusals says which limits were short and when, counted from the first call.
func refusals(calls []rig.Call) string {
	short := map[string]int{}
	var refused []rig.Call
	for _, c := range calls {
		if c.Status == http.StatusTooManyRequests {
			short[c.Refused]++
			refused = append(refused, c)
		}
	}
	if len(refused) == 0 {
		return ""
	}
	var b strings.Builder
	for _, name := range slices.Sorted(maps.Keys(short)) {
		fmt.Fprintf(&b, "%d for %s, ", short[name], name)
	}
	start := slices.MinFunc(calls, byArrival).At
	from, to := slices.MinFunc(refused, byArrival).At, slices.MaxFunc(refused, byArrival).At
	fmt.Fprintf(&b, "from %.1f to %.1f s", from.Sub(start).Seconds(), to.Sub(start).Seconds())
	return b.String()
}

func byArrival(a, b rig.Call) int { return a.At.Compare(b.At) }

// timeline prints what was accepted and refused in each stretch of time.
func timeline(calls []rig.Call, every time.Duration, amount func(rig.Call) float64) error {
	if len(calls) == 0 {
		return nil
	}
	first := slices.MinFunc(calls, byArrival).At
	type stretch struct {
		calls, refused int
		used           float64
	}
	var all []stretch
	for _, c := range calls {
		i := int(c.At.Sub(first) / every)
		for len(all) <= i {
			all = append(all, stretch{})
		}
		if c.Accepted {
			all[i].calls++
			all[i].used += amount(c)
		} else {
			all[i].refused++
		}
	}
	t := tabwriter.NewWriter(os.Stdout, 0, 8, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(t, "from\taccepted\tused\trefused\t")
	for i, s := range all {
		fmt.Fprintf(t, "%.0f s\t%d\t%.0f\t%d\t\n", (time.Duration(i) * every).Seconds(), s.calls, s.used, s.refused)
	}
	return t.Flush()
}
