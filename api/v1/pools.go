package v1

import (
	"context"
	"net/http"
	"slices"
	"strconv"
	"time"
	"unicode/utf8"

	"github.com/labstack/echo/v4"

	"github.com/sluicehq/sluice/api/fault"
	"github.com/sluicehq/sluice/api/jsonread"
	"github.com/sluicehq/sluice/api/jsonwrite"
	"github.com/sluicehq/sluice/api/wire"
	"github.com/sluicehq/sluice/tasks"
)

const maxPauseBody = 16 << 10

// GetStatus is GET /v1/status.
func (a *API) GetStatus(c echo.Context) error {
	pools, err := a.c.Pools.Status(c.Request().Context())
	if err != nil {
		return err
	}
	o := jsonwrite.Object{}
	o.Str("status", overall(pools))
	o.List("pools", len(pools), func(b []byte, i int) []byte { return appendPool(b, &pools[i], false) })
	wire.JSON(c.Response(), http.StatusOK, append(o.End(), '\n'))
	return nil
}

// overall is "ok" when every pool is open, "paused" when none takes jobs to a
// provider, else "degraded".
func overall(pools []tasks.PoolStatus) string {
	open, paused := 0, 0
	for i := range pools {
		switch pools[i].State {
		case tasks.PoolOpen:
			open++
		case tasks.PoolPaused:
			paused++
		case tasks.PoolDegraded:
		}
	}
	switch len(pools) {
	case open:
		return "ok"
	case paused:
		return "paused"
	}
	return "degraded"
}

// ListPools is GET /v1/pools.
func (a *API) ListPools(c echo.Context) error {
	pools, err := a.c.Pools.Status(c.Request().Context())
	if err != nil {
		return err
	}
	return answerPage(c, len(pools), "", func(b []byte, i int) []byte { return appendPool(b, &pools[i], true) })
}

// PausePool is POST /v1/pools/{name}/pause.
func (a *API) PausePool(c echo.Context) error {
	reason, until, err := a.pauseWords(c)
	if err != nil {
		return err
	}
	if a.c.PoolControl == nil {
		return tasks.ErrNotFound
	}
	name := c.Param("name")
	err = a.audited(c, a.act(c, "pause", name, tasks.PauseReason(reason, until)), func(ctx context.Context) error {
		return a.c.PoolControl.Pause(ctx, name, reason, a.c.Caller(c).Subject, until)
	})
	if err != nil {
		return err
	}
	return a.answerPool(c, name)
}

// ResumePool is POST /v1/pools/{name}/resume.
func (a *API) ResumePool(c echo.Context) error {
	if a.c.PoolControl == nil {
		return tasks.ErrNotFound
	}
	name := c.Param("name")
	err := a.audited(c, a.act(c, "resume", name, ""), func(ctx context.Context) error {
		return a.c.PoolControl.Resume(ctx, name, a.c.Caller(c).Subject)
	})
	if err != nil {
		return err
	}
	return a.answerPool(c, name)
}

// PoolAudit is GET /v1/pools/{name}/audit.
func (a *API) PoolAudit(c echo.Context) error {
	limit, err := queryInt(c.QueryParams(), "limit", 20, 1, 100)
	if err != nil {
		return err
	}
	if a.c.PoolControl == nil {
		return tasks.ErrNotFound
	}
	acts, err := a.c.PoolControl.Audit(c.Request().Context(), c.Param("name"), limit)
	if err != nil {
		return err
	}
	o := jsonwrite.Object{}
	o.List("data", len(acts), func(b []byte, i int) []byte {
		o := jsonwrite.Object{B: b}
		o.Time("at", acts[i].At)
		o.Str("action", acts[i].Action)
		o.Str("by", acts[i].By)
		o.Optional("reason", acts[i].Reason)
		o.Time("until", acts[i].Until)
		return o.End()
	})
	wire.JSON(c.Response(), http.StatusOK, append(o.End(), '\n'))
	return nil
}

// PoolTenants is GET /v1/pools/{name}/tenants.
func (a *API) PoolTenants(c echo.Context) error {
	s, err := a.c.Pools.Shares(c.Request().Context(), c.Param("name"))
	if err != nil {
		return err
	}
	o := jsonwrite.Object{}
	o.List("data", len(s.Tenants), func(b []byte, i int) []byte {
		t := &s.Tenants[i]
		o := jsonwrite.Object{B: b}
		o.Str("tenant", t.Tenant)
		o.Num("weight", t.Weight)
		o.Within("seconds", func(o *jsonwrite.Object) { minuteAndHour(o, t.Minute, t.Hour) })
		number(&o, "share", t.Share, 4)
		o.Num("queued", t.Queued)
		o.Num("running", t.Running)
		number(&o, "lag", t.Lag, 3)
		return o.End()
	})
	o.Within("jain", func(o *jsonwrite.Object) {
		for i, index := range []float64{s.Minute, s.Hour} {
			if name := [...]string{"minute", "hour"}[i]; index == 0 {
				o.Null(name)
			} else {
				number(o, name, index, 4)
			}
		}
	})
	o.Within("others", func(o *jsonwrite.Object) {
		o.Num("tenants", int64(s.Others))
		o.Within("seconds", func(o *jsonwrite.Object) { minuteAndHour(o, s.OthersMinute, s.OthersHour) })
	})
	wire.JSON(c.Response(), http.StatusOK, append(o.End(), '\n'))
	return nil
}

// PoolAccounts is GET /v1/pools/{name}/accounts.
func (a *API) PoolAccounts(c echo.Context) error {
	list, err := a.c.Pools.Accounts(c.Request().Context(), c.Param("name"))
	if err != nil {
		return err
	}
	o := jsonwrite.Object{}
	o.List("data", len(list), func(b []byte, i int) []byte {
		one := &list[i]
		o := jsonwrite.Object{B: b}
		o.Str("name", one.Name)
		o.Str("provider", one.Provider)
		o.Str("state", string(one.State))
		o.Optional("reason", one.Reason)
		o.Optional("detail", one.Detail)
		o.Time("since", one.Since)
		o.Time("expected_resume_at", one.ExpectedResumeAt)
		o.Num("weight", one.Weight)
		o.Optional("shared_allowance", one.Shared)
		o.Optional("organization", one.Organization)
		o.Optional("shares_allowance_of", one.SharedWith)
		writeAllowance(&o, one.Allowance)
		if one.Calls == 0 {
			o.Null("success_rate")
		} else {
			number(&o, "success_rate", one.Success, 4)
		}
		if one.Wait < 0 {
			o.Null("wait_seconds")
		} else {
			number(&o, "wait_seconds", one.Wait.Seconds(), 3)
		}
		o.Optional("egress", one.Egress)
		return o.End()
	})
	wire.JSON(c.Response(), http.StatusOK, append(o.End(), '\n'))
	return nil
}

func minuteAndHour(o *jsonwrite.Object, minute, hour float64) {
	number(o, "minute", minute, 3)
	number(o, "hour", hour, 3)
}

// number writes a number with so many digits behind its point.
func number(o *jsonwrite.Object, name string, v float64, digits int) {
	o.Name(name)
	o.B = strconv.AppendFloat(o.B, v, 'f', digits, 64)
}

// answerPool answers with a pool that was paused or resumed. How it stands may not be known,
// but not that nothing was done.
func (a *API) answerPool(c echo.Context, name string) error {
	err := a.writePool(c, name)
	if tasks.Away(err) {
		return &tasks.UnknownError{ID: name, Err: err}
	}
	return err
}

func (a *API) writePool(c echo.Context, name string) error {
	pools, err := a.c.Pools.Status(c.Request().Context())
	if err != nil {
		return err
	}
	i := slices.IndexFunc(pools, func(p tasks.PoolStatus) bool { return p.Name == name })
	if i < 0 {
		return tasks.ErrNotFound
	}
	wire.JSON(c.Response(), http.StatusOK, append(appendPool(nil, &pools[i], true), '\n'))
	return nil
}

// pauseWords reads {"reason":"…","until":"…"}; the body may be missing.
func (a *API) pauseWords(c echo.Context) (reason string, until time.Time, err error) {
	body, err := wire.Read(c.Response(), c.Request(), maxPauseBody, jsonType)
	if err != nil || len(body) == 0 {
		return "", until, err
	}
	r, err := jsonread.New(body)
	if err != nil {
		return "", until, wire.Told(err)
	}
	err = r.Object(func(name string) (err error) {
		switch name {
		case "reason":
			if reason, err = r.Text(name); err == nil && utf8.RuneCountInString(reason) > tasks.MaxReason {
				err = fault.Fail(fault.InvalidRequest, `The member "reason" must be at most %d characters long.`, tasks.MaxReason)
			}
		case "until":
			if r.Kind() == 'n' {
				return r.Skip()
			}
			if until, err = r.Moment(name); err == nil && tasks.PauseEnds(a.c.Now(), until) != nil {
				err = fault.Fail(fault.ImpossibleTime, `The member "until" must lie ahead, by at most a year.`)
			}
		default:
			err = jsonread.Unknown(name)
		}
		return err
	})
	if err != nil {
		return "", until, wire.Told(err)
	}
	return reason, until, nil
}
