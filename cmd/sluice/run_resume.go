package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/sluicehq/sluice/api/v1"
	"github.com/sluicehq/sluice/cmd/sluice/config"
	"github.com/sluicehq/sluice/tasks"
)

// folder is where a run keeps what an interrupted one goes on from: the journal
// of its batches and, unless an external Redis is configured, its Redis.
type folder struct {
	dir    string
	former bool     // made by release 0.1.0: its journal has no digests
	older  string   // the name that release 0.1.0 gave it
	lock   *os.File // nil: not locked
}

// journal is the file of a run's batches and of what their jobs ask. A line is
// the id of a batch, or of a job and the digest of its prompt.
const journal = "batch"

// folderOf finds the folder of a run. Results that last have one, whatever the
// input holds by then, so that an edited file finds the answers that an
// interrupted run was given and did not write any more. Others, which each run
// writes anew, have one for each file and flags, or for what came through a pipe.
func folderOf(cfg *config.Config, o runOptions, out *results, input []byte) *folder {
	sum := sha256.New()
	at, err := os.Stat(o.File)
	file, absErr := filepath.Abs(o.File)
	if out.lasting {
		fmt.Fprintf(sum, "run 2\nresults\n%q\n", out.path)
	} else {
		fmt.Fprintf(sum, "run 2\n%q\n%q\n%d\n%t\n", outName(o), o.Model, o.MaxTokens, o.Text)
		if o.File != "-" && err == nil && at.Mode().IsRegular() && absErr == nil {
			fmt.Fprintf(sum, "file\n%q\n", file)
		} else {
			fmt.Fprint(sum, "content\n")
			sum.Write(input)
		}
	}
	runs := filepath.Join(cfg.DataDir, "runs")
	f := &folder{dir: filepath.Join(runs, hex.EncodeToString(sum.Sum(nil))[:20]), older: filepath.Join(runs, formerKey(o, input))}
	if !o.Fresh && !exists(f.dir) && exists(f.older) {
		f.dir, f.former = f.older, true
	}
	return f
}

// formerKey names the folder as release 0.1.0 did: by all of the input. So what
// is in it was asked by this very input.
func formerKey(o runOptions, input []byte) string {
	sum := sha256.New()
	fmt.Fprintf(sum, "%s\n%s\n%d\n", outName(o), o.Model, o.MaxTokens)
	sum.Write(input)
	return hex.EncodeToString(sum.Sum(nil))[:20]
}

// outName is the name of the results, "" for standard output.
func outName(o runOptions) string {
	if o.Out == "" {
		return ""
	}
	if abs, err := filepath.Abs(o.Out); err == nil {
		return abs
	}
	return o.Out
}

func exists(name string) bool {
	_, err := os.Stat(name)
	return err == nil
}

// begun reports whether an earlier run has left jobs behind.
func (f *folder) begun() bool { return exists(filepath.Join(f.dir, journal)) }

// enter makes the folder and, when it has to be locked, makes sure that nobody
// else is in it. When the run is to start over it forgets what the folder held,
// and returns the batches that nobody waits for any more.
func (f *folder) enter(o runOptions, locked bool) (abandoned []string, err error) {
	if err := os.MkdirAll(f.dir, 0o700); err != nil {
		return nil, fmt.Errorf("make the run's folder: %w", err)
	}
	if locked {
		f.lock, err = lockFile(filepath.Join(f.dir, "lock"))
		if errors.Is(err, errLocked) {
			return nil, usagef("another run of %s is under way: wait for its end, or write results to a file with -o", nameOf(o.File))
		}
		if err != nil {
			return nil, fmt.Errorf("lock the run's folder: %w", err)
		}
	}
	if !o.Fresh {
		return nil, nil
	}
	for _, dir := range []string{f.dir, f.older} {
		batches, _, err := noted(dir)
		if err != nil {
			return nil, err
		}
		abandoned = append(abandoned, batches...)
	}
	inside, err := os.ReadDir(f.dir)
	for _, e := range inside {
		if e.Name() != "lock" {
			err = errors.Join(err, os.RemoveAll(filepath.Join(f.dir, e.Name())))
		}
	}
	if err = errors.Join(err, os.RemoveAll(f.older)); err != nil {
		return nil, fmt.Errorf("forget the earlier run: %w", err)
	}
	return abandoned, nil
}

func (f *folder) leave() {
	if f.lock != nil {
		_ = release(f.lock)
		f.lock = nil
	}
}

// remove removes the folder of a run that has come to its end.
func (f *folder) remove() error { return os.RemoveAll(f.dir) }

// note writes a batch and what each of its jobs asks into the journal, on disk
// when it returns.
func (f *folder) note(batch string, digests map[string]string) error {
	var b bytes.Buffer
	b.WriteString("\n") // a crash may have left half a line
	for id, digest := range digests {
		fmt.Fprintf(&b, "%s %s\n", id, digest)
	}
	fmt.Fprintln(&b, batch)
	file, err := os.OpenFile(filepath.Join(f.dir, journal), os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return fmt.Errorf("write the run's journal: %w", err)
	}
	_, err = b.WriteTo(file)
	if err = errors.Join(err, file.Sync(), file.Close(), syncFolder(f.dir)); err != nil {
		return fmt.Errorf("write the run's journal: %w", err)
	}
	return nil
}

// noted reads a folder's journal: the batches of earlier runs and, by job, the
// digest of what it asks.
func noted(dir string) (batches []string, digests map[string]string, err error) {
	text, err := os.ReadFile(filepath.Join(dir, journal))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, nil, fmt.Errorf("read the run's journal: %w", err)
	}
	digests = map[string]string{}
	for line := range strings.Lines(string(text)) {
		switch words := strings.Fields(line); {
		case len(words) == 1 && strings.HasPrefix(words[0], "batch_"):
			batches = append(batches, words[0])
		case len(words) == 2:
			digests[words[0]] = words[1]
		}
	}
	return batches, digests, nil
}

// earlier is a job of an interrupted run.
type earlier struct {
	mark
	job tasks.Job // without what it asks and what it was answered
}

// earlier reads the jobs of interrupted runs. Their digests are in the journal;
// release 0.1.0 wrote none, but its folder is that of this very input, line by line.
func (r *runner) earlier(ctx context.Context, all []prompt) ([]earlier, error) {
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
	var found []earlier
	for _, id := range batches {
		for from, more := 0, true; more; from += 500 {
			var jobs []tasks.Job
			jobs, more, err = r.s.store.BatchJobs(ctx, runTenant, id, from, 500)
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
				found = append(found, earlier{mark{digest, j.CustomID, j.Line}, j})
			}
		}
	}
	return found, nil
}

// digestsOf returns what jobs ask, by their ids.
func digestsOf(before []earlier) map[string]string {
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
func (r *runner) resume(ctx context.Context, before []earlier, prior settled) ([]prompt, error) {
	var answered, waiting []earlier
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
		r.tellRetired(n)
	}
	var left []prompt
	for i, p := range prior.left {
		if !done[i] {
			left = append(left, p)
		}
	}
	return left, nil
}

// takeAnswers writes the answers that an interrupted run was given, marks their
// lines as done, and returns those that no line asks for.
func (r *runner) takeAnswers(ctx context.Context, answered []earlier, left []prompt, done []bool) (stale [][]byte, err error) {
	for i, at := range match(left, marksOf(answered), done) {
		j, err := r.s.store.Job(ctx, runTenant, answered[i].job.ID)
		switch {
		case err != nil:
			return nil, err
		case at < 0:
			stale = append(stale, v1.ResultLine(&j, answered[i].digest))
			continue
		}
		if err := r.put(&j, left[at]); err != nil {
			return nil, err
		}
		r.skipped++
	}
	if err := r.out.w.Flush(); err != nil {
		return nil, fmt.Errorf("write the results: %w", err)
	}
	return stale, nil
}

// takeWaiting waits on for jobs that lines still ask for, whose lines are done
// with that, and cancels the others. It returns the answers that came meanwhile.
func (r *runner) takeWaiting(ctx context.Context, waiting []earlier, left []prompt, done []bool) (stale [][]byte, err error) {
	canceled := 0
	for i, at := range match(left, marksOf(waiting), done) {
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
		fmt.Fprintf(r.stderr, "sluice: %d jobs of an earlier run are canceled, for no line asks for them any more\n", canceled)
	}
	return stale, nil
}

func marksOf(jobs []earlier) []mark {
	marks := make([]mark, len(jobs))
	for i := range jobs {
		marks[i] = jobs[i].mark
	}
	return marks
}

// asWanted reports whether a job that waits does so as its line now says, and in
// a pool that there still is.
func (r *runner) asWanted(j, line *tasks.Job) bool {
	return j.Priority == line.Priority && j.Deadline.Equal(line.Deadline) && j.NotBefore.Equal(line.NotBefore) && r.s.gates[j.Pool] != nil
}

// giveUp cancels a job that nobody waits for. It returns its line of results
// when somebody else has brought the answer meanwhile.
func (r *runner) giveUp(ctx context.Context, j *tasks.Job, digest string) ([]byte, error) {
	_, err := r.s.jobs.Cancel(ctx, runTenant, j.ID)
	switch {
	case errors.Is(err, tasks.ErrNotFound):
		return nil, nil
	case !errors.Is(err, tasks.ErrFinal):
		return nil, err
	}
	now, err := r.s.store.Job(ctx, runTenant, j.ID)
	if err != nil || now.Status != tasks.StatusSucceeded {
		return nil, err
	}
	return v1.ResultLine(&now, digest), nil
}
