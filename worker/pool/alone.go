package pool

import (
	"context"
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
)

// alone is what this process has seen of jobs that were refused for the pace: each
// job's row of refusals, and how others fared since the last of them.
type alone struct {
	mu       sync.Mutex
	by       map[string]*paced // by job
	earliest time.Time         // when the next inquiry may begin
}

// paced is a row of refusals of one job for the pace, with no other answer between them.
type paced struct {
	model           string
	row             int
	came            time.Time // the last
	served, refused int       // calls of other jobs for that model that were sent since
}

// saw takes in an answer, and returns how often the job has been refused in a row.
// shown is true when that is so often, while others were answered, that the pace is
// not to blame, and inquire when that is to be asked.
func (l *alone) saw(c Call, a upstream.Answer, now time.Time) (row int, shown, inquire bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	limited := a.Outcome == tasks.RateLimited
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
		return 0, false, false
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
	doubted := r.row >= aloneStated || r.row >= aloneSilent && !a.HasRetryAfter
	shown = doubted && r.served > 0 && r.served >= aloneOthers*r.refused
	if inquire = doubted && !shown && !now.Before(l.earliest); inquire {
		l.earliest = now.Add(inquiryEvery)
	}
	r.came, r.served, r.refused = now, 0, 0
	return r.row, shown, inquire
}

// singled returns Singled or Blamed for a job that is refused again and again for a
// pace at which others, or a probe of the same model, are answered; else Open.
func (h *Health) singled(ctx context.Context, c Call, a upstream.Answer) Standing {
	row, shown, inquire := h.alone.saw(c, a, time.Now())
	switch {
	case !shown && !(inquire && h.ping(ctx, c.Model).Outcome == tasks.Succeeded):
		return Open
	case row < aloneBlamed:
		return Singled
	}
	return Blamed
}
