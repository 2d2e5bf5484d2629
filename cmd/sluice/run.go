package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"github.com/sluicehq/sluice/api"
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
	Fresh     bool   // forget what an earlier run of the same file did
	Progress  bool
	Grace     time.Duration
}

// run drains a file of prompts with no server and writes a line a job. What an
// earlier run of the same file finished is not asked again.
func run(ctx context.Context, cfg *Config, o runOptions, log *slog.Logger, stdin io.Reader, stdout, stderr io.Writer) error {
	all, input, err := readPrompts(cfg, o, stdin, stderr)
	if err != nil {
		return err
	}
	if cfg.DataDir == "" {
		return usagef("data_dir is needed to keep what is done; set SLUICE_DATA_DIR")
	}
	dir := filepath.Join(cfg.DataDir, "runs", runKey(o, input))
	out, done, err := openResults(o, all, stdout)
	if err != nil {
		return err
	}
	defer out.Close()
	if o.Fresh {
		if err := os.RemoveAll(dir); err != nil {
			return fmt.Errorf("forget the earlier run: %w", err)
		}
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("make the run's folder: %w", err)
	}
	r := &runner{log: log, out: out, stderr: stderr, dir: dir, all: all, open: map[string]tasks.Job{}, paused: map[string]bool{}, total: len(all), progress: o.Progress}
	r.skipped = len(done)
	left := all[:0:0]
	for _, j := range all {
		if !done[j.Line] {
			left = append(left, j)
		}
	}
	if len(left) == 0 {
		fmt.Fprintf(stderr, "all %d jobs were done by an earlier run; --fresh asks again\n", len(all))
		r.summary(0, 0, 0)
		return nil
	}
	own := *cfg
	if own.Redis.URL == "" {
		// A run's own embedded Redis, so that several runs and a dev server share nothing.
		own.DataDir = dir
	}
	s, err := newService(ctx, &own, roles{worker: true, tell: true, grace: o.Grace}, log)
	if err != nil {
		return err
	}
	if s.cfg.UsesFake() {
		fmt.Fprintln(stderr, "sluice: "+fakeNotice)
	}
	r.s, r.begun = s, time.Now()
	err = s.run(ctx, func(ctx context.Context) error { return r.drain(ctx, left) })
	r.clearProgress()
	seconds := time.Since(r.begun).Seconds()
	r.summary(seconds, r.share(seconds), r.refused())
	if closeErr := s.close(); closeErr != nil {
		log.Warn("close", "error", closeErr)
	}
	switch {
	case err != nil:
		return err
	case r.written < len(left):
		return fmt.Errorf("interrupted with %d of %d jobs done; the same command goes on from there", r.skipped+r.written, r.total)
	}
	if out.lasting {
		if err := os.RemoveAll(dir); err != nil { // the results file says what is done
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
	dir    string
	all    []tasks.Job
	open   map[string]tasks.Job // by id: not written yet
	paused map[string]bool      // by pool, as last said

	begun                      time.Time
	total, skipped             int
	written, succeeded, failed int
	usage                      tasks.Usage
	progress                   bool
	shown                      bool
}

// drain submits what no earlier run has submitted, and writes results until
// every line has one or ctx ends.
func (r *runner) drain(ctx context.Context, left []tasks.Job) error {
	if err := r.tryKeys(ctx); err != nil {
		return err
	}
	if err := r.resume(ctx, left); err != nil {
		return err
	}
	var fresh []tasks.Job
	known := map[int]bool{}
	for _, j := range r.open {
		known[j.Line] = true
	}
	for _, j := range left {
		if !known[j.Line] {
			fresh = append(fresh, j)
		}
	}
	if err := r.submit(ctx, fresh); err != nil {
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
			if j, ok := r.open[id]; ok {
				if err := r.write(ctx, j.ID); err != nil {
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

// tryKeys lets each pool that an earlier run found refused, or out of credit,
// try again: who gives the command has perhaps seen to it, and sees what comes.
func (r *runner) tryKeys(ctx context.Context) error {
	for name, b := range r.s.breakers {
		if err := b.Try(ctx, "sluice run"); err != nil {
			return fmt.Errorf("try pool %s again: %w", name, err)
		}
	}
	return nil
}

// watchPools says when a pool is paused and when it goes on. A provider that
// refuses the key ends the run: nobody is there to change it meanwhile.
func (r *runner) watchPools(ctx context.Context) error {
	for name, b := range r.s.breakers {
		s, err := b.State(ctx)
		if err != nil {
			continue // Redis is away; the log says so
		}
		if s.PausedBy == pause.ByBreaker && s.Cause == pause.BadAuthority {
			return fmt.Errorf("the provider of pool %s refuses the key; what waits is kept: see to the key and run the same command again", name)
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
	return nil
}

// submit puts jobs into one batch, whose name is in the journal before it is accepted.
func (r *runner) submit(ctx context.Context, fresh []tasks.Job) error {
	if len(fresh) == 0 {
		return nil
	}
	b, _, err := r.s.store.OpenBatch(ctx, runTenant, "")
	if err != nil {
		return err
	}
	for chunk := fresh; len(chunk) > 0; {
		n := min(200, len(chunk))
		for i := range chunk[:n] {
			r.s.fall.adopt(&chunk[i])
			chunk[i].ID, chunk[i].Tenant, chunk[i].Batch = store.NewID("job"), runTenant, b.ID
		}
		if err := r.s.store.StageBatch(ctx, b.ID, chunk[:n]); err != nil {
			return err
		}
		chunk = chunk[n:]
	}
	f, err := os.OpenFile(filepath.Join(r.dir, journal), os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return fmt.Errorf("write the run's journal: %w", err)
	}
	_, err = fmt.Fprintln(f, b.ID)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return fmt.Errorf("write the run's journal: %w", err)
	}
	for _, j := range fresh {
		r.open[j.ID] = j
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
	if _, err := r.out.w.Write(api.ResultLine(&j, "")); err != nil {
		return fmt.Errorf("write the results: %w", err)
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
