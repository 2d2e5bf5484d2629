package api

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"net/http"
	"strconv"
	"time"

	"github.com/labstack/echo/v4"

	"github.com/sluicehq/sluice/api/auth"
	"github.com/sluicehq/sluice/api/jsonwrite"
	"github.com/sluicehq/sluice/tasks"
)

// kind is one class of failure as callers see it. Its code is stable, and its
// problem type (RFC 9457) is "urn:sluice:problem:" and the code.
type kind struct {
	code   string
	status int
	title  string
	cause  error // the sentinel that means this kind; nil: only the API makes it
}

// The kinds that the API makes itself.
const (
	invalidRequest      = "invalid_request"
	invalidJSON         = "invalid_json"
	unauthorized        = "unauthorized"
	forbidden           = "forbidden"
	notFound            = "not_found"
	routeNotFound       = "route_not_found"
	modelNotFound       = "model_not_found"
	methodNotAllowed    = "method_not_allowed"
	bodyTooLarge        = "body_too_large"
	unsupportedMedia    = "unsupported_media_type"
	impossible          = "impossible_time"
	webhookURLRefused   = "webhook_url_refused"
	tooManyStreams      = "too_many_streams"
	quotaExceeded       = "quota_exceeded"
	unavailable         = "unavailable"
	deadlineUnreachable = "deadline_unreachable"
	internal            = "internal"
	requestTimeout      = "request_timeout"
	problemTypePrefix   = "urn:sluice:problem:"
	problemContentType  = "application/problem+json"
	statusClientClosed  = 499 // only in logs and metrics: nobody is there to read it
	defaultUnavailable  = 5 * time.Second
)

// kinds is the one table from failures, and from the sentinels of tasks
// and auth, to status and code. The first that matches an error wins; the last is
// for errors that nobody foresaw.
func kinds() []kind {
	return []kind{
		{invalidRequest, 400, "The request is not valid", nil},
		{invalidJSON, 400, "The body is not valid JSON", nil},
		{unauthorized, 401, "A valid bearer token is needed", nil},
		{forbidden, 403, "The token lacks a scope", nil},
		{notFound, 404, "No such object", tasks.ErrNotFound},
		{routeNotFound, 404, "No such route", nil},
		{modelNotFound, 404, "No pool serves this model", nil},
		{methodNotAllowed, 405, "The route does not take this method", nil},
		{requestTimeout, 408, "The body did not arrive in time", nil},
		{"already_final", 409, "The job or batch has already ended", tasks.ErrFinal},
		{"conflict", 409, "The state of the job does not allow this", tasks.ErrConflict},
		{"idempotency_key_busy", 409, "The first request with this Idempotency-Key is still being accepted", tasks.ErrKeyBusy},
		{bodyTooLarge, 413, "The body is too large", nil},
		{unsupportedMedia, 415, "The body's media type or encoding is not supported", nil},
		{impossible, 422, "The times asked for are impossible", nil},
		{webhookURLRefused, 422, "The webhook address is refused", nil},
		{"idempotency_key_reused", 422, "The Idempotency-Key was used for another request", tasks.ErrKeyReused},
		{quotaExceeded, 429, "A quota of the tenant is used up", tasks.ErrBacklogFull},
		{tooManyStreams, 429, "Too many open event streams", nil},
		{unavailable, 503, "The store cannot be reached", tasks.ErrUnavailable},
		{"keys_unavailable", 503, "The issuer's keys cannot be fetched", auth.ErrUnavailable},
		{"store_full", 503, "The store is full", tasks.ErrFull},
		{deadlineUnreachable, 503, "The job would wait past its deadline", nil},
		{internal, 500, "Internal error", nil},
	}
}

// problem is an error with an answer.
type problem struct {
	code       string
	detail     string
	line       int           // the 1-based line of a batch; 0: none
	retryAfter time.Duration // 0: no Retry-After
	header     http.Header   // further headers of the answer
}

func (p *problem) Error() string { return p.code + ": " + p.detail }

// fail returns a problem. The detail may name members and limits, never values.
func fail(code, format string, args ...any) *problem {
	return &problem{code: code, detail: fmt.Sprintf(format, args...)}
}

// classify returns the kind of an error and what to tell about it.
func classify(err error) (kind, problem) {
	table := kinds()
	var (
		p      *problem
		quota  *tasks.QuotaError
		tooBig *http.MaxBytesError
		routed *echo.HTTPError
	)
	switch {
	case errors.As(err, &p):
	case errors.As(err, &quota):
		p = fail(quotaExceeded, "The quota %s of %d is used up.", quota.Quota, quota.Limit)
		p.retryAfter = max(quota.RetryAfter, time.Second)
		p.header = http.Header{
			"Ratelimit-Policy": {policyField(quota.Quota, quota.Limit, quota.Window)},
			"Ratelimit":        {limitField(quota.Quota, quota.Remaining, quota.RetryAfter)},
		}
	case errors.As(err, &tooBig):
		p = fail(bodyTooLarge, "The body is longer than %d bytes.", tooBig.Limit)
	case errors.As(err, &routed) && routed.Code == http.StatusNotFound:
		p = fail(routeNotFound, "The API has no such route.")
	case errors.As(err, &routed) && routed.Code == http.StatusMethodNotAllowed:
		p = fail(methodNotAllowed, "The Allow header lists the methods of this route.")
	}
	for _, k := range table {
		if p != nil && k.code == p.code {
			return k, *p
		}
		if p == nil && k.cause != nil && errors.Is(err, k.cause) {
			told := problem{code: k.code, detail: k.title + "."}
			if k.status == http.StatusServiceUnavailable || k.status == http.StatusTooManyRequests {
				told.retryAfter = defaultUnavailable
			}
			return k, told
		}
	}
	last := table[len(table)-1]
	return last, problem{code: last.code, detail: "The cause is in the server's log under this request id."}
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
	x.code = k.code
	if k.status >= 500 && k.code != deadlineUnreachable {
		a.Log.LogAttrs(c.Request().Context(), slog.LevelError, "request failed",
			slog.String("request_id", x.id), slog.String("route", x.route(c)), slog.String("code", k.code), slog.Any("error", err))
	}
	if c.Response().Committed {
		return
	}
	h := c.Response().Header()
	for name, values := range p.header {
		h[name] = values
	}
	if p.retryAfter > 0 {
		h.Set("Retry-After", strconv.FormatInt(seconds(p.retryAfter), 10))
	}
	if k.status == http.StatusRequestEntityTooLarge || k.status == http.StatusRequestTimeout {
		h.Set("Connection", "close") // the rest of the body will not be read
	}
	h.Set("Cache-Control", "no-store")
	h.Set("Content-Type", problemContentType)
	b := make([]byte, 0, 512)
	b = append(b, `{"type":"`+problemTypePrefix...)
	b = append(b, k.code...)
	b = append(b, `","title":`...)
	b = jsonwrite.AppendString(b, k.title)
	b = append(b, `,"status":`...)
	b = strconv.AppendInt(b, int64(k.status), 10)
	b = append(b, `,"code":"`...)
	b = append(b, k.code...)
	b = append(b, `","detail":`...)
	b = jsonwrite.AppendString(b, p.detail)
	if p.line > 0 {
		b = append(b, `,"line":`...)
		b = strconv.AppendInt(b, int64(p.line), 10)
	}
	b = append(b, `,"request_id":`...)
	b = jsonwrite.AppendString(b, x.id)
	b = append(b, '}', '\n')
	h.Set("Content-Length", strconv.Itoa(len(b)))
	c.Response().WriteHeader(k.status)
	_, _ = c.Response().Write(b)
	if k.status != http.StatusRequestTimeout {
		linger(c.Response(), c.Request())
	}
}

// seconds rounds up to whole seconds, at least 1, as Retry-After takes them.
func seconds(d time.Duration) int64 {
	return int64(min(max(math.Ceil(d.Seconds()), 1), math.MaxInt32))
}
