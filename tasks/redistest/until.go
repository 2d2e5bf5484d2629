package redistest

import (
	"context"
	"sync"
	"testing"
	"time"
)

// Until looks again and again until ok holds, and fails the test after a minute: what
// passes has cost nothing, and a busy machine is no fault. It is for what tells nobody
// when it changes; what has a channel or a notice is waited for by that.
func Until(tb testing.TB, what string, ok func() bool) {
	tb.Helper()
	Within(tb, time.Minute, what, ok)
}

// Within is [Until] with another limit. It looks each two milliseconds at first, and
// less often, down to each 25 ms, the longer it has waited.
func Within(tb testing.TB, limit time.Duration, what string, ok func() bool) {
	tb.Helper()
	begun := time.Now()
	look := time.NewTimer(0)
	defer look.Stop()
	for <-look.C; !ok(); <-look.C {
		waited := time.Since(begun)
		if waited > limit {
			tb.Fatalf("not within %v: %s", limit, what)
		}
		look.Reset(min(max(2*time.Millisecond, waited/16), 25*time.Millisecond))
	}
}

// Expiring returns a context whose deadline passes when pass is called: a caller's
// patience ends where the test is, however slow the machine. It ends with its parent, too.
func Expiring(parent context.Context) (ctx context.Context, pass func()) {
	e := &expiring{Context: parent, done: make(chan struct{})}
	end := func(err error) {
		e.mu.Lock()
		defer e.mu.Unlock()
		if e.err == nil {
			e.err = err
			close(e.done)
		}
	}
	context.AfterFunc(parent, func() { end(parent.Err()) })
	return e, func() { end(context.DeadlineExceeded) }
}

// expiring is a context that ends as its test says.
type expiring struct {
	context.Context
	done chan struct{}
	mu   sync.Mutex
	err  error
}

func (e *expiring) Done() <-chan struct{} { return e.done }

func (e *expiring) Err() error {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.err
}
