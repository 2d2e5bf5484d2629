package drain

import (
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
	c      *Config
	o      Options
	s      *Service // nil: not started, or closed
	out    *results
	at     *folder
	open   map[string]prompt // by the job's id: not written yet
	paused map[string]bool   // by pool, as last said
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
	r.begun = time.Now()
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
		if err := r.s.Record.StageBatch(ctx, b.ID, chunk); err != nil {
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
	if err := r.put(&j, p); err != nil {
		return err
	}
	delete(r.open, id)
	r.count(&j)
	return nil
}

// put writes a job's result as that of a prompt, wherever that stood when the
// job was submitted.
func (r *runner) put(j *tasks.Job, p prompt) error {
	j.Line, j.CustomID = p.Line, p.CustomID
	if _, err := r.out.w.Write(v1.ResultLine(j, p.digest)); err != nil {
		return fmt.Errorf("write the results: %w", err)
	}
	return nil
}
