package store

import (
	"context"
	"fmt"

	"github.com/sluicehq/sluice/tasks"
)

var divertScript = script("divert")

// Divertible returns jobs that wait in a pool and have a fallback model left,
// in the order in which they would run: up to limit of them, after skipping
// offset. They come without their prompts.
func (s *Store) Divertible(ctx context.Context, pool string, offset, limit int) ([]tasks.Job, error) {
	ids, err := s.rdb.ZRange(ctx, s.keys.fallbacks(pool), int64(offset), int64(offset+limit-1)).Result()
	if err != nil || len(ids) == 0 {
		return nil, wrapDivert(pool, err)
	}
	jobs, err := s.each(ctx, ids, []string{"e", "t", "p", "s", "f", "fi", "dl"})
	return jobs, wrapDivert(pool, err)
}

func wrapDivert(pool string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("look for jobs of %s with a fallback: %w", pool, redisError(err))
}

// Divert moves waiting jobs of a pool to the pools of their fallback models,
// uncounted; detours are by job id. A worker that holds one is told to let go.
// A job that has started or ended meanwhile stays. It returns the ids of those
// that moved, and tickets to hand out.
func (s *Store) Divert(ctx context.Context, pool string, detours map[string]tasks.Detour) ([]string, []tasks.Ticket, error) {
	if len(detours) == 0 {
		return nil, nil, nil
	}
	rows := make([]any, 0, 6*len(detours))
	for id, d := range detours {
		rows = append(rows, id, d.Pool, s.depthOf(d.Pool), s.cost(d.Pool, d.Input, d.Output), d.Passed, d.Left)
	}
	reply, err := s.run(ctx, divertScript, args{"pool": pool}, rows...).Slice()
	if err != nil {
		return nil, nil, fmt.Errorf("divert %d jobs of %s: %w", len(detours), pool, err)
	}
	return words(reply[0]), tickets(reply[1]), nil
}
