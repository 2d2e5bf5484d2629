package bench

import (
	"bytes"
	"context"
	"encoding/base64"
	"fmt"

	"github.com/sluicehq/sluice/cmd/prove/rig"
	"github.com/sluicehq/sluice/worker/upstream/fake"
)

// Seal measures what sealing costs: submits, and calls that are drained, with a key listed and without.
type Seal struct {
	Options
	Rounds int `default:"9" help:"Rounds, after a first one for warmth."`
}

// Run compares a stack that seals with one that does not, in turns.
func (b *Seal) Run(ctx context.Context, lab *rig.Lab) error {
	s := setup{name: "plain", settings: "\nseal: off", aof: b.fsync("everysec"), limits: wide(), workers: 1, fake: fake.Config{MeanOutputTokens: 8, MaxPrompts: 1000}}
	t := s
	t.name, t.settings = "sealed", fmt.Sprintf("\nseal: {keys: {one: %q}}", base64.StdEncoding.EncodeToString(bytes.Repeat([]byte("k"), 32)))
	return b.measure(ctx, func(ctx context.Context) error {
		return b.with(ctx, lab, s, func(plain *stack) error {
			return b.with(ctx, lab, t, func(sealed *stack) error {
				return b.compare(ctx, &side{stack: plain, jobs: smallBacklog, bytes: backlogBytes}, &side{stack: sealed, jobs: smallBacklog, bytes: backlogBytes})
			})
		})
	})
}

func (b *Seal) compare(ctx context.Context, plain, sealed *side) error {
	both := []*side{plain, sealed}
	for _, s := range both {
		if err := s.pause(ctx); err != nil {
			return err
		}
	}
	for i := range b.Rounds + 1 {
		for at := range both { // each of them first in every second round
			if err := both[(at+i)%2].round(ctx, i > 0); err != nil {
				return err
			}
		}
	}
	ratio := func(a, b []float64) float64 { return 100 * median(a) / median(b) }
	return report(fmt.Sprintf("seal: sealed against plain, prompts of %d bytes, one API, one worker, medians of %d rounds in turns", backlogBytes, b.Rounds), []figure{
		atLeast("submit rate kept", "%.1f %%", ratio(sealed.submits, plain.submits), 95,
			fmt.Sprintf("%.0f against %.0f a second; %d by %d connections, the pool paused", median(sealed.submits), median(plain.submits), submitRound, submitConns)),
		atLeast("drain rate kept", "%.1f %%", ratio(sealed.drain, plain.drain), 95,
			fmt.Sprintf("%.0f against %.0f calls a second; the provider, in this process, takes its part", median(sealed.drain), median(plain.drain))),
		atMost("processor time, a submit", "%.1f %%", ratio(sealed.taking, plain.taking), 105,
			fmt.Sprintf("%.3f against %.3f ms of Redis, API and worker", median(sealed.taking), median(plain.taking))),
		atMost("processor time, a call", "%.1f %%", ratio(sealed.doing, plain.doing), 105,
			fmt.Sprintf("%.3f against %.3f ms of Redis, API and worker, from backlog to end", median(sealed.doing), median(plain.doing))),
		atLeast("a batch's lines kept", "%.1f %%", ratio(sealed.lines, plain.lines), 95,
			fmt.Sprintf("%.0f against %.0f a second; %d lines", median(sealed.lines), median(plain.lines), smallBacklog)),
	})
}
