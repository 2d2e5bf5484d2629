package store

import (
	"context"
	"encoding/binary"
	"fmt"
	"strconv"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/sluicehq/sluice/tasks"
	"github.com/sluicehq/sluice/tasks/seal"
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
	a, sealed := args{"id": t.ID, "fence": t.Fence, "call": call, "offset": offset, "keep": partialKept.Milliseconds()}, []byte(text)
	if s.vault.seals {
		// Where it stands by its own bytes is bound in; they lie behind what comes before.
		if sealed, err = s.sealText(ctx, t, call, offset, text); err != nil {
			return false, fmt.Errorf("append the text of job %s: %w", t.ID, err)
		}
		a["bytes"] = len(text)
	}
	n, err := s.run(ctx, appendScript, a, sealed).Int64()
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
	text := h["t"]
	if h["o"] != "" {
		if text, err = s.openText(ctx, id, n, text); err != nil {
			return tasks.Partial{}, fmt.Errorf("read the text of job %s: %w", id, err)
		}
	}
	if n != attempt || offset > len(text) {
		offset = 0
	}
	return tasks.Partial{Attempt: n, Offset: offset, Text: text[offset:]}, nil
}

// sealText seals a piece of text that begins at a byte offset of a call's.
func (s *Store) sealText(ctx context.Context, t tasks.Ticket, call, offset int, text string) ([]byte, error) {
	tenant, err := s.whose(ctx, t, true)
	if err != nil {
		return nil, err
	}
	b, err := s.vault.seal(ctx, tenant, []byte(text), ofText, t.ID, strconv.Itoa(call), strconv.Itoa(offset))
	return append(binary.BigEndian.AppendUint32(nil, uint32(len(b))), b...), err
}

// openText opens the pieces that sealText has made, one behind the other.
func (s *Store) openText(ctx context.Context, id string, call int, pieces string) (string, error) {
	tenant, err := s.Holder(ctx, id)
	if err != nil {
		return "", err
	}
	var text []byte
	for b := []byte(pieces); len(b) >= 4; {
		n := int(binary.BigEndian.Uint32(b))
		if n > len(b)-4 || !seal.Sealed(b[4:4+n]) {
			return "", &tasks.SealError{Err: fmt.Errorf("open the text of %s: %w", id, seal.ErrOpen)}
		}
		piece, err := s.vault.open(ctx, tenant, b[4:4+n], ofText, id, strconv.Itoa(call), strconv.Itoa(len(text)))
		if err != nil {
			return "", err
		}
		text, b = append(text, piece...), b[4+n:]
	}
	return string(text), nil
}

// AppendEvents adds events to those that a running call with a stream has brought so
// far, from an offset on, and says whether they end. The next begin size bytes later,
// which may be more than are in raw. It reports false when they are not taken: the job is
// another worker's.
func (s *Store) AppendEvents(ctx context.Context, t tasks.Ticket, call, offset int, raw []byte, end tasks.StreamEnd) (size int, taken bool, err error) {
	keep := partialKept
	if end != tasks.StreamOpen {
		keep = eventsKept
	}
	tenant, err := s.whose(ctx, t, false)
	if err != nil {
		return 0, false, fmt.Errorf("append the events of job %s: %w", t.ID, err)
	}
	if raw, err = s.vault.sealPieces(ctx, tenant, raw, offset, ofEvents, t.ID, strconv.Itoa(call)); err != nil {
		return 0, false, fmt.Errorf("append the events of job %s: %w", t.ID, err)
	}
	n, err := s.run(ctx, eventsScript, args{"id": t.ID, "fence": t.Fence, "call": call, "offset": offset, "ends": string(end), "keep": keep.Milliseconds()}, raw).Int64()
	if err != nil {
		return 0, false, fmt.Errorf("append the events of job %s: %w", t.ID, err)
	}
	return len(raw), n == 1, nil
}

// Events returns the events of the last call with a stream that brought any, from a
// offset on, 0 or where those before ended, at most 64 KiB, and how its job stands at the same moment.
// tasks.ErrNotFound: there is no such job.
func (s *Store) Events(ctx context.Context, id string, offset int) (tasks.Events, error) {
	var job *redis.SliceCmd
	var head, raw *redis.StringCmd
	_, err := s.rdb.TxPipelined(ctx, func(p redis.Pipeliner) error {
		job = p.HMGet(ctx, s.keys.job(id), "s", "m", "t")
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
		e.Call = int(atoi(h[:eventsHead-1]))
		e.More = len(raw.Val()) == eventsAtOnce
		e.Raw, e.Size, err = s.vault.openPieces(ctx, str(job.Val()[2]), []byte(raw.Val()), offset, ofEvents, id, strconv.Itoa(e.Call))
		if err != nil {
			return tasks.Events{}, fmt.Errorf("read the events of job %s: %w", id, err)
		}
		e.End = tasks.StreamEnd(h[eventsHead-1:])
	}
	return e, nil
}
