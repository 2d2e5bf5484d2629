package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/sluicehq/sluice/worker/upstream"
)

// memory measures what a queued job takes of Redis.
func (b *bench) memory(ctx context.Context) (err error) {
	p, err := startProvider(upstream.FakeConfig{})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, p.close()) }()
	st, err := b.newStack(ctx, setup{aof: b.fsync("everysec"), provider: p.addr, limits: limits{requests: 6000, burst: 10, concurrency: 64}})
	defer st.close()
	if err != nil {
		return err
	}
	measure := func(n int, fill func() error) (float64, error) {
		before, err := st.memory(ctx)
		if err != nil {
			return 0, err
		}
		if err := fill(); err != nil {
			return 0, err
		}
		after, err := st.memory(ctx)
		return (after - before) / float64(n) / 1024, err
	}
	const jobs = 10_000
	single, err := measure(jobs, func() error {
		_, err := st.submit(ctx, 16, st.singles(jobs, 1024, 256, 0))
		return err
	})
	if err != nil {
		return err
	}
	batch, err := measure(jobs, func() error { return st.fill(ctx, jobs, 1024) })
	if err != nil {
		return err
	}
	return report(os.Stdout, fmt.Sprintf("memory: Redis's used_memory, %d queued jobs with a prompt of 1 KiB of random words, no worker", jobs), []figure{
		atMost("a job submitted alone", "%.2f KiB", single, 2.5, "the prompt included"),
		atMost("a line of a batch", "%.2f KiB", batch, 2.5, "the prompt included"),
	})
}

const (
	bigBacklog   = 200_000
	smallBacklog = 1_000
	backlogBytes = 256   // a prompt
	submitRound  = 4_000 // jobs
	drainRound   = 3_000 // calls, of which the first and last tenth are not timed
)

// side is one of the two backlogs that are compared.
type side struct {
	st             *stack
	p              *provider
	jobs           int
	submits, drain []float64 // a second, by round
}

// backlog compares a stack with a large backlog with one that has a small one.
// Both are there at once and take turns; the small one is filled anew for each
// round.
func (b *bench) backlog(ctx context.Context) (err error) {
	sides := []*side{{jobs: smallBacklog}, {jobs: bigBacklog}}
	for _, s := range sides {
		if s.p, err = startProvider(upstream.FakeConfig{MeanOutputTokens: 8, MaxPrompts: 1000}); err != nil {
			return err
		}
		defer func() { err = errors.Join(err, s.p.close()) }()
		s.st, err = b.newStack(ctx, setup{aof: b.fsync("everysec"), provider: s.p.addr, limits: wide(), workers: 1})
		defer s.st.close()
		if err != nil {
			return err
		}
		if err := s.st.command(ctx, "/v1/pools/bench/pause", `{"reason":"bench"}`); err != nil {
			return err
		}
	}
	start := time.Now()
	if err := sides[1].st.fill(ctx, bigBacklog, backlogBytes); err != nil {
		return err
	}
	filled := time.Since(start)

	rounds := b.times(7)
	for i := range rounds + 1 {
		for _, s := range sides {
			if err := s.round(ctx, i > 0); err != nil {
				return fmt.Errorf("backlog of %d: %w", s.jobs, err)
			}
		}
	}
	small, big := sides[0], sides[1]
	ratio := func(a, b []float64) float64 { return 100 * median(a) / median(b) }
	return report(os.Stdout, fmt.Sprintf("backlog: %d jobs against %d, prompts of %d bytes, one API, one worker, medians of %d rounds in turns", bigBacklog, smallBacklog, backlogBytes, rounds), []figure{
		atLeast("submit rate kept", "%.1f %%", ratio(big.submits, small.submits), 85,
			fmt.Sprintf("%.0f against %.0f a second; %d by %d connections, the pool paused", median(big.submits), median(small.submits), submitRound, submitConns)),
		atLeast("drain rate kept", "%.1f %%", ratio(big.drain, small.drain), 85,
			fmt.Sprintf("%.0f against %.0f calls a second; the provider, in this process, takes its part", median(big.drain), median(small.drain))),
		plain("time to fill", "%.1f s", filled.Seconds(), fmt.Sprintf("%d jobs in batches", bigBacklog)),
	})
}

// round submits and drains once. The pool is paused before and after.
func (s *side) round(ctx context.Context, counts bool) error {
	title := fmt.Sprintf("backlog-%d", s.jobs)
	if s.jobs == smallBacklog {
		if err := s.st.fill(ctx, smallBacklog, backlogBytes); err != nil {
			return err
		}
	}
	wait := s.st.profile(ctx, title+"-submit", time.Second)
	took, err := s.st.submit(ctx, submitConns, s.st.singles(submitRound, backlogBytes, 16, 0))
	wait()
	if err != nil {
		return err
	}

	if err := s.st.watchRedis(ctx); err != nil {
		return err
	}
	from := s.p.count()
	target := drainRound
	if s.jobs == smallBacklog {
		target = smallBacklog + submitRound // all there is
	}
	wait = s.st.profile(ctx, title+"-drain", 2*time.Second)
	if err := s.st.command(ctx, "/v1/pools/bench/resume", ""); err != nil {
		return err
	}
	limit, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	if err := s.p.await(limit, from+target); err != nil {
		return fmt.Errorf("wait for %d calls, %d came: %w", target, s.p.count()-from, err)
	}
	if err := s.st.command(ctx, "/v1/pools/bench/pause", `{"reason":"bench"}`); err != nil {
		return err
	}
	wait()
	if err := s.st.redisTime(ctx, s.p.count()-from); err != nil {
		return err
	}
	// Until nothing comes any more.
	for was := -1; was != s.p.count(); {
		was = s.p.count()
		if err := pause(ctx, 300*time.Millisecond); err != nil {
			return err
		}
	}
	if !counts {
		return nil
	}
	calls := s.p.accepted(from, oneRequest)[:drainRound]
	tenth := drainRound / 10
	span := calls[drainRound-tenth].at.Sub(calls[tenth].at)
	s.submits = append(s.submits, submitRound/took.Seconds())
	s.drain = append(s.drain, float64(drainRound-2*tenth)/span.Seconds())
	return nil
}
