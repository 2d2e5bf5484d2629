package main

import (
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/sluicehq/sluice/cmd/prove/rig"
)

// report is what a proof found.
type report struct {
	rows   []row
	broken []string // what was broken, in words; at most a few of each kind
	kills  []string
}

type row struct {
	what string
	got  string
	bar  string
	ok   bool
}

func (r *report) row(ok bool, what, bar, format string, args ...any) {
	got := fmt.Sprintf(format, args...)
	r.rows = append(r.rows, row{what, got, bar, ok})
	if !ok {
		r.broken = append(r.broken, fmt.Sprintf("%s: %s, want %s", what, got, bar))
	}
}

func (r *report) print(w io.Writer) {
	for _, k := range r.kills {
		fmt.Fprintln(w, k)
	}
	fmt.Fprintln(w)
	for _, x := range r.rows {
		mark := "ok"
		if !x.ok {
			mark = "BROKEN"
		}
		fmt.Fprintf(w, "%-58s %14s   %-16s %s\n", x.what, x.got, x.bar, mark)
	}
	for _, b := range r.broken {
		fmt.Fprintln(w, "broken:", b)
	}
}

// afterAnswer is how long a worker may need, from the provider's last byte on,
// until the end of the job is on disk: it is in flight until then.
const afterAnswer = 250 * time.Millisecond

// inFlight reports whether the call was under way at a kill of its worker or
// of Redis. A call that ends while Redis is away stays in its worker's hands
// until Redis is back.
func (e *evidence) inFlight(c call, k kill) bool {
	if !k.redis && k.worker != c.Key {
		return false
	}
	end := c.end.Add(afterAnswer)
	for _, r := range e.kills {
		if r.redis && !end.Before(r.at) && c.At.Before(r.back) && end.Before(r.back.Add(2*time.Second)) {
			end = r.back.Add(2 * time.Second)
		}
	}
	return c.At.Before(k.gone.Add(50*time.Millisecond)) && end.After(k.at)
}

// judge holds records and calls against the guarantees.
func (e *evidence) judge() report {
	var r report
	broken := map[string]int{}
	breach := func(kind, format string, args ...any) {
		if broken[kind]++; broken[kind] <= 5 {
			r.broken = append(r.broken, kind+": "+fmt.Sprintf(format, args...))
		}
	}

	ids := map[string]bool{}
	lost, twice := 0, 0
	for _, j := range e.jobs {
		switch {
		case j.id == "" || j.last.ID != j.id || !j.last.Final():
			lost++
			breach("lost", "job %q of prompt %q is %q", j.id, j.prompt, j.last.Status)
		case ids[j.id]:
			twice++
			breach("ids", "%s was given out twice", j.id)
		}
		ids[j.id] = true
	}
	r.row(lost == 0, "jobs accepted (202) and not final", "0", "%d of %d", lost, len(e.jobs))
	r.row(twice == 0, "ids given out twice", "0", "%d", twice)
	extra := 0
	for _, j := range e.listed {
		if !ids[j.ID] {
			extra++
			breach("unasked", "job %s exists, and no caller was told of it", j.ID)
		}
	}
	r.row(extra == 0 && len(e.listed) == len(e.jobs), "jobs in the list, beyond those accepted", "0", "%d", len(e.listed)-len(e.jobs))

	changed, wrong, failed := 0, 0, 0
	for _, j := range e.jobs {
		if j.first.Final() && (j.first.Status != j.last.Status || j.first.FinishedAt != j.last.FinishedAt || digest(j.first) != digest(j.last)) {
			changed++
			breach("changed", "job %s was %s at %s and is %s at %s", j.id, j.first.Status, j.first.FinishedAt, j.last.Status, j.last.FinishedAt)
		}
		if j.last.Final() && j.last.Status != "succeeded" {
			failed++
			breach("failed", "job %s is %s: %+v", j.id, j.last.Status, j.last.Error)
		} else if j.last.Final() && j.last.Text != e.want[j.prompt] {
			wrong++
			breach("wrong", "job %s has the result of something else", j.id)
		}
	}
	r.row(changed == 0, "final jobs that changed between two readings", "0", "%d", changed)
	r.row(failed == 0, "jobs not succeeded, with a provider without faults", "0", "%d", failed)
	r.row(wrong == 0, "results that are not their prompt's", "0", "%d", wrong)
	uneven := 0
	for _, g := range e.batches {
		if g.Status != "ended" || g.Counts["total"] != batchSize || g.Counts["succeeded"] != batchSize {
			uneven++
			breach("batch", "%s is %s, counts %v", g.ID, g.Status, g.Counts)
		}
	}
	r.row(uneven == 0, "batches with wrong counts", "0", "%d of %d", uneven, len(e.batches))
	e.judgeCalls(&r, breach)

	r.row(len(e.kills) == e.workerKills+e.apiKills+e.redisKills+e.freezes, "kills made (workers, APIs, Redis), and workers stopped",
		fmt.Sprintf("%d+%d+%d, %d", e.workerKills, e.apiKills, e.redisKills, e.freezes), "%d", len(e.kills))
	if len(e.kills) != e.workerKills+e.apiKills+e.redisKills+e.freezes {
		breach("kills", "the jobs were done before all kills were made: %d", len(e.kills))
	}
	r.row(true, "requests that callers repeated", "-", "%d", e.retries)
	r.row(true, "seconds until the last end", "-", "%.1f", e.took.Seconds())
	return r
}

// judgeCalls holds the provider's calls against the jobs' logs.
func (e *evidence) judgeCalls(r *report, breach func(kind, format string, args ...any)) {
	byPrompt := map[string][]call{}
	charged := 0
	for _, c := range e.calls {
		if c.Accepted {
			charged++
			byPrompt[c.Prompt] = append(byPrompt[c.Prompt], c)
		}
	}
	atKill := map[call]bool{}
	cutCalls := map[call]bool{} // without an end, at a kill of their worker or more than one
	for _, k := range e.kills {
		n, left := 0, 0
		for _, c := range e.calls {
			if !c.Accepted || !e.inFlight(c, k) {
				continue
			}
			n++
			atKill[c] = true
			if !c.Completed && k.worker != "" {
				left++
				cutCalls[c] = true
			}
		}
		if k.worker != "" || k.redis {
			r.kills = append(r.kills, fmt.Sprintf("%-10s %-9s %3d calls in flight or about to be recorded, %d of them cut off", k.verb(), k.name, n, left))
		}
	}
	cut := map[string]int{} // by prompt
	for c := range cutCalls {
		cut[c.Prompt]++
	}
	repeats, unexplained, unmarked, cutOff, hidden := 0, 0, 0, 0, 0
	for _, j := range e.jobs {
		calls := byPrompt[rig.PromptDigest(j.prompt)]
		slices.SortFunc(calls, func(a, b call) int { return a.At.Compare(b.At) })
		marked, logged := 0, 0
		if j.last.Upstream != nil {
			logged = len(j.last.Upstream.Attempts)
			for _, a := range j.last.Upstream.Attempts {
				if a.MaybeBilled {
					marked++
				}
			}
		}
		if len(calls) > logged {
			hidden++
			breach("log", "job %s: %d calls at the provider, %d in its log", j.id, len(calls), logged)
		}
		if len(calls) == 0 {
			if j.last.Status == "succeeded" {
				breach("uncalled", "job %s has a result, and the provider saw no call", j.id)
			}
			continue
		}
		repeats += len(calls) - 1
		struck := 0
		for _, c := range calls {
			if atKill[c] {
				struck++
			}
		}
		if more := len(calls) - 1 - struck; more > 0 {
			unexplained += more
			breach("repeat", "job %s: %d calls, the first at %s, and nothing was killed during %d of them",
				j.id, len(calls), calls[0].At.Format("15:04:05.000"), len(calls)-struck)
		}
		if marked < len(calls)-1 {
			unmarked++
			breach("maybe_billed", "job %s: %d calls, and only %d are marked", j.id, len(calls), marked)
		}
		if n := cut[rig.PromptDigest(j.prompt)]; n > 0 {
			cutOff++
			if marked < n {
				unmarked++
				breach("maybe_billed", "job %s: %d calls were cut off by a kill, and %d are marked", j.id, n, marked)
			}
		}
	}
	r.row(true, "calls that the provider charged", "-", "%d", charged)
	r.row(repeats <= len(atKill), "calls beyond one a job", fmt.Sprintf("<= %d in flight", len(atKill)), "%d", repeats)
	if repeats > len(atKill) {
		breach("repeats", "%d calls too many, %d in flight at the kills", repeats, len(atKill))
	}
	r.row(unexplained == 0, "of them, with nothing killed during the call", "0", "%d", unexplained)
	r.row(unmarked == 0, "jobs with a call cut off or repeated, not maybe_billed", "0", "%d", unmarked)
	r.row(hidden == 0, "jobs with fewer calls in their log than were made", "0", "%d", hidden)
	r.row(true, "jobs whose call a kill cut off", "-", "%d", cutOff)
	if byPrompt != nil && len(byPrompt) > len(e.jobs) {
		breach("prompts", "the provider saw %d prompts, %d were submitted", len(byPrompt), len(e.jobs))
	}
}
