package api

import (
	"context"
	"errors"
	"log/slog"
	"math"
	"net/http"
	"strconv"
	"time"

	"github.com/labstack/echo/v4"

	"github.com/sluicehq/sluice/api/fault"
	"github.com/sluicehq/sluice/api/jsonwrite"
	"github.com/sluicehq/sluice/tasks"
)

// A problem's type (RFC 9457) is this and its code.
const (
	problemTypePrefix  = "urn:sluice:problem:"
	problemContentType = "application/problem+json"
	statusClientClosed = 499 // only in logs and metrics: nobody is there to read it
)

// classify is [fault.Classify], with the errors that net/http and Echo make and
// the fields of an answer that a quota has.
func classify(err error) (fault.Kind, fault.Fault) {
	var (
		f      *fault.Fault
		quota  *tasks.QuotaError
		tooBig *http.MaxBytesError
		routed *echo.HTTPError
	)
	switch {
	case errors.As(err, &f):
	case errors.As(err, &quota):
		k, told := fault.Classify(err)
		told.Header = http.Header{
			"Ratelimit-Policy": {policyField(quota.Quota, quota.Limit, quota.Window)},
			"Ratelimit":        {limitField(quota.Quota, quota.Remaining, quota.RetryAfter)},
		}
		return k, told
	case errors.As(err, &tooBig):
		err = fault.Fail(fault.BodyTooLarge, "The body is longer than %d bytes.", tooBig.Limit)
	case errors.As(err, &routed) && routed.Code == http.StatusNotFound:
		err = fault.Fail(fault.RouteNotFound, "The API has no such route.")
	case errors.As(err, &routed) && routed.Code == http.StatusMethodNotAllowed:
		err = fault.Fail(fault.MethodNotAllowed, "The Allow header lists the methods of this route.")
	}
	return fault.Classify(err)
}

// answerError writes the answer to a failed request. It is Echo's error handler.
func (a *API) answerError(err error, c echo.Context) {
	x := exchangeOf(c)
	if errors.Is(err, context.Canceled) && c.Request().Context().Err() != nil {
		x.code = "client_closed"
		x.status = statusClientClosed
		return
	}
	k, p := classify(err)
	x.code = k.Code
	if k.Status >= 500 && k.Code != fault.DeadlineUnreachable {
		a.Log.LogAttrs(c.Request().Context(), slog.LevelError, "request failed",
			slog.String("request_id", x.id), slog.String("route", x.route(c)), slog.String("code", k.Code), slog.Any("error", err))
	}
	if c.Response().Committed {
		return
	}
	h := c.Response().Header()
	for name, values := range p.Header {
		h[name] = values
	}
	if p.RetryAfter > 0 {
		h.Set("Retry-After", strconv.FormatInt(seconds(p.RetryAfter), 10))
	}
	if k.Status == http.StatusRequestEntityTooLarge || k.Status == http.StatusRequestTimeout {
		h.Set("Connection", "close") // the rest of the body will not be read
	}
	h.Set("Cache-Control", "no-store")
	h.Set("Content-Type", problemContentType)
	b := make([]byte, 0, 512)
	b = append(b, `{"type":"`+problemTypePrefix...)
	b = append(b, k.Code...)
	b = append(b, `","title":`...)
	b = jsonwrite.AppendString(b, k.Title)
	b = append(b, `,"status":`...)
	b = strconv.AppendInt(b, int64(k.Status), 10)
	b = append(b, `,"code":"`...)
	b = append(b, k.Code...)
	b = append(b, `","detail":`...)
	b = jsonwrite.AppendString(b, p.Detail)
	if p.Line > 0 {
		b = append(b, `,"line":`...)
		b = strconv.AppendInt(b, int64(p.Line), 10)
	}
	b = append(b, `,"request_id":`...)
	b = jsonwrite.AppendString(b, x.id)
	b = append(b, '}', '\n')
	h.Set("Content-Length", strconv.Itoa(len(b)))
	c.Response().WriteHeader(k.Status)
	_, _ = c.Response().Write(b)
	if k.Status != http.StatusRequestTimeout {
		linger(c.Response(), c.Request())
	}
}

// seconds rounds up to whole seconds, at least 1, as Retry-After takes them.
func seconds(d time.Duration) int64 {
	return int64(min(max(math.Ceil(d.Seconds()), 1), math.MaxInt32))
}
