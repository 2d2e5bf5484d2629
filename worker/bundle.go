package worker

import (
	"context"
	"crypto/rand"
	"time"

	"github.com/sluicehq/sluice/tasks"
	"github.com/sluicehq/sluice/worker/native"
)

// Bundles is the record of jobs that go to a provider's own batch API together.
type Bundles interface {
	ClaimBundle(ctx context.Context, pool string, lease time.Duration) (b tasks.Bundle, wait time.Duration, err error)
	SaveBundle(ctx context.Context, b tasks.Bundle, next time.Duration) error
	DropBundle(ctx context.Context, b tasks.Bundle) error
	InBundle(ctx context.Context, members []tasks.Ticket) ([]tasks.Ticket, error)
	Bundled(ctx context.Context, t tasks.Ticket) (tasks.Job, error)
}

// lane makes a pool's way through batches; nil where it has none.
func (w *Worker) lane(p *servedPool) *native.Lane {
	if p.Native == nil || w.c.Bundles == nil {
		return nil
	}
	c := native.Config{
		Pool: p.Name, Rules: *p.Native, Dialect: p.Dialect, Prices: w.c.Prices, Now: w.c.Now, Log: w.log,
		Records: struct {
			Bundles
			Record
		}{w.c.Bundles, w.c.Record},
		Ended: func(ctx context.Context, t tasks.Ticket, e tasks.Ending, next []tasks.Ticket) {
			w.hand(ctx, next)
			w.m.attempts.WithLabelValues(p.Name, string(e.Attempt.Outcome)).Inc()
			w.m.ended(p.Name, e)
			if e.Usage != nil {
				w.m.used(p.Name, t.Tenant, *e.Usage)
			}
			w.log.Info("a line of a batch ended", "job", t.ID, "tenant", t.Tenant, "pool", p.Name, "batch", e.Attempt.Batch, "outcome", string(e.Attempt.Outcome), "maybe_billed", e.Attempt.MaybeBilled)
		},
	}
	for _, o := range native.Outcomes() {
		w.m.bundles.WithLabelValues(p.Name, string(o))
	}
	c.Over = func(o native.Outcome) { w.m.bundles.WithLabelValues(p.Name, string(o)).Inc() }
	for _, a := range p.accounts {
		api, ok := a.Caller.(native.API)
		if !ok {
			return nil
		}
		c.Accounts = append(c.Accounts, native.Account{Name: a.Name, Provider: a.Provider, API: api, Open: func() bool { return !a.shut() && !a.paused() }})
	}
	return native.New(c)
}

// withOthers reports whether the job is answered with others, and its worker is done with it: in
// a batch, or by a call that another job makes.
func (a *attempt) withOthers(base context.Context) bool { return a.bundle(base) || a.follow(base) }

// bundle has a job that has time go into a bundle in place of a call, and reports whether its
// worker is done with it.
func (a *attempt) bundle(base context.Context) bool {
	if a.p.native == nil {
		return false
	}
	into, ok := a.p.native.Joins(&a.job)
	if !ok {
		return false
	}
	into.Bundle = "nb_" + rand.Text()
	ticket := a.ticket
	ticket.Into, ticket.Waited = &into, a.waited()
	ticket.Asks.Account = into.Account
	if price, priced := a.p.native.Price(a.job.Asks(), a.w.c.Now()); priced {
		ticket.Asks.AtMost = a.p.native.AtMost(price, &a.job.Request)
	}
	_, next, err := a.w.c.Record.Start(base, ticket)
	switch {
	case err == nil:
		a.w.hand(base, next)
	case !tasks.Void(err):
		a.handBack(base, tasks.HandedBack) // whether it is in the bundle is not known; so it is not
	}
	return true
}
