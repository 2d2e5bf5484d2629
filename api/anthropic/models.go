package anthropic

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"slices"
	"strconv"

	"github.com/labstack/echo/v4"

	"github.com/sluicehq/sluice/api/fault"
	"github.com/sluicehq/sluice/api/header"
	"github.com/sluicehq/sluice/api/jsonread"
	"github.com/sluicehq/sluice/api/jsonwrite"
	"github.com/sluicehq/sluice/api/relay"
	"github.com/sluicehq/sluice/api/wire"
	"github.com/sluicehq/sluice/tasks"
)

// Model is a model in the provider's own words.
type Model struct {
	ID   string
	Body json.RawMessage
}

// Provider asks the providers of this form for what is no job: it makes nothing that
// lasts, costs nothing, and nobody but its caller wants the answer.
type Provider interface {
	// Models lists what the pools of this form serve, as the providers list it, the
	// newest first.
	Models(ctx context.Context) []Model
	// Model is one model, which need not be in the list: the provider knows other names
	// for some. It is tasks.ErrNotFound where no provider knows it.
	Model(ctx context.Context, pool, id string) (Model, error)
	// CountTokens waits for the provider's pace and asks it for the tokens of a request.
	// What it refuses comes with its own status and body. Without an answer within ctx
	// the error is ctx's.
	CountTokens(ctx context.Context, pool string, r tasks.Request) (status int, body []byte, err error)
}

// Asks reports whether there is a provider to ask.
func (a *API) Asks() bool { return a.c.Provider != nil }

// CountTokens is POST /anthropic/v1/messages/count_tokens.
func (a *API) CountTokens(c echo.Context) error {
	r := c.Request()
	body, err := wire.Read(c.Response(), r, a.c.MaxBody, "application/json")
	if err != nil {
		return err
	}
	model, err := modelOf(body)
	if err != nil {
		return err
	}
	asked := tasks.Request{Kind: tasks.Raw, Body: body}
	if err := header.Provider(r.Header, &asked); err != nil {
		return err
	}
	x := a.c.Caller(c)
	pool, err := a.c.Desk.PoolIn(x, a.form.Dialect, model)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(r.Context(), relay.Patience(r.Header))
	defer cancel()
	status, said, err := a.c.Provider.CountTokens(ctx, pool, asked)
	switch {
	case err == nil:
	case errors.Is(err, context.DeadlineExceeded):
		return fault.Fail(fault.StillWaiting, "The answer is not there yet. Send the same request again.")
	default:
		return err
	}
	h := c.Response().Header()
	h[a.form.RequestID] = []string{x.Request}
	if status >= http.StatusBadRequest {
		h.Set("X-Should-Retry", strconv.FormatBool(status >= 500))
	}
	wire.JSON(c.Response(), status, said)
	return nil
}

// modelOf reads which model a body asks.
func modelOf(body []byte) (model string, err error) {
	r, err := jsonread.New(body)
	if err != nil {
		return "", wire.Told(err)
	}
	err = r.Object(func(name string) (err error) {
		if name == "model" {
			model, err = r.Word(name, maxModel)
			return err
		}
		return r.Skip()
	})
	if err == nil && model == "" {
		return "", fault.Fail(fault.InvalidRequest, "model: it is missing.")
	}
	return model, wire.Told(err)
}

// GetModel is GET /anthropic/v1/models/{id}.
func (a *API) GetModel(c echo.Context) error {
	id := c.Param("id")
	pool, err := a.c.Desk.PoolIn(a.c.Caller(c), a.form.Dialect, id)
	if err != nil {
		return err
	}
	m, err := a.c.Provider.Model(c.Request().Context(), pool, id)
	if err != nil {
		return err
	}
	a.write(c, append(slices.Clone(m.Body), '\n'))
	return nil
}

// ListModels is GET /anthropic/v1/models.
func (a *API) ListModels(c echo.Context) error {
	limit, after, before, err := page(c)
	if err != nil {
		return err
	}
	x := a.c.Caller(c)
	all := slices.DeleteFunc(slices.Clone(a.c.Provider.Models(c.Request().Context())), func(m Model) bool {
		return !a.c.Desk.ServesIn(x, a.form.Dialect, m.ID)
	})
	from, to, more := 0, min(limit, len(all)), false
	at := func(id string) int { return slices.IndexFunc(all, func(m Model) bool { return m.ID == id }) }
	switch {
	case after != "":
		if from = at(after) + 1; from == 0 {
			from = len(all) // nothing comes after what is not there
		}
		to = min(from+limit, len(all))
		more = to < len(all)
	case before != "":
		to = max(0, at(before))
		from = max(0, to-limit)
		more = from > 0
	default:
		more = to < len(all)
	}
	shown := all[from:to]
	var o jsonwrite.Object
	o.List("data", len(shown), func(b []byte, i int) []byte { return append(b, shown[i].Body...) })
	o.Bool("has_more", more)
	first, last := "", ""
	if len(shown) > 0 {
		first, last = shown[0].ID, shown[len(shown)-1].ID
	}
	o.Optional("first_id", first)
	o.Optional("last_id", last)
	a.write(c, append(o.End(), '\n'))
	return nil
}

// page reads what a list is asked for.
func page(c echo.Context) (limit int, after, before string, err error) {
	limit = 20
	if v := c.QueryParam("limit"); v != "" {
		if limit, err = strconv.Atoi(v); err != nil || limit < 1 || limit > 1000 {
			return 0, "", "", fault.Fail(fault.InvalidRequest, "limit: it must be a whole number from 1 to 1000.")
		}
	}
	if after, before = c.QueryParam("after_id"), c.QueryParam("before_id"); after != "" && before != "" {
		return 0, "", "", fault.Fail(fault.InvalidRequest, "There may be after_id or before_id, not both.")
	}
	return limit, after, before, nil
}
