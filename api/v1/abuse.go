package v1

import (
	"context"
	"math"
	"net/http"
	"strconv"
	"time"

	"github.com/labstack/echo/v4"

	"github.com/sluicehq/sluice/api/abuse"
	"github.com/sluicehq/sluice/api/auth"
	"github.com/sluicehq/sluice/api/fault"
	"github.com/sluicehq/sluice/api/jsonwrite"
	"github.com/sluicehq/sluice/api/wire"
	"github.com/sluicehq/sluice/tasks"
)

// Abuse knows what was found of tenants.
type Abuse interface {
	Of(ctx context.Context, tenant string) (abuse.Found, error)
	// All is what was found of every tenant, the newest first.
	All(ctx context.Context) ([]abuse.Found, error)
	// Release says that it is no abuse, and notes the act in the audit, both or neither;
	// tasks.ErrNotFound: nothing is kept of the tenant.
	Release(ctx context.Context, tenant string, act tasks.Act) error
}

const actRelease = "release_tenant"

// finding is one line of what was found.
type finding struct {
	tenant string
	abuse.Flag
}

// ListAbuse is GET /v1/abuse.
func (a *API) ListAbuse(c echo.Context) error {
	if a.c.Abuse == nil {
		return tasks.ErrNotFound
	}
	all, err := a.c.Abuse.All(c.Request().Context())
	if err != nil {
		return err
	}
	var list []finding
	for i := range all {
		for _, f := range all[i].Flags {
			list = append(list, finding{all[i].Tenant, f})
		}
	}
	o := jsonwrite.Object{}
	o.List("data", len(list), func(b []byte, i int) []byte { return appendFinding(b, &list[i]) })
	wire.JSON(c.Response(), http.StatusOK, append(o.End(), '\n'))
	return nil
}

// ReleaseTenant is POST /v1/abuse/{tenant}/release.
func (a *API) ReleaseTenant(c echo.Context) error {
	name := c.Param("tenant")
	reason, until, err := a.pauseWords(c)
	switch {
	case err != nil:
		return err
	case a.c.Abuse == nil:
		return tasks.ErrNotFound
	case !auth.ValidTenant(name):
		return fault.Fail(fault.InvalidRequest, `A tenant's name is a letter or digit, then up to 63 letters, digits, "_" or "-".`)
	case !until.IsZero():
		return fault.Fail(fault.InvalidRequest, `The member "until" is not for a release: it stands.`)
	}
	ctx := c.Request().Context()
	act := a.act(c, actRelease, name, reason)
	if err := a.refused(c, act, a.c.Abuse.Release(ctx, name, act)); err != nil {
		return err
	}
	now, err := a.c.Abuse.Of(ctx, name)
	switch {
	case tasks.Away(err): // how it stands may not be known, but not that nothing was done
		return &tasks.UnknownError{ID: name, Err: err}
	case err != nil:
		return err
	}
	o := jsonwrite.Object{}
	o.Str("tenant", name)
	o.Str("action", now.Action.String())
	wire.JSON(c.Response(), http.StatusOK, append(o.End(), '\n'))
	return nil
}

// appendFinding writes rule, window and measure, and who it is where that is not the asker.
func appendFinding(b []byte, f *finding) []byte {
	o := jsonwrite.Object{B: b}
	o.Optional("tenant", f.tenant)
	o.Str("rule", f.Rule.String())
	o.Num("window", int64(f.Window))
	o.Raw("measure", decimal(f.Measure))
	o.Raw("score", decimal(f.Score))
	o.Time("at", time.Unix(f.At, 0).UTC())
	o.Str("action", f.Action.String())
	return o.End()
}

// decimal is a measure with three digits behind its point at most.
func decimal(x float32) string {
	return strconv.FormatFloat(math.Round(float64(x)*1000)/1000, 'f', -1, 64)
}
