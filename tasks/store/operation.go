package store

import (
	"context"
	"crypto/rand"
	"errors"
	"time"

	"github.com/sluicehq/sluice/tasks"
	"github.com/sluicehq/sluice/tasks/pipeline"
)

// patience is how long an operation is tried again whose answer was lost. What it
// answered first is kept for longer (lua/operation.lua).
const patience = 10 * time.Second

// Sure has do, an operation on what id names, carried out once and its outcome
// known. do asks scripts that know a repeat of themselves, through a
// [pipeline.Client]. As long as one of them may have run although do has failed, do
// is called again, until it succeeds or is refused, or patience or ctx ends: then
// the error is a [tasks.UnknownError]. Any other error means that nothing was done.
func Sure(ctx context.Context, id string, do func(ctx context.Context) error) error {
	end := time.Now().Add(patience)
	doubt := false
	for pause := 20 * time.Millisecond; ; pause = min(2*pause, time.Second) {
		try, trial := pipeline.Try(ctx)
		err := do(try)
		if !errors.Is(err, tasks.ErrUnavailable) && !errors.Is(err, tasks.ErrFull) {
			return err
		}
		if doubt = doubt || trial.Doubt(); !doubt {
			return err
		}
		select {
		case <-ctx.Done():
		case <-time.After(pause):
		}
		if ctx.Err() != nil || time.Now().After(end) {
			return &tasks.UnknownError{ID: id, Err: err}
		}
	}
}

// operate is Sure for scripts that know their repeat by a name.
func operate(ctx context.Context, id string, do func(ctx context.Context, op string) error) error {
	op := rand.Text()[:16]
	return Sure(ctx, id, func(ctx context.Context) error { return do(ctx, op) })
}
