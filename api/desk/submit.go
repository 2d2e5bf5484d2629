package desk

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"strings"
	"time"

	"github.com/sluicehq/sluice/api/fault"
	"github.com/sluicehq/sluice/api/quota"
	"github.com/sluicehq/sluice/tasks"
)

// Handed is a job that was handed in.
type Handed struct {
	tasks.Accepted
	Grant quota.Grant // what is left to the tenant; no windows: nothing limits it
}

// Submit hands one job in. Its form has set what a caller can say; its tenant, pool
// and reservation, its id where the caller gave none, and the limits of the submission
// are set here.
//
// Handed counts beside an error too: of a repeat whose job is no more it says
// that it is a repeat.
func (d *Desk) Submit(ctx context.Context, c Caller, s tasks.Submission) (h Handed, err error) {
	if err := c.may(&s.Job); err != nil {
		return h, err
	}
	if err := place(d.c.Pools.Match, d.c.Pools.Served, &s.Job); err != nil {
		return h, err
	}
	if err := d.within(&c, d.c.Pools.Match, &s.Job); err != nil {
		return h, err
	}
	return d.submit(ctx, c, s)
}

// submit hands a job in whose pool is known.
func (d *Desk) submit(ctx context.Context, c Caller, s tasks.Submission) (h Handed, err error) {
	job := &s.Job
	if err := d.Lane(c.Tenant, job); err != nil {
		return h, err
	}
	if err := d.CheckWebhookURL("webhook_url", job.WebhookURL); err != nil {
		return h, err
	}
	if job.Tenant, job.User = tasks.SplitOwner(c.Tenant); !s.Named {
		job.ID = d.c.NewID("job")
	}
	span := d.c.Trace.Submit(ctx, job.ID, job.Tenant)
	job.Trace = span.Trace()
	defer func() { ended(span, err, h.Replayed, h.Job.ID, job.Pool) }()
	turn := d.comer(ctx, &s)
	grant, err := d.admitted(ctx, turn)
	if err != nil {
		return h, d.later(ctx, turn, err)
	}
	if err := ctx.Err(); err != nil && s.Caller != nil {
		// Who asks for this again by now has a job of its own.
		d.refund(ctx, c.Tenant, grant)
		return h, err
	}
	s.Limits = turn.leaves(grant.Limits)
	job.Reserved = grant.Limits.Reserves(&job.Request)
	h.Accepted, err = d.c.Jobs.Submit(ctx, s)
	if err != nil {
		return Handed{}, d.later(ctx, turn, turn.restored(grant.Limits, d.refused(ctx, c.Tenant, grant, job.ID, err)))
	}
	h.Grant = d.withTokens(ctx, c.Tenant, grant)
	if !h.Replayed {
		d.accepted.WithLabelValues(h.Job.Pool).Inc()
		d.saw(&c, job)
		return h, nil
	}
	d.refund(ctx, c.Tenant, grant)
	if h.Job.ID == "" || h.Job.Status == "" {
		// Of a job that is no more nobody is told that it was accepted.
		return h, fault.Fail(fault.NotFound, "The job of this Idempotency-Key has outlived its time; send it with another key to run it again.")
	}
	return h, nil
}

// admitted takes what a submission takes of the tenant's allowance, or nothing where it is refused.
func (d *Desk) admitted(ctx context.Context, c *comer) (quota.Grant, error) {
	if err := d.reachable(ctx, c, &c.of.Job); err != nil && !d.known(ctx, c.of) {
		return quota.Grant{}, err
	}
	if err := d.usual(c.tenant); err != nil && !d.known(ctx, c.of) {
		return quota.Grant{}, err
	}
	grant, err := d.allow(ctx, c.of.Job.Owner())
	if err != nil {
		return grant, err
	}
	if err = c.yields(&grant); err == nil {
		err = d.fits(ctx, &c.of.Job, grant.Limits)
	}
	if err != nil && !d.known(ctx, c.of) {
		d.refund(ctx, c.of.Job.Owner(), grant)
		return grant, err
	}
	return grant, nil
}

// Retry queues a job again that ended without a result. It takes of every quota
// what a submit takes, because it costs what one costs.
func (d *Desk) Retry(ctx context.Context, c Caller, id string) (tasks.Job, quota.Grant, error) {
	tenant := c.Tenant
	if c.narrowed() {
		job, err := d.c.Jobs.Job(ctx, tenant, id)
		if err == nil {
			err = d.mayRun(&c, &job)
		}
		if err != nil {
			return tasks.Job{}, quota.Grant{}, err
		}
	}
	grant, err := d.admit(ctx, tenant)
	if err != nil {
		return tasks.Job{}, grant, err
	}
	job, err := d.c.Jobs.Retry(ctx, tenant, id, grant.Limits)
	if err != nil {
		var used *tasks.QuotaError
		if errors.As(err, &used) {
			if job, unread := d.c.Jobs.Job(ctx, tenant, id); unread == nil {
				err = cmp.Or(d.fits(ctx, &job, grant.Limits), d.laterOf(ctx, tenant, job.Priority, map[string]int{job.Pool: 1}, err))
			}
		}
		return tasks.Job{}, quota.Grant{}, d.refused(ctx, tenant, grant, id, err)
	}
	d.sawMany(&c, 1, job.Request.Tokens(), job.AtMost)
	return job, d.withTokens(ctx, tenant, grant), nil
}

// Keep keeps the first answer to a request with an Idempotency-Key, which made
// the job or batch of that id. Without it a repeat is answered with that as it
// then stands.
func (d *Desk) Keep(ctx context.Context, tenant, key, id string, answer []byte) {
	if err := d.c.Jobs.SaveAnswer(ctx, tenant, key, id, answer); err != nil {
		d.c.Log.LogAttrs(ctx, slog.LevelWarn, "save the answer of an Idempotency-Key", slog.Any("error", err))
	}
}

// place finds the job's pool. Where there is none, served says what could have been
// asked for; nil: its caller does.
func place(match func(model string) (pool string, ok bool), served func() []string, job *tasks.Job) error {
	unserved := func(what string) error {
		if served == nil {
			return fault.Fail(fault.ModelNotFound, "No pool serves %s.", what)
		}
		globs := served()
		more := ""
		if n := len(globs) - mostGlobs; n > 0 {
			globs, more = globs[:mostGlobs], fmt.Sprintf(" and %d more", n)
		}
		return fault.Fail(fault.ModelNotFound, "No pool serves %s. These are served: %s%s.", what, strings.Join(globs, ", "), more)
	}
	pool, ok := match(job.Model)
	if !ok {
		return unserved(`the model in "model"`)
	}
	job.Pool = pool
	for _, model := range job.Fallback {
		if _, ok := match(model); !ok {
			return unserved(`one of the models in "fallback_models"`)
		}
	}
	return nil
}

// mostGlobs is how many globs of models an error names.
const mostGlobs = 50

// CheckWebhookURL asks whoever knows the network's rules about the address of a member; ""
// passes.
func (d *Desk) CheckWebhookURL(member, url string) error {
	if url == "" {
		return nil
	}
	if d.c.CheckWebhookURL == nil {
		if !strings.HasPrefix(strings.ToLower(url), "https:") {
			return fault.Fail(fault.WebhookURLRefused, "The member %q must be an https address.", member)
		}
		return nil
	}
	if err := d.c.CheckWebhookURL(url); err != nil {
		// Another reason than a rule's own words could tell what a name means inside our network.
		why := ""
		if rule, ok := errors.AsType[interface {
			error
			Words() string
		}](err); ok {
			why = ": " + rule.Words()
		}
		return fault.Fail(fault.WebhookURLRefused, "The address in %q must not be called%s.", member, why)
	}
	return nil
}

// Lane refuses the lane high to who may not use it.
func (d *Desk) Lane(tenant string, job *tasks.Job) error {
	if job.Priority == tasks.High && !d.mayHigh(tenant) {
		return fault.Fail(fault.PriorityNotAllowed, `The priority "high" is not for this tenant; ask with "normal" or "low", or ask the operator for it (high_priority).`)
	}
	return nil
}

func (d *Desk) mayHigh(tenant string) bool {
	return d.c.High == nil || d.c.High(tasks.TenantOf(tenant))
}

// highest is the highest lane that a tenant may use.
func (d *Desk) highest(tenant string) tasks.Priority {
	if d.mayHigh(tenant) {
		return tasks.High
	}
	return tasks.Normal
}

// known reports whether a submission's id or key stands for something already: its
// repeat gets the first answer, however long the queue is now. A key is looked up by
// reserving it for a moment, as a batch does.
func (d *Desk) known(ctx context.Context, s *tasks.Submission) bool {
	if s.Named {
		if _, err := d.c.Jobs.Job(ctx, s.Job.Owner(), s.Job.ID); err == nil {
			return true
		}
	}
	if s.Key == "" {
		return false
	}
	b, prior, err := d.c.Batches.OpenBatch(ctx, d.c.NewID("batch"), s.Job.Owner(), s.Key)
	if err != nil || prior != nil {
		return true // or it cannot be told: then the submit says why
	}
	if err := d.c.Batches.AbortBatch(context.WithoutCancel(ctx), b.ID); err != nil {
		d.c.Log.LogAttrs(ctx, slog.LevelWarn, "let go of an Idempotency-Key", slog.Any("error", err))
	}
	return false
}

// admit takes a submit of the tenant's allowance. What else limits it is in the
// grant, and is held by the store where it queues the work.
func (d *Desk) admit(ctx context.Context, tenant string) (quota.Grant, error) {
	if err := d.usual(tenant); err != nil {
		return quota.Grant{}, err
	}
	return d.allow(ctx, tenant)
}

// allow is admit, however the tenant behaves.
func (d *Desk) allow(ctx context.Context, tenant string) (quota.Grant, error) {
	if d.c.Quota == nil {
		return quota.Grant{}, nil
	}
	return d.c.Quota.Admit(ctx, tenant, 1)
}

// refused is why the store has taken nothing in, and the submit is given back.
// Where the store may have taken it in, the tenant has spent, and is told of what.
func (d *Desk) refused(ctx context.Context, tenant string, g quota.Grant, id string, err error) error {
	if errors.Is(err, tasks.ErrUnknown) {
		return &tasks.UnknownError{ID: id, Err: err}
	}
	d.refund(ctx, tenant, g)
	return err
}

// refund gives the submit of a grant back. A failure is logged and costs the tenant no more
// than that.
func (d *Desk) refund(ctx context.Context, tenant string, g quota.Grant) {
	if d.c.Quota == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Second)
	defer cancel()
	if err := d.c.Quota.Refund(ctx, tenant, g); err != nil {
		d.c.Log.LogAttrs(ctx, slog.LevelWarn, "refund a quota", slog.Any("error", err))
	}
}

// fits refuses a job that no wait makes fit, and says the numbers. It notes what a call
// for it may cost.
func (d *Desk) fits(ctx context.Context, job *tasks.Job, l tasks.Limits) error {
	r := &job.Request
	// A fallback may answer in its place, whatever that costs.
	for _, model := range append([]string{job.Model}, job.Fallback...) {
		if price, ok := d.c.Prices.Of(model, d.c.Now()); ok {
			job.AtMost = max(job.AtMost, price.AtMost(r))
		}
	}
	for of, each := range daily(l) {
		if most := each.CostPerDay; most > 0 && job.AtMost > most {
			return fault.Fail(fault.ImpossibleSize, `The job may cost %s %s, and the quota %scost_per_day is %s: give a smaller "max_tokens", or less at once.`,
				job.AtMost, tasks.Currency, of, most)
		}
		if most := each.TokensPerDay; most > 0 && r.Tokens() > most {
			return fault.Fail(fault.ImpossibleSize, `The job may take %d tokens, %d of them input, and the quota %stokens_per_day is %d: give a smaller "max_tokens", or less at once.`,
				r.Tokens(), r.InputTokens, of, most)
		}
	}
	if most := l.QueuedBytes; most > 0 && job.Bytes > most {
		return fault.Fail(fault.ImpossibleSize, "The job has %d bytes, and the quota queued_bytes is %d: send less at once.", job.Bytes, most)
	}
	if words := r.Beyond(d.c.Pools.InputLimit(ctx, job.Pool)); words != "" {
		return fault.Fail(fault.ImpossibleSize, "%s", words)
	}
	return nil
}

// daily are the limits of a day, and of what waits, by what their names begin with: the tenant's, and a user's own.
func daily(l tasks.Limits) iter.Seq2[string, tasks.UserLimits] {
	return func(yield func(string, tasks.UserLimits) bool) {
		_ = yield("", tasks.UserLimits{QueuedJobs: l.QueuedJobs, TokensPerDay: l.TokensPerDay, CostPerDay: l.CostPerDay}) && yield(tasks.OfUsers, l.User)
	}
}

// withTokens adds to a grant what is left of the tokens of the day, the tenant's and a user's own, after what it
// has just taken. That these cannot be looked up is no reason to fail.
func (d *Desk) withTokens(ctx context.Context, tenant string, g quota.Grant) quota.Grant {
	limit, own := g.Limits.TokensPerDay, g.Limits.User.TokensPerDay
	if limit <= 0 && own <= 0 {
		return g
	}
	day, err := d.c.Jobs.Tokens(ctx, tenant)
	if err != nil {
		return g
	}
	add := func(name string, limit, gone int64) {
		if limit > 0 {
			g.Windows = append(g.Windows, quota.Window{Name: name, Limit: limit, Remaining: limit - gone, Span: 24 * time.Hour, Reset: day.ResetsIn})
		}
	}
	add(quota.TokensPerDay, limit, day.Used+day.Reserved)
	add(tasks.OfUsers+quota.TokensPerDay, own, day.UserUsed+day.UserReserved)
	return g
}
