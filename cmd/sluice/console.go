package main

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"time"

	"github.com/sluicehq/sluice/api"
	apidesk "github.com/sluicehq/sluice/api/desk"
	apifault "github.com/sluicehq/sluice/api/fault"
	v1 "github.com/sluicehq/sluice/api/v1"
	"github.com/sluicehq/sluice/tasks"
	"github.com/sluicehq/sluice/tasks/dispatch"
	"github.com/sluicehq/sluice/tasks/store"
	"github.com/sluicehq/sluice/web"
	"github.com/sluicehq/sluice/worker/pool"
)

// consoleJobs shows jobs to the console as the API does: with the same desk, so that
// both say the same of a job and count the same for a retry.
type consoleJobs struct {
	*store.Store
	jobs  *dispatch.Jobs
	pools *pool.Set
	now   func() time.Time
	desk  *apidesk.Desk // set before anything is served
	api   *api.API      // likewise
}

func (c *consoleJobs) Waiting(ctx context.Context, j *tasks.Job) *tasks.Waiting {
	return c.desk.Waiting(ctx, j)
}

// Timeline says of each moment what it was for, as the API does.
func (c *consoleJobs) Timeline(ctx context.Context, tenant, id string) ([]tasks.Span, error) {
	return c.pools.Timeline(ctx, tenant, id)
}

func (c *consoleJobs) Cancel(ctx context.Context, tenant, id string) error {
	_, err := c.jobs.Cancel(ctx, tenant, id)
	return err
}

// Retry runs a job again.
func (c *consoleJobs) Retry(ctx context.Context, who web.Actor, tenant, id string) error {
	_, _, err := c.desk.Retry(ctx, callerFor(who, tenant), id)
	return refused(err)
}

// RetryAll moves jobs as the API's bulk retry does.
func (c *consoleJobs) RetryAll(ctx context.Context, who web.Actor, sel tasks.Selection) (web.ManyMoved, error) {
	return manyMoved(c.desk.RetryAll(ctx, callerFor(who, sel.Tenant), sel))
}

// CancelAll moves jobs as the API's bulk cancellation does.
func (c *consoleJobs) CancelAll(ctx context.Context, who web.Actor, sel tasks.Selection) (web.ManyMoved, error) {
	return manyMoved(c.desk.CancelAll(ctx, callerFor(who, sel.Tenant), sel))
}

func manyMoved(b apidesk.Bulk, err error) (web.ManyMoved, error) {
	m := web.ManyMoved{Moved: b.Moved}
	if b.Stopped != nil {
		_, told := apifault.Classify(b.Stopped)
		m.Stopped = told.Detail
	}
	return m, refused(err)
}

// callerFor is who as a caller for an owner's jobs. What a token may ask is its own
// tenant's matter: an operator's models and pools say nothing of another tenant's jobs.
func callerFor(who web.Actor, owner string) apidesk.Caller {
	caller := apidesk.Caller{Tenant: owner, Subject: who.Subject}
	if tasks.TenantOf(who.Tenant) == tasks.TenantOf(owner) {
		caller.Models, caller.Pools = who.Models, who.Pools
	}
	return caller
}

// refused says in words for the page what the desk refuses; another error stays as it is.
func refused(err error) error {
	var f *apifault.Fault
	if !errors.As(err, &f) {
		return err
	}
	kind, told := apifault.Classify(err)
	return &web.RefusedError{Status: kind.Status, Text: told.Detail, Err: err}
}

func (c *consoleJobs) Delete(ctx context.Context, tenant, id string) error {
	return c.jobs.Delete(ctx, tenant, id)
}

func (c *consoleJobs) CancelBatch(ctx context.Context, tenant, id string) error {
	_, err := c.jobs.CancelBatch(ctx, tenant, id)
	return err
}

// BatchLines is a part of a batch's results, in the lines that the API answers.
func (c *consoleJobs) BatchLines(ctx context.Context, tenant, id string, from int) (lines []byte, next int, err error) {
	jobs, next, err := c.BatchResults(ctx, tenant, id, from)
	for i := range jobs {
		lines = append(lines, v1.ResultLine(&jobs[i], "")...)
	}
	return lines, next, err
}

// submit takes a job in as the API would, by the same reader of the same body.
func (c *consoleJobs) submit(ctx context.Context, who web.Actor, n web.NewJob) (string, error) {
	body, err := json.Marshal(struct {
		Model     string         `json:"model"`
		Prompt    string         `json:"prompt"`
		System    string         `json:"system,omitempty"`
		MaxTokens int            `json:"max_tokens,omitempty"`
		Priority  tasks.Priority `json:"priority,omitempty"`
	}{n.Model, n.Prompt, n.System, n.MaxTokens, n.Priority})
	if err != nil {
		return "", err
	}
	job, err := v1.ReadSubmit(body, c.now())
	var handed apidesk.Handed
	if err == nil {
		handed, err = c.desk.Submit(ctx, apidesk.Caller{Tenant: who.Tenant, Subject: who.Subject, Models: who.Models, Pools: who.Pools}, tasks.Submission{Job: job})
	}
	if err != nil {
		kind, f := apifault.Classify(err)
		if kind.Status >= 500 && kind.Code == apifault.Internal {
			return "", err
		}
		return "", &web.RefusedError{Status: kind.Status, Text: f.Detail}
	}
	return handed.Job.ID, nil
}

// follow sends a job's events as the API does.
func (c *consoleJobs) follow(rw http.ResponseWriter, r *http.Request, who web.Actor, owner, id string) error {
	caller := callerFor(who, owner)
	return refused(c.api.V1().Follow(rw, r, caller, id))
}

// Usage is what a tenant's calls took, or all of them, by model, day and tenant, as GET /v1/usage has it.
func (c *consoleJobs) Usage(ctx context.Context, f tasks.LedgerFilter, by ...string) ([][]web.UsageRow, error) {
	if f.Since.IsZero() {
		f.Since = c.api.V1().UsageSince()
	}
	groups, err := c.api.V1().UsageBy(ctx, f, by...)
	rows := make([][]web.UsageRow, len(groups))
	for i := range groups {
		for _, g := range groups[i] {
			rows[i] = append(rows[i], web.UsageRow(g))
		}
	}
	return rows, err
}

// UsageCSV is one of these as a table.
func (c *consoleJobs) UsageCSV(rows []web.UsageRow) []byte {
	groups := make([]v1.UsageGroup, len(rows))
	for i := range rows {
		groups[i] = v1.UsageGroup(rows[i])
	}
	return v1.UsageCSV(groups)
}

// note does what somebody asks for in the console once that is in the audit.
func (s *service) note(ctx context.Context, who web.Actor, action, target string, do func(ctx context.Context) error) error {
	return s.audited(ctx, who, tasks.Act{Action: action, Target: target}, func(ctx context.Context) error {
		err := do(ctx)
		var r *web.RefusedError
		if errors.As(err, &r) && r.Err == nil && r.Status == http.StatusForbidden {
			return apifault.Fail(apifault.Forbidden, "The token does not allow this.") // so that the line says so
		}
		return err
	})
}
