package v1

import (
	"net/http"
	"strconv"
	"time"

	"github.com/labstack/echo/v4"

	"github.com/sluicehq/sluice/api/jsonwrite"
	"github.com/sluicehq/sluice/api/wire"
	"github.com/sluicehq/sluice/tasks"
)

// Timeline is GET /v1/jobs/{id}/timeline.
func (a *API) Timeline(c echo.Context) error {
	id, err := objectID(c, "job_")
	if err != nil {
		return err
	}
	spans, err := a.c.Pools.Timeline(c.Request().Context(), a.c.Caller(c).Tenant, id)
	if err != nil {
		return err
	}
	o := jsonwrite.Object{}
	o.List("data", len(spans), func(b []byte, i int) []byte { return appendSpan(b, &spans[i]) })
	wire.JSON(c.Response(), http.StatusOK, append(o.End(), '\n'))
	return nil
}

// appendSpan appends a part of a timeline.
func appendSpan(b []byte, s *tasks.Span) []byte {
	o := jsonwrite.Object{B: b}
	o.Time("from", s.From)
	o.Time("to", s.To)
	o.Name("seconds")
	o.B = strconv.AppendFloat(o.B, float64(s.To.Sub(s.From)/time.Millisecond)/1000, 'f', -1, 64)
	o.Str("what", string(s.What))
	o.Optional("for", string(s.For))
	o.Optional("detail", s.Detail)
	return o.End()
}
