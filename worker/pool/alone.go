package pool

import (
	"cmp"
	"context"
	"math"
	"slices"
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
	aloneServed = 3   // calls of other tenants that show that the pace is not to blame for one tenant's refusals
	aloneKept   = 256 // jobs, models, and tenants of one

	aloneLately = 10 * time.Second // what was seen fades with this time
	aloneQueue  = 9 * time.Second  // the longest that a question waits for its turn
)

// alone is what this process has seen of jobs that were refused for the pace: each
// job's row of refusals, and how others fared since the last of them.
type alone struct {
	mu       sync.Mutex
	by       map[string]*paced    // by job
	earliest time.Time            // when the next question may be asked
	asked    map[string]*question // the latest, by model
	lately   map[string]*tallies  // by model
}

// question is the smallest question to a model that refused a job.
type question struct {
	model string
	at    time.Time     // when it may be asked
	done  chan struct{} // closed when it has its answer; what follows is set before
	well  bool          // the model answers
	own   bool          // it is told 429, and another model of the pool answers
}

// tally is how calls fared of late, in calls that fade.
type tally struct {
	served, refused float64
	at              time.Time
}

// to fades a tally to a time.
func (t *tally) to(now time.Time) *tally {
	if since := now.Sub(t.at); since > 0 {
		fade := math.Exp(-since.Seconds() / aloneLately.Seconds())
		t.served, t.refused, t.at = t.served*fade, t.refused*fade, now
	}
	return t
}

func (t *tally) count(o tasks.Outcome, now time.Time) {
	switch t.to(now); o {
	case tasks.Succeeded:
		t.served++
	case tasks.RateLimited:
		t.refused++
	}
}

// tallies are how a model's calls fared of late: all of them, and each tenant's.
type tallies struct {
	all tally
	by  map[string]*tally
}

// count takes in a call for a model.
func (l *alone) count(c Call, o tasks.Outcome, now time.Time) *tallies {
	t := l.lately[c.Model]
	if t == nil {
		if l.lately == nil || len(l.lately) >= aloneKept {
			l.lately = map[string]*tallies{}
		}
		t = &tallies{}
		l.lately[c.Model] = t
	}
	own := t.by[c.Tenant]
	if own == nil {
		if t.by == nil || len(t.by) >= aloneKept {
			*t = tallies{by: map[string]*tally{}}
		}
		own = &tally{}
		t.by[c.Tenant] = own
	}
	t.all.count(o, now)
	own.count(o, now)
	return t
}

// rare reports whether so few calls are refused that one of them may be alone in it,
// or so few of other tenants' that the pace is not to blame for this one's.
func (t *tallies) rare(tenant string, now time.Time) bool {
	all, own := t.all.to(now), t.by[tenant].to(now)
	served, refused := all.served-own.served, all.refused-own.refused
	return all.refused < 1.5 || all.served >= aloneOthers*all.refused ||
		served >= aloneServed && served >= aloneOthers*refused
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
	begin *question // that is to be asked when its time comes; nil: none is
	wait  *question // that is asked already for another job; nil: none is
}

// usedUp reports whether a refusal states an allowance of which nothing is left: then
// it is the pace.
func usedUp(r upstream.Rates) bool {
	for _, d := range []upstream.Rate{r.Requests, r.Input, r.Output, r.Tokens, r.Project} {
		if d.Present && d.Remaining <= 0 {
			return true
		}
	}
	return false
}

// saw takes in an answer. The first refusal of a row shows nothing by itself; it is
// inquired into where such are rare, and where it does not say that an allowance is
// used up. A job that is refused again is always inquired into, with others that are
// at the same time; before it is blamed, by a question of its own.
func (l *alone) saw(c Call, a upstream.Answer, now time.Time) (v sight) {
	l.mu.Lock()
	defer l.mu.Unlock()
	ramp := a.Outcome == tasks.RampLimited // speaks of all that is sent, so nothing is asked
	l.beside(c, a.Outcome, now)
	if !ramp && a.Outcome != tasks.RateLimited {
		l.count(c, a.Outcome, now)
		delete(l.by, c.Job)
		return sight{}
	}
	r := l.rowOf(c)
	r.row++
	v.row = r.row
	again := r.row >= aloneSilent
	v.shown = again && (r.row >= aloneStated || !a.HasRetryAfter) && r.served > 0 && r.served >= aloneOthers*r.refused
	outcome := a.Outcome
	if again {
		outcome = "" // a job that is refused again and again says nothing of the pace of others
	}
	rare := l.count(c, outcome, now).rare(c.Tenant, now) && !usedUp(a.Rates)
	switch {
	case v.shown, ramp:
	case r.row >= aloneBlamed:
		if v.begin = l.turn(c.Model, now); v.begin == nil {
			v.wait = l.latest(c.Model, now)
		}
	case again || rare:
		if v.wait = l.latest(c.Model, now); v.wait == nil {
			v.begin = l.turn(c.Model, now)
		}
	}
	r.came, r.served, r.refused = now, 0, 0
	return v
}

// beside notes how a call ended in the rows of other jobs that were refused before it
// was sent.
func (l *alone) beside(c Call, o tasks.Outcome, now time.Time) {
	for job, r := range l.by {
		if job == c.Job || r.model != c.Model || !now.Add(-c.Took).After(r.came) {
			continue
		}
		switch o {
		case tasks.RateLimited, tasks.RampLimited:
			r.refused++
		case tasks.Succeeded:
			r.served++
		}
	}
}

// rowOf is the row of a call's job, a new one where it has none.
func (l *alone) rowOf(c Call) *paced {
	r := l.by[c.Job]
	if r == nil {
		if l.by == nil || len(l.by) >= aloneKept {
			l.by = map[string]*paced{}
		}
		r = &paced{model: c.Model}
		l.by[c.Job] = r
	}
	return r
}

// latest is the question to a model whose answer tells what the model says now; nil:
// there is none.
func (l *alone) latest(model string, now time.Time) *question {
	if q := l.asked[model]; q != nil && now.Before(q.at.Add(inquiryEvery)) {
		return q
	}
	return nil
}

// turn is a new question to a model; nil: its turn would come too late. Questions are
// asked one at a time.
func (l *alone) turn(model string, now time.Time) *question {
	at := now
	if l.earliest.After(now) {
		at = l.earliest
	}
	if at.Sub(now) > aloneQueue {
		return nil
	}
	if l.asked == nil || len(l.asked) >= aloneKept {
		l.asked = map[string]*question{}
	}
	q := &question{model: model, at: at, done: make(chan struct{})}
	l.earliest, l.asked[model] = at.Add(inquiryEvery), q
	return q
}

// inquire asks when it is time to, and tells those that wait for it.
func (h *Health) inquire(ctx context.Context, q *question) {
	defer close(q.done)
	turn := time.NewTimer(time.Until(q.at))
	defer turn.Stop()
	select {
	case <-turn.C:
	case <-ctx.Done():
		return
	}
	ctx, cancel := context.WithTimeout(ctx, inquiryTime)
	defer cancel()
	o := h.ping(ctx, q.model).Outcome
	if q.well = o == tasks.Succeeded; q.well || o != tasks.RateLimited {
		return
	}
	others := slices.DeleteFunc(h.breaker.Known(), func(name string) bool { return name == q.model || !Serves(h.models, name) })
	if len(others) == 0 || h.ping(ctx, others[0]).Outcome != tasks.Succeeded {
		return
	}
	// A bucket that was just empty may have had room for that one.
	q.own = h.ping(ctx, q.model).Outcome == tasks.RateLimited
}

// singled says whose a refusal for the pace is. Singled and Blamed: the job's, since
// others, or a probe of the same model, are answered. Paused: the model's, since
// another one is, and it is held back. Open: the pool's.
func (h *Health) singled(ctx context.Context, c Call, a upstream.Answer) Standing {
	v := h.alone.saw(c, a, time.Now())
	q := cmp.Or(v.begin, v.wait)
	if q != nil {
		if c.Held != nil {
			c.Held()
		}
		if q == v.begin {
			h.inquire(ctx, q)
		}
		select {
		case <-q.done:
		case <-ctx.Done():
			return Open
		}
	}
	switch {
	case q != nil && q.own:
		if q == v.begin {
			if err := h.breaker.HoldModel(ctx, c.Model, string(a.Outcome), a.RetryAfter); err != nil {
				h.log.Warn("a model was not held back", "error", err)
				return Open
			}
		}
		return Paused
	case !v.shown && (q == nil || !q.well):
		return Open
	case v.row < aloneBlamed || v.wait != nil:
		return Singled
	}
	return Blamed
}
