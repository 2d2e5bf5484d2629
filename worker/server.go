package worker

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hibiken/asynq"
	"github.com/redis/go-redis/v9"

	"github.com/sluicehq/sluice/tasks"
	"github.com/sluicehq/sluice/tasks/queue"
)

// server hands the tasks of Asynq's queues to their handlers until it is told to
// stop. Then it takes no more, waits for the grace period, cuts off the tasks
// that still run, and returns once they are handed back.
type server struct {
	c        serverConfig
	waker    *queue.Waker
	queues   []*served
	stopping chan struct{} // closed when no new work may begin
}

// served is one queue.
type served struct {
	name   string
	handle handler
	asynq  *asynq.Server
}

// handler does the work of one task of this id. An error gives the task back to Asynq,
// which brings it again; queue.ErrNotOurs as often as the task itself allows, and then
// it lies in Asynq's archive. base ends with the grace period, by errGrace. Asynq's
// own context is not used: it ends when Asynq loses its lease, and our call
// goes on.
type handler func(base context.Context, id string, task *asynq.Task) error

// serverConfig says what a server works with.
type serverConfig struct {
	redis    redis.UniversalClient // the server puts the waker's hook on it
	prefix   string                // of the queues
	poll     time.Duration         // of an idle queue; 0: see queue.NewWaker
	grace    time.Duration         // for what is in hand at a stop
	handBack time.Duration         // for handlers beyond it, to hand back what was cut off
	log      *slog.Logger
}

// passOn is how long a stop waits until the tasks that came in one round trip have
// reached their handlers, which hand them back. Later ones are found by a sweep.
const passOn = time.Second

// errGrace ends calls that outlast the grace period.
var errGrace = errors.New("the grace period is over")

func newServer(c serverConfig) *server {
	s := &server{c: c, waker: queue.NewWaker(c.redis, c.poll), stopping: make(chan struct{})}
	c.redis.AddHook(s.waker)
	return s
}

// serve adds a queue. This process runs at most concurrency of its tasks at once,
// and takes none while shut says so; nil: never.
func (s *server) serve(name string, concurrency int, shut func() bool, handle handler) {
	name = queue.Name(s.c.prefix, name)
	s.waker.Serve(name, concurrency, shut)
	s.queues = append(s.queues, &served{name, handle, asynq.NewServerFromRedisClient(queue.Server(s.c.redis), asynq.Config{
		Concurrency:       concurrency,
		Queues:            map[string]int{name: 1},
		TaskCheckInterval: time.Millisecond, // the waker holds the next ask; see queue.Waker
		ShutdownTimeout:   s.c.grace + s.c.handBack,
		RetryDelayFunc:    retryDelay,
		IsFailure:         func(err error) bool { return errors.Is(err, queue.ErrNotOurs) }, // our attempts are counted in the record
		Logger:            asynqLog{s.c.log},
		LogLevel:          asynq.WarnLevel,
	})})
}

func retryDelay(n int, err error, t *asynq.Task) time.Duration {
	if errors.Is(err, queue.ErrNotOurs) {
		return asynq.DefaultRetryDelayFunc(n, err, t)
	}
	return time.Second
}

// kick wakes an idle queue, which holds n tasks more; 0 when the number is unknown.
func (s *server) kick(name string, n int) { s.waker.Kick(queue.Name(s.c.prefix, name), n) }

// run serves until during returns, and then stops. When one queue cannot be
// served, the others are stopped.
func (s *server) run(ctx context.Context, during func()) error {
	base, cut := context.WithCancelCause(context.WithoutCancel(ctx))
	defer cut(nil)
	started, err := s.start(base)
	if err == nil {
		during()
	}
	s.stop(started, cut)
	return err
}

// start starts the queues in turn, and returns those that it has started.
func (s *server) start(base context.Context) (started []*served, err error) {
	for _, q := range s.queues {
		err := q.asynq.Start(asynq.HandlerFunc(func(_ context.Context, t *asynq.Task) error {
			defer s.waker.Done(q.name)
			id := t.ResultWriter().TaskID()
			err := q.handle(base, id, t)
			if errors.Is(err, queue.ErrNotOurs) {
				s.c.log.Error("a task was not taken", "queue", q.name, "task", id, "type", t.Type(), "error", err)
			}
			return err
		}))
		if err != nil {
			return started, fmt.Errorf("start the server of queue %s: %w", q.name, err)
		}
		started = append(started, q)
	}
	return started, nil
}

func (s *server) stop(started []*served, cut context.CancelCauseFunc) {
	s.waker.Close(passOn)
	for _, q := range started {
		q.asynq.Stop()
	}
	close(s.stopping)
	var handlers sync.WaitGroup
	for _, q := range started {
		handlers.Go(q.asynq.Shutdown) // it waits for its handlers
	}
	down := make(chan struct{})
	go func() { handlers.Wait(); close(down) }()
	grace := time.NewTimer(s.c.grace)
	defer grace.Stop()
	select {
	case <-down:
	case <-grace.C:
		cut(errGrace)
		<-down
	}
}

// keepAfter is how long Redis may refuse one write, while it takes others, until it
// is kept on the disk.
const keepAfter = time.Minute

// refusals tells a write that Redis refuses from a Redis that is away: others succeed.
type refusals struct {
	after time.Duration
	last  atomic.Int64 // when a write succeeded, in Unix nanoseconds
}

func (r *refusals) passed() { r.last.Store(time.Now().UnixNano()) }

// persist asks as the function of that name does, but gives a write up that has been
// refused for so long while others succeeded.
func (r *refusals) persist(stop <-chan struct{}, ask func() error) error {
	begun := time.Now()
	var refused error
	err := persist(stop, 0, func() error {
		err := ask()
		last := time.Unix(0, r.last.Load())
		if err != nil && time.Since(begun) >= r.after && last.After(begun) && time.Since(last) < max(r.after/2, 5*time.Second) {
			refused = err
			return nil
		}
		return err
	})
	return cmp.Or(refused, err)
}

// persist asks until the answer is one, or Void, at growing intervals. Once stop
// is closed it asks once more at most, and after within not again; 0: no bound.
func persist(stop <-chan struct{}, within time.Duration, ask func() error) error {
	begun := time.Now()
	for pause := 50 * time.Millisecond; ; pause = min(2*pause, 2*time.Second) {
		err := ask()
		if err == nil || tasks.Void(err) || within > 0 && time.Since(begun) > within {
			return err
		}
		select {
		case <-stop:
			return err
		default:
		}
		select {
		case <-stop:
		case <-time.After(pause):
		}
	}
}

// asynqLog lets Asynq speak through our logger. Its messages carry task ids,
// never payloads.
type asynqLog struct{ log *slog.Logger }

func (l asynqLog) Debug(args ...any) { l.log.Debug(fmt.Sprint(args...), "part", "asynq") }
func (l asynqLog) Info(args ...any)  { l.log.Info(fmt.Sprint(args...), "part", "asynq") }
func (l asynqLog) Warn(args ...any)  { l.log.Warn(fmt.Sprint(args...), "part", "asynq") }

// Error logs. That Asynq may not subscribe to its cancelations, which it tries
// each five seconds, is no matter: nothing here is canceled through Asynq.
func (l asynqLog) Error(args ...any) {
	text, level := fmt.Sprint(args...), slog.LevelError
	if strings.HasPrefix(text, "cannot subscribe to cancelation channel") {
		level = slog.LevelDebug
	}
	l.log.Log(context.Background(), level, text, "part", "asynq")
}

// Fatal logs: who embeds Asynq decides when to exit.
func (l asynqLog) Fatal(args ...any) { l.log.Error(fmt.Sprint(args...), "part", "asynq") }
