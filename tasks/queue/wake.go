package queue

import (
	"context"
	"net"
	"strings"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"
)

// Waker is a go-redis hook that makes an Asynq server wait for work instead of
// polling for it, and take several tasks in one round trip. Asynq asks an empty
// queue again after TaskCheckInterval; with the hook on the server's client, the
// next ask after an empty one is held until Kick or until its poll is due. Asynq
// asks for one task at a time; far from Redis, where more are known or likely to wait,
// the hook sends its ask several times in one pipeline, and answers Asynq's next asks
// with what has come. Nothing of Asynq changes, and without kicks it is only a slower poll.
type Waker struct {
	rdb  redis.UniversalClient
	poll time.Duration
	now  func() time.Time

	mu     sync.Mutex
	queues map[string]*asked
	trip   time.Duration // to Redis and back: the shortest of late; 0: not known
	moved  chan struct{} // told when a task was passed on, or an ask has returned
	closed chan struct{} // by Close
}

// asked is what is known of a queue.
type asked struct {
	kicked chan struct{} // closed by the next kick
	empty  bool          // the last ask found none, so at most the told tasks are in it
	told   int           // tasks that were put into an empty one, and not asked for yet
	free   int           // tasks that its server has room for; an ask is for one at least
	likely int           // tasks that the next ask of one with an unknown number is for: twice what the last one found
	asks   int           // under way
	came   []any         // answers that came with another, for Asynq's next asks
	shut   func() bool   // no task is to be taken; nil: never
}

const (
	// mostAtOnce is how many tasks one round trip takes at most. One whose answer is lost
	// leaves them to [Feeder.Run], which hands them out anew.
	mostAtOnce = 16
	// each is how much of a round trip a task may take. What comes at once is begun in
	// any order, so a worker near Redis, which can take a thousand a second
	// singly, takes them so: the jobs of a lane keep theirs.
	each = time.Millisecond
)

// NewWaker returns a Waker, which is to be added to the hooks of rdb, a client of
// Asynq's servers alone. An idle server looks by itself every poll; 0 means half a second.
func NewWaker(rdb redis.UniversalClient, poll time.Duration) *Waker {
	if poll == 0 {
		poll = 500 * time.Millisecond
	}
	return &Waker{rdb: rdb, poll: poll, now: time.Now, queues: map[string]*asked{}, moved: make(chan struct{}, 1), closed: make(chan struct{})}
}

// Serve says that a server works at a queue, with room for so many tasks at
// once. While shut says so, the queue looks empty, however many tasks it holds: this
// process takes none; nil: never. Without Serve the queue is asked for one task at a time.
func (w *Waker) Serve(queue string, room int, shut func() bool) {
	w.change(queue, func(q *asked) {
		q.free += room
		q.shut = shut
	})
}

// Done says that the server has room for a task more: one that it was passed has ended.
func (w *Waker) Done(queue string) { w.change(queue, func(q *asked) { q.free++ }) }

func (w *Waker) change(queue string, by func(*asked)) {
	w.mu.Lock()
	defer w.mu.Unlock()
	by(w.queue(queue))
}

// queue returns what is known of a queue, under w.mu.
func (w *Waker) queue(name string) *asked {
	q := w.queues[name]
	if q == nil {
		q = &asked{kicked: make(chan struct{}), likely: 1}
		w.queues[name] = q
	}
	return q
}

// Kick lets the held ask of a queue go ahead, for it holds n tasks more: n
// tasks are asked for, and none to learn that it is empty again. With 0 the number is
// unknown: the queue is asked until it is empty.
func (w *Waker) Kick(queue string, n int) {
	w.change(queue, func(q *asked) {
		if n > 0 && q.empty {
			q.told += n
		} else {
			q.empty, q.told = false, 0
		}
		close(q.kicked)
		q.kicked = make(chan struct{})
	})
}

// Close ends the asking, for shutdown, and waits until what has come was passed on
// to Asynq, or for within. From then on Asynq is told that every queue is empty.
// It may be called more than once.
func (w *Waker) Close(within time.Duration) {
	w.mu.Lock()
	select {
	case <-w.closed:
	default:
		close(w.closed)
	}
	w.mu.Unlock()
	late := time.NewTimer(within)
	defer late.Stop()
	for w.busy() {
		select {
		case <-w.moved:
		case <-late.C:
			return
		}
	}
}

// busy reports whether something is asked for, or has come and was not passed on.
func (w *Waker) busy() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, q := range w.queues {
		if q.asks > 0 || len(q.came) > 0 {
			return true
		}
	}
	return false
}

// ask is one round trip to a queue.
type ask struct {
	many   int             // tasks that it is for; 0: none is to be made
	came   any             // with many 0: the answer that had come before, or nil
	polled bool            // nobody told of a task
	kicked <-chan struct{} // closed by the next kick
}

// before holds an ask of a queue that was empty at the last one.
func (w *Waker) before(ctx context.Context, queue string) ask {
	var due <-chan time.Time
	for polled := false; ; {
		a, ready := w.next(queue, polled)
		if ready {
			return a
		}
		if due == nil {
			timer := time.NewTimer(w.poll)
			defer timer.Stop()
			due = timer.C
		}
		select {
		case <-a.kicked:
		case <-w.closed:
		case <-due:
			polled = true
		case <-ctx.Done():
			return ask{}
		}
	}
}

// next says what the next ask of a queue is, and false when it is to be held.
func (w *Waker) next(queue string, polled bool) (a ask, ready bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	q := w.queue(queue)
	a.kicked = q.kicked
	select {
	case <-w.closed:
		ready = true
	default:
	}
	switch {
	case len(q.came) > 0:
		a.came, q.came = q.came[0], q.came[1:]
		q.free--
		wake(w.moved)
		return a, true
	case ready:
		return a, true
	case q.shut != nil && q.shut():
		return a, polled
	case q.told > 0:
		a.many = q.told
	case !q.empty:
		a.many = q.likely
	case polled:
		a.many, a.polled = 1, true
	default:
		return a, false
	}
	a.many = max(1, min(a.many, q.free, mostAtOnce, int(w.trip/each)+1))
	q.told = max(0, q.told-a.many)
	q.asks++
	return a, true
}

// after notes how many tasks an ask found, and how long that took; a kick that came
// meanwhile wins.
func (w *Waker) after(queue string, a ask, found []any, took time.Duration, again bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.trip == 0 || took < w.trip {
		w.trip = took // a busy machine makes some trips longer, none shorter
	} else {
		w.trip += (took - w.trip) / 64
	}
	q := w.queue(queue)
	q.asks--
	if len(found) > 0 {
		q.free-- // the first is Asynq's already
		q.came = append(q.came, found[1:]...)
	}
	q.likely = min(2*max(1, len(found)), mostAtOnce)
	switch {
	case again:
		q.empty, q.told = false, 0
	case len(found) < a.many:
		q.likely = 1
		select {
		case <-a.kicked:
		default:
			q.empty, q.told = true, 0 // others have taken the told tasks
		}
	case a.polled:
		q.empty, q.told = false, 0 // there may be more
	}
	wake(w.moved)
}

func wake(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// dequeued returns the queue that a command asks for work, or "". Asynq's
// dequeue is the one script whose first two keys are a queue's pending list
// and its pause mark.
func dequeued(cmd redis.Cmder) string {
	if cmd.Name() != "evalsha" && cmd.Name() != "eval" {
		return ""
	}
	args := cmd.Args()
	if len(args) < 5 {
		return ""
	}
	pending, _ := args[3].(string)
	paused, _ := args[4].(string)
	if !strings.HasPrefix(pending, "asynq:{") || !strings.HasSuffix(pending, "}:pending") || !strings.HasSuffix(paused, "}:paused") {
		return ""
	}
	return pending[len("asynq:{") : len(pending)-len("}:pending")]
}

// DialHook changes nothing.
func (w *Waker) DialHook(next redis.DialHook) redis.DialHook {
	return func(ctx context.Context, network, addr string) (net.Conn, error) { return next(ctx, network, addr) }
}

// ProcessHook holds the asks of an empty queue, and lets one of another take several tasks.
func (w *Waker) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		queue := dequeued(cmd)
		asks, ok := cmd.(*redis.Cmd)
		if queue == "" || !ok {
			return next(ctx, cmd)
		}
		a := w.before(ctx, queue)
		switch {
		case a.came != nil:
			asks.SetVal(a.came)
			return nil
		case a.many == 0:
			asks.SetErr(redis.Nil)
			return redis.Nil
		}
		var found []any
		var err error
		began := w.now()
		if a.many == 1 {
			if err = next(ctx, cmd); err == nil {
				found = []any{asks.Val()}
			}
		} else {
			found, err = w.several(ctx, asks, a.many)
		}
		// A Redis that cannot answer is not asked more often than an empty queue;
		// an unknown script is sent whole by the very next command.
		w.after(queue, a, found, w.now().Sub(began), redis.HasErrorPrefix(err, "NOSCRIPT"))
		return err
	}
}

// several sends an ask so many times in one round trip, and returns what was
// found. The answer to the ask itself is the first, if any.
func (w *Waker) several(ctx context.Context, first *redis.Cmd, many int) (found []any, err error) {
	pipe := w.rdb.Pipeline()
	all := []*redis.Cmd{first}
	_ = pipe.Process(ctx, first)
	for len(all) < many {
		c := redis.NewCmd(ctx, first.Args()...)
		all = append(all, c)
		_ = pipe.Process(ctx, c)
	}
	_, _ = pipe.Exec(ctx) // each command has its own error
	for _, c := range all {
		if c.Err() == nil {
			found = append(found, c.Val())
		}
	}
	if err = first.Err(); err != nil && len(found) > 0 {
		first.SetErr(nil) // it met what its answer could not be read of; the next did not
		first.SetVal(found[0])
		err = nil
	}
	return found, err
}

// ProcessPipelineHook changes nothing: Asynq does not dequeue in pipelines.
func (w *Waker) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return func(ctx context.Context, cmds []redis.Cmder) error { return next(ctx, cmds) }
}
