package desk

import "github.com/sluicehq/sluice/tasks"

// PoolIn finds the pool that serves a model in a dialect, for what is no job.
func (d *Desk) PoolIn(dialect, model string) (string, error) {
	job := tasks.Job{Model: model}
	err := d.placeIn(dialect, &job)
	return job.Pool, err
}

// ServesIn reports whether a pool of a dialect serves a model.
func (d *Desk) ServesIn(dialect, model string) bool {
	_, ok := d.c.Pools.MatchIn(dialect, model)
	return ok
}
