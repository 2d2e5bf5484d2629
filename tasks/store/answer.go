package store

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/sluicehq/sluice/tasks"
	"github.com/sluicehq/sluice/tasks/bodies"
)

var (
	keepScript = script("keep")
	joinScript = script("join")
)

// Named is what stands for a digest of a tenant's request in the record: where the store
// seals, nobody without the tenant's key can tell what has a digest.
func (s *Store) Named(ctx context.Context, tenant, digest string) (string, error) {
	return s.vault.name(ctx, tenant, ofAnswer, digest)
}

// Answer returns the result that is kept under what Named has made of a tenant's digest;
// nil: none.
func (s *Store) Answer(ctx context.Context, tenant, digest string) ([]byte, error) {
	b, err := s.rdb.Get(ctx, s.keys.answer(digest)).Bytes()
	if errors.Is(err, redis.Nil) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("look for a kept answer: %w", redisError(err))
	}
	if b, err = s.vault.open(ctx, tenant, b, ofAnswer, digest); err != nil {
		return nil, fmt.Errorf("read a kept answer: %w", err)
	}
	if ref, err := bodies.Parse(string(b)); err == nil { // no JSON looks like it
		if b, err = s.fetch(ctx, tenant, bodies.Owner(ref.Name), bodies.Result, ref.String(), 0); err != nil {
			return nil, fmt.Errorf("read a kept answer: %w", err)
		}
	}
	if b, err = whole(b); err != nil {
		return nil, fmt.Errorf("read a kept answer: %w", err)
	}
	return b, nil
}

// KeepAnswer keeps a tenant's job's result under what Named has made of a digest for d, and no longer than
// results are kept. With a nil result it only notes that the job has what is
// kept there. The copy goes when a job that has it is deleted. Of a large one only where
// the job's result lies is kept, so that goes with that job.
func (s *Store) KeepAnswer(ctx context.Context, tenant, digest, job string, result []byte, d time.Duration) error {
	if s.large(len(result)) {
		lies, err := s.rdb.HGet(ctx, s.keys.job(job), "rr").Result()
		if errors.Is(err, redis.Nil) {
			return nil // it is gone, or has its result in the record
		}
		if err != nil {
			return fmt.Errorf("keep the answer of job %s: %w", job, redisError(err))
		}
		result = []byte(lies)
	}
	result, err := s.vault.seal(ctx, tenant, result, ofAnswer, digest)
	if err != nil {
		return fmt.Errorf("keep the answer of job %s: %w", job, err)
	}
	if err := s.run(ctx, keepScript, args{"digest": digest, "job": job, "keep": min(d, s.ttl).Milliseconds()}, result).Err(); err != nil {
		return fmt.Errorf("keep the answer of job %s: %w", job, err)
	}
	return nil
}

// Join has a job that its worker holds share the call of one that asks the
// same, by digest, in the same pool. When there is none it leads, and is to be
// asked upstream. Else it follows, and the ticket is void: it comes back under a
// new one, with Job.Followed set, as soon as the leader has an answer, which is
// then kept under the digest for a while, or when it is its turn to lead because
// the leader ended without one or went to another pool. A leader that is tried
// again, or whose worker is lost, still leads. The tickets are for jobs that
// there is room for now. ErrFinal, ErrLost and ErrNotFound mean that the ticket
// was void before.
func (s *Store) Join(ctx context.Context, t tasks.Ticket, digest string) (leads bool, next []tasks.Ticket, err error) {
	reply, err := s.run(ctx, joinScript, args{"id": t.ID, "fence": t.Fence, "digest": digest, "depth": s.depthOf(t.Pool)}).Slice()
	if err != nil {
		return false, nil, fmt.Errorf("join job %s: %w", t.ID, err)
	}
	switch word := str(reply[0]); word {
	case "lead":
		return true, nil, nil
	case "follow":
		return false, tickets(reply[1]), nil
	default:
		return false, nil, moveError(word)
	}
}
