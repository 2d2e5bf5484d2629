package desk

import (
	"errors"
	"strings"

	"github.com/sluicehq/sluice/api/abuse"
	"github.com/sluicehq/sluice/api/fault"
	"github.com/sluicehq/sluice/tasks"
)

// Abuse looks at submits; *abuse.Watch is one. Neither method waits for anything.
type Abuse interface {
	// Allow is an *abuse.AbnormalError for a tenant whose submits are not taken in now.
	Allow(tenant string) error
	// See notes what was taken in.
	See(v *abuse.Visit)
}

// usual refuses a submit of a tenant that behaves as none does that means well.
func (d *Desk) usual(tenant string) error {
	if d.c.Abuse == nil {
		return nil
	}
	err := d.c.Abuse.Allow(tasks.TenantOf(tenant))
	var e *abuse.AbnormalError
	if !errors.As(err, &e) {
		return err
	}
	names := make([]string, len(e.Rules))
	for i := range e.Rules {
		names[i] = e.Rules[i].Rule.String()
	}
	f := fault.Fail(fault.AbnormalUsage, "The tenant's usage is out of the ordinary by these rules: %s. GET /v1/usage has their measures. Send it again after Retry-After.", strings.Join(names, ", "))
	f.RetryAfter = e.RetryAfter
	return f
}

// saw notes a job that was taken in.
func (d *Desk) saw(c *Caller, job *tasks.Job) {
	if d.c.Abuse == nil {
		return
	}
	r := &job.Request
	d.c.Abuse.See(&abuse.Visit{
		Tenant: tasks.TenantOf(c.Tenant), User: c.Subject, Address: c.Address, Credential: c.Token, Models: []string{job.Model},
		Jobs: 1, Tokens: r.Tokens(), Cost: int64(job.AtMost), Body: r.Body,
	})
}

// sawMany notes jobs that were taken in by one submit, of which it is usual to be alike.
func (d *Desk) sawMany(c *Caller, jobs int, tokens int64, cost tasks.Money) {
	if d.c.Abuse == nil || jobs == 0 {
		return
	}
	d.c.Abuse.See(&abuse.Visit{
		Tenant: tasks.TenantOf(c.Tenant), User: c.Subject, Address: c.Address, Credential: c.Token,
		Jobs: jobs, Tokens: tokens, Cost: int64(cost),
	})
}
