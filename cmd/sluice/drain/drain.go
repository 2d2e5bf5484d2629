// Package drain is the command that needs no server: it asks what a file of
// prompts asks, at the allowed pace, and writes a line of results for each.
//
// It promises that
//   - nothing is sent of a file with a fault, or of one that is not prompts;
//   - a line is known by what it asks, wherever it stands: one that was answered is
//     not paid for again, however often the run is interrupted and the file edited;
//   - no answer is thrown away: one that no line asks for any more goes to a file of
//     its own before the results lose it;
//   - two runs never write one file of results.
//
// It never reads the environment or the configuration, never starts a server of its
// own, and never logs a prompt or an answer. What asks the provider is given to it.
package drain

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// Run drains a file of prompts with no server and writes a line a job. What an
// earlier run was answered is not asked again: a line is known by what it asks.
func Run(ctx context.Context, c Config, o Options) error {
	std, err := newStandard(o)
	if err == nil {
		err = o.check()
	}
	if err != nil {
		return err
	}
	in, err := readPrompts(&c, o)
	if err != nil {
		return err
	}
	if o.DryRun {
		return dryRun(&c, o, std, in)
	}
	if c.DataDir == "" {
		return usagef("data_dir is needed to keep what is done; set SLUICE_DATA_DIR")
	}
	out, err := openResults(o, c.Stdout)
	if err != nil {
		return err
	}
	defer out.Close()
	r := newRunner(&c, o, std, out, folderOf(c.DataDir, o, out.path, in.raw), len(in.prompts))
	defer r.end()
	if err := r.keepInvalid(in.invalid); err != nil {
		return err
	}
	asked, err := r.ask(ctx, in.prompts)
	if err != nil || !asked {
		return err
	}
	return r.finish()
}

// check refuses flags that exclude one another.
func (o *Options) check() error {
	switch {
	case o.Template != "" && o.Text:
		return usagef("--template and --text exclude one another")
	case o.SkipInvalid && o.Out == "":
		return usagef("--skip-invalid needs a file for the results, beside which the faulty lines are kept: name one with -o")
	}
	return o.checkFormat()
}

// keepInvalid keeps the lines that are left out, and says so.
func (r *runner) keepInvalid(all []invalid) error {
	if !r.out.lasting {
		return nil
	}
	name := r.out.path + ".invalid.jsonl"
	if len(all) > 0 {
		r.say("sluice: %d faulty lines are left out; they are in %s", len(all), name)
	}
	return keepInvalid(name, all)
}

// ask brings every line its result, or as many as come until ctx ends. It
// reports whether anything had to be asked.
func (r *runner) ask(ctx context.Context, all []prompt) (asked bool, err error) {
	if r.o.Fresh || r.at.begun() {
		if err := r.begin(ctx); err != nil {
			return false, err
		}
	}
	before, err := r.pastJobs(ctx, all)
	if err != nil {
		return false, err
	}
	prior, err := r.out.settle(r.o, r.std, all, digestsOf(before))
	if err != nil {
		return false, err
	}
	r.skipped = len(all) - len(prior.left)
	r.sayRetired(prior.retired)
	r.sayRefused(prior.refusals)
	if len(prior.left) == 0 && r.s == nil {
		r.sayDone()
		r.summary(0, use{})
		return false, nil
	}
	if r.s == nil {
		if err := r.begin(ctx); err != nil {
			return false, err
		}
	}
	// A stop in the middle of a step is an interruption like any other.
	if err := r.work(ctx, before, prior); err != nil && (ctx.Err() == nil || !errors.Is(err, context.Canceled)) {
		return true, err
	}
	return true, nil
}

// finish says how a run that asked something has ended, and forgets its folder
// when nothing is left to go on from.
func (r *runner) finish() error {
	if r.out.lasting {
		if err := r.tidy(); err != nil {
			return err
		}
	}
	if r.done() < r.total {
		return fmt.Errorf("interrupted with %d of %d jobs done; the same command goes on from there", r.done(), r.total)
	}
	if r.out.lasting {
		// The results say what is done once they are on disk.
		if err := r.out.sync(); err != nil {
			return err
		}
		if err := r.at.remove(); err != nil {
			r.c.Log.Warn("the run's folder was not removed", "error", err)
		}
		r.say("results are in %s", r.o.Out)
	}
	if r.failed > 0 {
		return fmt.Errorf("%d of %d jobs failed; the same command tries them again", r.failed, r.total)
	}
	return nil
}

// tidy keeps the answers that the schema refused and others came for, and brings
// the results into order where that was asked for.
func (r *runner) tidy() error {
	if _, err := r.out.retire(r.refused, map[string]bool{}); err != nil {
		return err
	}
	if !r.o.Ordered {
		return nil
	}
	return r.out.order()
}

// work asks what is left to ask, until every line has its result or ctx ends.
func (r *runner) work(ctx context.Context, before []pastJob, prior settled) error {
	// No worker runs before it is known which jobs are wanted still.
	left, err := r.resume(ctx, before, prior)
	if err != nil {
		return err
	}
	r.sayDone()
	err = r.s.Run(ctx, func(ctx context.Context) error { return r.drain(ctx, left) })
	r.last(time.Now())
	r.sayFailures()
	seconds := time.Since(r.begun).Seconds()
	r.summary(seconds, useOf(r.c.Pools, r.s.Meters, seconds))
	r.end()
	return err
}

// drain submits what no earlier run has submitted, and writes results until
// every line has one or ctx ends. What ends within the grace period after that is
// written by the next run.
func (r *runner) drain(ctx context.Context, left []prompt) error {
	if err := r.tryKeys(ctx, left); err != nil {
		return err
	}
	if err := r.submit(ctx, left); err != nil {
		return err
	}
	if err := r.collect(ctx); err != nil {
		return err
	}
	return r.await(ctx)
}

// await writes results as the jobs end.
func (r *runner) await(ctx context.Context) error {
	// The worker tells of each end; jobs that end otherwise, or elsewhere, are looked for.
	look := time.NewTicker(5 * time.Second)
	defer look.Stop()
	paint := time.NewTicker(200 * time.Millisecond)
	defer paint.Stop()
	watch := time.NewTicker(time.Second)
	defer watch.Stop()
	for len(r.open)+len(r.again) > 0 {
		var err error
		select {
		case <-ctx.Done():
			r.say("sluice: stopping; calls that are under way are waited for, and another signal ends them")
			return nil
		case id := <-r.s.Ended:
			err = r.write(ctx, id)
		case <-look.C:
			err = r.collect(ctx)
		case <-paint.C:
			r.paint(time.Now())
		case <-watch.C:
			err = r.watchPools(ctx)
		}
		if err == nil && len(r.s.Ended) == 0 {
			err = r.settleUp(ctx)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// settleUp asks the lines again whose answer the schema refused, and writes what
// is held in memory.
func (r *runner) settleUp(ctx context.Context) error {
	again := r.again
	r.again = nil
	if err := r.submit(ctx, again); err != nil {
		return err
	}
	return r.out.flush()
}
