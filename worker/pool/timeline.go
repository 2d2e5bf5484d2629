package pool

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"sort"
	"time"

	"github.com/sluicehq/sluice/tasks"
)

// notRecorded is the detail of a wait whose cause nobody noted.
const notRecorded = "not recorded"

// course is what a job's timeline is drawn from.
type course struct {
	tasks.History
	end    time.Time // of the job, or now
	weight float64   // of its tenant
	one    float64   // seconds of the allowance that a call of late has taken, where that is known
	rest   float64   // seconds of the pool's allowance that what stands before it of its tenant takes, and itself; of one that waits
}

// Timeline returns the spans of a tenant's job from its acceptance to its end, or to now,
// without gaps. tasks.ErrNotFound: the tenant has no such job.
func (s *Set) Timeline(ctx context.Context, tenant, id string) ([]tasks.Span, error) {
	h, err := s.record.History(ctx, tenant, id)
	if err != nil {
		return nil, err
	}
	c := course{History: h, end: h.Job.FinishedAt, weight: 1}
	if c.end.IsZero() {
		c.end = s.now().UTC().Truncate(time.Millisecond)
	}
	// A pool that is no longer configured is told of as far as it was noted.
	if v, err := s.look(ctx, h.Job.Pool, viewFresh); err == nil {
		if c.weight = cmp.Or(v.load.Weights[tenant], 1); v.load.Begun > 0 {
			c.one = v.load.Mean
		}
		if !h.Job.Status.Final() {
			c.Pools[h.Job.Pool] = v.known(h.Pools[h.Job.Pool], c.end)
		} else if past := h.Pools[h.Job.Pool]; v.at.After(c.end) && past.Seen.Add(tasks.Unwatched).After(v.at) {
			c.Pools[h.Job.Pool] = v.known(past, v.at) // what was served since the last that was noted
		}
		if h.Job.Status.Final() || h.Job.Status == tasks.StatusRunning {
			return c.spans(), nil
		}
		place, err := s.record.Position(ctx, h.Job)
		if err != nil {
			return nil, err
		}
		c.rest = v.rest(tenant, place.Own)
	}
	return c.spans(), nil
}

// known is a pool's past, with what is known of it now.
func (v view) known(p tasks.Past, now time.Time) tasks.Past {
	at := minTime(v.at, now).Truncate(time.Millisecond)
	b := tasks.Bind{At: at, For: v.binds(now), Shares: v.shares(), Begun: v.load.Begun}
	if n := len(p.Binds); n > 0 && p.Binds[n-1].At.After(at) {
		b.At = p.Binds[n-1].At
	}
	p.Binds = append(slices.Clip(p.Binds), b)
	if p.Seen.Before(b.At) {
		if !p.Seen.IsZero() && b.At.Sub(p.Seen) > tasks.Unwatched {
			n := len(p.Binds)
			p.Binds = slices.Insert(p.Binds, n-1, tasks.Bind{At: p.Seen, For: tasks.WaitUnknown})
		}
		p.Seen = b.At
	}
	return p
}

// piece is a span, and how the pool stood in it where that is what it was drawn from.
type piece struct {
	tasks.Span
	queued bool    // in the backlog: others may have their turns
	open   bool    // the pool makes calls
	part   float64 // of what the pool served that the tenant had
	work   float64 // seconds of the allowance that all calls took that began in it
}

// spans draws the timeline.
func (c *course) spans() []tasks.Span {
	facts := c.facts()
	at := c.bounds(facts)
	pieces := make([]piece, 0, len(at))
	for i := 1; i < len(at); i++ {
		p := c.piece(at[i-1], facts)
		p.From, p.To = at[i-1], at[i]
		p.work = c.work(p.From, p.To)
		pieces = append(pieces, p)
	}
	var out []tasks.Span
	for _, p := range c.shared(pieces) {
		if n := len(out); n > 0 && out[n-1].What == p.What && out[n-1].For == p.For && out[n-1].Detail == p.Detail {
			out[n-1].To = p.To
		} else {
			out = append(out, p.Span)
		}
	}
	return out
}

// facts are the spans that the record itself tells of. Where several are of one moment,
// the first counts.
func (c *course) facts() (facts []tasks.Span) {
	j := &c.Job
	add := func(from, to time.Time, what tasks.SpanKind, why tasks.WaitReason, detail string) {
		facts = append(facts, tasks.Span{From: from, To: to, What: what, For: why, Detail: detail})
	}
	for i, a := range j.Log {
		add(a.StartedAt, c.over(i), tasks.SpanAttempt, "", fmt.Sprintf("call %d: %s%s", a.N, a.Outcome, c.batched(a)))
	}
	for _, h := range c.Happened {
		if h.Kind == tasks.HasAgain && !h.From.IsZero() {
			add(h.From, h.At, tasks.SpanWaiting, tasks.WaitRetry, "it had ended, and its caller queued it again")
		}
	}
	for _, a := range j.Log {
		if a.Told {
			add(a.StartedAt.Add(-a.Waited.Granted), a.StartedAt, tasks.SpanHandover, "", "let through, and not yet sent")
		}
	}
	add(j.CreatedAt, j.NotBefore, tasks.SpanWaiting, tasks.WaitNotBefore, tasks.WaitNotBefore.Words().Why)
	for i, a := range j.Log {
		if over := c.over(i); a.Delay > 0 {
			add(over, over.Add(a.Delay), tasks.SpanWaiting, tasks.WaitRetry, "it is tried again after "+a.Delay.Round(time.Millisecond).String())
		} else if i == len(j.Log)-1 && j.Status == tasks.StatusRetrying && j.DueAt.After(over) {
			add(over, j.DueAt, tasks.SpanWaiting, tasks.WaitRetry, "it is tried again at "+j.DueAt.Format(time.RFC3339))
		}
	}
	for i, h := range c.Happened {
		switch h.Kind {
		case tasks.HasHeld:
			add(h.From, h.At, tasks.SpanWaiting, tasks.WaitRetry, "it was put off: its model did not answer, or its prompt could not be read")
		case tasks.HasFollowed:
			add(h.At, c.parted(i), tasks.SpanWaiting, tasks.WaitConcurrency, "another job asks the same, and its answer serves both")
		}
	}
	return append(facts, c.forgotten()...)
}

// forgotten are the times of which what happened is not kept any more.
func (c *course) forgotten() (facts []tasks.Span) {
	j := &c.Job
	if len(j.Log) > 0 && j.Log[0].N > 1 {
		first := handed(j.Log[0])
		facts = append(facts, tasks.Span{From: j.CreatedAt, To: first, What: tasks.SpanWaiting, Detail: fmt.Sprintf("%s: the first %d calls are not kept", notRecorded, j.Log[0].N-1)})
	}
	if c.Cut && len(c.Happened) > 0 {
		first := c.Happened[0].At
		if from := c.Happened[0].From; !from.IsZero() {
			first = from
		}
		facts = append(facts, tasks.Span{From: j.CreatedAt, To: first, What: tasks.SpanWaiting, Detail: notRecorded + ": what is older is not kept"})
	}
	return facts
}

// batched says which of the provider's batches a call is a line of; "": none.
func (c *course) batched(a tasks.Attempt) string {
	in := c.Bundle
	switch {
	case a.Batch != "":
		return ", in the provider's batch " + a.Batch
	case a.Outcome != tasks.Running || in == nil || in.Spill.IsZero():
		return ""
	}
	where := "gathered for a batch of the provider"
	switch in.State {
	case tasks.BundleSending:
		where = "being sent in a batch of the provider"
	case tasks.BundleSent:
		where = "in the provider's batch " + in.Batch
	case tasks.BundleCanceling:
		where = "in the provider's batch " + in.Batch + ", which is being ended"
	}
	return ", " + where + "; without an answer it goes to the ordinary lane at " + in.Spill.Format(time.RFC3339)
}

// over is when a call of the log was over, or its start where nobody knows.
func (c *course) over(i int) time.Time {
	switch a := c.Job.Log[i]; {
	case !a.EndedAt.IsZero():
		return a.EndedAt
	case a.Outcome == tasks.Running:
		return c.end
	case !a.LostAt.IsZero():
		return a.LostAt
	default:
		return a.StartedAt
	}
}

// handed is when a job was handed out for a call, or its start where that is not known.
func handed(a tasks.Attempt) time.Time {
	if !a.Told || a.Waited.Handed < 0 {
		return a.StartedAt
	}
	return a.StartedAt.Add(-a.Waited.Handed)
}

// parted is until when a job followed another, as one of what happened to it has it.
func (c *course) parted(i int) time.Time {
	end := c.end
	if i+1 < len(c.Happened) {
		h := c.Happened[i+1]
		if end = h.At; h.Kind == tasks.HasAgain && !h.From.IsZero() {
			end = h.From
		}
	}
	for _, a := range c.Job.Log {
		if from := handed(a); from.After(c.Happened[i].At) && from.Before(end) {
			end = from
		}
	}
	return end
}

// bounds are the moments between which nothing changes, from the acceptance to the end.
func (c *course) bounds(facts []tasks.Span) []time.Time {
	at := []time.Time{c.Job.CreatedAt, c.end}
	for _, f := range facts {
		at = append(at, f.From, f.To)
	}
	for _, h := range c.Happened {
		at = append(at, h.At)
	}
	for _, a := range c.Job.Log {
		at = append(at, handed(a))
	}
	for _, r := range c.Reviews {
		at = append(at, r.From, r.To)
	}
	for _, p := range c.Pools {
		for _, b := range p.Binds {
			at = append(at, b.At)
		}
		if !p.Seen.IsZero() {
			at = append(at, p.Seen.Add(tasks.Unwatched))
		}
	}
	at = slices.DeleteFunc(at, func(t time.Time) bool { return t.Before(c.Job.CreatedAt) || t.After(c.end) })
	slices.SortFunc(at, time.Time.Compare)
	return slices.CompactFunc(at, time.Time.Equal)
}

// piece is what the job did from a moment on.
func (c *course) piece(at time.Time, facts []tasks.Span) piece {
	for _, f := range facts {
		if !at.Before(f.From) && at.Before(f.To) {
			return piece{Span: f}
		}
	}
	b := bound(c.Pools[c.pool(at)], at)
	for _, a := range c.Job.Log {
		if a.StartedAt.After(at) {
			if a.Told && !at.Before(handed(a)) {
				return gated(b.For, a.Waited.For)
			}
			break
		}
	}
	why := b.For
	for _, r := range c.Reviews {
		if !at.Before(r.From) && at.Before(r.To) {
			why = tasks.WaitReview
		}
	}
	p := waits(why)
	p.queued = true
	p.part = c.weight / max(c.weight, b.Shares)
	return p
}

// gated is a piece between the hand-out of a job and its pass: what the gate made it
// wait for, unless its pool had other reasons.
func gated(bound, gate tasks.WaitReason) piece {
	switch bound {
	case tasks.WaitPaused, tasks.WaitNoWorker:
		return waits(bound)
	}
	return waits(gate)
}

// waits is a piece for a reason; "" is for nothing.
func waits(why tasks.WaitReason) piece {
	switch why {
	case "":
		return piece{Span: tasks.Span{What: tasks.SpanHandover, Detail: "free to go, and not yet sent"}, open: true}
	case tasks.WaitUnknown:
		return piece{Span: tasks.Span{What: tasks.SpanWaiting, Detail: notRecorded}}
	}
	return piece{Span: tasks.Span{What: tasks.SpanWaiting, For: why, Detail: why.Words().Why}, open: why != tasks.WaitPaused && why != tasks.WaitNoWorker && why != tasks.WaitReview}
}

// pool is the one that the job was in at a moment.
func (c *course) pool(at time.Time) string {
	for _, h := range c.Happened {
		if h.Kind == tasks.HasDiverted && h.At.After(at) {
			return h.Pool
		}
	}
	return c.Job.Pool
}

// bound is how a pool stood at a moment.
func bound(p tasks.Past, at time.Time) tasks.Bind {
	i := sort.Search(len(p.Binds), func(i int) bool { return p.Binds[i].At.After(at) })
	if i == 0 || !at.Before(p.Seen.Add(tasks.Unwatched)) {
		return tasks.Bind{For: tasks.WaitUnknown}
	}
	return p.Binds[i-1]
}

// work is what the calls took that the job's pool began from a moment to another, in seconds of its allowance:
// more than the time where it had saved up. Where nobody noted it, it is the time.
func (c *course) work(from, to time.Time) float64 {
	past := c.Pools[c.pool(from)]
	first, known := begun(past, from)
	last, also := begun(past, to)
	if !known || !also {
		return to.Sub(from).Seconds()
	}
	return max(0, last-first)
}

// begun is what all calls of a pool took that began before a moment; between two that were noted it grows
// evenly.
func begun(p tasks.Past, at time.Time) (float64, bool) {
	i := sort.Search(len(p.Binds), func(i int) bool { return p.Binds[i].At.After(at) })
	if i == 0 || p.Binds[i-1].Begun == 0 {
		return 0, false
	}
	last := p.Binds[i-1]
	if last.At.Equal(at) {
		return last.Begun, true
	}
	if i == len(p.Binds) || p.Binds[i].Begun < last.Begun {
		return 0, false
	}
	next := p.Binds[i]
	return last.Begun + (next.Begun-last.Begun)*at.Sub(last.At).Seconds()/next.At.Sub(last.At).Seconds(), true
}

// shared finds in each stay in the backlog what the turns of others were the reason for:
// the time after the job would have started, had the pool been its tenant's alone. The jobs
// before it of its tenant have had the tenant's part of what the pool served until it was handed
// out. They would have had all of it.
func (c *course) shared(pieces []piece) (out []piece) {
	for i := 0; i < len(pieces); {
		n := i
		for n < len(pieces) && pieces[n].queued && (n == i || c.pool(pieces[n].From) == c.pool(pieces[i].From)) {
			n++
		}
		if n == i {
			out = append(out, pieces[i])
			i++
			continue
		}
		rest := c.one // its own call
		if n == len(pieces) {
			rest = c.rest
		}
		out = append(out, turned(pieces[i:n], rest)...)
		i = n
	}
	return out
}

// turned is one stay in the backlog, see shared.
func turned(stay []piece, rest float64) (out []piece) {
	own := rest
	for _, p := range stay {
		if p.open {
			own += p.part * p.work
		}
	}
	for _, p := range stay {
		alone := p.To
		switch {
		case own <= 0:
			alone = p.From
		case own < p.work:
			alone = p.From.Add(time.Duration(own / p.work * float64(p.To.Sub(p.From)))).Round(time.Millisecond)
		}
		if p.open {
			own -= p.work
		}
		if !p.open || p.What != tasks.SpanWaiting {
			out = append(out, p)
			continue
		}
		if alone.After(p.From) {
			before := p
			before.To = minTime(alone, p.To)
			out = append(out, before)
		}
		if alone.Before(p.To) {
			p.From = maxTime(alone, p.From)
			p.For, p.Detail = tasks.WaitTenantShare, tasks.WaitTenantShare.Words().Why
			out = append(out, p)
		}
	}
	return out
}

func minTime(a, b time.Time) time.Time {
	if a.Before(b) {
		return a
	}
	return b
}

func maxTime(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}
