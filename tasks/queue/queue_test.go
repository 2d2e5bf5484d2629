package queue_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hibiken/asynq"
	"github.com/redis/go-redis/v9"
	"go.uber.org/goleak"

	"github.com/sluicehq/sluice/tasks"
	"github.com/sluicehq/sluice/tasks/queue"
	"github.com/sluicehq/sluice/tasks/redistest"
	"github.com/sluicehq/sluice/tasks/store"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const pool = "p"

func setup(t *testing.T) (*store.Store, *queue.Feeder, *redis.Client) {
	t.Helper()
	rdb := redistest.New(t)
	s := store.New(store.Config{Redis: rdb, Depth: map[string]int{pool: 4}})
	return s, queue.NewFeeder(queue.Config{Redis: rdb, Backlog: s, Every: 5 * time.Millisecond}), rdb
}

func submit(t *testing.T, s *store.Store) []tasks.Ticket {
	t.Helper()
	_, tickets, err := s.Create(t.Context(), tasks.Submission{Job: tasks.Job{
		ID: store.NewID("job"), Tenant: "acme", Pool: pool, Model: "m",
		Request: tasks.Request{Kind: tasks.Text, Body: []byte(`"the prompt"`)},
	}})
	if err != nil {
		t.Fatal(err)
	}
	return tickets
}

func TestATaskCarriesIDAndAttemptAlone(t *testing.T) {
	k := tasks.Ticket{ID: "job_01", Fence: 7, Pool: pool}
	task, _ := queue.Task("", k)
	if got := string(task.Payload()); got != `{"id":"job_01","attempt":7}` {
		t.Errorf("payload %s", got)
	}
	back, err := queue.Ticket(pool, "job_01:7", task)
	if err != nil || back != k {
		t.Errorf("back: %v, %v", back, err)
	}
}

// Whatever another program puts into a queue of ours is not taken for ours.
func TestAnotherProgramsTaskIsNotOurs(t *testing.T) {
	for _, c := range []struct{ kind, id, body string }{
		{"email:send", "job_01:7", `{"id":"job_01","attempt":7}`},
		{queue.TypePrompt, "f81d4fae", `{"id":"job_01","attempt":7}`},
		{queue.TypePrompt, "job_01:7", `{"id":"job_01","attempt":8}`},
		{queue.TypePrompt, ":0", `{}`},
		{queue.TypePrompt, ":0", `null`},
		{queue.TypePrompt, "7:0", `{"id":7}`},
		{queue.TypePrompt, "", ``},
		{queue.TypePrompt, "job_01:7", "\x00"},
		{queue.TypeDeliver, "dlv_1:1", `[]`},
		{queue.TypeDeliver, "dlv_1:1", `{"id":"dlv_1","fence":1}`},
		{queue.TypeDeliver, "dlv_2:1", `[{"id":"dlv_1","fence":1}]`},
		{"deliver:mail", "dlv_1:1", `[{"id":"dlv_1","fence":1}]`},
	} {
		task := asynq.NewTask(c.kind, []byte(c.body))
		if k, err := queue.Ticket(pool, c.id, task); !errors.Is(err, queue.ErrNotOurs) {
			t.Errorf("%+v was taken for %+v, %v", c, k, err)
		}
		if list, err := queue.DeliveryTickets(c.id, task); !errors.Is(err, queue.ErrNotOurs) {
			t.Errorf("%+v was taken for %+v, %v", c, list, err)
		}
	}
	list := []tasks.DeliveryTicket{{ID: "dlv_1", Fence: 1}, {ID: "dlv_2", Fence: 5}}
	task, _ := queue.DeliverTask("", list)
	if back, err := queue.DeliveryTickets("dlv_1:1", task); err != nil || !slices.Equal(back, list) {
		t.Errorf("back: %v, %v", back, err)
	}
}

// A worker logs the end of a job that it ran; what expires unrun ends here.
func TestAnExpiredJobHasItsLineInTheLog(t *testing.T) {
	rdb := redistest.New(t)
	s := store.New(store.Config{Redis: rdb, Depth: map[string]int{pool: 4}})
	ctx, stop := context.WithTimeout(t.Context(), time.Minute)
	defer stop()
	said := &lines{want: "job ended", seen: stop}
	f := queue.NewFeeder(queue.Config{Redis: rdb, Backlog: s, Every: 5 * time.Millisecond, Log: slog.New(slog.NewTextHandler(said, nil))})
	id := store.NewID("job")
	if _, _, err := s.Create(ctx, tasks.Submission{Job: tasks.Job{
		ID: id, Tenant: "acme", Pool: pool, Model: "m", Deadline: time.Now().Add(-time.Second),
		Request: tasks.Request{Kind: tasks.Text, Body: []byte(`"the prompt"`)},
	}}); err != nil {
		t.Fatal(err)
	}
	if err := f.Run(ctx); err != nil {
		t.Fatal(err)
	}
	want := `msg="job ended" job=` + id + " tenant=acme pool=p status=expired attempts=0 code=deadline_exceeded\n"
	if got := said.String(); strings.Count(got, "job ended") != 1 || !strings.Contains(got, want) {
		t.Errorf("the log says\n%swant\n%s", got, want)
	}
}

// lines keeps what a log says, and calls seen at the first line with want in it.
type lines struct {
	strings.Builder
	want string
	seen func()
}

func (l *lines) Write(p []byte) (int, error) {
	if strings.Contains(string(p), l.want) {
		l.seen()
	}
	return l.Builder.Write(p)
}

func TestHandingTwiceIsOneTask(t *testing.T) {
	s, f, rdb := setup(t)
	tickets := submit(t, s)
	for range 2 {
		if err := f.Hand(t.Context(), tickets); err != nil {
			t.Fatal(err)
		}
	}
	info, err := asynq.NewInspectorFromRedisClient(rdb).GetQueueInfo(pool)
	if err != nil || info.Pending != 1 {
		t.Errorf("queue: %+v, %v; want one pending task", info, err)
	}
}

// Whatever is handed over at once goes in one round trip, and so does what wakes
// other processes, behind it.
func TestHandingIsOneRoundTrip(t *testing.T) {
	srv := redistest.Start(t, redistest.Options{})
	rdb := srv.Client()
	ctx := t.Context()
	sub := srv.Client().Subscribe(ctx, "woken")
	defer sub.Close()
	if _, err := sub.Receive(ctx); err != nil {
		t.Fatal(err)
	}
	f := queue.NewFeeder(queue.Config{Redis: rdb, Tell: func(p redis.Pipeliner, pool string, n int) {
		p.Publish(ctx, "woken", fmt.Sprint(pool, " ", n))
	}})
	list := func(from, n int) (out []tasks.Ticket) {
		for i := range n {
			out = append(out, tasks.Ticket{ID: fmt.Sprintf("job_%d", from+i), Fence: 1, Pool: pool})
		}
		return out
	}
	// Asynq's first task of a queue takes two more: the queue's name, and the script.
	if err := f.Hand(ctx, list(0, 1)); err != nil {
		t.Fatal(err)
	}
	trips := &roundTrips{}
	rdb.AddHook(trips)
	if err := f.Hand(ctx, list(1, 100)); err != nil {
		t.Fatal(err)
	}
	if n := trips.n.Load(); n != 1 {
		t.Errorf("%d round trips for 100 tasks, want 1", n)
	}
	for want := "p 100"; ; {
		m, err := sub.ReceiveMessage(ctx)
		if err != nil {
			t.Fatal(err)
		}
		if m.Payload == "p 1" {
			continue // the first, perhaps twice
		}
		if m.Payload != want {
			t.Errorf("told %q, want %q", m.Payload, want)
		}
		break
	}
	info, err := asynq.NewInspectorFromRedisClient(rdb).GetQueueInfo(pool)
	if err != nil || info.Pending != 101 {
		t.Errorf("queue: %+v, %v; want 101 pending tasks", info, err)
	}
}

type roundTrips struct{ n atomic.Int64 }

func (r *roundTrips) DialHook(next redis.DialHook) redis.DialHook { return next }
func (r *roundTrips) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error { r.n.Add(1); return next(ctx, cmd) }
}
func (r *roundTrips) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return func(ctx context.Context, cmds []redis.Cmder) error {
		if cmds[0].Name() != "client" {
			r.n.Add(1)
		}
		return next(ctx, cmds)
	}
}

// pending waits until the pool's queue holds a task of the wanted id.
func pending(t *testing.T, rdb *redis.Client, id string) {
	t.Helper()
	insp := asynq.NewInspectorFromRedisClient(rdb)
	redistest.Until(t, "task "+id+" is pending", func() bool {
		info, err := insp.GetTaskInfo(pool, id)
		return err == nil && info.State == asynq.TaskStatePending
	})
}

func run(t *testing.T, r func(context.Context) error) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- r(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

func TestASweepMendsWhatACrashLeft(t *testing.T) {
	for _, c := range []struct {
		name string
		lose func(ctx context.Context, rdb *redis.Client, k tasks.Ticket)
		want func(k tasks.Ticket) string
	}{
		{"never enqueued", func(context.Context, *redis.Client, tasks.Ticket) {},
			func(k tasks.Ticket) string { return fmt.Sprintf("%s:%d", k.ID, k.Fence) }},
		{"dequeued by an answer that was lost", func(ctx context.Context, rdb *redis.Client, k tasks.Ticket) {
			id := fmt.Sprintf("%s:%d", k.ID, k.Fence)
			rdb.LRem(ctx, "asynq:{p}:pending", 1, id)
			rdb.LPush(ctx, "asynq:{p}:active", id)
			rdb.HSet(ctx, "asynq:{p}:t:"+id, "state", "active")
		}, func(k tasks.Ticket) string { return fmt.Sprintf("%s:%d", k.ID, k.Fence+1) }},
	} {
		t.Run(c.name, func(t *testing.T) {
			s, f, rdb := setup(t)
			k := submit(t, s)[0]
			if c.name != "never enqueued" {
				if err := f.Hand(t.Context(), []tasks.Ticket{k}); err != nil {
					t.Fatal(err)
				}
			}
			c.lose(t.Context(), rdb, k)
			rdb.ZAddXX(t.Context(), "sluice:{s}:out:"+pool, redis.Z{Score: 1, Member: k.ID})
			run(t, f.Run)
			pending(t, rdb, c.want(k))
		})
	}
}

func TestASweepWakesADueJob(t *testing.T) {
	s, f, rdb := setup(t)
	id := store.NewID("job")
	if _, _, err := s.Create(t.Context(), tasks.Submission{Job: tasks.Job{
		ID: id, Tenant: "acme", Pool: pool, Model: "m", NotBefore: time.Now().Add(30 * time.Millisecond),
		Request: tasks.Request{Kind: tasks.Text, Body: []byte(`"x"`)},
	}}); err != nil {
		t.Fatal(err)
	}
	run(t, f.Run)
	pending(t, rdb, id+":1")
}

// An idle server asks twice a second, and a kick lets it ask at once.
func TestAnIdleServerWaitsForAKick(t *testing.T) {
	srv := redistest.Start(t, redistest.Options{})
	rdb, own := srv.Client(), srv.Client()
	w := queue.NewWaker(own, 0)
	own.AddHook(w)
	var asks atomic.Int64
	own.AddHook(counter{&asks})

	handled := make(chan string, 1)
	server := asynq.NewServerFromRedisClient(own, asynq.Config{
		Queues: map[string]int{pool: 1}, TaskCheckInterval: time.Millisecond, Concurrency: 2, LogLevel: asynq.FatalLevel,
	})
	if err := server.Start(asynq.HandlerFunc(func(_ context.Context, task *asynq.Task) error {
		handled <- string(task.Payload())
		return nil
	})); err != nil {
		t.Fatal(err)
	}
	stop := func() { w.Close(0); server.Shutdown() }
	defer stop()

	redistest.Until(t, "the server finds the queue empty and waits", func() bool { return asks.Load() > 0 })
	before, begin := asks.Load(), time.Now()
	<-time.After(600 * time.Millisecond)
	if n, most := asks.Load()-before, int64(time.Since(begin)/(200*time.Millisecond))+2; n > most {
		t.Errorf("an idle server asked %d times in %v, want at most %d", n, time.Since(begin), most)
	}
	task, opts := queue.Task("", tasks.Ticket{ID: "job_1", Fence: 1, Pool: pool})
	if _, err := asynq.NewClientFromRedisClient(rdb).Enqueue(task, opts...); err != nil {
		t.Fatal(err)
	}
	told, begin := asks.Load(), time.Now()
	w.Kick(pool, 1)
	select {
	case <-handled:
	case <-time.After(time.Minute):
		t.Error("the task was not handled")
	}
	// One ask for the one task; what more there is comes from the slow poll.
	<-time.After(100 * time.Millisecond)
	if n, most := asks.Load()-told, int64(time.Since(begin)/(200*time.Millisecond))+2; n > most {
		t.Errorf("%d asks for one task that was told of, want at most %d", n, most)
	}
}

type counter struct{ n *atomic.Int64 }

func (c counter) DialHook(next redis.DialHook) redis.DialHook { return next }
func (c counter) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		if a := cmd.Args(); len(a) > 3 && a[3] == "asynq:{p}:pending" {
			c.n.Add(1)
		}
		return next(ctx, cmd)
	}
}
func (c counter) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return next
}

func TestPausingTwiceIsOnePause(t *testing.T) {
	rdb := redistest.New(t)
	p := queue.NewPauser(rdb, "")
	ctx := t.Context()
	for _, want := range []bool{true, true, false, false} {
		change := p.Resume
		if want {
			change = p.Pause
		}
		if err := change(ctx, pool); err != nil {
			t.Fatalf("set pause to %t: %v", want, err)
		}
		if got, err := p.Paused(ctx, pool); err != nil || got != want {
			t.Errorf("paused: %t, %v; want %t", got, err, want)
		}
	}
}

// Asynq subscribes again and again where channels are not permitted, and never
// ends what was refused.
func TestARefusedSubscriptionOfAsynqIsNotLeftOpen(t *testing.T) {
	admin := redistest.New(t)
	if err := admin.Do(t.Context(), "ACL", "SETUSER", "app", "on", ">pw", "~*", "+@all").Err(); err != nil {
		t.Fatal(err)
	}
	o := *admin.Options()
	o.Username, o.Password = "app", "pw"
	rdb := redis.NewClient(&o)
	defer rdb.Close()
	server := queue.Server(rdb)
	for range 5 {
		if _, err := server.Subscribe(t.Context(), "asynq:cancel").Receive(t.Context()); !redis.IsPermissionError(err) {
			t.Fatalf("subscribe: %v", err)
		}
	}
	redistest.Until(t, "of five subscriptions the last alone is left", func() bool {
		clients, err := admin.ClientList(t.Context()).Result()
		if err != nil {
			t.Fatal(err)
		}
		return strings.Count(clients, "user=app") == 1
	})
}
