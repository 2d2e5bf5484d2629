package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"strings"
	"time"

	"github.com/sluicehq/sluice/api/v1"
	"github.com/sluicehq/sluice/cmd/sluice/config"
	"github.com/sluicehq/sluice/tasks"
	"github.com/sluicehq/sluice/tasks/store"
	"github.com/sluicehq/sluice/worker/pause"
)

// runTenant owns the jobs of run: whoever is at this machine.
const runTenant = "local"

func usagef(format string, args ...any) error { return wrongUsage{fmt.Errorf(format, args...)} }

// runOptions are the flags of run.
type runOptions struct {
	File      string // "-" is standard input
	Out       string // "" is standard output
	Text      bool   // each line is a prompt, whatever the file's name
	Model     string // of lines that name none
	MaxTokens int    // for plain text
	Fresh     bool   // forget what an earlier run did
	Progress  bool
	Grace     time.Duration
}

// run drains a file of prompts with no server and writes a line a job. What an
// earlier run was answered is not asked again: a line is known by what it asks.
func run(ctx context.Context, cfg *config.Config, o runOptions, log *slog.Logger, stdin io.Reader, stdout, stderr io.Writer) error {
	all, raw, err := readPrompts(cfg, o, stdin, stderr)
	if err != nil {
		return err
	}
	if cfg.DataDir == "" {
		return usagef("data_dir is needed to keep what is done; set SLUICE_DATA_DIR")
	}
	out, err := openResults(o, stdout)
	if err != nil {
		return err
	}
	defer out.Close()
	r := &runner{log: log, out: out, stderr: stderr, at: folderOf(cfg, o, out, raw), open: map[string]prompt{}, paused: map[string]bool{}, total: len(all), progress: o.Progress}
	defer r.end()
	if o.Fresh || r.at.begun() {
		if err := r.begin(ctx, cfg, o); err != nil {
			return err
		}
	}
	before, err := r.earlier(ctx, all)
	if err != nil {
		return err
	}
	prior, err := out.settle(o, all, digestsOf(before))
	if err != nil {
		return err
	}
	r.skipped = len(all) - len(prior.left)
	r.tellRetired(prior.retired)
	if len(prior.left) == 0 && r.s == nil {
		r.tellDone()
		r.summary(0, 0, 0)
		return nil
	}
	if r.s == nil {
		if err := r.begin(ctx, cfg, o); err != nil {
			return err
		}
	}
	// A stop in the middle of a step is an interruption like any other.
	if err := r.work(ctx, before, prior); err != nil && (ctx.Err() == nil || !errors.Is(err, context.Canceled)) {
		return err
	}
	if r.skipped+r.written < r.total {
		return fmt.Errorf("interrupted with %d of %d jobs done; the same command goes on from there", r.skipped+r.written, r.total)
	}
	if out.lasting {
		// The results say what is done once they are on disk.
		if err := out.sync(); err != nil {
			return err
		}
		if err := r.at.remove(); err != nil {
			log.Warn("the run's folder was not removed", "error", err)
		}
		fmt.Fprintf(stderr, "results are in %s\n", o.Out)
	}
	if r.failed > 0 {
		return fmt.Errorf("%d of %d jobs failed; the same command tries them again", r.failed, r.total)
	}
	return nil
}

// runner writes a run's results as its jobs end.
type runner struct {
	s      *service
	log    *slog.Logger
	out    *results
	stderr io.Writer
	at     *folder
	open   map[string]prompt // by the job's id: not written yet
	paused map[string]bool   // by pool, as last said

	begun                      time.Time
	total, skipped             int
	written, succeeded, failed int
	usage                      tasks.Usage
	progress                   bool
	shown                      bool
}

// begin makes the parts of a run, and starts the embedded Redis.
func (r *runner) begin(ctx context.Context, cfg *config.Config, o runOptions) error {
	abandoned, err := r.at.enter(o, !r.out.lasting && cfg.Redis.URL == "")
	if err != nil {
		return err
	}
	own := *cfg
	if own.Redis.URL == "" {
		// A run's own embedded Redis, so that several runs and a dev server share nothing.
		own.DataDir = r.at.dir
	}
	if r.s, err = newService(ctx, &own, roles{worker: true, tell: true, grace: o.Grace}, r.log); err != nil {
		return err
	}
	if r.s.cfg.UsesFake() {
		fmt.Fprintln(r.stderr, "sluice: "+fakeNotice)
	}
	r.begun = time.Now()
	if cfg.Redis.URL == "" {
		return nil // what is abandoned is gone with the folder
	}
	for _, id := range abandoned {
		if _, err := r.s.jobs.CancelBatch(ctx, runTenant, id); err != nil && !errors.Is(err, tasks.ErrNotFound) && !errors.Is(err, tasks.ErrFinal) {
			return err
		}
	}
	return nil
}

// end undoes begin.
func (r *runner) end() {
	if r.s != nil {
		if err := r.s.close(); err != nil {
			r.log.Warn("close", "error", err)
		}
		r.s = nil
	}
	r.at.leave()
}

// work asks what is left to ask, until every line has its result or ctx ends.
func (r *runner) work(ctx context.Context, before []earlier, prior settled) error {
	// No worker runs before it is known which jobs are wanted still.
	left, err := r.resume(ctx, before, prior)
	if err != nil {
		return err
	}
	r.tellDone()
	err = r.s.run(ctx, func(ctx context.Context) error { return r.drain(ctx, left) })
	r.clearProgress()
	seconds := time.Since(r.begun).Seconds()
	r.summary(seconds, r.share(seconds), r.refused())
	r.end()
	return err
}

// drain submits what no earlier run has submitted, and writes results until
// every line has one or ctx ends.
func (r *runner) drain(ctx context.Context, left []prompt) error {
	if err := r.tryKeys(ctx, left); err != nil {
		return err
	}
	if err := r.submit(ctx, left); err != nil {
		return err
	}
	// The worker tells of each end; jobs that end otherwise, or elsewhere, are looked for.
	look := time.NewTicker(5 * time.Second)
	defer look.Stop()
	paint := time.NewTicker(200 * time.Millisecond)
	defer paint.Stop()
	watch := time.NewTicker(time.Second)
	defer watch.Stop()
	if err := r.collect(ctx); err != nil {
		return err
	}
	for len(r.open) > 0 {
		select {
		case <-ctx.Done():
			// What ends within the grace period is written by the next run.
			return nil
		case id := <-r.s.ended:
			if _, ok := r.open[id]; ok {
				if err := r.write(ctx, id); err != nil {
					return err
				}
			}
		case <-look.C:
			if err := r.collect(ctx); err != nil {
				return err
			}
		case <-paint.C:
			r.paint()
		case <-watch.C:
			if err := r.watchPools(ctx); err != nil {
				return err
			}
		}
		if len(r.s.ended) == 0 {
			if err := r.out.w.Flush(); err != nil {
				return fmt.Errorf("write the results: %w", err)
			}
		}
	}
	return nil
}

// tryKeys lets the pools of these prompts and of those under way try again where an
// earlier run found them refused, or out of credit: who gives the command has
// perhaps seen to it, and sees what comes. Other pools are none of this run's.
func (r *runner) tryKeys(ctx context.Context, left []prompt) error {
	pools := r.pools()
	for _, p := range left {
		pools[p.Pool] = true
	}
	for name := range pools {
		if err := r.s.breakers[name].Try(ctx, "sluice run"); err != nil {
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
// is left waits for a provider that refuses the key the run ends: nobody is there
// to change it meanwhile.
func (r *runner) watchPools(ctx context.Context) error {
	waited, refused := r.pools(), []string{}
	for name, b := range r.s.breakers {
		s, err := b.State(ctx)
		if err != nil {
			continue // Redis is away; the log says so
		}
		if waited[name] && s.PausedBy == pause.ByBreaker && s.Cause == pause.BadAuthority {
			refused = append(refused, name)
		}
		if s.Paused == r.paused[name] {
			continue
		}
		r.paused[name] = s.Paused
		r.clearProgress()
		switch {
		case !s.Paused:
			fmt.Fprintf(r.stderr, "sluice: pool %s goes on\n", name)
		case s.ExpectedResumeAt.IsZero():
			fmt.Fprintf(r.stderr, "sluice: pool %s is paused: %s; its jobs wait\n", name, s.Reason)
		default:
			fmt.Fprintf(r.stderr, "sluice: pool %s is paused: %s; its jobs wait, and it is tried again at %s\n", name, s.Reason, s.ExpectedResumeAt.Format(time.RFC3339))
		}
	}
	if len(refused) > 0 && len(refused) == len(waited) {
		slices.Sort(refused)
		return fmt.Errorf("the provider of pool %s refuses the key; what waits is kept: see to the key and run the same command again", strings.Join(refused, ", "))
	}
	return nil
}

// submit puts jobs into one batch, which is in the journal before it is accepted.
func (r *runner) submit(ctx context.Context, left []prompt) error {
	if len(left) == 0 {
		return nil
	}
	b, _, err := r.s.store.OpenBatch(ctx, runTenant, "")
	if err != nil {
		return err
	}
	digests := make(map[string]string, len(left))
	for from := 0; from < len(left); from += 200 {
		var chunk []tasks.Job
		for _, p := range left[from:min(from+200, len(left))] {
			j := p.Job
			r.s.pools.Adopt(&j)
			j.ID, j.Tenant, j.Batch = store.NewID("job"), runTenant, b.ID
			r.open[j.ID], digests[j.ID] = p, p.digest
			chunk = append(chunk, j)
		}
		if err := r.s.store.StageBatch(ctx, b.ID, chunk); err != nil {
			return err
		}
	}
	if err := r.at.note(b.ID, digests); err != nil {
		return err
	}
	_, err = r.s.jobs.CommitBatch(ctx, b.ID, tasks.BatchCommit{})
	return err
}

// collect writes every open job that has ended.
func (r *runner) collect(ctx context.Context) error {
	ids := make([]string, 0, len(r.open))
	for id := range r.open {
		ids = append(ids, id)
	}
	ended, err := r.s.store.Ended(ctx, ids)
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
	return r.out.w.Flush()
}

// write writes the result of an open job that has ended.
func (r *runner) write(ctx context.Context, id string) error {
	j, err := r.s.store.Job(context.WithoutCancel(ctx), runTenant, id)
	if err != nil {
		if tasks.Away(err) {
			r.s.log.Warn("a result cannot be read yet", "job", id, "error", err)
			return nil // the next look finds it
		}
		return err
	}
	if !j.Status.Final() {
		return nil
	}
	if err := r.put(&j, r.open[id]); err != nil {
		return err
	}
	delete(r.open, id)
	r.written++
	if j.Status == tasks.StatusSucceeded {
		r.succeeded++
	} else {
		r.failed++
	}
	if j.Usage != nil {
		r.usage.InputTokens += j.Usage.InputTokens
		r.usage.OutputTokens += j.Usage.OutputTokens
	}
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
