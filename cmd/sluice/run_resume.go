package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/sluicehq/sluice/tasks"
)

// runKey tells one run from another: what is asked, and where it goes.
func runKey(o runOptions, input []byte) string {
	out := o.Out
	if out != "" {
		if abs, err := filepath.Abs(out); err == nil {
			out = abs
		}
	}
	sum := sha256.New()
	fmt.Fprintf(sum, "%s\n%s\n%d\n", out, o.Model, o.MaxTokens)
	sum.Write(input)
	return hex.EncodeToString(sum.Sum(nil))[:20]
}

// journal names the batch of an interrupted run.
const journal = "batch"

// resume takes up the batch of an interrupted run: its jobs are asked for once,
// however often the run is begun.
func (r *runner) resume(ctx context.Context, left []tasks.Job) error {
	name, err := os.ReadFile(filepath.Join(r.dir, journal))
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("read the run's journal: %w", err)
	}
	wanted := make(map[int]tasks.Job, len(left))
	for _, j := range left {
		wanted[j.Line] = j
	}
	for _, id := range strings.Fields(string(name)) {
		for from := 0; ; from += 500 {
			jobs, more, err := r.s.store.BatchJobs(ctx, runTenant, id, from, 500)
			if errors.Is(err, tasks.ErrNotFound) {
				break // never accepted, or kept by a Redis that forgets
			}
			if err != nil {
				return err
			}
			for _, j := range jobs {
				if _, ok := wanted[j.Line]; !ok {
					continue
				}
				delete(wanted, j.Line)
				if j.Status.Final() && j.Status != tasks.StatusSucceeded {
					if _, err := r.s.jobs.Retry(ctx, runTenant, j.ID, tasks.Limits{}); err != nil {
						return err
					}
				}
				r.open[j.ID] = j
			}
			if !more {
				break
			}
		}
	}
	return nil
}
