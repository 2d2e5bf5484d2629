package store

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/redis/go-redis/v9"
)

var keepScript = script("keep")

// Answer returns the result that is kept under a digest; nil: none.
func (s *Store) Answer(ctx context.Context, digest string) ([]byte, error) {
	b, err := s.rdb.Get(ctx, s.keys.answer(digest)).Bytes()
	if errors.Is(err, redis.Nil) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("look for a kept answer: %w", redisError(err))
	}
	return b, nil
}

// KeepAnswer keeps a job's result under a digest for d, and no longer than
// results are kept. With a nil result it only notes that the job has what is
// kept there. The copy goes when a job that has it is deleted.
func (s *Store) KeepAnswer(ctx context.Context, digest, job string, result []byte, d time.Duration) error {
	if err := s.run(ctx, keepScript, digest, job, result, min(d, s.ttl).Milliseconds()).Err(); err != nil {
		return fmt.Errorf("keep the answer of job %s: %w", job, err)
	}
	return nil
}
