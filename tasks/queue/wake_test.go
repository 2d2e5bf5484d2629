package queue_test

import (
	"context"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hibiken/asynq"
	"github.com/redis/go-redis/v9"

	"github.com/sluicehq/sluice/tasks"
	"github.com/sluicehq/sluice/tasks/queue"
	"github.com/sluicehq/sluice/tasks/redistest"
)

// serving is an Asynq server with room for so many tasks, whose handlers wait for
// go on, and a queue with tasks that waited before it started.
type serving struct {
	waker   *queue.Waker
	server  *asynq.Server
	look    *asynq.Inspector
	trips   atomic.Int64 // dequeues' round trips
	handled atomic.Int64 // begun
	goOn    chan struct{}
}

// serve is for a server 5 ms from Redis, serveAt for one so far or, with 0, in no time from it.
func serve(t *testing.T, room, waiting int) *serving {
	t.Helper()
	return serveAt(t, 5*time.Millisecond, room, waiting)
}

func serveAt(t *testing.T, far time.Duration, room, waiting int) *serving {
	t.Helper()
	srv := redistest.Start(t, redistest.Options{})
	rdb, own := srv.Client(), srv.Client()
	s := &serving{goOn: make(chan struct{}), look: asynq.NewInspectorFromRedisClient(rdb), waker: queue.NewWaker(own, 0)}
	if far == 0 {
		s.waker.StandStill()
	}
	own.AddHook(s.waker)
	own.AddHook(dequeues{&s.trips})
	own.AddHook(distance(far))
	s.waker.Serve(pool, room, nil)
	client := asynq.NewClientFromRedisClient(rdb)
	for i := range waiting {
		task, opts := queue.Task("", tasks.Ticket{ID: fmt.Sprintf("job_%d", i), Fence: 1, Pool: pool})
		if _, err := client.Enqueue(task, opts...); err != nil {
			t.Fatal(err)
		}
	}
	s.server = asynq.NewServerFromRedisClient(own, asynq.Config{
		Queues: map[string]int{pool: 1}, TaskCheckInterval: time.Millisecond, Concurrency: room, LogLevel: asynq.FatalLevel,
	})
	if err := s.server.Start(asynq.HandlerFunc(func(context.Context, *asynq.Task) error {
		defer s.waker.Done(pool)
		s.handled.Add(1)
		<-s.goOn
		return nil
	})); err != nil {
		t.Fatal(err)
	}
	return s
}

func (s *serving) stop() {
	s.waker.Close(5 * time.Second)
	s.server.Stop()
	close(s.goOn)
	s.server.Shutdown()
}

// A worker far from Redis is not held to a job a round trip.
func TestTasksThatWaitAreTakenSeveralInARoundTrip(t *testing.T) {
	s := serveAt(t, 20*time.Millisecond, 100, 100)
	redistest.Until(t, "all tasks are taken", func() bool { return s.handled.Load() == 100 })
	if n := s.trips.Load(); n > 12 {
		t.Errorf("100 tasks took %d round trips, want at most 12", n)
	}
	s.stop()
}

// What comes in one round trip is begun in any order.
func TestAWorkerNearRedisTakesTasksSingly(t *testing.T) {
	s := serveAt(t, 0, 20, 20)
	redistest.Until(t, "all tasks are taken", func() bool { return s.handled.Load() == 20 })
	if n := s.trips.Load(); n < 20 {
		t.Errorf("20 tasks took %d round trips, want one each", n)
	}
	s.stop()
}

// What a server has no room for stays where another can take it.
func TestNoMoreTasksAreTakenThanThereIsRoomFor(t *testing.T) {
	s := serve(t, 3, 20)
	for done := int64(3); done <= 20; done++ {
		redistest.Until(t, "its room is full", func() bool { return s.handled.Load() == done })
		info, err := s.look.GetQueueInfo(pool)
		if err != nil {
			t.Fatal(err)
		}
		if info.Active > 3 {
			t.Fatalf("%d tasks are active in a server with room for 3", info.Active)
		}
		s.goOn <- struct{}{}
	}
	s.stop()
}

// Tasks that came in one round trip are in nobody's hands until Asynq asks for
// them: a stop leaves none of them behind.
func TestAStopLeavesNoTaskBehindThatCameWithAnother(t *testing.T) {
	for range 10 {
		s := serve(t, 50, 50)
		redistest.Until(t, "some tasks are taken", func() bool { return s.handled.Load() > 0 })
		s.stop()
		info, err := s.look.GetQueueInfo(pool)
		if err != nil {
			t.Fatal(err)
		}
		if int64(info.Pending)+s.handled.Load() != 50 || info.Active != 0 {
			t.Errorf("%d tasks were handled, %d wait and %d are left active; want none of the latter, 50 in all", s.handled.Load(), info.Pending, info.Active)
		}
	}
}

// dequeues counts the round trips of an Asynq server's dequeues.
type dequeues struct{ n *atomic.Int64 }

func (d dequeues) DialHook(next redis.DialHook) redis.DialHook { return next }

func (d dequeues) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return counter(d).ProcessHook(next)
}

func (d dequeues) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return func(ctx context.Context, cmds []redis.Cmder) error {
		if a := cmds[0].Args(); len(a) > 3 && a[3] == "asynq:{p}:pending" {
			d.n.Add(1)
		}
		return next(ctx, cmds)
	}
}

// distance is the way to Redis and back.
type distance time.Duration

func (d distance) DialHook(next redis.DialHook) redis.DialHook { return next }

func (d distance) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		<-time.After(time.Duration(d))
		return next(ctx, cmd)
	}
}

func (d distance) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return func(ctx context.Context, cmds []redis.Cmder) error {
		<-time.After(time.Duration(d))
		return next(ctx, cmds)
	}
}
