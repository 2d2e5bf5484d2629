package desk

import (
	"slices"
	"strings"

	"github.com/sluicehq/sluice/api/fault"
	"github.com/sluicehq/sluice/tasks"
)

// narrowed reports whether the caller's token is for some models or pools alone.
func (c *Caller) narrowed() bool { return len(c.Models) > 0 || len(c.Pools) > 0 }

// may refuses a job for a model that the caller's token is not for.
func (c *Caller) may(job *tasks.Job) error {
	if err := c.mayAsk(job.Model); err != nil {
		return err
	}
	for _, model := range job.Fallback {
		if err := c.mayAsk(model); err != nil {
			return err
		}
	}
	return nil
}

// mayAsk refuses a model that the caller's token is not for.
func (c *Caller) mayAsk(model string) error {
	if len(c.Models) > 0 && !tasks.MatchModel(c.Models, model) {
		return fault.Fail(fault.Forbidden, "The token may ask only for these models: %s.", strings.Join(c.Models, ", "))
	}
	return nil
}

// mayUse refuses a pool that the caller's token is not for.
func (c *Caller) mayUse(pool string) error {
	if len(c.Pools) > 0 && !tasks.MatchModel(c.Pools, pool) {
		return fault.Fail(fault.Forbidden, "The token may use only these pools: %s.", strings.Join(c.Pools, ", "))
	}
	return nil
}

// within refuses a job that was placed where the caller's token may not go, itself or by its
// fallback models. Of those that its pool lends, it gets the ones that the token is for.
func (d *Desk) within(c *Caller, match func(model string) (pool string, ok bool), job *tasks.Job) error {
	if !c.narrowed() {
		return nil
	}
	if err := c.mayUse(job.Pool); err != nil {
		return err
	}
	for _, model := range job.Fallback {
		if pool, ok := match(model); ok {
			if err := c.mayUse(pool); err != nil {
				return err
			}
		}
	}
	if job.Fallback != nil {
		return nil
	}
	lent := tasks.Job{Model: job.Model, Pool: job.Pool}
	d.c.Pools.Adopt(&lent)
	all := len(lent.Fallback)
	left := slices.DeleteFunc(lent.Fallback, func(model string) bool { return c.mayAsk(model) != nil || !d.open(c, model) })
	if len(left) < all {
		job.Fallback = append([]string{}, left...) // not nil: nothing more is lent to it
	}
	return nil
}

// open reports whether the caller's token is for the pool that a model is served by, if one is.
func (d *Desk) open(c *Caller, model string) bool {
	pool, ok := d.c.Pools.Match(model)
	return !ok || c.mayUse(pool) == nil
}

// mayRun refuses to have a job run again that asks for a model, or may go to a pool, that the
// caller's token is not for.
func (d *Desk) mayRun(c *Caller, job *tasks.Job) error {
	if err := c.may(job); err != nil {
		return err
	}
	if err := c.mayUse(job.Pool); err != nil {
		return err
	}
	models := job.Fallback
	if job.Passed > 0 { // it begins again where it began
		models = append([]string{job.Model}, models...)
	}
	for _, model := range models {
		if pool, ok := d.c.Pools.Match(model); ok {
			if err := c.mayUse(pool); err != nil {
				return err
			}
		}
	}
	return nil
}
