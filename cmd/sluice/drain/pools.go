package drain

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/sluicehq/sluice/tasks"
	"github.com/sluicehq/sluice/worker/pause"
)

// tryKeys lets the pools of these prompts and of those under way try again where an
// earlier run found them refused, or out of credit: who gives the command has
// perhaps seen to it, and sees what comes. Other pools are none of this run's.
func (r *runner) tryKeys(ctx context.Context, left []prompt) error {
	pools := r.pools()
	for _, p := range left {
		pools[p.Pool] = true
	}
	for name := range pools {
		if err := r.s.Pauses[name].Try(ctx, "sluice run"); err != nil {
			return fmt.Errorf("try pool %s again: %w", name, err)
		}
	}
	return nil
}

// pools are those that a line which has no result yet waits for.
func (r *runner) pools() map[string]bool {
	pools := map[string]bool{}
	for _, p := range r.open {
		pools[p.Pool] = true
	}
	return pools
}

// watchPools says when a pool is paused and when it goes on. Once every line that
// is left waits for a provider that refuses the key, or whose address has never
// worked, the run ends: nobody is there to change it meanwhile.
func (r *runner) watchPools(ctx context.Context) error {
	waited, refused, misfit := r.pools(), []string{}, []string{}
	for name, b := range r.s.Pauses {
		s, err := b.State(ctx)
		if err != nil {
			continue // Redis is away; the log says so
		}
		switch {
		case !waited[name] || s.PausedBy != pause.ByBreaker || !r.paused[name]: // not before the next look: the errors of its jobs are being written
		case s.Cause == pause.BadAuthority:
			refused = append(refused, name)
		case s.Cause == pause.Misfit, r.written == 0 && strings.Contains(s.Detail, "no such host"):
			misfit = append(misfit, name+": "+s.Reason+detailed(s.Detail))
		}
		if s.Paused != r.paused[name] {
			r.paused[name] = s.Paused
			r.sayState(ctx, name, s)
		}
	}
	r.sayWaits(ctx, time.Now())
	switch {
	case len(waited) == 0 || len(refused)+len(misfit) < len(waited):
	case len(misfit) > 0:
		slices.Sort(misfit)
		return fmt.Errorf("no answer can come from the provider of pool %s; what waits is kept: see to base_url, dialect and certificates and run the same command again", strings.Join(misfit, "; "))
	default:
		slices.Sort(refused)
		return fmt.Errorf("the provider of pool %s refuses the key%s; what waits is kept: see to the key and run the same command again", strings.Join(refused, ", "), r.lastWords(ctx, refused[0], ""))
	}
	return nil
}

// sayState says that a pool is paused and why, or that it goes on.
func (r *runner) sayState(ctx context.Context, name string, s pause.State) {
	why := s.Reason + detailed(s.Detail)
	if s.Paused && s.PausedBy == pause.ByBreaker {
		why += r.lastWords(ctx, name, why)
	}
	again := s.NextProbeAt
	if again.IsZero() {
		again = s.ExpectedResumeAt
	}
	switch {
	case !s.Paused:
		r.say("sluice: pool %s goes on", name)
	case again.IsZero():
		r.say("sluice: pool %s is paused: %s; its jobs wait", name, why)
	default:
		r.say("sluice: pool %s is paused: %s; its jobs wait, and it is tried again at %s", name, why, again.Format(time.RFC3339))
	}
}

// detailed is an operator's detail behind what it explains; "" for none.
func detailed(detail string) string {
	if detail == "" {
		return ""
	}
	return " (" + detail + ")"
}

// lastWords is the error of a job that waits for a pool, as words behind those that
// are said already; "" when they say it, or when none of the first jobs has one.
func (r *runner) lastWords(ctx context.Context, pool, said string) string {
	const looks = 16
	var ids []string
	for id, p := range r.open {
		if p.Pool == pool {
			ids = append(ids, id)
		}
	}
	slices.Sort(ids) // in the order in which they are asked
	for _, id := range ids[:min(looks, len(ids))] {
		j, err := r.s.Record.Job(ctx, owner, id)
		if err == nil && j.Error != nil && j.Error.Message != "" {
			if strings.Contains(said, j.Error.Message) {
				return ""
			}
			return "; the last answer: " + strconv.Quote(j.Error.Message)
		}
	}
	return ""
}

// sayWaits tells what everything waits for, once nothing has come for a minute, and
// again each time that the wait has doubled.
func (r *runner) sayWaits(ctx context.Context, now time.Time) {
	since := now.Sub(r.moved)
	if since < time.Minute<<r.waits {
		return
	}
	pools, err := r.s.Status(ctx)
	if err != nil {
		return // Redis is away; the log says so
	}
	samples, jobs := map[string]string{}, map[string]int{}
	for id, p := range r.open {
		samples[p.Pool] = id
		jobs[p.Pool]++
	}
	var why []string
	for _, p := range pools {
		if jobs[p.Name] == 0 {
			continue
		}
		if p.Running > 0 {
			why = append(why, fmt.Sprintf("%d calls of pool %s are under way without an answer, each given up %s after it was sent%s", p.Running, p.Name, r.c.timeout(p.Name), r.lastWords(ctx, p.Name, "")))
			continue
		}
		why = append(why, fmt.Sprintf("%d jobs of pool %s wait%s", jobs[p.Name], p.Name, r.reason(ctx, samples[p.Name], p)))
	}
	if len(why) > 0 {
		r.waits++
		r.say("sluice: nothing has come for %s: %s", since.Round(time.Second), strings.Join(why, "; "))
	}
}

// reason is what a job of a pool waits for, and until when, as far as that is known.
func (r *runner) reason(ctx context.Context, id string, p tasks.PoolStatus) string {
	j, err := r.s.Record.Job(ctx, owner, id)
	if err != nil {
		return ""
	}
	w, err := r.s.Waiting(ctx, j)
	if err != nil || w.For == "" {
		return ""
	}
	s := " for " + w.For.Words().For
	switch {
	case w.For == tasks.WaitPaused && p.Reason != "":
		s = ", for the pool is paused: " + p.Reason
	case p.State == tasks.PoolDegraded:
		s += ", for the provider holds the pool back"
	}
	if !w.EstimatedStart.IsZero() {
		s += ", until about " + w.EstimatedStart.Local().Format(time.RFC3339)
	}
	return s + r.lastWords(ctx, p.Name, s)
}
