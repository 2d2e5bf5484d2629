package api

import (
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"runtime/debug"
	"time"

	"github.com/labstack/echo/v4"

	"github.com/sluicehq/sluice/api/auth"
	"github.com/sluicehq/sluice/api/desk"
	"github.com/sluicehq/sluice/api/fault"
)

// exchange is what is known of one request while it is answered.
type exchange struct {
	id     string
	caller auth.Claims
	code   string // of the problem answered, if any
	status int    // set when no answer could be written
}

// deskCaller is who asks the desk.
func (x *exchange) deskCaller() desk.Caller {
	return desk.Caller{Tenant: x.caller.Tenant, Request: x.id}
}

const exchangeKey = "exchange"

func exchangeOf(c echo.Context) *exchange {
	if x, ok := c.Get(exchangeKey).(*exchange); ok {
		return x
	}
	return &exchange{}
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
		x := &exchange{id: requestID(r.Header)}
		c.Set(exchangeKey, x)
		h := c.Response().Header()
		h["X-Request-Id"] = []string{x.id}
		h["X-Content-Type-Options"] = []string{"nosniff"}
		h["Content-Security-Policy"] = []string{"default-src 'none'; frame-ancestors 'none'"}
		h["Referrer-Policy"] = []string{"no-referrer"}
		h["Cache-Control"] = []string{"no-store"}

		defer func() {
			status := c.Response().Status
			if x.status != 0 {
				status = x.status
			}
			route, took := x.route(c), time.Since(start)
			a.metrics.answered(route, r.Method, status, took)
			if x.code != "" && r.Method == http.MethodPost && (route == "/v1/jobs" || route == "/v1/batches") {
				a.metrics.rejected(x.code)
			}
			line := []slog.Attr{
				slog.String("route", route), slog.String("method", method(r.Method)), slog.Int("status", status),
				slog.Duration("duration", took), slog.String("request_id", x.id), slog.String("tenant", x.caller.Tenant),
			}
			if x.code != "" {
				line = append(line, slog.String("code", x.code)) // why it was refused
			}
			a.Log.LogAttrs(r.Context(), slog.LevelInfo, "request", line...)
		}()
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
			a.Log.LogAttrs(r.Context(), slog.LevelError, "panic",
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

// requestID returns the caller's X-Request-Id when it is 8 to 64 letters,
// digits, dashes and underscores, else a new one.
func requestID(h http.Header) string {
	if id := h.Get("X-Request-Id"); len(id) >= 8 && len(id) <= 64 && isToken(id) {
		return id
	}
	return fmt.Sprintf("req_%016x%016x", rand.Uint64(), rand.Uint64())
}

// isToken reports whether s holds only letters, digits, dashes and underscores.
func isToken(s string) bool {
	for i := range len(s) {
		switch c := s[i]; {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9', c == '-', c == '_':
		default:
			return false
		}
	}
	return s != ""
}

// scope lets a request pass whose token is valid and has the scope; "" asks for
// no scope (RFC 6750).
func (a *API) scope(scope string) echo.MiddlewareFunc {
	return func(next echo.HandlerFunc) echo.HandlerFunc {
		return func(c echo.Context) error {
			r := c.Request()
			raw, err := auth.Bearer(r.Header)
			if errors.Is(err, auth.ErrMissing) {
				return challenge(`Bearer realm="sluice"`, fault.Unauthorized, "The Authorization header is missing.")
			}
			if err != nil {
				return challenge(`Bearer realm="sluice"`, fault.Unauthorized, "There must be one Authorization header, and it must hold a bearer token.")
			}
			caller, err := a.Verifier.Verify(r.Context(), raw)
			if errors.Is(err, auth.ErrUnavailable) || r.Context().Err() != nil {
				return fmt.Errorf("verify a token: %w", err)
			}
			if err != nil || caller.Tenant == "" {
				return challenge(`Bearer realm="sluice", error="invalid_token"`, fault.Unauthorized, "The token is not valid.")
			}
			exchangeOf(c).caller = caller
			if scope != "" && !caller.Has(scope) {
				return challenge(`Bearer realm="sluice", error="insufficient_scope", scope="`+scope+`"`,
					fault.Forbidden, "The token lacks the scope "+scope+".")
			}
			return next(c)
		}
	}
}

// challenge is a problem with a WWW-Authenticate header.
func challenge(header, code, detail string) *fault.Fault {
	p := fault.Fail(code, "%s", detail)
	p.Header = http.Header{"Www-Authenticate": {header}}
	return p
}
