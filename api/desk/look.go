package desk

import (
	"context"
	"sync"
	"time"

	"github.com/sluicehq/sluice/tasks"
)

// looks shares what is read of an object among all who wait for it in this process:
// however many they are, they read it together.
type looks struct {
	mu sync.Mutex
	of map[string]*looked // by tenant and object, while somebody waits for it
}

// looked is an object that some wait for.
type looked struct {
	waiters int
	last    *look // nil: nobody has looked yet
}

// look is one reading of an object.
type look struct {
	begun time.Time
	done  chan struct{} // closed once the outcome is there
	got   any
	err   error
}

// lookTimeout bounds a look, which goes on when the one that began it has gone: others
// wait for it.
const lookTimeout = 10 * time.Second

// join counts one who waits for an object until leave is called.
func (l *looks) join(tenant, id string) (o *looked, leave func()) {
	key := tenant + "|" + id
	l.mu.Lock()
	defer l.mu.Unlock()
	if o = l.of[key]; o == nil {
		o = &looked{}
		l.of[key] = o
	}
	o.waiters++
	return o, func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		if o.waiters--; o.waiters == 0 {
			delete(l.of, key)
		}
	}
}

// next returns the last reading of an object where it began at since or later, or is
// under way. Else it returns a new one, which is the caller's to do.
func (l *looks) next(o *looked, since time.Time) (k *look, mine bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if k = o.last; k != nil {
		select {
		case <-k.done:
		default:
			return k, false
		}
		if !k.begun.Before(since) {
			return k, false
		}
	}
	o.last = &look{begun: time.Now(), done: make(chan struct{}), err: tasks.ErrUnavailable}
	return o.last, true
}

// see returns an object as a reading found it that began at since or later. Where
// nobody has read it so late, read does.
func see[T any](ctx context.Context, l *looks, o *looked, since time.Time, read func(context.Context) (T, error)) (got T, err error) {
	for {
		k, mine := l.next(o, since)
		if mine {
			k.by(ctx, func(ctx context.Context) (any, error) { return read(ctx) })
		}
		select {
		case <-k.done:
		case <-ctx.Done():
			return got, ctx.Err()
		}
		if k.begun.Before(since) {
			continue // it may have missed what the caller was told of
		}
		if k.err != nil {
			return got, k.err
		}
		return k.got.(T), nil
	}
}

// by looks.
func (k *look) by(ctx context.Context, read func(context.Context) (any, error)) {
	defer close(k.done)
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), lookTimeout)
	defer cancel()
	k.got, k.err = read(ctx)
}
