package pause_test

import (
	"context"
	"fmt"
	"os"
	"sync/atomic"

	"github.com/redis/go-redis/v9"

	"github.com/sluicehq/sluice/tasks/redisd"
	"github.com/sluicehq/sluice/worker/pause"
)

// oneQueue is a queue that somebody else takes work from.
type oneQueue struct{ paused atomic.Bool }

func (q *oneQueue) Pause(context.Context, string) error          { q.paused.Store(true); return nil }
func (q *oneQueue) Resume(context.Context, string) error         { q.paused.Store(false); return nil }
func (q *oneQueue) Paused(context.Context, string) (bool, error) { return q.paused.Load(), nil }

// The breaker is told how each call ended. What it opens, a probe closes; what an
// operator pauses, only an operator resumes.
func Example() {
	ctx := context.Background()
	dir, err := os.MkdirTemp("", "pause")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer os.RemoveAll(dir)
	// The installed redis-server or, without one, a Redis in this process.
	server, err := redisd.Start(ctx, redisd.Config{Dir: dir, AllowMemory: true})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer server.Close()
	rdb := redis.NewClient(server.Options())
	defer rdb.Close()

	queue := &oneQueue{}
	b, err := pause.New(pause.Config{Redis: rdb, Pool: "claude", Queue: queue, Rules: pause.Rules{MinCalls: 3}})
	if err != nil {
		fmt.Println(err)
		return
	}
	show := func(when string) {
		s, err := b.State(ctx)
		if err != nil {
			fmt.Println(err)
			return
		}
		fmt.Printf("%s: %s, queue paused %t, by %q for %q\n", when, s.Name, queue.paused.Load(), s.PausedBy, s.Reason)
	}

	show("at first")
	for range 3 {
		if err := b.Record(ctx, pause.Verdict{Kind: pause.Bad, Reason: "overloaded"}); err != nil {
			fmt.Println(err)
			return
		}
	}
	show("three failures")
	if err := b.Pause(ctx, "alice", "maintenance"); err != nil {
		fmt.Println(err)
		return
	}
	show("paused by alice")
	// Output:
	// at first: closed, queue paused false, by "" for ""
	// three failures: open, queue paused true, by "breaker" for "3 of 3 calls failed in 10 s: overloaded"
	// paused by alice: open, queue paused true, by "operator" for "maintenance"
}
