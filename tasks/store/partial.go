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

// The events of a stream are kept for eventsKept after the last of them, in case their
// caller sends its request again. Then the whole answer has to do.
const (
	eventsKept = 2 * time.Minute
	// eventsAtOnce is how many bytes of events are read at once.
	eventsAtOnce = 64 << 10
	// eventsHead is how many bytes stand before the events.
	eventsHead = 9
)

var (
	appendScript = script("append")
	eventsScript = script("events")
)

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

// AppendEvents adds events to those that a running call with a stream has brought so
// far, beginning at a byte offset, and says whether they end. It reports false when
// they are not taken: the job is another worker's.
func (s *Store) AppendEvents(ctx context.Context, t tasks.Ticket, call, offset int, raw []byte, end tasks.StreamEnd) (taken bool, err error) {
	keep := partialKept
	if end != tasks.StreamOpen {
		keep = eventsKept
	}
	n, err := s.run(ctx, eventsScript, args{"id": t.ID, "fence": t.Fence, "call": call, "offset": offset, "ends": string(end), "keep": keep.Milliseconds()}, raw).Int64()
	if err != nil {
		return false, fmt.Errorf("append the events of job %s: %w", t.ID, err)
	}
	return n == 1, nil
}

// Events returns the events of the last call with a stream that brought any, from a
// byte offset on, at most 64 KiB, and how its job stands at the same moment.
// tasks.ErrNotFound: there is no such job.
func (s *Store) Events(ctx context.Context, id string, offset int) (tasks.Events, error) {
	var job *redis.SliceCmd
	var head, raw *redis.StringCmd
	_, err := s.rdb.TxPipelined(ctx, func(p redis.Pipeliner) error {
		job = p.HMGet(ctx, s.keys.job(id), "s", "m")
		head = p.GetRange(ctx, s.keys.events(id), 0, eventsHead-1)
		raw = p.GetRange(ctx, s.keys.events(id), int64(eventsHead+offset), int64(eventsHead+offset+eventsAtOnce-1))
		return nil
	})
	if err != nil {
		return tasks.Events{}, fmt.Errorf("read the events of job %s: %w", id, redisError(err))
	}
	status, _ := job.Val()[0].(string)
	calls, _ := job.Val()[1].(string)
	if status == "" {
		return tasks.Events{}, fmt.Errorf("read the events of job %s: %w", id, tasks.ErrNotFound)
	}
	e := tasks.Events{Status: tasks.Status(status), Calls: int(atoi(calls))}
	if h := head.Val(); len(h) == eventsHead {
		e.Call, e.Raw = int(atoi(h[:eventsHead-1])), []byte(raw.Val())
		e.More = len(e.Raw) == eventsAtOnce
		e.End = tasks.StreamEnd(h[eventsHead-1:])
	}
	return e, nil
}
