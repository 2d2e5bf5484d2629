package kill

import (
	"bytes"
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
	kinds  map[string]int
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

// none is a row whose bar is that nothing was counted.
func (r *report) none(what string, n int) { r.row(n == 0, what, "0", "%d", n) }

// breach says of one thing how a guarantee was broken.
func (r *report) breach(kind, format string, args ...any) {
	if r.kinds[kind]++; r.kinds[kind] <= 5 {
		r.broken = append(r.broken, kind+": "+fmt.Sprintf(format, args...))
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

// judge holds records and calls against the guarantees.
func (e *evidence) judge() *report {
	r := &report{kinds: map[string]int{}}
	e.judgeIDs(r)
	e.judgeEnds(r)
	e.judgeCalls(r)
	e.judgeLedger(r)
	planned := e.plan.WorkerKills + e.plan.APIKills + e.plan.RedisKills + e.plan.Freezes
	e.judgeEvents(r)
	r.row(len(e.kills) == planned, "kills made (workers, APIs, Redis), and workers stopped",
		fmt.Sprintf("%d+%d+%d, %d", e.plan.WorkerKills, e.plan.APIKills, e.plan.RedisKills, e.plan.Freezes), "%d", len(e.kills))
	if len(e.kills) != planned {
		r.breach("kills", "the jobs were done before all kills were made: %d", len(e.kills))
	}
	r.row(true, "requests that callers repeated", "-", "%d", e.retries)
	r.row(true, "seconds until the last end", "-", "%.1f", e.took.Seconds())
	return r
}

// judgeIDs says whether each job is there once, and none that nobody submitted.
func (e *evidence) judgeIDs(r *report) {
	ids := map[string]bool{}
	lost, twice := 0, 0
	for _, j := range e.jobs {
		switch {
		case j.id == "" || j.last.ID != j.id || !j.last.Final():
			lost++
			r.breach("lost", "job %q of prompt %q is %q", j.id, j.prompt, j.last.Status)
		case ids[j.id]:
			twice++
			r.breach("ids", "%s was given out twice", j.id)
		}
		ids[j.id] = true
	}
	r.row(lost == 0, "jobs accepted (202) and not final", "0", "%d of %d", lost, len(e.jobs))
	r.none("ids given out twice", twice)
	extra := 0
	for _, j := range e.listed {
		if !ids[j.ID] {
			extra++
			r.breach("unasked", "job %s exists, and no caller was told of it", j.ID)
		}
	}
	r.row(extra == 0 && len(e.listed) == len(e.jobs), "jobs in the list, beyond those accepted", "0", "%d", len(e.listed)-len(e.jobs))
}

// wanted is the status that the job has to end with.
func (j accepted) wanted() string {
	if j.cancel {
		return "canceled"
	}
	return "succeeded"
}

// judgeEnds says whether each job has ended well, once, and with its own result.
func (e *evidence) judgeEnds(r *report) {
	changed, wrong, failed := 0, 0, 0
	for _, j := range e.jobs {
		if j.first.Final() && (j.first.Status != j.last.Status || j.first.FinishedAt != j.last.FinishedAt || !bytes.Equal(j.first.Result, j.last.Result)) {
			changed++
			r.breach("changed", "job %s was %s at %s and is %s at %s", j.id, j.first.Status, j.first.FinishedAt, j.last.Status, j.last.FinishedAt)
		}
		switch want := j.wanted(); {
		case !j.last.Final():
		case j.last.Status != want:
			failed++
			r.breach("failed", "job %s is %s: %+v", j.id, j.last.Status, j.last.Error)
		case want == "succeeded" && j.last.Text != e.want[j.prompt]:
			wrong++
			r.breach("wrong", "job %s has the result of something else", j.id)
		}
	}
	r.none("final jobs that changed between two readings", changed)
	r.none("jobs not succeeded nor canceled as told", failed)
	r.none("results that are not their prompt's", wrong)
	uneven := 0
	for _, g := range e.batches {
		if g.Status != "ended" || g.Counts["total"] != batchSize || g.Counts["succeeded"] != batchSize {
			uneven++
			r.breach("batch", "%s is %s, counts %v", g.ID, g.Status, g.Counts)
		}
	}
	r.row(uneven == 0, "batches with wrong counts", "0", "%d of %d", uneven, len(e.batches))
}

// afterAnswer is how long a worker may need, from the provider's last byte on,
// until the end of the job is on disk: it is in flight until then.
const afterAnswer = 250 * time.Millisecond

// inFlight reports whether the call was under way at a kill of its worker or
// of Redis. A call that ends while Redis is away stays in its worker's hands
// until Redis is back.
func (e *evidence) inFlight(c rig.Call, k kill) bool {
	if !k.redis && k.worker != c.Key {
		return false
	}
	end := c.End.Add(afterAnswer)
	for _, r := range e.kills {
		if r.redis && !end.Before(r.at) && c.At.Before(r.back) && end.Before(r.back.Add(2*time.Second)) {
			end = r.back.Add(2 * time.Second)
		}
	}
	return c.At.Before(k.gone.Add(50*time.Millisecond)) && end.After(k.at)
}

// struck returns the calls in flight at a kill, and of each prompt how many of
// them were cut off, without an end, by a kill of their worker or several.
func (e *evidence) struck(r *report) (met map[rig.Call]bool, cut map[string]int) {
	met, cut = map[rig.Call]bool{}, map[string]int{}
	seen := map[rig.Call]bool{}
	for _, k := range e.kills {
		n, left := 0, 0
		for _, c := range e.calls {
			if !c.Accepted || !e.inFlight(c, k) {
				continue
			}
			n++
			met[c] = true
			if c.Completed || k.worker == "" {
				continue
			}
			left++
			if !seen[c] {
				seen[c] = true
				cut[c.Prompt]++
			}
		}
		if k.worker != "" || k.redis {
			r.kills = append(r.kills, fmt.Sprintf("%-10s %-9s %3d calls in flight or about to be recorded, %d of them cut off", k.verb(), k.name, n, left))
		}
	}
	return met, cut
}

// counts is what the calls of all jobs come to.
type counts struct{ repeats, unexplained, unmarked, cutOff, hidden int }

// judgeCalls holds the provider's calls against the jobs' logs.
func (e *evidence) judgeCalls(r *report) {
	byPrompt := map[string][]rig.Call{}
	charged := 0
	for _, c := range e.calls {
		if c.Accepted {
			charged++
			byPrompt[c.Prompt] = append(byPrompt[c.Prompt], c)
		}
	}
	met, cut := e.struck(r)
	var n counts
	for _, j := range e.jobs {
		prompt := rig.PromptDigest(j.prompt)
		n.judge(r, j, byPrompt[prompt], met, cut[prompt])
	}
	r.row(true, "calls that the provider charged", "-", "%d", charged)
	r.row(n.repeats <= len(met), "calls beyond one a job", fmt.Sprintf("<= %d in flight", len(met)), "%d", n.repeats)
	if n.repeats > len(met) {
		r.breach("repeats", "%d calls too many, %d in flight at the kills", n.repeats, len(met))
	}
	r.none("of them, with nothing killed during the call", n.unexplained)
	r.none("jobs with a call cut off or repeated, not maybe_billed", n.unmarked)
	r.none("jobs with fewer calls in their log than were made", n.hidden)
	r.row(true, "jobs whose call a kill cut off", "-", "%d", n.cutOff)
	if len(byPrompt) > len(e.jobs) {
		r.breach("prompts", "the provider saw %d prompts, %d were submitted", len(byPrompt), len(e.jobs))
	}
}

// judge holds the calls of one job against its log. Calls in met were in flight
// at a kill, and cut of them were cut off.
func (n *counts) judge(r *report, j accepted, calls []rig.Call, met map[rig.Call]bool, cut int) {
	log := j.last.Upstream.Attempts
	marked := 0
	for _, a := range log {
		if a.MaybeBilled {
			marked++
		}
	}
	if len(calls) > len(log) {
		n.hidden++
		r.breach("log", "job %s: %d calls at the provider, %d in its log", j.id, len(calls), len(log))
	}
	if len(calls) == 0 {
		if j.last.Status == "succeeded" {
			r.breach("uncalled", "job %s has a result, and the provider saw no call", j.id)
		}
		return
	}
	slices.SortFunc(calls, func(a, b rig.Call) int { return a.At.Compare(b.At) })
	n.repeats += len(calls) - 1
	struck := 0
	for _, c := range calls {
		if met[c] {
			struck++
		}
	}
	if more := len(calls) - 1 - struck; more > 0 {
		n.unexplained += more
		r.breach("repeat", "job %s: %d calls, the first at %s, and nothing was killed during %d of them",
			j.id, len(calls), calls[0].At.Format("15:04:05.000"), len(calls)-struck)
	}
	if marked < len(calls)-1 {
		n.unmarked++
		r.breach("maybe_billed", "job %s: %d calls, and only %d are marked", j.id, len(calls), marked)
	}
	if cut > 0 {
		n.cutOff++
	}
	if marked < cut {
		n.unmarked++
		r.breach("maybe_billed", "job %s: %d calls were cut off by a kill, and %d are marked", j.id, cut, marked)
	}
}
