package desk

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"github.com/sluicehq/sluice/api/fault"
	"github.com/sluicehq/sluice/api/quota"
	"github.com/sluicehq/sluice/tasks"
)

// Bulk is what became of a bulk retry or cancellation.
type Bulk struct {
	tasks.Moved
	// Stopped is the quota that has refused the next job after some were moved; nil: none has.
	Stopped *tasks.QuotaError
	Grant   quota.Grant // as in Handed
}

// RetryAll queues again what of a selection ended without a result, each job as Retry
// does. As of a batch, all of them are one submit. Jobs for models and in pools that the
// caller's token is not for are passed over. With an error, Bulk says what was done before it.
func (d *Desk) RetryAll(ctx context.Context, c Caller, sel tasks.Selection) (b Bulk, err error) {
	end, err := d.bulks.take(ctx, c.Tenant)
	if err != nil {
		return b, err
	}
	defer end()
	grant, err := d.admit(ctx, c.Tenant)
	if err != nil {
		return b, err
	}
	if sel.Tenant = c.Tenant; c.narrowed() {
		sel.May = func(job *tasks.Job) bool { return d.mayRun(&c, job) == nil }
	}
	b.Moved, err = d.c.Jobs.RetryAll(ctx, sel, grant.Limits)
	if b.Jobs == 0 && !errors.Is(err, tasks.ErrUnknown) {
		d.refund(ctx, c.Tenant, grant)
	}
	d.sawMany(&c, int(b.Jobs), 0, 0)
	if b.Jobs > 0 && errors.As(err, &b.Stopped) {
		err = nil
	}
	if err == nil {
		b.Grant = d.withTokens(ctx, c.Tenant, grant)
	}
	return b, during(err, b.Moved, "were queued again")
}

// CancelAll cancels what of a selection has not ended. Errors are as of RetryAll.
func (d *Desk) CancelAll(ctx context.Context, c Caller, sel tasks.Selection) (b Bulk, err error) {
	end, err := d.bulks.take(ctx, c.Tenant)
	if err != nil {
		return b, err
	}
	defer end()
	sel.Tenant = c.Tenant
	b.Moved, err = d.c.Jobs.CancelAll(ctx, sel)
	return b, during(err, b.Moved, "were canceled")
}

// during is the error of a bulk move, which says what was done before it.
func during(err error, m tasks.Moved, did string) error {
	if err == nil || errors.Is(err, context.Canceled) {
		return err
	}
	k, f := fault.Classify(err)
	switch {
	case k.Code == fault.OutcomeUnknown:
		told := fault.Fail(k.Code, "The store's answer was lost: %d jobs %s, and some more may have been. Send it again: what was moved is not moved twice.", m.Jobs, did)
		told.ID, told.RetryAfter = f.ID, f.RetryAfter
		return told
	case m.Jobs > 0 && k.Status == 503:
		told := fault.Fail(k.Code, "%d jobs %s before this; send it again for the rest.", m.Jobs, did)
		told.RetryAfter = f.RetryAfter
		return told
	}
	return err
}

// Once has do carried out for the first call with an Idempotency-Key, and returns its
// answer to every other: replayed is true then. id names the call. A call that fails has
// no answer: its repeat is a call of its own.
func (d *Desk) Once(ctx context.Context, c Caller, key, fingerprint string, do func() ([]byte, error)) (answer []byte, replayed bool, err error) {
	if key == "" {
		answer, err = do()
		return answer, false, err
	}
	id := d.c.NewID(tasks.BulkID)
	answer, err = d.c.Jobs.ReserveKey(ctx, c.Tenant, key, fingerprint, id)
	if err != nil || answer != nil {
		return answer, answer != nil, err
	}
	answer, err = do()
	if err == nil {
		d.Keep(ctx, c.Tenant, key, id, answer)
		return answer, false, nil
	}
	free, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Second)
	defer cancel()
	if err := d.c.Jobs.FreeKey(free, c.Tenant, key, id); err != nil {
		d.c.Log.LogAttrs(ctx, slog.LevelWarn, "let go of an Idempotency-Key", slog.Any("error", err))
	}
	return nil, false, err
}
