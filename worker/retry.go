package worker

import (
	"sync"
	"time"

	"github.com/sluicehq/sluice/tasks"
	"github.com/sluicehq/sluice/worker/pool"
	"github.com/sluicehq/sluice/worker/upstream"
)

// situation is what the retry rule knows beside the answer.
type situation struct {
	attempts int           // used, with this one
	max      int           // allowed
	told     bool          // a caller was told of the answer as it came
	standing pool.Standing // of the pool and of the call in it
	guarded  bool          // the pool has a breaker, which holds it when the provider refuses all
	spent    bool          // the retry budget is used up
	bare     int           // 429s before this one that said nothing, with no success since
	random   float64       // 0 to 1
}

// excused reports whether the call failed for what stopped the pool, its model or
// this process: the job has no part in that.
func (s situation) excused() bool { return s.standing == pool.Paused || s.standing == pool.Away }

// verdict is what becomes of a job after an attempt.
type verdict struct {
	status  tasks.Status // succeeded, failed or retrying
	counted bool         // another try, and this one used up an attempt
	delay   time.Duration
	code    tasks.ErrorCode // of a failed job
	hold    time.Duration   // the whole pool waits that long
	soft    bool            // the pace is softened instead
	ramp    bool            // after the hold the pool begins again slowly
}

const (
	retryBase = 500 * time.Millisecond
	retryCap  = 30 * time.Second

	softLimit   = time.Second      // a retry-after up to this softens the pace; a longer one holds the pool
	defaultHold = 5 * time.Second  // for a 429 that says nothing
	capHold     = 60 * time.Second // for a spend cap or a refused key in a pool without a breaker; the most for a 429 that says nothing

	// reopenedDelay is for a refused key whose pool is open: it was opened again
	// meanwhile, or was not paused because Redis is away.
	reopenedDelay = time.Second
	// budgetPenalty is added to each delay while the retry budget is spent.
	budgetPenalty = 5 * time.Second
)

// decide is the one rule of when to try again: pure, and the only layer that
// retries. Waiting of any kind is not an attempt, but for a job that alone is told
// to again and again; a fault of the provider is, unless its pool has been paused for it; a fault of
// the request ends the job.
func decide(a upstream.Answer, s situation) verdict {
	switch a.Outcome {
	case tasks.Succeeded:
		return verdict{status: tasks.StatusSucceeded}
	case tasks.HandedBack:
		return verdict{status: tasks.StatusRetrying}
	case tasks.RateLimited, tasks.RampLimited:
		return tooFast(a, s)
	case tasks.SpendLimited, tasks.Unauthorized:
		return keyRefused(a, s)
	case tasks.TooLarge:
		return verdict{status: tasks.StatusFailed, code: tasks.ResultTooLarge}
	case tasks.Overloaded, tasks.ServerError, tasks.Timeout, tasks.ConnectError, tasks.CutOff:
		switch {
		case a.ShouldRetry != nil && !*a.ShouldRetry:
			return verdict{status: tasks.StatusFailed, code: tasks.UpstreamRejected}
		case s.excused():
			return verdict{status: tasks.StatusRetrying}
		case a.Outcome == tasks.ConnectError && a.Cause.Kind == upstream.Egress:
			return verdict{status: tasks.StatusRetrying, delay: retryBase + time.Duration(s.random*float64(retryBase))}
		case a.Cause.Kind == upstream.EgressShut:
			return verdict{status: tasks.StatusRetrying, delay: defaultHold + time.Duration(s.random*float64(defaultHold))}
		}
		return another(a, s, tasks.AttemptsExhausted)
	}
	switch {
	case s.excused():
		return verdict{status: tasks.StatusRetrying}
	case a.Doubt == upstream.DoubtKey:
		// No request is to blame for a 401. One that passes is worth another try.
		s.max = min(2, s.max)
		return another(a, s, tasks.UpstreamRejected)
	}
	return verdict{status: tasks.StatusFailed, code: tasks.UpstreamRejected}
}

// tooFast is for a provider whose pace was exceeded: the whole pool waits, unless it
// is only the model's. Without a word on how long, the wait doubles each time. A job
// that is refused while others are answered waits alone; where that goes on it uses up
// its attempts, as far apart as a pool would wait: it may ask for more at once than is
// left, and a minute makes room for it.
func tooFast(a upstream.Answer, s situation) verdict {
	switch {
	case s.excused():
		return verdict{status: tasks.StatusRetrying}
	case s.standing == pool.Singled:
		return verdict{status: tasks.StatusRetrying, delay: max(2*defaultHold, a.RetryAfter)}
	case s.standing == pool.Blamed:
		v := another(a, s, tasks.AttemptsExhausted)
		if v.counted {
			v.delay = max(v.delay, min(defaultHold<<min(s.attempts, 8), capHold))
		}
		return v
	case a.Outcome == tasks.RampLimited:
		return verdict{status: tasks.StatusRetrying, hold: max(a.RetryAfter, defaultHold), ramp: true}
	case !a.HasRetryAfter:
		return verdict{status: tasks.StatusRetrying, hold: min(defaultHold<<min(s.bare, 8), capHold)}
	case a.RetryAfter <= softLimit:
		return verdict{status: tasks.StatusRetrying, delay: a.RetryAfter, soft: true}
	}
	return verdict{status: tasks.StatusRetrying, hold: a.RetryAfter}
}

// keyRefused is for a key that was refused or has no money: no request's fault.
func keyRefused(a upstream.Answer, s situation) verdict {
	switch {
	case !s.guarded:
		return verdict{status: tasks.StatusRetrying, hold: capHold}
	case s.excused():
		return verdict{status: tasks.StatusRetrying}
	case s.standing == pool.Unsettled:
		return another(a, s, tasks.UpstreamRejected)
	}
	return verdict{status: tasks.StatusRetrying, delay: reopenedDelay}
}

// another counts the attempt and tries again, unless it was the last. What it brings
// cannot go on where the caller of a stream was left off: such a job is tried again when
// that asks once more.
func another(a upstream.Answer, s situation, last tasks.ErrorCode) verdict {
	switch {
	case s.told:
		return verdict{status: tasks.StatusFailed, code: tasks.StreamBroken}
	case s.attempts >= s.max:
		return verdict{status: tasks.StatusFailed, code: last}
	}
	return verdict{status: tasks.StatusRetrying, counted: true, delay: backoff(a, s)}
}

// backoff is exponential with full jitter, never shorter than a retry-after.
func backoff(a upstream.Answer, s situation) time.Duration {
	most := min(retryBase<<min(s.attempts-1, 10), retryCap)
	d := time.Duration(s.random * float64(most))
	if s.spent {
		d += budgetPenalty
	}
	if a.HasRetryAfter {
		d = max(d, a.RetryAfter+time.Duration(s.random*0.1*float64(a.RetryAfter)))
	}
	return d
}

// refusedUnpaid reports whether the provider turned a call away before
// charging anything, so that its reservation goes back whole.
func refusedUnpaid(a upstream.Answer) bool {
	switch a.Outcome {
	case tasks.RateLimited, tasks.RampLimited, tasks.SpendLimited, tasks.Unauthorized, tasks.ConnectError, tasks.Rejected:
		return a.Usage == nil
	}
	return false
}

// budget bounds retries to a tenth of the calls of the last ten seconds (and
// always allows ten): past it, retries go on, but later, so that a pool that
// answers errors is not called twice as often as one that works.
// Source: sre.google/sre-book/handling-overload.
type budget struct {
	mu      sync.Mutex
	at      [10]int64 // unix second of each bucket
	calls   [10]int
	retries [10]int
	now     func() time.Time
}

func newBudget() *budget { return &budget{now: time.Now} }

func (b *budget) bucket() int {
	sec := b.now().Unix()
	i := int(sec % 10)
	if b.at[i] != sec {
		b.at[i], b.calls[i], b.retries[i] = sec, 0, 0
	}
	return i
}

func (b *budget) call() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.calls[b.bucket()]++
}

func (b *budget) retry() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.retries[b.bucket()]++
}

func (b *budget) spent() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	calls, retries, sec := 0, 0, b.now().Unix()
	for i := range b.at {
		if sec-b.at[i] < 10 {
			calls, retries = calls+b.calls[i], retries+b.retries[i]
		}
	}
	return retries >= 10 && retries*10 > calls
}

// bare counts the 429s of a pool that say nothing of how long to wait. Those of calls
// that were under way together count once.
type bare struct {
	mu   sync.Mutex
	n    int
	last time.Time
}

// saw takes in an answer to a call sent at that time, and returns how many bare 429s
// came before it since the last success.
func (b *bare) saw(a upstream.Answer, sent time.Time) int {
	b.mu.Lock()
	defer b.mu.Unlock()
	switch {
	case a.Outcome == tasks.Succeeded:
		b.n, b.last = 0, time.Time{}
	case a.Outcome != tasks.RateLimited || a.HasRetryAfter:
	case b.last.IsZero():
		b.last = time.Now()
	case sent.After(b.last):
		b.n, b.last = b.n+1, time.Now()
	}
	return b.n
}
