package pool

import (
	"cmp"
	"context"
	"math/rand/v2"
	"net/http"
	"sync"
	"time"

	"github.com/sluicehq/sluice/tasks"
	"github.com/sluicehq/sluice/worker/pause"
	"github.com/sluicehq/sluice/worker/upstream"
)

const (
	wayTime  = 5 * time.Second        // how long a test of the way may take
	wayAgain = 300 * time.Millisecond // after which one that failed is made again, before it counts
	wayFresh = 2 * time.Second        // how long what a test found is taken for the present
	wayFirst = 5 * time.Second        // until a process that left tests its way, doubled to wayLast; up to a fifth is added
	wayLast  = 25 * time.Second
)

// way is what this process knows of its way to the provider. Any answer shows that
// it is open, whatever the answer says.
type way struct {
	mu      sync.Mutex
	open    time.Time     // when the latest call was sent that was answered
	shut    time.Time     // when the latest test began that was not
	verdict pause.Verdict // of that test
	found   time.Time     // when it ended; zero once it has been told
	test    chan struct{} // closed at the end of the test under way; nil: none is
	why     string        // this process has left the pool; "": it has not
	gone    chan struct{} // closed when it leaves
	left    chan struct{} // tells Run
}

// unreached reports whether a call came to nothing on its way, and no other may be open.
func unreached(a upstream.Answer) bool {
	return a.Outcome == tasks.ConnectError && a.Cause.Kind != upstream.Egress
}

// misfits reports whether what came shows that something else than the provider's
// API stands at the address, unless only this request does not fit: nobody can tell
// from one answer. A path that is not there has no words of its own.
func misfits(a upstream.Answer) bool {
	return a.Cause.Kind.Misfit() || nowhere(a) && a.Doubt == upstream.NoDoubt
}

func nowhere(a upstream.Answer) bool {
	return a.Status == http.StatusNotFound || a.Status == http.StatusMethodNotAllowed
}

// blamed is the verdict of an answer that shows an outage or a misfit, in words.
func blamed(v pause.Verdict, a upstream.Answer) pause.Verdict {
	v.Kind, v.Misfit, v.Detail = pause.Bad, misfits(a), a.Cause.Detail
	v.Reason = cmp.Or(a.Cause.Message, a.Message, string(a.Outcome))
	if nowhere(a) && a.Cause.Message == "" {
		v.Reason = upstream.UnknownPath(a.Status, a.Message)
	}
	return v
}

func (w *way) answered(a upstream.Answer, took time.Duration) {
	if a.Status == 0 {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.open = later(w.open, time.Now().Add(-took))
}

// closed returns, once, what a test has just found that was not answered: the
// suspicion that it raises needs no other.
func (w *way) closed() (pause.Verdict, bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	found := w.found
	w.found = time.Time{}
	return w.verdict, w.shut.After(w.open) && time.Since(found) < wayFresh
}

// reaches reports whether this process reaches the provider, by what was sent
// later than a call that long ago, or by a test. One test serves all who ask.
func (h *Health) reaches(ctx context.Context, took time.Duration) bool {
	w, sent := &h.way, time.Now().Add(-took)
	for {
		w.mu.Lock()
		switch {
		case w.open.After(sent) && w.open.After(w.shut):
			w.mu.Unlock()
			return true
		case w.shut.After(sent):
			w.mu.Unlock()
			return false
		}
		test, mine := w.test, false
		if test == nil {
			test, mine = make(chan struct{}), true
			w.test = test
		}
		w.mu.Unlock()
		if mine {
			h.try(ctx)
			w.mu.Lock()
			w.test = nil
			w.mu.Unlock()
			close(test)
		}
		select {
		case <-ctx.Done():
			return true // nobody has found out
		case <-test:
		}
	}
}

// try tests the way by the call that costs nothing, twice before it counts as
// shut: a connection that breaks once is no outage.
func (h *Health) try(ctx context.Context) bool {
	var a upstream.Answer
	began := time.Now()
	for range 2 {
		began = time.Now()
		call, cancel := context.WithTimeout(ctx, wayTime)
		a = byAnyWay(func() upstream.Answer { a, _ := h.asker.Models(call); return a })
		cancel()
		if a.Status != 0 {
			h.way.answered(a, time.Since(began))
			return true
		}
		select {
		case <-ctx.Done():
			return false
		case <-time.After(wayAgain):
		}
	}
	w := &h.way
	w.mu.Lock()
	defer w.mu.Unlock()
	w.shut, w.found, w.verdict = began, time.Now(), blamed(pause.Verdict{}, a)
	return false
}

// suspect asks others whether they reach the provider.
func (h *Health) suspect(ctx context.Context, v pause.Verdict) {
	if err := h.breaker.Suspect(ctx, v); err != nil {
		h.log.Warn("that the provider is not reached was not told to others", "error", err)
	}
}

// Away says why this process makes no calls of the pool: others reach the provider
// and it does not. "" while it makes calls.
func (h *Health) Away() string {
	h.way.mu.Lock()
	defer h.way.mu.Unlock()
	return h.way.why
}

// Gone returns a channel that is closed when, or while, this process is away.
func (h *Health) Gone() <-chan struct{} {
	h.way.mu.Lock()
	defer h.way.mu.Unlock()
	return h.way.gone
}

// Held returns how long the jobs of a model are to wait; see [pause.Breaker.Held].
func (h *Health) Held(ctx context.Context, model string) time.Duration {
	return h.breaker.Held(ctx, model)
}

// Shut is what is known of [Health.Paused]; it asks nobody.
func (h *Health) Shut() bool {
	return h.breaker.Shut() || h.within != nil && h.within.Shut()
}

// Sick reports whether a model is held back, as far as is known; it asks nobody.
func (h *Health) Sick(model string) bool { return h.breaker.Sick(model) }

// Try tries a model that is held back, when that is due; see [pause.Breaker.TryModel].
func (h *Health) Try(ctx context.Context, model string) { h.breaker.TryModel(ctx, model) }

// leave takes this process out of the pool.
func (h *Health) leave(why string) {
	w := &h.way
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.why != "" {
		return
	}
	w.why = why
	close(w.gone)
	w.left <- struct{}{}
	h.log.Error("this process cannot reach the provider and others can: it makes no calls until it does", "reason", why)
}

// Run keeps the breaker, and brings this process back when its way is open again,
// until ctx ends.
func (h *Health) Run(ctx context.Context) error {
	if h.asker == nil {
		return h.breaker.Run(ctx)
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	ended := make(chan error, 1)
	go func() { ended <- h.breaker.Run(ctx) }()
	for {
		select {
		case err := <-ended:
			return err
		case <-h.way.left:
		}
		h.comeBack(ctx)
	}
}

// comeBack tests the way until it is open, or until nobody else is there any more:
// then the provider is away for all who are.
func (h *Health) comeBack(ctx context.Context) {
	h.breaker.Leave(ctx)
	for pause := wayFirst; ; pause = min(2*pause, wayLast) {
		wait := time.NewTimer(pause + rand.N(pause/5))
		select {
		case <-ctx.Done():
			wait.Stop()
			return
		case <-wait.C:
		}
		open := h.try(ctx) && h.answers(ctx)
		others, err := h.breaker.Others(ctx)
		if open || err == nil && others == 0 {
			h.log.Info("this process makes calls again", "provider_reached", open, "others", others)
			break
		}
	}
	h.breaker.Return()
	w := &h.way
	w.mu.Lock()
	defer w.mu.Unlock()
	w.why, w.gone = "", make(chan struct{})
}

// answers reports whether a model that others have had an answer from answers here.
func (h *Health) answers(ctx context.Context) bool {
	names := h.breaker.Known()
	if len(names) == 0 {
		return true
	}
	call, cancel := context.WithTimeout(ctx, wayTime)
	defer cancel()
	return h.found(h.ping(call, names[0])).Kind != pause.Bad
}
