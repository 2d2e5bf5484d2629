// Package dispatch makes a move of the record and hands over what the move makes
// room for: jobs to their pool's Asynq queue, deliveries to theirs.
//
// It promises that a submit is durable before it is answered, that requests which
// come at once travel together, and that a hand-over which fails loses nothing: a
// sweep of the feeder finds what no queue has. While a pool is paused it moves
// jobs that name other models to the pools of these.
//
// It never calls a provider and never decides by what a prompt says.
package dispatch

import (
	"context"
	"log/slog"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/sluicehq/sluice/tasks"
	"github.com/sluicehq/sluice/tasks/queue"
	"github.com/sluicehq/sluice/tasks/store"
)

// Placer knows the pools.
type Placer interface {
	// Names are the pools.
	Names() []string
	// Paused reports whether a pool is paused, as far as is known.
	Paused(ctx context.Context, pool string) bool
	// Adopt gives a job the fallback models of its pool when it has no list of its own.
	Adopt(j *tasks.Job)
	// Next finds the next model of a job's list whose pool takes calls, in the same
	// pool only where that is asked for; false: there is none.
	Next(ctx context.Context, j tasks.Job, samePool bool) (tasks.Detour, bool)
	// WaitingAt says what a job with that place in its tenant's backlog waits for.
	WaitingAt(ctx context.Context, j tasks.Job, place, tenants int64) (tasks.Waiting, error)
}

// Config says what [Jobs] works with.
type Config struct {
	Store  *store.Store
	Feeder *queue.Feeder
	Placer Placer
	// OneServer is true where records and Asynq's tasks lie on one Redis server, so
	// that a job which comes alone may be enqueued in the round trip that stores it.
	OneServer bool
	// Shut says why no job is taken in now, such as tasks.ErrFull; nil, and a nil
	// error: jobs are.
	Shut    func() error
	Log     *slog.Logger          // nil: none
	Metrics prometheus.Registerer // nil: none
}
