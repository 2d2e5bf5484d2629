package v1

import (
	"cmp"
	"context"
	"net/http"
	"time"

	"github.com/labstack/echo/v4"

	"github.com/sluicehq/sluice/api/fault"
	"github.com/sluicehq/sluice/tasks"
)

// There is no act without its line in the audit: what the store keeps is noted in the move that
// changes it, and what it does not keep is noted before it is done ([Audited]). A line of what
// was refused says how. Who lacks the scope for an act is told so before it is one, and is not noted:
// else any caller could fill the audit.

// refusalTimeout is how long an answer waits for the line that says how an act was refused.
const refusalTimeout = 2 * time.Second

// Noter writes lines of the audit; a line takes the place of one with the same id.
type Noter interface {
	Note(ctx context.Context, a tasks.Act) error
}

// Audited does what an operator asks for once that is in the audit; act.ID is to be given. Where it was refused the line
// then says how, and where nobody knows whether it was done, that.
func Audited(ctx context.Context, n Noter, act tasks.Act, do func(ctx context.Context) error) error {
	if err := n.Note(ctx, act); err != nil {
		return err // nothing was done
	}
	err := do(ctx)
	if err != nil {
		noteOutcome(ctx, n, act, cmp.Or(Outcome(err), fault.OutcomeUnknown))
	}
	return err
}

// Outcome is the code by which an act was refused; "" where it was not, or may have been done.
func Outcome(err error) string {
	if err == nil {
		return ""
	}
	kind, _ := fault.Classify(err)
	if kind.Status < http.StatusBadRequest || kind.Status >= http.StatusInternalServerError {
		return ""
	}
	return kind.Code
}

// noteOutcome writes what came of an act. That it cannot be written changes nothing of that: what
// was noted before says that it was asked for.
func noteOutcome(ctx context.Context, n Noter, act tasks.Act, outcome string) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), refusalTimeout)
	defer cancel()
	act.Outcome = outcome
	_ = n.Note(ctx, act)
}

// audited is [Audited] of a request.
func (a *API) audited(c echo.Context, act tasks.Act, do func(ctx context.Context) error) error {
	ctx := c.Request().Context()
	if a.c.Audit == nil {
		return do(ctx)
	}
	act.ID = a.c.NewID("act")
	return Audited(ctx, a.c.Audit, act, do)
}

// refused has it in the audit that an act was refused which the store would have noted with its
// move, and returns why. A request that could not be read is no act.
func (a *API) refused(c echo.Context, act tasks.Act, err error) error {
	if a.c.Audit == nil || err == nil {
		return err
	}
	switch kind, _ := fault.Classify(err); kind.Status {
	case http.StatusForbidden, http.StatusNotFound, http.StatusConflict, http.StatusUnprocessableEntity:
		noteOutcome(c.Request().Context(), a.c.Audit, act, kind.Code)
	}
	return err
}
