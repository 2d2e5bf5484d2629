package pool

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/sluicehq/sluice/tasks"
	"github.com/sluicehq/sluice/worker/limit"
	"github.com/sluicehq/sluice/worker/pause"
)

// second is so many seconds after the job's acceptance.
func second(n float64) time.Time {
	return time.UnixMilli(1_800_000_000_000 + int64(n*1000)).UTC()
}

func told(what, till float64, call int, w tasks.Waited) tasks.Attempt {
	a := tasks.Attempt{N: call, StartedAt: second(what), Outcome: tasks.Overloaded, Waited: w, Told: true}
	if till > 0 {
		a.EndedAt = second(till)
	}
	return a
}

// shown are spans in short: "0-4 waiting requests".
func shown(spans []tasks.Span) string {
	var out []string
	for _, s := range spans {
		line := fmt.Sprintf("%v-%v %s", s.From.Sub(second(0)).Seconds(), s.To.Sub(second(0)).Seconds(), s.What)
		if s.What == tasks.SpanWaiting {
			if line += " " + string(s.For); s.For == "" {
				line += "?"
			}
		}
		out = append(out, line)
	}
	return strings.Join(out, ", ")
}

func binds(end float64, list ...any) tasks.Past {
	p := tasks.Past{Seen: second(end)}
	for i := 0; i+2 < len(list); i += 3 {
		p.Binds = append(p.Binds, tasks.Bind{At: second(list[i].(float64)), For: list[i+1].(tasks.WaitReason), Shares: list[i+2].(float64)})
	}
	return p
}

// noted is a past with what had begun by each of its moments.
func noted(p tasks.Past, begun ...float64) tasks.Past {
	for i := range begun {
		p.Binds[i].Begun = begun[i]
	}
	return p
}

// Of every cause there is a job that waits for it, and no second is told of twice or not
// at all.
func TestATimelineNamesTheCauseOfEachSecond(t *testing.T) {
	t.Parallel()
	const requests, output, paused, none, no, unknown = tasks.WaitRequests, tasks.WaitOutputTokens, tasks.WaitPaused, tasks.WaitReason(""), tasks.WaitNoWorker, tasks.WaitUnknown
	gate := func(handed, granted float64, why tasks.WaitReason) tasks.Waited {
		return tasks.Waited{Handed: time.Duration(handed * 1e9), Granted: time.Duration(granted * 1e9), For: why}
	}
	final := func(at float64, j tasks.Job) tasks.Job {
		j.Status, j.FinishedAt = tasks.StatusFailed, second(at)
		return j
	}
	for _, c := range []struct {
		name string
		job  tasks.Job
		has  []tasks.Happening
		cut  bool
		past tasks.Past
		rest time.Duration
		revs []tasks.Review
		want string
	}{
		{name: "an idle pool", past: binds(9, -9.0, none, 0.0), job: final(3, tasks.Job{Log: []tasks.Attempt{told(1, 3, 1, gate(1, 0.25, none))}}),
			want: "0-0.75 handover, 0.75-1 handover, 1-3 attempt"},
		{name: "each cause of its pool", past: binds(99, -9.0, requests, 1.0, 2.0, output, 1.0, 3.0, paused, 1.0, 5.0, no, 1.0, 6.0, tasks.WaitInputTokens, 1.0, 7.0, tasks.WaitConcurrency, 1.0),
			job:  final(9, tasks.Job{Log: []tasks.Attempt{told(8, 9, 1, gate(0.5, 0.125, requests))}}),
			want: "0-2 waiting requests, 2-3 waiting output_tokens, 3-5 waiting paused, 5-6 waiting no_worker, 6-7 waiting input_tokens, 7-7.5 waiting concurrency, 7.5-7.875 waiting requests, 7.875-8 handover, 8-9 attempt"},
		{name: "no worker though it was handed out", past: binds(99, -9.0, no, 0.0, 4.0, none, 0.0), job: final(6, tasks.Job{Log: []tasks.Attempt{told(5, 6, 1, gate(5, 0, none))}}),
			want: "0-4 waiting no_worker, 4-5 handover, 5-6 attempt"},
		{name: "not before", past: binds(99, -9.0, requests, 1.0), job: final(6, tasks.Job{NotBefore: second(2), Log: []tasks.Attempt{told(5, 6, 1, gate(0, 0, none))}}),
			want: "0-2 waiting not_before, 2-5 waiting requests, 5-6 attempt"},
		{name: "a retry, and a worker that died", past: binds(99, -9.0, requests, 1.0), job: final(20, tasks.Job{Log: []tasks.Attempt{
			func() tasks.Attempt { a := told(1, 2, 1, gate(1, 0, requests)); a.Delay = 3 * time.Second; return a }(),
			func() tasks.Attempt { a := told(6, 0, 2, gate(0, 0, none)); a.LostAt = second(16); return a }(),
			told(18, 20, 3, gate(0, 0, none)),
		}}), want: "0-1 waiting requests, 1-2 attempt, 2-5 waiting retry, 5-6 waiting requests, 6-16 attempt, 16-18 waiting requests, 18-20 attempt"},
		{name: "half of the pool is another's", past: binds(99, -9.0, requests, 2.0), job: final(9, tasks.Job{Log: []tasks.Attempt{told(8, 9, 1, gate(0, 0, none))}}),
			want: "0-4 waiting requests, 4-8 waiting tenant_share, 8-9 attempt"},
		{name: "what a pool has saved up goes quickly", past: noted(binds(99, -1.0, requests, 2.0, 0.0, requests, 2.0, 4.0, requests, 2.0, 8.0, requests, 2.0), 99, 100, 120, 124),
			job: final(9, tasks.Job{Log: []tasks.Attempt{told(8, 9, 1, gate(0, 0, none))}}), want: "0-2.4 waiting requests, 2.4-8 waiting tenant_share, 8-9 attempt"},
		{name: "a pause is nobody's turn", past: binds(99, -9.0, requests, 2.0, 2.0, paused, 2.0, 12.0, requests, 2.0), job: final(19, tasks.Job{Log: []tasks.Attempt{told(18, 19, 1, gate(0, 0, none))}}),
			want: "0-2 waiting requests, 2-12 waiting paused, 12-14 waiting requests, 14-18 waiting tenant_share, 18-19 attempt"},
		{name: "a review is nobody's turn, and holds up nothing that was handed out", past: binds(99, -9.0, requests, 2.0), revs: []tasks.Review{{From: second(2), To: second(12)}, {From: second(17), To: second(19)}},
			job: final(19, tasks.Job{Log: []tasks.Attempt{told(18, 19, 1, gate(1, 0, requests))}}), want: "0-2 waiting requests, 2-12 waiting review, 12-13.5 waiting requests, 13.5-17 waiting tenant_share, 17-18 waiting requests, 18-19 attempt"},
		{name: "under review in a paused pool", past: binds(99, -9.0, paused, 2.0), revs: []tasks.Review{{From: second(2), To: second(99)}}, job: tasks.Job{Status: tasks.StatusQueued}, want: "0-2 waiting paused, 2-8 waiting review"},
		{name: "it waits yet: its own are before it", past: binds(8, -9.0, requests, 2.0), rest: 10 * time.Second, job: tasks.Job{Status: tasks.StatusQueued}, want: "0-8 waiting requests"},
		{name: "it waits yet: others had its turn", past: binds(8, -9.0, requests, 2.0), rest: time.Second, job: tasks.Job{Status: tasks.StatusQueued}, want: "0-5 waiting requests, 5-8 waiting tenant_share"},
		{name: "another pool", past: binds(99, -9.0, requests, 1.0), has: []tasks.Happening{{Kind: tasks.HasDiverted, At: second(3), Pool: "first"}},
			job: final(5, tasks.Job{}), want: "0-3 waiting paused, 3-5 waiting requests"},
		{name: "it ended, and was asked for again", past: binds(99, -9.0, requests, 1.0), has: []tasks.Happening{{Kind: tasks.HasAgain, From: second(2), At: second(7)}},
			job:  final(9, tasks.Job{Log: []tasks.Attempt{told(1, 2, 1, gate(0, 0, none))}}),
			want: "0-1 waiting requests, 1-2 attempt, 2-7 waiting retry, 7-9 waiting requests"},
		{name: "put off, and behind another", past: binds(99, -9.0, requests, 1.0), has: []tasks.Happening{{Kind: tasks.HasHeld, From: second(1), At: second(4)}, {Kind: tasks.HasFollowed, At: second(5)}, {Kind: tasks.HasParted, At: second(6)}},
			job: final(7, tasks.Job{}), want: "0-1 waiting requests, 1-4 waiting retry, 4-5 waiting requests, 5-6 waiting concurrency, 6-7 waiting requests"},
		{name: "nobody looked", past: binds(3, 1.0, requests, 1.0, 2.0, unknown, 0.0, 2.5, paused, 0.0), job: tasks.Job{Status: tasks.StatusQueued, CreatedAt: second(0), FinishedAt: second(20)},
			want: "0-1 waiting ?, 1-2 waiting requests, 2-2.5 waiting ?, 2.5-8 waiting paused, 8-20 waiting ?"},
		{name: "a record of a release before this", job: final(9, tasks.Job{Log: []tasks.Attempt{{N: 1, StartedAt: second(2), EndedAt: second(3)}, {N: 2, StartedAt: second(5), Outcome: tasks.WorkerLost}, {N: 3, StartedAt: second(7), EndedAt: second(9)}}}),
			want: "0-2 waiting ?, 2-3 attempt, 3-7 waiting ?, 7-9 attempt"},
		{name: "more calls than are kept", past: binds(99, -9.0, requests, 1.0), job: final(9, tasks.Job{Log: []tasks.Attempt{told(7, 9, 40, gate(1, 0, none))}}),
			want: "0-6 waiting ?, 6-7 handover, 7-9 attempt"},
		{name: "more than is kept of what happened", past: binds(99, -9.0, requests, 1.0), cut: true, has: []tasks.Happening{{Kind: tasks.HasHeld, From: second(3), At: second(4)}},
			job: final(5, tasks.Job{}), want: "0-3 waiting ?, 3-4 waiting retry, 4-5 waiting requests"},
		{name: "it runs", past: binds(99, -9.0, requests, 1.0), job: tasks.Job{Status: tasks.StatusRunning, FinishedAt: second(8), Log: []tasks.Attempt{{N: 1, StartedAt: second(5), Outcome: tasks.Running}}},
			want: "0-5 waiting requests, 5-8 attempt"},
	} {
		c.job.CreatedAt, c.job.Pool = second(0), "claude"
		end := c.job.FinishedAt
		if end.IsZero() {
			end = second(8)
		}
		co := course{end: end, weight: 1, rest: c.rest.Seconds()}
		co.Job, co.Happened, co.Cut, co.Reviews = c.job, c.has, c.cut, c.revs
		co.Pools = map[string]tasks.Past{"claude": c.past, "first": binds(99, -9.0, paused, 0.0)}
		spans := co.spans()
		if got := shown(spans); got != c.want {
			t.Errorf("%s\n got %s\nwant %s", c.name, got, c.want)
		}
		adds(t, c.name, spans, second(0), end)
	}
}

// adds checks that spans follow one another without gaps, and say what a caller may be told.
func adds(t *testing.T, name string, spans []tasks.Span, from, end time.Time) {
	t.Helper()
	legal := map[tasks.WaitReason]bool{"": true}
	for _, why := range tasks.WaitReasons {
		legal[why] = true
	}
	for _, s := range spans {
		if !s.From.Equal(from) || !s.To.After(s.From) || !legal[s.For] || s.For != "" && s.What != tasks.SpanWaiting || s.What == tasks.SpanWaiting && s.For == "" && !strings.HasPrefix(s.Detail, notRecorded) {
			t.Errorf("%s: %+v comes after %v", name, s, from)
		}
		from = s.To
	}
	if !from.Equal(end) {
		t.Errorf("%s: the spans end at %v, want %v", name, from, end)
	}
}

// What a pool's jobs wait for now is one rule for all who ask, and what a job of it waits for
// follows from that and from the order.
func TestWhatAJobWaitsForNow(t *testing.T) {
	t.Parallel()
	now := second(100)
	worked, busy := tasks.Load{WorkedAt: now, Tenants: 2}, limit.State{Binds: "output_tokens", CallsPerSecond: 1}
	j := tasks.Job{Tenant: "acme", Pool: "claude", CreatedAt: second(0), Status: tasks.StatusQueued}
	follows := j
	follows.Followed = "digest"
	past := binds(99, -9.0, tasks.WaitOutputTokens, 2.0)
	for _, c := range []struct {
		name        string
		v           view
		j           tasks.Job
		place       int64
		binds, want tasks.WaitReason
	}{
		{"an idle pool", view{load: worked}, j, 0, "", tasks.WaitRequests},
		{"the gate", view{load: worked, gate: busy}, j, 5, tasks.WaitOutputTokens, tasks.WaitOutputTokens},
		{"a hold of the provider", view{load: worked, gate: limit.State{HeldFor: time.Second}}, j, 5, tasks.WaitRequests, tasks.WaitRequests},
		{"a pause", view{load: worked, gate: busy, pause: pause.State{Paused: true}}, j, 5, tasks.WaitPaused, tasks.WaitPaused},
		{"no worker at all", view{gate: limit.State{}}, j, 5, tasks.WaitNoWorker, tasks.WaitNoWorker},
		{"a worker that was there", view{load: tasks.Load{WorkedAt: now.Add(-6 * time.Second)}}, j, 0, tasks.WaitNoWorker, tasks.WaitNoWorker},
		{"a worker of the release before this, at the gate", view{gate: limit.State{Served: true, Binds: "requests"}}, j, 5, tasks.WaitRequests, tasks.WaitRequests},
		{"a worker of the release before this, in a call", view{load: tasks.Load{Running: 1}}, j, 5, "", tasks.WaitRequests},
		{"another's answer", view{load: worked, gate: busy}, follows, 0, tasks.WaitOutputTokens, tasks.WaitConcurrency},
		{"its tenant's limit", view{load: tasks.Load{Queued: 5, Handed: 2, Tenants: 2, WorkedAt: worked.WorkedAt, AtLimit: map[string]bool{j.Tenant: true}}, gate: busy, past: past}, j, 5, tasks.WaitOutputTokens, tasks.WaitRunningJobs},
		{"a review", view{load: tasks.Load{Handed: 2, WorkedAt: worked.WorkedAt, AtLimit: map[string]bool{j.Tenant: true}, Reviewed: map[string]bool{j.Tenant: true}}, gate: busy, past: past}, j, 5, tasks.WaitOutputTokens, tasks.WaitReview},
		{"a review, in a paused pool", view{load: tasks.Load{Reviewed: map[string]bool{j.Tenant: true}}, pause: pause.State{Paused: true}}, j, 5, tasks.WaitPaused, tasks.WaitReview},
		{"a review, when it is handed out", view{load: tasks.Load{WorkedAt: now, Reviewed: map[string]bool{j.Tenant: true}}, gate: busy}, j, 0, tasks.WaitOutputTokens, tasks.WaitOutputTokens},
		{"a review of another", view{load: tasks.Load{WorkedAt: now, Reviewed: map[string]bool{"other": true}}, gate: busy}, j, 5, tasks.WaitOutputTokens, tasks.WaitOutputTokens},
		{"others' turns", view{load: worked, gate: busy, past: past}, j, 5, tasks.WaitOutputTokens, tasks.WaitTenantShare},
		{"others' turns, who have no backlog left", view{load: tasks.Load{WorkedAt: now, Tenants: 1}, gate: busy, past: past}, j, 5, tasks.WaitOutputTokens, tasks.WaitTenantShare},
		{"its own before it", view{load: worked, gate: busy, past: past}, j, 500, tasks.WaitOutputTokens, tasks.WaitOutputTokens},
		{"handed out", view{load: worked, gate: busy, past: past}, j, 0, tasks.WaitOutputTokens, tasks.WaitOutputTokens},
		{"others' turns, as far as nobody knows", view{load: worked, gate: busy}, j, 5, tasks.WaitOutputTokens, tasks.WaitOutputTokens},
	} {
		c.v.at = now
		if got := c.v.binds(now); got != c.binds {
			t.Errorf("%s: the pool waits for %q, want %q", c.name, got, c.binds)
		}
		if got := c.v.waitsFor(c.j, c.place, now); got != c.want {
			t.Errorf("%s: the job waits for %q, want %q", c.name, got, c.want)
		}
	}
}
