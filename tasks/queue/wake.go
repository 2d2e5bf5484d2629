package queue

import (
	"context"
	"net"
	"strings"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"
)

// idlePoll is how long an idle server waits for a kick before it looks by
// itself: four calls a second.
const idlePoll = 250 * time.Millisecond

// Waker is a go-redis hook that makes an Asynq server wait for work instead of
// polling for it. Asynq asks an empty queue again after TaskCheckInterval;
// with the hook on the server's client, the next ask after an empty one is
// held until Kick or a quarter second has passed. Nothing of Asynq changes,
// and without kicks it is only a slower poll.
type Waker struct {
	mu     sync.Mutex
	kicked map[string]chan struct{} // by queue; closed by a kick
	empty  map[string]bool          // by queue: the last ask found nothing
	open   chan struct{}            // closed by Release
}

// NewWaker returns a Waker for one client.
func NewWaker() *Waker {
	return &Waker{kicked: map[string]chan struct{}{}, empty: map[string]bool{}, open: make(chan struct{})}
}

// Kick lets the held ask of a queue go ahead.
func (w *Waker) Kick(queue string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.empty[queue] = false
	if c := w.kicked[queue]; c != nil {
		close(c)
		delete(w.kicked, queue)
	}
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

// before holds an ask of a queue whose last ask found nothing. It returns the
// channel that a kick from now on closes.
func (w *Waker) before(ctx context.Context, queue string) <-chan struct{} {
	w.mu.Lock()
	kick := w.kicked[queue]
	if kick == nil {
		kick = make(chan struct{})
		w.kicked[queue] = kick
	}
	hold := w.empty[queue]
	w.mu.Unlock()
	if !hold {
		return kick
	}
	timer := time.NewTimer(idlePoll)
	defer timer.Stop()
	select {
	case <-kick:
		return w.before(ctx, queue)
	case <-timer.C:
	case <-w.open:
	case <-ctx.Done():
	}
	return kick
}

// after notes whether the ask found nothing; a kick that came meanwhile wins.
func (w *Waker) after(queue string, nothing bool, kick <-chan struct{}) {
	w.mu.Lock()
	defer w.mu.Unlock()
	select {
	case <-kick:
		w.empty[queue] = false
	default:
		w.empty[queue] = nothing
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
		kick := w.before(ctx, queue)
		err := next(ctx, cmd)
		// A Redis that cannot answer is not asked more often than an empty queue;
		// an unknown script is sent whole by the very next command.
		w.after(queue, err != nil && !redis.HasErrorPrefix(err, "NOSCRIPT"), kick)
		return err
	}
}

// ProcessPipelineHook changes nothing: Asynq does not dequeue in pipelines.
func (w *Waker) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return func(ctx context.Context, cmds []redis.Cmder) error { return next(ctx, cmds) }
}
