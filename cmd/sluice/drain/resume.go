package drain

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/sluicehq/sluice/api/v1"
	"github.com/sluicehq/sluice/tasks"
)

// pastJob is a job of an interrupted run.
type pastJob struct {
	mark
	job tasks.Job // without what it asks and what it was answered
}

// pastJobs reads the jobs of interrupted runs. Their digests are in the journal.
// Before release 0.1.0 none were written, but the folder is then that of this very
// input, line by line.
func (r *runner) pastJobs(ctx context.Context, all []prompt) ([]pastJob, error) {
	batches, digests, err := noted(r.at.dir)
	if err != nil {
		return nil, err
	}
	byLine := map[int]string{}
	if r.at.former {
		for i := range all {
			byLine[all[i].Line] = all[i].digest
		}
	}
	var found []pastJob
	for _, id := range batches {
		for from, more := 0, true; more; from += 500 {
			var jobs []tasks.Job
			jobs, more, err = r.s.Record.BatchJobs(ctx, owner, id, from, 500)
			if errors.Is(err, tasks.ErrNotFound) {
				break // never accepted, or kept by a Redis that forgets
			}
			if err != nil {
				return nil, err
			}
			for _, j := range jobs {
				digest, noted := digests[j.ID]
				if !noted {
					digest = byLine[j.Line]
				}
				j.Request.Body, j.Result, j.Log = nil, nil, nil
				found = append(found, pastJob{mark{digest: digest, customID: j.CustomID, line: j.Line}, j})
			}
		}
	}
	return found, nil
}

// digestsOf returns what jobs ask, by their ids.
func digestsOf(before []pastJob) map[string]string {
	m := make(map[string]string, len(before))
	for i := range before {
		m[before[i].job.ID] = before[i].digest
	}
	return m
}

// resume takes up the jobs of an interrupted run by what they ask, under the
// present lines: answers that were not written are, and who waits goes on
// waiting. What no line asks for any more is kept when it is answered, and
// canceled when it is not. A job that failed is asked anew. Resume returns what
// is left to ask.
func (r *runner) resume(ctx context.Context, before []pastJob, prior settled) ([]prompt, error) {
	var answered, waiting []pastJob
	for _, e := range before {
		switch {
		case e.job.Status == tasks.StatusSucceeded && !prior.had[e.job.ID]:
			answered = append(answered, e)
		case !e.job.Status.Final():
			waiting = append(waiting, e)
		}
	}
	done := make([]bool, len(prior.left))
	stale, err := r.takeAnswers(ctx, answered, prior.left, done)
	if err != nil {
		return nil, err
	}
	late, err := r.takeWaiting(ctx, waiting, prior.left, done)
	if err != nil {
		return nil, err
	}
	if r.out.lasting {
		n, err := r.out.retire(append(stale, late...), prior.had)
		if err != nil {
			return nil, err
		}
		r.sayRetired(n)
	}
	return undone(prior.left, done), nil
}

// takeAnswers writes the answers that an interrupted run was given, marks their
// lines as done, and returns those that no line asks for, or that are not accepted.
func (r *runner) takeAnswers(ctx context.Context, answered []pastJob, left []prompt, done []bool) (stale [][]byte, err error) {
	accepted, stale, err := r.accepted(ctx, answered)
	if err != nil {
		return nil, err
	}
	for i, at := range match(left, accepted, done) {
		j, err := r.s.Record.Job(ctx, owner, accepted[i].job.ID)
		switch {
		case err != nil:
			return nil, err
		case at < 0:
			stale = append(stale, v1.ResultLine(&j, accepted[i].digest))
			continue
		}
		if err := r.put(&j, left[at], nil); err != nil {
			return nil, err
		}
		r.skipped++
	}
	return stale, r.out.flush()
}

// accepted are the answers that count, and the rows of the others.
func (r *runner) accepted(ctx context.Context, answered []pastJob) (good []pastJob, refused [][]byte, err error) {
	if r.std.trusts() {
		return answered, nil, nil
	}
	codes := map[tasks.ErrorCode]int{}
	for _, e := range answered {
		j, err := r.s.Record.Job(ctx, owner, e.job.ID)
		if err != nil {
			return nil, nil, err
		}
		refusal := r.judge(&j)
		if refusal == nil {
			good = append(good, e)
			continue
		}
		p := prompt{digest: e.digest}
		p.Line, p.CustomID = j.Line, j.CustomID
		row, err := r.row(&j, p, refusal)
		if err != nil {
			return nil, nil, err
		}
		refused = append(refused, row)
		codes[refusal.Code]++
	}
	r.sayRefused(codes)
	return good, refused, nil
}

// takeWaiting waits on for jobs that lines still ask for, whose lines are done
// with that, and cancels the others. It returns the answers that came meanwhile.
func (r *runner) takeWaiting(ctx context.Context, waiting []pastJob, left []prompt, done []bool) (stale [][]byte, err error) {
	canceled := 0
	for i, at := range match(left, waiting, done) {
		j := &waiting[i].job
		if at >= 0 && r.asWanted(j, &left[at].Job) {
			r.open[j.ID] = left[at]
			continue
		}
		if at >= 0 {
			done[at] = false
		}
		line, err := r.giveUp(ctx, j, waiting[i].digest)
		switch {
		case err != nil:
			return nil, err
		case line != nil:
			stale = append(stale, line)
		default:
			canceled++
		}
	}
	if canceled > 0 {
		r.say("sluice: %d jobs of an earlier run are canceled, for no line asks for them any more", canceled)
	}
	return stale, nil
}

// asWanted reports whether a job that waits does so as its line now says, and in
// a pool that there still is.
func (r *runner) asWanted(j, line *tasks.Job) bool {
	return j.Priority == line.Priority && j.Deadline.Equal(line.Deadline) && j.NotBefore.Equal(line.NotBefore) && r.s.Pauses[j.Pool] != nil
}

// giveUp cancels a job that nobody waits for. It returns its line of results
// when somebody else has brought the answer meanwhile.
func (r *runner) giveUp(ctx context.Context, j *tasks.Job, digest string) ([]byte, error) {
	_, err := r.s.Jobs.Cancel(ctx, owner, j.ID)
	switch {
	case errors.Is(err, tasks.ErrNotFound):
		return nil, nil
	case !errors.Is(err, tasks.ErrFinal):
		return nil, err
	}
	now, err := r.s.Record.Job(ctx, owner, j.ID)
	if err != nil || now.Status != tasks.StatusSucceeded {
		return nil, err
	}
	return v1.ResultLine(&now, digest), nil
}

// sayRetired tells where the answers are that no line asks for any more.
func (r *runner) sayRetired(n int) {
	if n > 0 {
		r.say("sluice: %d answers that no line asks for any more are in %s", n, r.out.stale())
	}
}

// sayRefused tells which answers that there are do not count.
func (r *runner) sayRefused(codes map[tasks.ErrorCode]int) {
	n := 0
	var why []string
	for _, code := range slices.Sorted(maps.Keys(codes)) {
		n += codes[code]
		why = append(why, fmt.Sprintf("%d %s", codes[code], code))
	}
	if n == 0 {
		return
	}
	where := ""
	if r.out.lasting {
		where = ", and the answers are kept in " + r.out.stale()
	}
	r.say("sluice: %d answers of earlier runs are not accepted (%s): their lines are asked again%s", n, strings.Join(why, ", "), where)
}
