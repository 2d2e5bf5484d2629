package drain

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/sluicehq/sluice/api/v1"
	"github.com/sluicehq/sluice/tasks"
)

// owner has the jobs of a run: whoever is at this machine.
const owner = "local"

// runner writes a run's results as its jobs end.
type runner struct {
	*progress
	c       *Config
	o       Options
	s       *Service // nil: not started, or closed
	std     *standard
	out     *results
	at      *folder
	open    map[string]prompt // by the job's id: not written yet
	again   []prompt          // whose answer the schema refused: to be asked once more
	refused [][]byte          // rows of such answers
	unknown unknownModels
	paused  map[string]bool // by pool, as last said
}

func newRunner(c *Config, o Options, std *standard, out *results, at *folder, total int) *runner {
	return &runner{
		c: c, o: o, std: std, out: out, at: at, open: map[string]prompt{}, unknown: unknownModels{}, paused: map[string]bool{},
		progress: newProgress(c, o, total),
	}
}

// begin starts the parts that ask, in the run's folder.
func (r *runner) begin(ctx context.Context) error {
	abandoned, err := r.at.enter(r.o, !r.out.lasting && r.c.OwnRedis)
	if err != nil {
		return err
	}
	if r.s, err = r.c.Start(ctx, r.at.dir); err != nil {
		return err
	}
	r.start(time.Now())
	if r.c.OwnRedis {
		return nil // what is abandoned is gone with the folder
	}
	for _, id := range abandoned {
		if _, err := r.s.Jobs.CancelBatch(ctx, owner, id); err != nil && !errors.Is(err, tasks.ErrNotFound) && !errors.Is(err, tasks.ErrFinal) {
			return err
		}
	}
	return nil
}

// end undoes begin.
func (r *runner) end() {
	if r.s != nil {
		if err := r.s.Close(); err != nil {
			r.c.Log.Warn("close", "error", err)
		}
		r.s = nil
	}
	r.at.leave()
}

// submit puts jobs into one batch, which is in the journal before it is accepted.
func (r *runner) submit(ctx context.Context, left []prompt) error {
	if len(left) == 0 {
		return nil
	}
	b, _, err := r.s.Record.OpenBatch(ctx, r.s.NewID("batch"), owner, "")
	if err != nil {
		return err
	}
	digests := make(map[string]string, len(left))
	for from := 0; from < len(left); from += 200 {
		var chunk []tasks.Job
		for _, p := range left[from:min(from+200, len(left))] {
			j := p.Job
			r.s.Adopt(&j)
			j.ID, j.Tenant, j.Batch = r.s.NewID("job"), owner, b.ID
			r.open[j.ID], digests[j.ID] = p, p.digest
			chunk = append(chunk, j)
		}
		if err := r.s.Record.StageBatch(ctx, b.ID, chunk, tasks.Limits{}); err != nil {
			return err
		}
	}
	if err := r.at.note(b.ID, digests); err != nil {
		return err
	}
	_, err = r.s.Jobs.CommitBatch(ctx, b.ID, tasks.BatchCommit{})
	return err
}

// collect writes every open job that has ended.
func (r *runner) collect(ctx context.Context) error {
	ids := make([]string, 0, len(r.open))
	for id := range r.open {
		ids = append(ids, id)
	}
	ended, err := r.s.Record.Ended(ctx, ids)
	if err != nil {
		if tasks.Away(err) || ctx.Err() != nil {
			return nil // the next look finds them
		}
		return err
	}
	for _, id := range ended {
		if err := r.write(ctx, id); err != nil {
			return err
		}
	}
	return r.out.flush()
}

// write writes the result of a job that has ended, if it is open.
func (r *runner) write(ctx context.Context, id string) error {
	p, ok := r.open[id]
	if !ok {
		return nil
	}
	j, err := r.s.Record.Job(context.WithoutCancel(ctx), owner, id)
	if err != nil {
		if tasks.Away(err) {
			r.c.Log.Warn("a result cannot be read yet", "job", id, "error", err)
			return nil // the next look finds it
		}
		return err
	}
	if !j.Status.Final() {
		return nil
	}
	delete(r.open, id)
	r.spend(&j)
	refusal := r.judge(&j)
	if refusal != nil && again(refusal) && p.tries+1 < r.c.attempts(p.Pool) {
		row, err := r.row(&j, p, refusal)
		if err != nil {
			return err
		}
		r.refused = append(r.refused, row)
		p.tries++
		r.again = append(r.again, p)
		return nil
	}
	r.count(&j, refusal)
	if err := r.put(&j, p, refusal); err != nil {
		return err
	}
	if words, unknown := r.unknown.suspect(&j); unknown {
		return r.giveUpModel(ctx, j.Model, words)
	}
	return nil
}

// giveUpModel asks the open lines of a model no more. The others go on.
func (r *runner) giveUpModel(ctx context.Context, model, words string) error {
	n := 0
	for id, p := range r.open {
		if p.Model != model || p.Fallback != nil {
			continue
		}
		j, err := r.s.Jobs.Cancel(ctx, owner, id)
		if errors.Is(err, tasks.ErrFinal) {
			continue // it has ended, and is written like any other
		}
		if err != nil {
			return err
		}
		j.Error = &tasks.JobError{Code: tasks.CanceledByCaller, Message: fmt.Sprintf("not asked: the provider does not know the model (%s)", words)}
		delete(r.open, id)
		r.count(&j, nil)
		if err := r.put(&j, p, nil); err != nil {
			return err
		}
		n++
	}
	if n > 0 {
		r.say("sluice: the provider does not know the model %q: %d lines were answered %q, and %d more are not asked; correct the model and run the same command again", model, mostUnknown, words, n)
	}
	return nil
}

// judge returns why an answer is not accepted; nil where it is, or there is none.
func (r *runner) judge(j *tasks.Job) *tasks.JobError {
	if j.Status != tasks.StatusSucceeded {
		return nil
	}
	return r.std.judge(j.Finish, tasks.ResultText(j.Result))
}

// put writes a job's result as that of a prompt, wherever that stood when the
// job was submitted.
func (r *runner) put(j *tasks.Job, p prompt, refusal *tasks.JobError) error {
	row, err := r.row(j, p, refusal)
	if err != nil {
		return err
	}
	return r.out.put(p.place, row)
}

// row is a job's row as that of a prompt. An answer that is refused stands in it.
func (r *runner) row(j *tasks.Job, p prompt, refusal *tasks.JobError) ([]byte, error) {
	j.Line, j.CustomID = p.Line, p.CustomID
	j.Attempts += p.tries
	members := p.marks()
	if refusal != nil {
		why, err := jsonLine(struct {
			Code    tasks.ErrorCode `json:"code"`
			Message string          `json:"message"`
			Status  *int            `json:"upstream_status"`
			Billed  bool            `json:"maybe_billed"`
		}{Code: refusal.Code, Message: refusal.Message})
		if err != nil {
			return nil, err
		}
		members = append(members, member{name: "status", value: []byte(`"failed"`)}, member{name: "error", value: bytes.TrimSpace(why)})
	}
	return with(v1.ResultLine(j, p.digest), members...)
}
