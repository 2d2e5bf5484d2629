package store

import (
	"context"
	"fmt"
	"strconv"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/sluicehq/sluice/tasks"
)

// A reader's wish for a job's text as it comes is good for wishKept, and the
// text is kept for partialKept after its last change.
const (
	wishKept    = 30 * time.Second
	partialKept = 10 * time.Minute
)

var appendScript = script("append", "fits", "record")

// Listen says that somebody wants a job's text as it comes. Good for 30 s; to
// be renewed.
func (s *Store) Listen(ctx context.Context, id string) error {
	_, err := s.rdb.Pipelined(ctx, func(p redis.Pipeliner) error {
		p.Set(ctx, s.keys.wanted(id), 1, wishKept)
		p.Publish(ctx, s.keys.control(), "listen "+id)
		return nil
	})
	if err != nil {
		return fmt.Errorf("listen to job %s: %w", id, redisError(err))
	}
	return nil
}

// Append adds text to what a running attempt has brought so far, beginning at
// a byte offset. It reports false when nobody wants it.
func (s *Store) Append(ctx context.Context, t tasks.Ticket, call, offset int, text string) (wanted bool, err error) {
	n, err := s.run(ctx, appendScript, args{"id": t.ID, "fence": t.Fence, "call": call, "offset": offset, "keep": partialKept.Milliseconds()}, text).Int64()
	if err != nil {
		return false, fmt.Errorf("append the text of job %s: %w", t.ID, err)
	}
	return n == 1, nil
}

// Partial returns the text of a job's latest attempt from a byte offset on; of
// another attempt than the one asked for, from its start.
func (s *Store) Partial(ctx context.Context, id string, attempt, offset int) (tasks.Partial, error) {
	h, err := s.rdb.HGetAll(ctx, s.keys.text(id)).Result()
	if err != nil {
		return tasks.Partial{}, fmt.Errorf("read the text of job %s: %w", id, redisError(err))
	}
	n, _ := strconv.Atoi(h["n"])
	if n != attempt || offset > len(h["t"]) {
		offset = 0
	}
	return tasks.Partial{Attempt: n, Offset: offset, Text: h["t"][offset:]}, nil
}
