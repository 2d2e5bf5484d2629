package bench

import (
	"context"
	"fmt"
	"os"

	"github.com/sluicehq/sluice/cmd/prove/rig"
	"github.com/sluicehq/sluice/worker/upstream/fake"
)

const (
	largeBytes  = 20 << 10 // a prompt, above bodies.above
	memoryRound = 20_000   // jobs: what Redis has of its clients counts little beside them
	memoryBatch = 5_000    // of them: 100 MiB
)

// Bodies measures jobs whose prompts lie in a folder against small ones in Redis.
type Bodies struct {
	Options
	Rounds int `default:"5" help:"Rounds, after a first one for warmth."`
}

// Run compares a stack of large prompts with one of small ones, in turns. Redis and the
// folder sync each write.
func (b *Bodies) Run(ctx context.Context, lab *rig.Lab) error {
	dir, err := os.MkdirTemp(lab.Dir, "bodies")
	if err != nil {
		return fmt.Errorf("make the folder of bodies: %w", err)
	}
	defer os.RemoveAll(dir)
	s := setup{name: "small", aof: b.fsync("always"), limits: wide(), workers: 1, fake: fake.Config{MeanOutputTokens: 8, MaxPrompts: 1000}}
	t := s
	t.name, t.settings = "large", fmt.Sprintf("\nbodies: {url: 'file://%s'}", dir)
	return b.measure(ctx, func(ctx context.Context) error {
		return b.with(ctx, lab, s, func(small *stack) error {
			return b.with(ctx, lab, t, func(large *stack) error {
				return b.compare(ctx, &side{stack: small, jobs: smallBacklog, bytes: backlogBytes}, &side{stack: large, jobs: smallBacklog, bytes: largeBytes})
			})
		})
	})
}

func (b *Bodies) compare(ctx context.Context, small, large *side) error {
	for _, s := range []*side{small, large} {
		if err := s.pause(ctx); err != nil {
			return err
		}
	}
	for i := range b.Rounds + 1 {
		for _, s := range []*side{small, large} {
			if err := s.round(ctx, i > 0); err != nil {
				return fmt.Errorf("prompts of %d bytes: %w", s.bytes, err)
			}
		}
	}
	waiting, err := large.growth(ctx, memoryRound, func() error {
		for left := memoryRound; left > 0; left -= memoryBatch {
			if err := large.fill(ctx, memoryBatch, largeBytes); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	done, err := large.growth(ctx, memoryRound, func() error { return large.drainTo(ctx, large.Provider.Tally().Calls+memoryRound) })
	if err != nil {
		return err
	}
	ratio := func(a, b []float64) float64 { return 100 * median(a) / median(b) }
	return report(fmt.Sprintf("bodies: prompts of %d bytes in a folder against %d in Redis, every write synced, one API, one worker, medians of %d rounds in turns", largeBytes, backlogBytes, b.Rounds), []figure{
		atLeast("submit rate kept", "%.1f %%", ratio(large.submits, small.submits), 80,
			fmt.Sprintf("%.0f against %.0f a second; %d by %d connections, the pool paused", median(large.submits), median(small.submits), submitRound, submitConns)),
		atLeast("a batch's lines kept", "%.1f %%", ratio(large.lines, small.lines), 80,
			fmt.Sprintf("%.0f against %.0f a second; %d lines", median(large.lines), median(small.lines), smallBacklog)),
		atLeast("drain rate kept", "%.1f %%", ratio(large.drain, small.drain), 80,
			fmt.Sprintf("%.0f against %.0f calls a second; the provider, in this process, takes its part", median(large.drain), median(small.drain))),
		atMost("processor time, a submit", "%.2f times", median(large.taking)/median(small.taking), 1.25,
			fmt.Sprintf("%.2f against %.2f ms of Redis, API and worker", median(large.taking), median(small.taking))),
		atMost("processor time, a call", "%.2f times", median(large.doing)/median(small.doing), 1.25,
			fmt.Sprintf("%.2f against %.2f ms of Redis, API and worker, from backlog to end", median(large.doing), median(small.doing))),
		atMost("Redis, a waiting job", "%.2f KiB", waiting, 1, "a line of a batch"),
		atMost("Redis, a job that is done", "%.2f KiB", waiting+done, 1, "a short answer included"),
	})
}
