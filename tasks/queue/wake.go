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
// polling for it. Asynq asks an empty queue again after TaskCheckInterval;
// with the hook on the server's client, the next ask after an empty one is
// held until Kick or until its poll is due. Nothing of Asynq changes,
// and without kicks it is only a slower poll.
type Waker struct {
	poll time.Duration

	mu     sync.Mutex
	kicked map[string]chan struct{} // by queue; closed by a kick
	empty  map[string]bool          // by queue: the last ask found none, so at most the told tasks are in it
	told   map[string]int           // by queue: tasks that were put into an empty one, and not asked for yet
	shut   map[string]func() bool   // by queue; set before the server starts
	open   chan struct{}            // closed by Release
}

// NewWaker returns a Waker for one client. An idle server looks by itself every
// poll; 0 means half a second.
func NewWaker(poll time.Duration) *Waker {
	if poll == 0 {
		poll = 500 * time.Millisecond
	}
	return &Waker{poll: poll, kicked: map[string]chan struct{}{}, empty: map[string]bool{}, told: map[string]int{}, shut: map[string]func() bool{}, open: make(chan struct{})}
}

// Kick lets the held ask of a queue go ahead, for it holds n tasks more: n
// asks are made, and none to learn that it is empty again. With 0 the number is
// unknown: the queue is asked until it is empty.
func (w *Waker) Kick(queue string, n int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if n > 0 && w.empty[queue] {
		w.told[queue] += n
	} else {
		w.empty[queue], w.told[queue] = false, 0
	}
	if c := w.kicked[queue]; c != nil {
		close(c)
		delete(w.kicked, queue)
	}
}

// Shut has a queue looked empty while shut says so, however many tasks it holds: this
// process takes none. It is called before the server of the queue starts.
func (w *Waker) Shut(queue string, shut func() bool) { w.shut[queue] = shut }

// closed waits for a poll's time when the queue is shut, and reports whether it is.
func (w *Waker) closed(ctx context.Context, queue string) bool {
	if shut := w.shut[queue]; shut == nil || !shut() {
		return false
	}
	timer := time.NewTimer(w.poll)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-w.open:
	case <-ctx.Done():
	}
	return true
}

// Release ends all holding, for shutdown. It may be called more than once.
func (w *Waker) Release() {
	w.mu.Lock()
	defer w.mu.Unlock()
	select {
	case <-w.open:
	default:
		close(w.open)
	}
}

// before holds an ask of a queue that was empty at the last one. It returns the
// channel that the next kick closes, and whether nobody told of a task.
func (w *Waker) before(ctx context.Context, queue string) (kick <-chan struct{}, polled bool) {
	w.mu.Lock()
	next := w.kicked[queue]
	if next == nil {
		next = make(chan struct{})
		w.kicked[queue] = next
	}
	hold := w.empty[queue] && w.told[queue] == 0
	if !hold && w.empty[queue] {
		w.told[queue]--
	}
	w.mu.Unlock()
	if !hold {
		return next, false
	}
	timer := time.NewTimer(w.poll)
	defer timer.Stop()
	select {
	case <-next:
		return w.before(ctx, queue)
	case <-timer.C:
	case <-w.open:
	case <-ctx.Done():
	}
	return next, true
}

// after notes whether the ask found nothing; a kick that came meanwhile wins.
// polled says that no task was told of: if the ask found one, there may be more.
func (w *Waker) after(queue string, nothing, polled bool, kick <-chan struct{}) {
	w.mu.Lock()
	defer w.mu.Unlock()
	switch {
	case nothing:
		select {
		case <-kick:
		default:
			w.empty[queue], w.told[queue] = true, 0 // others have taken the told tasks
		}
	case polled:
		w.empty[queue], w.told[queue] = false, 0
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

// ProcessHook holds the asks of an empty queue.
func (w *Waker) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		queue := dequeued(cmd)
		if queue == "" {
			return next(ctx, cmd)
		}
		if w.closed(ctx, queue) {
			cmd.SetErr(redis.Nil)
			return redis.Nil
		}
		kick, polled := w.before(ctx, queue)
		err := next(ctx, cmd)
		// A Redis that cannot answer is not asked more often than an empty queue;
		// an unknown script is sent whole by the very next command.
		w.after(queue, err != nil && !redis.HasErrorPrefix(err, "NOSCRIPT"), polled, kick)
		return err
	}
}

// ProcessPipelineHook changes nothing: Asynq does not dequeue in pipelines.
func (w *Waker) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return func(ctx context.Context, cmds []redis.Cmder) error { return next(ctx, cmds) }
}
