package store

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/sluicehq/sluice/tasks/bodies"
)

// Pieces has bodies in the Redis of the record, each in pieces.
type Pieces struct {
	rdb  redis.UniversalClient
	keys keys
}

// NewPieces returns Pieces beside the record of a prefix; "" is the usual one.
func NewPieces(rdb redis.UniversalClient, prefix string) *Pieces {
	return &Pieces{rdb, newKeys(prefix)}
}

// addPiece adds the i-th piece once: the client sends a command again when its answer was lost.
var addPiece = redis.NewScript(`local n, i = redis.call('LLEN', KEYS[1]), tonumber(ARGV[1])
if n < i then return redis.error_reply('ERR the body has lost its pieces') end
if n == i then redis.call('RPUSH', KEYS[1], ARGV[2]) end
return 1`)

// Count is how many pieces a body has.
func (p *Pieces) Count(ctx context.Context, name string) (int64, error) {
	n, err := p.rdb.LLen(ctx, p.keys.pieces(name)).Result()
	if err != nil {
		return 0, fmt.Errorf("look for a body: %w", redisError(err))
	}
	return n, nil
}

// Add adds a piece; the first takes the place of whatever has the name. The index comes
// first, so that a sweep finds whatever is begun.
func (p *Pieces) Add(ctx context.Context, name string, piece []byte, i int64) error {
	first := i == 0
	key := p.keys.pieces(name)
	if !first {
		if err := addPiece.Run(ctx, p.rdb, []string{key}, i, piece).Err(); err != nil {
			return fmt.Errorf("add a piece of a body: %w", redisError(err))
		}
		return nil
	}
	_, err := p.rdb.TxPipelined(ctx, func(q redis.Pipeliner) error {
		q.ZAdd(ctx, p.keys.inPieces(), redis.Z{Score: float64(time.Now().UnixMilli()), Member: name})
		q.Unlink(ctx, key)
		q.RPush(ctx, key, piece)
		return nil
	})
	if err != nil {
		return fmt.Errorf("begin a body: %w", redisError(err))
	}
	return nil
}

// Piece is the i-th piece of a body.
func (p *Pieces) Piece(ctx context.Context, name string, i int64) ([]byte, error) {
	b, err := p.rdb.LIndex(ctx, p.keys.pieces(name), i).Bytes()
	if errors.Is(err, redis.Nil) {
		return nil, fs.ErrNotExist
	}
	if err != nil {
		return nil, fmt.Errorf("read a piece of a body: %w", redisError(err))
	}
	return b, nil
}

// Remove removes bodies, behind Redis's back: freeing what is large takes it long.
func (p *Pieces) Remove(ctx context.Context, names []string) error {
	if len(names) == 0 {
		return nil
	}
	_, err := p.rdb.Pipelined(ctx, func(q redis.Pipeliner) error {
		for _, name := range names {
			q.Unlink(ctx, p.keys.pieces(name))
			q.ZRem(ctx, p.keys.inPieces(), name)
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("remove %d bodies: %w", len(names), redisError(err))
	}
	return nil
}

// Each calls visit with each body, some at a time. One that is put meanwhile may be left out.
func (p *Pieces) Each(ctx context.Context, visit func(name string, put time.Time) error) error {
	for cursor := uint64(0); ; {
		page, next, err := p.rdb.ZScan(ctx, p.keys.inPieces(), cursor, "", scanMost).Result()
		if err != nil {
			return fmt.Errorf("list the bodies: %w", redisError(err))
		}
		for i := 0; i+1 < len(page); i += 2 {
			if err := visit(page[i], fromMilli(atoi(page[i+1]))); err != nil {
				return err
			}
		}
		if cursor = next; cursor == 0 {
			return nil
		}
	}
}

var _ bodies.Pieces = (*Pieces)(nil)
