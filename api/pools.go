package api

import (
	"bytes"
	"errors"
	"io"
	"net/http"
	"slices"
	"unicode/utf8"

	"github.com/go-json-experiment/json/jsontext"
	"github.com/labstack/echo/v4"

	"github.com/sluicehq/sluice/tasks"
)

const maxPauseBody = 16 << 10

// getStatus is GET /v1/status.
func (a *API) getStatus(c echo.Context) error {
	pools, err := a.Pools.Status(c.Request().Context())
	if err != nil {
		return err
	}
	b := append([]byte(`{"status":"`), overall(pools)...)
	b = append(b, `","pools":`...)
	b = appendPools(b, pools)
	writeJSON(c.Response(), http.StatusOK, append(b, "}\n"...))
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

// listPools is GET /v1/pools.
func (a *API) listPools(c echo.Context) error {
	pools, err := a.Pools.Status(c.Request().Context())
	if err != nil {
		return err
	}
	b := appendPools([]byte(`{"data":`), pools)
	writeJSON(c.Response(), http.StatusOK, append(b, `,"has_more":false,"next":null}`+"\n"...))
	return nil
}

// pausePool is POST /v1/pools/{name}/pause.
func (a *API) pausePool(c echo.Context) error {
	reason, err := pauseReason(c)
	if err != nil {
		return err
	}
	if a.PoolControl == nil {
		return tasks.ErrNotFound
	}
	name := c.Param("name")
	if err := a.PoolControl.Pause(c.Request().Context(), name, reason, exchangeOf(c).caller.Subject); err != nil {
		return err
	}
	return a.writePool(c, name)
}

// resumePool is POST /v1/pools/{name}/resume.
func (a *API) resumePool(c echo.Context) error {
	if a.PoolControl == nil {
		return tasks.ErrNotFound
	}
	name := c.Param("name")
	if err := a.PoolControl.Resume(c.Request().Context(), name, exchangeOf(c).caller.Subject); err != nil {
		return err
	}
	return a.writePool(c, name)
}

// poolAudit is GET /v1/pools/{name}/audit.
func (a *API) poolAudit(c echo.Context) error {
	q, err := query(c.Request(), "limit")
	if err != nil {
		return err
	}
	limit, err := queryInt(q, "limit", 20, 1, 100)
	if err != nil {
		return err
	}
	if a.PoolControl == nil {
		return tasks.ErrNotFound
	}
	acts, err := a.PoolControl.Audit(c.Request().Context(), c.Param("name"), limit)
	if err != nil {
		return err
	}
	b := []byte(`{"data":[`)
	for i := range acts {
		if i > 0 {
			b = append(b, ',')
		}
		o := object{b: b}
		o.time("at", acts[i].At)
		o.str("action", acts[i].Action)
		o.str("by", acts[i].By)
		o.optional("reason", acts[i].Reason)
		b = o.end()
	}
	writeJSON(c.Response(), http.StatusOK, append(b, "]}\n"...))
	return nil
}

func (a *API) writePool(c echo.Context, name string) error {
	pools, err := a.Pools.Status(c.Request().Context())
	if err != nil {
		return err
	}
	i := slices.IndexFunc(pools, func(p tasks.PoolStatus) bool { return p.Name == name })
	if i < 0 {
		return tasks.ErrNotFound
	}
	writeJSON(c.Response(), http.StatusOK, append(appendPool(nil, &pools[i]), '\n'))
	return nil
}

// pauseReason reads {"reason":"…"}; the body may be missing.
func pauseReason(c echo.Context) (reason string, err error) {
	body, err := readBody(c.Response(), c.Request(), maxPauseBody, jsonType)
	if err != nil || len(body) == 0 {
		return "", err
	}
	if err := checkDepth(body); err != nil {
		return "", err
	}
	d := decoder{Decoder: jsontext.NewDecoder(bytes.NewBuffer(body)), body: body}
	if k := d.PeekKind(); k != '{' && k != 0 {
		return "", fail(invalidRequest, "The body must be a JSON object.")
	}
	_, err = d.members(func(name string) error {
		if name != "reason" {
			return fail(invalidRequest, "The member %s is unknown.", clip(name))
		}
		if k := d.PeekKind(); k != '"' {
			return d.wrong(k, name, "a string")
		}
		v, err := d.ReadValue()
		if err != nil {
			return err
		}
		if reason = unquote(v); utf8.RuneCountInString(reason) > tasks.MaxReason {
			return fail(invalidRequest, `The member "reason" must be at most %d characters long.`, tasks.MaxReason)
		}
		return nil
	})
	if err != nil {
		return "", syntax(err)
	}
	if _, err := d.ReadToken(); !errors.Is(err, io.EOF) {
		return "", fail(invalidJSON, "Something follows the JSON object.")
	}
	return reason, nil
}
