package dispatch

import (
	"context"
	"net"
	"sync/atomic"
	"testing"

	"github.com/redis/go-redis/v9"
	"go.uber.org/goleak"

	"github.com/sluicehq/sluice/tasks"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// nowhere is a Placer without pools.
type nowhere struct{}

func (nowhere) Names() []string                                                 { return nil }
func (nowhere) Paused(context.Context, string) bool                             { return false }
func (nowhere) Adopt(*tasks.Job)                                                {}
func (nowhere) Next(context.Context, tasks.Job, bool) (d tasks.Detour, ok bool) { return d, false }
func (nowhere) WaitingAt(context.Context, tasks.Job, int64, int64) (w tasks.Waiting, err error) {
	return w, nil
}

// tripCounter counts round trips to Redis.
type tripCounter struct{ n *atomic.Int64 }

func (c tripCounter) DialHook(next redis.DialHook) redis.DialHook {
	return func(ctx context.Context, network, addr string) (net.Conn, error) { return next(ctx, network, addr) }
}

func (c tripCounter) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error { c.n.Add(1); return next(ctx, cmd) }
}

func (c tripCounter) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return func(ctx context.Context, cmds []redis.Cmder) error { c.n.Add(1); return next(ctx, cmds) }
}
