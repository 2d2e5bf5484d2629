package openai

import (
	"context"
	"slices"

	"github.com/labstack/echo/v4"

	"github.com/sluicehq/sluice/api/fault"
	"github.com/sluicehq/sluice/api/jsonwrite"
	"github.com/sluicehq/sluice/tasks"
)

// Models knows which models are served.
type Models interface {
	// Models returns those that pools of a dialect serve.
	Models(ctx context.Context, dialect string) []tasks.Model
}

// ListModels is GET /openai/v1/models: the providers' own lists, narrowed to what is
// served here, and to what the caller's token is for.
func (a *API) ListModels(c echo.Context) error {
	x := a.c.Caller(c)
	models := slices.DeleteFunc(slices.Clone(a.c.Models.Models(c.Request().Context(), a.form.Dialect)), func(m tasks.Model) bool {
		return !a.c.Desk.ServesIn(x, a.form.Dialect, m.ID)
	})
	var o jsonwrite.Object
	o.Str("object", "list")
	o.List("data", len(models), func(b []byte, i int) []byte { return modelOf(b, &models[i]) })
	return a.write(c, o.End())
}

// GetModel is GET /openai/v1/models/{id}. One that is served without being listed is
// there as well.
func (a *API) GetModel(c echo.Context) error {
	id := c.Param("*")
	if len(id) > maxWord {
		return fault.Fail(fault.ModelNotFound, "The model does not exist.")
	}
	if _, err := a.c.Desk.PoolIn(a.c.Caller(c), a.form.Dialect, id); err != nil {
		return err
	}
	for _, m := range a.c.Models.Models(c.Request().Context(), a.form.Dialect) {
		if m.ID == id {
			return a.write(c, modelOf(nil, &m))
		}
	}
	return a.write(c, modelOf(nil, &tasks.Model{ID: id}))
}

// modelOf appends a model as its provider describes it, or as much as is known of it.
func modelOf(b []byte, m *tasks.Model) []byte {
	if m.Body != nil {
		return append(b, oneLine(m.Body)...)
	}
	o := jsonwrite.Object{B: b}
	o.Str("id", m.ID)
	o.Str("object", "model")
	o.Num("created", 0)
	o.Str("owned_by", "sluice")
	return o.End()
}
