package desk

import "github.com/sluicehq/sluice/tasks"

// PoolIn finds the pool that serves a model in a dialect, for what is no job. It refuses a
// model and a pool that the caller's token is not for.
func (d *Desk) PoolIn(c Caller, dialect, model string) (string, error) {
	job := tasks.Job{Model: model}
	if err := c.may(&job); err != nil {
		return "", err
	}
	if err := d.placeIn(dialect, &job); err != nil {
		return "", err
	}
	return job.Pool, c.mayUse(job.Pool)
}

// ServesIn reports whether a pool of a dialect serves a model to a caller.
func (d *Desk) ServesIn(c Caller, dialect, model string) bool {
	pool, ok := d.c.Pools.MatchIn(dialect, model)
	return ok && c.mayAsk(model) == nil && c.mayUse(pool) == nil
}
