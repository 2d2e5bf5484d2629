package trace

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"
)

// maxBatchBytes keeps a message well below the 4 MiB that gRPC takes.
const maxBatchBytes = 1 << 20

// queue holds spans until they are sent.
type queue struct {
	c       Config
	wake    chan struct{} // there is a full batch
	ctx     context.Context
	cancel  context.CancelFunc // ends a sending
	stopped chan struct{}      // the sender is to send what there is, and end
	ended   chan struct{}

	mu    sync.Mutex
	open  batch   // takes the next span
	full  []batch // oldest first
	spare []byte  // of a batch that was sent
	waits int     // spans in open and full
	shut  bool
}

// batch is what is sent at once.
type batch struct {
	spans []byte
	n     int
}

func newQueue(c Config) *queue {
	q := &queue{c: c, wake: make(chan struct{}, 1), stopped: make(chan struct{}), ended: make(chan struct{})}
	q.ctx, q.cancel = context.WithCancel(context.Background())
	go q.run()
	return q
}

// put appends a span, or drops it where too many wait.
func (q *queue) put(s *span, attrs []attr) {
	q.mu.Lock()
	if q.shut || q.waits >= q.c.Queue {
		q.mu.Unlock()
		q.c.Dropped.Inc()
		return
	}
	q.open.spans = s.append(q.open.spans, attrs)
	q.open.n++
	q.waits++
	filled := q.open.n >= q.c.Batch || len(q.open.spans) >= maxBatchBytes
	if filled {
		q.close()
	}
	q.mu.Unlock()
	if filled {
		select {
		case q.wake <- struct{}{}:
		default:
		}
	}
}

// close has the spans of the open batch sent next. The caller holds mu.
func (q *queue) close() {
	q.full = append(q.full, q.open)
	q.open, q.spare = batch{spans: q.spare[:0]}, nil
}

// run sends until the queue is stopped.
func (q *queue) run() {
	defer close(q.ended)
	tick := time.NewTicker(q.c.Delay)
	defer tick.Stop()
	for {
		select {
		case <-q.wake:
			q.send(false)
		case <-tick.C:
			q.send(true)
		case <-q.stopped:
			q.send(true)
			return
		}
	}
}

// send sends the full batches, and with all the open one.
func (q *queue) send(all bool) {
	for {
		q.mu.Lock()
		if len(q.full) == 0 && all && q.open.n > 0 {
			q.close()
			all = false
		}
		if len(q.full) == 0 {
			q.mu.Unlock()
			return
		}
		b := q.full[0]
		q.full = q.full[1:]
		q.mu.Unlock()

		ctx, cancel := context.WithTimeout(q.ctx, q.c.Timeout)
		err := q.c.Send(ctx, b.spans)
		cancel()
		q.told(b.n, err)
		q.mu.Lock()
		q.waits -= b.n
		q.spare = b.spans
		q.mu.Unlock()
	}
}

// told counts and logs which of n spans are lost.
func (q *queue) told(n int, err error) {
	var some *RejectedError
	switch {
	case err == nil:
	case errors.As(err, &some):
		q.c.Dropped.Add(float64(some.Spans))
		q.c.Log.Warn("who takes the spans has something to say of them", slog.Int("refused", some.Spans), slog.String("message", some.Message))
	default:
		q.c.Dropped.Add(float64(n))
		q.c.Log.Warn("spans were not taken; they are dropped", slog.Int("spans", n), slog.Any("error", err))
	}
}

var errNotTaken = errors.New("nobody took them in time")

// stop sends what there is, until ctx ends.
func (q *queue) stop(ctx context.Context) error {
	q.mu.Lock()
	shut := q.shut
	q.shut = true
	q.mu.Unlock()
	if !shut {
		close(q.stopped)
	}
	defer q.cancel()
	select {
	case <-q.ended:
		return nil
	case <-ctx.Done():
		q.cancel()
		<-q.ended
		return errNotTaken
	}
}
