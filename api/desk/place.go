package desk

import "github.com/sluicehq/sluice/tasks"

// PoolIn finds the pool that serves a model in a dialect, for what is no job.
func (d *Desk) PoolIn(dialect, model string) (string, error) {
	job := tasks.Job{Model: model}
	err := d.placeIn(dialect, &job)
	return job.Pool, err
}
