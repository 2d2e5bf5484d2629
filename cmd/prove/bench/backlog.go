package bench

import (
	"context"
	"fmt"
	"time"

	"github.com/sluicehq/sluice/cmd/prove/rig"
	"github.com/sluicehq/sluice/worker/upstream/fake"
)

const (
	bigBacklog   = 200_000
	smallBacklog = 1_000
	backlogBytes = 256   // a prompt
	submitRound  = 4_000 // jobs
	drainRound   = 3_000 // calls, of which the first and last tenth are not timed
)

// Backlog measures the rates with a large backlog against those with a small one.
type Backlog struct {
	Options
	Rounds int  `default:"7" help:"Rounds, after a first one for warmth."`
	Slow   bool `help:"Show where Redis's time went, by command."`
}

// Run compares a stack with a large backlog with one that has a small one. Both
// are there at once and take turns; the small one is filled anew for each round.
func (b *Backlog) Run(ctx context.Context, lab *rig.Lab) error {
	s := setup{name: "small", aof: b.fsync("everysec"), limits: wide(), workers: 1, slow: b.Slow, fake: fake.Config{MeanOutputTokens: 8, MaxPrompts: 1000}}
	t := s
	t.name = "big"
	return b.measure(ctx, func(ctx context.Context) error {
		return b.with(ctx, lab, s, func(small *stack) error {
			return b.with(ctx, lab, t, func(big *stack) error {
				return b.compare(ctx, &side{stack: small, jobs: smallBacklog, bytes: backlogBytes}, &side{stack: big, jobs: bigBacklog, bytes: backlogBytes})
			})
		})
	})
}

// side is one of the two that are compared.
type side struct {
	*stack
	jobs           int
	bytes          int       // of a prompt
	submits, drain []float64 // a second, by round
	lines          []float64 // of a batch a second, where the backlog is filled for each round
	taking, doing  []float64 // ms of processor time of Redis, the API and the worker: a submit, a call that is drained
}

func (b *Backlog) compare(ctx context.Context, small, big *side) error {
	for _, s := range []*side{small, big} {
		if err := s.pause(ctx); err != nil {
			return err
		}
	}
	start := time.Now()
	if err := big.fill(ctx, bigBacklog, backlogBytes); err != nil {
		return err
	}
	filled := time.Since(start)
	for i := range b.Rounds + 1 {
		for _, s := range []*side{small, big} {
			if err := s.round(ctx, i > 0); err != nil {
				return fmt.Errorf("backlog of %d: %w", s.jobs, err)
			}
		}
	}
	ratio := func(a, b []float64) float64 { return 100 * median(a) / median(b) }
	return report(fmt.Sprintf("backlog: %d jobs against %d, prompts of %d bytes, one API, one worker, medians of %d rounds in turns", bigBacklog, smallBacklog, backlogBytes, b.Rounds), []figure{
		atLeast("submit rate kept", "%.1f %%", ratio(big.submits, small.submits), 85,
			fmt.Sprintf("%.0f against %.0f a second; %d by %d connections, the pool paused", median(big.submits), median(small.submits), submitRound, submitConns)),
		atLeast("drain rate kept", "%.1f %%", ratio(big.drain, small.drain), 85,
			fmt.Sprintf("%.0f against %.0f calls a second; the provider, in this process, takes its part", median(big.drain), median(small.drain))),
		plain("time to fill", "%.1f s", filled.Seconds(), fmt.Sprintf("%d jobs in batches", bigBacklog)),
	})
}

// round submits and drains once. The pool is paused before and after.
func (s *side) round(ctx context.Context, counts bool) error {
	title := fmt.Sprintf("%s-%d", s.name, s.jobs)
	target := drainRound
	if s.jobs == smallBacklog {
		from := time.Now()
		if err := s.fill(ctx, smallBacklog, s.bytes); err != nil {
			return err
		}
		if counts {
			s.lines = append(s.lines, smallBacklog/time.Since(from).Seconds())
		}
		target = smallBacklog + submitRound // all there is
	}
	begun, err := s.busy()
	if err != nil {
		return err
	}
	wait := s.profile(ctx, title+"-submit", time.Second)
	took, err := submit(ctx, s.api, submitConns, s.singles(submitRound, s.bytes, 16, 0))
	wait()
	if err != nil {
		return err
	}
	taken, err := s.busy()
	if err != nil {
		return err
	}
	from := s.Provider.Tally().Calls
	wait = s.profile(ctx, title+"-drain", 2*time.Second)
	if err := s.drainTo(ctx, from+target); err != nil {
		return err
	}
	wait()
	done, err := s.busy()
	if err != nil || !counts {
		return err
	}
	s.taking = append(s.taking, (taken-begun)/submitRound)
	s.doing = append(s.doing, (done-taken)/float64(target))
	calls := accepted(s.Provider.Calls(from), oneRequest)[:drainRound]
	tenth := drainRound / 10
	span := calls[drainRound-tenth].at.Sub(calls[tenth].at)
	s.submits = append(s.submits, submitRound/took.Seconds())
	s.drain = append(s.drain, float64(drainRound-2*tenth)/span.Seconds())
	return nil
}

// busy is the processor time of the stack so far, in ms.
func (s *side) busy() (ms float64, err error) {
	_, spent, err := s.cpu()
	for _, d := range spent {
		ms += d.Seconds() * 1000
	}
	return ms, err
}

// drainTo lets the pool go on until n calls have ended, holds it again, and
// waits until nothing comes any more.
func (s *side) drainTo(ctx context.Context, n int) error {
	if err := s.watchRedis(ctx); err != nil {
		return err
	}
	count := func() int { return s.Provider.Tally().Calls }
	from := count()
	if err := s.resume(ctx); err != nil {
		return err
	}
	patience := 3*time.Minute + time.Duration(n-from)*20*time.Millisecond // on a machine that is busy with something else
	if err := rig.Until(ctx, patience, "the calls have ended", func(context.Context) (bool, error) { return count() >= n, nil }); err != nil {
		return fmt.Errorf("%d of %d calls came: %w", count()-from, n-from, err)
	}
	if err := s.pause(ctx); err != nil {
		return err
	}
	if err := s.redisTime(ctx, count()-from); err != nil {
		return err
	}
	for was := -1; was != count(); {
		was = count()
		if err := rig.Wait(ctx, 300*time.Millisecond); err != nil {
			return err
		}
	}
	return nil
}
