package store_test

import (
	"context"
	"fmt"
	"os"

	"github.com/redis/go-redis/v9"

	"github.com/sluicehq/sluice/tasks"
	"github.com/sluicehq/sluice/tasks/redisd"
	"github.com/sluicehq/sluice/tasks/store"
)

// A job is created, claimed, taken, started and ended. Each move is one script; a
// ticket that has been used up moves nothing.
func Example() {
	ctx := context.Background()
	dir, err := os.MkdirTemp("", "store")
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
	s := store.New(store.Config{Redis: rdb, Depth: map[string]int{"claude": 8}})

	// There is room in the pool, so the job is claimed in the call that stores it.
	created, tickets, err := s.Create(ctx, tasks.Submission{Job: tasks.Job{
		ID: store.NewID("job"), Tenant: "acme", Pool: "claude", Model: "claude-sonnet-4-5",
		Request: tasks.Request{Kind: tasks.Text, Body: []byte(`"Say hello."`), MaxTokens: 16},
	}})
	if err != nil || len(tickets) != 1 {
		fmt.Println(tickets, err)
		return
	}
	fmt.Println("created:", created[0].Accepted.Job.Status)

	ticket := tickets[0]
	job, err := s.Take(ctx, ticket)
	fmt.Println("taken:", job.Status, err)
	started, _, err := s.Start(ctx, ticket)
	fmt.Println("attempt:", started.Attempts, err)
	_, err = s.End(ctx, ticket, tasks.Ending{Status: tasks.StatusSucceeded, Result: []byte(`{"content":"hello"}`)})
	fmt.Println("ended:", err)
	job, err = s.Job(ctx, "acme", ticket.ID)
	fmt.Println("read:", job.Status, string(job.Result), err)

	_, _, err = s.Start(ctx, ticket)
	fmt.Println("started again:", err != nil)
	_, err = s.Job(ctx, "another tenant", ticket.ID)
	fmt.Println("another tenant:", err != nil)
	// Output:
	// created: queued
	// taken: queued <nil>
	// attempt: 1 <nil>
	// ended: <nil>
	// read: succeeded {"content":"hello"} <nil>
	// started again: true
	// another tenant: true
}
