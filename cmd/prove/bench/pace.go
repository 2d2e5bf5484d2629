package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/sluicehq/sluice/worker/upstream"
)

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
	amount    func(upstream.Call) float64
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

// pace drains each load with several workers at the strict fake provider.
func (b *bench) pace(ctx context.Context) error {
	found := false
	for _, l := range drainLoads() {
		if b.only != "" && b.only != l.name {
			continue
		}
		found = true
		for range b.times(1) {
			if err := b.drain(ctx, l); err != nil {
				return fmt.Errorf("load %s: %w", l.name, err)
			}
		}
	}
	if !found {
		return fmt.Errorf("there is no load %q", b.only)
	}
	return nil
}

func (b *bench) drain(ctx context.Context, l drainLoad) (err error) {
	p, err := startProvider(upstream.FakeConfig{
		RequestsPerMinute: l.limits.requests, RequestBurst: float64(l.limits.burst),
		InputTokensPerMinute: l.limits.input, OutputTokensPerMinute: l.limits.output,
		MeanLatency: 200 * time.Millisecond, MeanOutputTokens: l.output, OutputSigma: l.sigma,
	})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, p.close()) }()
	st, err := b.newStack(ctx, setup{aof: b.fsync("everysec"), provider: p.addr, limits: l.limits, workers: b.workers})
	defer st.close()
	if err != nil {
		return err
	}

	// What runs without any work: sweeps, heartbeats, looks at the queue.
	quiet, _, err := st.scrape(ctx)
	if err != nil {
		return err
	}
	quietStart := time.Now()
	if err := pause(ctx, b.idle); err != nil {
		return err
	}
	before, beforeAPI, err := st.scrape(ctx)
	if err != nil {
		return err
	}
	idleRate := (before[redisCalls] - quiet[redisCalls]) / time.Since(quietStart).Seconds()
	commandsBefore, err := st.commands(ctx)
	if err != nil {
		return err
	}

	if err := st.watchRedis(ctx); err != nil {
		return err
	}
	requests := st.singles(l.jobs, l.prompt, l.maxTokens, l.spread)
	start := time.Now()
	wait := st.profile(ctx, "pace-"+l.name, 20*time.Second)
	submitted, err := st.submit(ctx, 8, requests)
	if err != nil {
		return err
	}
	// A refused call comes again, so more than the jobs may have to end.
	err = until(ctx, func() (bool, error) { return p.tally().completed >= l.jobs, nil })
	if err != nil {
		return fmt.Errorf("wait for the calls: %w (%+v)", err, p.tally())
	}
	wait()
	// The last jobs are written down just after their calls.
	var after counters
	var afterAPI float64
	scrapes := 0
	err = until(ctx, func() (bool, error) {
		scrapes++
		after, afterAPI, err = st.scrape(ctx)
		return err == nil && after[ended]-before[ended] >= float64(l.jobs), err
	})
	if err != nil {
		return fmt.Errorf("wait for the jobs to be ended: %w", err)
	}
	took := time.Since(start)
	commands, err := st.commands(ctx)
	if err != nil {
		return err
	}

	if err := st.redisTime(ctx, l.jobs); err != nil {
		return err
	}
	calls := p.accepted(0, l.amount)
	used := allowance(calls, l.burst, l.rate)
	t := p.tally()
	jobs := float64(l.jobs)
	perTenThousand := float64(t.refused) / float64(t.calls) * 10_000
	background := idleRate * took.Seconds() / jobs
	gate := after[acquires] - before[acquires]
	trips := after[redisCalls] - before[redisCalls]
	if b.verbose {
		if err := p.timeline(os.Stdout, 2*time.Second, l.amount); err != nil {
			return err
		}
	}
	cpu := ""
	for _, c := range st.children {
		spent, err := c.cpu()
		if err != nil {
			return err
		}
		cpu += fmt.Sprintf(" %s %.1f", c.name, spent.Seconds())
	}
	return report(os.Stdout, fmt.Sprintf("pace: %d jobs one by one, %d workers, %s", l.jobs, b.workers, l.bound), []figure{
		atLeast("allowance used", "%.2f %%", 100*used.strict, 100*l.bar, fmt.Sprintf("(used - burst) / (rate x span): (%.0f - %.0f) / (%.0f x %.2f s)", used.used, l.burst, l.rate, used.span.Seconds())),
		plain("  of all there was", "%.2f %%", 100*used.whole, "used / (burst + rate x span)"),
		plain("  rate of the second half", "%.2f %%", 100*secondHalf(calls, l.rate), "what was used in it / (rate x its length)"),
		atMost("429s in 10,000 calls", "%.1f", perTenThousand, 1, strings.TrimSuffix(fmt.Sprintf("%d of %d calls; %d ended otherwise; %s", t.refused, t.calls, t.other, p.refusals()), "; ")),
		atMost("gate calls a job", "%.3f", gate/jobs, 1.1, "one question may book several"),
		atMost("Redis round trips a job", "%.2f", trips/jobs, 10, fmt.Sprintf("all processes, Asynq and background included; the API %.2f", (afterAPI-beforeAPI)/jobs)),
		plain("  of it background", "%.2f", background, fmt.Sprintf("idle, all processes make %.1f a second", idleRate)),
		plain("  Redis commands a job", "%.1f", (commands-commandsBefore)/jobs, "also those inside scripts"),
		plain("time to submit", "%.2f s", submitted.Seconds(), "8 connections"),
		plain("processor seconds", "%.1f", took.Seconds(), "of the clock;"+cpu+", since each was started"),
	})
}
