package v1

import (
	"context"
	"math"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/labstack/echo/v4"

	"github.com/sluicehq/sluice/api/auth"
	"github.com/sluicehq/sluice/api/fault"
	"github.com/sluicehq/sluice/api/jsonread"
	"github.com/sluicehq/sluice/api/jsonwrite"
	"github.com/sluicehq/sluice/api/wire"
	"github.com/sluicehq/sluice/tasks"
)

// Tokens keeps the records of tokens, and knows which were revoked.
type Tokens interface {
	// SaveToken keeps a record, and a line of the audit with it.
	SaveToken(ctx context.Context, t tasks.Token, act tasks.Act) error
	// KeptTokens lists records after an id, the newest first.
	KeptTokens(ctx context.Context, after string, limit int) (tasks.TokenPage, error)
	// RevokeToken has every process refuse a token by its jti within a second.
	RevokeToken(ctx context.Context, id string, act tasks.Act) error
}

// Audit is what operators did.
type Audit interface {
	Note(ctx context.Context, a tasks.Act) error
	// Acts lists what was done after an id, the newest first.
	Acts(ctx context.Context, after string, limit int) (tasks.ActPage, error)
}

const (
	maxTokenBody  = 64 << 10
	maxTokenTTL   = 10 * 365 * 24 * time.Hour
	maxTokenName  = 255 // bytes of a name, a subject or an id
	viaAPI        = "api"
	viaShell      = "shell"
	shellAgent    = "sluice-cli/" // begins the User-Agent of our commands
	actCreate     = "create_token"
	actRevoke     = "revoke_token"
	tokenIDPrefix = auth.KeptPrefix
)

// act is what a caller does, for the audit. That it does so by our commands is what it says itself.
func (a *API) act(c echo.Context, action, target, reason string) tasks.Act {
	x, via := a.c.Caller(c), viaAPI
	if strings.HasPrefix(c.Request().UserAgent(), shellAgent) {
		via = viaShell
	}
	return tasks.Act{At: a.c.Now(), By: x.Subject, Tenant: tasks.TenantOf(x.Tenant), Via: via, Action: action, Target: target, Reason: reason}
}

// CreateToken is POST /v1/tokens.
func (a *API) CreateToken(c echo.Context) error {
	t, err := a.createToken(c)
	return a.refused(c, a.act(c, actCreate, t.ID, t.Name), err)
}

func (a *API) createToken(c echo.Context) (t tasks.Token, err error) {
	if a.c.Tokens == nil {
		return t, tasks.ErrNotFound
	}
	body, err := wire.Read(c.Response(), c.Request(), maxTokenBody, jsonType)
	if err != nil {
		return t, err
	}
	t, ttl, err := decodeToken(body)
	if err != nil {
		return t, err
	}
	x := a.c.Caller(c)
	if t.Models, err = narrower(t.Models, x.Models, "ask only for these models"); err != nil {
		return t, err
	}
	if t.Pools, err = narrower(t.Pools, x.Pools, "use only these pools"); err != nil {
		return t, err
	}
	if a.c.Mint == nil {
		return t, fault.Fail(fault.Conflict, "This server has no secret to sign tokens with, only the public keys of issuers: set auth.hmac_secret, or have the issuer make the token.")
	}
	// exp has whole seconds.
	t.ID, t.By, t.Created = a.c.NewID(strings.TrimSuffix(tokenIDPrefix, "_")), x.Subject, a.c.Now().UTC().Truncate(time.Second)
	t.Expires = t.Created.Add(ttl)
	raw, err := a.c.Mint(t)
	if err != nil {
		return t, fault.Fail(fault.InvalidRequest, "The token cannot be made: %v.", err)
	}
	if err := a.c.Tokens.SaveToken(c.Request().Context(), t, a.act(c, actCreate, t.ID, t.Name)); err != nil {
		return t, err
	}
	o := jsonwrite.Object{}
	tokenMembers(&o, &t)
	o.Str("token", raw)
	c.Response().Header().Set("Cache-Control", "no-store")
	wire.JSON(c.Response(), http.StatusCreated, append(o.End(), '\n'))
	return t, nil
}

// narrower returns what a token is narrowed to whose maker's own is narrowed to most, which
// it may not pass; none: it is not.
func narrower(asked, most []string, may string) ([]string, error) {
	if len(asked) == 0 {
		return most, nil
	}
	for _, glob := range asked {
		if len(most) > 0 && !tasks.MatchModel(most, glob) {
			return nil, fault.Fail(fault.Forbidden, "Your own token may %s, and so may those that it makes: %s.", may, strings.Join(most, ", "))
		}
	}
	return asked, nil
}

// decodeToken reads what a token is to be.
func decodeToken(body []byte) (t tasks.Token, ttl time.Duration, err error) {
	r, err := jsonread.New(body)
	if err != nil {
		return t, 0, wire.Told(err)
	}
	err = r.Object(func(name string) (err error) {
		switch name {
		case "tenant":
			t.Tenant, err = r.Text(name)
		case "name":
			t.Name, err = r.Text(name)
		case "sub":
			t.Subject, err = r.Text(name)
		case "scope":
			var text string
			text, err = r.Text(name)
			t.Scopes = strings.Fields(text)
		case "ttl":
			ttl, err = readTTL(r, name)
		case "models":
			t.Models, err = readGlobs(r, name)
		case "pools":
			t.Pools, err = readGlobs(r, name)
		default:
			return jsonread.Unknown(name)
		}
		return err
	})
	if err != nil {
		return t, 0, wire.Told(err)
	}
	if t.Subject == "" {
		t.Subject = t.Name
	}
	return t, ttl, checkToken(&t, ttl)
}

// readGlobs reads a list that is not nil.
func readGlobs(r *jsonread.Reader, name string) (globs []string, err error) {
	if r.Kind() != '[' {
		return nil, r.Wrong(r.Kind(), name, "a list of names of "+name)
	}
	globs = []string{}
	_, err = r.List(func(int) error {
		glob, err := r.Text(name)
		globs = append(globs, glob)
		return err
	})
	return globs, err
}

// readTTL reads a time to live: a duration, as in "720h" or "90d", or seconds.
func readTTL(r *jsonread.Reader, name string) (time.Duration, error) {
	if r.Kind() == '0' {
		n, err := r.Count(name, int(maxTokenTTL/time.Second))
		return time.Duration(n) * time.Second, err
	}
	text, err := r.Text(name)
	if err != nil {
		return 0, err
	}
	if days, ok := strings.CutSuffix(text, "d"); ok {
		if n, err := strconv.ParseUint(days, 10, 16); err == nil {
			return time.Duration(n) * 24 * time.Hour, nil
		}
	}
	ttl, err := time.ParseDuration(text)
	if err != nil {
		return 0, fault.Fail(fault.InvalidRequest, `The member "ttl" must be a duration, as in "720h" or "90d", or a number of seconds.`)
	}
	return ttl, nil
}

// checkToken refuses what no token can be.
func checkToken(t *tasks.Token, ttl time.Duration) error {
	known := func(scope string) bool { return slices.Contains(auth.Scopes(), scope) }
	switch {
	case !auth.ValidTenant(t.Tenant):
		return fault.Fail(fault.InvalidRequest, `The member "tenant" must be a letter or digit, then up to 63 letters, digits, "_" or "-".`)
	case t.Name == "" || len(t.Name) > maxTokenName:
		return fault.Fail(fault.InvalidRequest, `The member "name" must have 1 to %d bytes.`, maxTokenName)
	case len(t.Subject) > maxTokenName:
		return fault.Fail(fault.InvalidRequest, `The member "sub" must have at most %d bytes.`, maxTokenName)
	case len(t.Scopes) == 0 || slices.ContainsFunc(t.Scopes, func(s string) bool { return !known(s) }):
		return fault.Fail(fault.InvalidRequest, `The member "scope" must have at least one of these, separated by spaces, and no other: %s.`, strings.Join(auth.Scopes(), " "))
	case ttl < time.Second || ttl > maxTokenTTL:
		return fault.Fail(fault.InvalidRequest, `The member "ttl" must be between 1 second and 10 years.`)
	}
	for name, globs := range map[string][]string{"models": t.Models, "pools": t.Pools} {
		if globs != nil && len(globs) == 0 || !auth.ValidGlobs(globs) {
			return fault.Fail(fault.InvalidRequest, `The member "%[1]s" must be a list of 1 to 64 names of %[1]s, in which only "*" stands for any text; leave it out for all %[1]s.`, name)
		}
	}
	return nil
}

// tokenMembers writes a token's record.
func tokenMembers(o *jsonwrite.Object, t *tasks.Token) {
	o.Str("id", t.ID)
	o.Str("object", "token")
	o.Str("tenant", t.Tenant)
	o.Str("name", t.Name)
	o.Str("sub", t.Subject)
	o.Str("scope", strings.Join(t.Scopes, " "))
	globs := func(name string, list []string) {
		if len(list) == 0 {
			o.Null(name)
		} else {
			o.Strs(name, list)
		}
	}
	globs("models", t.Models)
	globs("pools", t.Pools)
	o.Time("created_at", t.Created)
	o.Time("expires_at", t.Expires)
	o.Str("created_by", t.By)
	o.Time("revoked_at", t.Revoked)
}

// ListTokens is GET /v1/tokens.
func (a *API) ListTokens(c echo.Context) error {
	if a.c.Tokens == nil {
		return tasks.ErrNotFound
	}
	after, limit, err := queryPage(c, "tok_")
	if err != nil {
		return err
	}
	page, err := a.c.Tokens.KeptTokens(c.Request().Context(), after, limit)
	if err != nil {
		return err
	}
	return answerPage(c, len(page.Tokens), page.Next, func(b []byte, i int) []byte {
		o := jsonwrite.Object{B: b}
		tokenMembers(&o, &page.Tokens[i])
		return o.End()
	})
}

// queryPage reads which page of a list is asked for.
func queryPage(c echo.Context, prefix string) (after string, limit int, err error) {
	q := c.QueryParams()
	if after = q.Get("after"); after != "" && !isObjectID(after, prefix) {
		return "", 0, fault.Fail(fault.InvalidRequest, `The query parameter "after" must be the "next" of the page before.`)
	}
	limit, err = queryInt(q, "limit", 20, 1, 100)
	return after, limit, err
}

// RevokeToken is DELETE /v1/tokens/{id}. Any jti can be revoked, one that nobody has seen too.
func (a *API) RevokeToken(c echo.Context) error {
	id, reason := c.Param("id"), c.QueryParam("reason")
	switch {
	case a.c.Tokens == nil:
		return tasks.ErrNotFound
	case !auth.ValidName(id):
		return fault.Fail(fault.InvalidRequest, "The id must be a token's jti, 1 to %d bytes.", maxTokenName)
	case !utf8.ValidString(reason) || utf8.RuneCountInString(reason) > tasks.MaxReason:
		return fault.Fail(fault.InvalidRequest, `The query parameter "reason" must be at most %d characters long.`, tasks.MaxReason)
	}
	act := a.act(c, actRevoke, id, reason)
	if err := a.refused(c, act, a.c.Tokens.RevokeToken(c.Request().Context(), id, act)); err != nil {
		return err
	}
	c.Response().WriteHeader(http.StatusNoContent)
	return nil
}

// ListAudit is GET /v1/audit.
func (a *API) ListAudit(c echo.Context) error {
	if a.c.Audit == nil {
		return tasks.ErrNotFound
	}
	after, limit, err := queryPage(c, "act_")
	if err != nil {
		return err
	}
	if wants(c.Request().Header.Get("Accept"), ndjsonType) {
		most := math.MaxInt // all
		if c.QueryParams().Has("limit") {
			most = limit
		}
		return a.exportAudit(c, after, most)
	}
	page, err := a.c.Audit.Acts(c.Request().Context(), after, limit)
	if err != nil {
		return err
	}
	return answerPage(c, len(page.Acts), page.Next, func(b []byte, i int) []byte {
		return appendAct(b, &page.Acts[i])
	})
}

func appendAct(b []byte, act *tasks.Act) []byte {
	o := jsonwrite.Object{B: b}
	o.Str("id", act.ID)
	o.Time("at", act.At)
	o.Str("by", act.By)
	o.Str("tenant", act.Tenant)
	o.Str("via", act.Via)
	o.Str("action", act.Action)
	o.Str("target", act.Target)
	o.Optional("reason", act.Reason)
	o.Optional("outcome", act.Outcome)
	return o.End()
}

// exportPage is how many lines of the audit are read at once.
const exportPage = 1000

// exportAudit writes the audit after an id, a line each, most at most.
func (a *API) exportAudit(c echo.Context, after string, most int) error {
	out := wire.NewOutflow(c.Response(), c.Request(), ndjsonType, a.c.Caller(c).Request, a.c.Log)
	for more := true; more; {
		page, err := a.c.Audit.Acts(c.Request().Context(), after, min(exportPage, most))
		if err != nil {
			return out.Fail(err)
		}
		var b []byte
		for i := range page.Acts {
			b = append(appendAct(b, &page.Acts[i]), '\n')
		}
		most -= len(page.Acts)
		more = out.Write(b) && page.Next != "" && most > 0
		after = page.Next
	}
	return nil
}
