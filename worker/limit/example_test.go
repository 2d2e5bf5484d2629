package limit_test

import (
	"context"
	"fmt"
	"log"
	"os"

	"github.com/redis/go-redis/v9"

	"github.com/sluicehq/sluice/tasks/redisd"
	"github.com/sluicehq/sluice/worker/limit"
)

// One call through the gate. Any number of processes may do the same: what they
// share is the Redis and the name of the pool.
func Example() {
	rdb, end := someRedis() // yours: redis.NewClient(&redis.Options{Addr: "localhost:6379"})
	defer end()
	gate, err := limit.New(limit.Config{
		Redis:  rdb,
		Pool:   "claude",
		Limits: limit.Limits{RequestsPerMinute: 600, OutputTokensPerMinute: 80_000, Concurrency: 64},
	})
	if err != nil {
		log.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	stopped := make(chan error, 1)
	go func() { stopped <- gate.Run(ctx) }()

	grant, err := gate.Take(ctx, limit.Need{ID: "job-1", Class: "summary", InputTokens: 1200, MaxTokens: 1000})
	if err != nil {
		log.Fatal(err)
	}
	// Here the call goes to the provider, and its answer says what it used.
	err = gate.Settle(ctx, grant, limit.Actual{Known: true, InputTokens: 1180, OutputTokens: 240})
	if err != nil {
		log.Print(err) // Run writes it later
	}

	state, err := gate.State(ctx)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Printf("%d in flight of %d, %d requests a minute\n", state.InFlight, state.Concurrency, state.Requests.Limit)
	stop()
	if err := <-stopped; err != nil {
		log.Fatal(err)
	}
	// Output: 0 in flight of 64, 600 requests a minute
}

// someRedis is a redis-server of this machine, or one in this process.
func someRedis() (*redis.Client, func()) {
	dir, err := os.MkdirTemp("", "example")
	if err != nil {
		log.Fatal(err)
	}
	server, err := redisd.Start(context.Background(), redisd.Config{Dir: dir, AllowMemory: true})
	if err != nil {
		log.Fatal(err)
	}
	rdb := redis.NewClient(server.Options())
	return rdb, func() {
		_ = rdb.Close()
		_ = server.Close()
		_ = os.RemoveAll(dir)
	}
}
