package simulate

import (
	"context"
	"slices"
	"sort"
	"time"

	"github.com/sluicehq/sluice/tasks"
)

// causes are what kept jobs waiting, by the full log of what happened, and what callers were told of it.
type causes struct {
	bound  []stretch // what the first in line there waited for, in order
	pauses []stretch
	served []serving // in order
	said   []saying
	drawn  []saying // of timelines
}

// stretch is a time in which calls waited for something; "" is not known yet.
type stretch struct {
	from, until time.Time
	why         tasks.WaitReason
}

// serving is the start of a call, and what all of them had taken of the allowance by then, in seconds.
type serving struct {
	at  time.Time
	sum float64
}

// saying is what somebody was told that a job waits for at a moment.
type saying struct {
	j   *job
	at  time.Time
	why tasks.WaitReason
}

// Causes is how often what was told of a wait is what the job waited for, by the log.
type Causes struct {
	Samples int     `json:"samples"`
	Right   float64 `json:"right"` // share of them
	// Wrong are those that are not, by what was told and what was so: "requests, not tenant_share".
	Wrong map[string]int `json:"wrong"`
}

// gated notes what the first at the gate waits for from now on.
func (w *world) gated(lasts time.Duration, booked bool, bound string) {
	why := tasks.WaitReason(bound)
	if booked { // of those without a place before it the reason was not told
		for i := len(w.bound) - 1; i >= 0 && w.bound[i].why == ""; i-- {
			w.bound[i].why = why
		}
	}
	if lasts > 0 {
		w.bound = append(w.bound, stretch{w.now, w.now.Add(lasts), why})
	}
}

// serves notes that a call starts.
func (w *world) serves(j *job) {
	add := func(list []serving) []serving {
		sum := 0.0
		if n := len(list); n > 0 {
			sum = list[n-1].sum
		}
		of := w.demand(j.Arrival)
		return append(list, serving{w.now, sum + max(of[0], of[1], of[2])})
	}
	w.served, w.own[j.Tenant] = add(w.served), add(w.own[j.Tenant])
}

// between is what was served after a moment and up to another.
func between(list []serving, from, to time.Time) float64 {
	by := func(t time.Time) float64 {
		i := sort.Search(len(list), func(i int) bool { return list[i].at.After(t) })
		if i == 0 {
			return 0
		}
		return list[i-1].sum
	}
	return by(to) - by(from)
}

// during is the stretch that a moment lies in.
func during(list []stretch, at time.Time) (stretch, bool) {
	i := sort.Search(len(list), func(i int) bool { return list[i].from.After(at) })
	if i == 0 || !at.Before(list[i-1].until) {
		return stretch{}, false
	}
	return list[i-1], true
}

// truth is what a job waited for at a moment before its first call; "" where it was free to go. What came
// later, as a call that failed, counts for nothing.
func (w *world) truth(j *job, at time.Time) tasks.WaitReason {
	if _, yes := during(w.pauses, at); yes {
		return tasks.WaitPaused
	}
	gate, _ := during(w.bound, at)
	if j.out.IsZero() || at.Before(j.out) {
		// With the pool to its tenant alone, what was served since would have been its own.
		before := between(w.own[j.Tenant], j.came, j.started.Add(-time.Nanosecond))
		if all := between(w.served, j.came, at); before > 0 && all >= before || before == 0 && all > 0 {
			return tasks.WaitTenantShare
		}
	}
	return gate.why
}

// fuzzy is how far what is told of a moment may be behind: pools are looked at each half second and
// their past is noted each second.
var fuzzy = []time.Duration{0, -500 * time.Millisecond, 500 * time.Millisecond, -time.Second, time.Second}

// judge compares what was told with what was so.
func (w *world) judge(said []saying) (c Causes) {
	c.Wrong = map[string]int{}
	right := 0
	for _, s := range said {
		if s.j.started.IsZero() {
			continue
		}
		c.Samples++
		if slices.ContainsFunc(fuzzy, func(d time.Duration) bool {
			why := w.truth(s.j, s.at.Add(d))
			return why == s.why || why == "" && (s.why == tasks.WaitRequests || s.why == "")
		}) {
			right++
			continue
		}
		c.Wrong[string(s.why)+", not "+string(w.truth(s.j, s.at))]++
	}
	if c.Samples > 0 {
		c.Right = float64(right) / float64(c.Samples)
	}
	return c
}

// timelines draws the timelines of some calls that have ended, and returns how far one was off its
// wall time at most.
func (w *world) timelines(ctx context.Context) (worst float64, err error) {
	for range min(timelinesDrawn, len(w.ended)) {
		j := w.ended[w.random.IntN(len(w.ended))]
		spans, err := w.pools.Timeline(ctx, j.Tenant, j.id)
		if err != nil {
			return 0, err
		}
		record, err := w.store.Job(ctx, j.Tenant, j.id)
		if err != nil {
			return 0, err
		}
		sum, wall := time.Duration(0), record.FinishedAt.Sub(record.CreatedAt)
		at := j.came
		for _, s := range spans {
			sum += s.To.Sub(s.From)
			if !s.From.Equal(at.Truncate(time.Millisecond)) {
				sum += wall // a gap
			}
			at = s.To
			if s.What == tasks.SpanWaiting && !s.To.After(j.started) {
				for n := range 3 {
					w.drawn = append(w.drawn, saying{j, s.From.Add(s.To.Sub(s.From) * time.Duration(2*n+1) / 6), s.For})
				}
			}
		}
		if wall > 0 {
			worst = max(worst, (sum-wall).Abs().Seconds()/wall.Seconds())
		}
	}
	return worst, nil
}

// timelinesDrawn of those that have ended are looked at.
const timelinesDrawn = 300
