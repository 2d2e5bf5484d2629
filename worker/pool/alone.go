package pool

import (
	"context"
	"math"
	"sync"
	"time"

	"github.com/sluicehq/sluice/tasks"
	"github.com/sluicehq/sluice/worker/upstream"
)

const (
	aloneSilent = 2   // refusals of a job in a row after which its pace is doubted, when they state no wait
	aloneStated = 3   // likewise, when they do: the provider was given the time that it asked for
	aloneBlamed = 5   // likewise, after which its request is to blame
	aloneOthers = 10  // calls of others that succeed for each that is refused, where the pace is not to blame
	aloneKept   = 256 // jobs

	aloneLately = 10 * time.Second // what was seen fades with this time
)

// alone is what this process has seen of jobs that were refused for the pace: each
// job's row of refusals, and how others fared since the last of them.
type alone struct {
	mu       sync.Mutex
	by       map[string]*paced // by job
	earliest time.Time         // when the next inquiry may begin
	latest   *question         // nil before the first
	lately   map[string]*tally // by model
}

// question is the smallest question to a model that refused a job.
type question struct {
	model string
	done  chan struct{} // closed when it has its answer
	well  bool          // that is one; to be read after done
}

// tally is how calls for a model fared of late, in calls that fade.
type tally struct {
	served, refused float64
	at              time.Time
}

// rare reports whether so few calls are refused that one of them may be alone in it.
func (t *tally) rare() bool { return t.refused < 1.5 || t.served >= aloneOthers*t.refused }

// count takes in a call for a model.
func (l *alone) count(model string, o tasks.Outcome, now time.Time) *tally {
	t := l.lately[model]
	if t == nil {
		if l.lately == nil || len(l.lately) >= aloneKept {
			l.lately = map[string]*tally{}
		}
		t = &tally{at: now}
		l.lately[model] = t
	}
	if since := now.Sub(t.at); since > 0 {
		fade := math.Exp(-since.Seconds() / aloneLately.Seconds())
		t.served, t.refused, t.at = t.served*fade, t.refused*fade, now
	}
	switch o {
	case tasks.Succeeded:
		t.served++
	case tasks.RateLimited:
		t.refused++
	}
	return t
}

// paced is a row of refusals of one job for the pace, with no other answer between them.
type paced struct {
	model           string
	row             int
	came            time.Time // the last
	served, refused int       // calls of other jobs for that model that were sent since
}

// sight is what one answer shows of its job.
type sight struct {
	row   int       // how often the job has been refused in a row
	shown bool      // that is so often, while others were answered, that the pace is not to blame
	begin *question // that is to be asked; nil: not now
	wait  *question // that was asked already for another job; nil: it was not
}

// saw takes in an answer. The first refusal of a row shows nothing by itself; one that
// states no wait is inquired into where such are rare.
func (l *alone) saw(c Call, a upstream.Answer, now time.Time) (v sight) {
	l.mu.Lock()
	defer l.mu.Unlock()
	limited := a.Outcome == tasks.RateLimited
	lately := l.count(c.Model, a.Outcome, now)
	for job, r := range l.by {
		if job == c.Job || r.model != c.Model || !now.Add(-c.Took).After(r.came) {
			continue
		}
		switch {
		case limited:
			r.refused++
		case a.Outcome == tasks.Succeeded:
			r.served++
		}
	}
	if !limited {
		delete(l.by, c.Job)
		return sight{}
	}
	r := l.by[c.Job]
	if r == nil {
		if l.by == nil || len(l.by) >= aloneKept {
			l.by = map[string]*paced{}
		}
		r = &paced{model: c.Model}
		l.by[c.Job] = r
	}
	r.row++
	v.row = r.row
	doubted := r.row >= aloneStated || r.row >= aloneSilent && !a.HasRetryAfter
	v.shown = doubted && r.served > 0 && r.served >= aloneOthers*r.refused
	if r.row == 1 && !a.HasRetryAfter && lately.rare() {
		if doubted = true; now.Before(l.earliest) && l.latest.model == c.Model {
			v.wait = l.latest
		}
	}
	if doubted && !v.shown && !now.Before(l.earliest) {
		v.begin = &question{model: c.Model, done: make(chan struct{})}
		l.earliest, l.latest = now.Add(inquiryEvery), v.begin
	}
	r.came, r.served, r.refused = now, 0, 0
	return v
}

// inquire asks, and tells those that wait for it.
func (h *Health) inquire(ctx context.Context, q *question) bool {
	defer close(q.done)
	ctx, cancel := context.WithTimeout(ctx, inquiryTime)
	defer cancel()
	q.well = h.ping(ctx, q.model).Outcome == tasks.Succeeded
	return q.well
}

// singled returns Singled or Blamed for a job that is refused again and again for a
// pace at which others, or a probe of the same model, are answered; else Open.
func (h *Health) singled(ctx context.Context, c Call, a upstream.Answer) Standing {
	v := h.alone.saw(c, a, time.Now())
	switch {
	case v.begin != nil:
		v.shown = h.inquire(ctx, v.begin)
	case v.wait != nil:
		select {
		case <-v.wait.done:
			v.shown = v.wait.well
		case <-ctx.Done():
		}
	}
	switch {
	case !v.shown:
		return Open
	case v.row < aloneBlamed:
		return Singled
	}
	return Blamed
}
