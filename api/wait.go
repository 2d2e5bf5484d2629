package api

import (
	"context"
	"sync"
	"time"

	"github.com/sluicehq/sluice/tasks"
)

// waits bounds how many requests of one tenant are held at once.
type waits struct {
	most int
	mu   sync.Mutex
	held map[string]int
}

// take reports whether the tenant may hold one more request; give ends it.
func (w *waits) take(tenant string) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.held[tenant] >= w.most {
		return false
	}
	w.held[tenant]++
	return true
}

func (w *waits) give(tenant string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.held[tenant]--; w.held[tenant] == 0 {
		delete(w.held, tenant)
	}
}

// untold is how soon a subscription has to stand, and how often an object is
// looked at of which nobody tells.
const untold = time.Second

// rereadEvery is how often an object is looked at, given how watching it went:
// without notices, as when Redis does not permit channels, waiting goes on by looking.
func (a *API) rereadEvery(err error) time.Duration {
	if err != nil {
		return min(a.RereadEvery, untold)
	}
	return a.RereadEvery
}

// await calls look until it reports done, its error is not nil, or wait has
// passed: at once, when the object may have ended, and every RereadEvery, should
// a notice have been lost, or each second where there are none. Where the notice brings the job as it ended, and job
// is not nil, it is laid down there and there is no further look. It ends early,
// without error, when the API drains and when the tenant holds too many requests
// already: a poll then answers with what it has.
func (a *API) await(ctx context.Context, tenant, id string, wait time.Duration, job *tasks.Job, look func() (done bool, err error)) error {
	// What is already over needs no subscription.
	done, err := look()
	if done || err != nil || wait <= 0 || !a.waits.take(tenant) {
		return err
	}
	defer a.waits.give(tenant)
	a.metrics.held.Inc()
	defer a.metrics.held.Dec()

	end := time.NewTimer(wait)
	defer end.Stop()
	watch, cancel := context.WithTimeout(ctx, min(wait, untold))
	defer cancel()
	ended, stop, err := a.Notices.WatchEnd(watch, id)
	if err == nil {
		defer stop()
	}
	reread := time.NewTicker(a.rereadEvery(err))
	defer reread.Stop()
	for {
		// Again before waiting: it may have changed before the subscription stood.
		if done, err := look(); done || err != nil {
			return err
		}
		select {
		case last := <-ended:
			if last != nil && job != nil && last.Tenant == tenant {
				*job = *last
				return nil
			}
		case <-reread.C:
		case <-end.C:
			_, err := look()
			return err
		case <-a.draining:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}
