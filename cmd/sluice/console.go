package main

import (
	"context"

	apidesk "github.com/sluicehq/sluice/api/desk"
	"github.com/sluicehq/sluice/tasks"
	"github.com/sluicehq/sluice/tasks/dispatch"
	"github.com/sluicehq/sluice/tasks/store"
	"github.com/sluicehq/sluice/web"
)

// consoleJobs shows jobs to the console as the API does: with the same desk, so that
// both say the same of a job and count the same for a retry.
type consoleJobs struct {
	*store.Store
	jobs *dispatch.Jobs
	desk *apidesk.Desk // set before anything is served
}

func (c *consoleJobs) Waiting(ctx context.Context, j *tasks.Job) *tasks.Waiting {
	return c.desk.Waiting(ctx, j)
}

func (c *consoleJobs) Cancel(ctx context.Context, tenant, id string) error {
	_, err := c.jobs.Cancel(ctx, tenant, id)
	return err
}

func (c *consoleJobs) Retry(ctx context.Context, tenant, id string) error {
	_, _, err := c.desk.Retry(ctx, apidesk.Caller{Tenant: tenant}, id)
	return err
}

func (c *consoleJobs) Delete(ctx context.Context, tenant, id string) error {
	return c.jobs.Delete(ctx, tenant, id)
}

// note writes into the audit what somebody does in the console.
func (s *service) note(ctx context.Context, who web.Actor, action, target string) error {
	return s.noted(ctx, nil, who, tasks.Act{Action: action, Target: target})
}
