package queue

import (
	"context"
	"fmt"
	"time"

	"github.com/hibiken/asynq"
	"github.com/redis/go-redis/v9"
)

// Pauser pauses a pool's Asynq queue: what asynqmon shows as paused. Doing so
// twice is a success. A paused queue keeps its tasks; those that run go on.
type Pauser struct {
	rdb       redis.UniversalClient
	prefix    string
	inspector *asynq.Inspector
}

// NewPauser returns a Pauser of the queues with a prefix, see [Name]. Whoever
// started Redis closes it.
func NewPauser(rdb redis.UniversalClient, prefix string) *Pauser {
	return &Pauser{rdb: rdb, prefix: prefix, inspector: asynq.NewInspectorFromRedisClient(rdb)}
}

// Paused reports whether a pool's queue is paused.
func (p *Pauser) Paused(ctx context.Context, pool string) (bool, error) {
	n, err := p.rdb.Exists(ctx, "asynq:{"+Name(p.prefix, pool)+"}:paused").Result()
	if err != nil {
		return false, fmt.Errorf("ask whether queue %s is paused: %w", pool, err)
	}
	return n == 1, nil
}

// Pause pauses a pool's queue.
func (p *Pauser) Pause(ctx context.Context, pool string) error {
	return p.set(ctx, pool, true, func(name string) error { return p.pause(ctx, name) })
}

// pauseScript does what Asynq does to pause a queue, in a full Redis too: a script that has
// begun to write is not stopped.
// KEYS     what says that the queue is paused; a key that is never there
// ARGV[1]  now, in s
// Returns  whether it is new.
var pauseScript = redis.NewScript(`
redis.call('DEL', KEYS[2])
return redis.call('SETNX', KEYS[1], ARGV[1])
`)

// pause pauses a queue by its name in Asynq.
func (p *Pauser) pause(ctx context.Context, name string) error {
	key := "asynq:{" + name + "}:"
	return pauseScript.Run(ctx, p.rdb, []string{key + "paused", key + "spare"}, time.Now().Unix()).Err()
}

// Resume lets a pool's queue go on.
func (p *Pauser) Resume(ctx context.Context, pool string) error {
	return p.set(ctx, pool, false, p.inspector.UnpauseQueue)
}

// set makes a change and takes an error for success when the queue is as
// wanted: Asynq calls a repeated pause an error.
func (p *Pauser) set(ctx context.Context, pool string, want bool, change func(string) error) error {
	err := change(Name(p.prefix, pool))
	if err == nil {
		return nil
	}
	if is, askErr := p.Paused(ctx, pool); askErr == nil && is == want {
		return nil
	}
	return fmt.Errorf("set pause of queue %s to %t: %w", pool, want, err)
}
