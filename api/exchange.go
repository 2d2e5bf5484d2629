package api

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"net/http"
	"net/url"
	"regexp"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/labstack/echo/v4"

	"github.com/sluicehq/sluice/api/anthropic"
	"github.com/sluicehq/sluice/api/auth"
	"github.com/sluicehq/sluice/api/desk"
	"github.com/sluicehq/sluice/api/fault"
	"github.com/sluicehq/sluice/api/jsonread"
	"github.com/sluicehq/sluice/api/openai"
	"github.com/sluicehq/sluice/api/v1"
	"github.com/sluicehq/sluice/api/wire"
	"github.com/sluicehq/sluice/tasks"
	"github.com/sluicehq/sluice/tasks/trace"
)

// exchange is what is known of one request while it is answered.
type exchange struct {
	id      string
	caller  auth.Claims
	address string          // that it came from
	gone    <-chan struct{} // closed when the caller's token is revoked; nil: never
	code    string          // of the problem answered, if any
	why     []slog.Attr     // of a token that was refused
	status  int             // set when no answer could be written
	traced  *trace.Request  // nil: no spans are made
	// render makes the answer to a failure in the form that is mounted here.
	render func(h http.Header, k fault.Kind, f fault.Fault, request string) []byte
}

// caller is who sent a request that was let through.
func caller(c echo.Context) desk.Caller {
	x := exchangeOf(c)
	return desk.Caller{Tenant: tasks.Owner(x.caller.Tenant, x.caller.User), Subject: x.caller.Subject, Token: x.caller.ID, Address: x.address, Request: x.id, Models: x.caller.Models, Pools: x.caller.Pools, Revoked: x.gone}
}

// statusClientClosed is only in logs and metrics: nobody is there to read it.
const statusClientClosed = 499

const exchangeKey = "exchange"

func exchangeOf(c echo.Context) *exchange {
	if x, ok := c.Get(exchangeKey).(*exchange); ok {
		return x
	}
	return &exchange{render: v1.Problem}
}

// route is the pattern that the request matched, never its path, which a
// caller chooses.
func (*exchange) route(c echo.Context) string {
	if path := c.Path(); path != "" && c.Get(unmatchedKey) == nil {
		return path
	}
	return "unmatched"
}

const unmatchedKey = "unmatched"

// exchange is round every request: it gives it an id, sets the headers that
// every answer has, turns a panic into a 500, writes the access log and counts.
func (a *API) exchange(next echo.HandlerFunc) echo.HandlerFunc {
	return func(c echo.Context) error {
		start := time.Now()
		r := c.Request()
		x := &exchange{id: requestID(r.Header), render: v1.Problem}
		switch {
		case strings.HasPrefix(r.URL.Path, "/anthropic/"):
			x.render = anthropic.Problem
		case strings.HasPrefix(r.URL.Path, "/openai/"):
			x.render = openai.Problem
		}
		c.Set(exchangeKey, x)
		if a.trace != nil {
			var ctx context.Context
			ctx, x.traced = a.trace.Request(r.Context(), r.Header.Get("Traceparent"))
			r = r.WithContext(ctx)
			c.SetRequest(r)
		}
		h := c.Response().Header()
		h["X-Request-Id"] = []string{x.id}
		h["X-Content-Type-Options"] = []string{"nosniff"}
		h["Content-Security-Policy"] = []string{"default-src 'none'; frame-ancestors 'none'"}
		h["Referrer-Policy"] = []string{"no-referrer"}
		h["Cache-Control"] = []string{"no-store"}

		defer func() { a.told(c, x, r, time.Since(start)) }()
		defer func() {
			v := recover()
			if v == nil {
				return
			}
			if v == http.ErrAbortHandler { // net/http compares it so
				x.status, x.code = statusClientClosed, "aborted"
				panic(v)
			}
			// The value may hold anything, a prompt too: only its type is told.
			a.log.LogAttrs(r.Context(), slog.LevelError, "panic",
				slog.String("request_id", x.id), slog.String("route", x.route(c)),
				slog.String("type", fmt.Sprintf("%T", v)), slog.String("stack", string(debug.Stack())))
			if c.Response().Committed {
				panic(http.ErrAbortHandler) // half an answer must not look like a whole one
			}
			a.answerError(fault.Fail(fault.Internal, "The cause is in the server's log under this request id."), c)
		}()
		if err := next(c); err != nil {
			if errors.Is(err, echo.ErrNotFound) {
				c.Set(unmatchedKey, true)
			}
			a.answerError(err, c)
		}
		return nil
	}
}

// told counts a request that was answered, and writes its line of the access log.
func (a *API) told(c echo.Context, x *exchange, r *http.Request, took time.Duration) {
	status := c.Response().Status
	if x.status != 0 {
		status = x.status
	}
	route := x.route(c)
	a.metrics.answered(route, r.Method, status, took)
	if r.Method == http.MethodPost && submitRoutes[route] {
		a.metrics.submitted(x.caller.Tenant, x.code)
	}
	line := []slog.Attr{
		slog.String("route", route), slog.String("method", method(r.Method)), slog.Int("status", status),
		slog.Duration("duration", took), slog.String("request_id", x.id), slog.String("tenant", x.caller.Tenant),
		slog.String("remote", a.caps.Address(r).String()),
	}
	if x.code != "" {
		line = append(line, slog.String("code", x.code)) // why it was refused
	}
	if id := x.traced.TraceID(); id != "" {
		line = append(line, slog.String("trace_id", id))
	}
	a.log.LogAttrs(r.Context(), slog.LevelInfo, "request", append(line, x.why...)...)
}

var isRequestID = regexp.MustCompile("^[A-Za-z0-9_-]{8,64}$").MatchString

// requestID returns the caller's X-Request-Id when it is 8 to 64 letters,
// digits, dashes and underscores, else a new one.
func requestID(h http.Header) string {
	if id := h.Get("X-Request-Id"); isRequestID(id) {
		return id
	}
	return fmt.Sprintf("req_%016x%016x", rand.Uint64(), rand.Uint64())
}

// takes lets a request pass whose query has no parameters but these, each at most
// once. A name that ends in a star stands for all that begin like it.
func takes(params ...string) echo.MiddlewareFunc {
	known := func(name string) bool {
		return slices.ContainsFunc(params, func(p string) bool {
			prefix, open := strings.CutSuffix(p, "*")
			return name == p || open && strings.HasPrefix(name, prefix)
		})
	}
	return func(next echo.HandlerFunc) echo.HandlerFunc {
		return func(c echo.Context) error {
			q, err := url.ParseQuery(c.Request().URL.RawQuery)
			if err != nil {
				return fault.Fail(fault.InvalidRequest, "The query is malformed.")
			}
			for _, name := range slices.Sorted(maps.Keys(q)) {
				switch {
				case known(name) && len(q[name]) > 1:
					return fault.Fail(fault.InvalidRequest, "The query parameter %s is given more than once.", jsonread.Clip(name))
				case known(name):
				case len(params) == 0:
					return fault.Fail(fault.InvalidRequest, "The query parameter %s is unknown: this route takes none.", jsonread.Clip(name))
				default:
					return fault.Fail(fault.InvalidRequest, "The query parameter %s is unknown: this route takes %s.",
						jsonread.Clip(name), strings.Replace(strings.Join(params, ", "), "*", "KEY", 1))
				}
			}
			return next(c)
		}
	}
}

// scope lets a request pass whose token is valid and has the scope, "" asking for
// no scope (RFC 6750), and whose query [takes] lets pass.
func (a *API) scope(scope string, params ...string) echo.MiddlewareFunc {
	query := takes(params...)
	return func(next echo.HandlerFunc) echo.HandlerFunc {
		next = query(next)
		return func(c echo.Context) error {
			r := c.Request()
			raw, err := token(c)
			if err != nil {
				return challenge(`Bearer realm="sluice"`, fault.Unauthorized, noToken(r, errors.Is(err, auth.ErrMissing)))
			}
			reads, ctx := r.Method == http.MethodGet || r.Method == http.MethodHead, r.Context()
			if !reads {
				ctx = auth.Patient(ctx)
			}
			caller, err := a.verifier.Verify(ctx, raw)
			detail := exchangeOf(c).refused(err)
			if errors.Is(err, auth.ErrUnavailable) || errors.Is(err, tasks.ErrUnavailable) || errors.Is(err, tasks.ErrFull) || r.Context().Err() != nil {
				return fmt.Errorf("verify a token: %w", err)
			}
			if err != nil || caller.Tenant == "" {
				return a.unauthorized(r, detail)
			}
			x := exchangeOf(c)
			x.caller, x.address = caller, a.caps.Address(r).String()
			if caller.Unsure && !reads {
				f := fault.Fail(fault.Unavailable, "Redis cannot be asked whether the token was revoked, so nothing is changed. Send the request again in a moment.")
				f.RetryAfter = fault.DefaultRetryAfter
				return f
			}
			if scope != "" && !caller.Has(scope) {
				return lacking(scope)
			}
			return a.admitted(c, next)
		}
	}
}

func lacking(scope string) error {
	return challenge(`Bearer realm="sluice", error="insufficient_scope", scope="`+scope+`"`, fault.Forbidden, "The token lacks the scope "+scope+".")
}

// usage lets a tenant's own usage pass to who may read its jobs, and another's to operators.
func (a *API) usage() echo.MiddlewareFunc {
	valid := a.scope("", "group", "since", "until", "tenant")
	return func(next echo.HandlerFunc) echo.HandlerFunc {
		return valid(func(c echo.Context) error {
			caller, q := exchangeOf(c).caller, c.QueryParams()
			own := !q.Has("tenant") || q.Get("tenant") == caller.Tenant
			switch {
			case caller.Has(auth.ScopeAdmin) && q.Has("tenant"):
			case !own:
				return lacking(auth.ScopeAdmin)
			case !caller.Has(auth.ScopeJobsRead):
				return lacking(auth.ScopeJobsRead)
			default:
				q.Del("tenant") // it is the caller's own, and of that it may be one user alone
			}
			return next(c)
		})
	}
}

// unauthorized refuses a token that is not valid, and slows an address down that sends many.
func (a *API) unauthorized(r *http.Request, detail string) error {
	wait := a.caps.Failed(r)
	if wait == 0 {
		return challenge(`Bearer realm="sluice", error="invalid_token"`, fault.Unauthorized, detail)
	}
	f := fault.Fail(fault.TooManyFailures, "The token is not valid, as many others of this address before it: send a valid one, which passes at once.")
	f.RetryAfter = wait
	return f
}

// token returns the token of a request. The providers' SDKs send it as x-api-key or as a
// bearer token; our own form takes the latter alone.
func token(c echo.Context) (string, error) {
	h := c.Request().Header
	raw, err := auth.Bearer(h)
	keys := h["X-Api-Key"]
	if !relayed(c.Request().URL.Path) || len(keys) == 0 {
		return raw, err
	}
	if !errors.Is(err, auth.ErrMissing) || len(keys) > 1 {
		return "", auth.ErrInvalid // each reader could take another
	}
	return keys[0], nil
}

// noToken says where a request has to have its token.
func noToken(r *http.Request, missing bool) string {
	switch {
	case relayed(r.URL.Path) && missing:
		return "There is no key: send a token of this server as x-api-key or as Authorization: Bearer."
	case relayed(r.URL.Path):
		return "There must be one key, a token of this server: as x-api-key or as Authorization: Bearer, not as both."
	case missing:
		return "The Authorization header is missing: send a token of this server as Authorization: Bearer TOKEN; sluice token makes one."
	}
	return "There must be one Authorization header, and it must hold a bearer token."
}

// relayed reports whether a path is of a provider's own form.
func relayed(path string) bool {
	return strings.HasPrefix(path, "/anthropic/") || strings.HasPrefix(path, "/openai/")
}

// admitted answers a request whose tenant has room for it and its body.
func (a *API) admitted(c echo.Context, next echo.HandlerFunc) error {
	tenant := exchangeOf(c).caller.Tenant
	release, err := a.caps.Request(tenant)
	if err != nil {
		return err
	}
	defer release()
	body := a.caps.Body(tenant, a.maxBody)
	defer body.Give(-1)
	wire.Charge(c.Request(), body)
	return a.followed(c, next)
}

// followed has a request end when its token is revoked: one that reads at once, and one
// that changes something only while its body comes and where it waits, so that nothing is
// left half done.
func (a *API) followed(c echo.Context, next echo.HandlerFunc) error {
	if a.follow == nil {
		return next(c)
	}
	r, x := c.Request(), exchangeOf(c)
	ctx, stop := a.follow(r.Context(), x.caller)
	defer stop()
	x.gone = ctx.Done()
	if r.Method == http.MethodGet || r.Method == http.MethodHead {
		c.SetRequest(r.WithContext(ctx))
	} else {
		wire.While(r, func() error { // nothing was changed before it was read to its end
			if errors.Is(context.Cause(ctx), auth.ErrRevoked) {
				return auth.ErrRevoked
			}
			return nil
		})
	}
	err := next(c)
	switch {
	case err == nil:
	case errors.Is(context.Cause(ctx), auth.ErrRevoked):
		return challenge(`Bearer realm="sluice", error="invalid_token"`, fault.Unauthorized, "The token is not valid: it was revoked.")
	case errors.Is(err, desk.ErrRevoked): // it is the caller that has gone
		return ctx.Err()
	}
	return err
}

// refused notes for the log why a token was refused, and returns what the caller may
// know: the reason where it tells nobody anything about tokens of others.
func (x *exchange) refused(err error) (detail string) {
	r, ok := errors.AsType[*auth.Refusal](err)
	if ok {
		x.why = r.Attrs()
	}
	if ok && r.Tells() {
		return "The token is not valid: " + r.Text + "."
	}
	return "The token is not valid."
}

// challenge is a problem with a WWW-Authenticate header.
func challenge(header, code, detail string) *fault.Fault {
	p := fault.Fail(code, "%s", detail)
	p.Header = http.Header{"Www-Authenticate": {header}}
	return p
}

// classify is [fault.Classify], with the errors that net/http and Echo make. allow lists the
// methods of the route.
func classify(err error, allow string) (fault.Kind, fault.Fault) {
	var (
		f      *fault.Fault
		tooBig *http.MaxBytesError
		routed *echo.HTTPError
	)
	switch {
	case errors.As(err, &f):
	case errors.As(err, &tooBig):
		err = fault.Fail(fault.BodyTooLarge, "The body is longer than %d bytes.", tooBig.Limit)
	case errors.As(err, &routed) && routed.Code == http.StatusNotFound:
		err = fault.Fail(fault.RouteNotFound, "The API has no such route: /docs lists those that there are.")
	case errors.As(err, &routed) && routed.Code == http.StatusMethodNotAllowed:
		err = fault.Fail(fault.MethodNotAllowed, "This route takes %s.", allow)
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
	k, p := classify(err, c.Response().Header().Get("Allow"))
	x.code = k.Code
	if k.Status >= 500 && k.Code != fault.DeadlineUnreachable {
		a.log.LogAttrs(c.Request().Context(), slog.LevelError, "request failed",
			slog.String("request_id", x.id), slog.String("route", x.route(c)), slog.String("code", k.Code), slog.Any("error", err))
	}
	if c.Response().Committed {
		return
	}
	h := c.Response().Header()
	for name, values := range p.Header {
		h[name] = values
	}
	if k.Status == http.StatusForbidden && h.Get("WWW-Authenticate") == "" {
		h.Set("WWW-Authenticate", `Bearer realm="sluice", error="insufficient_scope"`)
	}
	if k.Status == http.StatusRequestEntityTooLarge || k.Status == http.StatusRequestTimeout {
		h.Set("Connection", "close") // the rest of the body will not be read
	}
	h.Set("Cache-Control", "no-store")
	b := x.render(h, k, p, x.id)
	h.Set("Content-Length", strconv.Itoa(len(b)))
	c.Response().WriteHeader(k.Status)
	_, _ = c.Response().Write(b)
	if k.Status != http.StatusRequestTimeout {
		wire.Linger(c.Response(), c.Request())
	}
}
